"""A site's images open whole or not at all, and are decoded once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mfm_core.config import ColumnsConfig, DataConfig, ImageConfig, OntologyConfig
from mfm_core.dataset import ImageSet, open_images
from mfm_core.errors import DataError

ONTOLOGY = OntologyConfig(classes=("dark", "bright"), attributes={"view": ("AP", "PA")})
IMAGE = ImageConfig(size_px=32)


def make_site(tmp_path: Path, count: int = 24, **settings: Any) -> DataConfig:
    """Write `count` PNGs, the odd ones bright, two for each patient, and their manifest."""
    root = tmp_path / "images"
    root.mkdir()
    rows = ["file,label,patient_id,view"]
    for index in range(count):
        name = f"scan{index:02}.png"
        label = ONTOLOGY.classes[index % 2]
        Image.new("L", (40, 40), 200 + index if index % 2 else index).save(root / name)
        rows.append(f"{name},{label},P{index // 2 * 2 + index % 2},{['AP', 'PA'][index % 2]}")
    manifest = tmp_path / "rows.csv"
    manifest.write_text("\n".join(rows), encoding="utf-8")
    return DataConfig(root=root, manifest=manifest, **settings)


def opened(tmp_path: Path, data: DataConfig, image: ImageConfig = IMAGE) -> ImageSet:
    return open_images(data, ONTOLOGY, image, tmp_path / "cache")


def problems(tmp_path: Path, data: DataConfig) -> list[str]:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, data)
    return list(caught.value.problems)


def spoil(path: Path) -> None:
    """Change a file's content but neither its size nor its time of change."""
    status = path.stat()
    path.write_bytes(b"\0" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_a_site_gets(tmp_path: Path) -> None:
    images = opened(tmp_path, make_site(tmp_path))
    assert images.images.shape == (24, 1, 32, 32)
    assert images.images.dtype == np.uint8
    assert not images.images.flags.writeable
    assert images.labels.tolist() == [0, 1] * 12
    assert images.attributes.tolist() == [[0], [1]] * 12
    assert images.images[:, 0, 5, 5].tolist() == [200 + i if i % 2 else i for i in range(24)]
    assert {len(images.select(split)) > 0 for split in ("train", "val", "test")} == {True}
    batch = images.batch(np.array([1, 3]))
    assert batch.shape == (2, 1, 32, 32)
    assert float(batch[0].max()) == pytest.approx(201 / 255)
    for field in (images.labels, images.attributes, images.patients, images.splits):
        assert field.dtype == np.int64


def test_a_patient_stays_in_one_split(tmp_path: Path) -> None:
    images = opened(tmp_path, make_site(tmp_path))
    for patient in np.unique(images.patients):
        assert len(set(images.splits[images.patients == patient])) == 1


def test_nothing_is_decoded_twice(tmp_path: Path) -> None:
    data = make_site(tmp_path)
    before = np.array(opened(tmp_path, data).images)
    for path in data.root.iterdir():
        spoil(path)
    assert np.array_equal(opened(tmp_path, data).images, before)
    # Labels and splits are not part of the pixels: changing them decodes nothing either.
    changed = data.model_copy(update={"label_mapping": {"dark": "bright", "bright": "dark"}})
    again = opened(tmp_path, changed.model_copy(update={"split_seed": 5}))
    assert again.labels.tolist() == [1, 0] * 12
    assert np.array_equal(again.images, before)
    # Without its cache the spoiled site is refused, so the above did read the cache.
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert len(problems(tmp_path, data)) > 0


def test_a_changed_file_or_setting_is_decoded_again(tmp_path: Path) -> None:
    data = make_site(tmp_path)
    opened(tmp_path, data)
    Image.new("L", (41, 41), 99).save(data.root / "scan00.png")
    assert opened(tmp_path, data).images[0, 0, 5, 5] == 99
    assert opened(tmp_path, data, ImageConfig(size_px=64)).images.shape[-1] == 64
    assert opened(tmp_path, data, ImageConfig(size_px=32, channels=3)).images.shape[1] == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no checksum", "wrong checksum"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: str) -> None:
    data = make_site(tmp_path)
    before = np.array(opened(tmp_path, data).images)
    (pixels,) = (tmp_path / "cache").glob("*.npy")
    (checksum,) = (tmp_path / "cache").glob("*.crc")
    content = bytearray(pixels.read_bytes())
    content[-7] ^= 1
    if damage == "no checksum":
        checksum.unlink()
    elif damage == "wrong checksum":
        checksum.write_text("")
    else:
        pixels.write_bytes({"flip": content, "cut": content[:-900], "empty": b""}[damage])
    assert np.array_equal(opened(tmp_path, data).images, before)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".crc", ".npy"]


def test_all_problems_at_once_by_row(tmp_path: Path) -> None:
    data = make_site(tmp_path)
    spoil(data.root / "scan03.png")
    content = (data.root / "scan04.png").read_bytes()
    (data.root / "scan04.png").write_bytes(content[:60])
    (data.root / "scan05.png").unlink()
    assert data.manifest is not None
    text = data.manifest.read_text().replace("scan06.png,dark", "scan06.png,drak")
    data.manifest.write_text(text)
    lines = "\n".join(problems(tmp_path, data))
    assert "row 5 (scan03.png): is not a PNG" in lines
    assert "row 6 (scan04.png): is " in lines
    assert "row 7 (scan05.png): there is no such file" in lines
    assert "row 8 (scan06.png): label 'drak'" in lines and "did you mean 'dark'" in lines
    assert not list((tmp_path / "cache").iterdir())


