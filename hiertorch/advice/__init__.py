"""What a model asks of data, in sentences with advice."""
