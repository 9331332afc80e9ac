"""Does dimension still matter among students of one copying number? A slope within narrow bins of that number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sandbox.lab.effects import Group, Measure, Read, slope

# Bins per doubling of the number: students of one bin have numbers within a factor sqrt(2).
PER_DOUBLING = 2


def bins(number: pd.Series) -> pd.Series:
    """The bin of each student's number, NaN where it is not a positive number."""
    number = number.astype(float)
    return np.floor(PER_DOUBLING * np.log2(number.where((number > 0) & np.isfinite(number))))


def matched_slope(measure: Measure, number: str, group: Group, cluster: Sequence[str], unit: str) -> Read:
    """`slope` per doubling of the dimension, each bin of `number` with an intercept of its own."""
    return slope(measure, group, unit, lambda table: bins(table[number]), cluster)
