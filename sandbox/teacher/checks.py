"""Bad arguments of a teacher, named with their value."""

from __future__ import annotations

import math
from numbers import Integral


def check_count(least: int = 1, **values: int) -> None:
    """Raises ValueError for a value that is no integer >= least."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value}")


def check_positive(**values: float) -> None:
    """Raises ValueError for a value that is not finite and > 0."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be > 0, got {value}")


def check_not_negative(**values: float) -> None:
    """Raises ValueError for a value that is not finite and >= 0."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be >= 0, got {value}")
