"""A record of a leak audit, as the client writes it."""

from __future__ import annotations

from typing import Any


def record(**changed: Any) -> dict[str, Any]:
    """Return a whole record; some keys changed."""
    hits = [{"rate": rate, "value": 0.03, "interval": [0.01, 0.2]} for rate in (0.01, 0.001)]
    strength = {"auc": 0.61, "auc_interval": [0.56, 0.66], "hits": hits,
                "members": 200, "others": 90}  # fmt: skip
    row = {"seen": "release", "strength": strength, "bound": None, "expected_auc": None,
           "judged": True}  # fmt: skip
    redrawn = {"ssim": 0.9, "psnr_db": 30.1, "rank": 1, "chance_rank": 145.5, "among": 290,
               "blind_ssim": 0.7}  # fmt: skip
    return {
        "site": "north",
        "date": "2026-01-02",
        "final_hash": None,
        "weights_hash": "ab" * 32,
        "config_hash": "cd" * 32,
        "members": 200,
        "others": 90,
        "shared": 0,
        "private": True,
        "masked": False,
        "atlas_patients": 310.0,
        "latent_size": 512,
        "bound": None,
        "epsilon": {"epsilon": 4.2, "delta": 1e-6, "unit": "patient", "noise": ["secret"]},
        "limits": {"auc": 0.55, "tpr": 0.02, "end": "high"},
        "attacks": [
            {**row, "name": "membership, head, simple", "verdict": "leaks",
             "bound": {"auc": 0.7, "hits": [0.1, 0.02]}},
            {**row, "name": "class means of the atlas", "verdict": "open", "expected_auc": 0.8},
            {**row, "name": "canaries, head", "verdict": "", "seen": "nobody"},
        ],
        "inversion": {"single": [redrawn], "update": redrawn, "matching_steps": 5,
                      "round_steps": 40},
        "canaries": {"inserted": 32, "images_beside": 100, "steps": 40, "bits": {"head": 1.5},
                     "most_bits": 5.0, "chance_bits": 1.3},
        "drawings": [
            {"class": "<none>", "members": 20, "others": 9, "member_distance": 0.05,
             "other_distance": 0.06, "p": 0.4},
            {"class": "rare"},
        ],
        "nearest_p": 0.4,
        "missing": ["LiRA and its control: no time for shadow models; give more --minutes"],
        **changed,
    }  # fmt: skip
