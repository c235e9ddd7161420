"""A sum that the server reads while it cannot read what any single site put in.

    1  every site makes keys for each exchange to come and shows the public halves (advertise)
    2  every site hands each other site sealed shares of its keys (share_secrets)
    3  every site adds masks to its numbers: one per pair of sites, which cancel in the sum, and
       one of its own (mask)
    4  the sites that are left give shares: of the own mask of each site whose numbers arrived, of
       the pair keys of each site whose numbers did not, never of both (reveal); the server takes
       the masks off the sum (masks_left)

Keys of one exchange say nothing about those of another, so steps 1 and 2 are done once for all
exchanges of a session. A pair of sites derives its mask from X25519 and HKDF-SHA256.

What it protects, with authentic public keys and no site in league with the server: one that tells
all sites the same learns the sum of at least `threshold` of them and nothing else. One that tells
each site another story of who dropped out learns at most one sum of more than half of the sites
(up to nine sites: of `threshold`), because both secrets of a site would need 2 x threshold answers.
One that asks sites different questions (other weights, another step width) learns nothing, since
their masks do not cancel. What it does not: a server that invents sites (keys must be known to be
theirs: `signature`), a site that puts in wrong numbers, the sum itself.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", figure 4, without its consistency check, which the threshold above two thirds replaces in
part; masks bound to the question: Pasquini et al. 2022, "Eluding Secure Aggregation in Federated
Learning via Model Inconsistency", section 7. What crosses the hospital's
boundary: public keys, sealed shares, masked numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mfm_core.errors import UpdateRejected
from strategies.ring import MOST_SITES, Masked, stream
from strategies.secret_shares import SHARE_BYTES, join_shares, seal, split_secret, unseal

KEY_BYTES = 32
FEWEST_SITES = 3
"""Of two sites each could subtract its own numbers and read the other's."""


@dataclass(frozen=True)
class SiteKeys:
    """A site's secret of one session; every key of it follows from `master`.

    Attributes:
        session: name of the session, made by the server, never used twice.
        site: the site's name.
        master: 32 random bytes that never leave.
    """

    session: str
    site: str
    master: bytes

    def channel(self) -> X25519PrivateKey:
        """Return the key under which other sites seal shares for this one."""
        return X25519PrivateKey.from_private_bytes(_derive(self.master, self.session, "channel"))

    def pair_secret(self, step: int) -> bytes:
        """Return the private key of this exchange's pair masks."""
        return _derive(self.master, self.session, f"pair {step}")

    def own_secret(self, step: int) -> bytes:
        """Return the key of this exchange's own mask."""
        return _derive(self.master, self.session, f"own {step}")


@dataclass(frozen=True)
class Advert:
    """What a site shows of its keys.

    Attributes:
        site: its name.
        channel: public key for sealed shares.
        pairs: one public key per exchange.
        promises: SHA-256 of the own mask's key, per exchange.
        public: the node key's public half, a compressed point of P-384; empty in a simulation.
        signature: of `signed_bytes` with the node key (ECDSA, SHA-384); empty in a simulation.
    """

    site: str
    channel: bytes
    pairs: tuple[bytes, ...]
    promises: tuple[bytes, ...]
    public: bytes = b""
    signature: bytes = b""

    def signed_bytes(self, session: str) -> bytes:
        """Return what the signature is about."""
        parts = [self.public, self.channel, *self.pairs, *self.promises]
        content = [session, self.site, [part.hex() for part in parts]]
        return b"mfm secure sum 1\0" + json.dumps(content).encode()


