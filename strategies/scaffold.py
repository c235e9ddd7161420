"""SCAFFOLD's part of a training round: the mean gradient goes out, each site's own comes back.

The server sends c, the mean by images of what the sites found in the round before (zeros in round
one); a site sends its c_i times its images beside the update, so the next c is a quotient of sums,
also under a secure sum. The paper's server adds changes of c_i over all sites that there are; with
every site in every round that is the same c. With the mean of those that answered, a site whose
answer was lost or whose files are gone does no harm beyond the round. A site without a c_i, because
it is new or was not there, starts from zeros.

What crosses the hospital's boundary: c_i times images, see `mfm_core.control_variates`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mfm_core.autoencoder import parameters_of
from mfm_core.errors import UpdateRejected
from mfm_core.sums import Schema, Sum

if TYPE_CHECKING:
    from strategies.config import RunConfig

CONTROL = "control"
"""Name of the array, in requests and replies, and of the sum that the server keeps."""


def control_schema(run: RunConfig) -> Schema:
    """Return the schema of c, as the server sends it: one number for each weight."""
    return ((CONTROL, (parameters_of(run.model, run.image, len(run.ontology.classes)),)),)


def control_told(run: RunConfig, kept: Sum | None) -> Sum:
    """Return c as the sites are sent it; zeros before there is one."""
    return kept or Sum({name: np.zeros(shape) for name, shape in control_schema(run)})


def with_control(total: Sum, found: NDArray[np.float32], images: int) -> Sum:
    """Return a training reply's Sum that also holds the site's c_i `[D]` times its images."""
    return Sum({**total.arrays, CONTROL: found.astype(np.float64) * images})


def mean_control(total: Sum, images: int) -> Sum:
    """Return the next c from the merged replies of so many images."""
    return Sum({CONTROL: total[CONTROL] / max(1, images)})


def check_control(total: Sum, images: int, max_norm: float) -> None:
    """Refuse a c_i longer than the longest update that was agreed.

    Raises:
        UpdateRejected: "norm".
    """
    norm = float(np.linalg.norm(total[CONTROL])) / max(1, images)
    if not norm <= max_norm:
        text = f"{CONTROL}: expected a norm of at most {max_norm:g}, found {norm:g}"
        raise UpdateRejected("norm", text)


def scaffold_problems(run: RunConfig) -> list[str]:
    """Return what SCAFFOLD cannot be combined with; empty for every other run."""
    if run.aggregation.kind != "scaffold":
        return []
    refused = {
        "privacy.training must be none: gradients leave without noise": (
            run.privacy.training != "none"
        ),
        "learning.trainable must be all: corrected are the gradients of all weights": (
            run.learning.trainable != "all"
        ),
        "learning.pseudo_labels.from_round must be 0: a training message has room for the class "
        "sums or the control variate": run.learning.pseudo_labels.from_round > 0,
        "aggregation.personal must be empty: a part of its own has no gradient of all sites": bool(
            run.aggregation.personal
        ),
        "aggregation.combine must be mean, without norm_bound: one site could still move the mean "
        "gradient": run.aggregation.inspects,
        "ontology.tasks must be left out: a task's head has no gradient at every site": bool(
            run.ontology.tasks
        ),
    }
    return [problem for problem, found in refused.items() if found]
