"""Counter-based random numbers and permutations."""
