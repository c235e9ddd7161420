"""The file of a study of few labels: what is varied, how long is trained, on which data sets.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mfm_core.config import LoraConfig, Part
from mfm_core.errors import ConfigError
from simulation.config import NAME, StudyConfig, override, read_study
from simulation.one_key import read_one_key

CurveMethod = Literal["head", "lora", "all", "semi"]
Method = CurveMethod | Literal["federated", "federated_semi", "local", "both"]
CURVE: tuple[CurveMethod, ...] = ("head", "lora", "all", "semi")
AT_THE_HOSPITAL: tuple[Method, ...] = ("federated", "local", "federated_semi", "both")


class CellConfig(Part):
    """One data set: a study without labels at one of its hospitals."""

    unlabelled: str = Field(description="Hospital of the study that never shows a label.")
    study: dict[str, Any] = Field(description="As in a study file, without run.name.")


class FewLabelsConfig(Part):
    """What is varied and how long is trained."""

    name: str = Field(pattern=NAME, description="Name of the study and of its folder.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        min_length=1, description="Of the labels that are shown and of the fine-tuning."
    )
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.01, 0.05, 0.1, 1.0), min_length=1, description="Shares of patients with a label."
    )
    hospital_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.1,), description="Shares at which the unlabelled hospital's gain is measured."
    )
    methods: tuple[CurveMethod, ...] = Field(CURVE, description="Methods of the curve.")
    trainable: Literal["lora", "all"] = Field(
        "all", description="What learns in the semi-supervised and the federated methods."
    )
    pretrain_steps: int = Field(400, ge=1, description="Optimiser steps without a label.")
    rounds: int = Field(8, ge=2, le=1000, description="Rounds of fine-tuning.")
    steps_per_round: int = Field(8, ge=1, description="Optimiser steps of a hospital and round.")
    head_steps: int = Field(300, ge=1, description="Optimiser steps of the head alone.")
    batch_size: int = Field(16, ge=2, description="Images per step of fine-tuning.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak of the cosine of fine-tuning.")
    labelled_share: float = Field(0.5, ge=0, le=1, description="Of a batch, at least.")
    lora: LoraConfig = LoraConfig(rank=8, alpha=16)
    cells: dict[Annotated[str, Field(pattern=NAME)], CellConfig] = Field(min_length=1)


def load_few_labels(path: Path, settings: dict[str, str] | None = None) -> FewLabelsConfig:
    """Read the file of a study of few labels, with `--set` values in place.

    Raises:
        ConfigError: every problem of the file, by dotted path.
    """
    config, problems = read_one_key(path, "few_labels", FewLabelsConfig, settings)
    for name, cell in config.cells.items():
        found, wrong = study_of(cell, name)
        problems += [f"few_labels.cells.{name}.study.{line}" for line in wrong]
        if found is not None and found.run.learning.trainable != "all":
            problems.append(f"few_labels.cells.{name}.study.run.learning.trainable: leave it out")
    if problems:
        raise ConfigError(str(path), problems)
    return config


def study_of(cell: CellConfig, name: str) -> tuple[StudyConfig | None, list[str]]:
    """Return the study of a cell, None where it cannot be read, and all its problems.

    It runs no baselines, so that a hospital may have no label at all.
    """
    return read_study(override(cell.study, {"run.name": name, "baselines.kinds": "[]"}))
