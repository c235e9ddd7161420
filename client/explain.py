"""Explanations of one image or of a folder, made and kept at the hospital.

Needs the model and the atlas that a run left here, and no network. Panels, sweeps, numbers and
pages name neither the patient nor the file; they are named after the question and a fingerprint
of the image's content. Only the index leads back to the files.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.explain_index import INDEX, Entry, Index, Refused, open_index
from client.explain_record import NAMES, NOTE, main_of, record_of, rows_of, slug_of
from client.image_files import find_images
from mfm_core.atlas import Atlas, load_atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import encoder_hash, load_model
from mfm_core.config import OntologyConfig
from mfm_core.errors import CheckpointError, DataError
from mfm_core.explanation import METHODS, Explanation
from mfm_core.explanation_page import About, Picture, Section, explanation_page
from mfm_core.images import Frame, read_image
from mfm_core.pictures import draw_methods, draw_sweep, draw_sweep_gif
from mfm_core.question import Question, ask
from mfm_core.report import finite
from mfm_core.whole_file import write_whole

PAGE_IMAGES = 20
"""Images on one page (about 1 MB each); more make further pages, which a phone can still open."""

INDEX_EVERY_S = 5.0
"""How often the index is written while images are explained; it is always written at the end."""

Show = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What is to be explained.

    Attributes:
        image: a PNG, JPEG, TIFF or DICOM file, or a folder of them.
        model: a model file of a run (final.safetensors).
        atlas: the atlas file of the same run.
        question: the class or attribute in question.
        method: a name of `METHODS`, or `all`.
        frame: frame of a multi-frame DICOM or page of a TIFF.
        dicom_out: also write DICOM objects for each image.
    """

    image: Path
    model: Path
    atlas: Path
    question: Question
    method: str = "class_shift"
    frame: Frame = "middle"
    dicom_out: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods to use."""
        return tuple(METHODS) if self.method == "all" else (self.method,)


@dataclass(frozen=True)
class Explained:
    """One image's explanation.

    Attributes:
        name: of the explanation; names no patient and no file.
        source: the file, relative to the folder that was asked for.
        files: what was written, by kind: panel, sweep, methods, record, and report, panel and map
            as DICOM under `dicom_`.
        content: the numbers, as in the record.
    """

    name: str
    source: str
    files: dict[str, Path]
    content: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What became of all images. `refused` holds source and reason."""

    explained: tuple[Explained, ...]
    refused: tuple[tuple[str, str], ...]
    pages: tuple[Path, ...]
    index: Path
    own: int


@dataclass(frozen=True)
class _Tools:
    """Model and atlas that fit each other and the question."""

    request: Request
    model: Autoencoder
    atlas: Atlas
    hashes: dict[str, str]


def explain_images(request: Request, out: Path, show: Show | None = None) -> Run:
    """Write the explanations of all images into `out`; return what was written.

    An image that cannot be used is named with its reason and the others are done. Whatever ends
    the work early, the pages and the index of what is done are written.

    Args:
        request: what is to be explained.
        out: folder for the files; made if missing.
        show: called with the number of images done and of all.

    Raises:
        CheckpointError: model or atlas cannot be read, or do not belong together.
        DataError: the question does not fit model and atlas, or there is no file.
        OSError: something cannot be written; no file is left in part.
    """
    tools, images = _open(request), find_images(request.image)
    folder, index, done = str(images.folder.resolve()), open_index(out), list[Explained]()
    refused = list(images.closed)
    pages: list[Path] = []
    written = time.monotonic()
    try:
        for number, name in enumerate(images.names):
            if show is not None:
                show(number, len(images.names))
            try:
                explained = _explain(tools, images.folder / name, name, out)
            except DataError as error:
                refused.append((name, "; ".join(error.problems)))
                continue
            done.append(explained)
            files = tuple(str(path.relative_to(out)) for path in explained.files.values())
            index.add(Entry(explained.name, name, folder, files))
            if time.monotonic() - written > INDEX_EVERY_S:  # a kill loses no more than this
                index.write()
                written = time.monotonic()
        if show is not None:
            show(len(images.names), len(images.names))
    finally:
        pages += _write_lists(tools, done, (index, folder, refused))
    return Run(tuple(done), tuple(refused), tuple(pages), out / INDEX, images.own)


def _open(request: Request) -> _Tools:
    """Load model and atlas, and hold the question against them before any image is read."""
    model, metadata = load_model(request.model)
    encoder = encoder_hash(model)
    atlas = load_atlas(request.atlas, encoder)
    if OntologyConfig.model_validate_json(metadata["ontology"]) != atlas.ontology:
        raise CheckpointError(
            f"{request.atlas}: its classes or attributes are not those of {request.model}; "
            "use model and atlas of the same run"
        )
    problems = []
    if request.method not in NAMES:
        known = ", ".join(NAMES)
        problems.append(f"method {request.method!r} is not known; choose one of {known}")
    elif request.dicom_out and request.method in ("grad_cam", "integrated_gradients"):
        found = f"{request.method} marks places and draws no counterfactual"
        problems.append(f"{found}; leave --dicom-out away or choose another --method")
    try:
        config = model.image_config
        blank = np.zeros((config.channels, config.size_px, config.size_px), dtype=np.float32)
        ask(model, atlas, blank, request.question)
    except DataError as error:
        problems += error.problems
    if problems:
        raise DataError("explanation", problems)
    names = ("weights_hash", "encoder_hash", "config_hash")
    hashes = {name: metadata.get(name, "") for name in names}
    return _Tools(request, model, atlas, {**hashes, "encoder_hash": encoder})


