"""Whose keys stand in the roster of a secure sum: signed by nodes that this site knows.

Every site signs its advert with its node key and sends the public half along. A peer's key is
compared with the fingerprint that `limits.peers` pins (`ssh-keygen -lf keys/node.pub` at the
peer); without pins with the one seen first, which is kept in the state folder. Pins alone stop a
server that invents the other sites from the start; what was seen first stops one that changes them
later. A site without a node key (simulation) signs and verifies nothing and says so in its log.
What crosses the hospital's boundary: the public key, a signature over public keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.keys import public_text_of, read_key_file
from client.site import Site
from mfm_core.errors import UpdateRejected
from mfm_core.whole_file import sync_folder, write_whole
from strategies.onboarding import fingerprint
from strategies.secure_sum import Advert, Roster

FILE = "secure_peers.json"
_ECDSA = ec.ECDSA(SHA384())


def sign_advert(site: Site, session: str, advert: Advert) -> Advert:
    """Return the advert with this node's public key and signature; as it is without a node key.

    Raises:
        ConfigError: the node key cannot be read.
    """
    if site.node_key is None:
        site.log.warning("secure sum: no node key here, the keys shown are not signed (simulation)")
        return advert
    key = read_key_file(site.node_key)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    shown = replace(advert, public=point)
    return replace(shown, signature=key.sign(shown.signed_bytes(session), _ECDSA))


def check_peers(site: Site, roster: Roster) -> None:
    """Return if every other site of a roster is known to this one; new ones are written down.

    Raises:
        UpdateRejected: "peers"; an advert is not signed, not by the pinned or known key, two sites
            share a key, or a site is not pinned. All problems are in the text.
    """
    pinned = site.config.limits.peers
    if site.node_key is None and not pinned:
        return
    folder = site.config.state_folder
    known, seen, problems = read_peers(folder), {}, []
    for advert in roster.adverts:
        if advert.site == site.config.name:
            continue
        try:
            seen[advert.site] = _signer(advert, roster.session)
        except ValueError as error:
            problems.append(f"{advert.site} {error}")
            continue
        wanted = pinned.get(advert.site) if pinned else known.get(advert.site, seen[advert.site])
        if wanted is None:
            problems.append(f"{advert.site} is not in limits.peers")
        elif wanted != seen[advert.site]:
            problems.append(f"{advert.site} has key {seen[advert.site]}, known is {wanted}")
    if len(set(seen.values())) < len(seen):
        problems.append("two sites show one key")
    if problems:
        raise UpdateRejected("peers", f"{'; '.join(problems)}. Ask those hospitals, by telephone")
    if seen != {name: known.get(name) for name in seen}:
        write_whole(folder / FILE, json.dumps({**known, **seen}, indent=1, sort_keys=True).encode())
        sync_folder(folder)


def read_peers(state: Path) -> Mapping[str, str]:
    """Return the fingerprints of the sites whose keys were accepted, by name.

    Raises:
        UpdateRejected: "peers"; the file is damaged.
    """
    path = state / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
        return {str(name): str(key) for name, key in found.items()}
    except (ValueError, AttributeError):
        raise UpdateRejected(
            "peers", f"{path} is damaged; restore it, or remove it and compare all keys anew"
        ) from None


def _signer(advert: Advert, session: str) -> str:
    """Return the fingerprint of the key that signed an advert.

    Raises:
        ValueError: it is not signed, or not by the key it shows.
    """
    if not advert.signature or not advert.public:
        raise ValueError("shows keys that are not signed")
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), advert.public)
        public.verify(advert.signature, advert.signed_bytes(session), _ECDSA)
    except (ValueError, InvalidSignature):
        raise ValueError("shows keys whose signature is wrong") from None
    return fingerprint(public_text_of(public))
