"""The commands that write a hospital's own page and choose its own head.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

app = typer.Typer()


@app.command()
def report(  # a command's arguments are its options
    config: Annotated[Path | None, typer.Option(help="The site's settings, site.yaml.")] = None,
    dpo: Annotated[
        Path | None,
        typer.Option(help="This site's folder or site.yaml: write its evidence pack instead."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="The coordinator's results.json or server.json.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model; default is the one a run left here.")
    ] = None,
    atlas: Annotated[Path | None, typer.Option(help="Atlas of the same run; likewise.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; default is report, or dpo, in the state folder."),
    ] = None,
) -> None:
    """Write this site's own page: its figures, its audit and its images beside those of all.

    The page shows patients of this hospital and must not leave it; so it says on every page.
    With --dpo it is the evidence pack for a data-protection officer, without any patient: fields
    that leave, what left, privacy spent, attacks, limits, files and deletion, threats, proof.
    """
    from client.progress import progress

    if (config is None) == (dpo is None):
        raise click.UsageError(
            "give either --config SITE.yaml, or --dpo SITE for the evidence pack"
        )
    if dpo is not None:
        if given := [part for part in (results, model, atlas) if part is not None]:
            raise click.UsageError(f"--dpo takes --out only, not {given[0]}")
        from client.dpo import write_pack

        with progress("made parts", sys.stderr) as show:
            print(write_pack(dpo, out, show))
        return
    assert config is not None
    from client.report import Wanted, write_page

    with progress("made parts", sys.stderr) as show:
        path = write_page(Wanted(config, results, model, atlas, out), show)
    print(path)
    print("It shows patients of this hospital: it must not leave.", file=sys.stderr)


@app.command()
def head(
    config: Annotated[Path, typer.Option(help="The site's settings, site.yaml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Choose this site's head: its own where it wins on the validation images, else the common one.

    Needs the model and the atlas that a run left here. A head of its own is written as a model
    file for --model of explain, audit and report. It learned from this site alone: keep it here.
    """
    from client.own_head import decide, lines_of

    decided = decide(config)
    if as_json:
        print(json.dumps(decided.to_dict(), indent=1))
    else:
        print("\n".join(lines_of(decided)))
