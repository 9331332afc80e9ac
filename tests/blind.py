"""A stand-in for the readings of a pack where a test looks at the training alone: measuring takes seconds."""


class Blind:
    """Measures nothing."""

    def __init__(self, cells, prepared):
        self.size = len(cells)

    def checkpoint(self, snapshot):
        return [{}] * self.size

    def finish(self, cell, snapshot, i):
        return {}
