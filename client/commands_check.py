"""The command `check`: the doctor, and the dry run.

What crosses the hospital's boundary: with a network, what `client.doctor` says; with --offline or
--dry-run nothing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

from client.commands_folder import HospitalFolder

app = typer.Typer()

PART_NAMES = (
    *("settings", "keys", "code", "data", "dicom", "machine", "sandbox"),
    *("network", "registration"),
)


@app.command()
def check(  # a command's arguments are its options
    folder: HospitalFolder = Path(),
    offline: Annotated[
        bool, typer.Option("--offline", help="Leave out what needs the coordinator's server.")
    ] = False,
    part: Annotated[
        list[str] | None,
        typer.Option(click_type=click.Choice(PART_NAMES), help="Only this part; repeat."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show instead what would leave; nothing is sent.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Dry run: folder; default is FOLDER/dry-run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Look at everything a site needs: settings, keys, data, machine, network, registration.

    Each line is ok, warn or fail, with what to do. Exit code 1 if a line fails. With --dry-run
    one round of the agreed run is played on the site's own images and listed tensor by tensor.
    """
    if dry_run:
        _show_dry_run(folder, out, as_json)
        return
    from client.doctor import examine
    from client.doctor_words import lines_of, summary_of
    from client.finding import worst
    from client.folder import open_folder
    from client.node import proxy_exemptions

    os.environ.update(proxy_exemptions(os.environ))  # as `start` will go
    findings = []
    for finding in examine(open_folder(folder), part or PART_NAMES, offline=offline):
        findings.append(finding)
        if not as_json:
            print(lines_of(finding), flush=True)
    if as_json:
        content = {"worst": worst(findings), "findings": [found.to_dict() for found in findings]}
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        print(summary_of(findings))
    if worst(findings) == "fail":
        raise typer.Exit(1)


def _show_dry_run(folder: Path, out: Path | None, as_json: bool) -> None:
    from client.config import load_site_config, load_site_run
    from client.doctor_words import table_of
    from client.dry_run import rehearse
    from client.folder import open_folder
    from client.progress import progress

    opened = open_folder(folder)
    config = load_site_config(opened.site_file)
    place = out or opened.dry_run
    with progress("exchanges", sys.stderr) as show:
        done = rehearse(config, load_site_run(config), place, show)
    if as_json:
        print(json.dumps([exchange.to_dict() for exchange in done], indent=1))
    else:
        print(f"{table_of(done)}\nThe very messages lie in {place}.")
    if any(exchange.outcome == "refused" for exchange in done):
        raise typer.Exit(1)
