"""Attention maps, the logit lens, and an exploration of what attention can compute."""
