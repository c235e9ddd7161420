"""One round on the site's own images through the real client app, and nothing sent.

Every message of the agreed run goes through `client.app` as in a real run, limits and outbox
included, into a state folder that is thrown away; the real ledger is not touched. What the outbox
lets through is listed tensor by tensor and written to files for inspection.
What crosses the hospital's boundary: nothing. The files hold what *would* cross it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import central_round
from client.app import app
from client.config import SiteConfig, public_pictures
from client.local_coordinator import LocalCoordinator
from client.private_release import forecast_words
from client.private_round import count_units, planned_spend
from client.site import CACHE, LOG, Site, open_site
from mfm_core.accounting import epsilon_of
from mfm_core.checkpoint import save_arrays
from mfm_core.config import canonical_hash, dump_yaml
from mfm_core.discrete_noise import gaussian_epsilon
from mfm_core.errors import MfmError
from mfm_core.whole_file import write_whole
from strategies import wire
from strategies.answers import answer_of
from strategies.central_noise import clip_of
from strategies.code_hash import code_hash
from strategies.config import RunConfig
from strategies.plan import MESSAGE_TYPES, ROUNDED, Kind, Step, plan_of
from strategies.privacy import label_of
from strategies.secure_payload import SecureSumConfig

MOST_IMAGES = 10**9
VALUES_SHOWN = 8
"""Arrays of at most so many numbers are shown in full."""


@dataclass(frozen=True)
class Tensor:
    """One array that would leave.

    Attributes:
        name, shape: as agreed.
        bytes: as it travels.
        norm: L2.
        values: its numbers where there are few, else empty.
    """

    name: str
    shape: tuple[int, ...]
    bytes: int
    norm: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Exchange:
    """One exchange of the run.

    Attributes:
        kind, round: which; only the first of several is played.
        times: how often it comes in the run.
        outcome: "leaves", "leaves nothing", "refused" or "not made".
        reason: why it was refused or not made, for the site only.
        images: images behind the answer.
        bytes: of one answer's arrays.
        suppressed: cells that leave as zeros because they hold too few patients; None where no
            cells are counted.
        mechanism: what protects patients beyond adding up, or "none".
        epsilon: of differential privacy, or "none".
        tensors: what the answer holds.
        files: written for inspection, relative to the folder.
        forecast: of a private atlas, how good its axes would be; empty for other exchanges.
    """

    kind: str
    round: int
    times: int
    outcome: str
    reason: str = ""
    images: int = 0
    bytes: int = 0
    suppressed: int | None = None
    mechanism: str = "none"
    epsilon: str = "none"
    tensors: tuple[Tensor, ...] = ()
    files: tuple[str, ...] = ()
    forecast: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def rehearse(
    config: SiteConfig, run: RunConfig, out: Path, show: Callable[[int, int], None]
) -> tuple[Exchange, ...]:
    """Play every kind of exchange of the agreed run once; return what would leave.

    Args:
        config: the site's settings.
        run: the agreed run.
        out: folder for the messages; those of an earlier dry run are replaced.
        show: told how many exchanges are done, and of how many.

    Raises:
        DataError: the images cannot be used; every problem.
        OSError: `out` cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("[0-9][0-9]-*.json"), *out.glob("[0-9][0-9]-*.safetensors")]:
        old.unlink()
    planned: dict[Kind, Step] = {}
    for step in plan_of(run):  # class sums may first be asked for in a later round
        planned.setdefault(step.kind, step)
    steps = [Step("hello"), *planned.values(), Step("receipts")]
    with tempfile.TemporaryDirectory(prefix="mfm-dry-run-") as place:
        stage = _Stage(config, unmasked(run), Path(place))
        stage.labelled = run if run.privacy.private_sum else stage.run
        done: list[Exchange] = []
        for number, step in enumerate(steps, start=1):
            show(number - 1, len(steps))
            done.append(stage.play(step, out, number))
        show(len(steps), len(steps))
    report = json.dumps([exchange.to_dict() for exchange in done], indent=1)
    write_whole(out / "table.json", report.encode())
    return tuple(done)


