"""What a data-protection officer asks for, as facts: read off code, settings and ledgers.

Fields and shapes are those that outbox and coordinator enforce (`strategies.answers`), labels are
those of `strategies.privacy`; nothing of it is written by hand. Counts of images are the only thing
that is read off the images, and a reason that could name a file is left out.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from client.app import shapes_of
from client.cohort import cohort_path
from client.commands_privacy import spending_of
from client.config import LimitsConfig, SiteConfig
from client.ledger import OutboxReading
from client.pseudonyms import DIGITS
from client.receipts import FILE as RECEIPTS
from client.secret import FILE as SECRET
from client.site import PRIVACY_LEDGER, Site
from mfm_core.dataset import SPLITS
from mfm_core.errors import MfmError
from strategies import chain, wire
from strategies.answers import answer_of
from strategies.config import RunConfig
from strategies.plan import KEYS, KINDS, MASKED, UNPLANNED, Kind, plan_of
from strategies.privacy import label_of

LEAK_AUDIT = "leak_audit.json"
LARGEST_AUDIT = 1_000_000
_SPLITS: Mapping[Kind, tuple[str, ...]] = {
    "hello": SPLITS,
    "patch_moments": ("train",),
    "class_sums": ("train",),
    "train": ("train", "val"),
    "latent_sums": ("train",),
    "heads": ("val",),
    "mitigate": ("train",),
    "evaluate": ("test",),
    "atlas": (),
    "audit": ("test",),
    "receipts": (),
    "secure_keys": (),
    "secure_shares": (),
    "secure_unmask": (),
}


def splits_of(run: RunConfig, kind: Kind) -> tuple[str, ...]:
    """Return the splits whose images an answer of this kind is made of."""
    if run.privacy.private and kind in ("hello", "train"):
        return () if kind == "hello" else ("train",)
    return _SPLITS[kind]


def flow_of(site: Site) -> dict[str, Any]:
    """Return every field that leaves in the agreed run, exchange by exchange."""
    run, limits = site.run, site.config.limits
    steps = [step.kind for step in plan_of(run)]
    secure = run.secure_sum.enabled
    exchanges = []
    for kind in KINDS:
        if kind not in steps and (kind not in UNPLANNED or (kind in KEYS and not secure)):
            continue
        arrays: list[dict[str, Any]] = [
            {"name": name, "shape": list(shape), "numbers": math.prod(shape)}
            for name, shape in shapes_of(site, kind).items()
        ]
        exchanges.append(
            {
                "kind": kind,
                "times": None if kind in KEYS else max(1, steps.count(kind)),
                "splits": list(splits_of(run, kind)),
                "answered": kind in limits.allowed_kinds,
                "label": label_of(run, kind, limits.min_cell_count).to_dict(),
                "masked": secure and kind in MASKED,
                "keys": answer_of(run, kind).sealed,
                "arrays": arrays,
                "numbers": sum(array["numbers"] for array in arrays),
            }
        )
    return {"header": [field.name for field in fields(wire.Header)], "exchanges": exchanges}


def limits_of(limits: LimitsConfig) -> list[dict[str, Any]]:
    """Return every limit with its value and what it means."""
    values = limits.model_dump(mode="json")
    described = type(limits).model_fields
    return [
        {"name": name, "value": values[name], "means": described[name].description or ""}
        for name in described
    ]


def accounting_of(site: Site) -> dict[str, Any]:
    """Return what the privacy ledger says, per run and in all, with the agreed run's label."""
    reading = site.privacy.read()
    found = spending_of(reading, site.config.limits)
    found["problems"] = len(reading.problems)
    return {**found, "label": label_of(site.run, "train").to_dict()}


