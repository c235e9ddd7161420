"""The table of a transfer study. Reads results, trains nothing.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEGEND = (
    "Macro AUC on the test images of the domain left out, mean over seeds (rows.json has the 95 % "
    "bootstrap interval of each seed). Gain: pre-trained less from scratch under the same seed, ± "
    "half of the 95 % t interval over seeds; none with one seed."
)


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: per domain and number of labels the mean AUC over seeds.

    Beside it the 95 % t interval over seeds of the difference to the same method from scratch.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    heads = ["left out", "labels a class", "in all", "n test", "seeds", *methods]
    heads += ["full gain", "head gain"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for name, shots in dict.fromkeys((row["left_out"], row["shots"]) for row in rows):
        mine = [row for row in rows if (row["left_out"], row["shots"]) == (name, shots)]
        by = {
            method: np.array([row["value"] for row in mine if row["method"] == method], float)
            for method in methods
        }
        gains = [
            _gain(by[f"{part}, pre-trained"] - by[f"{part}, from scratch"])
            for part in ("full", "head")
        ]
        sizes = [_range([row[key] for row in mine]) for key in ("labelled", "n")]
        cells = [name, str(shots), *sizes, str(len(by[methods[0]]))]
        cells += [f"{by[method].mean():.3f}" for method in methods]
        lines.append(f"| {' | '.join([*cells, *gains])} |")
    return "\n".join([*lines, "", LEGEND, ""])


def _range(found: list[int]) -> str:
    return str(found[0]) if len(set(found)) == 1 else f"{min(found)}-{max(found)}"


def _gain(gain: NDArray[np.float64]) -> str:
    """Return a mean difference with half of its 95 % t interval, which one seed has not."""
    from scipy.stats import t as student

    count = len(gain)
    if count == 1:
        return f"{gain[0]:+.3f}"
    half = student.ppf(0.975, count - 1) * gain.std(ddof=1) / np.sqrt(count)
    return f"{gain.mean():+.3f} ± {half:.3f}"
