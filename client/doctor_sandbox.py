"""Which parts of the working process's sandbox would be in force on this machine.

They are tried, not guessed: a throw-away child confines itself as the real one does and says what
held. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from client.config import SiteConfig
from client.finding import Finding
from client.sandbox import PARTS
from strategies.code_hash import bundle_folder

LIMIT_S = 30.0

ADVICE = {
    "ends with its parent": "after a kill of the node look for a process `client.child` and end it",
    "no new privileges": "start the node with no new privileges (systemd: NoNewPrivileges=yes)",
    "memory limit": "set limits.max_memory_gib in site.yaml",
    "no network": "let unprivileged users make namespaces (sysctl user.max_user_namespaces above "
    "0; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0), or keep the node's user from "
    "every address but the coordinator's in the firewall",
    "images read-only": "mount data.root read-only, or let the node's user not write in it",
}
"""What to do about a part that is not in force."""


def try_sandbox(config: SiteConfig) -> dict[str, bool]:
    """Return which of PARTS hold in a child that confines itself; none where it cannot start."""
    memory = config.limits.memory_bytes or 0
    command = [sys.executable, "-m", "client.sandbox", str(config.data.root), str(memory)]
    try:
        done = subprocess.run(
            command,
            cwd=bundle_folder(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=True,
        )
        found = json.loads(done.stdout)
        return {name: bool(found[name]) for name in PARTS}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return dict.fromkeys(PARTS, False)


def check_sandbox(config: SiteConfig) -> Iterator[Finding]:
    """Yield one line of what holds, and one for each part that does not."""
    found = try_sandbox(config)
    held = ", ".join(name for name in PARTS if found[name])
    yield Finding("sandbox", "ok", f"in force for the working process: {held or 'nothing'}")
    for name in PARTS:
        if not found[name]:
            yield Finding("sandbox", "warn", f"not in force: {name}", ADVICE[name])
