"""The site's secret: kept, private, unlike any other site's."""

import stat
from pathlib import Path

from client.secret import BYTES, FILE, keep_secret, secret_seed


def test_a_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    first = keep_secret(tmp_path / "state")
    assert len(first) == BYTES
    assert keep_secret(tmp_path / "state") == first
    assert keep_secret(tmp_path / "state", b"another") == first
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE]


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    keep_secret(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_seeds_differ_between_sites_and_purposes_and_repeat(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    seeds = {secret_seed(one, "a"), secret_seed(other, "a"), secret_seed(one, "b")}
    assert len(seeds) == 3
    assert secret_seed(one, "a") in seeds
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_given_secret_gives_the_same_seeds_elsewhere(tmp_path: Path) -> None:
    for name in ("one", "other"):
        keep_secret(tmp_path / name, b"same")
    assert secret_seed(tmp_path / "one", "a") == secret_seed(tmp_path / "other", "a")
