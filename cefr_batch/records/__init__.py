"""What the store holds: one typed model for each JSON document, and every key and path."""
