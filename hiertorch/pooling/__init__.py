"""Pooling factors, and shares of variance."""
