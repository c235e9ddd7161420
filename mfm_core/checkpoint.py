"""Weights as one flat vector, and files of arrays that are whole or absent.

The model travels as one `[D] float32` vector with a schema (names and shapes), because a message
costs per array, not per byte. Files are safetensors, never pickles, written to a temporary name,
synced and renamed, so that a kill at any moment leaves the old file or the new one. A file that
is damaged or belongs to something else is refused with a CheckpointError that says why.
What crosses the hospital's boundary: the flat vector, through the client's outbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import ImageConfig, ModelConfig, OntologyConfig, problems_of
from mfm_core.errors import CheckpointError
from mfm_core.sums import Schema, schema_hash
from mfm_core.whole_file import sync_folder, write_whole

FORMAT = "mfm-1"


def weight_schema(model: Autoencoder) -> Schema:
    """Return names and shapes of all weights, in the order of the flat vector."""
    return tuple((name, tuple(value.shape)) for name, value in model.named_parameters())


def flat_weights(model: Autoencoder) -> NDArray[np.float32]:
    """Return all weights as one `[D] float32`, attention logits included."""
    with torch.no_grad():
        parts = [parameter.detach().reshape(-1) for parameter in model.parameters()]
        flat: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
    return flat


def load_flat_weights(model: Autoencoder, flat: NDArray[np.floating[Any]]) -> None:
    """Give the model the weights of a flat vector, in place.

    Raises:
        CheckpointError: another length, or a number that is not finite.
    """
    expected = sum(parameter.numel() for parameter in model.parameters())
    if flat.shape != (expected,):
        raise CheckpointError(
            f"expected {expected} weights, found shape {flat.shape}: they belong to another model"
        )
    if not np.isfinite(flat).all():
        raise CheckpointError("some weights are not finite; go back to an earlier checkpoint")
    vector = torch.from_numpy(np.array(flat, dtype=np.float32))
    start = 0
    with torch.no_grad():
        for parameter in model.parameters():
            piece = vector[start : start + parameter.numel()]
            parameter.copy_(piece.view(parameter.shape))
            start += parameter.numel()


def encoder_hash(model: Autoencoder) -> str:
    """Return the SHA-256 (hex) of the autoencoder: every weight but the head's, and the schema.

    Latents do not depend on the head, so an atlas stays valid when only the head changes.
    """
    digest = hashlib.sha256(schema_hash(weight_schema(model)).encode())
    for name, parameter in model.named_parameters():
        if not name.startswith("head."):
            digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def weights_hash(model: Autoencoder) -> str:
    """Return the SHA-256 (hex) of all weights, the head's too."""
    return hashlib.sha256(flat_weights(model).tobytes()).hexdigest()


def arrays_hash(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 (hex) of names, types, shapes and numbers, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write arrays and metadata atomically: temporary name, sync, rename."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(whole, {"format": FORMAT, **metadata})
    write_whole(path, content)
    sync_folder(path.parent)


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and the metadata of a file.

    Raises:
        CheckpointError: the file is missing, damaged or was not written by `save_arrays`.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}; check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged or not a safetensors file ({error}); restore it from a copy"
        ) from None
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise CheckpointError(f"{path}: expected format {FORMAT}, found {found}; it is not ours")
    return arrays, metadata


def load_arrays(
    path: Path, expected_metadata: Mapping[str, str]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and the metadata of a file whose metadata hold the expected entries.

    Raises:
        CheckpointError: as `read_arrays`, or an entry differs.
    """
    arrays, metadata = read_arrays(path)
    for name, expected in expected_metadata.items():
        found = metadata.get(name, "none")
        if found != expected:
            raise CheckpointError(
                f"{path}: {name} is {found}, expected {expected}; the file belongs to another run"
            )
    return arrays, metadata


def save_model(path: Path, model: Autoencoder, config_hash: str, ontology: OntologyConfig) -> None:
    """Write a model with all that is needed to build it again from the file alone."""
    metadata = {
        "kind": "model",
        "model": model.model_config.model_dump_json(),
        "image": model.image_config.model_dump_json(),
        "ontology": ontology.model_dump_json(),
        "schema": json.dumps(weight_schema(model)),
        "config_hash": config_hash,
        "encoder_hash": encoder_hash(model),
        "weights_hash": weights_hash(model),
    }
    save_arrays(path, {"weights": flat_weights(model)}, metadata)


def load_model(path: Path, config_hash: str | None = None) -> tuple[Autoencoder, dict[str, str]]:
    """Return the model of a file and the file's metadata.

    Args:
        path: written by `save_model`.
        config_hash: if given, the file must come from this configuration.

    Raises:
        CheckpointError: missing or damaged, another schema or configuration, or changed weights.
    """
    expected = {"kind": "model"}
    if config_hash is not None:
        expected["config_hash"] = config_hash
    arrays, metadata = load_arrays(path, expected)
    try:
        shape = ModelConfig.model_validate_json(metadata["model"])
        image = ImageConfig.model_validate_json(metadata["image"])
        ontology = OntologyConfig.model_validate_json(metadata["ontology"])
        weights = arrays["weights"]
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing; restore it from a copy") from None
    except ValidationError as error:
        reasons = "; ".join(problems_of(error))
        raise CheckpointError(f"{path}: its settings: {reasons}; restore it from a copy") from None
    model = build_autoencoder(shape, image, len(ontology.classes), seed=0)
    if json.dumps(weight_schema(model)) != metadata.get("schema"):
        raise CheckpointError(
            f"{path}: its weights have another schema than this version builds; "
            "use the version that wrote it"
        )
    load_flat_weights(model, weights)
    if weights_hash(model) != metadata.get("weights_hash"):
        raise CheckpointError(f"{path}: the weights were changed after saving; restore a copy")
    return model.eval(), metadata
