"""A finished run as it lies on the coordinator's disk, checked before anything is made of it.

Model, atlas, heads, agreed run, results and ledger must belong together; where the run's state is
still there, results, ledger and final hash are computed from it again and compared.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mfm_core.atlas import load_atlas
from mfm_core.autoencoder import count_parameters
from mfm_core.checkpoint import load_model, weights_hash
from mfm_core.config import canonical_hash, load_yaml
from mfm_core.errors import CheckpointError, ConfigError, MfmError
from mfm_core.head_files import load_heads
from server.checkpoints import load_newest
from server.hosted_status import is_consortium
from server.leak_audit import LeakAudit, read_leak_audit
from server.run_files import (
    PROGRESS,
    RESULTS,
    ROUNDS,
    RUN_FILE,
    STATES,
    choose_run,
    read_lines,
    read_submission,
)
from strategies.code_hash import code_hash
from strategies.config import RunConfig
from strategies.plan import plan_of

MODEL, ATLAS, HEADS = "final.safetensors", "atlas.safetensors", "heads.safetensors"

Found = TypeVar("Found")


@dataclass(frozen=True)
class FinishedRun:
    """One run that ended with a model.

    Attributes:
        folder: the run folder.
        run: the agreed run.
        results: content of server.json.
        lines: of rounds.jsonl.
        files: name in a release to the file here: model, atlas, heads.
        hashes: run_hash, code_hash, bundle_hash (None where the run was not submitted by
            `mfm-server run`), encoder_hash, weights_hash, final_hash.
        recomputed: results and final hash were computed again from the run's state.
        leak: the leak audit beside the run.
    """

    folder: Path
    run: RunConfig
    results: Mapping[str, Any]
    lines: list[dict[str, Any]]
    files: Mapping[str, Path]
    hashes: Mapping[str, str | None]
    recomputed: bool
    leak: LeakAudit | None


def find_run(folder: Path, name: str | None) -> Path:
    """Return the run folder that is meant: the folder itself, or one below runs/ of a consortium.

    Args:
        folder: of a consortium or of one run.
        name: folder below runs/; None takes the newest.

    Raises:
        ConfigError: there is no such run.
    """
    if not is_consortium(folder):
        if name is not None:
            reason = "is no consortium's folder; leave --name out for the folder of one run"
            raise ConfigError(str(folder), [reason])
        return folder
    return choose_run(folder / "runs", name)


def read_finished(folder: Path) -> FinishedRun:
    """Return a finished run.

    Raises:
        ConfigError: it has not ended with a model, a file is missing, or they do not belong
            together; all problems are listed.
    """
    _refuse_unfinished(folder)
    problems: list[str] = []
    run = _try(problems, lambda: load_yaml(folder / RUN_FILE, RunConfig))
    results = _try(problems, lambda: _read_json(folder / RESULTS))
    lines = _try(problems, lambda: _read_ledger(folder))
    leak = _try(problems, lambda: read_leak_audit(folder))
    if run is None or results is None or lines is None or problems:
        raise ConfigError(str(folder), problems)
    files, hashes = _checked_files(folder, run, results, problems)
    recomputed = _try(problems, lambda: _check_state(folder, run, results, lines))
    if leak and leak.final_hash not in (None, results.get("final_hash")):
        problems.append("leak_audit.json names another final_hash; attack this run's model")
    if leak and hashes and leak.weights_hash not in (None, hashes["weights_hash"]):
        problems.append("leak_audit.json names another weights_hash; attack this run's model")
    if problems:
        raise ConfigError(str(folder), problems)
    return FinishedRun(folder, run, results, lines, files, hashes, bool(recomputed), leak)


def _refuse_unfinished(folder: Path) -> None:
    try:
        phase = str(_read_json(folder / PROGRESS).get("phase"))
    except ConfigError:
        reason = f"no {PROGRESS}: not a run folder, or the run has not begun"
        raise ConfigError(str(folder), [reason]) from None
    if phase != "done":
        ended = "failed" if phase == "failed" else f"is under way ({phase})"
        raise ConfigError(str(folder), [f"the run {ended}; `mfm-server resume` goes on with it"])


def _try(problems: list[str], read: Callable[[], Found]) -> Found | None:
    try:
        return read()
    except ConfigError as error:
        problems += [f"{Path(error.subject).name}: {problem}" for problem in error.problems]
    except MfmError as error:
        problems.append(str(error))
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(str(path), ["is missing"]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), [f"not JSON: {error}"]) from None
    if not isinstance(content, dict):
        raise ConfigError(str(path), ["expected names and values"])
    return content


def _read_ledger(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = read_lines(folder)
        whole = bool(lines) and all({"phase", "round", "sites"} <= line.keys() for line in lines)
    except (ValueError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ConfigError(str(folder / ROUNDS), ["is missing, empty or damaged"])
    return lines


def _checked_files(
    folder: Path, run: RunConfig, results: Mapping[str, Any], problems: list[str]
) -> tuple[dict[str, Path], dict[str, str | None]]:
    """Return the files of a release and the hashes; what does not fit is added to `problems`."""
    run_hash = canonical_hash(run)
    if results.get("config_hash") != run_hash:
        reason = "or another version of this software wrote it; use that version"
        problems.append(f"{RUN_FILE} is not the run that {RESULTS} tells of, {reason}")
    loaded = _try(problems, lambda: load_model(folder / MODEL, run_hash))
    if loaded is None:
        return {}, {}
    model, metadata = loaded
    encoder = metadata["encoder_hash"]
    files = {"model.safetensors": folder / MODEL}
    if (folder / ATLAS).is_file() or any(step.kind == "latent_sums" for step in plan_of(run)):
        files[ATLAS] = folder / ATLAS
        atlas = _try(problems, lambda: load_atlas(folder / ATLAS, encoder))
        if atlas is not None and atlas.config_hash != run_hash:
            problems.append(f"{ATLAS}: made by another run")
    if run.mitigation.attribute is not None:
        files[HEADS] = folder / HEADS
        _try(problems, lambda: load_heads(folder / HEADS, encoder))
    hashes = {
        "run_hash": run_hash,
        "code_hash": results.get("code_hash"),
        "bundle_hash": read_submission(folder).get("bundle_hash"),
        "encoder_hash": encoder,
        "weights_hash": weights_hash(model),
        "final_hash": results.get("final_hash"),
    }
    return files, hashes


def _check_state(
    folder: Path, run: RunConfig, results: Mapping[str, Any], lines: list[dict[str, Any]]
) -> bool:
    """Return whether a state was there; refuse results or a ledger that differ from it.

    Raises:
        ConfigError: with the keys of server.json that differ.
        CheckpointError: the state is damaged.
    """
    from server.app import summarise
    from server.weights import model_with

    found = load_newest(folder / STATES, canonical_hash(run))
    if found is None:
        return False
    state, stamp = found
    problems = []
    ledger = (folder / ROUNDS).read_bytes()
    if hashlib.sha256(ledger).hexdigest() != stamp.ledger_hash:
        problems.append(f"{ROUNDS} was changed after the run")
    try:
        model = model_with(run, state.weights)
        expected = {**summarise(run, state, lines), "code_hash": stamp.code_hash}
    except KeyError as error:
        raise CheckpointError(f"{folder / STATES}: the last state lacks {error}") from None
    expected["parameters"] = count_parameters(model)
    again = json.loads(json.dumps(expected))
    if changed := sorted(key for key in again if key in results and results[key] != again[key]):
        problems.append(f"{RESULTS} differs from the run's state in {', '.join(changed)}")
    if stamp.code_hash == code_hash() and (other := sorted(again.keys() ^ results.keys())):
        problems.append(f"{RESULTS} lacks, or holds besides, {', '.join(other)}")
    if problems:
        raise ConfigError(str(folder), problems)
    return True
