"""Latents with their priors, the model that declares them, and what is possible for their values."""
