"""How a site's own words become the consortium's classes and attribute values.

DESIGN section 4: the mapping belongs to the site and never leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

REST = "*"
SEPARATOR = "|"
UNKNOWN = -1

Mapped = Mapping[str, str | None]


class UnknownWord(ValueError):
    """A word has no place in the vocabulary; the text says which and what to do."""


def mapping_problems(mapping: Mapped, targets: Sequence[str], place: str) -> list[str]:
    """Return one line per entry of a mapping whose target is not one of `targets`."""
    return [
        f"{place}.{word}: {target!r} is not one of {', '.join(targets)}"
        for word, target in mapping.items()
        if target is not None and target not in targets
    ]


def look_up(word: str, mapping: Mapped, targets: Sequence[str]) -> int | None:
    """Return the index into `targets`, None to drop, -1 for an empty word that is not mapped.

    The mapping comes first, then the target's own name, then the mapping's `*`.

    Raises:
        UnknownWord: none of these knows the word.
    """
    known = _explicit(word, mapping, targets)
    if known is not _NOWHERE:
        return known
    if not word:
        return UNKNOWN
    if REST in mapping:
        return _index(mapping[REST], targets)
    raise UnknownWord(_unknown(word, mapping, targets))


def look_up_label(label: str, mapping: Mapped, targets: Sequence[str]) -> int | None:
    """Return the class index of a label that may hold several words joined by `|`.

    A label is looked up whole first. Otherwise its parts decide: the one class that parts are
    mapped to (or are named like) wins over parts that are dropped and over `*`; parts that name
    two classes are a problem, because an image has one class here. `*` speaks only where no part
    names a class; the row is dropped (None) when every part is.

    Raises:
        UnknownWord: an unknown word, or parts of different classes.
    """
    if SEPARATOR not in label or _explicit(label, mapping, targets) is not _NOWHERE:
        return look_up(label, mapping, targets)
    parts = [part.strip() for part in label.split(SEPARATOR) if part.strip()]
    found = {part: _explicit(part, mapping, targets) for part in parts}
    unknown = [part for part in parts if found[part] is _NOWHERE]
    if unknown and REST not in mapping:
        raise UnknownWord(_unknown(unknown[0], mapping, targets) + f" (in {label!r})")
    named = {index for index in found.values() if index is not None and index is not _NOWHERE}
    if len(named) > 1:
        names = " and ".join(targets[index] for index in sorted(named))
        raise UnknownWord(f"{label!r} is {names} at once; map the whole label to one class")
    if named:
        return named.pop()
    return _index(mapping[REST], targets) if unknown else None


_NOWHERE = -2
"""Stands for 'neither mapped nor a target's name'; never leaves this module."""


def _explicit(word: str, mapping: Mapped, targets: Sequence[str]) -> int | None:
    if word in mapping and word != REST:
        return _index(mapping[word], targets)
    return targets.index(word) if word in targets else _NOWHERE


def _index(target: str | None, targets: Sequence[str]) -> int | None:
    return None if target is None else targets.index(target)


def _unknown(word: str, mapping: Mapped, targets: Sequence[str]) -> str:
    near = get_close_matches(word, [*targets, *mapping], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{word!r} is neither mapped nor one of {', '.join(targets)}; {hint}add it to the mapping"
    )
