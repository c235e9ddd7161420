"""A grid: one study written once and run for many seeds and couplings, judged for many methods.

A grid file has the one key `grid`. Each of its `cells` is a study as in any study file, laid over
`shared`, what all have in common; in place of a value it may say `$seed`, `$phi` or `-$phi`. A
cell with `$phi` becomes one study per coupling and seed, one without it one study per seed.
What crosses a hospital's boundary: nothing; the studies that it makes say what they send.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mfm_core.config import Part, read_yaml
from mfm_core.errors import ConfigError
from mfm_core.mitigation import METHODS, MethodName
from simulation.config import NAME, StudyConfig, read_study
from simulation.one_key import read_one_key
from simulation.probes import ProbeKind

CELL_NAME = r"^[a-z0-9][a-z0-9_]{0,19}$"
SET_BY_GRID = "run.name"


class GridConfig(Part):
    """What is varied, what is compared, and the studies to run."""

    name: str = Field(pattern=NAME, description="Name of the grid and of its folder of runs.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        min_length=1, description="Every cell is run once for each; `$seed` in a cell."
    )
    couplings: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (), description="Phi correlations of attribute and class; `$phi` and `-$phi` in a cell."
    )
    methods: tuple[MethodName, ...] = Field(
        METHODS, min_length=1, description="Heads to compare; a new one needs no new run."
    )
    attribute: str = Field(description="Attribute whose influence is removed; it has two values.")
    sigma: float = Field(2.0, ge=0, le=100, description="random_alpha: standard deviation.")
    probes: tuple[ProbeKind, ...] = Field(
        ("linear", "mlp"), min_length=1, description="Probes of the attribute; mlp takes longest."
    )
    head_rounds: int = Field(5, ge=1, le=1000, description="Rounds of head training.")
    head_steps: int = Field(50, ge=1, description="Full-batch steps of a hospital and round.")
    replicates: int = Field(
        1000, ge=20, le=10_000, description="Bootstrap replicates by patient of every figure."
    )
    shared: dict[str, Any] = Field(
        default_factory=dict, description="Part of a study that every cell starts from."
    )
    cells: dict[Annotated[str, Field(pattern=CELL_NAME)], dict[str, Any]] = Field(
        min_length=1, description="Studies by name, as in a study file, without run.name."
    )


@dataclass(frozen=True)
class Cell:
    """One study of a grid.

    Attributes:
        group: name of the cell in the file.
        phi: its coupling, None where the cell does not ask for one.
        seed: its seed.
        study: what to run; run.name is the cell's full name.
    """

    group: str
    phi: float | None
    seed: int
    study: StudyConfig

    @property
    def name(self) -> str:
        """The name of the run folder, e.g. phantoms-phi30-seed0."""
        return self.study.run.name


@dataclass(frozen=True)
class Grid:
    """A grid file that was read without a problem: its settings and its cells in order."""

    config: GridConfig
    cells: tuple[Cell, ...]


def is_grid(path: Path) -> bool:
    """Tell whether a file holds a grid; raises ConfigError where it cannot be read."""
    return "grid" in read_yaml(path)


def load_grid(path: Path, settings: Mapping[str, str] | None = None) -> Grid:
    """Read a grid file, with `--set` values in place, and check every study that it makes.

    Raises:
        ConfigError: every problem of the file, by dotted path.
    """
    config, problems = read_one_key(path, "grid", GridConfig, settings)
    cells: list[Cell] = []
    for group, own in config.cells.items():
        found, wrong = _cells_of(config, group, merged(config.shared, own))
        cells += found
        problems += [f"grid.cells.{group}: {line}" for line in dict.fromkeys(wrong)]
    problems += _list_problems(config)
    if problems:
        raise ConfigError(str(path), problems)
    return Grid(config, tuple(cells))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, mapping into mapping; where both say something else, `above` wins."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]  # checked
    return result


def filled(value: Any, marks: Mapping[str, float | int]) -> Any:
    """Return a copy of a content with every text that is a mark replaced by its number."""
    if isinstance(value, Mapping):
        return {key: filled(part, marks) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, marks) for part in value]
    return marks.get(value, value) if isinstance(value, str) else value


def _marks_in(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*(_marks_in(part) for part in value.values()))
    if isinstance(value, list):
        return set().union(*(_marks_in(part) for part in value))
    return {value} if isinstance(value, str) and re.fullmatch(r"-?\$\w+", value) else set()


def _cells_of(
    config: GridConfig, group: str, content: dict[str, Any]
) -> tuple[list[Cell], list[str]]:
    """Return the cells that one entry makes, and what is wrong with it, path first."""
    marks = _marks_in(content)
    problems = [
        f"{mark} is unknown; use $seed, $phi or -$phi"
        for mark in sorted(marks - {"$seed", "$phi", "-$phi"})
    ]
    if "$seed" not in marks:
        problems.append("$seed stands nowhere, so all seeds would give one run")
    if isinstance(run := content.get("run"), Mapping) and "name" in run:
        problems.append(f"{SET_BY_GRID}: is set by the grid; remove it")
    if "run" in content and not isinstance(run, Mapping):
        problems.append(f"run: expected keys and values, found {run!r:.80}")
    coupled = bool(marks & {"$phi", "-$phi"})
    if coupled and not config.couplings:
        problems.append("$phi stands here, but grid.couplings is empty; list couplings")
    if problems:
        return [], problems
    cells: list[Cell] = []
    for phi in config.couplings if coupled else (None,):
        for seed in config.seeds:
            name = "-".join([group, *_phi_text(phi), f"seed{seed}"])
            numbers = {"$seed": seed, **_phi_marks(phi)}
            named = merged(filled(content, numbers), {"run": {"name": name}})
            study, wrong = read_study(named)
            problems += wrong
            if study is not None:
                problems += _judging_problems(config, study)
                cells.append(Cell(group, phi, seed, study))
    return cells, problems


def _phi_text(phi: float | None) -> list[str]:
    return [] if phi is None else [f"phi{round(100 * phi)}"]


def _phi_marks(phi: float | None) -> dict[str, float]:
    return {} if phi is None else {"$phi": phi, "-$phi": 0.0 - phi}


def _judging_problems(config: GridConfig, study: StudyConfig) -> list[str]:
    problems, attributes = [], study.run.ontology.attributes
    values = attributes.get(config.attribute, ())
    if not values:
        known = ", ".join(attributes) or "none"
        problems.append(
            f"run.ontology.attributes: has no {config.attribute!r} ({known}), which grid.attribute "
            "names"
        )
    elif len(values) != 2:
        problems.append(
            f"run.ontology.attributes.{config.attribute}: has {len(values)} values; a grid "
            "compares two"
        )
    if not study.held_out:
        problems.append("held_out: is empty; name the hospitals to test on")
    return problems


def _list_problems(config: GridConfig) -> list[str]:
    lists: dict[str, Sequence[Any]] = {
        "seeds": config.seeds,
        "couplings": [round(100 * phi) for phi in config.couplings],
        "methods": config.methods,
    }
    return [
        f"grid.{key}: a value stands twice (couplings count in steps of 0.01)"
        for key, listed in lists.items()
        if len(set(listed)) < len(listed)
    ]
