"""The exact side: Gaussian mixtures, their scores at every noise level, and their probability-flow maps."""
