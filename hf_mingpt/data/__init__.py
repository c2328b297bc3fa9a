"""Text and questions in, micro-batches of each step out."""
