"""The command `privacy` of `mfm-simulate`.

What crosses a hospital's boundary: nothing; there is no real patient here.
"""

from __future__ import annotations

from typing import Annotated

import typer


def privacy(
    patients: Annotated[int, typer.Option(min=100, help="Patients of the release.")] = 10_000,
    directions: Annotated[int, typer.Option(min=5, max=64, help="Public directions d.")] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of films and training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure axes and heads of a private atlas against epsilon, on phantoms."""
    from simulation.privacy_study import StudySize, run_privacy

    run_privacy(StudySize(patients=patients, directions=directions), seed, as_json=as_json)
