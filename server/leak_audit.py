"""LeakAudit: the result of attacks on a released model, as it lies beside a run in leak_audit.json.

    {"final_hash": "<of the run that was attacked, or left out>",
     "weights_hash": "<of the weights that were attacked, or left out>",
     "attacks": [{"name": "LiRA", "auc": 0.51, "auc_interval": [0.49, 0.53],
                  "tpr_at_1_fpr": 0.011, "tpr_interval": [0.006, 0.018],
                  "n": 4000, "date": "2026-11-20"}]}

Whoever runs an attack writes the file (a site: `mfm-client audit --privacy`); intervals are 95 %
ones and may be null.
What crosses a hospital's boundary: nothing; the figures hold no patient.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from mfm_core.config import Name, Part, problems_of
from mfm_core.errors import ConfigError

LEAK_AUDIT = "leak_audit.json"

Share = Annotated[float, Field(ge=0, le=1)]


class Attack(Part):
    """What one attack reached."""

    name: Name = Field(description="Name of the attack.")
    auc: Share = Field(description="AUC of telling members from others; 0.5 is guessing.")
    auc_interval: tuple[Share, Share] | None = Field(None, description="Its 95 % interval.")
    tpr_at_1_fpr: Share = Field(description="True-positive rate at 1 % false positives.")
    tpr_interval: tuple[Share, Share] | None = Field(None, description="Its 95 % interval.")
    n: int = Field(ge=1, description="Cases attacked, members and others together.")
    date: datetime.date = Field(description="Day of the attack, YYYY-MM-DD.")

    @model_validator(mode="after")
    def _values_lie_in_their_intervals(self) -> Self:
        pairs = (("auc", self.auc, self.auc_interval),
                 ("tpr_at_1_fpr", self.tpr_at_1_fpr, self.tpr_interval))  # fmt: skip
        for name, value, ends in pairs:
            if ends is not None and not ends[0] <= value <= ends[1]:
                raise ValueError(
                    f"{name} is {value:g}, outside its interval {ends[0]:g} to {ends[1]:g}"
                )
        return self

    @property
    def strength(self) -> tuple[float, float | None]:
        """Return the AUC and its upper end, either way round.

        An attack that is wrong more often than right tells as much as one that is right.
        """
        value = max(self.auc, 1.0 - self.auc)
        if self.auc_interval is None:
            return value, None
        low, high = self.auc_interval
        return value, max(high, 1.0 - low)


class LeakAudit(Part):
    """All attacks on one model."""

    final_hash: str | None = Field(
        None, description="final_hash of the attacked run; None: the file names no run."
    )
    weights_hash: str | None = Field(
        None, description="weights_hash of the attacked model, which a site knows by itself."
    )
    attacks: tuple[Attack, ...] = Field(description="One row an attack; may be empty.")


def read_leak_audit(folder: Path) -> LeakAudit | None:
    """Return the leak audit beside a run, None where there is none.

    Raises:
        ConfigError: not JSON, or wrong; all problems are listed.
    """
    path = folder / LEAK_AUDIT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return LeakAudit.model_validate(content)
    except ValidationError as error:
        raise ConfigError(str(path), problems_of(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), [f"not JSON: {error}"]) from None
