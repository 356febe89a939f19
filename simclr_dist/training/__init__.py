"""A run: its loop, one step of it, the gradients of a step."""
