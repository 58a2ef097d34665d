"""Metropolis-Hastings moves with one contract, `Move`: pure, and batched over chains."""
