"""Can the coordinator's gateway be reached: names, proxy, TCP, TLS, certificate, health, clock.

Everything goes the way a SuperNode's own requests go: the same HTTP client, the same proxy
variables, the kit's authority and no other. Nothing is signed and nothing of the site is sent.
What crosses the hospital's boundary: two requests without content, GET /health and GET /docs.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import ipaddress
import os
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from client.certificate import WARN_DAYS, Certificate, certificate_of, read_authority
from client.finding import Finding, Level
from client.kit import host_and_port
from mfm_core.errors import ConfigError
from strategies.onboarding import Kit

TIMEOUT_S = 10.0
AHEAD_S, BEHIND_S = 5.0, 305.0
"""Flower refuses a site whose clock is more than 5 s ahead or 305 s behind (flwr 1.41)."""

PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
HOSTNAME_MISMATCH, IP_MISMATCH, EXPIRED, NOT_YET = 62, 64, 10, 9
"""OpenSSL's X509_V_ERR_* of what people can do something about."""


@dataclass(frozen=True)
class Reached:
    """What GET /health gave.

    Attributes:
        status: HTTP status.
        certificate: what the server showed; None where a proxy hides it.
        ahead_s: how far this machine's clock is ahead of the server's, or None.
        unsure_s: by how much that may be wrong.
    """

    status: int
    certificate: Certificate | None
    ahead_s: float | None
    unsure_s: float


def check_network(kit: Kit, authority: Path) -> Iterator[Finding]:
    """Yield findings in the order in which a connection is made, up to one that stops it."""
    host, port = host_and_port(kit)
    proxy = proxy_of(host, os.environ)
    yield check_proxy(proxy)
    name = check_name(host, port, behind_proxy=proxy is not None)
    yield name
    try:
        yield judge_life(
            "authority", read_authority(authority), "ask the coordinator for a new kit"
        )
    except ConfigError as error:
        yield Finding("certificate", "fail", str(error), "join the kit again")
        return
    if name.level == "fail":
        return
    try:
        reached = reach(kit, authority)
    except (httpx.HTTPError, OSError) as error:
        yield explain_failure(error, kit, authority, behind_proxy=proxy is not None)
        return
    yield from judge(reached)
    yield check_hidden(kit, authority)


def proxy_of(host: str, environment: Mapping[str, str]) -> str | None:
    """Return the proxy that requests to `host` go through, without its password, or None."""
    values = {
        name: environment.get(name) or environment.get(name.lower()) for name in PROXY_VARIABLES
    }
    found = values["HTTPS_PROXY"] or values["ALL_PROXY"]
    if not found or _exempt(host, values["NO_PROXY"] or ""):
        return None
    return re.sub(r"//[^/@]*@", "//", found)


def _exempt(host: str, exceptions: str) -> bool:
    # The standard library has it and typeshed does not.
    exempt = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    return bool(exempt(host, {"no": exceptions}))


def check_proxy(proxy: str | None) -> Finding:
    """Return which proxy variables are set and what they do here."""
    given = [
        name for name in PROXY_VARIABLES if os.environ.get(name) or os.environ.get(name.lower())
    ]
    if proxy is None:
        how = f"{', '.join(given)} set, not used for this server" if given else "none set"
        return Finding("proxy", "ok", f"no proxy ({how})")
    if proxy.startswith("socks"):
        return Finding(
            "proxy", "fail", f"{proxy} speaks SOCKS", "a SuperNode needs an http:// proxy or none"
        )
    return Finding(
        "proxy",
        "warn",
        f"the server is reached through {proxy}",
        "it must pass TLS through unopened; `start` exempts this machine's own addresses itself",
    )


