"""Which images a step sees, and how they get there in time."""
