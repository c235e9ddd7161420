"""mfm-simulate: the researcher's commands.

Exit codes: 0 done, 1 refused by a check, 2 wrong use, 3 failed while running.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.table import Table

from mfm_core.command_line import end_at_signals, run_command
from mfm_core.errors import ConfigError
from simulation.commands_explanations import explanations
from simulation.commands_federations import federations
from simulation.commands_few_labels import few_labels
from simulation.commands_pretraining import pretrain, transfer
from simulation.commands_privacy import privacy
from simulation.config import NAME, PhantomSource, StudyConfig, load_study
from simulation.many import check_many, is_many, run_many
from simulation.options import (
    AsJson,
    DataFolder,
    Fresh,
    OneProcess,
    OutFolder,
    Settings,
    StudyFile,
    parse_settings,
)

STUDIES = Path(__file__).parent / "studies"

app = typer.Typer(
    name="mfm-simulate",
    help="Invent hospitals from a folder of images or from phantoms and train them together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def print_json(content: Any) -> None:
    """Print one JSON value on standard output."""
    print(json.dumps(content, indent=1))


@app.command()
def run(
    study: StudyFile,
    data: DataFolder = Path("."),
    out: OutFolder = Path("runs"),
    fresh: Fresh = False,
    one_process: OneProcess = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Run a study, a grid or a table of studies, or go on with an unfinished one, to its report."""
    from simulation.progress import choose_display
    from simulation.study import Order, Place, finished_results, run_study

    changes = parse_settings(settings)
    if is_many(study):
        place = Place(data, out, fresh, one_process)
        content, text = run_many(study, changes, place, quiet=as_json)
        print_json(content) if as_json else print(text)
        return
    order = Order(load_study(study, changes), data, out, fresh, one_process)
    tell_unused(study, order.study, data)
    results = finished_results(order)
    known = results is not None
    if results is None:
        with choose_display(quiet=as_json) as display:
            results = run_study(order, display)
    if as_json:
        print_json(results)
        return
    show_results(order.folder, results)
    if known:
        print(f"{order.folder} was finished already; --fresh runs it again.")


def tell_unused(path: Path, config: StudyConfig, data: Path) -> None:
    """Say on standard error that a study of phantoms alone reads nothing below --data."""
    sources = [source for source in (config.source, config.public) if source is not None]
    if data != Path(".") and all(isinstance(source, PhantomSource) for source in sources):
        reason = f"note: {path} draws phantoms (source.kind), so nothing in {data} is read"
        print(f"{reason}; name your images below source", file=sys.stderr)


def wide_console() -> Console:
    """Return a console on standard output; in a log tables are 110 columns wide."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def show_results(folder: Path, results: dict[str, Any]) -> None:
    """Print the closing tables and where the report is."""
    from simulation.compare import lines_of, make_table

    console = wide_console()
    title = f"{results['study']}: {results['status']}, pooled test images of all hospitals"
    console.print(make_table(lines_of(folder.name, results), title))
    table = Table(title="Each hospital's own test images", title_justify="left")
    headings = ("hospital", "test", "AUC alone", "AUC federated", "SSIM federated")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    alone = {b["site"]: b["own"] for b in results["baselines"] if b["kind"] == "local"}
    for name, figures in results["per_site"].items():
        own = alone.get(name)
        cells = [own["macro_auc"]["value"] if own else None, figures["macro_auc"]["value"]]
        cells.append(figures["ssim"]["value"])
        texts = ["-" if value is None else f"{value:.3f}" for value in cells]
        table.add_row(name, str(figures["ssim"]["n"]), *texts)
    console.print(table)
    print(f"{results['seconds']:.0f} s. Research software, not a medical device.")
    print(f"Report: {folder / 'report.html'}")


@app.command()
def check(
    study: StudyFile,
    data: DataFolder = Path("."),
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Check a study file and every image it names; show the hospitals; train nothing.

    Of a grid or table every study is checked, and the images of one cell of each kind.
    """
    from simulation.hospitals import describe_hospitals, prepare

    changes = parse_settings(settings)
    if is_many(study):
        checked = check_many(study, data, changes)
        if as_json:
            print_json(checked.content)
            return
        for found, hospitals in checked.cells:
            wide_console().print(hospital_table(found, hospitals))
        print(f"{study}: {checked.content['cells']} studies, ready to run")
        return
    config = load_study(study, changes)
    tell_unused(study, config, data)
    with tempfile.TemporaryDirectory(prefix="mfm-check-") as folder:
        prepare(config, data, Path(folder))
        hospitals = describe_hospitals(config, Path(folder))
    if as_json:
        print_json({"study": config.run.name, "hospitals": hospitals})
        return
    wide_console().print(hospital_table(config, hospitals))
    print(f"{study}: ready to run")


