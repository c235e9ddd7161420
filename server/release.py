"""Releases the model of a finished run: gates first, then one folder, whole or not at all.

The folder is built beside its place, synced, verified as a stranger would (`server.release_check`)
and renamed, so a kill or a full disk leaves no release. A gate that holds it back means that
nothing is written; it can be accepted with a reason, which stands in every part, and not hidden.
What crosses a hospital's boundary: nothing; a release holds no names of sites unless asked.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfm_core.config import dump_yaml
from mfm_core.errors import ConfigError
from mfm_core.model_card_page import draw_html, draw_markdown
from server.card_config import CardConfig
from server.card_items import Known
from server.finished_run import FinishedRun
from server.judging import Verdict, accept, holding, judge
from server.model_card import card_of
from server.release_check import check_release
from server.release_figures import figures_of, labels_of, rounds_of
from server.release_files import (
    CARD,
    FORMAT,
    ID_LENGTH,
    MARKDOWN,
    METRICS,
    PAGE,
    RELEASE,
    ROUNDS,
    RUN,
    SUMS,
    content_hash,
    json_text,
    release_id,
    sums_text,
)
from strategies.code_hash import code_hash


@dataclass(frozen=True)
class Release:
    """What became of a release.

    Attributes:
        verdicts: of the gates, with the reasons for which some were accepted.
        folder: the release; None when a gate holds it back.
        release_id: None likewise.
    """

    verdicts: tuple[Verdict, ...]
    folder: Path | None = None
    release_id: str | None = None


def release_run(
    finished: FinishedRun,
    people: CardConfig,
    place: Path,
    reasons: Mapping[str, str],
    *,
    exact: bool = False,
) -> Release:
    """Judge a finished run and write its release, unless a gate holds it back.

    Args:
        finished: the run.
        people: card.yaml.
        place: the folder below which the release gets a folder `<run>-<id>`.
        reasons: gate to the reason for which it is accepted though it holds the release back.
        exact: `place` is the release folder itself.

    Raises:
        ConfigError: a reason names no gate that holds it back, the place is taken, or the folder
            that was built does not verify.
        OSError: it cannot be written; nothing is left.
    """
    labels = labels_of(finished.lines, named=people.name_sites)
    figures = figures_of(finished.run, finished.results, finished.lines, labels, finished.leak)
    verdicts = accept(judge(finished.run, figures), reasons)
    if holding(verdicts):
        return Release(verdicts)
    if exact:
        _refuse_taken(place)
    near = place.parent if exact else place
    near.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".part", dir=near))
    try:
        known = Known(finished.run, figures, _facts(finished, people, figures), verdicts, people)
        identity = _fill(fresh, finished, known, rounds_of(finished.lines, labels))
        found = check_release(fresh)
        if found.problems:
            raise ConfigError("the release that was built", found.problems)
        target = place if exact else near / f"{finished.run.name}-{identity[:ID_LENGTH]}"
        _move(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Release(verdicts, target, identity)


def _facts(finished: FinishedRun, people: CardConfig, figures: Mapping[str, Any]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "name": finished.run.name,
        "status": figures["status"],
        "date": now.isoformat(timespec="seconds"),
        **finished.hashes,
        "recomputed": finished.recomputed,
        "sites_named": people.name_sites,
        "written_by": code_hash(),
    }


def _fill(folder: Path, finished: FinishedRun, known: Known, rounds: list[dict[str, Any]]) -> str:
    """Write every file of a release and return its id."""
    files: dict[str, str] = {}
    for name, source in finished.files.items():
        shutil.copyfile(source, folder / name)
        files[name] = _sealed(folder / name)
    dump_yaml(finished.run, folder / RUN)
    files[RUN] = _sealed(folder / RUN)
    files[METRICS] = _write(folder / METRICS, json_text(known.figures))
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rounds)
    files[ROUNDS] = _write(folder / ROUNDS, lines)
    facts = {**known.facts, "content_hash": content_hash(known.facts, files)}
    card = card_of(Known(known.run, known.figures, facts, known.verdicts, known.people))
    files[CARD] = _write(folder / CARD, json_text(card))
    files[MARKDOWN] = _write(folder / MARKDOWN, draw_markdown(card))
    files[PAGE] = _write(folder / PAGE, draw_html(card))
    content: dict[str, Any] = {
        "format": FORMAT,
        "facts": facts,
        "gates": card["gates"],
        "files": dict(files),
    }
    identity = release_id(content)
    text = json_text({**content, "release_id": identity})
    files[RELEASE] = _write(folder / RELEASE, text)
    _write(folder / SUMS, sums_text(files))
    folder.chmod(0o755)
    return identity


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return _sealed(path)


def _sealed(path: Path) -> str:
    """Sync a file and return its SHA-256 (hex)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(fresh: Path, target: Path) -> None:
    _sync(fresh)
    try:
        fresh.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            _refuse_taken(target)
        error.filename, error.filename2 = str(target), None
        raise
    _sync(target.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_taken(place: Path) -> None:
    if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
        return
    if place.exists() or place.is_symlink():
        reason = "is already there; a release is never overwritten, choose another --out"
        raise ConfigError(str(place), [reason])
