"""The tiny run with private training, for tests of sites that spend."""

from __future__ import annotations

from strategies.config import RunConfig
from tests.server.hospitals import RUN

PRIVATE_RUN = RunConfig.model_validate(
    {
        **RUN.model_dump(),
        "name": "private",
        "statistics": {"refit_head": False, "bootstrap_replicates": 0},
        "mitigation": {},
        "learning": {"training": {"batch_size": 4, "steps_per_round": 3}},
        "privacy": {
            "training": "dp_sgd",
            "noise_multiplier": 1.5,
            "unprotected": ["latent_sums", "evaluate", "audit"],
        },
    }
)
