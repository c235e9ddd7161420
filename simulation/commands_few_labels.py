"""The command `few-labels` of `mfm-simulate`.

What crosses a hospital's boundary: nothing; a researcher holds all the images.
"""

from __future__ import annotations

import json
from pathlib import Path

from simulation.options import (
    AsJson,
    DataFolder,
    Fresh,
    OutFolder,
    Settings,
    StudyFile,
    parse_settings,
)


def few_labels(
    study: StudyFile,
    data: DataFolder = Path("."),
    out: OutFolder = Path("runs"),
    fresh: Fresh = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Draw AUC against the share of labels, and what a hospital without labels gains."""
    from simulation.few_labels import as_json_values, run_few_labels
    from simulation.few_labels_config import load_few_labels
    from simulation.few_labels_table import draw_curve, make_tables
    from simulation.progress import choose_display
    from simulation.study import empty

    config = load_few_labels(study, parse_settings(settings))
    folder = out / config.name
    if fresh and folder.is_dir():
        empty(folder)
    with choose_display(quiet=as_json) as display:
        results = run_few_labels(config, data, folder, display)
    tables = make_tables(results)
    (folder / "table.md").write_text(tables, encoding="utf-8")
    draw_curve(results, folder / "curve.png")
    if as_json:
        print(json.dumps([as_json_values(result) for result in results], indent=1))
        return
    print(tables)
    print(f"Table and picture: {folder}")
