"""What attention can do, and how a model comes to an answer."""