def hospital_table(config: StudyConfig, hospitals: list[dict[str, Any]]) -> Table:
    """Return a table of images per hospital, split and class."""
    table = Table(title=f"Hospitals of {config.run.name}", title_justify="left")
    table.add_column("images")
    for hospital in hospitals:
        table.add_column(hospital["name"], justify="right")
    for key in ("patients", "train", "val", "test"):
        table.add_row(
            key, *(str(hospital[key]) for hospital in hospitals), end_section=key == "test"
        )
    for name in config.run.ontology.classes:
        table.add_row(name, *(str(hospital["classes"][name]) for hospital in hospitals))
    return table


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    plot: Annotated[Path, typer.Option("--plot", help="Where the picture goes.")] = Path(
        "comparison.png"
    ),
    as_json: AsJson = False,
) -> None:
    """Show finished runs side by side: one table, one picture."""
    from simulation.compare import draw_comparison, lines_of, load_results, make_table

    lines = [line for name, results in load_results(runs) for line in lines_of(name, results)]
    draw_comparison(lines, plot)
    if as_json:
        print_json({"lines": [line.to_dict() for line in lines], "plot": str(plot)})
        return
    wide_console().print(make_table(lines, "Runs compared"))
    print(f"Picture: {plot}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the study.", show_default=False)],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write it.")] = Path("."),
) -> None:
    """Write a study file with comments to start from."""
    if not re.fullmatch(NAME, name):
        reason = f"use small letters, digits, - and _, at most 40 (found {name!r})"
        raise ConfigError("name of the study", [reason])
    path = folder / f"{name}.yaml"
    if path.exists():
        raise ConfigError(str(path), ["is there already; choose another name"])
    text = (STUDIES / "template.yaml").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("name: template", f"name: {name}"), encoding="utf-8")
    print(f"Wrote {path}. It draws phantoms: put your images below source, as its comments show.")
    print(f"Next: mfm-simulate check {path} --data FOLDER")


@app.command()
def phantoms(
    out: Annotated[Path, typer.Argument(help="Folder to write to.", show_default=False)],
    study: Annotated[Path, typer.Option("--study", help="Study with phantoms.")] = STUDIES
    / "demo.yaml",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Draw the phantoms of a study: images, masks and one manifest.csv of all hospitals."""
    from simulation.phantoms import generate

    config = load_study(study, parse_settings(settings))
    if not isinstance(config.source, PhantomSource):
        raise ConfigError(str(study), ["source.kind: is not phantoms; name a study with phantoms"])
    if out.exists() and any(out.iterdir()):
        raise ConfigError(str(out), ["is not empty; name a new folder"])
    rows: list[dict[str, str]] = []
    for hospital in config.source.phantoms.hospitals:
        manifest = generate(out / hospital.name, config.source.phantoms, hospital)
        with manifest.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                here = {key: f"{hospital.name}/{row[key]}" for key in ("file", "patient_id")}
                rows.append({**row, **here, "hospital": hospital.name})
    with (out / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if as_json:
        print_json({"images": len(rows), "manifest": str(out / "manifest.csv")})
        return
    print(f"Wrote {len(rows)} films and {out / 'manifest.csv'}")


@app.command()
def consortium(
    study: StudyFile,
    data: DataFolder = Path("."),
    out: OutFolder = Path("runs"),
    fresh: Fresh = False,
    gateway: Annotated[
        str,
        typer.Option(
            click_type=click.Choice(("auto", "nginx", "builtin")),
            help="Before the SuperLink; auto is nginx where installed.",
        ),
    ] = "auto",
    compare_hash: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Run it in simulation too.")
    ] = True,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Run a study over real processes on this machine: SuperLink, gateway and a node per hospital.

    TLS, node keys and all phases as in deployment, on loopback only. Each site's ledger is checked
    against the coordinator's. Exit code 3 when the final hash is not that of the simulation.
    """
    from simulation.loopback import Choices, lines_of, run_loopback
    from simulation.progress import choose_display
    from simulation.study import Order

    order = Order(load_study(study, parse_settings(settings)), data, out, fresh)
    chosen = Choices(gateway, compare_hash, show=not as_json)  # type: ignore[arg-type]  # Choice
    with choose_display(quiet=as_json) as display:
        found = run_loopback(order, chosen, display, lambda text: print(text, file=sys.stderr))
    if as_json:
        print_json(found)
        return
    print("\n".join(lines_of(found)))
    print(f"{found['seconds']:.0f} s, {found['status']}; everything that was started is stopped.")


@app.command()
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rounds, without a simulated run.")
    ] = False,
    secure_sum: Annotated[
        str | None,
        typer.Option(
            click_type=click.Choice(("simulated", "real")),
            help="Only what masks cost at eight hospitals: in simulation, or over real processes.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the hot paths on this machine."""
    from simulation.benchmark import run_benchmark

    run_benchmark(as_json=as_json, quick=quick, masked=secure_sum)


@app.command()
def plants(
    count: Annotated[
        int, typer.Option("--plants", min=1, help="Couplings to plant, one cohort each.")
    ] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of films, training and plants.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Plant biases in phantoms and count how often the ranking finds them."""
    from simulation.plants import run_plants

    run_plants(count, seed, as_json=as_json)


@app.command()
def leaks(
    out: OutFolder = Path("runs"),
    minutes: Annotated[float, typer.Option("--minutes", min=0.0, help="Time of each audit.")] = 2.0,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A setting to run; repeat for several.")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Attack overfitted, ordinary and private models of phantoms, as a site would."""
    from simulation.leaks import chosen_settings, lines_of, run_leaks
    from simulation.progress import choose_display

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    if not math.isfinite(minutes):
        raise typer.BadParameter(f"--minutes: expected a number of minutes, found {minutes}")
    wanted = chosen_settings(only)
    with choose_display(quiet=as_json) as display:
        found = run_leaks(out, display, minutes, parse_settings(settings), say, wanted)
    print_json(found) if as_json else print("\n".join(lines_of(found)))


for command in (privacy, federations, pretrain, transfer, few_labels, explanations):
    app.command()(command)


def call(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors go to standard error as plain text."""
    again = "Interrupted; everything was stopped. The same command goes on, without --fresh."
    return run_command(app, "mfm-simulate", arguments, again)


def main() -> None:
    """Entry point of the console script."""
    end_at_signals()
    sys.exit(call())


if __name__ == "__main__":
    main()
