"""Pictures over an image."""
