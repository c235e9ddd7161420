"""The site's half of the secure sum: what it refuses before any of its keys is spent."""

from __future__ import annotations

from logging import getLogger
from types import SimpleNamespace

import pytest

from client.config import LimitsConfig
from client.secure_site import answer_keys, check_agreed
from mfm_core.errors import LimitRefusal, UpdateRejected
from strategies.config import RunConfig
from strategies.plan import plan_of
from strategies.secure_layout import advert_bytes, pack_about, pack_roster, unpack_advert
from strategies.secure_sum import SiteKeys, advertise
from tests.server.hospitals import RUN

SECURE = RunConfig.model_validate({**RUN.model_dump(), "secure_sum": {"enabled": True}})


def site(folder, run=SECURE, name="a", **limits):
    settings = LimitsConfig.model_validate({"accepted_runs": ["any"], **limits})
    config = SimpleNamespace(name=name, state_folder=folder, limits=settings)
    return SimpleNamespace(
        config=config, run=run, config_hash="c" * 64, schema=None, node_key=None, log=getLogger("a")
    )


def refused(call, *arguments, error=UpdateRejected):
    with pytest.raises(error) as caught:
        call(*arguments)
    return getattr(caught.value, "reason", caught.value.code)


def test_keys_and_masks_are_used_exactly_where_they_were_agreed(tmp_path):
    plain, secure = site(tmp_path, RUN), site(tmp_path)
    assert refused(check_agreed, plain, "secure_keys", "{}") == "plan"
    assert refused(check_agreed, plain, "train", "{}") == "secure"
    assert refused(check_agreed, secure, "train", "") == "secure"
    check_agreed(plain, "train", "")
    check_agreed(secure, "train", "{}")
    check_agreed(secure, "hello", "")
    strict = site(tmp_path, RUN, require_secure_sum=True)
    assert refused(check_agreed, strict, "train", "", error=LimitRefusal) == "limit"
    check_agreed(strict, "hello", "")


def shown(site_, first=0):
    about = pack_about({"session": "s", "first": first})
    return answer_keys(site_, "secure_keys", about, b"").sealed


def test_keys_are_shown_for_the_exchanges_that_are_left(tmp_path):
    steps = len(plan_of(SECURE))
    assert len(shown(site(tmp_path))) == advert_bytes(steps)
    assert len(shown(site(tmp_path / "late"), steps - 2)) == advert_bytes(2)
    for first in (-1, steps, 10**6):
        assert refused(shown, site(tmp_path / str(first)), first) == "session"


def roster_of(mine, others):
    """Return names, steps and packed roster of this site's advert and of invented peers."""
    steps = len(plan_of(SECURE))
    adverts = {name: advertise(SiteKeys("s", name, name.encode() * 32), steps) for name in others}
    adverts["a"] = unpack_advert("a", steps, mine)
    return tuple(sorted(adverts)), pack_roster(adverts)


def share(site_, names, roster):
    about = pack_about({"session": "s", "first": 0, "names": names})
    return answer_keys(site_, "secure_shares", about, roster)


def test_shares_go_to_a_roster_that_is_large_enough_and_shows_this_sites_own_keys(tmp_path):
    mine = site(tmp_path)
    names, roster = roster_of(shown(mine), "bc")
    careful = site(tmp_path, min_secure_sites=4)
    assert refused(share, careful, names, roster) == "roster"
    assert refused(share, mine, ("x", "b", "c"), roster) == "roster"
    assert refused(share, mine, names, roster[:-1]) == "roster"
    assert share(mine, names, roster).sealed
    other = site(tmp_path / "other")
    shown(other)
    assert refused(share, other, names, roster) == "roster", "these are another site's keys"


def test_a_roster_does_not_change_in_a_session(tmp_path):
    mine = site(tmp_path)
    advert = shown(mine)
    share(mine, *roster_of(advert, "bc"))
    assert refused(share, mine, *roster_of(advert, "bcd")) == "roster"


def test_shares_are_not_opened_without_a_roster(tmp_path):
    about = pack_about(
        {"session": "s", "first": 0, "step": 0, "participants": "abc", "survivors": "abc"}
        | {"participants": ["a", "b", "c"], "survivors": ["a", "b", "c"]}
    )
    assert refused(answer_keys, site(tmp_path), "secure_unmask", about, b"") == "session"
