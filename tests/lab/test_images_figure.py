"""The figure of real images is drawn from whatever part of its table is there, and shows the students that it says."""

import numpy as np
import pandas as pd
import pytest
import torch

from figures import images
from sandbox.lab import examples
from sandbox.lab.style import style


def student(arm, dim, seed, displacement, passes=True):
    row = dict.fromkeys(images.COLUMNS, np.nan)
    row |= {"arm": arm, "key": f"{arm}{dim}{seed}", "status": "done", "dim": dim, "seed": seed, "start": "teacher"}
    row |= {"student": arm.split(",")[0].replace("network", "mlp"), "law_passes": passes}
    for part in images.PARTS:
        row |= {f"displacement{part}{end}": v for end, v in (("", displacement), ("_low", 0.9), ("_high", 1.1))}
    if row["student"] == "mlp":
        row |= {"mode_agreement": 0.5, "mode_agreement_low": -0.1, "mode_agreement_high": 0.1}
    else:
        row |= {f"predicted_{name}": displacement for name in ("displacement", "leading", "rest")}
    if "digits" not in arm and dim >= 16:
        shades = torch.linspace(-1, 1, dim) * displacement
        row |= dict.fromkeys(examples.COLUMNS[: examples.COUNT], examples.as_text(torch.zeros(dim)))
        row |= dict.fromkeys(examples.COLUMNS[examples.COUNT :], examples.as_text(shades))
    return row


ARMS = (*images.PATCHES, *images.DIGITS, *images.LINEAR)
TABLE = pd.DataFrame([student(arm, d, s, 0.2 + 0.1 * s) for arm in ARMS for d in (4, 16, 64) for s in range(3)])


def drawn(table):
    with style():
        fig = images.draw(table)
        fig.canvas.draw()
    return fig


def words(fig):
    return [text.get_text() for ax in fig.axes for text in ax.texts] + [ax.get_title(loc="left") for ax in fig.axes]


@pytest.mark.parametrize("arms", [ARMS, *((arm,) for arm in ARMS), ()], ids=lambda arms: " and ".join(arms) or "none")
def test_it_is_drawn_of_the_arms_that_are_there(arms):
    fig = drawn(TABLE[TABLE["arm"].isin(arms)])
    patches = [arm for arm in arms if arm in images.PATCHES]
    assert len(fig.axes[5].images) == (3 * examples.COUNT if patches else 0)


def test_the_examples_are_of_the_least_and_the_most_displaced_that_pass():
    table = TABLE.copy()
    table.loc[(table["arm"] == images.YOUNG) & (table["dim"] == 64) & (table["seed"] == 2), "displacement"] = 0.9
    table.loc[(table["arm"] == images.CONVERGED) & (table["dim"] == 64) & (table["seed"] == 0), "law_passes"] = False
    table.loc[(table["arm"] == images.YOUNG) & (table["dim"] == 64) & (table["seed"] == 0), "displacement"] = 0.25
    said = words(drawn(table))
    assert any("0.25" in text for text in said)
    assert any("0.90" in text for text in said)
    assert any("$d$ = 64" in text for text in said)


def test_a_dimension_with_one_student_that_passes_shows_no_examples():
    table = TABLE.copy()
    one = (table["arm"] == images.YOUNG) & (table["seed"] == 1)
    table.loc[(table["dim"] == 64) & ~one, "law_passes"] = False
    assert any("$d$ = 16" in text for text in words(drawn(table)))


def test_where_none_pass_the_examples_say_so():
    said = words(drawn(TABLE.assign(law_passes=False)))
    assert sum("law gate failed" in text for text in said) == 2
    assert any("$d$ = 64" in text for text in said)
    assert not any("law gate failed" in text for text in words(drawn(TABLE)))


def test_the_prediction_is_drawn_as_it_stands_in_the_table():
    table = TABLE.assign(predicted_displacement=np.where(TABLE["student"] == "linear", 0.123, np.nan))
    lines = [line.get_ydata() for line in drawn(table).axes[3].lines]
    assert any(len(y) == 3 and np.allclose(y, 0.123) for y in lines)
    without = [line.get_ydata() for line in drawn(TABLE).axes[3].lines]
    assert not any(len(y) == 3 and np.allclose(y, 0.123) for y in without)
