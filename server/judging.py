"""The gates of a release: each agreed limit against the figure that a finished run has for it.

A gate passes, fails or is "not done": nothing was asked for, or there is nothing to judge. What is
not done never counts as passed; it holds the release back when a limit is set and the gate is not
`optional` (`strategies.gates`). The same function judges a release again when it is verified.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from mfm_core.errors import ConfigError
from mfm_core.report_words import number
from server.leak_audit import Attack, LeakAudit
from strategies.answers import CHOSEN
from strategies.config import RunConfig
from strategies.gates import End, GateName

Figures = Mapping[str, Any]
State = Literal["pass", "fail", "not done"]

REASON_LENGTH = 500
"""Longest reason for which a gate is accepted, characters."""

ENDS: dict[End, str] = {
    "low": "lower end of the 95 % interval",
    "value": "the value",
    "high": "upper end of the 95 % interval",
}


@dataclass(frozen=True)
class Verdict:
    """What one gate says.

    Attributes:
        gate: its name in run.yaml's `gates`.
        title: what it is about, for readers.
        asked: the limit in words.
        judged: which number of the figure is compared.
        found: the figure in words.
        state: pass, fail or not done.
        required: it holds the release back when it is not done.
        accepted: the reason for which the coordinator releases nonetheless; None without one.
    """

    gate: GateName
    title: str
    asked: str
    judged: str
    found: str
    state: State
    required: bool
    accepted: str | None = None

    @property
    def blocks(self) -> bool:
        """Whether the gate asks that nothing be released."""
        return self.state == "fail" or (self.state == "not done" and self.required)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "blocks": self.blocks}


@dataclass(frozen=True)
class _Found:
    """What there is to judge.

    Attributes:
        words: the figure for readers, or why there is none.
        numbers: what is compared; the worst decides.
        incomplete: something that should have been judged is missing.
    """

    words: str
    numbers: tuple[float, ...] = ()
    incomplete: bool = False


@dataclass(frozen=True)
class _Limit:
    """One agreed limit.

    Attributes:
        gate, title: as in `Verdict`.
        limit: None asks for nothing.
        end: which number of a figure is compared.
        largest: the limit is an upper one.
    """

    gate: GateName
    title: str
    limit: float | None
    end: End = "value"
    largest: bool = False


def judge(run: RunConfig, figures: Figures) -> tuple[Verdict, ...]:
    """Return what every gate says.

    Args:
        run: the agreed run.
        figures: metrics.json of the release, see `server.release_figures`.
    """
    agreed, optional = run.gates, run.gates.optional
    leak = figures.get("leak_audit")
    audit = LeakAudit.model_validate(leak) if leak is not None else None
    tpr = _Limit("leak_tpr", "Leak audit, hits at 1 % false alarms", agreed.max_leak_tpr,
                 agreed.leak_end, largest=True)  # fmt: skip
    auc = _Limit("leak_auc", "Leak audit, AUC of an attack", agreed.max_leak_auc,
                 agreed.leak_end, largest=True)  # fmt: skip
    gap = _Limit("subgroup_gap", "AUC gap between subgroups", agreed.max_subgroup_gap,
                 agreed.subgroup_gap_end, largest=True)  # fmt: skip
    spent = _Limit("epsilon", "Epsilon of any site", agreed.max_epsilon, largest=True)
    lowest = _Limit("class_auc", "AUC of the weakest class", agreed.min_class_auc)
    rows = (
        (_Limit("macro_auc", "Macro AUC", agreed.min_macro_auc, "low"), _macro(figures)),
        (lowest, _classes(run, figures)),
        (_Limit("ssim", "Redrawn images, SSIM", agreed.min_ssim), _ssim(figures)),
        (gap, _gaps(run, figures)),
        (spent, _epsilon(figures)),
        (tpr, _attacks(audit, agreed.leak_end, _hits)),
        (auc, _attacks(audit, agreed.leak_end, _strength)),
    )
    return (_status(run, figures), *(_verdict(limit, found, optional) for limit, found in rows))


def _verdict(limit: _Limit, found: _Found, optional: Sequence[str]) -> Verdict:
    sign = "at most" if limit.largest else "at least"
    return Verdict(
        gate=limit.gate,
        title=limit.title,
        asked="nothing" if limit.limit is None else f"{sign} {limit.limit:g}",
        judged=ENDS[limit.end],
        found=found.words,
        state=_state(limit, found),
        required=limit.limit is not None and limit.gate not in optional,
    )


def _state(limit: _Limit, found: _Found) -> State:
    """Return fail as soon as one number is beyond the limit, pass when all are there and within."""
    bound = limit.limit
    if bound is None:
        return "not done"
    kept = [n <= bound if limit.largest else n >= bound for n in found.numbers]  # never for NaN
    if not all(kept):
        return "fail"
    return "pass" if kept and not found.incomplete else "not done"


def _status(run: RunConfig, figures: Figures) -> Verdict:
    found, degraded = str(figures.get("status")), run.gates.allow_degraded
    missed = sum((figures.get("missed") or {}).values())
    words = f"{found}, {missed} answers missing" if found == "degraded" else found
    allowed = ("complete", "degraded") if degraded else ("complete",)
    return Verdict(
        gate="run_status",
        title="How the run ended",
        asked=" or ".join(allowed),
        judged="status",
        found=words,
        state="pass" if found in allowed else "fail",
        required=True,
    )


def _macro(figures: Figures) -> _Found:
    return _figure((figures.get("pooled") or {}).get("macro_auc"), "low")


def _ssim(figures: Figures) -> _Found:
    return _figure((figures.get("pooled") or {}).get("ssim"), "value")


def _figure(estimate: Figures | None, end: End) -> _Found:
    words, value = words_of(estimate), _number(estimate, end)
    if value is not None:
        return _Found(words, (value,))
    if _number(estimate, "value") is not None:
        return _Found(f"{words}; it has no interval (statistics.bootstrap_replicates)")
    return _Found("no test figure")


def _classes(run: RunConfig, figures: Figures) -> _Found:
    rows = (figures.get("pooled") or {}).get("per_class") or []
    found = {str(row.get("class")): row.get("auc") for row in rows}
    known = {
        name: value
        for name in run.ontology.classes
        if (value := _number(found.get(name), "value")) is not None
    }
    absent = [name for name in run.ontology.classes if name not in known]
    said = f"no test figure for {', '.join(absent)}" if absent else ""
    if not known:
        return _Found(said or "no test figure", (), incomplete=True)
    worst = min(known, key=lambda name: known[name])
    words = f"{worst}: {words_of(found[worst])}"
    numbers = tuple(known.values())
    return _Found(f"{words}; {said}" if said else words, numbers, incomplete=bool(absent))


def _gaps(run: RunConfig, figures: Figures) -> _Found:
    """Return the gaps of the mean AUC, one an attribute, for the head in use."""
    if not run.ontology.attributes:
        return _Found("no attribute is recorded")
    audit = figures.get("audit") or {}
    rows = (audit.get("subgroups") or {}).get(str(run.mitigation.use or CHOSEN)) or []
    found = {
        str(row["attribute"]): row["raw"]["auc"]
        for row in rows
        if row["kind"] == "gap" and row["class"] is None
    }
    end = run.gates.subgroup_gap_end
    known = {
        name: value
        for name in run.ontology.attributes
        if (value := _number(found.get(name), end)) is not None
    }
    absent = [name for name in run.ontology.attributes if name not in known]
    said = f"no gap with an interval for {', '.join(absent)}" if absent else ""
    if not known:
        return _Found(said, (), incomplete=True)
    worst = max(known, key=lambda name: known[name])
    words = f"{worst}: {words_of(found[worst])}"
    numbers = tuple(known.values())
    return _Found(f"{words}; {said}" if said else words, numbers, incomplete=bool(absent))


def _epsilon(figures: Figures) -> _Found:
    privacy = figures.get("privacy") or {}
    if privacy.get("training", "none") == "none":
        return _Found("trained without differential privacy")
    spent = privacy.get("largest_epsilon")
    if words := (privacy.get("spent") or {}).get("words"):
        return _Found(str(words), (math.inf if spent is None else float(spent),))
    if not isinstance(spent, int | float):
        return _Found("not every site that was asked to train has said what it spent")
    delta = privacy.get("delta")
    return _Found(f"{spent:.3g} at delta {delta:g}" if delta else f"{spent:.3g}", (float(spent),))


Pair = tuple[float, float | None]


def _hits(attack: Attack) -> Pair:
    return attack.tpr_at_1_fpr, attack.tpr_interval[1] if attack.tpr_interval else None


def _strength(attack: Attack) -> Pair:
    return attack.strength


def _attacks(audit: LeakAudit | None, end: End, pick: Callable[[Attack], Pair]) -> _Found:
    if audit is None or not audit.attacks:
        return _Found("no leak audit")
    pairs = {f"{a.name} (n {a.n}, {a.date})": pick(a) for a in audit.attacks}
    which = 1 if end == "high" else 0
    judged = {name: pair[which] for name, pair in pairs.items()}
    known = {name: value for name, value in judged.items() if value is not None}
    absent = len(judged) - len(known)
    said = f"{absent} without an interval" if absent else ""
    if not known:
        return _Found(said, (), incomplete=True)
    worst = max(known, key=lambda name: known[name])
    value, high = pairs[worst]
    reach = "" if high is None else f", at most {number(high, 3)}"
    words = f"{worst}: {number(value, 3)}{reach}"
    return _Found(f"{words}; {said}" if said else words, tuple(known.values()), bool(absent))


def _number(estimate: Figures | None, end: End) -> float | None:
    value = (estimate or {}).get(end)
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known and value is not None else None


def words_of(estimate: Figures | None) -> str:
    """Return `0.912 (0.889 to 0.931, n 320)`, or a dash."""
    value = _number(estimate, "value")
    if estimate is None or value is None:
        return "not defined"
    low, high = _number(estimate, "low"), _number(estimate, "high")
    ends = "" if low is None or high is None else f"{number(low, 3)} to {number(high, 3)}, "
    return f"{number(value, 3)} ({ends}n {estimate.get('n', '?')})"


def accept(verdicts: Sequence[Verdict], reasons: Mapping[str, str]) -> tuple[Verdict, ...]:
    """Return the verdicts with the reasons for which some are accepted; their states stay.

    Raises:
        ConfigError: no such gate, no reason, or a gate that does not hold the release back.
    """
    known = {verdict.gate: verdict for verdict in verdicts}
    problems = []
    for name, reason in reasons.items():
        if name not in known:
            problems.append(f"{name}: no such gate; there are {', '.join(get_args(GateName))}")
        elif not known[name].blocks:
            problems.append(f"{name}: does not hold the release back; leave it out")
        elif not reason.strip() or len(reason) > REASON_LENGTH or not reason.isprintable():
            problems.append(
                f"{name}: give a reason, one line of at most {REASON_LENGTH} characters"
            )
    if problems:
        raise ConfigError("--accept", problems)
    return tuple(
        replace(verdict, accepted=reasons[verdict.gate].strip()) if verdict.gate in reasons
        else verdict
        for verdict in verdicts
    )  # fmt: skip


def holding(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the gates that hold the release back and were not accepted."""
    return [verdict for verdict in verdicts if verdict.blocks and verdict.accepted is None]
