"""A real SuperLink on loopback with TLS and node authentication, for tests of a site's node."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.node import free_port
from server.certificates import create_authority, issue_server_certificate

BIN = Path(sys.executable).parent


@dataclass
class Link:
    """A running SuperLink."""

    place: Path
    address: str
    environment: dict[str, str]

    @property
    def authority(self) -> Path:
        return self.place / "authority" / "ca.crt"

    def register(self, public_key: Path, name: str) -> None:
        """Register a key, as the coordinator does."""
        command = [BIN / "flwr", "supernode", "register", public_key, "here", "--name", name]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=90)


@contextmanager
def superlink(place: Path) -> Iterator[Link]:
    """Start a SuperLink in `place` and end it."""
    authority, home = place / "authority", place / "home"
    home.mkdir(parents=True)
    create_authority(authority, "consortium")
    issue_server_certificate(authority, ["127.0.0.1"])
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\n'
        f'root-certificates = "{authority / "ca.crt"}"\n'
    )
    (place / "secret").write_bytes(b"s" * 32)
    command = [
        *(BIN / "flower-superlink", "--host", "127.0.0.1", "--port", address.partition(":")[2]),
        *("--ssl-ca-certfile", authority / "ca.crt", "--ssl-certfile", authority / "server.crt"),
        *("--ssl-keyfile", authority / "server.key", "--enable-supernode-auth"),
        *("--isolation", "process", "--superexec-auth-secret-file", place / "secret"),
        *("--disable-runtime-dependency-installation", "--database", place / "state.db"),
    ]
    with (place / "superlink.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    try:
        _await(address, authority / "ca.crt", process)
        yield Link(place, address, environment)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(address: str, authority: Path, process: subprocess.Popen[bytes]) -> None:
    context = ssl.create_default_context(cafile=str(authority))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    for _ in range(600):
        assert process.poll() is None
        try:
            opener.open(f"https://{address}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the SuperLink did not come up")
