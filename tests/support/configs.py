"""Configs for tests."""

# No warm-up, so that one epoch is allowed when limits are tried.
MINIMAL = "recipe: {data: {source: digits}, warmup_epochs: 0}\n"
