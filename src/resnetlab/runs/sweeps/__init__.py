"""Sweeps: many runs over a search space, chosen and stopped early by Optuna."""
