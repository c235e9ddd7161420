"""The figures of a table: scores of a split's finished folds pooled, and what the goals make of it.

Scores of different folds come from different models; they are pooled as log-probabilities. A row
says how many folds it holds. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.evaluation import Metrics, metric_sum, metrics_from
from simulation.config import expected_sites
from simulation.table import ModelKind, TableCell, TableConfig, TablePlan
from simulation.table_models import Lesson, ScoreJob, Scores, jobs_of, open_lesson, read_scores

PAPER: dict[str, tuple[float, float, float, float]] = {
    "Astrocitoma": (1.0, 1.0, 1.0, 0.1253),
    "Carcinoma": (1.0, 1.0, 1.0, 0.0425),
    "Ependimoma": (1.0, 1.0, 1.0, 0.0291),
    "Ganglioglioma": (1.0, 1.0, 0.9412, 0.0179),
    "Germinoma": (1.0, 1.0, 0.9630, 0.0291),
    "Glioblastoma": (1.0, 1.0, 1.0, 0.0537),
    "Granuloma": (1.0, 1.0, 1.0, 0.0112),
    "Meduloblastoma": (1.0, 1.0, 0.9630, 0.0313),
    "Meningioma": (0.9982, 0.9955, 0.9836, 0.2036),
    "Neurocitoma": (1.0, 1.0, 0.9863, 0.0828),
    "Oligodendroglioma": (1.0, 1.0, 1.0, 0.0604),
    "Papiloma": (0.9996, 0.9940, 0.9787, 0.0537),
    "Schwannoma": (0.9990, 0.9934, 0.9792, 0.1096),
    "Tuberculoma": (0.9997, 0.9911, 0.9630, 0.0313),
    "_NORMAL": (1.0, 1.0, 0.9907, 0.1186),
}
"""Class: AUC, AP, F1, rate; the paper's Table 1 (its own random validation split, n not given)."""

PERSONAL = "personal"
SITE_MARGIN = 0.01


@dataclass(frozen=True)
class Row:
    """One model under one split.

    Attributes:
        variant, split: where it was measured.
        model: its kind, or "personal" for the federated encoder with each hospital's own choice.
        folds: finished folds; their test images are in the figures.
        of: folds that the table asks for.
        steps, parameters: of one model; 0 where there are none.
        metrics: figures on the pooled test images.
        draws: whether it reconstructs, so that SSIM means something.
    """

    variant: str
    split: str
    model: str
    folds: int
    of: int
    steps: int
    parameters: int
    metrics: Metrics
    draws: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the row for table.json."""
        figures = self.metrics.to_dict()
        if not self.draws:
            figures["ssim"] = None
        kept = {key: value for key, value in vars(self).items() if key not in ("metrics", "draws")}
        return {**kept, **figures}


@dataclass(frozen=True)
class SiteRow:
    """One hospital of one fold on its own test images: macro AUC of four models; None undefined."""

    cell: str
    site: str
    n: int
    alone: float | None
    federated: float | None
    kept: float | None
    own_head: bool
    reason: str

    @property
    def loss(self) -> float | None:
        """How far what the site uses stays below its own model; None where not defined."""
        return None if self.alone is None or self.kept is None else self.alone - self.kept


@dataclass(frozen=True)
class Pooled:
    """The test images of some folds in one."""

    scores: list[NDArray[np.float32]]
    lessons: list[Lesson]
    ssim: list[NDArray[np.float32]]

    def metrics(self, config: TableConfig) -> Metrics:
        """Return the figures; patients of different folds are different ones."""
        labels, patients, start = [], [], 0
        for lesson in self.lessons:
            labels.append(lesson.images.labels[lesson.test])
            patients.append(lesson.images.patients[lesson.test] + start)
            start += int(lesson.images.patients.max()) + 1
        logits, true = np.concatenate(self.scores), np.concatenate(labels)
        ssim = np.concatenate(self.ssim) if self.ssim else np.zeros(len(true), np.float32)
        known = torch.log_softmax(torch.from_numpy(logits).double(), dim=1).numpy()
        total = metric_sum(known, true, ssim, np.concatenate(patients), config.replicates, seed=0)
        return metrics_from(total, self.lessons[0].run.ontology.classes)


class Finished:
    """Reads what the jobs of a table have left; every cell's images are opened once."""

    def __init__(self, folder: Path, plan: TablePlan) -> None:
        self._folder, self._plan = folder, plan
        self._lessons: dict[str, Lesson] = {}

    def lesson(self, cell: TableCell) -> Lesson:
        """Return the images of a cell."""
        if cell.name not in self._lessons:
            self._lessons[cell.name] = open_lesson(self._folder / cell.name)
        return self._lessons[cell.name]

    def jobs(self, cell: TableCell, kind: ModelKind) -> list[ScoreJob]:
        """Return the jobs of a model, none unless all of them are finished."""
        sites = expected_sites(cell.study) or 1
        jobs = jobs_of(cell, self._folder / cell.name, kind, sites)
        return jobs if all(job.result.is_file() for job in jobs) else []

    def rows(self, variant: str, split: str) -> list[Row]:
        """Return a row per model that any fold of the split has finished."""
        found = []
        for kind in self._plan.config.models:
            if kind != "local":
                found += self._rows_of(variant, split, kind)
        return found

    def _rows_of(self, variant: str, split: str, kind: ModelKind) -> list[Row]:
        cells = [c for c in self._plan.part(variant, split) if self.jobs(c, kind)]
        if not cells:
            return []
        jobs = [self.jobs(cell, kind)[0] for cell in cells]
        facts, scores = _facts(jobs[0]), [read_scores(job) for job in jobs]
        lessons, of = [self.lesson(cell) for cell in cells], self._plan.config.splits[split].folds
        draws = all(len(part.ssim) for part in scores)
        ssim = [part.ssim for part in scores] if draws else []
        kinds: list[tuple[str, list[NDArray[np.float32]]]] = [(kind, [s.logits for s in scores])]
        if kind == "federated" and any(p["own"] for job in jobs for p in _facts(job)["personal"]):
            kinds.append((PERSONAL, [s.personal for s in scores]))
        counts = int(facts["steps"]), int(facts.get("parameters", 0))
        return [
            Row(
                variant=variant,
                split=split,
                model=name,
                folds=len(cells),
                of=of,
                steps=counts[0],
                parameters=counts[1],
                metrics=Pooled(logits, lessons, ssim).metrics(self._plan.config),
                draws=draws,
            )
            for name, logits in kinds
        ]

    def sites(self) -> list[SiteRow]:
        """Return every hospital of every cell whose local and federated models are finished."""
        rows: list[SiteRow] = []
        for cell in self._plan.cells:
            federated, local = self.jobs(cell, "federated"), self.jobs(cell, "local")
            if federated and local:
                rows += self._sites_of(cell, federated[0], local)
        return rows

    def _sites_of(
        self, cell: TableCell, federated: ScoreJob, local: Sequence[ScoreJob]
    ) -> list[SiteRow]:
        lesson, common = self.lesson(cell), read_scores(federated)
        rows = []
        for site, (job, decided) in enumerate(
            zip(local, _facts(federated)["personal"], strict=True)
        ):
            mine = lesson.sites == site
            told: list[Scores | NDArray[np.float32]] = [read_scores(job).logits]
            told += [common.logits, common.personal]
            alone, shared, kept = (self._auc(lesson, mine, logits) for logits in told)
            rows.append(
                SiteRow(
                    cell=cell.name,
                    site=lesson.names[site],
                    n=int(mine.sum()),
                    alone=alone,
                    federated=shared,
                    kept=kept,
                    own_head=bool(decided["own"]),
                    reason=str(decided["reason"]),
                )
            )
        return rows

    def _auc(self, lesson: Lesson, mine: NDArray[np.bool_], logits: Any) -> float | None:
        rows = lesson.test[mine]
        labels, patients = lesson.images.labels[rows], lesson.images.patients[rows]
        empty = np.zeros(len(rows), np.float32)
        total = metric_sum(logits[mine], labels, empty, patients, 0, seed=0)
        return metrics_from(total, lesson.run.ontology.classes).macro_auc.value


