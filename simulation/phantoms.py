"""Chest phantoms: films of invented patients with ground-truth masks, as arrays or as files.

Geometry comes from `phantom_anatomy`, disease from `phantom_findings`, patients and planted
couplings from `phantom_cohort`; this file exposes, windows, adds noise and markers, and writes.
The same seed gives the same bytes, and film i does not depend on how many films there are.
What crosses the hospital's boundary: nothing; there is no real patient here.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mfm_core.dataset import SPLITS
from simulation.phantom_anatomy import (
    FIELD_CM,
    Array,
    Chest,
    Draws,
    Exposure,
    Rays,
    draw_anatomy,
    draw_chest,
    draw_exposure,
    heart_chord,
)
from simulation.phantom_cohort import (
    ATTRIBUTES,
    Cohort,
    CouplingConfig,
    HospitalPhantoms,
    PhantomConfig,
    ScannerConfig,
    draw_cohort,
    stream,
)
from simulation.phantom_findings import CLASSES, added_shadow, draw_findings

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "CouplingConfig",
    "HospitalPhantoms",
    "PhantomBatch",
    "PhantomConfig",
    "ScannerConfig",
    "draw_phantoms",
    "generate",
]

Rows = NDArray[np.int64]

ATTENUATION = 0.16
"""Per cm of soft tissue at chest tube voltage (about 120 kV), broad beam."""
_VEIL_CM = 6.0
_MASK_SHARE = 0.2
_CHUNK = 32
_GLYPHS = {
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}


@dataclass(frozen=True)
class PhantomBatch:
    """Films of one hospital.

    Attributes:
        images: `[N, 1, H, W] uint8`.
        masks: `[N, H, W] bool`, where the finding changes the film by at least a fifth of its
            strongest change; empty for "none".
        labels: `[N] int64`, index into CLASSES.
        attributes: `[N, 4] int64`, index into each of ATTRIBUTES' values.
        patients: `[N] int64`.
        splits: `[N] int64`, index into train, val, test; no patient is divided.
        scanners: `[N] int64`, index into the hospital's scanners.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    patients: NDArray[np.int64]
    splits: NDArray[np.int64]
    scanners: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Patient:
    """Films about to be exposed: shadows in cm of soft tissue, `[B, H, W]`."""

    exposure: Exposure
    chest: Chest
    sick: Array
    noise: Array
    marker_place: NDArray[np.float64]


def _veil(transmitted: Array) -> Array:
    """Return scatter at the detector: the transmitted beam, spread over _VEIL_CM."""
    size = transmitted.shape[-1]
    place = (np.arange(size) + 0.5) * FIELD_CM / size
    spread = np.exp(-0.5 * np.square((place[:, None] - place[None, :]) / _VEIL_CM))
    spread = (spread / spread.sum(axis=1).max()).astype(np.float32)
    return np.asarray(spread @ transmitted @ spread.T)


def _level(film: Array, weight: Array) -> Array:
    total = weight.sum(axis=(1, 2), keepdims=True)
    return np.asarray((film * weight).sum(axis=(1, 2), keepdims=True) / np.maximum(total, 1e-6))


def _grey(density: Array, scanners: list[ScannerConfig]) -> Array:
    """Return greys in [0, 1]: a soft toe and shoulder, then the scanner's own curve."""
    window, level, gamma = (
        np.array([getattr(scanner, name) for scanner in scanners], dtype=np.float32)[:, None, None]
        for name in ("window", "level", "gamma")
    )
    centred = (density - 0.5) / window + level
    soft = 0.5 + 0.5 * np.tanh(2.0 * centred)
    return np.asarray(np.maximum(soft, 0.0) ** gamma)


