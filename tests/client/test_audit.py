from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.__main__ import call
from client.audit import PARTS, Request, audit_site
from client.site import close_sites
from mfm_core.atlas import load_atlas, save_atlas
from mfm_core.checkpoint import encoder_hash, load_model, save_model
from mfm_core.config import OntologyConfig, dump_yaml
from mfm_core.erasure import eraser
from mfm_core.errors import CheckpointError, DataError
from mfm_core.head import Head
from mfm_core.head_files import save_heads
from server.app import run_federation
from tests.server.hospitals import consortium, lay_out, make_grid, site_config, write_hospital

LARGE = 480


def mirror_some(folder: Path) -> None:
    """Mirror the images of half of the "left" patients and mark them with a bar below."""
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["label"] == "left" and int(row["patient_id"][1:]) % 4 == 0:
            pixels = np.asarray(Image.open(folder / row["file"]))[:, ::-1].copy()
            pixels[26:30] = 230
            Image.fromarray(pixels).save(folder / row["file"])


@pytest.fixture(scope="module")
def consortium_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals after a whole run, and a large one that gets their model."""
    folder = lay_out(tmp_path_factory.mktemp("audited"))
    run_federation(make_grid(folder), consortium(folder, "finished"), resume=False)
    write_hospital(folder / "images" / "large", seed=9, images=LARGE)
    mirror_some(folder / "images" / "large")
    dump_yaml(site_config("large", min_cell_count=10), folder / "sites" / "large.yaml")
    (folder / "state" / "large").mkdir()
    for name in ("final.safetensors", "atlas.safetensors"):
        shutil.copy(folder / "state" / "north" / name, folder / "state" / "large" / name)
    close_sites()
    return folder


def audit(folder: Path, *options: str, site: str = "0") -> list[str]:
    return ["audit", "--config", str(folder / "sites" / f"{site}.yaml"), *options]


def test_the_command_audits_everything_a_run_left(consortium_folder, tmp_path, capsys):
    assert call(audit(consortium_folder, "--out", str(tmp_path))) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert set(PARTS) <= set(content)
    assert content["site"] == "north" and content["test_images"] == 16
    assert content["test_patients"] == 8
    assert {row["kind"] for row in content["subgroups"]["rows"]["final"]} == {"value", "gap"}
    assert [row["class"] for row in content["explanations"]][:2] == ["left", "right"]
    fields = {row["attribute"] for row in content["bias"]["ranking"]}
    assert fields == {"view", "site"} and content["bias"]["site"] == ""
    assert "no class has 12 test patients" in content["slices"]["refused"]
    assert "nothing of it has left" in printed and "audit.json" in printed
    for words in ("95 % interval", "goal", "view", "matched", "no class has 12 test patients"):
        assert words in printed


def test_the_default_folder_is_in_the_state_folder(consortium_folder, capsys):
    assert call(audit(consortium_folder, "--subgroups")) == 0
    assert (consortium_folder / "state" / "north" / "audit" / "audit.json").is_file()
    assert "Groups nobody recorded" not in capsys.readouterr().out


def test_json_is_the_record(consortium_folder, tmp_path, capsys):
    assert call(audit(consortium_folder, "--bias", "--json", "--out", str(tmp_path))) == 0
    printed = json.loads(capsys.readouterr().out)
    record = printed.pop("record")
    assert printed == json.loads(Path(record).read_text(encoding="utf-8"))
    assert not {"subgroups", "slices", "explanations"} & set(printed)
    assert Path(record).parent == tmp_path and [p.name for p in tmp_path.iterdir()] == [
        "audit.json"
    ]


def test_the_audit_is_the_same_each_time_and_names_no_image(consortium_folder, tmp_path):
    config = consortium_folder / "sites" / "large.yaml"
    parts = ("bias", "subgroups", "slices")
    first, second = (
        audit_site(Request(config, parts, out=tmp_path / name)).content for name in ("a", "b")
    )
    first["slices"].pop("picture"), second["slices"].pop("picture")
    assert first == second
    text = json.dumps(first)
    assert ".png" not in text and '"p1' not in text


def test_small_cells_are_not_shown(consortium_folder, tmp_path):
    shown, strict = consortium_folder / "sites" / "1.yaml", consortium_folder / "sites" / "s.yaml"
    dump_yaml(site_config("south", min_cell_count=10), strict)
    tables = [
        audit_site(Request(path, ("subgroups",), out=tmp_path)).content["subgroups"]["rows"][
            "final"
        ]
        for path in (shown, strict)
    ]
    values = [[row for row in table if row["kind"] == "value"] for table in tables]
    assert all(row["patients"] > 0 and row["reason"] is None for row in values[0])
    assert all(row["patients"] == 0 and "too few" in row["reason"] for row in values[1])


def test_a_group_nobody_recorded_is_found_and_drawn(consortium_folder, tmp_path, capsys):
    options = ("--slices", "--out", str(tmp_path))
    assert call(audit(consortium_folder, *options, site="large")) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    first = content["slices"]["rows"][0]
    assert first["found"] and first["class"] == "left"
    assert first["errors"] / first["n"] > first["other_errors"] / first["others"]
    drawn = Image.open(content["slices"]["picture"])
    assert drawn.width > drawn.height and "stay" in Path(drawn.filename).name
    assert "Drawn (stays here)" in printed and "more errors than the rest" in printed


def test_the_site_field_is_left_out_where_images_changed(consortium_folder, tmp_path):
    config = consortium_folder / "sites" / "large.yaml"
    found = audit_site(Request(config, ("bias",), out=tmp_path)).content["bias"]
    assert {row["attribute"] for row in found["ranking"]} == {"view"}
    assert "not compared with the others" in found["site"]


def test_mitigated_heads_stand_beside_the_final_one(consortium_folder, tmp_path, capsys):
    state = consortium_folder / "state" / "large"
    model, metadata = load_model(state / "final.safetensors")
    atlas = load_atlas(state / "atlas.safetensors")
    own = Head(model.head.weight.detach().numpy(), model.head.bias.detach().numpy())
    heads = {"chosen": own, "leace": eraser(atlas, "view").fold(own)}
    save_heads(state / "heads.safetensors", heads, metadata["encoder_hash"], "view")
    try:
        options = ("--subgroups", "--bias", "--out", str(tmp_path))
        assert call(audit(consortium_folder, *options, site="large")) == 0
    finally:
        (state / "heads.safetensors").unlink()
    content = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert content["heads"] == ["final", "leace"] and content["mitigated_attribute"] == "view"
    assert content["final_is"] == "chosen"
    assert (
        set(content["subgroups"]["rows"]) == set(content["bias"]["flips"]) == set(content["heads"])
    )
    assert sum(row["flipped"] or 0 for row in content["bias"]["flips"]["leace"]) == 0
    assert "leace" in capsys.readouterr().out


def without_run(folder: Path) -> Path:
    """Return a site file whose hospital has never finished a run."""
    path = folder / "sites" / "fresh.yaml"
    fresh = site_config("north").model_copy(update={"state_folder": Path("../state/fresh")})
    dump_yaml(fresh, path)
    return path


def test_no_model_yet_is_refused(consortium_folder, capsys):
    without_run(consortium_folder)
    assert call(audit(consortium_folder, site="fresh")) == 1
    error = capsys.readouterr().err
    assert "not there yet" in error and "--model" in error and "Traceback" not in error
    assert "final.safetensors" in error and "atlas.safetensors" in error


def test_every_file_that_is_missing_is_named_at_once(consortium_folder, tmp_path, capsys):
    without_run(consortium_folder)
    files = ("--model", str(tmp_path), "--atlas", str(tmp_path / "none"))
    assert call(audit(consortium_folder, *files, site="fresh")) == 1
    assert capsys.readouterr().err.count("is no file; check the path") == 2
    assert call(audit(consortium_folder, *files[:2], site="fresh")) == 1
    error = capsys.readouterr().err
    assert "is no file; check the path" in error and "atlas.safetensors: not there yet" in error


def test_a_time_that_is_no_number_is_wrong_use(consortium_folder, capsys):
    assert call(audit(consortium_folder, "--privacy", "--minutes", "nan")) == 2
    assert "found nan" in capsys.readouterr().err


def test_named_files_serve_where_no_run_was(consortium_folder, tmp_path, capsys):
    without_run(consortium_folder)
    state = consortium_folder / "state" / "north"
    files = ("--model", str(state / "final.safetensors"))
    files += ("--atlas", str(state / "atlas.safetensors"))
    options = ("--subgroups", "--out", str(tmp_path))
    assert call(audit(consortium_folder, *files, *options, site="fresh")) == 0
    assert "16 test images" in capsys.readouterr().out


def test_an_atlas_of_another_encoder_is_refused(consortium_folder, tmp_path):
    config, state = consortium_folder / "sites" / "0.yaml", consortium_folder / "state" / "north"
    atlas = load_atlas(state / "atlas.safetensors")
    other = tmp_path / "other.safetensors"
    save_atlas(other, type(atlas)(**{**vars(atlas), "encoder_hash": "0" * 64}))
    with pytest.raises(CheckpointError, match="two encoders cannot be compared"):
        audit_site(Request(config, atlas=other, out=tmp_path))
    renamed = OntologyConfig(classes=("left", "right"), attributes={"view": ("PA", "AP")})
    save_atlas(other, type(atlas)(**{**vars(atlas), "ontology": renamed}))
    with pytest.raises(CheckpointError, match="classes or attributes"):
        audit_site(Request(config, atlas=other, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


def test_a_model_that_diverged_is_refused(consortium_folder, tmp_path):
    config, state = consortium_folder / "sites" / "0.yaml", consortium_folder / "state" / "north"
    model, _ = load_model(state / "final.safetensors")
    atlas = load_atlas(state / "atlas.safetensors")
    with torch.no_grad():
        model.to_latent.weight.fill_(3e38)
    save_model(tmp_path / "model", model, "", atlas.ontology)
    changed = {**vars(atlas), "encoder_hash": encoder_hash(model)}
    save_atlas(tmp_path / "atlas", type(atlas)(**changed))
    asked = Request(config, model=tmp_path / "model", atlas=tmp_path / "atlas", out=tmp_path)
    with pytest.raises(DataError, match="latent is not finite"):
        audit_site(asked)


def changed_manifest(folder: Path, name: str, change) -> Path:
    """Return a site file for north's images under another manifest."""
    with (folder / "images" / "north" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    target = folder / "images" / "north" / f"{name}.csv"
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(change(row) for row in rows)
    config = site_config("north")
    data = config.data.model_copy(
        update={
            "manifest": Path(f"../images/north/{name}.csv"),
            "attribute_mapping": {"view": {"": None, "AP": "AP", "PA": "PA"}},
        }
    )
    path = folder / "sites" / f"{name}.yaml"
    dump_yaml(config.model_copy(update={"data": data}), path)
    return path


def test_no_test_image_is_refused(consortium_folder):
    path = changed_manifest(consortium_folder, "no-test", lambda row: {**row, "split": "train"})
    with pytest.raises(DataError, match="none of 48 images is a labelled test image"):
        audit_site(Request(path))


def test_an_attribute_unknown_for_all_is_refused_when_asked_for(consortium_folder, tmp_path):
    path = changed_manifest(consortium_folder, "no-view", lambda row: {**row, "view": ""})
    with pytest.raises(DataError, match="view unknown for all 16 test images"):
        audit_site(Request(path, ("subgroups",), out=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_refused_part_does_not_stop_the_others(consortium_folder, tmp_path, capsys):
    changed_manifest(consortium_folder, "no-view", lambda row: {**row, "view": ""})
    assert call(audit(consortium_folder, "--out", str(tmp_path), site="no-view")) == 0
    content = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert "view unknown" in content["subgroups"]["refused"]
    assert content["explanations"] and content["bias"]["ranking"]
    assert "view unknown" in capsys.readouterr().out


def test_one_sided_values_have_a_reason(consortium_folder, tmp_path, capsys):
    changed_manifest(consortium_folder, "one-sided", lambda row: {**row, "view": "AP"})
    options = ("--subgroups", "--bias", "--out", str(tmp_path))
    assert call(audit(consortium_folder, *options, site="one-sided")) == 0
    assert "a gap needs two" in capsys.readouterr().out


def test_a_site_of_one_class_gets_what_one_class_can_tell(consortium_folder, tmp_path, capsys):
    """Figures that need a second class are missing, each with its reason; the rest stands."""
    changed_manifest(consortium_folder, "all-left", lambda row: row)
    manifest = consortium_folder / "images" / "north" / "all-left.csv"
    lines = manifest.read_text(encoding="utf-8").splitlines()
    place = lines[0].split(",").index("label")
    kept = [line for line in lines[1:] if line.split(",")[place] == "left"]
    manifest.write_text("\n".join([lines[0], *kept]), encoding="utf-8")
    assert call(audit(consortium_folder, "--out", str(tmp_path), site="all-left")) == 0
    assert "a comparison needs a second one" in capsys.readouterr().out
    content = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    rows = content["subgroups"]["rows"]["final"]
    values = [row for row in rows if row["kind"] == "value" and row["class"] == "left"]
    assert values and all(row["sensitivity"]["value"] is not None for row in values)
    assert all(row["auc"]["value"] is None and row["reason"] for row in values)
    explained = {row["class"]: row["n"] for row in content["explanations"]}
    assert explained["left"] == explained["right"] > 0  # its own has to fade, the other to appear
    assert content["bias"]["flips"] and content["bias"]["ranking"]


def test_a_folder_that_cannot_be_made_is_code_3(consortium_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    options = ("--subgroups", "--out", str(tmp_path / "file" / "out"))
    assert call(audit(consortium_folder, *options)) == 3
    assert "check the path" in capsys.readouterr().err
