"""What stands on the report's page, as plain words and numbers for the template.

Every function takes results.json (see RESULTS.md) and returns rows of text; a part without data
is empty and the template says why. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mfm_core.charts import Interval, draw_intervals
from mfm_core.gallery import Pictures
from mfm_core.report_parts import part_of_run, part_of_site
from mfm_core.report_pictures import drawn, embed
from mfm_core.report_rounds import (
    answered,
    chart_rounds,
    missing_lines,
    protection_table,
    round_table,
    timing_table,
)
from mfm_core.report_words import (
    NONE,
    Cell,
    Table,
    counts,
    duration,
    ends_of,
    size,
    span,
)

Results = Mapping[str, Any]

STATUS = {
    "complete": "Every hospital answered usably in every exchange.",
    "degraded": "The run ended with a model, but not every hospital took part in every exchange.",
    "failed": "The run ended without a model; figures below, if any, are not final.",
}

BASELINES = {
    "local": "one hospital alone",
    "pooled": "all images in one place",
    "nearest_neighbour": "copies the label of the most similar training image",
    "pca_logistic": "logistic regression on principal components of the pixels",
}

STAYS = "This page shows patients of this hospital. It must not leave the hospital."
OWN = " (this hospital)"


@dataclass(frozen=True)
class Local:
    """What a hospital adds to its own page; none of it may leave.

    Attributes:
        name: the hospital.
        metrics: its test figures, see RESULTS.md.
        audit: content of its audit.json.
    """

    name: str
    metrics: Mapping[str, Any]
    audit: Mapping[str, Any]


def page_of(
    results: Results, pictures: Pictures, settings: Results, local: Local | None = None
) -> dict[str, Any]:
    """Return everything the template needs.

    Args:
        results: content of results.json; for a hospital's page it may be empty.
        pictures: what to draw; parts may be empty.
        settings: the agreed run, nested.
        local: the hospital whose page it is; None for the page of all.
    """
    shown = results if local is None else with_own_name(results, local.name)
    status = str(results.get("status", "unknown"))
    run = part_of_run(shown) if results else None
    own = None if local is None else part_of_site(local.audit)
    page = {
        "study": str(results.get("study") or settings.get("name") or "run"),
        "run_known": bool(results),
        "local": local,
        "stays": STAYS if local else "",
        "headline": headline(results) if local is None else own_headline(local, results),
        "status": status if status in STATUS else "unknown",
        "status_sentence": STATUS.get(status, "How the run ended is unknown."),
        "figures": figures(results) if local is None else own_figures(local, results),
        "hospitals": hospital_table(shown),
        "missing_sites": missing_lines(results),
        "sites": site_table(shown),
        "classes": class_table(results.get("pooled")),
        "own_classes": class_table(local.metrics) if local else None,
        "baselines": baseline_table(results),
        "intervals": _chart_intervals(shown),
        "run": run,
        "own": own,
        **drawn(pictures),
        "rounds": round_table(results),
        "curves": chart_rounds(results),
        "timing": timing_table(results),
        "protection": protection_table(results),
        "settings": flatten(settings),
        "hashes": [
            (label, str(results[key]))
            for key, label in (
                ("config_hash", "agreed settings"),
                ("code_hash", "code"),
                ("final_hash", "result"),
            )
            if results.get(key)
        ],
    }
    return {**page, "glance": glance(shown, run, own)}


def with_own_name(results: Results, name: str) -> Results:
    """Return results in which one hospital's rows say that they are its own."""

    def renamed(found: Mapping[str, Any] | None) -> dict[str, Any]:
        return {f"{k}{OWN}" if k == name else k: v for k, v in (found or {}).items()}

    audit = results.get("audit")
    changed = {**results, "per_site": renamed(results.get("per_site")), "own_name": name}
    if audit:
        changed["audit"] = {**audit, "per_site": renamed(audit.get("per_site"))}
    return changed


def headline(results: Results) -> str:
    """Return the run in one or two sentences."""
    sites, rounds = results.get("sites"), results.get("rounds")
    who = f"{sites} hospitals" if sites else "The hospitals"
    how = f" in {rounds} rounds" if rounds else ""
    text = f"{who} trained one model together{how}; no image left a hospital."
    if results.get("status") == "failed" or results.get("macro_auc") is None:
        return text + " There is no final figure for it."
    classes = len((results.get("pooled") or {}).get("per_class") or ())
    task = f" the {classes} classes" if classes else " the classes"
    test = f"On {results['n_test']} test images" if results.get("n_test") else "On test images"
    auc = span({"value": results["macro_auc"], **ends_of(results.get("macro_auc_interval"))})
    text += f" {test} it tells{task} apart with a macro AUC of {auc}."
    alone = [_value(row, "macro_auc") for row in _baselines(results, "local")]
    known = [value for value in alone if value is not None]
    if known:
        text += f" Hospitals that train alone reach {sum(known) / len(known):.3f} on average."
    return text


