"""Whose keys a secure sum uses: a server that swaps, invents or replays them is refused."""

from __future__ import annotations

from dataclasses import replace
from logging import getLogger
from types import SimpleNamespace

import pytest

from client import site as client_site
from client.config import LimitsConfig
from client.keys import create_site, read_request
from client.secure_peers import FILE, check_peers, read_peers, sign_advert
from client.site import open_site
from mfm_core.errors import TooFewSites, UpdateRejected
from server.journal import read_lines
from strategies.onboarding import fingerprint
from strategies.plan import plan_of
from strategies.secure_layout import advert_bytes, pack_advert, unpack_advert
from strategies.secure_sum import Advert, Roster, SiteKeys, advertise
from tests.server.hospitals import lay_out
from tests.strategies.test_secure_rounds import EXACT, again, tampering
from tests.strategies.test_secure_rounds import NAMES as SITES

NAMES = ("a", "b", "c")


class Hospitals:
    """Three hospitals with node keys, and the adverts that they sign."""

    def __init__(self, root) -> None:
        self.folders = {name: create_site(root / name, name) for name in NAMES}

    def site(self, name="a", **limits):
        folder = self.folders[name]
        settings = LimitsConfig.model_validate({"accepted_runs": ["any"], **limits})
        config = SimpleNamespace(name=name, state_folder=folder.root / "state", limits=settings)
        config.state_folder.mkdir(exist_ok=True)
        return SimpleNamespace(config=config, node_key=folder.key, log=getLogger("site"))

    def advert(self, name, session="s") -> Advert:
        keys = SiteKeys(session, name, name.encode() * 32)
        signed = sign_advert(self.site(name), session, advertise(keys, 2))
        return unpack_advert(name, 2, pack_advert(signed))

    def roster(self, **changed) -> Roster:
        return Roster("s", tuple(changed.get(name, self.advert(name)) for name in NAMES))

    def pins(self) -> dict[str, str]:
        named = {name: read_request(folder) for name, folder in self.folders.items()}
        return {name: fingerprint(request.public_key) for name, request in named.items()}


@pytest.fixture
def hospitals(tmp_path) -> Hospitals:
    return Hospitals(tmp_path)


def refused(site, roster) -> str:
    with pytest.raises(UpdateRejected) as caught:
        check_peers(site, roster)
    assert caught.value.reason == "peers"
    return str(caught.value)


def invented(hospitals, root, name="b") -> Advert:
    """Return an advert in a site's name, signed well with another key: the server's."""
    server = create_site(root / "server", name)
    keys = SiteKeys("s", name, b"z" * 32)
    site = SimpleNamespace(node_key=server.key, log=getLogger("site"))
    return sign_advert(site, "s", advertise(keys, 2))


def test_signed_adverts_are_accepted_and_their_keys_written_down(hospitals):
    site = hospitals.site()
    check_peers(site, hospitals.roster())
    pins = hospitals.pins()
    assert read_peers(site.config.state_folder) == {name: pins[name] for name in "bc"}
    check_peers(site, hospitals.roster())
    check_peers(hospitals.site(peers=pins), hospitals.roster())


def test_a_server_that_puts_its_own_keys_under_a_sites_name_is_refused(hospitals, tmp_path):
    fake = invented(hospitals, tmp_path)
    pinned = hospitals.site(peers=hospitals.pins())
    assert "b has key" in refused(pinned, hospitals.roster(b=fake))
    assert not (pinned.config.state_folder / FILE).exists(), "nothing of it is kept"
    seen = hospitals.site()
    check_peers(seen, hospitals.roster())
    assert "b has key" in refused(seen, hospitals.roster(b=fake)), "known from before"


def test_altered_unsigned_and_replayed_adverts_are_refused(hospitals):
    site, good = hospitals.site(), hospitals.advert("b")
    swapped = replace(good, channel=bytes(range(32)))
    wrong = {
        "signature is wrong": (
            swapped,
            replace(good, promises=good.promises[::-1]),
            replace(good, signature=good.signature[:-1]),
            replace(good, public=good.public[:-1]),
            replace(good, public=hospitals.advert("c").public),
            hospitals.advert("b", session="earlier"),
        ),
        "not signed": (replace(good, signature=b""), replace(good, public=b"", signature=b"")),
    }
    for text, adverts in wrong.items():
        for advert in adverts:
            assert text in refused(site, hospitals.roster(b=advert))
    assert not read_peers(site.config.state_folder)


def test_one_key_behind_two_names_and_sites_without_a_pin_are_refused(hospitals):
    keys = SiteKeys("s", "c", b"y" * 32)
    twin = sign_advert(hospitals.site("b"), "s", advertise(keys, 2))
    assert "one key" in refused(hospitals.site(), hospitals.roster(c=twin))
    pins = hospitals.pins()
    del pins["c"]
    assert "c is not in limits.peers" in refused(hospitals.site(peers=pins), hospitals.roster())


def test_all_problems_are_told_at_once_and_a_damaged_file_trusts_nobody(hospitals):
    site = hospitals.site()
    bare = {name: replace(hospitals.advert(name), signature=b"") for name in "bc"}
    text = refused(site, hospitals.roster(**bare))
    assert "b shows" in text and "c shows" in text
    (site.config.state_folder / FILE).write_text("[1")
    assert "damaged" in refused(site, hospitals.roster())


def test_a_simulated_site_signs_nothing_and_says_so(hospitals, caplog):
    site = SimpleNamespace(**{**vars(hospitals.site()), "node_key": None})
    advert = advertise(SiteKeys("s", "a", b"a" * 32), 2)
    with caplog.at_level("WARNING"):
        assert sign_advert(site, "s", advert) == advert
    assert "not signed (simulation)" in caplog.text
    bare = [replace(hospitals.advert(name), public=b"", signature=b"") for name in NAMES]
    check_peers(site, Roster("s", tuple(bare)))


def test_a_fingerprint_in_the_settings_must_be_one():
    with pytest.raises(ValueError, match="43 characters, not so for b"):
        LimitsConfig.model_validate({"accepted_runs": ["any"], "peers": {"b": "abc"}})


def last_sites_key(data: bytearray) -> None:
    """Change the channel key that the last site of a roster shows."""
    data[-advert_bytes(len(plan_of(EXACT)))] ^= 1


def test_in_a_whole_run_keys_are_signed_and_a_swapped_one_is_refused(tmp_path):
    lay_out(tmp_path, SITES, EXACT)
    for index, name in enumerate(SITES):
        path = tmp_path / "sites" / f"{index}.yaml"
        key = create_site(tmp_path / "hospitals" / name, name).key
        client_site._SITES[path.resolve()] = replace(open_site(path), node_key=key)
    assert again(tmp_path, "out").done == 5
    assert set(read_peers(tmp_path / "state" / "west")) == set(SITES[:3])
    swap = tampering("secure_shares", last_sites_key)
    with pytest.raises(TooFewSites, match="secure_shares"):
        again(tmp_path, "swapped", {0: swap, 1: swap})
    (line,) = [f for f in read_lines(tmp_path / "swapped") if f["phase"] == "secure_shares"]
    assert [line["sites"][name] for name in SITES[:2]] == ["refused:peers"] * 2
