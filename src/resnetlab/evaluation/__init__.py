"""How well a network does: scores, pictures, and the files they are kept in."""