def unmasked(run: RunConfig) -> RunConfig:
    """Return the run with its answers in clear: people look at what lies under the masks."""
    return run.model_copy(update={"secure_sum": SecureSumConfig()})


class _Stage:
    """The real app of one site with a state folder of its own, and a coordinator made of it."""

    def __init__(self, config: SiteConfig, run: RunConfig, place: Path) -> None:
        self.config, self.run, self.labelled = config, run, run
        self.state = place / "state"
        self.state.mkdir()
        with contextlib.suppress(OSError):  # without the cache the images are decoded once more
            (config.state_folder / CACHE).mkdir(parents=True, exist_ok=True)
            (self.state / CACHE).symlink_to((config.state_folder / CACHE).resolve())
        copy = _absolute(config, run, place)
        self.site_file = place / "site.yaml"
        dump_yaml(copy, self.site_file)
        self.site = open_site(self.site_file)
        _ = self.site.images  # those that cannot be used are named once, not at every exchange
        self.coordinator = LocalCoordinator(run, public_pictures(config, run))
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

    def play(self, step: Step, out: Path, number: int) -> Exchange:
        """Return what one exchange would let out."""
        kind, times = step.kind, _times(self.run, step.kind)
        try:
            payload = self.coordinator.message(kind)
        except MfmError as error:
            return Exchange(kind, step.round, times, "not made", str(error))
        reply = app(self._message(step, payload), self._context())
        if reply.has_error():
            reason = f"{reply.error.reason}: {last_words(self.state / LOG)}"
            return Exchange(kind, step.round, times, "refused", reason)
        header, answer = self._decode(step, reply.content)
        with contextlib.suppress(MfmError):
            self.coordinator.take(kind, answer)
        found = self._describe(step, header, answer, wire.record_bytes(reply.content))
        return _written(found, header, answer, out, f"{number:02d}-{kind}")

    def _message(self, step: Step, payload: wire.Payload) -> Message:
        header = wire.Header(step.kind, step.round, self.site.config_hash, code_hash())
        record = wire.encode(header, payload, self.site.schema)
        return Message(record, 1, MESSAGE_TYPES[step.kind], group_id=str(step.round))

    def _context(self) -> Context:
        return Context(1, 1, {"site-config": str(self.site_file)}, RecordDict(), {})

    def _decode(self, step: Step, record: RecordDict) -> tuple[wire.Header, wire.Payload]:
        answer = answer_of(self.run, step.kind)
        expected = wire.Expected(
            kind=step.kind,
            round=step.round,
            config_hash=self.site.config_hash,
            code_hash=code_hash(),
            model=self.site.update_schema if answer.update else None,
            total=answer.total,
            site=self.config.name,
            images=(0, MOST_IMAGES),
        )
        return wire.decode(record, expected)

    def _describe(
        self, step: Step, header: wire.Header, answer: wire.Payload, size: int
    ) -> Exchange:
        tensors = tensors_of(answer)
        mechanism, epsilon = protection_of(self.labelled, step.kind, self.site)
        return Exchange(
            kind=step.kind,
            round=step.round,
            times=_times(self.run, step.kind),
            outcome="leaves" if tensors else "leaves nothing",
            images=header.num_images,
            bytes=size,
            suppressed=suppressed_cells(answer),
            mechanism=mechanism,
            epsilon=epsilon,
            tensors=tensors,
            forecast=self._forecast(step.kind),
        )

    def _forecast(self, kind: Kind) -> str:
        """Return what a private release would be good for, under the encoder of this rehearsal."""
        if kind != "latent_sums" or not self.run.privacy.atlas.private:
            return ""
        self.site.load(self.coordinator.weights)
        return forecast_words(self.site, self.coordinator.basis())


