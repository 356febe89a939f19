"""From an image and what was drawn to the pixels of a view."""
