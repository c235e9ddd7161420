"""Is this site's key registered with the coordinator, asked without joining anything.

A signed request to activate the node with a heartbeat interval that the SuperLink must refuse: it
looks the key up first (2004 when it is not registered) and refuses the interval afterwards (2003),
so both answers tell and nothing changes, even while the site's SuperNode is connected. Private
interfaces of flwr 1.41, pinned and covered by a test against a real SuperLink.

What cannot be known from outside: which run the coordinator will start, and whether the site is on
its list of admitted sites. The run that this site accepts is compared with the kit instead.
What crosses the hospital's boundary: the public key and a signed time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.error import FlowerError
from flwr.supercore.error.base import ApiErrorCode
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.finding import Finding

IMPOSSIBLE_INTERVAL_S = -1.0
"""No SuperLink accepts it; it is only looked at once the key was found."""

Answer = Literal["registered", "unknown", "signature", "version", "other"]


@dataclass(frozen=True)
class Registration:
    """What the SuperLink said about a key."""

    answer: Answer
    text: str = ""


def ask_registration(
    address: str, authority: Path, key: ec.EllipticCurvePrivateKey
) -> Registration:
    """Return whether a key is registered.

    Raises:
        httpx.HTTPError, OSError: the server cannot be reached.
    """
    public = key.public_key()
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(public), heartbeat_interval=IMPOSSIBLE_INTERVAL_S
    )
    with FleetHttpClient.from_server_address(
        address,
        False,
        authority.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, public),
        ],
    ) as client:
        try:
            client.ActivateNode(request)
        except httpx.HTTPStatusError as error:
            return _read(error.response)
    return Registration("other", "the SuperLink accepted an impossible request")


def _read(reply: httpx.Response) -> Registration:
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        return Registration("signature", reply.text[:200])
    error = FlowerError.from_json(reply.text)
    if error is None:
        return Registration("other", f"HTTP {reply.status_code}")
    answers: dict[int, Answer] = {
        ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL: "registered",
        ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED: "unknown",
        ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE: "version",
    }
    return Registration(answers.get(error.code, "other"), f"[{error.code}] {error.message}")


def judge(found: Registration) -> Finding:
    """Return the finding for people."""
    part = "registration"
    if found.answer == "registered":
        return Finding(part, "ok", "the coordinator has registered this site's key")
    if found.answer == "unknown":
        return Finding(
            part,
            "fail",
            "the coordinator does not know this site's key",
            "send request.json to the coordinator, who runs `mfm-server site add`",
        )
    if found.answer == "signature":
        return Finding(
            part,
            "fail",
            "the server refuses the signed request",
            "set the clock by NTP; it also happens where a proxy removes headers",
        )
    if found.answer == "version":
        return Finding(part, "fail", f"other version of Flower: {found.text}", "install the kit's")
    return Finding(part, "warn", f"unclear answer: {found.text}", "ask the coordinator")
