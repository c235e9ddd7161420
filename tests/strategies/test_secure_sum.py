"""The secure sum: the sum and nothing else, whoever drops out, lies or asks for too much."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest

from mfm_core.errors import UpdateRejected
from strategies.ring import Masked, from_ring, to_ring
from strategies.secure_sum import (
    Advert,
    Roster,
    SiteKeys,
    Told,
    advertise,
    mask,
    masks_left,
    reveal,
    share_secrets,
)

SIZES = (300, 40)
STEPS = 2
ASKED = "a" * 64


class Consortium:
    """Sites with keys, their numbers, and the sealed shares as the server holds them."""

    def __init__(self, count: int) -> None:
        names = [f"site-{number}" for number in range(count)]
        self.keys = {name: SiteKeys("session", name, os.urandom(32)) for name in names}
        self.roster = Roster("session", tuple(advertise(k, STEPS) for k in self.keys.values()))
        self.sealed = {name: share_secrets(k, self.roster) for name, k in self.keys.items()}
        draw = np.random.default_rng(count)
        self.sums = {name: draw.normal(0, 1e4, SIZES[1]) for name in names}
        self.updates = {name: draw.integers(-127, 128, SIZES[0]).astype(np.int16) for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        return self.roster.names

    def plain(self, name: str) -> Masked:
        return Masked(self.updates[name].view(np.uint16), to_ring(self.sums[name]))

    def masked(self, name: str, step: int, participants: tuple[str, ...]) -> Masked:
        return mask(self.keys[name], self.roster, step, (participants, ASKED), self.plain(name))

    def revealed(self, name: str, told: Told, fewest: int = 3) -> dict[str, bytes]:
        known = (peer for peer in told.participants if peer in self.sealed)
        inbox = {peer: self.sealed[peer][name][told.step] for peer in known}
        return reveal(self.keys[name], self.roster, told, inbox, fewest)

    def total(self, told: Told, answering: tuple[str, ...]) -> tuple[Masked, tuple[str, ...]]:
        """Return the sum as the server finds it when `answering` give shares."""
        total = Masked(np.zeros(SIZES[0], np.uint16), np.zeros(SIZES[1], np.uint64))
        for name in told.survivors:
            total = total.plus(self.masked(name, told.step, told.participants))
        shares = {name: self.revealed(name, told) for name in answering}
        left, liars = masks_left(self.roster, told, shares, SIZES, ASKED)
        return total.minus(left), liars

    def assert_right(self, total: Masked, survivors: tuple[str, ...]) -> None:
        update = sum(self.updates[name].astype(int) for name in survivors)
        np.testing.assert_array_equal(total.update.view(np.int16), update)
        expected = sum(self.sums[name] for name in survivors)
        np.testing.assert_allclose(from_ring(total.total), expected, atol=5e-9)


@pytest.fixture(scope="module")
def five() -> Consortium:
    return Consortium(5)


@pytest.mark.parametrize("count", [3, 4, 8])
def test_the_sum_of_all_sites_comes_out_exactly(count):
    sites = Consortium(count)
    told = Told(0, sites.names, sites.names)
    total, liars = sites.total(told, sites.names)
    sites.assert_right(total, sites.names)
    assert liars == ()


def test_whoever_drops_out_before_or_after_sending_the_rest_is_summed(five):
    for gone in five.names:
        left = tuple(name for name in five.names if name != gone)
        before, _ = five.total(Told(0, five.names, left), left)
        five.assert_right(before, left)
        after, _ = five.total(Told(1, five.names, five.names), left)
        five.assert_right(after, five.names)


def test_one_exchange_tells_nothing_of_another(five):
    """Shares of exchange 0 that give a dropped site's pair key leave its exchange 1 masked."""
    left = five.names[1:]
    told = Told(0, five.names, left)
    shares = {name: five.revealed(name, told) for name in left}
    with pytest.raises(UpdateRejected, match="promised secret"):
        masks_left(five.roster, replace(told, step=1), shares, SIZES, ASKED)


