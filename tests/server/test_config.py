"""consortium.yaml: paths from its own folder, impossible quorums refused at load."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfm_core.errors import ConfigError
from server.config import load_consortium


def write(folder: Path, text: str) -> Path:
    path = folder / "consortium.yaml"
    path.write_text(text)
    return path


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    config = load_consortium(write(tmp_path, "sites: [a, b]\noutput: out\nrun: run.yaml\n"))
    assert (config.output, config.run) == (tmp_path / "out", tmp_path / "run.yaml")
    assert config.rules.sites == ("a", "b") and config.rules.quorum == 2


@pytest.mark.parametrize(
    "text",
    [
        "output: out\n",
        "sites: [a, a]\noutput: out\n",
        "sites: [a, b]\nquorum: 3\noutput: out\n",
        "simulated_sites: 2\nquorum: 3\noutput: out\n",
        "sites: [a, b]\noutput: out\ndeadline_s: 0\n",
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load_consortium(write(tmp_path, text))
