"""Before a run: does it fit, what does it send, how long might it take. Everything here is a prediction."""