def check_name(host: str, port: int, *, behind_proxy: bool) -> Finding:
    """Return whether the host name resolves here; behind a proxy that is the proxy's business."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return Finding("name", "ok", f"{host} is an address, no name to resolve")
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port)})
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        advice = "ask IT to let this machine resolve it, or add it to /etc/hosts"
        if behind_proxy:
            advice = "the proxy resolves it; nothing to do if the server is reached below"
        level: Level = "warn" if behind_proxy else "fail"
        return Finding("name", level, f"{host}: {reason}", advice)
    return Finding("name", "ok", f"{host} is {', '.join(found)}")


def reach(kit: Kit, authority: Path) -> Reached:
    """Ask for /health and return what it tells.

    Raises:
        httpx.HTTPError, OSError: it cannot be reached or trusted.
    """
    with _client(kit, authority) as client:
        sent = time.time()
        with client.stream("GET", "/health") as reply:
            came = time.time()
            certificate = _shown(reply)
        ahead = None
        if stamp := reply.headers.get("date"):
            ahead = _ahead(stamp, (sent + came) / 2)
        return Reached(reply.status_code, certificate, ahead, (came - sent) / 2 + 0.5)


def _client(kit: Kit, authority: Path) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(authority))
    return httpx.Client(base_url=f"https://{kit.address}", verify=context, timeout=TIMEOUT_S)


def _shown(reply: httpx.Response) -> Certificate | None:
    stream = reply.extensions.get("network_stream")
    secured = stream.get_extra_info("ssl_object") if stream is not None else None
    der = secured.getpeercert(True) if secured is not None else None
    return certificate_of(der) if der else None


def _ahead(stamp: str, here: float) -> float | None:
    """Return the seconds this clock is ahead; the header counts whole seconds, cut off."""
    try:
        return here - (email.utils.parsedate_to_datetime(stamp).timestamp() + 0.5)
    except ValueError:
        return None


def judge(reached: Reached) -> Iterator[Finding]:
    """Yield certificate, health and clock."""
    if reached.certificate is not None:
        yield judge_life("server", reached.certificate, "the coordinator runs `mfm-server rotate`")
    yield judge_health(reached.status)
    yield judge_clock(reached.ahead_s, reached.unsure_s)


def judge_life(whose: str, found: Certificate, advice: str) -> Finding:
    """Return how long a certificate still lives."""
    left = found.days_left()
    text = f"{whose} certificate {found.subject} ends {found.not_after:%Y-%m-%d}, {left:.0f} days"
    if left < 0:
        return Finding("certificate", "fail", text, advice)
    if left < WARN_DAYS:
        return Finding("certificate", "warn", text, advice)
    return Finding("certificate", "ok", text)


def judge_health(status: int) -> Finding:
    """Return what the status of /health means."""
    if status == 200:
        return Finding("server", "ok", "GET /health: 200")
    if status in (502, 503, 504):
        text = f"GET /health: {status}, the gateway is there but not what is behind it"
        return Finding("server", "fail", text, "ask the coordinator: `mfm-server status`")
    advice = "check the address in kit/kit.json with the coordinator; another server may be there"
    return Finding("server", "fail", f"GET /health: {status}, expected 200", advice)


def judge_clock(ahead: float | None, unsure: float) -> Finding:
    """Return whether Flower accepts this clock."""
    if ahead is None:
        return Finding("clock", "warn", "the server sent no Date to compare with", "check NTP")
    word = "ahead of" if ahead >= 0 else "behind"
    text = f"{abs(ahead):.1f} s {word} the server's clock (known to {unsure:.1f} s)"
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC here"
    advice = (
        f"set the clock by NTP ({now}); a SuperNode is refused beyond 5 s ahead or 305 s behind"
    )
    if ahead - unsure > AHEAD_S or -ahead - unsure > BEHIND_S:
        return Finding("clock", "fail", text, advice)
    if ahead + unsure > AHEAD_S or -ahead + unsure > AHEAD_S:
        return Finding("clock", "warn", text, advice)
    return Finding("clock", "ok", text)


def check_hidden(kit: Kit, authority: Path) -> Finding:
    """Return whether the gateway shows more than a hospital needs; this site would suffer too."""
    try:
        with _client(kit, authority) as client:
            status = client.get("/docs").status_code
    except (httpx.HTTPError, OSError):
        return Finding("server", "warn", "the second request failed", "try again")
    if status == 200:
        return Finding(
            "server",
            "warn",
            "the coordinator's control interface is open at this address",
            "whoever reaches it can start runs; tell the coordinator to put the gateway before it",
        )
    return Finding("server", "ok", "only what a hospital needs is shown (/docs is not)")


def explain_failure(error: Exception, kit: Kit, authority: Path, *, behind_proxy: bool) -> Finding:
    """Return why the server could not be reached, from the whole chain of causes."""
    causes = _chain(error)
    refused = next((c for c in causes if isinstance(c, ssl.SSLCertVerificationError)), None)
    if refused is not None:
        return _explain_certificate(refused, kit, authority, behind_proxy=behind_proxy)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        text = f"{kit.address} answers, but does not speak TLS as expected ({causes[-1]})"
        return Finding("server", "fail", text, "check the port; a proxy may stand in between")
    if behind_proxy and any(isinstance(cause, httpx.ProxyError) for cause in causes):
        text = f"the proxy refuses the connection to {kit.address} ({error})"
        return Finding("proxy", "fail", text, "ask IT to allow CONNECT to this host and port")
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        who = "the proxy or the server" if behind_proxy else "nothing listens there"
        text = f"{kit.address} refuses the connection: {who}"
        advice = "the coordinator's gateway is down, or a firewall rejects it: ask both"
        return Finding("server", "fail", text, advice)
    if isinstance(error, httpx.TimeoutException):
        text = f"{kit.address} does not answer within {TIMEOUT_S:.0f} s"
        return Finding("server", "fail", text, "a firewall drops it: ask IT for outbound TCP there")
    return Finding("server", "fail", f"{kit.address}: {causes[-1]}", "ask IT and the coordinator")


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error, what caused it and so on; the last is the first cause."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _explain_certificate(
    error: ssl.SSLCertVerificationError, kit: Kit, authority: Path, *, behind_proxy: bool
) -> Finding:
    code = error.verify_code
    shown = None if behind_proxy else shown_certificate(*host_and_port(kit))
    by = f", issued by {shown.issuer}" if shown else ""
    if code in (HOSTNAME_MISMATCH, IP_MISMATCH):
        text = f"the server's certificate is not for {host_and_port(kit)[0]}"
        return Finding(
            "certificate", "fail", text, "the coordinator issues one for this name, or a new kit"
        )
    if code == EXPIRED:
        text = (
            f"the server's certificate has ended{f' ({shown.not_after:%Y-%m-%d})' if shown else ''}"
        )
        return Finding(
            "certificate",
            "fail",
            text,
            "the coordinator runs `mfm-server rotate`; check your clock",
        )
    if code == NOT_YET:
        text = "the server's certificate is not valid yet"
        return Finding("certificate", "fail", text, "this machine's clock is probably behind")
    return Finding(
        "certificate",
        "fail",
        f"the server's certificate is not from the kit's authority{by} ({error.verify_message})",
        f"either the address is wrong, or something opens TLS on the way; {authority.name} stays",
    )


def shown_certificate(host: str, port: int, timeout_s: float = TIMEOUT_S) -> Certificate | None:
    """Return the certificate a server shows, unchecked, only to tell people about it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    return certificate_of(der) if der else None
