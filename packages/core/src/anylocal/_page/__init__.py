"""The interactive page: its data and its files."""
