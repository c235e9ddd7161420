"""Reads files of many studies: everything stands below one key that names their kind.

What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mfm_core.config import Part, problems_of, read_yaml
from mfm_core.errors import ConfigError
from simulation.config import override

Kind = TypeVar("Kind", bound=Part)


def read_one_key(
    path: Path, key: str, kind: type[Kind], settings: Mapping[str, str] | None
) -> tuple[Kind, list[str]]:
    """Return what stands below the key, and the problem of each key beside it.

    Args:
        path: of the file.
        key: the one at the top.
        kind: of what stands below it.
        settings: values of `--set`, by dotted path.

    Raises:
        ConfigError: the key is missing, or what stands below it is wrong; all problems by path.
    """
    content = override(read_yaml(path), settings or {})
    if key not in content:
        found = ", ".join(map(str, content)) or "none"
        raise ConfigError(str(path), [f"expected the one key {key} at the top, found {found}"])
    beside = [f"{other}: stands beside {key}; put it below it" for other in content if other != key]
    try:
        return kind.model_validate(content[key]), beside
    except ValidationError as error:
        problems = [*beside, *problems_of(error, key)]
        raise ConfigError(str(path), problems) from None