def last_words(log: Path) -> str:
    """Return the last error in a site's log with all its lines, without a traceback."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "see the site's log"
    _, found, words = text.rpartition(" ERROR ")
    return words.partition("\nTraceback ")[0].strip() if found else "no words in the log"


def _absolute(config: SiteConfig, run: RunConfig, place: Path) -> SiteConfig:
    """Return the settings with absolute paths, a state folder of their own and the run beside.

    The run counts as accepted, at any hour and without a person's approval: what it would send is
    the question, whether it may is the doctor's.
    """
    dump_yaml(run, place / "run.yaml")
    manifest = None if config.data.manifest is None else config.data.manifest.resolve()
    data = config.data.model_copy(update={"root": config.data.root.resolve(), "manifest": manifest})
    allowed = {"accepted_runs": (canonical_hash(run),), "manual": False, "hours": None}
    allowed |= {"require_secure_sum": False}
    changed = {
        "data": data,
        "limits": config.limits.model_copy(update=allowed),
        "state_folder": place / "state",
        "run": place / "run.yaml",
    }
    return config.model_copy(update=changed)


def _times(run: RunConfig, kind: Kind) -> int:
    return sum(step.kind == kind for step in plan_of(run)) if kind in ROUNDED else 1


def tensors_of(payload: wire.Payload) -> tuple[Tensor, ...]:
    """Return name, shape, bytes and norm of every array of an answer."""
    named: dict[str, Any] = {}
    if payload.model is not None:
        named["update of the weights"] = payload.model
    if payload.total is not None:
        named |= payload.total.arrays
    return tuple(
        Tensor(
            name=name,
            shape=tuple(array.shape),
            bytes=int(array.nbytes),
            norm=float(np.linalg.norm(array.astype(np.float64).ravel())),
            values=tuple(float(v) for v in array.ravel()) if array.size <= VALUES_SHOWN else (),
        )
        for name, array in named.items()
    )


def suppressed_cells(payload: wire.Payload) -> int | None:
    """Return how many cells an answer says it left out; None where it counts none."""
    arrays = {} if payload.total is None else payload.total.arrays
    found = [array for name, array in arrays.items() if name.rpartition("/")[2] == "suppressed"]
    return int(sum(array.sum() for array in found)) if found else None


def protection_of(run: RunConfig, kind: Kind, site: Site) -> tuple[str, str]:
    """Return what protects patients in an exchange, and its epsilon; both may be "none".

    Epsilon is that of all rounds of the run at this site, at the site's own delta.
    """
    label = label_of(run, kind, site.config.limits.min_cell_count)
    if label.level != "formal":
        return label.words, "none"
    if kind == "latent_sums":
        agreed = run.privacy.atlas
        return label.words, f"{gaussian_epsilon(agreed.sigma, site.config.limits.delta):.2f}"
    if run.privacy.private_sum:
        one = central_round.planned_spend(site, 1, clip_of(run, {}))
    else:
        one = planned_spend(site, 1, count_units(site))
    noise, rate, steps = one.spending
    delta = site.config.limits.delta
    return label.words, f"{epsilon_of([(noise, rate, steps * run.rounds)], delta):.2f}"


def _written(
    found: Exchange, header: wire.Header, answer: wire.Payload, out: Path, stem: str
) -> Exchange:
    """Write an answer's header and arrays; return the exchange with the names of the files."""
    arrays: dict[str, Any] = {}
    if answer.model is not None:
        arrays[wire.MODEL] = answer.model
    if answer.total is not None:
        arrays |= {f"{wire.TOTAL}/{name}": array for name, array in answer.total.arrays.items()}
    files = [f"{stem}.json"]
    if arrays:
        files.append(f"{stem}.safetensors")
        save_arrays(out / files[-1], arrays, {"payload_hash": header.payload_hash})
    complete = replace(found, files=tuple(files))
    content = {"header": asdict(header), "message": complete.to_dict()}
    write_whole(out / files[0], json.dumps(content, indent=1).encode())
    return complete
