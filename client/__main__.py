"""Commands of a hospital: `mfm-client`, or `python -m client`.

Exit codes: 0 done, 1 refused by a check, 2 wrong use, 3 failed while running.
What crosses the hospital's boundary: nothing; these commands read and write local files only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from mfm_core.errors import MfmError, system_refusal

app = typer.Typer(
    help="One hospital's side of a federated run. Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback()
def commands() -> None:
    """One hospital's side of a federated run. Research software, not a medical device."""


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG, TIFF or DICOM file.")],
    model: Annotated[Path, typer.Option(help="Model of a run, final.safetensors.")],
    atlas: Annotated[Path, typer.Option(help="Atlas of the same run, atlas.safetensors.")],
    target: Annotated[str, typer.Option("--class", help="Class in question.")],
    versus: Annotated[str | None, typer.Option(help="Compare with this class only.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the panel and its numbers.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Show what the model would have to see in an image to say something else."""
    import torch

    from client.explain import Request, explain_image

    torch.set_num_threads(1)  # a dozen frames are faster without threads that wait for each other
    done = explain_image(Request(image, model, atlas, target, versus), out)
    if as_json:
        _print_json({**done.content, "panel": str(done.panel), "record": str(done.record)})
        return
    print(done.content["question"])
    print(done.content["answer"])
    print(f"Panel: {done.panel}")
    print(f"Numbers: {done.record}")
    print(done.content["note"])


@app.command()
def ledger(
    config: Annotated[Path, typer.Option(help="The site's settings, site.yaml.")],
    witness: Annotated[
        Path | None, typer.Option(help="Compare with the coordinator's rounds.jsonl.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List everything that has left this site, and check that the list is whole."""
    from client.ledger import read_outbox, table_of

    read = read_outbox(config, witness)
    if as_json:
        _print_json({"lines": read.lines, "problems": list(read.problems), "bytes": read.bytes})
    else:
        print(table_of(read))
    if read.problems:
        raise typer.Exit(1)


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def call(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; a refusal is printed as plain text."""
    try:
        code = app(arguments, standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        print("Interrupted.", file=sys.stderr)
        return 3
    except MfmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(system_refusal(error), file=sys.stderr)
        return 3
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the console script."""
    sys.exit(call())


if __name__ == "__main__":
    main()
