"""How much the final model, its atlas and this site's updates tell about the site's patients.

Known attacks, made by the site on itself with its own images, under a time budget; what did not fit
in is named as not done. `leak_audit.json` in the state folder holds what was reached against the
release, without a patient: a site *may* hand it to the coordinator, whose `mfm-server release`
judges it. Nothing is sent by itself. A page and a record with all figures stay here.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import copy
import datetime
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from client.audit import Opened, open_audit
from client.audit import Request as Files
from client.config import load_site_run
from client.leak_attacks import (
    CANARIES,
    PASSES,
    REDRAWN,
    Row,
    Training,
    attack_canaries,
    attack_drawings,
    attack_gradients,
    attack_model,
    attack_sums,
    attack_with_shadows,
)
from client.report import read_results, refuse_other_run
from client.site import privacy_ledger_of
from mfm_core.checkpoint import weights_hash
from mfm_core.config import LearningConfig, canonical_hash
from mfm_core.errors import ConfigError
from mfm_core.leak_figures import Bounds, bounds_of
from mfm_core.leak_page import leak_page
from mfm_core.membership import Cohort, cohort_of, train_shadows
from mfm_core.report import finite
from mfm_core.training import Schedule, train
from mfm_core.whole_file import write_whole
from strategies.config import RunConfig
from strategies.gates import GatesConfig
from strategies.privacy import PrivacyConfig

LEAK_AUDIT, RECORD, PAGE = "leak_audit.json", "leaks.json", "leaks-stay-here.html"

SHADOWS = (16, 8, 4, 2)
LEAST_STEPS = 60
"""Fewest steps of a shadow model; with fewer it says nothing about the attacked one."""

USUAL_STEPS = 300
MATCHING = 60
"""Steps of gradient matching per image where there is time."""

UNITS = 100

Show = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """What is to be attacked.

    Attributes:
        config: the site's settings, site.yaml.
        minutes: time budget, > 0; the cheap attacks are made whatever it is.
        results: the coordinator's results.json or server.json, for its final_hash; may be None.
        model, atlas, out: as in `client.audit.Request`.
    """

    config: Path
    minutes: float = 10.0
    results: Path | None = None
    model: Path | None = None
    atlas: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Leaks:
    """Where the audit was written and what it says."""

    gate_file: Path
    page: Path
    content: dict[str, Any]

    @property
    def shown(self) -> bool:
        """Whether a leak beyond an agreed limit is shown."""
        return any(row["verdict"] == "leaks" for row in self.content["attacks"])


@dataclass
class _Work:
    """What is known while the attacks are made; `scoring_s` is what scoring all patients takes."""

    opened: Opened
    cohort: Cohort
    training: Training
    run: RunConfig | None
    ends: float
    show: Show
    scoring_s: float = 0.0
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.ends - time.monotonic()


def audit_leaks(asked: Asked, show: Show | None = None) -> Leaks:
    """Make the attacks and write what they reached.

    Raises:
        ConfigError: settings or results cannot be used, or belong to another run.
        CheckpointError: there is no model or atlas yet, or they do not belong together.
        DataError: too few patients on one side.
    """
    tell, started = show or (lambda done, total: None), time.monotonic()
    tell(0, UNITS)
    results = read_results(asked.results)
    files = Files(asked.config, (), asked.model, asked.atlas, asked.out)
    opened = open_audit(files)
    refuse_other_run(opened.atlas, results, asked.results)
    run = _agreed_run(opened)
    training = Training(
        run.learning if run else LearningConfig(), run.privacy if run else PrivacyConfig()
    )
    cohort = cohort_of(opened.images)
    work = _Work(opened, cohort, training, run, started + 60 * asked.minutes, tell)
    bound = _bound(work)
    _attack(work, bound)
    content = _content(work, results, asked, bound)
    gates = {key: content[key] for key in ("final_hash", "weights_hash")}
    gates["attacks"] = [gate_row(row) for row in work.rows if row.judged]
    out = asked.out or opened.config.state_folder / "audit"
    write_whole(out / RECORD, _json(content))
    page = write_whole(out / PAGE, leak_page(content).encode())
    gate_file = write_whole((asked.out or opened.config.state_folder) / LEAK_AUDIT, _json(gates))
    tell(UNITS, UNITS)
    return Leaks(gate_file, page, content)


def _agreed_run(opened: Opened) -> RunConfig | None:
    """Return the agreed run of the model; None where the site holds no copy of any run.

    Raises:
        ConfigError: the site's copy is of another run.
    """
    path = opened.config.run
    if path is None or not path.is_file():
        return None
    run, wanted = load_site_run(opened.config), opened.atlas.config_hash
    found = canonical_hash(run)
    if wanted and found != wanted:
        raise ConfigError(str(path), [
            f"is run {found[:12]}, the model here is of run {wanted[:12]}; name model and atlas of "
            "the same run with --model and --atlas, or put its run.yaml here"
        ])  # fmt: skip
    return run


def _bound(work: _Work) -> Bounds | None:
    """Return what the site's privacy ledger guarantees for the attacked model."""
    config, wanted = work.opened.config, work.opened.atlas.config_hash
    ledger = privacy_ledger_of(config)
    if not work.training.privacy.private or not ledger.path.is_file():
        return None
    reading = ledger.read()
    spends = [spend for spend in reading.spends if spend.run == wanted]
    if reading.problems or not spends or {spend.unit for spend in spends} != {"patient"}:
        work.missing.append("bound of epsilon: the privacy ledger has no whole list of this run "
                            "by patient")  # fmt: skip
        return None
    work.more["epsilon"] = {
        "epsilon": reading.epsilon(work.training.privacy.delta, wanted),
        "delta": work.training.privacy.delta,
        "unit": "patient",
        "noise": sorted({spend.noise for spend in spends}),
    }
    return bounds_of([spend.spending for spend in spends])


