"""Run folders: written, loaded, described by a card, pushed."""