def _explain(tools: _Tools, path: Path, source: str, out: Path) -> Explained:
    """Explain one image; everything is made before the first file is written."""
    request, model, atlas = tools.request, tools.model, tools.atlas
    pixels = read_image(path, model.image_config, request.frame)
    objects = None
    if request.dicom_out:
        from client.dicom_source import read_source

        objects = read_source(path, model.image_config, request.frame)
    image = np.asarray(pixels, dtype=np.float32) / 255.0
    made = [METHODS[name](model, atlas, image, request.question) for name in request.methods]
    content = finite(
        {
            "method": request.method,
            **record_of(made, ask(model, atlas, image, request.question)),
            "model_hash": tools.hashes["weights_hash"],
            "encoder_hash": tools.hashes["encoder_hash"],
            "config_hash": tools.hashes["config_hash"],
            "note": NOTE,
        }
    )
    name = f"explanation-{slug_of(request.question, request.method)}-{_fingerprint(pixels)}"
    files = _pictures(made, name)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    files["record"] = (f"{name}.json", text.encode())
    if objects is not None:
        files |= _dicom_files(tools, objects, made, (name, files["panel"][1], content))
    written = {kind: write_whole(out / file, data) for kind, (file, data) in files.items()}
    return Explained(name, source, written, content)


def _fingerprint(pixels: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:10]


def _pictures(made: list[Explanation], name: str) -> dict[str, tuple[str, bytes]]:
    """Return file name and content of the pictures, by kind."""
    files = {}
    sweep = main_of(made).sweep
    if sweep is None:
        return {"panel": (f"{name}.png", draw_methods(made))}
    files["panel"] = (f"{name}.png", draw_sweep(sweep))
    files["sweep"] = (f"{name}.gif", draw_sweep_gif(sweep))
    if len(made) > 1:
        files["methods"] = (f"{name}-methods.png", draw_methods(made))
    return files


def _dicom_files(
    tools: _Tools, source: Any, made: list[Explanation], words: tuple[str, bytes, dict[str, Any]]
) -> dict[str, tuple[str, bytes]]:
    """Return file name and content of the DICOM objects, by kind."""
    from client.dicom_objects import Told, make_objects

    (name, panel, content), main = words, main_of(made)
    if main.sweep is None:
        return {}
    hashes = tools.hashes
    told = Told(
        sweep=main.sweep,
        panel=panel,
        method=main.method,
        question=content["question"],
        model_hash=hashes["weights_hash"],
        encoder_hash=hashes["encoder_hash"],
    )
    instance = str(source.header.SOPInstanceUID).encode()
    stem = f"{name}-{hashlib.sha256(instance).hexdigest()[:6]}"
    objects = make_objects(source, told).items()
    return {f"dicom_{kind}": (f"dicom/{stem}-{kind}.dcm", data) for kind, data in objects}


def _write_lists(
    tools: _Tools, done: list[Explained], rest: tuple[Index, str, list[tuple[str, str]]]
) -> list[Path]:
    """Write pages and index of what is done; return the pages."""
    index, folder, refused = rest
    for source, reason in refused:
        index.refuse(Refused(source, folder, reason))
    index.write()  # first: it holds what is done even where a page cannot be written
    pages = _write_pages(tools, list({each.name: each for each in done}.values()), index)
    index.write_page()
    return pages


def _write_pages(tools: _Tools, done: list[Explained], index: Index) -> list[Path]:
    request, out = tools.request, index.out
    stem = f"explanations-{slug_of(request.question, request.method)}"
    pieces = [done[start : start + PAGE_IMAGES] for start in range(0, len(done), PAGE_IMAGES)]
    noun = "image" if len(done) == 1 else "images"
    hashes = [(name.replace("_hash", ""), value) for name, value in tools.hashes.items()]
    labels = {"weights": "model", "encoder": "encoder", "config": "agreed settings"}
    pages = []
    for number, piece in enumerate(pieces, start=1):
        about = About(
            title=f"Explanations: {request.question.words}",
            lead=f"{len(done)} {noun}; method: {NAMES[request.method]}.",
            index=Path(INDEX).with_suffix(".html").name,
            rows=[(labels[name], value) for name, value in hashes if value],
            part=number,
            parts=len(pieces),
        )
        page = explanation_page(about, [_section(each) for each in piece])
        file = f"{stem}.html" if number == 1 else f"{stem}.part{number}.html"
        pages.append(write_whole(out / file, page.encode()))
    number = max(len(pieces), 1) + 1
    while (stale := out / f"{stem}.part{number}.html").exists():  # of an earlier, larger run
        stale.unlink()
        number += 1
    return pages


def _section(explained: Explained) -> Section:
    """Return one image's part of the page, with the pictures as they lie on disk."""
    content, files = explained.content, explained.files
    words = f"{content['question']}. {content['answer']}"
    captions = {
        "panel": (words, ""),
        "sweep": (f"The frames of the sweep, moving. {words}", "The sweep, moving"),
        "methods": ("The same question answered by each method.", "All methods side by side"),
    }
    pictures = [
        Picture(files[kind].read_bytes(), alt, caption)
        for kind, (alt, caption) in captions.items()
        if kind in files
    ]
    title = f"Image {explained.name.rpartition('-')[2]}"
    return Section(explained.name, title, words, pictures, rows_of(content))
