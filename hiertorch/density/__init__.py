"""The log density of a model on unconstrained space, in pieces, with its rows sorted by group."""