def test_a_single_sites_numbers_look_random_and_differ_each_time(five):
    name = five.names[0]
    first, second = (five.masked(name, step, five.names) for step in (0, 1))
    assert not np.array_equal(first.update, second.update)
    for found in (first, second):
        plain = five.plain(name)
        share = np.corrcoef(found.update.astype(float), plain.update.astype(float))[0, 1]
        assert abs(share) < 6 / len(plain.update) ** 0.5
        high = (found.total >> np.uint64(63)).mean()
        assert 0.05 < high < 0.95  # of 40 numbers: 1e-9 by chance


def test_a_server_that_tells_two_stories_about_a_site_cannot_unmask_it(five):
    """With five sites, four must tell one story; the rest are too few for the other one."""
    victim = five.names[0]
    others = five.names[1:]
    dropped = Told(0, five.names, others)
    arrived = Told(0, five.names, five.names)
    for size in range(1, len(others) + 1):
        for fooled in itertools.combinations(others, size):
            honest = tuple(name for name in five.names if name not in fooled)
            pair = {name: five.revealed(name, dropped) for name in fooled}
            own = {name: five.revealed(name, arrived) for name in honest}
            right = 0
            for shares, told in ((pair, dropped), (own, arrived)):
                kept = {name: {victim: given[victim]} for name, given in shares.items()}
                try:
                    masks_left(
                        five.roster, replace(told, **one_of(told, victim)), kept, SIZES, ASKED
                    )
                    right += 1
                except UpdateRejected:
                    pass
            assert right < 2, "both secrets of one site could be put together"


def one_of(told: Told, victim: str) -> dict[str, tuple[str, ...]]:
    """Return a story about the victim alone, for a server that cares for nobody else."""
    alone = (victim,)
    return {"participants": alone, "survivors": alone if victim in told.survivors else ()}


def test_a_site_refuses_small_or_strange_groups(five):
    stories = [
        (Told(0, five.names[:3], five.names[:3]), "participants"),
        (Told(0, (*five.names, "stranger"), five.names), "participants"),
        (Told(0, (*five.names[:4], five.names[0]), five.names), "participants"),
        (Told(0, five.names, five.names[:3]), "survivors"),
        (Told(0, five.names, five.names[1:]), "survivors"),
        (Told(0, five.names[:4], five.names), "survivors"),
        (Told(0, five.names, (five.names[0],) * 5), "survivors"),
    ]
    for told, reason in stories:
        with pytest.raises(UpdateRejected) as caught:
            five.revealed(five.names[0], told)
        assert caught.value.reason == reason, told
    with pytest.raises(UpdateRejected, match="expected at least 6"):
        five.revealed(five.names[0], Told(0, five.names, five.names), fewest=6)


def test_tampered_replayed_and_swapped_shares_are_refused(five):
    me, peer = five.names[0], five.names[1]
    told = Told(0, five.names, five.names)
    inbox = {name: five.sealed[name][me][0] for name in five.names}
    altered = bytearray(inbox[peer])
    altered[20] ^= 1
    wrong = (
        {**inbox, peer: bytes(altered)},
        {**inbox, peer: five.sealed[peer][me][1]},  # of another exchange
        {**inbox, peer: five.sealed[peer][five.names[2]][0]},  # for another site
        {**inbox, peer: inbox[five.names[2]]},  # of another site
        {name: sealed for name, sealed in inbox.items() if name != peer},
    )
    for box in wrong:
        with pytest.raises(UpdateRejected) as caught:
            reveal(five.keys[me], five.roster, told, box, 3)
        assert caught.value.reason == "tampered"


def test_a_site_that_gives_wrong_shares_is_named_and_the_sum_is_right(five):
    told = Told(0, five.names, five.names)
    shares = {name: five.revealed(name, told) for name in five.names}
    liar = five.names[2]
    shares[liar] = {name: share[:4] + os.urandom(48) for name, share in shares[liar].items()}
    left, liars = masks_left(five.roster, told, shares, SIZES, ASKED)
    assert liars == (liar,)
    total = five.masked(five.names[0], 0, five.names)
    for name in five.names[1:]:
        total = total.plus(five.masked(name, 0, five.names))
    five.assert_right(total.minus(left), five.names)