def _attack(work: _Work, bound: Bounds | None) -> None:
    """Make every attack that fits into the time, the cheap ones first."""
    started = time.monotonic()
    work.rows += attack_model(work.opened, work.cohort, bound)
    work.scoring_s = time.monotonic() - started
    work.show(5, UNITS)
    masked = work.run is not None and work.run.secure_sum.enabled
    rows, missing = attack_sums(work.opened, work.cohort, masked)
    work.rows += rows
    work.missing += missing
    work.more["drawings"] = attack_drawings(work.opened, work.cohort)
    work.show(10, UNITS)
    if work.run is None:
        work.missing.append("the agreed run is not here (site.yaml, run): usual settings of "
                            "training were taken for updates, canaries and shadows")  # fmt: skip
    step_s = _step_seconds(work)
    _gradients(work, step_s)
    work.show(25, UNITS)
    _canaries(work, step_s)
    work.show(40, UNITS)
    _shadows(work, step_s, bound)


def _step_seconds(work: _Work) -> float:
    """Return what one plain training step takes, about."""
    model, images = copy.deepcopy(work.opened.model), work.opened.images
    rows, times = images.select("train"), []
    for _ in range(2):
        started = time.monotonic()
        train(model, images, rows, work.training.learning, schedule=Schedule(0, 2), steps=2, seed=0)
        times.append((time.monotonic() - started) / 2)
    return min(times)


def _gradients(work: _Work, step_s: float) -> None:
    """Invert gradients where about a quarter of the time allows it."""
    round_steps = work.training.learning.training.steps_per_round
    private = 2.0 if work.training.privacy.private_steps else 1.0
    spare = work.left / 4 - private * round_steps * step_s
    if spare <= 0:
        work.missing.append("gradient inversion: no time left; give more --minutes")
        return
    matching = int(min(MATCHING, spare / (REDRAWN + 1) / step_s))
    if matching == 0:
        work.missing.append("gradient matching: no time left; the closed form alone was tried")
    found = attack_gradients(work.opened, work.cohort, work.training, (matching, round_steps))
    single = [asdict(each) for each in found.single]
    work.more["inversion"] = {
        "single": single,
        "update": asdict(found.update),
        "matching_steps": matching,
        "round_steps": round_steps,
    }


