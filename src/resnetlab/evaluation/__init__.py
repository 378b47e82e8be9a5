"""Scores of a network: metrics, intervals, calibration and comparison, as numbers."""