def _burn_marker(grey: Array, marker: str, draw: NDArray[np.float64]) -> None:
    size = grey.shape[-1]
    step = max(size // 64, 1)
    bits = np.array([[cell == "#" for cell in row] for row in _GLYPHS[marker]])
    glyph = np.kron(bits, np.ones((step, step), dtype=bool))
    height, width = glyph.shape
    top = int(size * (0.05 + 0.08 * draw[0]))
    margin = int(size * (0.03 + 0.06 * draw[1]))
    left = margin if marker == "R" else size - margin - width
    grey[top : top + height, left : left + width][glyph] = 0.97


def _develop(
    patient: _Patient, shadow: Array, scanners: list[ScannerConfig]
) -> tuple[Array, Array]:
    """Return the noiseless greys of a shadow and the grain to expect, `[B, H, W]` each.

    Scatter and window come from the healthy chest, so that a finding changes the film only
    where it lies.
    """
    beam = np.exp(-ATTENUATION * patient.chest.shadow)
    scatter = patient.exposure.scatter * _veil(beam)
    healthy = -np.log(beam + scatter)
    dark, bright = _level(healthy, patient.chest.lung), _level(healthy, patient.chest.heart)
    film = -np.log(np.exp(-ATTENUATION * shadow) + scatter)
    placed = 0.46 * (film - dark) / (bright - dark) - 0.23
    grey = _grey(0.5 + patient.exposure.contrast * placed + patient.exposure.brightness, scanners)
    grain = np.clip(np.exp(0.5 * (healthy - bright)), 0.3, 2.0)
    return grey, np.asarray(grain)


def _draw_patient(config: PhantomConfig, name: str, cohort: Cohort, rows: Rows) -> _Patient:
    """Return anatomy, disease and circumstances of some films, and their own randomness."""
    size, seed = config.size_px, config.seed
    patients, films = cohort.patients[rows], cohort.films[rows]
    bodies = np.stack([stream(seed, name, p, 1).random(80) for p in patients])
    streams = [stream(seed, name, p, 2, f) for p, f in zip(patients, films, strict=True)]
    circumstances = np.stack([generator.random(24) for generator in streams])
    noise = np.stack([g.standard_normal((size, size), dtype=np.float32) for g in streams])

    view, sex, age, _ = cohort.attributes[rows].T
    draws = Draws(bodies)
    anatomy = draw_anatomy(draws, sex == ATTRIBUTES["sex"].index("F"), age)
    findings = draw_findings(draws, cohort.labels[rows])
    portable = view == ATTRIBUTES["view"].index("AP")
    exposure = draw_exposure(Draws(circumstances[:, 2:]), portable)
    rays = Rays(anatomy, exposure, size)
    chest = draw_chest(rays, anatomy, exposure)
    large = replace(chest, heart=heart_chord(rays, anatomy, exposure, findings.enlargement))
    sick = large.shadow + added_shadow(rays, exposure, findings, chest)
    return _Patient(exposure, chest, sick, noise, circumstances[:, :2])


def _draw_films(
    config: PhantomConfig, hospital: HospitalPhantoms, cohort: Cohort, rows: Rows, hide: bool
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return films and masks of some rows of a cohort."""
    patient = _draw_patient(config, hospital.name, cohort, rows)
    scanners = [hospital.scanners[index] for index in cohort.scanners[rows]]
    sick, grain = _develop(patient, patient.sick, scanners)
    healthy, _ = _develop(patient, patient.chest.shadow, scanners)
    change = np.abs(sick - healthy)
    mask = change > np.maximum(_MASK_SHARE * change.max(axis=(1, 2), keepdims=True), 1e-3)
    strength = np.array([scanner.noise_std for scanner in scanners], dtype=np.float32)
    grey = (healthy if hide else sick) + strength[:, None, None] * grain * patient.noise
    marker = ATTRIBUTES["marker"]
    for index, value in enumerate(cohort.attributes[rows, list(ATTRIBUTES).index("marker")]):
        if marker[value] in _GLYPHS:
            _burn_marker(grey[index], marker[value], patient.marker_place[index])
    return np.rint(255.0 * np.clip(grey, 0.0, 1.0)).astype(np.uint8), mask


def draw_phantoms(
    config: PhantomConfig, hospital: HospitalPhantoms, *, hide_findings: bool = False
) -> PhantomBatch:
    """Return all films of a hospital as arrays.

    Args:
        config: seed and size; its list of hospitals is not looked at.
        hospital: whom to draw.
        hide_findings: the same patients, circumstances and noise, but without their disease;
            masks and labels stay those of the disease.
    """
    cohort = draw_cohort(config.seed, hospital)
    count, size = len(cohort.labels), config.size_px
    images = np.empty((count, 1, size, size), dtype=np.uint8)
    masks = np.empty((count, size, size), dtype=bool)
    for start in range(0, count, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, count))
        films, mask = _draw_films(config, hospital, cohort, rows, hide_findings)
        images[rows, 0], masks[rows] = films, mask
    return PhantomBatch(
        images=images,
        masks=masks,
        labels=cohort.labels,
        attributes=cohort.attributes,
        patients=cohort.patients,
        splits=cohort.splits,
        scanners=cohort.scanners,
    )


def generate(folder: Path, config: PhantomConfig, hospital: HospitalPhantoms) -> Path:
    """Write a hospital's films and return its manifest, which is written last.

    `folder` then holds images/<index>.png, masks.npz (array "masks", `[N, H, W] bool`) and
    manifest.csv (file, label, patient_id, split, view, sex, age, marker, scanner).
    """
    batch = draw_phantoms(config, hospital)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "masks.npz", masks=batch.masks)
    rows = []
    for index in range(len(batch)):
        file = f"images/{index:06d}.png"
        Image.fromarray(batch.images[index, 0]).save(folder / file)
        values = zip(ATTRIBUTES.values(), batch.attributes[index], strict=True)
        rows.append(
            [
                file,
                CLASSES[batch.labels[index]],
                f"P{batch.patients[index]:06d}",
                SPLITS[batch.splits[index]],
                *(names[value] for names, value in values),
                hospital.scanners[batch.scanners[index]].name,
            ]
        )
    part = folder / "manifest.csv.part"
    with part.open("w", newline="", encoding="utf-8") as stream_out:
        writer = csv.writer(stream_out)
        writer.writerow(["file", "label", "patient_id", "split", *ATTRIBUTES, "scanner"])
        writer.writerows(rows)
    os.replace(part, folder / "manifest.csv")
    return folder / "manifest.csv"
