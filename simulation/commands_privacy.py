"""The command `privacy` of `mfm-simulate`.

What crosses a hospital's boundary: nothing; real films are a researcher's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def privacy(
    patients: Annotated[int, typer.Option(min=100, help="Patients of the release.")] = 10_000,
    directions: Annotated[int, typer.Option(min=5, max=64, help="Public directions d.")] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of films and training.")] = 0,
    real: Annotated[
        Path | None, typer.Option(help="Instead: real chest films, the folder with labels.csv.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure axes and heads of a private atlas against epsilon, on phantoms or on real films."""
    from simulation.privacy_study import StudySize, run_privacy

    if real is None:
        run_privacy(StudySize(patients=patients, directions=directions), seed, as_json=as_json)
        return
    from simulation.privacy_real import print_real

    print_real(real, seed, as_json=as_json)
