"""The common parts of the adapters' command lines."""
