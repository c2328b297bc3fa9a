"""Answers, accuracy, calibrated probabilities, and reports."""
