"""The coordinator's commands: `mfm-server`, or `python -m server`.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import sys

import typer

from mfm_core.command_line import run_command
from server import (
    commands_folder,
    commands_hosting,
    commands_release,
    commands_report,
    commands_site,
)

app = typer.Typer(
    help="Coordinate a federated run.", no_args_is_help=True, pretty_exceptions_enable=False
)


app.add_typer(commands_folder.app)
app.add_typer(commands_site.app, name="site")
app.add_typer(commands_hosting.app)
app.add_typer(commands_report.app)
app.add_typer(commands_release.app)


@app.callback()
def coordinate() -> None:
    """Coordinate a federated run."""


def main() -> None:
    """Run the command line; a refusal ends with its own exit code and no traceback."""
    sys.exit(run_command(app, "mfm-server"))


if __name__ == "__main__":
    main()