def missing(folder: Path, plan: TablePlan) -> list[str]:
    """Return the models that are not finished, "cell: model"."""
    finished = Finished(folder, plan)
    return [
        f"{cell.name}: {kind}"
        for kind in plan.config.models
        for cell in plan.cells
        if not finished.jobs(cell, kind)
    ]


def goals_of(config: TableConfig, rows: Sequence[Row], sites: Sequence[SiteRow]) -> list[str]:
    """Return every goal with what was found, in words; only for a table beside the paper's."""
    if not config.paper:
        return []
    macro = {(row.split, row.model): row.metrics.macro_auc.value for row in rows}
    lines = []
    for split, entry in config.splits.items():
        bound = 0.999 if entry.leaky else 0.95
        for model in ("pooled", "federated"):
            found = macro.get((split, model))
            lines.append(_goal(f"{split}, {model}: macro AUC at least {bound}", found, bound))
        whole, shared = macro.get((split, "pooled")), macro.get((split, "federated"))
        ratio = shared / whole if whole and shared else None
        lines.append(_goal(f"{split}: federated over pooled at least 0.99", ratio, 0.99))
    losses = [site.loss for site in sites if site.loss is not None]
    worst = max(losses) if losses else None
    what = f"no hospital more than {SITE_MARGIN} below its own model with the head it keeps"
    if worst is None:
        return [*lines, f"not measured: {what}"]
    count = sum(loss > SITE_MARGIN for loss in losses)
    verdict = "met" if worst <= SITE_MARGIN else "missed"
    return [*lines, f"{verdict}: {what} (worst {worst:+.3f}; {count} of {len(losses)} beyond)"]


def _goal(what: str, found: float | None, bound: float) -> str:
    if found is None:
        return f"not measured: {what}"
    return f"{'met' if found >= bound else 'missed'}: {what} ({found:.4f})"


def _facts(job: ScoreJob) -> dict[str, Any]:
    return dict(json.loads(job.result.read_text(encoding="utf-8")))
