"""GatesConfig: what a finished run must show before its model may be released.

The limits belong to the agreed run, so nobody lowers them after the figures are known. A gate
whose limit is set and that finds nothing to judge holds a release back, unless it stands in
`optional`; `server.judging` applies them.
What crosses the hospital's boundary: nothing; the limits travel in run.yaml.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mfm_core.config import Part

GateName = Literal[
    "run_status",
    "macro_auc",
    "class_auc",
    "ssim",
    "subgroup_gap",
    "epsilon",
    "leak_tpr",
    "leak_auc",
]
"""The gates, in the order in which they are shown."""

End = Literal["low", "value", "high"]
"""Which number of a figure is judged: an end of its 95 % interval, or the figure itself."""


class GatesConfig(Part):
    """Limits of a release; None asks for nothing, and the gate then says "not done"."""

    allow_degraded: bool = Field(
        False, description="Release a run in which some site missed an exchange."
    )
    min_macro_auc: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Smallest lower end of the macro AUC's 95 % interval, AUC in [0, 1].",
    )
    min_class_auc: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Smallest AUC of any class, in [0, 1]; the value is judged, not an end.",
    )
    min_ssim: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Smallest mean SSIM of test images and their reconstructions, in [-1, 1]; "
        "the value is judged.",
    )
    max_subgroup_gap: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Largest difference of the mean AUC between two values of any attribute, "
        "AUC in [0, 1].",
    )
    subgroup_gap_end: End = Field(
        "high",
        description="What is judged of a gap: high passes only when the data exclude a larger "
        "gap, low fails only when they prove one.",
    )
    max_epsilon: float | None = Field(
        None, gt=0, description="Largest epsilon of training for a patient of any site."
    )
    max_leak_tpr: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Leak audit: largest true-positive rate at 1 % false positives, in [0, 1].",
    )
    max_leak_auc: float = Field(
        0.55, ge=0.5, le=1, description="Leak audit: largest AUC of any attack, in [0.5, 1]."
    )
    leak_end: Literal["value", "high"] = Field(
        "high", description="What is judged of an attack: high needs enough cases to exclude more."
    )
    optional: tuple[GateName, ...] = Field(
        ("leak_tpr", "leak_auc"),
        description="Gates that do not hold a release back when there is nothing to judge; every "
        "other one with a limit does. [] makes the leak audit required.",
    )
