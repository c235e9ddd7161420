"""The command `explanations` of `mfm-simulate`.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from simulation.options import AsJson


def explanations(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the other patients.")] = 11,
    per_class: Annotated[int, typer.Option(min=1, help="Images per class, at most.")] = 12,
    as_json: AsJson = False,
) -> None:
    """Score a finished run's explanations on phantoms that it has never seen."""
    from simulation.other_patients import lines_of, score_on_others

    rows = score_on_others(run, seed, per_class)
    print(json.dumps(rows, indent=1) if as_json else "\n".join(lines_of(rows)))
