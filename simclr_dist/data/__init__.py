"""Images in, batches of views out; the order and every random choice are computed from the recipe."""
