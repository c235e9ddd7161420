"""What the runner did since it began: answers, refusals by code, seconds, parts of the sandbox.

One small file, `node/messages.json`, replaced after each message, for the site's own figures and
`status`. It holds counts and coded words: no name, no file, nothing of an image.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Message

from mfm_core.whole_file import write_whole
from strategies.rounds import REFUSED

FILE = "messages.json"
WORD = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
MOST_REASONS = 40
OTHER = "other"
"""Stands for what is no coded word, and for every one beyond MOST_REASONS."""


@dataclass
class MessageRecord:
    """Counts of one runner.

    Attributes:
        path: where they are written; None keeps them here.
        outcomes: "answered", "refused:<word>" or "error:<word>" to messages.
        seconds: spent on all of them.
    """

    path: Path | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def note(self, reply: Message, seconds: float, confined: Mapping[str, bool]) -> None:
        """Count one message and write the file.

        Args:
            reply: what was answered.
            seconds: from the message to the answer.
            confined: parts of the sandbox that are in force, empty while no child runs.

        Raises:
            OSError: the file cannot be written.
        """
        self.outcomes[self._outcome(reply)] += 1
        self.seconds += seconds
        if self.path is None:
            return
        content = {
            "outcomes": dict(sorted(self.outcomes.items())),
            "seconds": round(self.seconds, 3),
            "last_at": time.time(),
            "confined": dict(confined),
        }
        write_whole(self.path, json.dumps(content, indent=1).encode())

    def _outcome(self, reply: Message) -> str:
        if not reply.has_error():
            return "answered"
        how = "refused" if reply.error.code == REFUSED else "error"
        reason = reply.error.reason or ""
        found = f"{how}:{reason if WORD.fullmatch(reason) else OTHER}"
        full = len(self.outcomes) >= MOST_REASONS and found not in self.outcomes
        return f"{how}:{OTHER}" if full else found


def read_messages(node: Path) -> dict[str, Any]:
    """Return messages.json of a node's folder; empty when no message came yet."""
    try:
        content = json.loads((node / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
