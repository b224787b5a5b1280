"""Capturing a local variable: knows Python, and of torch only as much as a recorded tensor needs."""
