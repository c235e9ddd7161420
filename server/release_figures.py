"""The figures of a release: metrics.json and the summary of the rounds, without names of sites.

A release is made to be handed on, so it holds less than the coordinator's server.json: figures of
all sites together, and of each site only its number of training images, its macro figures and how
it answered. Sites stand as "site 1", "site 2", ... in an order drawn anew for every release, unless
the coordinator sets `name_sites` in card.yaml.
What crosses a hospital's boundary: nothing; all of it is released to the coordinator already.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mfm_core.contrasts import SITE
from mfm_core.report import finite
from server.leak_audit import LeakAudit
from strategies.central_noise import CENTRAL
from strategies.config import RunConfig

Content = Mapping[str, Any]
Lines = Sequence[Content]

OF_A_SITE = ("macro_auc", "accuracy", "ssim")
OF_A_ROUND = ("round", "phase", "seconds", "attempts", "images", "loss", "val", "test")
BRIEF = ("status", "rounds", "sites", "n_test", "parameters")


def labels_of(lines: Lines, *, named: bool) -> dict[str, str]:
    """Return what each site of a ledger is called in a release.

    Args:
        lines: of rounds.jsonl.
        named: True keeps the names.
    """
    names = sorted({name for line in lines for name in line["sites"]})
    if named:
        return {name: name for name in names}
    numbers = list(range(1, len(names) + 1))
    random.SystemRandom().shuffle(numbers)
    return {name: f"site {number}" for name, number in zip(names, numbers, strict=True)}


def figures_of(
    run: RunConfig,
    results: Content,
    lines: Lines,
    labels: Mapping[str, str],
    leak: LeakAudit | None,
) -> dict[str, Any]:
    """Return metrics.json of a release.

    Args:
        run: the agreed run.
        results: server.json.
        lines: of rounds.jsonl.
        labels: from `labels_of`.
        leak: the leak audit, if there is one.
    """
    sums = results.get("latent_sums") or {}
    content = {
        **{name: results.get(name) for name in BRIEF},
        "status": "complete" if _all_ok(lines) else "degraded",
        "missed": _missed(lines, labels),
        "pooled": results.get("pooled"),
        "per_site": {
            labels[name]: {key: found.get(key) for key in OF_A_SITE}
            for name, found in (results.get("per_site") or {}).items()
        },
        "patients_per_class": sums.get("patients_per_class"),
        "withheld_cells": sum((sums.get("suppressed_cells") or {}).values()),
        "training_images": _training_images(lines, labels),
        "bytes_per_site_and_round": results.get("bytes_per_site_and_round"),
        "seconds": results.get("seconds"),
        "heads": results.get("heads"),
        "mitigation": results.get("mitigation"),
        "audit": _audit(run, results.get("audit"), labels),
        "privacy": _privacy(run, results, lines),
        "leak_audit": leak.model_dump(mode="json") if leak is not None else None,
    }
    clean: dict[str, Any] = finite(content)
    clean["per_site"] = dict(sorted(clean["per_site"].items()))
    return clean


def _all_ok(lines: Lines) -> bool:
    return {outcome for line in lines for outcome in line["sites"].values()} == {"ok"}


def _missed(lines: Lines, labels: Mapping[str, str]) -> dict[str, int]:
    found = Counter(
        labels[name] for line in lines for name, outcome in line["sites"].items() if outcome != "ok"
    )
    return dict(sorted(found.items()))


def _training_images(lines: Lines, labels: Mapping[str, str]) -> dict[str, int]:
    """Return the images each site trained with, from its last training round."""
    found: dict[str, int] = {}
    for line in lines:
        if line["phase"] == "train":
            found |= {labels[name]: int(n) for name, n in line.get("site_images", {}).items()}
    return dict(sorted(found.items()))


def _audit(
    run: RunConfig, audit: Content | None, labels: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the pooled audit; a field "site" that nobody agreed holds names of sites."""
    if not audit:
        return None
    rows = [dict(row) for row in audit.get("biases") or ()]
    for row in rows:
        if row["attribute"] == SITE and SITE not in run.ontology.attributes:
            row |= {key: labels.get(row[key], row[key]) for key in ("value", "against")}
            row["sentence"] = ""
    return {**(audit.get("pooled") or {}), "biases": rows}


def _privacy(run: RunConfig, results: Content, lines: Lines) -> dict[str, Any]:
    """Return how patients are protected in training, and the largest epsilon of any site.

    It is None unless every site that was ever asked to train has said what it spent: a site pays
    before it computes, so that one whose answer never came has spent as well. Under central DP the
    server knows it: that of one patient of a site.

    Args:
        run: the agreed run.
        results: server.json; "spent" holds {"per_site": {name: {"epsilon": number}}}.
        lines: of rounds.jsonl.
    """
    agreed = run.privacy.model_dump(mode="json")
    if run.privacy.private_sum:
        central = results.get(CENTRAL) or {}
        largest = central.get("epsilon_patient")
        return {**agreed, "spent": dict(central), "largest_epsilon": largest}
    sites = (results.get("spent") or {}).get("per_site") or {}
    found = {name: row.get("epsilon") for name, row in sites.items() if isinstance(row, Mapping)}
    spent = {name: float(e) for name, e in found.items() if isinstance(e, int | float)}
    asked = {
        name
        for line in lines
        if line["phase"] == "train"
        for name, outcome in line["sites"].items()
        if outcome not in ("offline", "left-out")
    }
    known = bool(spent) and set(spent) >= asked and set(spent) == set(sites)
    return {**agreed, "largest_epsilon": max(spent.values()) if known else None}


def rounds_of(lines: Lines, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the ledger for a release: what each exchange was and how each site answered it."""
    rows = []
    for line in lines:
        row = {key: line[key] for key in OF_A_ROUND if key in line}
        answers = {labels[name]: outcome for name, outcome in line["sites"].items()}
        row["sites"] = dict(sorted(answers.items()))
        row["bytes"] = sum(line.get("bytes", {}).values())
        rows.append(finite(row))
    return rows


def brief_of(figures: Content) -> dict[str, Any]:
    """Return the figures that stand at the top of a card."""
    pooled = figures.get("pooled") or {}
    figure = {name: pooled.get(name) for name in ("macro_auc", "accuracy", "ssim")}
    return {**{name: figures.get(name) for name in BRIEF}, **figure}
