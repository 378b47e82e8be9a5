"""Trackers: the numbers, pictures and model file of a run, sent to TensorBoard, MLflow or Weights & Biases."""
