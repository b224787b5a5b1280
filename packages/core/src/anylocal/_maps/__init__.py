"""What a map is, and what can be computed of it."""