def test_the_text_of_many_problems_is_capped(tmp_path: Path) -> None:
    data = make_site(tmp_path, 130)
    for path in data.root.iterdir():
        path.unlink()
    with pytest.raises(DataError) as caught:
        opened(tmp_path, data)
    assert len(caught.value.problems) == 130
    assert str(caught.value).count("\n  - ") == 50
    assert str(caught.value).endswith("... and 80 more")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"where": {"view": ("LL",)}}, "no image is left"),
        ({"label_mapping": {"dark": None}}, "only class 'bright' is present"),
        ({"label_mapping": {"dark": None, "bright": None}}, "no image is left"),
    ],
)
def test_sets_that_cannot_train(tmp_path: Path, settings: Any, expected: str) -> None:
    assert expected in problems(tmp_path, make_site(tmp_path, **settings))[0]


def test_one_class_without_training_images_can_be_read_by_a_finished_model(tmp_path: Path) -> None:
    data = make_site(tmp_path, label_mapping={"dark": None})
    images = open_images(data, ONTOLOGY, IMAGE, tmp_path / "cache", to_train=False)
    assert set(images.labels.tolist()) == {ONTOLOGY.classes.index("bright")}
    text = data.manifest.read_text()  # type: ignore[union-attr]  # written above
    data.manifest.write_text(text.replace("dark", "").replace("bright", ""))  # type: ignore[union-attr]
    with pytest.raises(DataError, match="no image has a label; check the label column"):
        open_images(data, ONTOLOGY, IMAGE, tmp_path / "cache", to_train=False)


def test_no_labels_or_no_train_rows(tmp_path: Path) -> None:
    data = make_site(tmp_path)
    assert data.manifest is not None
    text = data.manifest.read_text()
    data.manifest.write_text(text.replace("dark", "").replace("bright", ""))
    assert "no image has a label" in problems(tmp_path, data)[0]
    data.manifest.write_text(text.replace("AP", "test").replace("PA", "val"))
    ontology = OntologyConfig(classes=ONTOLOGY.classes)
    split = data.model_copy(update={"columns": ColumnsConfig(split="view")})
    with pytest.raises(DataError, match="no image is in train"):
        open_images(split, ontology, IMAGE, tmp_path / "cache")


def test_splits_of_the_manifest_are_kept(tmp_path: Path) -> None:
    data = make_site(tmp_path)
    assert data.manifest is not None
    words = {"AP": "train", "PA": "validation"}
    text = data.manifest.read_text()
    for word, split in words.items():
        text = text.replace(word, split)
    data.manifest.write_text(text)
    ontology = OntologyConfig(classes=ONTOLOGY.classes)
    split = data.model_copy(update={"columns": ColumnsConfig(split="view")})
    images = open_images(split, ontology, IMAGE, tmp_path / "cache")
    assert images.splits.tolist() == [0, 1] * 12
    assert images.attributes.shape == (24, 0)


def test_one_folder_per_class_with_sixteen_bit_and_mixed_files(tmp_path: Path) -> None:
    for index in range(6):
        for name in ONTOLOGY.classes:
            folder = tmp_path / "root" / name
            folder.mkdir(parents=True, exist_ok=True)
            values = np.full((20, 30), 3000, dtype=np.uint16)
            values[:, :15] = 100 * index
            Image.fromarray(values).save(folder / f"{name}{index}.tif")
    images = opened(tmp_path, DataConfig(root=tmp_path / "root"))
    assert len(images) == 12
    assert sorted(images.labels.tolist()) == [0] * 6 + [1] * 6
    assert len(np.unique(images.patients)) == 12


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    """Without the space claimed beforehand, writing to the map ends the process (SIGBUS)."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mfm_core.image_cache.os.posix_fallocate", full)
    (tmp_path / "a").mkdir()
    Image.new("L", (32, 32)).save(tmp_path / "a" / "x.png")
    data = DataConfig(root=tmp_path)
    ontology = OntologyConfig(classes=("a", "b"))
    with pytest.raises(OSError, match="No space left") as caught:
        open_images(data, ontology, ImageConfig(size_px=32), tmp_path / ".cache")
    assert str(tmp_path) in caught.value.filename
    assert not list((tmp_path / ".cache").iterdir())


def test_a_site_that_says_it_has_no_labels_is_opened_without_reading_them(tmp_path: Path) -> None:
    data = make_site(tmp_path)
    assert data.manifest is not None
    lines = data.manifest.read_text().splitlines()
    place = lines[0].split(",").index("label")
    bare = [",".join(w for i, w in enumerate(row.split(",")) if i != place) for row in lines]
    data.manifest.write_text("\n".join(bare))
    told = data.model_copy(update={"unlabelled": True})
    images = open_images(told, ONTOLOGY, IMAGE, tmp_path / "cache")
    assert len(images) == 24 and (images.labels == -1).all()
    assert len(images.select("train")) > 0
    with pytest.raises(DataError, match="label"):
        open_images(data, ONTOLOGY, IMAGE, tmp_path / "cache")
