"""Models that are Gaussian in their effects: how that is found, and the algebra that integrates effects out."""
