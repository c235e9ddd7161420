"""Names that lead back to nobody without the site's secret: keyed hashes of ids and UIDs.

A plain hash of a patient number is no protection, because all numbers can be tried; HMAC-SHA-256
(RFC 2104) under a key that never leaves can only be tried by who holds the key.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from client.secret import keep_secret

DIGITS = 20
"""Hexadecimal digits of a name, 80 bits: two of a million patients agree with odds of 1e-12."""


class Pseudonyms:
    """Hashes the site's ids; the same secret and id always give the same name.

    Args:
        secret: the site's secret (`client.secret.keep_secret`).
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def name(self, kind: str, value: str) -> str:
        """Return 20 hexadecimal digits for a value, "" for an empty one.

        Args:
            kind: what the value is ("patient", "study", ...): equal values of two kinds get
                names that do not resemble each other.
            value: as written in the file; spaces and NULs around it do not count.
        """
        bare = value.strip(" \0\t\r\n")
        if not bare:
            return ""
        text = f"mfm intake\0{kind}\0{bare}".encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:DIGITS]


def open_pseudonyms(state_folder: Path) -> Pseudonyms:
    """Return the names of a site, by the secret in its state folder (made on first use)."""
    return Pseudonyms(keep_secret(state_folder))
