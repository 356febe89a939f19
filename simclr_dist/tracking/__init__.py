"""A run's numbers to other programs: Weights & Biases and MLflow (docs/design/tracking.md)."""
