"""What users of regressions ask of a posterior: coefficients, effects, scales, and what the mean does with x."""
