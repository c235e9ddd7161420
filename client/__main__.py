"""Commands of a hospital: `mfm-client`, or `python -m client`.

Exit codes: 0 done, 1 refused by a check, 2 wrong use, 3 failed while running.
What crosses the hospital's boundary: nothing; these commands read and write local files only.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from client import (
    commands_check,
    commands_folder,
    commands_intake,
    commands_ledger,
    commands_node,
    commands_outbox,
    commands_privacy,
    commands_report,
)
from mfm_core.command_line import end_at_signals, run_command

app = typer.Typer(
    help="One hospital's side of a federated run. Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXPLAIN_METHODS = (
    *("class_shift", "counterfactual", "located_change"),
    *("latent_gradient", "grad_cam", "integrated_gradients"),
    "all",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


app.add_typer(commands_report.app)
app.add_typer(commands_ledger.commands, name="ledger")
app.add_typer(commands_outbox.commands, name="outbox")
for part in (commands_folder, commands_check, commands_intake, commands_node, commands_privacy):
    app.add_typer(part.app)


@app.callback()
def commands() -> None:
    """One hospital's side of a federated run. Research software, not a medical device."""


@app.command()
def explain(  # noqa: PLR0913, PLR0917  # a command's arguments are its options
    image: Annotated[Path, typer.Argument(help="PNG, JPEG, TIFF or DICOM file, or a folder.")],
    model: Annotated[Path, typer.Option(help="Model of a run, final.safetensors.")],
    atlas: Annotated[Path, typer.Option(help="Atlas of the same run, atlas.safetensors.")],
    target: Annotated[str | None, typer.Option("--class", help="Class in question.")] = None,
    versus: Annotated[str | None, typer.Option(help="Compare with this one only.")] = None,
    attribute: Annotated[str | None, typer.Option(help="Ask about it, not a class: view.")] = None,
    value: Annotated[str | None, typer.Option(help="Its value in question, e.g. AP.")] = None,
    method: Annotated[
        str, typer.Option(click_type=click.Choice(EXPLAIN_METHODS), help="How to explain.")
    ] = "class_shift",
    probability: Annotated[float, typer.Option(help="How sure the turned answer must be.")] = 0.9,
    alpha: Annotated[list[float] | None, typer.Option(help="Steps; default -2 to 2.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path(),
    dicom_out: Annotated[
        bool, typer.Option("--dicom-out", help="Also write DICOM SR, panel and map.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the model would have to see in an image to say something else.

    All that is written shows patients and stays at the hospital. Exit code 1 if a file could
    not be used; the others are done.
    """
    if (target is None) == (attribute is None) or (attribute is None) != (value is None):
        raise click.UsageError("give either --class NAME, or --attribute NAME with --value NAME")
    import torch

    from client.explain import Request, explain_images
    from client.explain_words import print_run
    from client.progress import progress
    from mfm_core.question import ALPHAS, Question

    torch.set_num_threads(1)  # a dozen frames are faster without threads that wait for each other
    alphas = tuple(alpha) if alpha else ALPHAS
    question = Question(target, versus, alphas, probability, attribute, value)
    request = Request(image, model, atlas, question, method, dicom_out=dicom_out)
    with progress("explained", sys.stderr) as show:
        run = explain_images(request, out, show)
    print_run(run, as_json)
    if run.refused:
        raise typer.Exit(1)


@app.command()
def audit(  # noqa: PLR0913, PLR0917  # a command's arguments are its options
    config: Annotated[Path, typer.Option(help="The site's settings, site.yaml.")],
    explanations: Annotated[
        bool, typer.Option("--explanations", help="How far explanations can be believed.")
    ] = False,
    bias: Annotated[bool, typer.Option("--bias", help="Fields that bias the answers.")] = False,
    subgroups: Annotated[
        bool, typer.Option("--subgroups", help="Figures per attribute value, and gaps.")
    ] = False,
    slices: Annotated[
        bool, typer.Option("--slices", help="Unrecorded groups with more errors.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="Model; default is the one a run left here.")
    ] = None,
    atlas: Annotated[Path | None, typer.Option(help="Atlas of the same run; likewise.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default is audit in the state folder.")
    ] = None,
    privacy: Annotated[
        bool, typer.Option("--privacy", help="Attack model, atlas and updates instead.")
    ] = False,
    minutes: Annotated[
        float, typer.Option(min=0.0, max=1440.0, help="Time for --privacy, minutes.")
    ] = 10.0,
    results: Annotated[
        Path | None, typer.Option(help="With --privacy: the coordinator's server.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Audit the final model on this site's own test images; without a part named, all parts.

    Nothing leaves the hospital: audit.json and the tables are for the site itself. --privacy asks
    how far patients can be found out, and ends with code 1 where a leak beyond the agreed limits
    is shown.
    """
    from client.audit import PARTS, Request, audit_site
    from client.audit_words import print_audit
    from client.progress import progress

    chosen = (explanations, bias, subgroups, slices)
    if (privacy and any(chosen)) or (results is not None and not privacy):
        raise click.UsageError("--privacy stands alone among the parts; --results belongs to it")
    if math.isnan(minutes):
        raise click.BadParameter("--minutes: expected a number, found nan")
    if privacy:
        from client.leak_audit import Asked

        _audit_privacy(Asked(config, minutes, results, model, atlas, out), as_json)
        return
    parts = tuple(part for part, asked in zip(PARTS, chosen, strict=True) if asked)
    with progress("audited parts", sys.stderr) as show:
        done = audit_site(Request(config, parts, model, atlas, out), show)
    print_audit(done, as_json)


def _audit_privacy(asked: Any, as_json: bool) -> None:
    from client.leak_audit import audit_leaks
    from client.leak_words import print_leaks
    from client.progress import progress

    with progress("attacked, %", sys.stderr) as show:
        done = audit_leaks(asked, show)
    print_leaks(done, as_json)
    if done.shown:
        raise typer.Exit(1)


def call(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors go to standard error as plain text."""
    return run_command(app, "mfm-client", arguments)


def main() -> None:
    """Entry point of the console script."""
    end_at_signals()
    sys.exit(call())


if __name__ == "__main__":
    main()
