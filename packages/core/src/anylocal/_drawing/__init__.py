"""Pictures: what is drawn, its scale, its figure."""
