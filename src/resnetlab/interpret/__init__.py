"""Interpretation of a network: activations, Grad-CAM, feature embeddings and a diagram of its layers."""
