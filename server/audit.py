"""What the coordinator reads off the sites' audit counts: explanations, flips, subgroups, biases.

Sites count on their own test images (`client.app`), the counts add up, and the figures here are
read from the total and from each site's own counts with the same functions.
What crosses a hospital's boundary: nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfm_core.atlas import Atlas
from mfm_core.bias import rank_biases
from mfm_core.contrasts import SITE, with_sites
from mfm_core.explanation_sums import explanation_figures
from mfm_core.flips import flip_figures
from mfm_core.head import Head
from mfm_core.subgroup_rows import subgroup_figures
from mfm_core.sums import Sum
from strategies.answers import CHOSEN, EXPLANATIONS, FLIPS, SUBGROUPS, mitigated_methods, part_of
from strategies.config import RunConfig


def audit_figures(run: RunConfig, total: Sum) -> dict[str, Any]:
    """Return the figures of merged audit counts, or of one site's.

    Returns:
        "explanations": rows per class, empty when none were scored; "flips" and "subgroups":
        name of the head ("chosen" before any mitigation) to rows.
    """
    heads, ontology, smallest = (CHOSEN, *mitigated_methods(run)), run.ontology, run.audit.min_group
    explained = part_of(total, EXPLANATIONS)
    return {
        "explanations": explanation_figures(explained, ontology) if explained.arrays else [],
        "flips": {
            name: flip_figures(part_of(total, f"{FLIPS}/{name}"), ontology, smallest=smallest)
            for name in heads
        },
        "subgroups": {
            name: subgroup_figures(part_of(total, f"{SUBGROUPS}/{name}"), ontology, smallest)
            for name in heads
        },
    }


def without_mitigated(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return audit figures of the chosen head alone, for a run that could make no other."""
    per_head = {part: {CHOSEN: figures[part][CHOSEN]} for part in ("flips", "subgroups")}
    return {**figures, **per_head}


def bias_rows(atlas: Atlas, cells: Mapping[str, Sum], head: Head) -> list[dict[str, Any]]:
    """Return the ranking of possible biases, the site itself among the fields.

    Where the agreed attributes have one of the name "site", that one is ranked in its place.

    Args:
        atlas: of all sites' latent sums.
        cells: per site that released latent sums "class.count" `[K]` and "class.sum" `[K, L]`.
        head: the one in use.
    """
    full = atlas if SITE in atlas.ontology.attributes else with_sites(atlas, cells)
    return [row.to_dict() for row in rank_biases(full, head)]
