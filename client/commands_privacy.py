"""`mfm-client privacy`: what private training has cost this site's patients, and what is left.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from client.config import LimitsConfig, load_site_config
from client.privacy_ledger import PrivacyReading
from client.site import privacy_ledger_of

app = typer.Typer()

MEANING = (
    "Holds for adding or removing one unit. DP-SGD: with Poisson sampling whose draws stay "
    "secret (PRV accountant). Rounds and releases at rate 1: Gaussian mechanism in closed form; "
    "central DP counts half its noise, and where the server draws it the server is trusted. It "
    "covers the weights of private training rounds and private cells; nothing else that left."
)


@app.command()
def privacy(
    site: Annotated[Path, typer.Argument(help="The site's settings, site.yaml.")],
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Go on with a ledger that was copied or restored.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show what private training has spent per run, what is left, and whether the ledger is whole.

    Exit code 1 if it is not: then this site takes no private step.
    """
    config = load_site_config(site)
    ledger = privacy_ledger_of(config)
    if adopt:
        ledger.adopt()
    found = ledger.read()
    content = spending_of(found, config.limits)
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        _show(content)
    if found.problems:
        raise typer.Exit(1)


def spending_of(found: PrivacyReading, limits: LimitsConfig) -> dict[str, Any]:
    """Return a ledger for people and for JSON; an epsilon without bound is None."""
    runs = []
    for run in dict.fromkeys(spend.run for spend in found.spends):
        spends = [spend for spend in found.spends if spend.run == run]
        runs.append(
            {
                "run": run,
                "rounds": len({spend.round for spend in spends}),
                "payments": len(spends),
                "steps": sum(spend.steps for spend in spends),
                "unit": spends[0].unit,
                "units": max(spend.units for spend in spends),
                "noise_multiplier": min(spend.noise_multiplier for spend in spends),
                "sample_rate": max(spend.sample_rate for spend in spends),
                "noise": _noise_of({spend.noise for spend in spends}),
                "epsilon": _finite(found.epsilon(limits.delta, run)),
            }
        )
    epsilon = found.epsilon(limits.delta)
    return {
        "runs": runs,
        "epsilon": _finite(epsilon),
        "delta": limits.delta,
        "max_epsilon": limits.max_epsilon,
        "left": max(0.0, limits.max_epsilon - epsilon),
        "whole": not found.problems,
        "problems": list(found.problems),
        "meaning": MEANING,
    }


def _noise_of(kinds: set[str]) -> str:
    """Return the weakest kind of noise."""
    return next(kind for kind in ("simulated", "server", "secret") if kind in kinds)


def units_of(row: dict[str, Any]) -> str:
    """Return unit and number of units; where all take part in every step none are counted."""
    return f"{row['unit']} of {row['units']}" if row["units"] else str(row["unit"])


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _show(content: dict[str, Any]) -> None:
    if content["runs"]:
        table = Table("run", "rounds", "steps", "unit", "noise", "rate", "epsilon")
        for row in content["runs"]:
            rounds = f"{row['rounds']} ({row['payments']} paid)"
            noise = f"{row['noise_multiplier']:g}"
            if row["noise"] == "simulated":
                noise += " simulated, not private"
            elif row["noise"] == "server":
                noise += " drawn by the server"
            units = units_of(row)
            figures = (f"{row['sample_rate']:.4g}", _figure(row["epsilon"]))
            table.add_row(row["run"][:12], rounds, str(row["steps"]), units, noise, *figures)
        Console().print(table)
    else:
        print("No private training has been paid for.")
    for problem in content["problems"]:
        print(f"PROBLEM: {problem}")
    state = "whole" if content["whole"] else "NOT whole: no private step is taken"
    print(
        f"epsilon {_figure(content['epsilon'])} of {content['max_epsilon']:g} at delta "
        f"{content['delta']:g}, {content['left']:.4g} left; the ledger is {state}."
    )
    print(content["meaning"])


def _figure(value: float | None) -> str:
    return "without bound" if value is None else f"{value:.3f}"
