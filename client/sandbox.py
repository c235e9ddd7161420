"""What a site's working process may not do: reach a network, change the images, outlive its parent.

Called in the process itself, before anything large is imported. Every part is tried on its own,
because kernels differ; what is in force is returned and shown, never assumed.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
"""mount_setattr(2), Linux 5.12; the number is the same on every architecture."""

PARTS = (
    "ends with its parent",
    "no new privileges",
    "memory limit",
    "no network",
    "images read-only",
)


def confine(data: Path, memory_bytes: int | None) -> dict[str, bool]:
    """Confine this process; return which of PARTS are in force.

    Args:
        data: folder of the images; mounted read-only for this process.
        memory_bytes: largest private memory, None for no limit.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    tried: dict[str, Callable[[], None]] = {
        "ends with its parent": lambda: _call(
            libc.prctl, PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0
        ),
        "no new privileges": lambda: _call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        "memory limit": lambda: _limit_memory(memory_bytes),
        "no network": lambda: _leave_network(libc),
        "images read-only": lambda: _protect(libc, data),
    }
    return {name: _succeeds(act) for name, act in tried.items()}


def _succeeds(act: Callable[[], None]) -> bool:
    try:
        act()
    except (OSError, ValueError):
        return False
    return True


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _limit_memory(most: int | None) -> None:
    if most is None:
        raise ValueError("no limit is set")
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _leave_network(libc: ctypes.CDLL) -> None:
    """Move into an empty network namespace, in a user namespace of our own where that needs one."""
    try:
        _call(libc.unshare, CLONE_NEWNET)
    except OSError:
        _call(libc.unshare, CLONE_NEWUSER | CLONE_NEWNET)


def _made_read_only(libc: ctypes.CDLL, place: bytes) -> bool:
    """Make a mount and all below it read-only, and tell whether this kernel could.

    Their other flags stay. A remount would have to repeat nosuid, nodev and the like: who has no
    rights over a file system, such as a share of the network, may not drop them.
    """
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    number, size = ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_size_t(ctypes.sizeof(attributes))
    libc.syscall.restype = ctypes.c_long
    return bool(libc.syscall(number, AT_FDCWD, place, AT_RECURSIVE, attributes, size) == 0)


def _refuse_mounts_below(place: bytes) -> None:
    """Raise OSError when a file system is mounted below a folder."""
    below = place.rstrip(b"/") + b"/"
    with Path("/proc/self/mountinfo").open("rb") as lines:
        if any(_plain(line.split()[4]).startswith(below) for line in lines):
            raise OSError("a file system is mounted below the images")


def _plain(path: bytes) -> bytes:
    """Return a path of mountinfo, which writes spaces and the like as octal numbers."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path)


def _protect(libc: ctypes.CDLL, data: Path) -> None:
    """Mount the images read-only over themselves, in a mount namespace of our own."""
    _call(libc.unshare, CLONE_NEWNS)
    place = os.fsencode(data.resolve())
    _call(libc.mount, b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _call(libc.mount, place, place, None, MS_BIND | MS_REC, None)
    if _made_read_only(libc, place):
        return
    _refuse_mounts_below(place)  # an older kernel, whose remount would leave them writable
    _call(libc.mount, b"none", place, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)


if __name__ == "__main__":  # of `client.doctor_sandbox`: confine this process and say what held
    print(json.dumps(confine(Path(sys.argv[1]), int(sys.argv[2]) or None)))
