"""Replies of one exchange: each checked by `wire`, then added exactly, one at a time.

The order of arrival never matters (fixed-point integers) and memory does not grow with the number
of sites. What crosses the hospital's boundary: nothing here; replies are records of `wire`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from mfm_core.errors import UpdateRejected
from mfm_core.sums import Accumulator, Array, Schema, Sum
from mfm_core.tasks import Tasks
from strategies import wire
from strategies.answers import VALIDATION, Answer
from strategies.central_noise import WITHIN
from strategies.checks import check_audit, check_heads
from strategies.config import AggregationConfig
from strategies.plan import Kind, Step
from strategies.privacy import PRIVATE_WEIGHT
from strategies.robust import bounded, combined
from strategies.rounds import Site
from strategies.scaffold import CONTROL, check_control
from strategies.secure_payload import SecureSumConfig
from strategies.task_answers import check_task_counts, check_task_rows

ROUNDING = 1e-6
COUNTED = ("confusion", "histogram", "replicate.confusion", "replicate.histogram", "correct",
           "images", "suppressed", "spent")  # fmt: skip
"""Names, without "val.", of the arrays that count; names that end in ".count" do so as well."""


@dataclass(frozen=True)
class Pooled:
    """What all accepted replies of one exchange add up to.

    Attributes:
        images: images behind the replies.
        update: `[D] float64`, mean change of the weights by images; None when none was asked for.
        total: the merged Sum, or None.
        of_site: what the phase noted of each site's own reply, by name; under a secure sum, where
            nobody sees one, nothing.
        norm: root mean square of the sites' update norms, where a secure sum quantises; else 0.
        masked: sites whose answers a secure sum added up; 0 where single replies are seen.
    """

    images: int
    update: Array | None
    total: Sum | None
    of_site: Mapping[str, dict[str, Any]]
    norm: float = 0.0
    masked: int = 0

    @property
    def sites(self) -> int:
        """Return how many sites' answers this adds up."""
        return self.masked or len(self.of_site)

    @property
    def seen(self) -> Mapping[str, dict[str, Any]]:
        """Return what was noted of single replies, by name; nothing where none could be seen."""
        return {name: noted for name, noted in self.of_site.items() if set(noted) - {"images"}}


@dataclass(frozen=True)
class Identity:
    """What every message of a run carries, and the limits of what a site may send.

    Attributes:
        config_hash: of the agreed run.
        code_hash: of the code in the bundle.
        schema: names and shapes of the weights.
        update: names and shapes of what a training reply changes.
        limits: largest weight and norm of a site.
        admitted: names that a site may introduce itself with; empty admits any (simulation).
        secure: how single answers stay masked; None where the server sees them.
        tasks: of a multi-task pre-training; empty in every other run.
    """

    config_hash: str
    code_hash: str
    schema: Schema
    update: Schema
    limits: AggregationConfig
    admitted: tuple[str, ...] = ()
    secure: SecureSumConfig | None = None
    tasks: Tasks = field(default_factory=dict)

    def compose(self, step: Step, payload: wire.Payload, about: str = "") -> RecordDict:
        """Return the server's message of one step."""
        header = wire.Header(step.kind, step.round, self.config_hash, self.code_hash, about=about)
        return wire.encode(header, payload, self.schema, wire.SHARED_BYTES)

    def expect(self, step: Step, answer: Answer, site: str | None) -> wire.Expected:
        """Return what a site's reply to one step must be; private updates all weigh the same."""
        private = answer.protection.level == "formal"
        most = PRIVATE_WEIGHT if private else self.limits.max_site_images
        longest = self.limits.max_update_norm if answer.clip is None else answer.clip
        return wire.Expected(
            kind=step.kind,
            round=step.round,
            config_hash=self.config_hash,
            code_hash=self.code_hash,
            model=self.update if answer.update else None,
            total=answer.total,
            sealed=answer.sealed,
            site=site,
            images=(int(answer.update), most),
            max_norm=longest if answer.update else None,
        )


def check_counts(kind: Kind, total: Sum, images: int, largest: int) -> None:
    """Refuse a site's Sum whose counts cannot come from the images it declares.

    Args:
        kind: the exchange (for mitigate and audit see `checks`); a training reply declares its
            training images, while its validation counts are of other images, so that those are
            bound by `largest` alone.
        total: the site's own Sum.
        images: declared images behind the reply.
        largest: agreed most images of a site.

    Raises:
        UpdateRejected: "counts".
    """
    for name, array in total.arrays.items():
        part = name.removeprefix(VALIDATION)
        if part.startswith(COUNTED) or part.endswith(".count"):
            _require(float(array.min(initial=0.0)) >= -ROUNDING, f"{name}: a count is negative")
    most = float(largest if kind == "train" else images)
    sums = {name: float(array.sum()) for name, array in total.arrays.items()}
    for name in ("confusion", f"{VALIDATION}confusion", "class.count", "images"):
        found = sums.get(name, 0.0)
        _require(found <= most + ROUNDING, f"{name}: found {found:g}, expected at most {most:g}")
    for name in (name for name in sums if name.endswith("patch.count")):
        _require(abs(sums[name] - images) <= ROUNDING, f"{name}: expected {images} images")
    for name in (name for name in sums if name.endswith(".count") and "attribute." in name):
        rows, cells = total[name].sum(axis=1), total["class.count"]
        _require(bool((rows <= cells + ROUNDING).all()), f"{name}: more patients than the class")
    for prefix in [name.removesuffix("confusion") for name in sums if name.endswith("confusion")]:
        if f"{prefix}histogram" in sums and not prefix.endswith("replicate."):
            _check_metrics(total, prefix, most)


