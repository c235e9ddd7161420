"""placeholder so that ImageSet can be imported while modules are written side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageSet:
    """Decoded images of one site, in memory or in a read-only memory map.

    Attributes:
        images: `[N, C, H, W] uint8`.
        labels: `[N] int64`, index into the ontology's classes; -1 is unlabelled.
        attributes: `[N, A] int64`, index into each attribute's values in the ontology's order;
            -1 is unknown.
        patients: `[N] int64`, equal for images that belong together; only meaningful here.
        splits: `[N] int64`, index into SPLITS.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    patients: NDArray[np.int64]
    splits: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, split: str) -> NDArray[np.int64]:
        """Return the indices of one split."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def batch(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """Return `[B, C, H, W] float32 in [0, 1]`."""
        return torch.from_numpy(np.ascontiguousarray(self.images[indices])).float().div_(255.0)
