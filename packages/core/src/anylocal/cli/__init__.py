"""The command lines: what the adapters' commands share."""
