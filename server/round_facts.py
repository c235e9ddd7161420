"""What a ledger line and the report keep of a training round, and of what sites have spent.

What crosses a hospital's boundary: nothing; both are read off replies that have arrived.
"""

from __future__ import annotations

from typing import Any

from mfm_core.evaluation import metrics_from
from mfm_core.sums import Sum
from strategies.answers import PAID, SPENT, read_training_sum
from strategies.collector import Pooled
from strategies.config import RunConfig


def training_facts(run: RunConfig, total: Sum, images: int) -> dict[str, Any]:
    """Return mean loss terms and validation figures of training replies; none of private ones.

    Args:
        run: the agreed run.
        total: `strategies.answers.training_sum`, of one site or merged.
        images: training images behind it.
    """
    if run.privacy.private:
        return {}
    validation, loss = read_training_sum(total, images)
    metrics = metrics_from(validation, run.ontology.classes)
    figures = {
        "macro_auc": metrics.macro_auc.value,
        "accuracy": metrics.accuracy.value,
        "ssim": metrics.ssim.value,
    }
    return {"loss": loss, "val": figures}


def spent_note(total: Sum | None) -> dict[str, Any]:
    """Return what one site of a private run has spent; nothing of any other run."""
    if total is None:
        return {}
    return {"epsilon": float(total[SPENT][0]), "rounds": round(float(total[PAID][0]))}


def spent_facts(run: RunConfig, pooled: Pooled) -> dict[str, Any]:
    """Return "spent": delta and what each site said; nothing of a run that is not private."""
    if pooled.total is None:
        return {}
    rows = {
        name: {key: noted[key] for key in ("epsilon", "rounds")}
        for name, noted in pooled.seen.items()
    }
    return {"spent": {"delta": run.privacy.delta, "per_site": rows}}
