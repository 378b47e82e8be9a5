"""What a network looks at: activations, Grad-CAM, embeddings, a diagram of its layers."""
