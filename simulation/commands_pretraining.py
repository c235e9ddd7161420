"""The commands `pretrain` and `transfer` of `mfm-simulate`.

What crosses a hospital's boundary: of `pretrain`, what the federation sends; of `transfer` nothing,
one researcher holds all the images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

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


def transfer(
    study: StudyFile,
    data: DataFolder = Path("."),
    out: OutFolder = Path("runs"),
    fresh: Fresh = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Pre-train on all kinds of images but one; adapt to it with few labels; or from scratch."""
    from simulation.progress import choose_display
    from simulation.study import empty
    from simulation.transfer import load_transfer, run_transfer

    config = load_transfer(study, parse_settings(settings))
    if fresh and (out / config.name).is_dir():
        empty(out / config.name)
    with choose_display(quiet=as_json) as display:
        folder = run_transfer(config, data, out, display)
    if as_json:
        print(json.dumps(json.loads((folder / "rows.json").read_text(encoding="utf-8")), indent=1))
        return
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"Rows: {folder / 'rows.json'}. Research software, not a medical device.")


def pretrain(
    study: StudyFile,
    data: DataFolder = Path("."),
    out: OutFolder = Path("runs"),
    check: Annotated[
        bool, typer.Option("--check", help="Read every table and picture; train nothing.")
    ] = False,
    fresh: Fresh = False,
    one_process: OneProcess = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Pre-train on data sets in the MIMeta layout, in one place or over hospitals."""
    import sys
    import tempfile

    from mfm_core.config import DataConfig
    from mfm_core.dataset import open_images
    from simulation.pretraining import (
        describe_tasks,
        lines_of,
        load_pretraining,
        prepare,
        run_pretraining,
    )
    from simulation.progress import choose_display

    prepared = prepare(load_pretraining(study, parse_settings(settings)), data)
    for warning in prepared.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    run, sets = prepared.run, prepared.sets
    if check:
        config = DataConfig(root=prepared.root, mimeta=tuple(found.info.id for found in sets))
        with tempfile.TemporaryDirectory(prefix="mfm-check-") as cache:
            open_images(config, run.ontology, run.image, Path(cache))
        tasks = describe_tasks(run.ontology, sets)
        if as_json:
            content = {"pretraining": run.name, "sets": tasks, "warnings": list(prepared.warnings)}
            print(json.dumps(content, indent=1))
            return
        print("\n".join([*tasks, f"{study}: ready to run"]))
        return
    with choose_display(quiet=as_json) as display:
        folder = run_pretraining(prepared, out, display, fresh=fresh, one_process=one_process)
    if as_json:
        print((folder / "server.json").read_text(encoding="utf-8"))
        return
    print("\n".join(lines_of(folder)))
