"""The folder of a run: checkpoints, lock, metrics."""
