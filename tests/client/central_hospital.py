"""The tiny run with central DP, for tests of sites and servers."""

from __future__ import annotations

from strategies.config import RunConfig
from tests.client.private_hospital import PRIVATE_RUN

CLIP = 0.004


def central_run(
    secure: bool = False, trainable: str = "head", rounds: int = 1, **central: object
) -> RunConfig:
    """Return the run; the head alone gets noise, which is quick, and epsilon stays below 8."""
    content = {**PRIVATE_RUN.model_dump(), "rounds": rounds}
    content["audit"] = {"enabled": False}
    content["privacy"] = {
        "training": "central",
        "noise_multiplier": 4.0,
        "trainable": trainable,
        "central": {"clip": CLIP, **central},
        "unprotected": ["latent_sums", "evaluate"],
    }
    if secure:
        content["secure_sum"] = {"enabled": True, "updates": "exact", "min_sites": 3}
    return RunConfig.model_validate(content)
