"""The response, columns, weights and groupings of a data set, read from tensors or frames."""
