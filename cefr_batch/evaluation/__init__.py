"""Evaluation: losses, generated text, and what can be counted in it."""
