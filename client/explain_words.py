"""What `mfm-client explain` prints.

What crosses the hospital's boundary: nothing; the lines name files of the hospital.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from client.explain import Explained, Run
from client.explain_record import NOTE
from mfm_core.explanation_page import PAGE_STAYS
from mfm_core.sweep import percent, signed

LABELS = {
    "panel": "Panel",
    "sweep": "Moving",
    "methods": "Methods",
    "record": "Numbers",
    "dicom_report": "DICOM report (SR)",
    "dicom_panel": "DICOM panel (SC)",
    "dicom_map": "DICOM map (SEG)",
}


def print_run(run: Run, as_json: bool) -> None:
    """Print what was written and what could not be used; the latter on stderr."""
    if as_json:
        print(json.dumps(_plain(run), indent=2, ensure_ascii=False))
        return
    if len(run.explained) == 1:
        _print_one(run.explained[0])
    else:
        for explained in run.explained:
            print(f"{explained.name}  {explained.source}: {_brief(explained.content)}")
    for page in run.pages:
        print(f"Page: {page}")
    print(f"Which file is which: {run.index}")
    if run.own:
        print(f"Left out: {run.own} files that an earlier call wrote.")
    if run.explained:
        print(f"{PAGE_STAYS} {NOTE}")
    if run.refused:
        count = len(run.refused)
        print(f"Not explained: {count} {'file' if count == 1 else 'files'}", file=sys.stderr)
        for source, reason in run.refused:
            print(f"  - {source} {reason}", file=sys.stderr)


def _brief(content: dict[str, Any]) -> str:
    read_as = content["read_as"]
    words = f"{read_as} {percent(content['probabilities'][read_as])}"
    if "scores" not in content:
        return words
    flip = content["scores"]["flip_alpha"]
    turned = "at no step shown" if flip is None else f"at step {signed(flip)}"
    return f"{words}, the answer turns {turned}"


def _print_one(explained: Explained) -> None:
    print(explained.content["question"])
    print(explained.content["answer"])
    for kind, path in explained.files.items():
        print(f"{LABELS[kind]}: {path}")


def _plain(run: Run) -> dict[str, Any]:
    explained = [
        {
            **each.content,
            "name": each.name,
            "source": each.source,
            "files": {kind: str(path) for kind, path in each.files.items()},
        }
        for each in run.explained
    ]
    return {
        "explained": explained,
        "not_explained": [{"source": source, "reason": reason} for source, reason in run.refused],
        "pages": [str(page) for page in run.pages],
        "index": str(run.index),
        "note": f"{PAGE_STAYS} {NOTE}",
    }
