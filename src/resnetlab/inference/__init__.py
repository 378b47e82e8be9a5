"""How a network is used: from a model file and an image to named probabilities."""
