"""The leak audit in words and tables, for a site's page and its terminal.

What crosses the hospital's boundary: nothing. The page says that it stays at the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mfm_core.page_template import draw_page

STAYS = "This page stays at the site: it says how far patients of this hospital can be found out."

SEEN = {"release": "release", "coordinator": "coordinator", "nobody": "experiment"}
VERDICTS = {
    "leaks": "LEAKS",
    "within": "within",
    "open": "not excluded",
    "": "not judged",
}

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A table: title, headings, rows of text, and a sentence on how it is read."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def headline(content: Content) -> str:
    """Return the result in one sentence."""
    limits, judged = content["limits"], [r for r in content["attacks"] if r["verdict"]]
    words = f"AUC {limits['auc']:g}, hits at 1 % false alarms {limits['tpr']:g}"
    found = [row["name"] for row in judged if row["verdict"] == "leaks"]
    open_ones = [row for row in judged if row["verdict"] == "open"]
    if found:
        return f"A leak beyond the agreed limits ({words}) is shown: {'; '.join(found)}."
    if open_ones:
        return (
            f"No leak beyond the agreed limits ({words}) is shown; {len(open_ones)} of "
            f"{len(judged)} attacks had too few patients to exclude one."
        )
    return f"All {len(judged)} attacks on the release stay within the agreed limits ({words})."


def about(content: Content) -> list[str]:
    """Return what was compared, what protects, and what was not done, a sentence each."""
    lines = [
        f"Members: {content['members']} patients of the train split; others: {content['others']} "
        f"of the test split; {content['shared']} with images on both sides left out."
    ]
    patients, numbers = content["atlas_patients"], content["latent_size"]
    lines.append(
        f"The atlas holds means and covariance of {patients:.0f} patients in {numbers} numbers; "
        "the fewer patients to a number, the more the covariance shows who they are."
    )
    spent = content.get("epsilon")
    if spent:
        noise = ", ".join(spent["noise"])
        lines.append(
            f"Formal: epsilon {_number(spent['epsilon'])} at delta {spent['delta']:g}, unit "
            f"{spent['unit']}, noise {noise}; it covers the model's weights, not atlas and sums."
        )
    else:
        lines.append("Formal: nothing bounds these attacks (no private training in this run).")
    end = "upper end of the interval" if content["limits"]["end"] == "high" else "value itself"
    lines.append(f"`mfm-server release` judges the {end} of each attack on the release.")
    lines += [f"Not done: {text}." for text in content["missing"]]
    return lines


def sheets(content: Content) -> list[Sheet]:
    """Return the tables of an audit's record."""
    found = [_attacks(content)]
    if "inversion" in content:
        found.append(_inversion(content["inversion"], content["private"], content["masked"]))
    if "canaries" in content:
        found.append(_canaries(content["canaries"]))
    return [*found, _drawings(content)]


def _attacks(content: Content) -> Sheet:
    rows = []
    for row in content["attacks"]:
        strength, bound = row["strength"], row["bound"]
        one, tenth = strength["hits"]
        limits = [""] * 2
        if bound:
            limits = [f"<= {_number(bound['auc'])}", f"<= {_number(bound['hits'][0])}"]
        elif row["expected_auc"] is not None:
            limits[0] = f"formula {_number(row['expected_auc'])}"
        rows.append((
            row["name"], SEEN[row["seen"]],
            f"{strength['members']} + {strength['others']}",
            _with(strength["auc"], strength["auc_interval"]), limits[0],
            _with(one["value"], one["interval"]), limits[1],
            _with(tenth["value"], tenth["interval"]), VERDICTS[row["verdict"]],
        ))  # fmt: skip
    head = ("attack", "seen by", "n", "AUC", "bound", "hits at 1 %", "bound", "hits at 0.1 %",
            "limits")  # fmt: skip
    note = (
        "AUC 0.5 is guessing. Hits: share of members above a score that 1 % (0.1 %) of the others "
        "pass. 95 % intervals by patient; bound: what epsilon leaves to any attack; formula: "
        "Phi(sqrt(d / 2n)), for who knows the reference exactly. Seen by: whoever gets the "
        "release; the coordinator, unless a secure sum hides it; nobody outside an experiment. "
        "Control: are members easier for models that never saw them? It should cover 0.5. "
        'Limits: "not excluded" means too few patients to say.'
    )
    return Sheet("Was a patient learnt from?", head, rows, note)


def _inversion(found: Content, private: bool, masked: bool) -> Sheet:
    kinds = [(f"gradient of one image ({n})", each) for n, each in enumerate(found["single"], 1)]
    kinds.append((f"update of a local round, {found['round_steps']} steps", found["update"]))
    rows = [
        (words, f"{each['ssim']:.3f}", f"{each['blind_ssim']:.3f}", f"{each['psnr_db']:.1f}",
         f"{each['rank']} of {each['among']}", f"{each['chance_rank']:.1f}")
        for words, each in kinds
    ]  # fmt: skip
    seen = "The coordinator sees sums of masked updates" if masked else "The coordinator sees it"
    noise = "clipped and noisy as in training" if private else "as it is, without protection"
    note = (
        f"Best of closed form and {found['matching_steps']} steps of matching; the gradient is "
        f"{noise}. Rank 1: the image is the one most like the drawing. Of an update, the image of "
        f"any member that is most like it counts. {seen}, never a gradient of one image; that row "
        "is the worst case."
    )
    head = ("drawn from", "SSIM", "SSIM of the mean image", "PSNR, dB", "rank", "rank by chance")
    return Sheet("Can an image be drawn back?", head, rows, note)


def _canaries(found: Content) -> Sheet:
    chance, most = f"{found['chance_bits']:.2f}", f"{found['most_bits']:.2f}"
    rows = [(part, f"{bits:.2f}", chance, most) for part, bits in found["bits"].items()]
    note = (
        f"{found['inserted']} random pictures among {found['images_beside']} images, "
        f"{found['steps']} steps; as many never inserted. AUC and hits stand in the first table."
    )
    head = ("part", "exposure, bits", "by chance", "most possible")
    return Sheet("Are inserted pictures remembered?", head, rows, note)


def _drawings(content: Content) -> Sheet:
    rows = []
    for row in content["drawings"]:
        if "p" not in row:
            rows.append((row["class"], "", "", "", "too few patients"))
            continue
        number = f"{row['members']} + {row['others']}"
        ends = f"{row['member_distance']:.4f}", f"{row['other_distance']:.4f}"
        rows.append((row["class"], number, *ends, f"{row['p']:.3f}"))
    whole = content["nearest_p"]
    said = "No class could be tested." if whole is None else f"All classes together: p {whole:.3f}."
    note = f"{said} Small p: a decoded class mean is nearer to members than to other patients."
    head = ("class", "n", "nearest member", "nearest other", "p")
    return Sheet("Does a decoded class mean show somebody?", head, rows, note)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


def _with(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"


def leak_page(content: Content) -> str:
    """Return the page of an audit's record."""
    return draw_page(
        "leak_page.html.j2",
        title=f"Leak audit of {content['site']}, {content['date']}",
        stay=STAYS,
        headline=headline(content),
        about=about(content),
        sheets=sheets(content),
        hashes=[(name, content[name] or "not known here")
                for name in ("weights_hash", "final_hash", "config_hash")],
    )  # fmt: skip
