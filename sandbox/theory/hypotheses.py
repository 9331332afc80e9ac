"""The error that a prediction raises when it is asked outside the hypotheses of its derivation."""


class HypothesisError(ValueError):
    """A hypothesis of the theory fails for these parameters; the message says which."""
