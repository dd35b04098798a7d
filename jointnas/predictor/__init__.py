"""Accuracy predictors: the contract, and the default one, a Gaussian process."""
