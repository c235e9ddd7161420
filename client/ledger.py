"""The outbox ledger for a reader: what left, when and how much, and whether the list is whole.

What crosses the hospital's boundary: nothing; `outbox` writes the ledger, this only reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.config import load_site_config
from client.site import LEDGER
from mfm_core.errors import ConfigError
from strategies import chain


@dataclass(frozen=True)
class OutboxReading:
    """A ledger that was read and checked.

    Attributes:
        path: the file.
        lines: one record each, oldest first; empty when a line is not JSON.
        problems: what is wrong with the chain; empty when it is whole.
    """

    path: Path
    lines: list[dict[str, Any]]
    problems: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes that left in all."""
        sizes = [line.get("bytes") for line in self.lines]
        return sum(size for size in sizes if isinstance(size, int))


def read_outbox(site: Path, witness: Path | None = None) -> OutboxReading:
    """Return the ledger of the site whose settings lie at `site` (site.yaml).

    Args:
        site: the settings.
        witness: a coordinator's rounds.jsonl; every line it knows of this site must be here.

    Raises:
        ConfigError: the settings or the witness cannot be read.
    """
    config = load_site_config(site)
    path = config.state_folder / LEDGER
    problems = chain.verify(path, () if witness is None else read_witness(witness, config.name))
    try:
        lines = chain.read(path)
    except ValueError:
        lines = []
    return OutboxReading(path, lines, problems)


def read_witness(path: Path, name: str) -> tuple[str, ...]:
    """Return the hashes of a site's ledger lines that a coordinator's rounds.jsonl holds.

    Raises:
        ConfigError: not a rounds.jsonl, or one of a run without this site.
    """
    if not path.is_file():
        raise ConfigError(str(path), ["there is no such file; check the path"])
    try:
        ledgers = [line["ledgers"] for line in chain.read(path)]
        found = tuple(str(of_site[name]) for of_site in ledgers if name in of_site)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            str(path), ["expected the coordinator's rounds.jsonl, with 'ledgers' in every line"]
        ) from None
    if not found:
        raise ConfigError(
            str(path), [f"no line knows of site {name!r}; take the file of a run it took part in"]
        )
    return found


def table_of(read: OutboxReading) -> str:
    """Return the ledger as lines of text, a summary last."""
    rows = [f"{'time':24}  {'run':12}  {'round':>5}  {'kind':14}  {'images':>7}  {'bytes':>10}"]
    for line in read.lines:
        rows.append(
            f"{str(line.get('time', ''))[:24]:24}  {str(line.get('run', ''))[:12]:12}  "
            f"{line.get('round', '')!s:>5}  {line.get('kind', '')!s:14}  "
            f"{line.get('images', '')!s:>7}  {line.get('bytes', '')!s:>10}"
        )
    if not read.lines and not read.problems:
        rows = [f"Nothing has left this site yet ({read.path})."]
    rows += [f"PROBLEM: {problem}" for problem in read.problems]
    state = "the list is NOT whole" if read.problems else "the list is whole"
    return "\n".join([*rows, f"{len(read.lines)} records, {read.bytes} bytes; {state}."])
