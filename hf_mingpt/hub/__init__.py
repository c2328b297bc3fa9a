"""Run folders: written, loaded, described by a model card, and pushed."""
