"""Each way in which a hospital cannot reach its coordinator, over real TLS on loopback."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client.doctor_network import (
    PROXY_VARIABLES,
    check_name,
    check_network,
    judge_clock,
    proxy_of,
    shown_certificate,
)
from client.finding import Finding
from server.certificates import create_authority, issue_server_certificate
from strategies.onboarding import Kit
from tests.client.tls_server import gateway


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    create_authority(folder, "consortium")
    issue_server_certificate(folder, ["127.0.0.1"])
    return folder


def kit(address: str) -> Kit:
    hashes_ = {"run_hash": "a" * 64, "bundle_hash": "b" * 64, "receipt_key": "c" * 64}
    return Kit(consortium="three", address=address, site="north", **hashes_)


def look(authority: Path, address: str) -> dict[str, Finding]:
    """Return the worst finding per part."""
    order = ("ok", "warn", "fail")
    found: dict[str, Finding] = {}
    for finding in check_network(kit(address), authority / "ca.crt"):
        before = found.get(finding.part)
        if before is None or order.index(finding.level) > order.index(before.level):
            found[finding.part] = finding
    return found


def test_a_good_server_is_good_in_every_part(authority: Path) -> None:
    with gateway(authority) as port:
        found = look(authority, f"127.0.0.1:{port}")
    assert {part: finding.level for part, finding in found.items()} == dict.fromkeys(
        ("proxy", "name", "certificate", "server", "clock"), "ok"
    )


@pytest.mark.parametrize(
    ("ahead", "level"),
    [(0.0, "ok"), (5.0, "warn"), (30.0, "fail"), (-30.0, "warn"), (-600.0, "fail")],
)
def test_the_clock_is_compared_with_the_servers_date(
    authority: Path, ahead: float, level: str
) -> None:
    """At the limit itself nobody can tell, whatever part of its second the server is in."""
    with gateway(authority, ahead_s=ahead) as port:
        clock = look(authority, f"127.0.0.1:{port}")["clock"]
    assert clock.level == level
    assert ("behind" in clock.text) == (ahead < 0) or ahead == 0


def test_a_server_without_date_leaves_the_clock_open(authority: Path) -> None:
    with gateway(authority, date=False) as port:
        assert look(authority, f"127.0.0.1:{port}")["clock"].level == "warn"


@pytest.mark.parametrize("ahead", [5.6, 1e5])
def test_what_flower_surely_refuses_fails_and_what_it_may_refuse_warns(ahead: float) -> None:
    assert judge_clock(ahead, 0.5).level == "fail"
    assert judge_clock(5.2, 0.5).level == "warn"


def test_another_authority_is_named_with_who_issued_the_certificate(
    authority: Path, tmp_path: Path
) -> None:
    create_authority(tmp_path, "somebody else")
    issue_server_certificate(tmp_path, ["127.0.0.1"])
    with gateway(tmp_path) as port:
        found = look(authority, f"127.0.0.1:{port}")
    assert found["certificate"].level == "fail"
    assert "somebody else" in found["certificate"].text
    assert "server" not in found and "clock" not in found


def test_a_certificate_for_another_name_is_told_apart(authority: Path, tmp_path: Path) -> None:
    sign(authority, tmp_path, "elsewhere.example", days=30.0)
    with gateway(tmp_path) as port:
        found = look(authority, f"127.0.0.1:{port}")
    assert found["certificate"].level == "fail" and "not for 127.0.0.1" in found["certificate"].text


@pytest.mark.parametrize(("days", "level"), [(-1.0, "fail"), (10.0, "warn"), (60.0, "ok")])
def test_days_left_of_the_server_certificate(
    authority: Path, tmp_path: Path, days: float, level: str
) -> None:
    sign(authority, tmp_path, "127.0.0.1", days=days)
    with gateway(tmp_path) as port:
        found = look(authority, f"127.0.0.1:{port}")
    assert found["certificate"].level == level
    if level == "fail":
        assert "ended" in found["certificate"].text and "clock" not in found


def sign(authority: Path, place: Path, name: str, days: float) -> None:
    """Write server.crt and server.key with one name and a chosen end."""
    signer = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate((authority / "ca.crt").read_bytes())
    key = ec.generate_private_key(ec.SECP384R1())
    now = datetime.datetime.now(datetime.UTC)
    shown: x509.GeneralName = x509.DNSName(name)
    if name[0].isdigit():
        import ipaddress

        shown = x509.IPAddress(ipaddress.ip_address(name))
    made = (
        x509.CertificateBuilder(
            issuer.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            key.public_key(),
            x509.random_serial_number(),
        )
        .not_valid_before(now - datetime.timedelta(days=5))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([shown]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA384())
    )
    (place / "server.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (place / "server.key").write_bytes(private)


def test_a_refused_connection_is_told_apart_from_a_wrong_protocol(authority: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused = look(authority, f"127.0.0.1:{port}")["server"]
    assert refused.level == "fail" and "refuses the connection" in refused.text
    with socket.socket() as plain:
        plain.bind(("127.0.0.1", 0))
        plain.listen()
        import threading

        def answer() -> None:
            link, _ = plain.accept()
            with link:
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        other = look(authority, f"127.0.0.1:{plain.getsockname()[1]}")["server"]
        thread.join()
    assert other.level == "fail" and "TLS" in other.text


@pytest.mark.parametrize(("status", "words"), [(502, "behind it"), (404, "expected 200")])
def test_a_gateway_without_its_superlink_is_not_healthy(
    authority: Path, status: int, words: str
) -> None:
    with gateway(authority, status=status) as port:
        found = look(authority, f"127.0.0.1:{port}")["server"]
    assert found.level == "fail" and words in found.text


def test_an_open_control_interface_is_seen(authority: Path) -> None:
    with gateway(authority, docs=200) as port:
        found = look(authority, f"127.0.0.1:{port}")["server"]
    assert found.level == "warn" and "control" in found.text


def test_a_name_that_does_not_resolve_fails_unless_a_proxy_resolves_it() -> None:
    assert check_name("no-such-host.invalid", 443, behind_proxy=False).level == "fail"
    assert check_name("no-such-host.invalid", 443, behind_proxy=True).level == "warn"


def test_requests_go_through_the_proxy_that_is_set(
    authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", f"http://somebody:secret@{proxy}")
    with gateway(authority) as port:
        found = look(authority, f"localhost:{port}")
        assert found["proxy"].level == "warn" and proxy in found["proxy"].text
        assert found["server"].level == "fail"
        assert "secret" not in str(found)
        monkeypatch.setenv("NO_PROXY", "localhost")
        assert look(authority, f"localhost:{port}")["server"].level == "ok"


def test_socks_is_refused_before_anything_is_tried() -> None:
    assert proxy_of("a.example", {"ALL_PROXY": "socks5://p:1"}) == "socks5://p:1"
    assert proxy_of("a.example", {"HTTP_PROXY": "http://p:1"}) is None
    assert proxy_of("a.example", {"https_proxy": "http://p:1", "no_proxy": ".example"}) is None


def test_a_damaged_authority_ends_the_network_part(authority: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")
    with gateway(authority) as port:
        found = look(tmp_path, f"127.0.0.1:{port}")
    assert found["certificate"].level == "fail" and "server" not in found


def test_the_shown_certificate_is_read_without_trust(authority: Path) -> None:
    with gateway(authority) as port:
        shown = shown_certificate("127.0.0.1", port)
    assert shown is not None and 390 < shown.days_left() < 398 and not shown.authority
    assert shown_certificate("127.0.0.1", 9, timeout_s=1.0) is None
