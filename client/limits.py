"""The hospital's own limits: what it answers at all, and which cells are too small to leave.

`check_request` runs before anything is computed. `check_patients` keeps a mean over too few
patients here. `guarded_latent_sum` leaves small cells out of a release, together with whatever
would let the reader subtract them back from what is released.
What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

import datetime
import fnmatch
import math
from collections.abc import Mapping

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from client.config import ANY, LimitsConfig
from mfm_core.config import OntologyConfig
from mfm_core.errors import LimitRefusal, NoiseTooLow, OutsideHours
from mfm_core.latent_sums import latent_sum
from mfm_core.sums import Array, Sum
from strategies.answers import with_suppressed
from strategies.plan import Kind
from strategies.privacy import PrivacyConfig
from strategies.wire import record_bytes

ROUNDING = 1e-9
"""Patients shared between cells give fractional counts; less than this is nobody."""


def check_request(limits: LimitsConfig, config_hash: str, kind: Kind, record: RecordDict) -> None:
    """Return if the site may answer.

    Raises:
        LimitRefusal: the run is not accepted, the exchange is not allowed, the message too big or
            the hour not one of this site's.
    """
    if ANY not in limits.accepted_runs and config_hash not in limits.accepted_runs:
        raise LimitRefusal(
            f"run {config_hash} is not in limits.accepted_runs; add its hash to take part"
        )
    if kind not in limits.allowed_kinds:
        raise LimitRefusal(f"{kind} is not in limits.allowed_kinds; add it to answer")
    if limits.hours is not None and not within_hours(limits.hours, datetime.datetime.now().time()):
        raise OutsideHours(f"this site works {limits.hours} only (limits.hours); ask again then")
    size = record_bytes(record)
    if size > limits.max_message_bytes:
        raise LimitRefusal(
            f"the message has {size} bytes, limits.max_message_mib allows "
            f"{limits.max_message_bytes}; raise it to take part"
        )


def check_privacy(limits: LimitsConfig, agreed: PrivacyConfig) -> None:
    """Return if the agreed run protects patients as this site asks.

    Raises:
        NoiseTooLow: less noise than the site's least, or DP-SGD that hides another unit; central
            DP hides both, with half its noise.
    """
    noise = agreed.patient_noise
    if noise < limits.min_noise_multiplier:
        raise NoiseTooLow(
            f"the run's noise multiplier for a patient is {noise:g}, limits.min_noise_multiplier "
            f"asks for {limits.min_noise_multiplier:g}; agree on more noise or lower the limit to "
            "take part"
        )
    if agreed.private_steps and agreed.unit != limits.privacy_unit:
        raise NoiseTooLow(
            f"the run hides one {agreed.unit}, limits.privacy_unit asks for {limits.privacy_unit}"
        )


def check_arrays(limits: LimitsConfig, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Return if a record of these arrays may leave; asked before any work and again at the door.

    Args:
        limits: the site's.
        kind: the exchange.
        shapes: array name to shape; the change of the weights is `model`.

    Raises:
        LimitRefusal: an array is not among the site's own names, or there are too many numbers.
    """
    patterns = next((p for k, p in limits.allowed_arrays.items() if k == kind), None)
    if patterns is not None:
        extra = [n for n in shapes if not any(fnmatch.fnmatchcase(n, p) for p in patterns)]
        if extra:
            raise LimitRefusal(f"{kind}: not in limits.allowed_arrays: {', '.join(sorted(extra))}")
    numbers = sum(math.prod(shape) for shape in shapes.values())
    most = next((most for k, most in limits.max_numbers.items() if k == kind), numbers)
    if numbers > most:
        raise LimitRefusal(f"{kind} has {numbers} numbers, limits.max_numbers allows {most}")


def check_norm(limits: LimitsConfig, update: NDArray[np.floating]) -> None:
    """Return if a change of the weights `[D]` may leave.

    It is refused, not made smaller: a clipped update is another one than was agreed, and nobody
    but this site would know. Clipping belongs into the agreed run.

    Raises:
        LimitRefusal: its norm is larger than the site allows.
    """
    norm = float(np.linalg.norm(update.astype(np.float64)))
    if limits.max_update_norm is not None and norm > limits.max_update_norm:
        raise LimitRefusal(
            f"the change of the weights has norm {norm:g}, limits.max_update_norm allows "
            f"{limits.max_update_norm:g}; nothing left"
        )


def within_hours(hours: str, now: datetime.time) -> bool:
    """Return whether a local time lies in `HH:MM-HH:MM`; the range may run over midnight."""
    first, last = (datetime.time.fromisoformat(text) for text in hours.split("-"))
    return first <= now < last if first < last else (now >= first or now < last)


def check_patients(limits: LimitsConfig, patients: NDArray[np.int64]) -> None:
    """Return if a mean over images of these patients `[N]` may leave.

    Raises:
        LimitRefusal: too few patients; the mean image of one patient is an image of that patient.
    """
    found = len(np.unique(patients))
    if found < limits.min_cell_count:
        raise LimitRefusal(
            f"the train split has {found} patients, limits.min_cell_count asks for "
            f"{limits.min_cell_count}; a mean image of so few may show one of them, so it stays "
            "here. Add patients or lower the limit to take part"
        )


def guarded_latent_sum(
    mu: NDArray[np.floating],
    cells: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    ontology: OntologyConfig,
    smallest: int,
) -> Sum:
    """Return the site's latent Sum in which every cell has no patient or at least `smallest`.

    A class with too few patients is left out of everything, the second moment included. An
    attribute cell that is too small becomes zeros; if the rest of its class could then be found by
    subtraction (class total minus the cells shown), the next smallest cells are zeroed as well.

    Args:
        mu: `[N, L]` latent means.
        cells: labels `[N]`, attributes `[N, A]`, patients `[N]`.
        ontology: classes and attributes.
        smallest: fewest patients of a cell that may leave.

    Returns:
        The Sum of `latent_sum` with "suppressed" `[1]`, the number of cells left out.
    """
    labels, attributes, patients = cells
    counts = latent_sum(mu, labels, attributes, patients, ontology)["class.count"]
    weak = np.flatnonzero((counts > 0) & (counts < smallest))
    kept = np.where(np.isin(labels, weak), -1, labels)
    total = latent_sum(mu, kept, attributes, patients, ontology)
    arrays, suppressed = {name: array.copy() for name, array in total.arrays.items()}, len(weak)
    for name in ontology.attributes:
        count, sums = arrays[f"attribute.{name}.count"], arrays[f"attribute.{name}.sum"]
        hidden = _cells_to_hide(count, total["class.count"], smallest)
        suppressed += int((hidden & (count > ROUNDING)).sum())
        count[hidden], sums[hidden] = 0.0, 0.0
    return with_suppressed(Sum(arrays), suppressed)


def _cells_to_hide(counts: Array, classes: Array, smallest: int) -> NDArray[np.bool_]:
    """Return which cells `[K, V]` must not leave, given the class totals `[K]` that do."""
    hide = counts < smallest - ROUNDING
    for row in range(len(counts)):
        order = [int(cell) for cell in np.argsort(counts[row]) if not hide[row, cell]]
        for cell in order:
            unseen = classes[row] - counts[row][~hide[row]].sum()
            if unseen < ROUNDING or unseen >= smallest - ROUNDING:
                break
            hide[row, cell] = True
    return hide
