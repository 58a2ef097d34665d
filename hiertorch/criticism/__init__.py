"""Parts of predictive checks: replications, statistics, uniformity, figures; `hiertorch.predictive` joins them."""
