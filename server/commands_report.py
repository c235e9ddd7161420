"""The command that writes the coordinator's page.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[
        Path | None, typer.Option(help="File; default is report.html in the folder.")
    ] = None,
) -> None:
    """Write the page of a finished run: figures, subgroups, biases, mitigation; no patient.

    The page is one file that opens without a network, prints and reads on a phone.
    """
    from server.report import write_page

    print(write_page(run_folder, out))
