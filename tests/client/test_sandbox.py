"""Confinement, seen from inside a process that was confined."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client import sandbox

INSIDE = """
import json, os, socket, sys
from pathlib import Path
from client.sandbox import confine
data = Path(sys.argv[1])
done = confine(data, 512 * 2**20)
def tried(act):
    try:
        act()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "allowed"
def connect():
    with socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=2):
        pass
print(json.dumps({
    "done": done,
    "connect": tried(connect),
    "write": tried(lambda: (data / "new").write_text("x")),
    "read": (data / "image").read_text(),
    "memory": tried(lambda: bytearray(700 * 2**20)),
    "elsewhere": tried(lambda: (data.parent / "state").write_text("x")),
}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a confined process could do."""
    import socket

    data = tmp_path_factory.mktemp("site") / "images"
    data.mkdir()
    (data / "image").write_text("pixels")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = [sys.executable, "-c", INSIDE, str(data), port]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (data / "still writable outside").write_text("x")
    return dict(json.loads(done.stdout))


def test_what_is_in_force_is_in_force_and_what_is_not_is_said(seen: dict[str, Any]) -> None:
    done = seen["done"]
    assert (seen["connect"] == "allowed") == (not done["no network"])
    assert (seen["write"] == "allowed") == (not done["images read-only"])
    assert (seen["memory"] == "allowed") == (not done["memory limit"])


def test_memory_parent_and_privileges_hold_on_every_kernel(seen: dict[str, Any]) -> None:
    done = seen["done"]
    assert done["memory limit"] and done["ends with its parent"] and done["no new privileges"]


def test_the_images_can_be_read_and_the_state_written(seen: dict[str, Any]) -> None:
    assert seen["read"] == "pixels" and seen["elsewhere"] == "allowed"


MOUNTED = """
set -e
mount -t tmpfs -o nosuid,nodev,mode=777 share "$1"
mkdir "$1/below"
mount -t tmpfs -o mode=777 archive "$1/below"
echo pixels > "$1/image"
exec unshare --user --map-user=1000 --map-group=1000 "$2" -c "$3" "$1"
"""

BELOW = """
import json, sys
from pathlib import Path
from client.sandbox import confine
data = Path(sys.argv[1])
done = confine(data, None)
def tried(path):
    try:
        path.write_text("x")
    except OSError as error:
        return error.strerror
    return "allowed"
seen = {"top": tried(data / "new"), "below": tried(data / "below" / "new")}
print(json.dumps({"done": done, **seen, "read": (data / "image").read_text()}))
"""


def test_images_on_a_share_with_another_below_are_read_only_for_an_ordinary_user(
    tmp_path: Path,
) -> None:
    """A share of the network is mounted nosuid and nodev, which its user may not take away."""
    outer = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*outer, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel lets nobody make user and mount namespaces")
    words = ["bash", "-c", MOUNTED, "bash", str(tmp_path), sys.executable, BELOW]
    done = subprocess.run([*outer, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["done"]["images read-only"] and seen["done"]["no network"]
    assert seen["read"] == "pixels\n"
    assert seen["top"] == seen["below"] == "Read-only file system"


def test_a_mount_below_a_folder_with_a_space_in_its_name_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel writes the space as \\040; overlooked, that mount would stay writable."""
    listing = tmp_path / "mountinfo"
    listing.write_bytes(b"40 30 0:35 / /data/chest\\040films/share rw - nfs host:/share rw\n")
    monkeypatch.setattr(sandbox, "Path", lambda _: listing)
    with pytest.raises(OSError, match="mounted below"):
        sandbox._refuse_mounts_below(b"/data/chest films")
    sandbox._refuse_mounts_below(b"/data/chest")