def own_headline(local: Local, results: Results) -> str:
    """Return what the model does at one hospital, in one or two sentences."""
    metrics = local.metrics
    classes = len(metrics.get("per_class") or ())
    n = (metrics.get("ssim") or {}).get("n", 0)
    auc = span(metrics.get("macro_auc"))
    text = f"On {n} test images of {local.name} the model tells the {classes} classes apart "
    text += f"with a macro AUC of {auc}." if auc.value != NONE else "with no defined macro AUC."
    if results.get("macro_auc") is not None:
        pooled = {"value": results["macro_auc"], **ends_of(results.get("macro_auc_interval"))}
        text += f" On those of all hospitals together it reaches {span(pooled)}."
    return text


def figures(results: Results) -> list[tuple[str, str, str]]:
    """Return the large figures at the top: label, value, remark."""
    rows = []
    for key, label in (("macro_auc", "Macro AUC"), ("reconstruction_ssim", "Redrawn, SSIM")):
        if results.get(key) is not None:
            ends = ends_of(results.get(f"{key}_interval"))
            known = ends.get("low") is not None
            remark = f"{ends['low']:.3f} to {ends['high']:.3f}" if known else ""
            rows.append((label, f"{results[key]:.3f}", remark))
    if results.get("sites"):
        rows.append(("Hospitals", str(results["sites"]), f"{results.get('rounds', '?')} rounds"))
    if results.get("bytes_per_site_and_round"):
        sent = size(results["bytes_per_site_and_round"])
        rows.append(("Sent per round", sent, "by each hospital, at most"))
    if results.get("seconds"):
        rows.append(("Time", duration(results["seconds"]), "of federated work"))
    if results.get("parameters"):
        rows.append(("Model", f"{results['parameters'] / 1e6:.2f} M", "parameters"))
    return rows


def own_figures(local: Local, results: Results) -> list[tuple[str, str, str]]:
    """Return the large figures of one hospital's page."""
    rows = []
    for key, label in (("macro_auc", "Macro AUC here"), ("ssim", "Redrawn here, SSIM")):
        cell = span(local.metrics.get(key))
        if cell.value != NONE:
            rows.append((label, cell.value, cell.interval.replace("–", " to ")))
    images = (local.metrics.get("ssim") or {}).get("n")
    patients = local.audit.get("test_patients")
    if images:
        rows.append(("Test images", str(images), f"of {patients} patients" if patients else ""))
    if results.get("macro_auc") is not None:
        rows.append(("All hospitals", f"{results['macro_auc']:.3f}", "macro AUC"))
    return rows


