"""What a release folder holds, and the hashes that tie it together.

`SHA256SUMS` lists every file but itself, as `sha256sum -c` reads it. `release.json` names the hash
of every other file; the release id is the hash of release.json without the id, so it covers all.
The content hash, which stands in the card, covers everything but the card's own files.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT = "mfm-release-1"

MODEL, ATLAS, HEADS = "model.safetensors", "atlas.safetensors", "heads.safetensors"
RUN, METRICS, ROUNDS = "run.yaml", "metrics.json", "rounds.jsonl"
CARD, MARKDOWN, PAGE = "model_card.json", "MODEL_CARD.md", "model_card.html"
RELEASE, SUMS = "release.json", "SHA256SUMS"

CONTENT = (MODEL, ATLAS, HEADS, RUN, METRICS, ROUNDS)
CARDS = (CARD, MARKDOWN, PAGE)
ALLOWED = frozenset({*CONTENT, *CARDS, RELEASE})
"""Names that SHA256SUMS may list."""

NEEDED = ALLOWED - {ATLAS, HEADS}
"""Files of every release; atlas and heads depend on the agreed run."""

ID_LENGTH = 12
"""Digits of the release id in the name of a folder."""


def hash_of(content: Any) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of plain values."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(facts: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return the hash of a release without its card.

    Args:
        facts: of the release; an entry "content_hash" is left out.
        files: name to SHA-256 (hex); only those of `CONTENT` count.
    """
    told = {name: value for name, value in facts.items() if name != "content_hash"}
    return hash_of({"facts": told, "files": {n: h for n, h in files.items() if n in CONTENT}})


def release_id(release: Mapping[str, Any]) -> str:
    """Return the hash of release.json without its "release_id"."""
    return hash_of({name: value for name, value in release.items() if name != "release_id"})


def sums_text(files: Mapping[str, str]) -> str:
    """Return SHA256SUMS: a line of hash, two spaces and name per file, sorted by name."""
    return "".join(f"{files[name]}  {name}\n" for name in sorted(files))


def json_text(content: Any) -> str:
    """Return JSON for a file: sorted keys, no NaN."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
