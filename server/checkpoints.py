"""The run's state on disk: one file per finished phase, whole or absent, the last two kept.

A checkpoint holds the weights, the server optimiser's memory, the pooled sums, the facts for the
report and the length and hash of the rounds ledger at that moment. It is one safetensors file,
written under a temporary name, synced and renamed (`mfm_core.checkpoint.save_arrays`), so a kill
at any moment leaves a file that loads. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mfm_core.checkpoint import arrays_hash, load_arrays, save_arrays
from mfm_core.errors import CheckpointError
from mfm_core.sums import Sum
from strategies.aggregation import ServerState
from strategies.strategy import RunState

KEPT = 2
KIND = "run state 2"
log = logging.getLogger("flwr.mfm")


@dataclass(frozen=True)
class Stamp:
    """What a state belongs to.

    Attributes:
        config_hash: of the agreed run.
        code_hash: of the code that wrote it.
        ledger_bytes: length of rounds.jsonl at that moment.
        ledger_hash: SHA-256 of those bytes.
    """

    config_hash: str
    code_hash: str
    ledger_bytes: int
    ledger_hash: str


def save_state(folder: Path, state: RunState, stamp: Stamp) -> Path:
    """Write a checkpoint, then remove all but the last two; return its path."""
    arrays: dict[str, NDArray[Any]] = {
        "weights": state.weights,
        "first_moment": state.server.first_moment,
        "second_moment": state.server.second_moment,
    }
    for kind, total in state.sums.items():
        arrays |= {f"sum/{kind}/{name}": array for name, array in total.arrays.items()}
    metadata = {
        "kind": KIND,
        "config_hash": stamp.config_hash,
        "code_hash": stamp.code_hash,
        "ledger_bytes": str(stamp.ledger_bytes),
        "ledger_hash": stamp.ledger_hash,
        "done": str(state.done),
        "rounds": str(state.server.rounds),
        "facts": json.dumps(state.facts),
        "arrays_hash": arrays_hash(arrays),
    }
    path = folder / f"state-{state.done:06d}.safetensors"
    save_arrays(path, arrays, metadata)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
    return path


def load_newest(folder: Path, config_hash: str) -> tuple[RunState, Stamp] | None:
    """Return the newest state that is whole, or None when there is none at all.

    Raises:
        CheckpointError: the states belong to another run, or all of them are damaged.
    """
    files, problems = _newest_first(folder), []
    for path in files:
        try:
            return _load(path, config_hash)
        except CheckpointError as error:
            log.warning("%s", error)
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"{folder}: no state can be used; {problems[0]}; choose another output folder to "
            "start anew"
        )
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.safetensors"), reverse=True)


def _load(path: Path, config_hash: str) -> tuple[RunState, Stamp]:
    arrays, metadata = load_arrays(path, {"kind": KIND, "config_hash": config_hash})
    if arrays_hash(arrays) != metadata.get("arrays_hash"):
        raise CheckpointError(f"{path}: the arrays were changed after saving")
    sums: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        if name.startswith("sum/"):
            _, kind, part = name.split("/", 2)
            sums.setdefault(kind, {})[part] = array
    try:
        server = ServerState(
            int(metadata["rounds"]), arrays["first_moment"], arrays["second_moment"]
        )
        state = RunState(
            done=int(metadata["done"]),
            weights=arrays["weights"],
            server=server,
            sums={kind: Sum(parts) for kind, parts in sums.items()},
            facts=json.loads(metadata["facts"]),
        )
        length, digest = int(metadata["ledger_bytes"]), metadata["ledger_hash"]
        stamp = Stamp(config_hash, metadata["code_hash"], length, digest)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: an entry is missing or wrong: {error}") from None
    return state, stamp
