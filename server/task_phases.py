"""The server's half of a multi-task pre-training: training rounds and figures per task.

What crosses a hospital's boundary: towards it, the weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mfm_core.checkpoint import weight_schema
from mfm_core.public_pictures import Pixels
from mfm_core.sums import Sum
from mfm_core.tasks import task_figures
from server.phases import Asking, Evaluation, PatchMoments, Training, phases_of
from server.weights import new_model
from strategies import aggregation
from strategies.collector import Pooled
from strategies.config import RunConfig
from strategies.plan import Step, plan_of
from strategies.strategy import Phase, RunState
from strategies.task_answers import (
    BEFORE,
    LOSS,
    TASK_IMAGES,
    pooled_factors,
    with_scaled_rows,
)


def phases_for(run: RunConfig, pictures: Pixels | None = None) -> tuple[Phase, ...]:
    """Return every phase of any run, hello first; `pictures` are the public ones of the run."""
    if not run.ontology.tasks:
        return phases_of(run, pictures)
    kinds: dict[str, type[Asking]] = {
        "hello": Asking,
        "patch_moments": PatchMoments,
        "train": TaskTraining,
        "evaluate": TaskEvaluation,
    }
    return tuple(kinds[step.kind](run, step) for step in (Step("hello"), *plan_of(run)))


class TaskTraining(Training):
    """One round: the autoencoder averaged over all sites, each head over those with its task."""

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return a site's loss terms, validation losses and images per task."""
        assert total is not None
        return _facts(self.run, total, images)

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state after the server optimiser's step."""
        assert pooled.update is not None and pooled.total is not None
        tasks = self.run.ontology.tasks
        factors = pooled_factors(pooled.total[TASK_IMAGES], pooled.images)
        schema = weight_schema(new_model(self.run))
        update = with_scaled_rows(schema, tasks, pooled.update, factors)
        server, weights = aggregation.apply(
            self.run.aggregation, state.server, state.weights, update
        )
        facts = _facts(self.run, pooled.total, pooled.images)
        parts = ("loss", "val", "task_images")
        own = {name: {part: noted[part] for part in parts} for name, noted in pooled.seen.items()}
        return replace(state, server=server, weights=weights), {**facts, "of_site": own}


def _facts(run: RunConfig, total: Sum, images: int) -> dict[str, Any]:
    names = sorted(run.ontology.tasks)
    losses, counts = total[f"{BEFORE}loss"], total[f"{BEFORE}images"]
    similar, seen = total[f"{BEFORE}ssim"]
    terms = {
        name.removeprefix(LOSS): float(array[0]) / max(1, images)
        for name, array in total.arrays.items()
        if name.startswith(LOSS)
    }
    validation = {
        name: float(loss) / float(count) if count > 0 else None
        for name, loss, count in zip(names, losses, counts, strict=True)
    }
    return {
        "loss": terms,
        "val": {"ssim": float(similar) / float(seen) if seen > 0 else None, "tasks": validation},
        "task_images": dict(zip(names, total[TASK_IMAGES].astype(int).tolist(), strict=True)),
    }


class TaskEvaluation(Evaluation):
    """Test figures per task, pooled and per site, with intervals by patient."""

    def note(self, total: Sum | None, images: int) -> dict[str, Any]:
        """Return a site's own figures."""
        assert total is not None
        return {"tasks": task_figures(self.run.ontology.tasks, total)}

    def finish(self, state: RunState, pooled: Pooled) -> tuple[RunState, dict[str, Any]]:
        """Return the state with the figures in its facts and the counts in its sums."""
        assert pooled.total is not None
        found = task_figures(self.run.ontology.tasks, pooled.total)
        per_site = {name: noted["tasks"] for name, noted in pooled.seen.items()}
        counts = {n: a for n, a in pooled.total.arrays.items() if "/replicate." not in n}
        facts = {**state.facts, "evaluate": {"tasks": found, "per_site": per_site}}
        brief = {row["task"]: row["macro_auc"] for row in found}
        return replace(state, facts=facts, sums={**state.sums, "evaluate": Sum(counts)}), {
            "test": brief
        }


def task_results(run: RunConfig, state: RunState) -> dict[str, Any]:
    """Return what server.json says of a pre-training beside what it says of every run."""
    found = state.facts["evaluate"]
    return {"pretraining": True, "tasks": found["tasks"], "per_site": found["per_site"]}
