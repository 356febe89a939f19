"""FFCV's .beton files: written, sealed, checked and read without ffcv."""
