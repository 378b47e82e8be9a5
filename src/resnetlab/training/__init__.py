"""How a network learns: the loop, optimisers, schedules, averages, checkpoints."""
