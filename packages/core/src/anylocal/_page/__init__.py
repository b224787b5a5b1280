"""The interactive page: what it is made of, and its files."""
