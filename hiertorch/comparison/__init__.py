"""How well models predict: criteria, and their comparison."""
