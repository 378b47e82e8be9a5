"""A run, from its config to its folder: training, resuming, scoring, comparing."""
