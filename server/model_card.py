"""The model card of a release as one JSON document; pages are drawn from it and nothing else.

"not a medical device" comes first, then the gates, the model card's own sections, FUTURE-AI and
CLAIM. Every item is filled from the run's figures or card.yaml, or says "not done" and what it
would take. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from typing import Any

from mfm_core.report_words import several, span
from server.card_items import NOT_DONE, Known
from server.card_principles import claim_of, principles_of
from server.card_sections import sections_of
from server.release_figures import brief_of

FORMAT = "mfm-model-card-1"
NOTICE = "Research software, not a medical device."


def card_of(known: Known) -> dict[str, Any]:
    """Return model_card.json."""
    sections, principles, claim = sections_of(known), principles_of(known), claim_of(known)
    items = [entry for part in (*sections, *principles, claim) for entry in part["items"]]
    return {
        "format": FORMAT,
        "notice": NOTICE,
        "name": known.run.name,
        "lead": _lead(known),
        "items": len(items),
        "not_done": sum(entry["state"] == NOT_DONE for entry in items),
        "release": dict(known.facts),
        "figures": brief_of(known.figures),
        "gates": [verdict.to_dict() for verdict in known.verdicts],
        "sections": sections,
        "principles": principles,
        "claim": claim,
    }


def _lead(known: Known) -> str:
    """Return the release in two sentences."""
    figures = known.figures
    who = several(int(figures.get("sites") or 0), "hospital")
    text = f"{who} trained one model together in {known.run.rounds} rounds; no image left them."
    n, auc = figures.get("n_test"), known.pooled.get("macro_auc")
    if not n or not auc or auc.get("value") is None:
        return f"{text} It has no test figure."
    classes = several(len(known.run.ontology.classes), "class", "classes")
    return f"{text} On {n} test images it tells {classes} apart with a macro AUC of {span(auc)}."
