"""Altered, foreign and hostile release folders: each is found out, nothing outside is read."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mfm_core.atlas import load_atlas, save_atlas
from mfm_core.checkpoint import load_model, read_arrays, save_arrays, save_model
from mfm_core.errors import ConfigError
from server.release_check import check_release
from server.release_files import (
    ALLOWED,
    RELEASE,
    SUMS,
    content_hash,
    json_text,
    release_id,
    sums_text,
)
from tests.server.finished import released
from tests.server.hospitals import RUN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return released(tmp_path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def list_anew(folder: Path) -> None:
    """Write SHA256SUMS for the files as they are now."""
    names = [path.name for path in folder.iterdir() if path.name in ALLOWED]
    (folder / SUMS).write_text(sums_text({name: digest(folder / name) for name in names}))


def seal_anew(folder: Path, **facts: Any) -> None:
    """Forge every hash that stands in plain text: release.json, its id and SHA256SUMS."""
    path = folder / RELEASE
    release = json.loads(path.read_text())
    release["facts"] |= facts
    names = [p.name for p in folder.iterdir() if p.name in ALLOWED and p.name != RELEASE]
    release["files"] = {name: digest(folder / name) for name in names}
    release["facts"]["content_hash"] = content_hash(release["facts"], release["files"])
    release["release_id"] = release_id(release)
    path.write_text(json_text(release))
    list_anew(folder)


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json_text(content))


def problems(folder: Path) -> str:
    return "\n".join(check_release(folder).problems)


def test_a_release_is_whole_and_sha256sum_says_so_too(folder: Path) -> None:
    found = check_release(folder)
    assert found.problems == () and found.facts["name"] == "tiny"
    assert found.release_id == release_id(json.loads((folder / RELEASE).read_text()))
    done = subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=folder, capture_output=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ")[1] for line in (folder / SUMS).read_text().splitlines()}
    assert listed == {path.name for path in folder.iterdir()} - {SUMS} == ALLOWED


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_one_changed_byte_is_found_in_every_file(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert f"{name}: was changed" in problems(folder)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_every_missing_and_every_cut_file_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert f"{name}: was changed" in problems(folder)
    (folder / name).unlink()
    assert f"{name}: is missing" in problems(folder)


def test_all_problems_are_told_at_once(folder: Path) -> None:
    (folder / "metrics.json").unlink()
    (folder / "run.yaml").write_text("name: [")
    (folder / "notes.txt").write_text("hello")
    found = problems(folder)
    assert "metrics.json: is missing" in found and "run.yaml: was changed" in found
    assert "run.yaml: not readable" in found and "notes.txt: no file of a release" in found


def test_without_its_list_nothing_is_trusted(folder: Path) -> None:
    (folder / SUMS).unlink()
    found = problems(folder)
    assert f"{SUMS}: is missing" in found and f"is not listed in {SUMS}" in found


def test_a_file_left_out_of_the_list_is_found(folder: Path) -> None:
    lines = (folder / SUMS).read_text().splitlines(keepends=True)
    kept = [line for line in lines if "heads" not in line]
    (folder / SUMS).write_text("".join(kept))
    assert "heads.safetensors: is not listed" in problems(folder)


def test_a_path_out_of_the_folder_is_never_followed(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("kept to myself")
    listed = (folder / SUMS).read_text()
    for name in ("../secret.txt", str(secret), "..", "sub/../../secret.txt", "..\\secret.txt"):
        (folder / SUMS).write_text(f"{listed}{digest(secret)}  {name}\n")
        found = problems(folder)
        assert "leads out of the folder; not read" in found
        assert "kept to myself" not in found and "is missing" not in found


@pytest.mark.parametrize(
    "line",
    ["nonsense", "0" * 63 + "  run.yaml", "A" * 64 + "  run.yaml", "0" * 64 + " *run.yaml", "\x00"],
)
def test_a_line_of_another_form_is_refused(folder: Path, line: str) -> None:
    with (folder / SUMS).open("a") as file:
        file.write(line + "\n")
    assert "expected a hash, two spaces and a name" in problems(folder)


def test_a_name_twice_and_a_stranger_are_refused(folder: Path) -> None:
    with (folder / SUMS).open("a") as file:
        file.write("0" * 64 + "  run.yaml\n" + "0" * 64 + "  run.sh\n")
    found = problems(folder)
    assert "run.yaml stands twice" in found and "run.sh is no file of a release" in found


def test_links_pipes_and_folders_are_refused_unread(folder: Path, tmp_path: Path) -> None:
    for name in ("run.yaml", "metrics.json"):
        shutil.move(folder / name, tmp_path / name)
    (folder / "run.yaml").symlink_to(tmp_path / "run.yaml")
    os.mkfifo(folder / "metrics.json")
    (folder / "more").mkdir()
    (folder / "model_card.html").unlink()
    (folder / "model_card.html").symlink_to("/nowhere")
    found = problems(folder)
    assert "run.yaml: a link" in found and "run.yaml: is missing" in found
    assert "metrics.json: not a plain file" in found and "more: not a plain file" in found
    assert "model_card.html: a link" in found


def test_a_pickle_under_the_name_of_the_model_is_not_opened(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    seal_anew(folder)
    assert "damaged or not a safetensors file" in problems(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_model_of_another_run_is_found_though_all_lists_were_forged(folder: Path) -> None:
    model, _ = load_model(folder / "model.safetensors")
    save_model(folder / "model.safetensors", model, "0" * 64, RUN.ontology)
    seal_anew(folder)
    assert "model.safetensors: its run hash is 000000000000" in problems(folder)


def test_other_weights_are_found_though_all_lists_were_forged(folder: Path) -> None:
    model, metadata = load_model(folder / "model.safetensors")
    model.head.bias.data += 1
    save_model(folder / "model.safetensors", model, metadata["config_hash"], RUN.ontology)
    seal_anew(folder)
    found = problems(folder)
    assert "model.safetensors: its weights hash" in found
    assert "heads.safetensors: the head in use is not that of model.safetensors" in found
    next(model.parameters()).data += 1
    save_model(folder / "model.safetensors", model, metadata["config_hash"], RUN.ontology)
    seal_anew(folder)
    found = problems(folder)
    assert "atlas.safetensors: made with encoder" in found
    assert "heads.safetensors: heads of encoder" in found


def test_a_model_of_another_shape_is_not_built(folder: Path) -> None:
    arrays, metadata = read_arrays(folder / "model.safetensors")
    shape = json.loads(metadata["model"])
    shape["widths"], shape["depths"] = [1024] * 4, [16] * 4
    changed = {**metadata, "model": json.dumps(shape)}
    save_arrays(folder / "model.safetensors", arrays, changed)
    seal_anew(folder)
    assert "model.safetensors: another model, image or ontology" in problems(folder)


def test_an_atlas_with_other_counts_is_found(folder: Path) -> None:
    path = folder / "atlas.safetensors"
    atlas = load_atlas(path)
    atlas.counts[0] += 5
    save_atlas(path, atlas)
    seal_anew(folder)
    assert "atlas.safetensors: other patients per class" in problems(folder)


def test_another_agreed_run_is_found(folder: Path) -> None:
    path = folder / "run.yaml"
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    seal_anew(folder)
    assert "run.yaml: has run hash" in problems(folder)


def test_a_better_figure_on_the_card_is_found(folder: Path) -> None:
    change_json(folder / "model_card.json", lambda card: card["figures"]["ssim"].update(value=0.9))
    seal_anew(folder)
    found = problems(folder)
    assert "model_card.json: figures is not what metrics.json says" in found


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "model_card.html"])
def test_a_page_that_says_something_else_is_found(folder: Path, name: str) -> None:
    path = folder / name
    path.write_text(path.read_text().replace("not a medical device", "a medical device"))
    seal_anew(folder)
    assert f"{name}: does not say what model_card.json says" in problems(folder)


def test_other_facts_on_the_card_are_found(folder: Path) -> None:
    seal_anew(folder, date="2020-01-01T00:00:00+00:00")
    assert "model_card.json: release is not what release.json says" in problems(folder)


def test_a_gate_that_was_turned_round_is_judged_again(folder: Path) -> None:
    def passed(content: dict[str, Any]) -> None:
        content["gates"][1]["state"] = "pass"

    change_json(folder / RELEASE, passed)
    change_json(folder / "model_card.json", passed)
    seal_anew(folder)
    assert "gate macro_auc says 'pass', judged again it is not done" in problems(folder)


def test_a_degraded_run_cannot_be_told_complete_without_a_reason(folder: Path) -> None:
    change_json(folder / "metrics.json", lambda figures: figures.update(status="degraded"))
    seal_anew(folder)
    assert "gate run_status says 'pass', judged again it is fail" in problems(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("release.json", "[" * 100_000),
        ("release.json", '{"facts": 1}'),
        ("release.json", '{"facts": {"run_hash": 5}, "files": {"a": [1]}}'),
        ("metrics.json", '{"pooled": 5}'),
        ("metrics.json", '{"per_site": null, "leak_audit": {"attacks": 3}}'),
        ("model_card.json", '{"release": {}, "gates": 3}'),
        ("model_card.json", "null"),
        ("rounds.jsonl", "{\n"),
        ("run.yaml", "a: &x [1]\nb: *x\n"),
        ("run.yaml", "!!python/object/apply:os.system [exit]\n"),
        ("run.yaml", "name: tiny\nontology: {classes: [a, b]}\nspeed: 3\n"),
        ("model.safetensors", ""),
        ("heads.safetensors", "\xff" * 100),
    ],
)
def test_nonsense_ends_in_words_and_never_in_a_traceback(
    folder: Path, name: str, text: str
) -> None:
    (folder / name).write_text(text)
    list_anew(folder)
    found = check_release(folder).problems
    assert any(name in problem for problem in found)
    if name != RELEASE:
        seal_anew(folder)
        assert any(name in problem for problem in check_release(folder).problems)


def test_a_file_too_large_is_not_read_to_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.release_check.MAX_BYTES", 1000)
    assert "model.safetensors: cannot be read (larger than 1,000 bytes)" in problems(folder)


def test_names_of_strangers_are_shown_without_their_control_characters(folder: Path) -> None:
    (folder / "\x1b[2Jgone\n").write_text("")
    assert "\x1b" not in problems(folder) and "gone" in problems(folder)


def test_a_release_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        check_release(tmp_path / "nothing")
