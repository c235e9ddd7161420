"""What a disease adds to a phantom chest: infiltrate, effusion, nodule; cardiomegaly is a size.

A finding belongs to the patient, so every film of that patient shows it in the same place.
In a film taken lying down (AP) an effusion spreads into a veil instead of a sharp level.
What crosses the hospital's boundary: nothing; there is no real patient here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from simulation.phantom_anatomy import AIR_FRACTION, Array, Chest, Draws, Exposure, Rays

CLASSES = ("none", "infiltrate", "effusion", "nodule", "cardiomegaly")
_BLOBS = 5
_NODULES = 3


@dataclass(frozen=True)
class Findings:
    """The disease of B patients, each `[B, 1, 1] float32`; lengths in cm, `side` -1 is the right.

    `kind` is the index into CLASSES; the other fields are drawn for every patient and used only
    by the kind they belong to.
    """

    kind: NDArray[np.int64]
    side: Array
    infiltrate_x: Array
    infiltrate_y: Array
    infiltrate_density: Array
    blobs: Array
    effusion_height: Array
    nodules: Array
    nodule_density: Array
    enlargement: Array


def draw_findings(draws: Draws, labels: NDArray[np.int64]) -> Findings:
    """Return the disease of B patients with the given `labels` `[B]`."""
    kind = labels[:, None, None]
    side = np.where(draws.uniform(0.0, 1.0) < 0.5, -1.0, 1.0).astype(np.float32)
    larger = draws.uniform(1.24, 1.46)
    return Findings(
        kind=kind,
        side=side,
        infiltrate_x=side * draws.uniform(5.2, 9.6),
        infiltrate_y=draws.uniform(-7.0, 3.5),
        infiltrate_density=draws.uniform(1.1, 2.0),
        blobs=np.concatenate([draws.normal(0.0, 1.0) for _ in range(3 * _BLOBS)], axis=2),
        effusion_height=draws.uniform(5.5, 10.5),
        nodules=np.concatenate([draws.uniform(0.0, 1.0) for _ in range(3 * _NODULES)], axis=2),
        nodule_density=draws.uniform(2.3, 3.3),
        enlargement=np.where(kind == CLASSES.index("cardiomegaly"), larger, np.float32(1.0)),
    )


def _infiltrate(rays: Rays, findings: Findings, chest: Chest) -> Array:
    x, y = rays.at(0.5)
    cloud = np.zeros_like(x)
    for blob in range(_BLOBS):
        right, down, size = (findings.blobs[:, :, 3 * blob + part, None] for part in range(3))
        far = np.square(x - findings.infiltrate_x - 1.5 * right)
        far = far + np.square(y - findings.infiltrate_y - 1.7 * down)
        cloud += np.exp(-far / np.square(2.3 + 0.4 * size))
    filled = 1.0 - np.exp(-findings.infiltrate_density * cloud)
    return np.asarray(AIR_FRACTION * chest.lung * filled)


def _effusion(rays: Rays, exposure: Exposure, findings: Findings, chest: Chest) -> Array:
    x, y = rays.at(0.6)
    outward = np.clip((findings.side * x - 2.0) / 11.0, 0.0, 1.0)
    base = exposure.diaphragm - 1.0
    surface = base - findings.effusion_height * (0.45 + 0.55 * np.square(outward))
    standing = exposure.front_at_detector
    sharp = expit((y - surface) / 0.55)
    veil = 0.78 * expit((y - surface) / 1.0) + 0.18 * expit((y - surface + 3.5) / 2.0)
    filled = standing * 0.92 * sharp + (1.0 - standing) * veil
    lung = np.where(findings.side < 0, chest.lungs[0], chest.lungs[1])
    return np.asarray(AIR_FRACTION * np.maximum(lung - 0.9 * chest.heart, 0.0) * filled)


def _nodules(rays: Rays, findings: Findings, chest: Chest) -> Array:
    x, y = rays.at(0.5)
    chord = np.zeros_like(x)
    for nodule in range(_NODULES):
        right, down, size = (findings.nodules[:, :, 3 * nodule + part, None] for part in range(3))
        side = findings.side if nodule % 2 == 0 else -findings.side
        far = np.square(x - side * (5.2 + 4.4 * right)) + np.square(y + 8.5 - 11.0 * down)
        inside = np.maximum(np.square(1.35 + 0.65 * size) - far, 0.0)
        chord += 2.0 * findings.nodule_density * np.sqrt(inside)
    return np.asarray(chord * np.minimum((chest.lungs[0] + chest.lungs[1]) / 4.0, 1.0))


def added_shadow(rays: Rays, exposure: Exposure, findings: Findings, chest: Chest) -> Array:
    """Return what infiltrate, effusion or nodule adds, `[B, H, W] float32`, cm of soft tissue."""
    shadows = {
        "infiltrate": _infiltrate(rays, findings, chest),
        "effusion": _effusion(rays, exposure, findings, chest),
        "nodule": _nodules(rays, findings, chest),
    }
    total = np.zeros_like(chest.tissue)
    for name, shadow in shadows.items():
        total = np.where(findings.kind == CLASSES.index(name), shadow, total)
    return np.asarray(total, dtype=np.float32)
