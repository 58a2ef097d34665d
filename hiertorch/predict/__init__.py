"""New rows, of known groups and of new ones."""