def left_of(read: OutboxReading) -> dict[str, Any]:
    """Return what has really left, per run and kind, oldest first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for line in read.lines:
        key = str(line.get("run", ""))[:64], str(line.get("kind", ""))
        row = rows.setdefault(
            key,
            {
                **{"run": key[0], "kind": key[1], "records": 0, "bytes": 0, "images": 0},
                **{
                    "first": str(line.get("time", "")),
                    "approved": 0,
                    "masked": 0,
                    "protection": [],
                },
                "received": Counter[str](),
            },
        )
        words = (line.get("protection") or {}).get("words") or "not recorded"
        row["records"] += 1
        row["bytes"] += int(line.get("bytes", 0))
        row["images"] = max(row["images"], int(line.get("images", 0)))
        row["last"] = str(line.get("time", ""))
        row["approved"] += "approved_by" in line
        row["protection"] = sorted({*row["protection"], words})
        row["masked"] += bool(line.get("masked"))
        row["received"][read.received.of(line)] += 1
    for row in rows.values():
        row["received"] = dict(sorted(row["received"].items()))
    return {
        "records": len(read.lines),
        "bytes": read.bytes,
        "runs": list(rows.values()),
        "receipts_signed": read.signed,
        "receipt_problems": len(read.received.problems),
    }


def ledgers_of(read: OutboxReading, site: Site) -> list[dict[str, Any]]:
    """Return lines, last hash and problems of each ledger; the texts of problems stay out."""
    state, spent = site.config.state_folder, site.privacy.read()
    return [
        _ledger("what left", read.path, len(read.problems)),
        _ledger("what the coordinator received", state / RECEIPTS, None),
        _ledger("what private training spent", state / PRIVACY_LEDGER, len(spent.problems)),
    ]


def _ledger(name: str, path: Path, problems: int | None) -> dict[str, Any]:
    try:
        lines = chain.read(path)
        wrong = len(chain.verify(path)) if problems is None else problems
    except (OSError, ValueError):
        lines, wrong = [], 1
    head = chain.last_hash(lines) if lines else ""
    return {
        **{"name": name, "file": path.name, "there": path.exists(), "lines": len(lines)},
        **{"head": head, "problems": wrong},
    }


def cohort_of(site: Site) -> dict[str, Any]:
    """Return counts per split and how patients are kept apart; "counts" is None if unreadable."""
    data, config = site.config.data, site.config
    return {
        "counts": _counts(site),
        "split_by": "column of the manifest" if data.columns.split else "patient, by a fixed seed",
        "classes": len(site.run.ontology.classes),
        "manifest": data.manifest is not None,
        "fingerprint": cohort_path(site).is_file(),
        "secret": (config.state_folder / SECRET).is_file(),
        "pseudonym_digits": DIGITS,
        "smallest_cell": config.limits.min_cell_count,
    }


def _counts(site: Site) -> list[dict[str, Any]] | None:
    """Return images, patients and patients in more than one split, per split."""
    try:
        images = site.images
    except (MfmError, OSError):
        return None
    of_split = {name: images.patients[images.select(name)] for name in SPLITS}
    shared = {
        name: sum(len(np.intersect1d(own, other)) for n, other in of_split.items() if n != name)
        for name, own in of_split.items()
    }
    return [
        {
            **{"split": name, "images": len(own), "patients": len(np.unique(own))},
            "also_in_another": shared[name],
        }
        for name, own in of_split.items()
    ]


def leak_audit_of(config: SiteConfig) -> dict[str, Any]:
    """Return the attacks in leak_audit.json: names, figures, dates; state says if there are any."""
    path = config.state_folder / LEAK_AUDIT
    if not path.is_file():
        return {"state": "not done", "attacks": []}
    try:
        if path.stat().st_size > LARGEST_AUDIT:
            raise ValueError("too large")
        content = json.loads(path.read_bytes())
        attacks = [_attack(row) for row in content["attacks"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {"state": "damaged", "attacks": []}
    return {"state": "done" if attacks else "not done", "attacks": attacks}


def _attack(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of one attack; every other field stays out."""
    ends = {key: _pair(row.get(key)) for key in ("auc_interval", "tpr_interval")}
    figures = {key: float(row[key]) for key in ("auc", "tpr_at_1_fpr")}
    return {
        **{"name": str(row["name"])[:64], "date": str(row["date"])[:10], "n": int(row["n"])},
        **figures,
        **ends,
    }


def _pair(found: Any) -> list[float] | None:
    return None if found is None else [float(found[0]), float(found[1])]
