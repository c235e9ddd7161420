"""What a SuperLink says about a key, asked without joining; a real one where marked slow."""

from __future__ import annotations

import datetime
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.keys import create_site, read_key
from client.registration import Registration, ask_registration, judge
from tests.client.superlink import superlink


@pytest.mark.parametrize(
    ("answer", "level", "advice"),
    [
        ("registered", "ok", ""),
        ("unknown", "fail", "request.json"),
        ("signature", "fail", "NTP"),
        ("version", "fail", "install"),
        ("other", "warn", "coordinator"),
    ],
)
def test_each_answer_says_what_to_do(answer: str, level: str, advice: str) -> None:
    found = judge(Registration(answer))  # type: ignore[arg-type]
    assert found.level == level and advice in found.advice


def test_a_server_that_is_not_there_is_an_error_of_the_network(tmp_path: Path) -> None:
    from server.certificates import create_authority

    create_authority(tmp_path, "consortium")
    with pytest.raises((httpx.HTTPError, OSError)):
        key = ec.generate_private_key(ec.SECP384R1())
        ask_registration("127.0.0.1:9", tmp_path / "ca.crt", key)


@pytest.mark.slow
def test_a_real_superlink_tells_known_keys_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract with flwr 1.41: the key is looked up before the impossible interval is refused."""
    one, two = (create_site(tmp_path / name, name) for name in ("one", "two"))

    def ask(folder: object, ahead_s: float = 0.0) -> str:
        def now() -> datetime.datetime:
            return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead_s)

        monkeypatch.setattr("flwr.supernode.node_auth_http_interceptor.now", now)
        return ask_registration(link.address, link.authority, read_key(folder)).answer  # type: ignore[arg-type]

    with superlink(tmp_path / "link") as link:
        link.register(one.public_key, "one")
        assert [ask(one), ask(two), ask(one)] == ["registered", "unknown", "registered"]
        assert [ask(one, 30.0), ask(one, -400.0), ask(one)] == [
            *("signature", "signature", "registered")
        ]
        assert "Activated node_id" not in (link.place / "superlink.log").read_text()