def _check_metrics(total: Sum, prefix: str, most: float) -> None:
    """Require that histograms, confusion matrix and SSIM count the same pictures."""
    confusion, histogram = total[f"{prefix}confusion"], total[f"{prefix}histogram"]
    similar, seen = total[f"{prefix}ssim"]
    labelled, own = confusion.sum(), confusion.sum(axis=1)
    counted = np.stack([labelled - own, own], axis=1)
    fits = bool((np.abs(histogram.sum(axis=-1) - counted) <= ROUNDING).all())
    _require(fits, f"{prefix}histogram: counts other images than the confusion matrix")
    _require(labelled <= seen + ROUNDING, f"{prefix}confusion: more images than were seen")
    _require(-ROUNDING <= seen <= most + ROUNDING, f"{prefix}ssim: expected at most {most:g}")
    _require(abs(similar) <= seen + ROUNDING * (1 + seen), f"{prefix}ssim: outside -1 to 1")


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise UpdateRejected("counts", text)


def check_name(identity: Identity, site: str, known: Collection[str]) -> None:
    """Refuse a reply in a name that is not admitted, or that has replied already.

    Raises:
        UpdateRejected: "site".
    """
    if identity.admitted and site not in identity.admitted:
        raise UpdateRejected("site", f"{site} is not admitted")
    if site in known:
        raise UpdateRejected("site", f"a second reply in the name of {site}")


class Collector:
    """Checks replies and adds them exactly, in any order, in memory that no site adds to.

    Image count, weighted update and Sum of a reply are added as one vector, so a reply is added
    as a whole or not at all. Where the agreed aggregation looks at single updates they are kept.
    """

    def __init__(
        self,
        identity: Identity,
        step: Step,
        answer: Answer,
        note: Callable[[Sum | None, int], dict[str, Any]],
    ) -> None:
        self._identity, self._step, self._answer, self._note = identity, step, answer, note
        self._size = wire.model_size(identity.update) if answer.update else 0
        sums = wire.model_size(answer.total) if answer.total is not None else 0
        self._adder = Accumulator(1 + self._size + sums)
        self._of_site: dict[str, dict[str, Any]] = {}
        self._updates: dict[str, NDArray[np.float32]] = {}
        self.names: dict[int, str] = {}

    def add(self, site: Site, record: RecordDict) -> None:
        """Check one reply and add it.

        Raises:
            UpdateRejected: a check failed or the name is taken; nothing was added.
        """
        expected = self._identity.expect(self._step, self._answer, site.name or None)
        header, payload = wire.decode(record, expected)
        check_name(self._identity, header.site, self._of_site)
        if payload.total is not None:
            self._check(payload.total, header.num_images)
            self._check_tasks(payload, header.num_images)
        parts = [np.array([float(header.num_images)])]
        if payload.model is not None:
            parts.append(payload.model.astype(np.float64) * header.num_images)
        if payload.total is not None:
            parts.append(payload.total.flatten())
        noted = self._note(payload.total, header.num_images)
        try:
            self._adder.add(np.concatenate(parts))
        except ValueError:
            raise UpdateRejected("size", "a number is too large to be added exactly") from None
        self._of_site[header.site] = {"images": header.num_images, **noted}
        if payload.model is not None and self._identity.limits.inspects:
            self._updates[header.site] = payload.model.copy()
        self.names[site.node_id] = header.site

    def _check(self, total: Sum, images: int) -> None:
        """Refuse a Sum that the declared images cannot give."""
        kind, limits = self._step.kind, self._identity.limits
        if self._answer.total == WITHIN:
            bit = float(total[WITHIN[0][0]][0])
            _require(abs(bit) == 0.5, f"{WITHIN[0][0]}: expected 0.5 or -0.5, found {bit:g}")
        elif kind == "audit":
            check_audit(total, images)
        elif kind == "mitigate":
            check_heads(total, images, limits.max_update_norm)
        else:
            check_counts(kind, total, images, limits.max_site_images)
        if CONTROL in total.arrays:
            check_control(total, images, limits.max_update_norm)

    def _check_tasks(self, payload: wire.Payload, images: int) -> None:
        """Refuse a training reply that moves the head of a task its site says it has not."""
        tasks, total = self._identity.tasks, payload.total
        if tasks and payload.model is not None and total is not None:
            check_task_counts(total, images, self._identity.limits.max_site_images)
            check_task_rows(tasks, self._identity.schema, payload.model, total)

    def result(self) -> Pooled:
        """Return what has been added so far."""
        flat = self._adder.result()
        images = flat[0]
        update = flat[1 : 1 + self._size] / max(images, 1.0) if self._answer.update else None
        if self._updates:
            rows = [self._updates[name] for name in sorted(self._updates)]
            limits = self._identity.limits
            update = combined(bounded(rows, limits.norm_bound), limits.combine, limits.trim)
        total = None
        if self._answer.total is not None:
            total = Sum.unflatten(self._answer.total, flat[1 + self._size :])
        return Pooled(round(images), update, total, dict(sorted(self._of_site.items())))
