"""Draws of latents by name, with all that is computed of draws alone."""