@dataclass(frozen=True)
class Roster:
    """The sites of one session, in the order of their names.

    Raises:
        UpdateRejected: "roster"; too few or too many sites, a name twice, keys that do not fit.
    """

    session: str
    adverts: tuple[Advert, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "adverts", tuple(sorted(self.adverts, key=lambda a: a.site)))
        names, steps = self.names, {len(advert.pairs) for advert in self.adverts}
        if not FEWEST_SITES <= len(names) <= MOST_SITES:
            raise UpdateRejected(
                "roster", f"{len(names)} sites; a secure sum takes {FEWEST_SITES} to {MOST_SITES}"
            )
        if len(set(names)) < len(names):
            raise UpdateRejected("roster", "a site stands twice in the roster")
        fits = len(steps) == 1 and all(_whole(advert) for advert in self.adverts)
        if not fits:
            raise UpdateRejected("roster", "a site shows keys of another number or length")
        shown = [part for a in self.adverts for part in (a.channel, *a.pairs, *a.promises)]
        if len(set(shown)) < len(shown):
            raise UpdateRejected("roster", "a key stands twice in the roster")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the sites' names, sorted."""
        return tuple(advert.site for advert in self.adverts)

    @property
    def threshold(self) -> int:
        """Return how many sites must answer at least: more than two thirds, never below three."""
        return max(FEWEST_SITES, 2 * len(self.adverts) // 3 + 1)

    def of(self, site: str) -> Advert:
        """Return the keys that a site showed."""
        return next(advert for advert in self.adverts if advert.site == site)

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 (hex) of the roster, which all its sites must share."""
        parts = b"\0".join(advert.signed_bytes(self.session) for advert in self.adverts)
        return hashlib.sha256(parts).hexdigest()


@dataclass(frozen=True)
class Told:
    """What the server says about one exchange, to every site in the same words.

    Attributes:
        step: index of the exchange in the session, from 0.
        participants: sites that mask with each other, sorted.
        survivors: those of them whose numbers arrived, sorted.
    """

    step: int
    participants: tuple[str, ...]
    survivors: tuple[str, ...]

    @property
    def dropped(self) -> tuple[str, ...]:
        """Return the participants whose numbers did not arrive."""
        return tuple(name for name in self.participants if name not in self.survivors)


def advertise(keys: SiteKeys, steps: int) -> Advert:
    """Return the public halves of a site's keys for this many exchanges, not signed."""
    pairs = (keys.pair_secret(step) for step in range(steps))
    return Advert(
        keys.site,
        keys.channel().public_key().public_bytes_raw(),
        tuple(_public(secret) for secret in pairs),
        tuple(_promise(keys.own_secret(step)) for step in range(steps)),
    )


def share_secrets(keys: SiteKeys, roster: Roster) -> dict[str, tuple[bytes, ...]]:
    """Return, for each site of the roster, one sealed pair of shares per exchange."""
    sealed: dict[str, list[bytes]] = {name: [] for name in roster.names}
    for step in range(len(roster.adverts[0].pairs)):
        split = partial(split_secret, threshold=roster.threshold, names=roster.names)
        pair, own = split(keys.pair_secret(step)), split(keys.own_secret(step))
        for name in roster.names:
            key, about = _seal_key(keys, roster, (keys.site, name), step)
            sealed[name].append(seal(key, pair[name] + own[name], about))
    return {name: tuple(parts) for name, parts in sealed.items()}


def check_participants(
    roster: Roster, site: str, participants: Sequence[str], fewest: int = FEWEST_SITES
) -> None:
    """Return if a site may mask its numbers among these participants.

    Raises:
        UpdateRejected: "participants"; too few, unknown or twice, or this site is not among them.
    """
    known = set(participants) <= set(roster.names) and len(set(participants)) == len(participants)
    if not known or site not in participants:
        raise UpdateRejected("participants", "the participants are not those of the roster")
    most = max(fewest, roster.threshold)
    if len(participants) < most:
        raise UpdateRejected(
            "participants", f"{len(participants)} participants, expected at least {most}"
        )


def mask(
    keys: SiteKeys, roster: Roster, step: int, asked: tuple[Sequence[str], str], plain: Masked
) -> Masked:
    """Return a site's numbers under its masks of one exchange.

    Args:
        keys: the site's, of the session.
        roster: all sites of the session.
        step: the exchange; a step's keys must serve once (`client` burns them).
        asked: the participants, checked with `check_participants`, and the hash of all that this
            site was asked (`secure_layout.request_hash`). Masks cancel only between sites that
            were asked the same: weights made for one site, or a step width for one, open nothing.
        plain: the site's numbers in the ring.
    """
    (names, request), sizes = asked, plain.sizes
    masked = plain.plus(_own_mask(keys.own_secret(step), sizes))
    for peer in names:
        if peer != keys.site:
            shared = _pair_key(keys.pair_secret(step), roster.of(peer), step)
            pair = _pair_mask(shared, (keys.site, peer), request, sizes)
            masked = masked.plus(pair) if keys.site < peer else masked.minus(pair)
    return masked


def check_told(roster: Roster, site: str, told: Told, fewest: int = FEWEST_SITES) -> None:
    """Return if a site may give shares for this exchange; asked before any of its keys is spent.

    Raises:
        UpdateRejected: "participants" or "survivors".
    """
    check_participants(roster, site, told.participants, fewest)
    inside = set(told.survivors) <= set(told.participants)
    enough = len(set(told.survivors)) >= max(fewest, roster.threshold)
    if not (inside and enough and site in told.survivors):
        raise UpdateRejected("survivors", "too few survivors, or not this exchange's participants")


def reveal(
    keys: SiteKeys, roster: Roster, told: Told, inbox: Mapping[str, bytes], fewest: int
) -> dict[str, bytes]:
    """Return one share per participant, of one of its two keys and never of both.

    Of the own mask where its numbers arrived, of the pair key where they did not.

    Args:
        keys: the site's, of the session.
        roster: all sites of the session.
        told: who took part and whose numbers arrived; a site answers this once per exchange.
        inbox: what each participant sealed for this site in this exchange.
        fewest: the site's own limit of contributing sites.

    Raises:
        UpdateRejected: "participants", "survivors" or "tampered".
    """
    check_told(roster, keys.site, told, fewest)
    shares = {}
    for name in told.participants:
        key, about = _seal_key(keys, roster, (name, keys.site), told.step)
        opened = unseal(key, inbox.get(name, b""), about)
        pair, own = opened[:SHARE_BYTES], opened[SHARE_BYTES:]
        shares[name] = own if name in told.survivors else pair
    return shares


def masks_left(
    roster: Roster,
    told: Told,
    revealed: Mapping[str, Mapping[str, bytes]],
    sizes: tuple[int, int],
    request: str,
) -> tuple[Masked, tuple[str, ...]]:
    """Return what must be taken off the survivors' sum, and the sites that gave wrong shares.

    Args:
        roster: of the session.
        told: what the sites were told.
        revealed: shares by the site that gave them.
        sizes: P and S of the numbers.
        request: hash of what all sites were asked.

    Raises:
        UpdateRejected: "shares"; not enough right ones.
    """
    left = Masked(np.zeros(sizes[0], np.uint16), np.zeros(sizes[1], np.uint64))
    liars: set[str] = set()
    for name in told.survivors:
        promise = roster.of(name).promises[told.step]
        own, wrong = _recover(roster, revealed, name, partial(_keeps, promise))
        left, liars = left.plus(_own_mask(own, sizes)), liars | set(wrong)
    for name in told.dropped:
        public = roster.of(name).pairs[told.step]
        secret, wrong = _recover(roster, revealed, name, partial(_opens, public))
        liars |= set(wrong)
        for peer in told.survivors:
            shared = _pair_key(secret, roster.of(peer), told.step)
            pair = _pair_mask(shared, (name, peer), request, sizes)
            left = left.minus(pair) if name < peer else left.plus(pair)
    return left, tuple(sorted(liars))


def _recover(
    roster: Roster,
    revealed: Mapping[str, Mapping[str, bytes]],
    name: str,
    is_right: Callable[[bytes], bool],
) -> tuple[bytes, tuple[str, ...]]:
    """Return a site's secret of one exchange from the shares that the survivors gave."""
    given = {sender: shares[name] for sender, shares in revealed.items() if name in shares}
    return join_shares(given, roster.threshold, is_right)


def _own_mask(secret: bytes, sizes: tuple[int, int]) -> Masked:
    return _expand(secret, "own mask", sizes)


def _pair_key(secret: bytes, peer: Advert, step: int) -> bytes:
    return _agree(X25519PrivateKey.from_private_bytes(secret), peer.pairs[step])


def _pair_mask(
    shared: bytes, pair: tuple[str, str], request: str, sizes: tuple[int, int]
) -> Masked:
    """Return the mask that two sites share: added by the first by name, subtracted by the other."""
    return _expand(shared, json.dumps([*sorted(pair), request]), sizes)


def _expand(secret: bytes, about: str, sizes: tuple[int, int]) -> Masked:
    update, total = (_derive(secret, about, part) for part in ("update", "sum"))
    return Masked(stream(update, sizes[0], np.uint16), stream(total, sizes[1], np.uint64))


def _seal_key(
    keys: SiteKeys, roster: Roster, way: tuple[str, str], step: int
) -> tuple[bytes, bytes]:
    """Return the key for shares on their way from one site to another, and what they are about."""
    sender, receiver = way
    peer = roster.of(receiver if sender == keys.site else sender)
    shared = _agree(keys.channel(), peer.channel)
    about = json.dumps([roster.session, roster.hash, sender, receiver, step])
    return _derive(shared, roster.session, about), about.encode()


def _agree(own: X25519PrivateKey, public: bytes) -> bytes:
    """Return the secret that two sites share.

    Raises:
        UpdateRejected: "roster"; the public key is one that gives everybody the same secret.
    """
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise UpdateRejected("roster", "a public key of the roster is not usable") from None


def _derive(secret: bytes, session: str, purpose: str) -> bytes:
    """Return 32 bytes for one purpose (HKDF-SHA256, RFC 5869)."""
    info = json.dumps(["mfm secure sum 1", session, purpose]).encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _promise(secret: bytes) -> bytes:
    return hashlib.sha256(b"own mask\0" + secret).digest()


def _keeps(promise: bytes, secret: bytes) -> bool:
    return _promise(secret) == promise


def _opens(public: bytes, secret: bytes) -> bool:
    return _public(secret) == public


def _whole(advert: Advert) -> bool:
    """Return whether all of an advert's keys have the right length, and equally many."""
    parts = (advert.channel, *advert.pairs, *advert.promises)
    equal = len(advert.pairs) == len(advert.promises) > 0
    return equal and all(len(part) == KEY_BYTES for part in parts)