def _canaries(work: _Work, step_s: float) -> None:
    batch = work.training.learning.training.batch_size
    private = 2.0 if work.training.privacy.private_steps else 1.0
    least = max(2 * PASSES * CANARIES // batch, work.training.learning.training.steps_per_round)
    if private * least * step_s > work.left / 3:
        work.missing.append("canaries: no time left; give more --minutes")
        return
    found = attack_canaries(work.opened, work.training, least)
    work.rows += found.rows
    work.more["canaries"] = {
        "inserted": CANARIES,
        "images_beside": found.images,
        "steps": found.steps,
        "bits": found.exposure.bits,
        "most_bits": found.exposure.most_bits,
        "chance_bits": found.exposure.chance_bits,
    }


def _shadows(work: _Work, step_s: float, bound: Bounds | None) -> None:
    """Train and score as many shadow models as the time allows, at least two."""
    run = work.run
    full = run.rounds * run.learning.training.steps_per_round if run else USUAL_STEPS
    least = min(full, LEAST_STEPS)

    def affordable(count: int) -> float:
        return (work.left / count - work.scoring_s) / step_s

    count = next((n for n in SHADOWS if affordable(n) >= full), 0)
    count = count or next((n for n in SHADOWS[2:] if affordable(n) >= least), 0)
    if count == 0:
        work.missing.append("LiRA and its control: no time for shadow models; give more --minutes")
        return
    steps = int(min(full, max(least, affordable(count))))
    if steps < full:
        work.missing.append(f"shadow models had {steps} steps each, the attacked model {full}")
    span = UNITS - 41
    shadows = train_shadows(
        work.opened.model, work.cohort, work.training.learning, (count, steps), 0,
        lambda done: work.show(40 + span * done // count, UNITS),
    )  # fmt: skip
    work.rows += attack_with_shadows(work.opened, work.cohort, shadows, bound)
    work.more["shadows"] = {"count": count, "steps": steps}


def _content(
    work: _Work, results: dict[str, Any], asked: Asked, bound: Bounds | None
) -> dict[str, Any]:
    """Return everything that was found, for record, page and tables."""
    gates = work.run.gates if work.run else GatesConfig()
    cohort = work.cohort
    drawings = [row["p"] for row in work.more["drawings"] if "p" in row]
    return dict(finite({
        "site": work.opened.config.name,
        "date": datetime.date.today().isoformat(),
        "final_hash": results.get("final_hash"),
        "weights_hash": weights_hash(work.opened.model),
        "config_hash": work.opened.atlas.config_hash,
        "members": int(cohort.member.sum()),
        "others": int((~cohort.member).sum()),
        "shared": cohort.shared,
        "masked": work.run is not None and work.run.secure_sum.enabled,
        "atlas_patients": float(work.opened.atlas.counts.sum()),
        "latent_size": work.opened.atlas.latent_size,
        "private": work.training.privacy.private,
        "bound": asdict(bound) if bound else None,
        "limits": {"auc": gates.max_leak_auc, "tpr": gates.max_leak_tpr, "end": gates.leak_end},
        "attacks": [{**asdict(row), "verdict": verdict(row, gates)} for row in work.rows],
        "nearest_p": min(1.0, min(drawings) * len(drawings)) if drawings else None,
        "minutes": asked.minutes,
        "missing": work.missing,
        **work.more,
    }))  # fmt: skip


def verdict(row: Row, gates: GatesConfig) -> str:
    """Return what an attack says of the agreed limits.

    "leaks": the interval lies beyond a limit (where the gates judge the value: the value does).
    "within": it lies inside both. "open": the patients are too few to say. "": not judged.
    """
    if not row.judged:
        return ""
    low, high = row.strength.auc_interval
    value, hits = row.strength.auc, row.strength.hits[0]
    if gates.leak_end == "value":
        low = high = value
    worst = hits.interval if gates.leak_end == "high" else (hits.value, hits.value)
    # an attack that is wrong more often than right tells as much as one that is right
    if max(low, 1 - high) > gates.max_leak_auc or worst[0] > gates.max_leak_tpr:
        return "leaks"
    inside = max(high, 1 - low) <= gates.max_leak_auc and worst[1] <= gates.max_leak_tpr
    return "within" if inside else "open"


def gate_row(row: Row) -> dict[str, Any]:
    """Return a row as `mfm-server release` reads it."""
    hits = row.strength.hits[0]
    return {
        "name": row.name,
        "auc": row.strength.auc,
        "auc_interval": list(row.strength.auc_interval),
        "tpr_at_1_fpr": hits.value,
        "tpr_interval": list(hits.interval),
        "n": row.strength.members + row.strength.others,
        "date": datetime.date.today().isoformat(),
    }


def _json(content: Any) -> bytes:
    plain = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, default=_number)
    return f"{plain}\n".encode()


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)
