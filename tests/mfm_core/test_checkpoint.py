from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import (
    encoder_hash,
    flat_weights,
    load_arrays,
    load_flat_weights,
    load_model,
    read_arrays,
    save_arrays,
    save_model,
    weight_schema,
    weights_hash,
)
from mfm_core.config import ImageConfig, ModelConfig, OntologyConfig
from mfm_core.errors import CheckpointError

CONFIG = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, latent_channels=8)
ONTOLOGY = OntologyConfig(classes=("a", "b", "c"))


def small_model(seed: int = 0) -> Autoencoder:
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 3, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model


def test_flat_vector_goes_there_and_back_bit_for_bit() -> None:
    one, two = small_model(0), small_model(1)
    flat = flat_weights(one)
    assert flat.dtype == np.float32
    assert len(flat) == sum(int(np.prod(shape)) for _, shape in weight_schema(one))
    load_flat_weights(two, flat)
    for first, second in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second)
    assert encoder_hash(one) == encoder_hash(two)


def test_flat_vector_is_a_copy() -> None:
    model = small_model()
    flat = flat_weights(model)
    before = encoder_hash(model)
    flat += 1.0
    assert encoder_hash(model) == before


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_hash_changes_with_one_weight_of_the_autoencoder(part: str) -> None:
    model = small_model()
    before = encoder_hash(model)
    with torch.no_grad():
        next(model.get_submodule(part).parameters()).view(-1)[0] += 1e-6
    assert encoder_hash(model) != before


def test_a_new_head_keeps_the_encoder_hash_and_changes_the_weights_hash() -> None:
    model = small_model()
    encoder, weights = encoder_hash(model), weights_hash(model)
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert encoder_hash(model) == encoder and weights_hash(model) != weights


@pytest.mark.parametrize("change", ["short", "nan", "matrix"])
def test_wrong_flat_vectors_are_refused_and_change_nothing(change: str) -> None:
    model = small_model()
    before, flat = encoder_hash(model), flat_weights(model)
    wrong = {
        "short": flat[:-1],
        "nan": np.where(flat == flat[3], np.nan, flat),
        "matrix": flat[None],
    }
    with pytest.raises(CheckpointError):
        load_flat_weights(model, wrong[change])
    assert encoder_hash(model) == before


def test_arrays_and_metadata_come_back(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([True, False]), "c": np.int64(4)}
    save_arrays(
        tmp_path / "deep" / "x.safetensors",
        {k: np.asarray(v) for k, v in arrays.items()},
        {"run": "1"},
    )
    found, metadata = load_arrays(tmp_path / "deep" / "x.safetensors", {"run": "1"})
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert metadata["run"] == "1"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.safetensors"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save_arrays(path, {"a": np.zeros(3)}, {})

    def no_space(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mfm_core.whole_file.os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        save_arrays(path, {"a": np.ones(3)}, {})
    np.testing.assert_array_equal(read_arrays(path)[0]["a"], np.zeros(3))
    assert [item.name for item in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_model_is_rebuilt_from_its_file_alone(tmp_path: Path) -> None:
    model = small_model()
    save_model(tmp_path / "m.safetensors", model, "hash-1", ONTOLOGY)
    loaded, metadata = load_model(tmp_path / "m.safetensors", "hash-1")
    assert encoder_hash(loaded) == encoder_hash(model) == metadata["encoder_hash"]
    assert OntologyConfig.model_validate_json(metadata["ontology"]) == ONTOLOGY
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded(images).reconstruction, model(images).reconstruction)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", small_model(), "hash-1", ONTOLOGY)
    with pytest.raises(CheckpointError, match=r"config_hash is hash-1, expected hash-2"):
        load_model(tmp_path / "m.safetensors", "hash-2")


def test_a_file_of_another_kind_or_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_arrays(path, {"weights": np.zeros(3, dtype=np.float32)}, {"kind": "atlas"})
    with pytest.raises(CheckpointError, match="kind is atlas"):
        load_model(path)
    save_model(path, small_model(), "h", ONTOLOGY)
    arrays, metadata = read_arrays(path)
    save_arrays(path, arrays, {**metadata, "schema": "[]"})
    with pytest.raises(CheckpointError, match="another schema"):
        load_model(path)
    save_arrays(path, {"weights": arrays["weights"] + 1}, metadata)
    with pytest.raises(CheckpointError, match="changed after saving"):
        load_model(path)
    save_arrays(path, {}, metadata)
    with pytest.raises(CheckpointError, match="missing"):
        load_model(path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, small_model(), "h", ONTOLOGY)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(path)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder; check the path"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_arrays(tmp_path / "none.safetensors")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not ours"):
        read_arrays(tmp_path / "foreign.safetensors")
