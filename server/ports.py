"""Are the two ports of a consortium free, taken by the consortium itself, or by a stranger?

Who listens is told by the certificate that it shows. And is the gateway's program installed?
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from typing import Literal

from server.certificates import issued_by
from server.finding import Finding
from server.folder import Folder
from server.hosting import HostingConfig
from server.superlink import find_nginx, why_taken
from strategies.processes import split_address

PATIENCE_S = 3.0


def check_ports(hosting: HostingConfig, folder: Folder) -> Iterator[Finding]:
    """Yield one finding for each of the two ports, and one for the gateway's program."""
    for name, address in (("listen", hosting.listen), ("superlink", hosting.superlink)):
        yield check_port(name, address, folder)

    yield check_gateway(hosting.gateway)


def check_gateway(wanted: Literal["auto", "nginx", "builtin"]) -> Finding:
    """Return which program will stand before the SuperLink, and whether it is installed."""
    nginx = find_nginx()
    if wanted == "nginx" and nginx is None:
        advice = "install nginx, or set gateway: builtin"
        return Finding("ports", "fail", "gateway: nginx is not installed", advice)
    chosen = nginx if nginx is not None and wanted != "builtin" else "builtin"
    return Finding("ports", "ok", f"gateway: {chosen}")


def check_port(name: str, address: str, folder: Folder) -> Finding:
    """Return who has a port.

    Args:
        name: of the setting, for the advice.
        address: IP:port.
        folder: its certificates tell its own processes from strangers.
    """
    reason = why_taken(address)
    if not reason:
        return Finding("ports", "ok", f"{name} {address} is free")
    shown = shown_certificate(address)
    if shown is None:
        text = f"{name} {address} cannot be used ({reason})"
        return Finding("ports", "fail", text, f"stop what listens there, or change {name}")
    try:
        own = ssl.PEM_cert_to_DER_cert((folder.authority / "server.crt").read_text("ascii"))
        ours = issued_by(folder.authority, shown.encode())
    except (OSError, ValueError):
        own, ours = b"", False
    if own and own == ssl.PEM_cert_to_DER_cert(shown):
        return Finding("ports", "ok", f"{name} {address} is in use by this consortium")
    if ours:
        text = f"{name} {address} shows an earlier certificate of this consortium"
        return Finding("ports", "warn", text, "run `mfm-server stop` and `start`")
    text = f"{name} {address} is in use by another program"
    return Finding("ports", "fail", text, f"stop what listens there, or change {name}")


def shown_certificate(address: str) -> str | None:
    """Return the PEM certificate that a listener shows; None when it speaks no TLS."""
    host, port = split_address(address)
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    try:
        return ssl.get_server_certificate((host, port), timeout=PATIENCE_S)
    except (OSError, ValueError):
        return None
