"""The command that writes a hospital's own page.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def report(
    config: Annotated[Path, typer.Option(help="The site's settings, site.yaml.")],
    results: Annotated[
        Path | None, typer.Option(help="The coordinator's results.json or server.json.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model; default is the one a run left here.")
    ] = None,
    atlas: Annotated[Path | None, typer.Option(help="Atlas of the same run; likewise.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default is report in the state folder.")
    ] = None,
) -> None:
    """Write this site's own page: its figures, its audit and its images beside those of all.

    The page shows patients of this hospital and must not leave it; so it says on every page.
    """
    from client.progress import progress
    from client.report import Wanted, write_page

    with progress("made parts", sys.stderr) as show:
        path = write_page(Wanted(config, results, model, atlas, out), show)
    print(path)
    print("It shows patients of this hospital: it must not leave.", file=sys.stderr)
