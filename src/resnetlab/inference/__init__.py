"""Inference: model files, and predictions from them."""
