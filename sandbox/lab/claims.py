"""Claims and their verdicts: what is claimed, by whom, and the rule by which students decide it.

An experiment's file declares QUESTIONS, a tuple of `Question`; the verdict follows from its rule and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from sandbox.lab.effects import Effect, Read

SUPPORTED, NOT_SUPPORTED, UNDECIDED, NO_STUDENTS = "supported", "not supported", "undecided", "no students yet"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, UNDECIDED, NO_STUDENTS)
PAPER = "Li et al. 2026, as its public summary has it"
RIVAL = "a rival explanation"


@dataclass(frozen=True)
class Rule:
    """Where an effect has to lie for its claim: between low and high; both finite for a claim of no effect.

    fewest: seeds, or other clusters, that must have a student that passes the law gate in each group that is compared:
    of fewer, the interval covers less than it says."""

    low: float = -math.inf
    high: float = math.inf
    fewest: int = 5

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f"low must be < high, got {self.low:g} and {self.high:g}")
        if self.fewest < 1:
            raise ValueError(f"fewest must be >= 1, got {self.fewest}")
        if math.isinf(self.low) and math.isinf(self.high):
            raise ValueError("low or high must be finite, or no effect could speak against the claim")

    def __str__(self) -> str:
        if math.isinf(self.high):
            sides = f"lies above {self.low:g}", "below it"
        elif math.isinf(self.low):
            sides = f"lies below {self.high:g}", "above it"
        else:
            sides = f"lies between {self.low:g} and {self.high:g}", "outside"
        return (
            f"Supported if the whole 95 % interval {sides[0]}, not supported if the whole interval lies {sides[1]}; "
            f"undecided otherwise, or if students of fewer than {self.fewest} seeds or clusters pass the law gate in "
            "a group."
        )

    def verdict(self, effect: Effect) -> str:
        """The verdict on a claim of which this is the rule."""
        if not effect.of:
            return NO_STUDENTS
        if effect.fewest < self.fewest or not (math.isfinite(effect.low) and math.isfinite(effect.high)):
            return UNDECIDED
        if self.low < effect.low and effect.high < self.high:
            return SUPPORTED
        return NOT_SUPPORTED if effect.high < self.low or effect.low > self.high else UNDECIDED

    def why_undecided(self, effect: Effect) -> str:
        """What is missing for a verdict."""
        small = [part for part in effect.parts if part.clusters < self.fewest]
        if small:
            return "; ".join(f"{part.name}: {part.clusters} of the {self.fewest} clusters needed" for part in small)
        bounds = [f"{bound:g}" for bound in (self.low, self.high) if math.isfinite(bound)]
        return f"the interval is not on one side of {' and '.join(bounds)}"


@dataclass(frozen=True)
class Question:
    """A claim, how it is measured, and its rule.

    Args:
        name: unique in its experiment, letters, digits and hyphens. asks: the question to which the claim answers yes;
            claims of several arms or readings may answer one. claim: one sentence. whose: who says so.
        arms: the arms compared, as in the experiment. effect: from a table of students. rule: decides.
        declared: whether the rule was written before or after the first runs of the experiment.
    """

    name: str
    asks: str
    claim: str
    whose: str
    arms: tuple[str, ...]
    effect: Read
    rule: Rule
    declared: Literal["before", "after"]


@dataclass(frozen=True)
class Answer:
    """A question of an experiment, with the effect measured (None where there are no students) and the verdict.

    arms: those of the question's arms that have students, each once."""

    experiment: str
    question: Question
    effect: Effect | None
    verdict: str
    arms: tuple[str, ...] = ()


def answer(experiment: str, question: Question, table: pd.DataFrame | None) -> Answer:
    """A question's verdict from one row per student; None or an empty table: no students yet."""
    if table is None or not len(table) or not table["arm"].isin(question.arms).any():
        return Answer(experiment, question, None, NO_STUDENTS)
    effect = question.effect(table)
    arms = tuple(dict.fromkeys(arm for arm in question.arms if table["arm"].eq(arm).any()))
    return Answer(experiment, question, effect, question.rule.verdict(effect), arms)


def in_short(answers: Sequence[Answer]) -> str:
    """One sentence that answers the question which all of the answers share, from their verdicts alone."""
    count = {verdict: sum(a.verdict == verdict for a in answers) for verdict in VERDICTS}
    yes, no, open_ = count[SUPPORTED], count[NOT_SUPPORTED], count[UNDECIDED] + count[NO_STUDENTS]
    if yes and no:
        short = "It depends"
    elif yes or no:
        short = ("Yes" if yes else "No") + (", where it is decided" if open_ else "")
    else:
        short = "Not decided yet"
    counts = ", ".join(f"{word} {n}" for word, n in count.items() if n)
    return f"{short} ({counts}, of {len(answers)} claims)."
