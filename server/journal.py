"""The run folder: rounds.jsonl (one line per exchange), noise.jsonl, progress.json, the states.

The ledger is appended to and synced before the state that counts on it is written; on resume it
is cut back to what the state knows, so it never tells of a round that the model has not seen.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfm_core.errors import CheckpointError, ConfigError, is_full
from mfm_core.whole_file import sync_folder, write_whole
from server.checkpoints import Stamp, load_newest, save_state
from server.run_files import PROGRESS, ROUNDS, STATES, read_lines
from strategies import chain
from strategies.plan import Step
from strategies.strategy import RunState

GROUPS = "secure_groups.json"
"""Of which sites each exchange of a secure sum has been opened."""

NOISE = "noise.jsonl"
"""Every noisy sum of central DP, noted before it was made; a resume never cuts it back."""


def _refuse_changed(lines: chain.Lines) -> None:
    if problems := chain.link_problems(lines):
        raise ValueError(problems[0])


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_whole(path, json.dumps(content, indent=1).encode())


class RunFolder:
    """Keeps a run in one folder; the Journal of `strategies.strategy`."""

    def __init__(self, folder: Path, config_hash: str, code_hash: str, rounds: int) -> None:
        self.folder, self.rounds = folder, rounds
        self._hashes = (config_hash, code_hash)
        (folder / STATES).mkdir(parents=True, exist_ok=True)

    def open(self, resume: bool) -> RunState | None:
        """Return the state to go on from, or None to begin; the ledger is cut back to it.

        Raises:
            ConfigError: the folder holds a run and `resume` is false.
            CheckpointError: the states or the ledger do not belong to this run.
        """
        found = load_newest(self.folder / STATES, self._hashes[0]) if resume else None
        if found is not None:
            self._cut_back(found[1])
            return found[0]
        if any((self.folder / STATES).glob("state-*.safetensors")):
            reason = "holds an earlier run; set resume=true or choose another output folder"
            raise ConfigError(str(self.folder), [reason])
        (self.folder / ROUNDS).unlink(missing_ok=True)
        return None

    def report(self, step: Step, done: int, phases: int, text: str) -> None:
        """Write progress.json."""
        self._progress(step.kind, step.round, (done, phases), text)

    def end(self, phase: str, phases: int, text: str) -> None:
        """Write the last progress.json of a run; on a full disk over the one that is there.

        Raises:
            OSError: not even that is possible.
        """
        try:
            self._progress(phase, self.rounds, (phases, phases), text)
        except OSError as error:
            if not is_full(error):
                raise
            content = {"phase": phase, "round": self.rounds, "rounds": self.rounds}
            content |= {"step": phases, "steps": phases, "message": text[:300]}
            with (self.folder / PROGRESS).open("r+b") as file:
                file.truncate(file.write(json.dumps(content).encode()))

    def _progress(self, phase: str, number: int, done: tuple[int, int], text: str) -> None:
        content = {"phase": phase, "round": number, "rounds": self.rounds}
        write_json(
            self.folder / PROGRESS,
            {**content, "step": done[0], "steps": done[1], "message": text},
        )

    def write(self, line: dict[str, Any]) -> str:
        """Append one line to rounds.jsonl and sync it; return its hash.

        Each line holds the hash of the one before (`strategies.chain`), so that the lines that
        receipts name stand for all before them.
        """
        as_read = json.loads(json.dumps(line))
        linked = chain.linked(as_read, chain.last_hash(read_lines(self.folder)))
        with (self.folder / ROUNDS).open("ab") as file:
            file.write((json.dumps(linked) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        return str(linked["hash"])

    def hold(self, step: Step, names: tuple[str, ...]) -> None:
        """Write down, synced, whose sum is about to be opened; a resume asks the same sites."""
        groups = {**self._groups(), f"{step.kind} {step.round}": list(names)}
        write_json(self.folder / GROUPS, {"run": self._hashes[0], "groups": groups})
        sync_folder(self.folder)

    def held(self, step: Step) -> tuple[str, ...] | None:
        """Return whose sum of an exchange may have been opened; None where none was.

        Raises:
            CheckpointError: the file is damaged.
        """
        names = self._groups().get(f"{step.kind} {step.round}")
        return None if names is None else tuple(names)

    def _groups(self) -> dict[str, list[str]]:
        path = self.folder / GROUPS
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_bytes())
            groups = dict(found["groups"])
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f"{path}: damaged; sites open each exchange for one group only, which it names. "
                "Restore it, or agree on a new run"
            ) from None
        return groups if found["run"] == self._hashes[0] else {}

    def draw(self, step: Step, facts: Mapping[str, Any]) -> int:
        """Write down, synced, that a noisy sum is about to be made; return how many there are.

        Raises:
            CheckpointError: it cannot be written, or the earlier lines are not whole.
        """
        path = self.folder / NOISE
        line = {"run": self._hashes[0], "kind": step.kind, "round": step.round, **facts}
        try:
            chain.append(path, line, _refuse_changed)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path}: {error}; no noise is drawn without its line. Restore the file, or agree "
                "on a new run"
            ) from None
        return self.drawn()

    def drawn(self) -> int:
        """Return how many noisy sums of this run were made, repeated rounds included."""
        lines = chain.read(self.folder / NOISE)
        return sum(line.get("run") == self._hashes[0] for line in lines)

    def keep(self, state: RunState) -> None:
        """Write the state with the ledger's length and hash."""
        path = self.folder / ROUNDS
        content = path.read_bytes() if path.is_file() else b""
        stamp = Stamp(*self._hashes, len(content), hashlib.sha256(content).hexdigest())
        save_state(self.folder / STATES, state, stamp)

    def _cut_back(self, stamp: Stamp) -> None:
        path = self.folder / ROUNDS
        content = path.read_bytes() if path.is_file() else b""
        known = content[: stamp.ledger_bytes]
        if hashlib.sha256(known).hexdigest() != stamp.ledger_hash:
            raise CheckpointError(
                f"{path}: its first {stamp.ledger_bytes} bytes are not those the state was saved "
                "with; restore the file, or choose another output folder to start anew"
            )
        with path.open("r+b" if path.is_file() else "wb") as file:
            file.truncate(stamp.ledger_bytes)
            file.flush()
            os.fsync(file.fileno())
