"""The service files: complete, hardened, understood by systemd, and kind to the sandbox."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from client.sandbox import SYS_MOUNT_SETATTR
from tests.house.sources import ROOT

UNITS = ROOT / "deploy" / "systemd"
SERVICES = ("mfm-server.service", "mfm-client.service", "mfm-check@.service")
ALWAYS = {
    **{"NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": ""},
    **{"ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "UMask": "0077"},
    **{"PrivateDevices": "yes", "ProtectKernelTunables": "yes", "ProtectProc": "invisible"},
    **{"RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6", "User": "mfm", "LimitCORE": "0"},
    **{"ReadWritePaths": "/var/lib/mfm", "RestrictSUIDSGID": "yes", "LockPersonality": "yes"},
}
WORST = 3.0
"""Exposure that `systemd-analyze security` may report; 10 is nothing restricted."""


def service(name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text("utf-8"))
    return dict(parser["Service"])


def placed(folder: Path, name: str) -> Path:
    """Return a copy of a unit whose program exists on this machine."""
    text = re.sub(r"/opt/mfm/bin/\S+", "/bin/true", (UNITS / name).read_text("utf-8"))
    path = folder / name.replace("@.", "@server.")
    path.write_text(text, "utf-8")
    return path


def analyzer() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_and_bounded(name: str) -> None:
    found = service(name)
    assert {key: found.get(key) for key in ALWAYS} == ALWAYS
    assert "MemoryMax" in found and "TasksMax" in found
    assert found["SystemCallFilter"].startswith("@system-service")
    assert "ProcSubset" not in found, "it hides the boot id that processes are told apart by"


def test_the_server_tells_systemd_and_the_client_can_make_its_sandbox() -> None:
    server, client = service("mfm-server.service"), service("mfm-client.service")
    assert server["Type"] == "notify" and server["RestrictNamespaces"] == "yes"
    assert client["RestrictNamespaces"].split() == ["user", "net", "mnt"]
    assert {"mount", "mount_setattr"} <= set(client["SystemCallFilter"].split())
    assert SYS_MOUNT_SETATTR == 442
    assert client["ReadOnlyPaths"] == "-/srv/images"
    assert server["KillMode"] == client["KillMode"] == "mixed"


@pytest.mark.parametrize("name", [*SERVICES, "mfm-check@.timer"])
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    program = analyzer()
    for service_name in SERVICES:
        placed(tmp_path, service_name)
    path = placed(tmp_path, name)
    words = [program, "verify", "--man=no", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if path.stem in line]
    assert done.returncode == 0 and not said, done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_stays_low(name: str, tmp_path: Path) -> None:
    program = analyzer()
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    if "--offline" not in said:
        pytest.skip("this systemd-analyze rates no file; that of systemd 250 does")
    words = [program, "security", "--offline=yes", "--no-pager", str(placed(tmp_path, name))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) < WORST, done.stdout
