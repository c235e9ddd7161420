"""Suspends a process of a consortium at a named point, so that a test can kill it right there.

Copied into a Python environment of the test's own (`striking`), which starts it in every process
of the consortium; the product knows nothing of it. Each point is one function of the product. When
`$MFM_STRIKES/armed-<point>` exists and fits what the function was called with, the file becomes
`hit-<point>` with the process id and the process suspends itself. Standard library and
`import_hook` only.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

if __package__:
    from tests.federation.import_hook import watch_imports
else:  # copied beside it
    from mfm_import_hook import watch_imports

Say = Callable[[tuple[Any, ...], dict[str, Any]], str]


def _every(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return " ".join(map(str, [*args[1:], *kwargs.values()]))


def _step(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return f"{args[1].kind} {args[1].round} {args[-1]}"


def _line(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return f"{args[1]['phase']} {args[1]['round']}"


def _two(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return f"{args[1]} {getattr(args[2], 'round', args[2])}"


POINTS: dict[str, tuple[str, str, str, Say]] = {
    "report": ("server.journal", "RunFolder.report", "after", _step),
    "line": ("server.journal", "RunFolder.write", "after", _line),
    "replace": ("server.checkpoints", "save_arrays", "inside", _every),
    "kept": ("server.journal", "RunFolder.keep", "after", _every),
    "handed": ("server.flower", "Flower.run", "after", lambda a, k: "handed"),
    "ask": ("client.worker", "Worker.ask", "before", _two),
    "compute": ("client.app", "do_work", "before", lambda a, k: f"{a[0]} {a[1].round}"),
    "backward": ("mfm_core.training", "_Lesson._terms", "after", _every),
    "release": ("client.outbox", "Outbox.release", "after", _step),
    "head": ("strategies.chain", "_write_head", "before", lambda a, k: f"lines {a[1]}"),
    "secret": ("client.secure_site", "answer_keys", "before", lambda a, k: str(a[1])),
    "given": ("client.tasks", "Task.give_back", "after", lambda a, k: "given"),
}
"""Point: module, function, when, and what it was called with as a text. "inside" is the moment
between the written part file and its renaming, wherever the function does that."""


def pause_if_armed(point: str, text: str) -> None:
    """Suspend this process if the test armed the point for this process and this call."""
    folder = os.environ["MFM_STRIKES"]
    armed = os.path.join(folder, f"armed-{point}")
    try:
        with open(armed, encoding="utf-8") as file:
            wanted = json.load(file)
    except (OSError, ValueError):
        return
    fits = all(part in text for part in wanted["when"].split("|"))
    if not fits or wanted["where"] not in " ".join(sys.argv):
        return
    mine = os.path.join(folder, f"part-{point}-{os.getpid()}")
    with open(mine, "w", encoding="utf-8") as file:
        json.dump({"pid": os.getpid(), "text": text}, file)
    try:
        os.unlink(armed)  # one process succeeds
    except FileNotFoundError:
        return
    os.rename(mine, os.path.join(folder, f"hit-{point}"))
    os.kill(os.getpid(), signal.SIGSTOP)


def _wrapped(point: str, function: Callable[..., Any], moment: str, say: Say) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if moment == "before":
            pause_if_armed(point, say(args, kwargs))
        if moment == "inside":
            with _paused_replace(point, say(args, kwargs)):
                return function(*args, **kwargs)
        result = function(*args, **kwargs)
        if moment == "after":
            pause_if_armed(point, say(args, kwargs))
        return result

    return call


class _paused_replace:
    """Pauses before the renaming that happens within."""

    def __init__(self, point: str, text: str) -> None:
        self.point, self.text = point, text

    def __enter__(self) -> None:
        from pathlib import Path

        self.real = real = Path.replace
        point, text = self.point, self.text

        def replace(path: Path, target: Any) -> Any:
            pause_if_armed(point, f"{text} {target}")
            return real(path, target)

        Path.replace = replace  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        from pathlib import Path

        Path.replace = self.real  # type: ignore[method-assign]


def patch(module: ModuleType) -> None:
    """Wrap the functions of a module that has just been loaded."""
    for point, (name, function, moment, say) in POINTS.items():
        if name != module.__name__:
            continue
        *owners, last = function.split(".")
        owner = functools.reduce(getattr, owners, module)
        setattr(owner, last, _wrapped(point, getattr(owner, last), moment, say))


def install() -> None:
    """Start watching imports, where a test asks for it."""
    if os.environ.get("MFM_STRIKES"):
        watch_imports({name for name, *_ in POINTS.values()}, patch)