def test_sites_that_were_asked_different_things_add_up_to_noise(five):
    """Weights or a step width made for one site would single out its answer in the sum."""
    told = Told(0, five.names, five.names)
    total = five.masked(five.names[0], 0, five.names)
    for name in five.names[1:]:
        asked = (five.names, "b" * 64)
        total = total.plus(mask(five.keys[name], five.roster, 0, asked, five.plain(name)))
    shares = {name: five.revealed(name, told) for name in five.names}
    for request in (ASKED, "b" * 64):
        left, _ = masks_left(five.roster, told, shares, SIZES, request)
        found = np.abs(from_ring(total.minus(left).total))
        assert np.quantile(found, 0.25) > 1e6, "the masks cancelled"  # chance alone: < 1e-6


def least_told_twelve_stories() -> tuple[Consortium, dict[str, dict[str, bytes]]]:
    """Return twelve sites, each told that three others of the last four had dropped out."""
    sites = Consortium(12)
    late, shares = sites.names[8:], {}
    for number, name in enumerate(sites.names):
        kept = late[number % 4] if name not in late else name
        gone = set(late) - {kept}
        left = tuple(other for other in sites.names if other not in gone)
        shares[name] = sites.revealed(name, Told(0, sites.names, left))
    return sites, shares


def test_twelve_stories_open_a_sum_of_more_than_half_and_of_no_fewer():
    """What the module says a lying server may learn at most; nine must survive in each story."""
    sites, shares = least_told_twelve_stories()
    early = sites.names[:8]
    assert sites.roster.threshold == 9
    told = Told(0, sites.names, early)
    total = Masked(np.zeros(SIZES[0], np.uint16), np.zeros(SIZES[1], np.uint64))
    for name in early:
        total = total.plus(sites.masked(name, 0, sites.names))
    left, _ = masks_left(sites.roster, told, told_apart(sites, shares), SIZES, ASKED)
    sites.assert_right(total.minus(left), early)
    fewer = replace(told, survivors=early[:7])
    with pytest.raises(UpdateRejected, match="promised secret"):
        masks_left(sites.roster, fewer, told_apart(sites, shares), SIZES, ASKED)


def told_apart(
    sites: Consortium, shares: dict[str, dict[str, bytes]]
) -> dict[str, dict[str, bytes]]:
    """Return the shares without those that belong to a survivor's own mask of the late four."""
    late = sites.names[8:]
    keep = {}
    for number, name in enumerate(sites.names):
        own = late[number % 4] if name not in late else name
        keep[name] = {peer: share for peer, share in shares[name].items() if peer != own}
    return keep


def test_too_few_shares_give_no_sum(five):
    told = Told(0, five.names, five.names)
    shares = {name: five.revealed(name, told) for name in five.names[:3]}
    with pytest.raises(UpdateRejected, match="4 are needed"):
        masks_left(five.roster, told, shares, SIZES, ASKED)


def test_a_roster_must_be_whole_and_of_different_sites(five):
    adverts = five.roster.adverts
    first = adverts[0]
    zero = replace(first, channel=bytes(32))
    wrong: list[tuple[Advert, ...]] = [
        adverts[:2],
        (*adverts, first),
        (replace(first, pairs=first.pairs[:1]), *adverts[1:]),
        (replace(first, channel=b"short"), *adverts[1:]),
        (replace(first, channel=adverts[1].channel), *adverts[1:]),
        (replace(first, pairs=(first.pairs[0], first.pairs[0])), *adverts[1:]),
    ]
    for parts in wrong:
        with pytest.raises(UpdateRejected) as caught:
            Roster("session", parts)
        assert caught.value.reason == "roster"
    with pytest.raises(UpdateRejected, match="not usable"):
        share_secrets(five.keys[five.names[1]], Roster("session", (zero, *adverts[1:])))


def test_another_roster_opens_nothing(five):
    """A server that shows each site another roster cannot have its shares opened."""
    stranger = SiteKeys("session", five.names[4], os.urandom(32))
    other = Roster("session", (*five.roster.adverts[:4], advertise(stranger, STEPS)))
    me = five.names[0]
    inbox = {name: five.sealed[name][me][0] for name in five.names}
    with pytest.raises(UpdateRejected, match="altered"):
        reveal(five.keys[me], other, Told(0, five.names, five.names), inbox, 3)
