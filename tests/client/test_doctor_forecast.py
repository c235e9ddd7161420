"""Before a site agrees it reads how good the axes of a private atlas would be, and on what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.config import load_site_config
from client.doctor_forecast import check_forecast
from client.dry_run import rehearse
from mfm_core.config import dump_yaml
from mfm_core.public_basis import smooth_pictures
from mfm_core.public_pictures import PUBLIC_FILE, write_public
from strategies.config import RunConfig
from tests.client.test_private_release import ATLAS_RUN
from tests.server.hospitals import lay_out

PICTURES = (255 * smooth_pictures((1, 32), 64, 3)).astype(np.uint8)


def run_with(noise: float, **privacy: object) -> RunConfig:
    content = ATLAS_RUN.model_dump()
    atlas = {**content["privacy"]["atlas"], "noise_multiplier": noise}
    return RunConfig.model_validate({**content, "privacy": {"atlas": atlas, **privacy}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("forecast"), run=ATLAS_RUN)


def test_little_noise_is_fine_and_much_is_warned_of(folder: Path) -> None:
    config = load_site_config(folder / "sites" / "0.yaml")
    (fine,) = check_forecast(config, run_with(1e-3))
    assert fine.level == "ok" and "cosine" in fine.text and "under the" not in fine.text
    (poor,) = check_forecast(config, run_with(50.0))
    assert poor.level == "warn" and "axes would be of little use" in poor.advice
    assert not (config.state_folder / "privacy.jsonl").exists()


def test_a_run_without_a_private_atlas_is_not_forecast(folder: Path) -> None:
    plain = ATLAS_RUN.model_copy(update={"privacy": type(ATLAS_RUN.privacy)()})
    assert list(check_forecast(load_site_config(folder / "sites" / "0.yaml"), plain)) == []


def test_the_named_pictures_are_looked_at_and_used(folder: Path) -> None:
    wanted = write_public(folder, PICTURES)
    run = run_with(2.0, public_pictures=wanted)
    dump_yaml(run, folder / "run.yaml")
    config = load_site_config(folder / "sites" / "0.yaml")
    good, forecast = check_forecast(config, run)
    assert good.level == "ok" and "64 public pictures" in good.text
    (other,) = check_forecast(config, run_with(2.0))
    assert forecast.text != other.text
    rows = rehearse(config, run, folder / "rehearsal", lambda done, of: None)
    assert "cosine" in next(row for row in rows if row.kind == "latent_sums").forecast
    (folder / PUBLIC_FILE).unlink()
    (missing,) = check_forecast(config, run)
    assert missing.level == "fail" and "is missing" in missing.text and "kit" in missing.advice