def glance(
    results: Results, run: Mapping[str, Any] | None, own: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """Return anchor, name and one sentence of every answer on the page, one hospital's first."""
    lines: list[tuple[str, str, str]] = list(own["glance"]) if own else []
    if own:
        return lines
    if results.get("pooled"):
        lines.append(("performance", "Performance", _spread(results)))
    lines += run["glance"] if run else []
    missing = len(missing_lines(results))
    if results.get("rounds_table"):
        text = f"{missing} answers are missing in the training rounds; see which and why."
        lines.append(("hospitals", "Hospitals", text if missing else "All answered every round."))
    return lines


def _spread(results: Results) -> str:
    """Return the weakest class, and how far the hospitals lie apart."""
    rows = (results.get("pooled") or {}).get("per_class") or ()
    known = [row for row in rows if (row.get("auc") or {}).get("value") is not None]
    text = ""
    if known:
        worst = min(known, key=lambda row: row["auc"]["value"])
        text = f"Weakest class: {worst['class']}, AUC {span(worst['auc'])}. "
    per_site = [(n, _value(m, "macro_auc")) for n, m in (results.get("per_site") or {}).items()]
    ranked = sorted((value, name) for name, value in per_site if value is not None)
    if len(ranked) > 1:
        (low, last), (high, first) = ranked[0], ranked[-1]
        text += f"Hospitals range from {low:.3f} ({last}) to {high:.3f} ({first})."
    return text.strip() or "No test figure is defined."


def site_table(results: Results) -> Table | None:
    """Return n, AUC, AP, F1, accuracy and SSIM of all hospitals and of each."""
    named = [("All together", results.get("pooled"))]
    named += list((results.get("per_site") or {}).items())
    keys = ("macro_auc", "macro_ap", "macro_f1", "accuracy", "ssim")
    rows = []
    for name, metrics in named:
        if metrics:
            n = (metrics.get("ssim") or metrics.get("macro_auc") or {}).get("n", NONE)
            rows.append([Cell(str(name)), Cell(str(n)), *(span(metrics.get(key)) for key in keys)])
    head = ("", "images", "macro AUC", "macro AP", "macro F1", "accuracy", "SSIM")
    return Table(head, rows, strong=frozenset({0})) if rows else None


def hospital_table(results: Results) -> Table | None:
    """Return who answered how often, who held what, and what was sent."""
    known = {str(row["name"]): row for row in results.get("hospitals") or ()}
    withheld = (results.get("latent_sums") or {}).get("suppressed_cells") or {}
    names = list(dict.fromkeys([*(results.get("site_names") or ()), *known]))
    rows = []
    for name in names:
        row, said = known.get(name, {}), answered(results, name)
        own = OWN if name == results.get("own_name") else ""
        cells = [Cell(f"{name}{own}"), Cell(said[0]), Cell(said[1])]
        cells.append(Cell(str(withheld.get(name, NONE))))
        if known:
            splits = " / ".join(str(row.get(split, NONE)) for split in ("train", "val", "test"))
            held = (row.get("attributes") or {}).items()
            words = [f"{field}: {counts(values)}" for field, values in held]
            cells += [Cell(str(row.get("patients", NONE))), Cell(splits)]
            cells += [Cell(counts(row.get("classes") or {})), Cell("; ".join(words))]
        rows.append(cells)
    more = ("patients", "images: train / val / test", "classes", "circumstances")
    head = ("", "answered rounds", "sent in training", "small cells withheld")
    words_in = frozenset({6, 7}) if known else frozenset[int]()
    return Table((*head, *(more if known else ())), rows, words=words_in) if rows else None


def class_table(metrics: Mapping[str, Any] | None) -> Table | None:
    """Return the paper's Table 1: class, AUC, AP, F1, rate, and n."""
    rows = []
    for row in (metrics or {}).get("per_class") or ():
        rate = NONE if row.get("rate") is None else f"{row['rate']:.3f}"
        spans = [span(row.get(key)) for key in ("auc", "ap", "f1")]
        n = Cell(str(row.get("n", NONE)))
        rows.append([Cell(str(row["class"])), *spans, Cell(rate), n])
    return Table(("class", "AUC", "AP", "F1", "rate", "images"), rows) if rows else None


def baseline_table(results: Results) -> Table | None:
    """Return name, what it is, AUC, AP, F1 and SSIM, the federated model first."""
    keys = ("macro_auc", "macro_ap", "macro_f1", "ssim")
    rows = list(results.get("baselines") or ())
    if not rows:
        return None
    pooled = results.get("pooled") or {}
    first = [Cell("This run"), Cell("hospitals together")]
    table = [[*first, *(span(pooled.get(key)) for key in keys)]]
    for row in rows:
        words = BASELINES.get(str(row.get("kind")), str(row.get("kind", "")))
        table.append([Cell(str(row["name"])), Cell(words), *(span(row.get(key)) for key in keys)])
    head = ("model", "what it is", "macro AUC", "macro AP", "macro F1", "SSIM")
    return Table(head, table, strong=frozenset({0}), words=frozenset({1}))


def flatten(settings: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Return nested settings as rows of dotted path and value; what is not set says so."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows.extend(flatten(value, f"{path}{key}."))
        else:
            rows.append((f"{path}{key}", _setting(value)))
    return rows


def _setting(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value == {} else str(value)


def _value(row: Results, key: str) -> float | None:
    value = (row.get(key) or {}).get("value")
    return None if value is None else float(value)


def _baselines(results: Results, kind: str) -> list[Results]:
    return [row for row in results.get("baselines") or () if row.get("kind") == kind]


def _chart_intervals(results: Results) -> str | None:
    named = [("All together", "federated", results.get("pooled"))]
    named += [(name, "site", row) for name, row in (results.get("per_site") or {}).items()]
    named += [(row["name"], "baseline", row) for row in results.get("baselines") or ()]
    rows = []
    for name, group, metrics in named:
        auc = (metrics or {}).get("macro_auc") or {}
        if auc.get("value") is not None:
            low, high = auc.get("low"), auc.get("high")
            rows.append(Interval(str(name), group, auc["value"], low, high))
    return embed(draw_intervals(rows, "Macro AUC on test images")) if rows else None
