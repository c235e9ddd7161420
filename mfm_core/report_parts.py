"""The audit sections of a page, of all hospitals (results.json) or of one (its audit.json).

Both give the same tables; what is missing is a sentence that says why. What crosses the hospital's
boundary: nothing here; a part made of audit.json is for the hospital itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfm_core.report_audit import Rows, bias_lead, explained, flipped, ranked, unrecorded
from mfm_core.report_groups import CHOSEN, gap_lead, grouped, mitigated

Content = Mapping[str, Any]

ALL, HERE = "all", "here"
"""Where the figures come from; begins the anchors of a part."""

NO_AUDIT = "the run was agreed without an audit, or ended before it."
NO_FIELDS = "the run records no attributes such as view or sex, so there are no groups to compare."
NO_SCORES = "explanations were not scored; the agreed run asks for none or the sites scored none."
NO_MITIGATION = "the run was agreed without heads that leave an attribute out."
ONE_SIDED = "no test image has a known value of the attribute that the heads leave out."


def part_of_run(results: Content) -> dict[str, Any]:
    """Return the audit sections of all hospitals together."""
    audit: Content = results.get("audit") or {}
    pooled: Content = audit.get("pooled") or {}
    settings: Content = results.get("mitigation") or {}
    per_site: Mapping[str, Content] = audit.get("per_site") or {}
    not_made = str(settings.get("not_made") or "")
    in_use = CHOSEN if not_made else str(settings.get("use") or CHOSEN)
    refused = {"mitigation": f"no such head could be made: {not_made}."} if not_made else {}
    if not audit:
        refused = dict.fromkeys(("subgroups", "bias", "mitigation"), NO_AUDIT)
    found = {
        "explanations": results.get("explanations") or pooled.get("explanations") or [],
        "subgroups": pooled.get("subgroups") or {},
        "flips": pooled.get("flips") or {},
        "biases": audit.get("biases") or [],
        "in_use": in_use,
        "attribute": str(settings.get("attribute") or ""),
        "refused": refused,
    }
    of_sites = {
        "explanations": {name: own.get("explanations") or [] for name, own in per_site.items()},
        "subgroups": {
            name: (own.get("subgroups") or {}).get(in_use) or [] for name, own in per_site.items()
        },
    }
    return _part(ALL, found, of_sites)


def part_of_site(content: Content) -> dict[str, Any]:
    """Return the audit sections of one hospital from its audit.json."""
    in_use = str(content.get("final_is") or CHOSEN)
    bias, groups = content.get("bias") or {}, content.get("subgroups") or {}
    refused = {
        name: content[name]["refused"]
        for name in ("explanations", "bias", "subgroups", "slices")
        if isinstance(content.get(name), Mapping) and "refused" in content[name]
    }
    explanations = content.get("explanations")
    found = {
        "explanations": explanations if isinstance(explanations, list) else [],
        "subgroups": _named(groups.get("rows") or {}, in_use),
        "flips": _named(bias.get("flips") or {}, in_use),
        "biases": bias.get("ranking") or [],
        "in_use": in_use,
        "attribute": str(content.get("mitigated_attribute") or ""),
        "refused": refused,
    }
    part = _part(HERE, found, {"explanations": {}, "subgroups": {}})
    part["bias"]["note"] = str(bias.get("site") or "")
    part["unrecorded"] = unrecorded(content.get("slices")) or {"table": None, "lead": ""}
    part["unrecorded"]["missing"] = refused.get("slices", "groups were not looked for.")
    return part


def _named(heads: Mapping[str, Rows], in_use: str) -> dict[str, Rows]:
    """Return heads under the names of results.json: an audit calls the one in use "final"."""
    return {in_use if name == "final" else name: rows for name, rows in heads.items()}


def _part(key: str, found: Content, of_sites: Content) -> dict[str, Any]:
    refused, in_use = found["refused"], found["in_use"]
    groups: Rows = found["subgroups"].get(in_use) or []
    flips: Rows = found["flips"].get(in_use) or []
    part: dict[str, Any] = {
        "key": key,
        "explained": explained(found["explanations"], of_sites["explanations"]),
        "groups": grouped(groups, of_sites["subgroups"]),
        "bias": {**ranked(found["biases"]), "note": ""},
        "flips": flipped(flips),
        "mitigation": mitigated(found, found["attribute"], in_use),
        "unrecorded": None,
    }
    part["explained"]["missing"] = refused.get("explanations", NO_SCORES)
    part["groups"]["missing"] = refused.get("subgroups", NO_FIELDS)
    part["bias"]["missing"] = refused.get("bias", NO_FIELDS)
    named = ONE_SIDED if found["attribute"] else NO_MITIGATION
    part["mitigation"]["missing"] = refused.get("mitigation", named)
    part["glance"] = _glance(key, part, (found["biases"], groups))
    return part


def _glance(key: str, part: Content, rows: tuple[Rows, Rows]) -> list[tuple[str, str, str]]:
    """Return anchor, name and one sentence per section that has an answer."""
    biases, groups = rows
    lines = []
    if part["explained"]["lead"]:
        lines.append((f"{key}-explanations", "Explanations", str(part["explained"]["lead"])))
    if groups:
        lines.append((f"{key}-groups", "Subgroups", gap_lead(groups)))
    if biases:
        lines.append((f"{key}-bias", "Bias", bias_lead(biases)))
    if part["mitigation"]["lead"]:
        lines.append((f"{key}-mitigation", "Mitigation", str(part["mitigation"]["lead"])))
    return lines
