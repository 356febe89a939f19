"""What watches a run: its numbers, its replicas, its bands."""
