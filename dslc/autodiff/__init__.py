"""Gradients of IR functions, as IR; the training step."""
