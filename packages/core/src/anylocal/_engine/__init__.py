"""Capture a local: knows Python, and of torch only what a recorded tensor needs."""
