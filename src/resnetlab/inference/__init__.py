"""Inference: model files, predictions from them, import, export and serving."""
