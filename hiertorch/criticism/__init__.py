"""Whether a model fits: predictive checks, and sensitivity to priors."""
