"""Training: the loop, optimisers, learning-rate schedules, weight averages and checkpoints."""
