"""Fitting again: by folds, with other weights, with later rows."""
