"""What is kept of replies: loss per image, figures, and what private sites spent."""

from __future__ import annotations

import numpy as np

from mfm_core.evaluation import metric_sum
from server.round_facts import spent_facts, spent_note, training_facts
from strategies.answers import spent_sum, training_sum
from strategies.collector import Pooled
from tests.client.private_hospital import PRIVATE_RUN
from tests.server.hospitals import RUN


def test_losses_are_means_by_image() -> None:
    nobody = np.zeros(2, dtype=np.int64)
    counts = metric_sum(np.zeros((2, 2)), nobody, np.ones(2), nobody, 0, seed=0)
    total = training_sum(counts, {"loss": 3.0}, 4).merge(training_sum(counts, {"loss": 1.0}, 12))
    facts = training_facts(RUN, total, 16)
    assert facts["loss"] == {"loss": 1.5} and set(facts["val"]) == {"macro_auc", "accuracy", "ssim"}


def test_what_was_spent_is_kept_by_site_and_only_of_private_runs() -> None:
    noted = {name: spent_note(spent_sum(e, 2)) for name, e in (("north", 1.5), ("south", 4.0))}
    pooled = Pooled(0, None, spent_sum(5.5, 4), {n: {"images": 0, **r} for n, r in noted.items()})
    found = spent_facts(PRIVATE_RUN, pooled)["spent"]
    assert found["per_site"]["south"] == {"epsilon": 4.0, "rounds": 2}
    assert spent_note(None) == {} == spent_facts(RUN, Pooled(0, None, None, {}))
