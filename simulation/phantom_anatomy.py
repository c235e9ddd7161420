"""A healthy chest as geometry, projected the way an X-ray tube does it.

Structures lie at their own depth z (cm behind the front skin). A point source stands
SOURCE_DISTANCE_CM from the detector, so a structure at distance d from the detector is drawn
magnified by SID / (SID - d) around the central ray. PA: the front touches the detector, 180 cm.
AP: the back does, 100 cm; the heart, which lies in front, is therefore drawn wider.
Soft tissue, air and bone add up along each ray in centimetres of soft tissue.
Lengths are of an adult of scale 1; numbers are chosen by us after anatomy atlases.
What crosses the hospital's boundary: nothing; there is no real patient here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

Array = NDArray[np.float32]

FIELD_CM = 43.0
"""Side of the square detector (the long side of a 35 x 43 cm cassette)."""
SOURCE_DISTANCE_CM = {"AP": 100.0, "PA": 180.0}
DETECTOR_GAP_CM = 3.0
"""Air and cover between skin and detector."""
AIR_FRACTION = 0.74
"""Part of a lung that is air."""


class Draws:
    """Consumes `[B, P] float64 in (0, 1)` column by column; every draw is `[B, 1, 1] float32`."""

    def __init__(self, uniforms: NDArray[np.float64]) -> None:
        self._columns = iter(uniforms.T[:, :, None, None])

    def uniform(self, low: float, high: float) -> Array:
        """Return the next draw, even in [low, high]."""
        return np.asarray(low + (high - low) * next(self._columns), dtype=np.float32)

    def normal(self, mean: float, std: float) -> Array:
        """Return the next draw, normal and cut at 2.2 standard deviations."""
        score = np.clip(ndtri(next(self._columns)), -2.2, 2.2)
        return np.asarray(mean + std * score, dtype=np.float32)


@dataclass(frozen=True)
class Anatomy:
    """What stays the same in every film of a patient. Lengths in cm, each `[B, 1, 1] float32`."""

    scale: Array
    depth: Array
    width: Array
    height: Array
    lean: Array
    heart_width: Array
    heart_height: Array
    heart_shift: Array
    heart_tilt: Array
    aorta: Array
    dome: Array
    right_dome_lift: Array
    rib_spacing: Array
    rib_start: Array
    rib_density: Array
    breast: Array
    breast_height: Array
    bubble: Array
    vessels: Array
    vessel_density: Array


@dataclass(frozen=True)
class Exposure:
    """What differs between two films of one patient, each `[B, 1, 1] float32`."""

    source_distance: Array
    front_at_detector: Array
    shift_x: Array
    shift_y: Array
    turn: Array
    obliquity: Array
    diaphragm: Array
    clavicle_lift: Array
    scapula_x: Array
    scatter: Array
    brightness: Array
    contrast: Array


def draw_anatomy(draws: Draws, female: NDArray[np.bool_], age: NDArray[np.int64]) -> Anatomy:
    """Return the anatomy of B patients; `female` `[B]`, `age` `[B]` is 0 young, 1 middle, 2 old."""
    woman = female[:, None, None].astype(np.float32)
    years = age[:, None, None].astype(np.float32)
    scale = draws.normal(1.02, 0.035) - 0.06 * woman
    return Anatomy(
        scale=scale,
        depth=draws.normal(22.0, 1.8) * scale + 0.7 * years,
        width=draws.normal(1.0, 0.04),
        height=draws.normal(1.0, 0.045),
        lean=draws.normal(0.0, 0.012) * (1.0 + 0.5 * years),
        heart_width=draws.normal(5.9, 0.26) + 0.12 * years,
        heart_height=draws.normal(5.0, 0.30),
        heart_shift=draws.normal(2.1, 0.35),
        heart_tilt=draws.normal(0.62, 0.10),
        aorta=draws.normal(1.45, 0.12) + 0.42 * years,
        dome=draws.normal(3.3, 0.5),
        right_dome_lift=draws.normal(1.2, 0.5),
        rib_spacing=draws.normal(2.45, 0.14),
        rib_start=draws.uniform(-0.5, 0.5),
        rib_density=draws.normal(1.12, 0.08) - 0.24 * years,
        breast=woman * draws.uniform(2.4, 4.6),
        breast_height=draws.normal(4.8, 0.8),
        bubble=np.maximum(draws.uniform(-1.5, 2.2), 0.0),
        vessels=np.concatenate([draws.uniform(-0.28, 0.28) for _ in range(8)], axis=2),
        vessel_density=draws.normal(1.0, 0.12),
    )


def draw_exposure(draws: Draws, portable: NDArray[np.bool_]) -> Exposure:
    """Return the circumstances of B films; `portable` `[B]` marks the AP ones."""
    bed = portable[:, None, None].astype(np.float32)
    distances = SOURCE_DISTANCE_CM
    return Exposure(
        source_distance=bed * distances["AP"] + (1.0 - bed) * distances["PA"],
        front_at_detector=1.0 - bed,
        shift_x=draws.normal(0.0, 0.5) * (1.0 + 0.6 * bed),
        shift_y=draws.normal(0.0, 0.6),
        turn=draws.normal(0.0, 0.018) * (1.0 + 1.0 * bed),
        obliquity=draws.normal(0.0, 0.5) * (1.0 + 0.6 * bed),
        diaphragm=draws.normal(10.6, 0.7) - 2.0 * bed,
        clavicle_lift=draws.normal(0.0, 0.4) + 1.1 * bed,
        scapula_x=draws.normal(14.6, 0.6) - 3.6 * bed,
        scatter=draws.normal(0.40, 0.05) + 0.45 * bed,
        brightness=draws.normal(0.0, 0.022) * (1.0 + 0.8 * bed),
        contrast=draws.normal(1.0, 0.04) - 0.07 * bed,
    )


def magnification(anatomy: Anatomy, exposure: Exposure, depth: Array) -> Array:
    """Return SID / (SID - d) for structures `depth` cm behind the front skin."""
    front = exposure.front_at_detector
    distance = DETECTOR_GAP_CM + front * depth + (1.0 - front) * (anatomy.depth - depth)
    return np.asarray(exposure.source_distance / (exposure.source_distance - distance))


def heart_depth(anatomy: Anatomy) -> Array:
    """Return how far the centre of the heart lies behind the front skin, cm."""
    return np.asarray(0.34 * anatomy.depth)


class Rays:
    """The `[B, H, W]` rays of a batch of films, looked up in the plane of any depth."""

    def __init__(self, anatomy: Anatomy, exposure: Exposure, size_px: int) -> None:
        self._anatomy, self._exposure = anatomy, exposure
        centre = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px - 0.5
        column, row = (FIELD_CM * centre)[None, None, :], (FIELD_CM * centre)[None, :, None]
        cosine, sine = np.cos(exposure.turn), np.sin(exposure.turn)
        self._x, self._y = cosine * column + sine * row, cosine * row - sine * column

    def at(self, relative_depth: float) -> tuple[Array, Array]:
        """Return x (the patient's left is right) and y (down), in cm of a scale-1 adult."""
        depth = np.asarray(relative_depth * self._anatomy.depth)
        larger = magnification(self._anatomy, self._exposure, depth)
        scale = self._anatomy.scale
        y = (self._y / larger - self._exposure.shift_y) / (scale * self._anatomy.height)
        turned = self._exposure.obliquity * (0.5 - relative_depth) * 2.0
        x = (self._x / larger - self._exposure.shift_x) / scale - turned - self._anatomy.lean * y
        return x.astype(np.float32), y.astype(np.float32)


@dataclass(frozen=True)
class Chest:
    """Path lengths along each ray, `[B, H, W] float32` in cm.

    `tissue` is soft tissue without lungs and heart; `bone` counts as soft tissue of equal shadow;
    `lungs` is right and left lung (with their air) where no heart lies; `heart` is the heart.
    """

    tissue: Array
    bone: Array
    lungs: tuple[Array, Array]
    heart: Array

    @property
    def lung(self) -> Array:
        """Both lungs, less what the heart takes up of them."""
        return np.asarray(np.maximum(self.lungs[0] + self.lungs[1] - 0.9 * self.heart, 0.0))

    @property
    def shadow(self) -> Array:
        """All of it, in cm of soft tissue."""
        return np.asarray(self.tissue + self.bone - AIR_FRACTION * self.lung)


def _dome_top(x: Array, centre: Array | float, level: Array, dome: Array) -> Array:
    arch = np.maximum(1.0 - np.square((x - centre) / 6.4), -0.4)
    return np.asarray(level - dome * arch)


def lung_chords(rays: Rays, anatomy: Anatomy, exposure: Exposure) -> tuple[Array, Array]:
    """Return the path through the right and the left lung, `[B, H, W]` each, cm."""
    x, y = rays.at(0.5)
    chords = []
    for side, half_width in ((-1.0, 5.7), (1.0, 5.4)):
        along = np.clip((y + 13.6) / 10.5, 0.0, 1.0)
        top = np.sqrt(1.0 - np.square(1.0 - along))
        reach = half_width * anatomy.width * (top + 0.006 * np.maximum(y + 3.0, 0.0))
        offset = np.abs(x - side * 7.35 * anatomy.width) / np.maximum(reach, 0.05)
        chord = np.sqrt(np.maximum(1.0 - offset**2.4, 0.0)) * np.sqrt(top)
        level = exposure.diaphragm - (anatomy.right_dome_lift if side < 0 else 0.0)
        edge = _dome_top(x, side * 7.0, level, anatomy.dome) - y
        base = 0.86 * expit(edge / 0.30) + 0.14 * expit((edge + 1.6) / 0.9)
        chords.append((0.76 * anatomy.depth * chord * base).astype(np.float32))
    return chords[0], chords[1]


def heart_chord(rays: Rays, anatomy: Anatomy, exposure: Exposure, enlargement: Array) -> Array:
    """Return the path through the heart, `[B, H, W]`, cm; `enlargement` 1 is a healthy one."""
    x, y = rays.at(0.34)
    grow = enlargement - 1.0
    along_x = x - anatomy.heart_shift - 1.1 * grow
    along_y = y - (exposure.diaphragm - 10.6) * 0.55 - 4.6 + 1.2 * grow
    cosine, sine = np.cos(anatomy.heart_tilt), np.sin(anatomy.heart_tilt)
    wide = anatomy.heart_width * enlargement
    high = anatomy.heart_height * (1.0 + 0.7 * grow)
    first = (cosine * along_x + sine * along_y) / wide
    second = (cosine * along_y - sine * along_x) / high
    inside = np.maximum(1.0 - np.square(first) - np.square(second), 0.0)
    thickness = 9.5 * (1.0 + 0.6 * grow) * anatomy.scale
    return np.asarray(thickness * np.sqrt(inside), dtype=np.float32)


def _body(rays: Rays, anatomy: Anatomy, exposure: Exposure) -> Array:
    x, y = rays.at(0.5)
    neck = 5.2 + 14.0 * expit((y + 15.6) / 0.7)
    flank = 17.2 * anatomy.width + 0.10 * np.maximum(y, 0.0)
    shoulder = 5.0 * expit((-5.5 - y) / 1.6)
    reach = np.minimum(neck, flank + shoulder)
    body = anatomy.depth * np.sqrt(np.maximum(1.0 - (np.abs(x) / reach) ** 3, 0.0))
    narrow = 1.0 - 0.45 * expit((-14.5 - y) / 1.2)
    bubble = np.square((x - 6.3) / 2.6) + np.square((y - exposure.diaphragm - 0.6) / 1.6)
    air = anatomy.bubble * np.sqrt(np.maximum(1.0 - bubble, 0.0))
    trachea = expit((-5.5 - y) / 0.5) * np.sqrt(np.maximum(1.0 - np.square((x + 0.2) / 0.95), 0.0))
    return np.asarray(np.maximum(body * narrow - 1.6 * air - 1.8 * trachea, 0.0))


def _front_and_great_vessels(rays: Rays, anatomy: Anatomy, in_lung: Array) -> Array:
    x, y = rays.at(0.0)
    breast = np.zeros_like(x)
    for side in (-1.0, 1.0):
        radius = np.square((x - side * 8.4) / 5.6) + np.square((y - anatomy.breast_height) / 5.2)
        slope = np.clip(0.62 + 0.07 * (y - anatomy.breast_height), 0.1, 1.0)
        breast += anatomy.breast * slope * np.sqrt(np.maximum(1.0 - radius, 0.0))
    x, y = rays.at(0.6)
    knob = (
        1.0 - np.square((x - 1.9) / anatomy.aorta) - np.square((y + 5.8) / (1.15 * anatomy.aorta))
    )
    reach = 1.1 + anatomy.aorta - 0.08 * (y + 5.0)
    descending = expit((y + 5.0) / 0.6) * expit((reach - x) / 0.25) * (x > 0)
    hilum = np.zeros_like(x)
    for side, height in ((-1.0, -1.6), (1.0, -2.3)):
        hilum += np.exp(-np.square((x - side * 4.2) / 1.5) - np.square((y - height) / 2.1))
    central = 4.0 * np.sqrt(np.maximum(knob, 0.0)) + 1.8 * descending
    return np.asarray(breast + in_lung * (central + 2.3 * anatomy.vessel_density * hilum))


def _lung_vessels(rays: Rays, anatomy: Anatomy) -> Array:
    x, y = rays.at(0.5)
    total = np.zeros_like(x)
    for side, height in ((-1.0, -1.6), (1.0, -2.3)):
        out, down = np.maximum(side * x - 3.4, 0.0), y - height
        radius = np.sqrt(np.square(out) + np.square(down)) + 1e-3
        angle = np.arctan2(down, out)
        fade = 1.0 * np.exp(-radius / 5.0) * (out > 0)
        first = 0 if side < 0 else 4
        for branch, heading in enumerate((-1.15, -0.35, 0.45, 1.1)):
            wiggle = anatomy.vessels[:, :, first + branch, None]
            bend = angle - heading - wiggle * (1.0 + 0.18 * radius)
            total += fade * np.exp(-np.square(bend * radius / (0.35 + 0.06 * radius)))
    return np.asarray(anatomy.vessel_density * total)


def _ribs(rays: Rays, anatomy: Anatomy) -> Array:
    total = np.zeros((), dtype=np.float32)
    for relative_depth, weight, front in ((0.92, 1.0, False), (0.08, 0.55, True)):
        x, y = rays.at(relative_depth)
        cage = anatomy.width * 14.0 * (1.0 - 0.72 * expit((-9.5 - y) / 1.9))
        out = np.minimum(np.abs(x) / cage, 1.25)
        squared = np.square(out)
        path = 3.6 + 2.4 * (1.0 - out) if front else 1.3 * squared + 2.2 * squared**4
        phase = (y + 13.2) / anatomy.rib_spacing - path + anatomy.rib_start
        distance = np.square((phase - np.rint(phase)) * anatomy.rib_spacing / 0.55)
        profile = np.exp(-np.square(distance)) * (0.75 + 0.5 * distance)
        inside = expit((1.0 - out) / 0.03) * (phase > -0.5) * (phase < (7.5 if front else 9.5))
        begin = expit((out - 0.42) / 0.05) if front else expit((out - 0.09) / 0.02)
        total = total + weight * profile * inside * begin
    return np.asarray(1.25 * anatomy.rib_density * total)


def _other_bones(rays: Rays, anatomy: Anatomy, exposure: Exposure) -> Array:
    x, y = rays.at(0.14)
    out = np.abs(x)
    course = -10.6 - exposure.clavicle_lift - 0.16 * (out - 1.5) + 0.5 * np.sin(out * 0.42)
    band = np.exp(-(((y - course) / 0.75) ** 4)) * expit((out - 1.6) / 0.3)
    clavicle = 2.6 * band * expit((15.5 - out) / 0.4)
    x, y = rays.at(0.95)
    out, blade = np.abs(x), exposure.scapula_x
    border = blade + 0.16 * (y + 3.0)
    shape = expit((out - border) / 0.25) * expit((y + 11.5) / 0.5)
    shape = shape * expit((3.5 + 0.55 * (out - blade) - y) / 0.5) * expit((blade + 7.5 - out) / 0.5)
    ridge = np.exp(-np.square((out - border - 0.3) / 0.6))
    scapula = 1.7 * shape * (0.7 + 0.8 * ridge)
    x, y = rays.at(0.8)
    discs = 1.0 + 0.22 * np.cos(y * np.float32(2.0 * np.pi / 2.5))
    spine = 2.4 * expit((1.9 - np.abs(x)) / 0.3) * discs
    return np.asarray(anatomy.rib_density * (clavicle + scapula) + spine)


def draw_chest(rays: Rays, anatomy: Anatomy, exposure: Exposure) -> Chest:
    """Return the healthy chest along every ray."""
    lungs = lung_chords(rays, anatomy, exposure)
    heart = heart_chord(rays, anatomy, exposure, np.ones_like(anatomy.scale))
    in_lung = np.minimum((lungs[0] + lungs[1]) / 4.0, 1.0)
    tissue = _body(rays, anatomy, exposure)
    tissue += _front_and_great_vessels(rays, anatomy, in_lung)
    tissue += in_lung * _lung_vessels(rays, anatomy)
    bone = _ribs(rays, anatomy) + _other_bones(rays, anatomy, exposure)
    bone = bone * np.minimum(tissue / 6.0, 1.0)
    kinds = (tissue.astype(np.float32), bone.astype(np.float32))
    return Chest(tissue=kinds[0], bone=kinds[1], lungs=lungs, heart=heart)
