"""A private run may start its linear path from public pictures; other runs start as seeded."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import flat_weights, load_flat_weights
from mfm_core.public_basis import smooth_pictures
from strategies.config import RunConfig
from strategies.starting_weights import first_weights
from tests.server.hospitals import RUN

PICTURES = (255 * smooth_pictures((1, 32), 64, 0)).astype(np.uint8)
PLAIN = {
    **RUN.model_dump(),
    "statistics": {"refit_head": False},
    "mitigation": {},
    "audit": {"enabled": False},
}
PRIVATE = RunConfig.model_validate(
    {
        **PLAIN,
        "privacy": {
            "training": "dp_sgd",
            "unprotected": ["latent_sums", "evaluate"],
            "public_pictures": "0" * 64,
        },
    }
)


def test_only_a_private_run_starts_from_them() -> None:
    seeded = flat_weights(build_autoencoder(RUN.model, RUN.image, 2, RUN.seed))
    np.testing.assert_array_equal(first_weights(RUN, PICTURES), seeded)
    np.testing.assert_array_equal(first_weights(PRIVATE), seeded)
    assert not np.array_equal(first_weights(PRIVATE, PICTURES), seeded)


def test_its_mean_image_is_then_theirs() -> None:
    model = build_autoencoder(RUN.model, RUN.image, 2, RUN.seed)
    load_flat_weights(model, first_weights(PRIVATE, PICTURES))
    path = model.linear_path
    assert path is not None
    np.testing.assert_allclose(
        path.mean_image.detach().numpy()[0], PICTURES.mean(axis=0) / 255, atol=1e-5
    )


def test_pictures_without_a_use_are_refused() -> None:
    with pytest.raises(ValidationError, match="public_pictures belong to"):
        RunConfig.model_validate({**PLAIN, "privacy": {"public_pictures": "0" * 64}})
