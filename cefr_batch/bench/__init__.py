"""What only a GPU can show: a few runs through the same jobs that users start, and what they took, as one table."""
