"""The leak audit of a site: what it says of a run of its own and of strangers' models."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from client.__main__ import call
from client.audit import Request as Files
from client.audit import open_audit
from client.leak_attacks import Row, attack_sums
from client.leak_audit import Asked, audit_leaks, gate_row, verdict
from client.site import close_sites
from mfm_core.atlas import atlas_from
from mfm_core.config import OntologyConfig, dump_yaml
from mfm_core.dataset import ImageSet
from mfm_core.errors import ConfigError, DataError
from mfm_core.latent_sums import latent_sum
from mfm_core.leak_figures import Hits, Strength
from mfm_core.membership import cohort_of
from mfm_core.sums import Sum
from server.app import run_federation
from server.card_config import CardConfig
from server.finished_run import read_finished
from server.judging import holding, judge
from server.leak_audit import read_leak_audit
from server.release import release_run
from strategies.gates import GatesConfig
from tests.client.private_hospital import PRIVATE_RUN
from tests.server.hospitals import (
    RUN,
    consortium,
    lay_out,
    make_grid,
    site_config,
    write_hospital,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals after a run, and a stranger with their model, their atlas and more patients."""
    folder = lay_out(tmp_path_factory.mktemp("leaks"))
    run_federation(make_grid(folder), consortium(folder, "finished"), resume=False)
    write_hospital(folder / "images" / "stranger", seed=9, images=240)
    dump_yaml(site_config("stranger"), folder / "sites" / "stranger.yaml")
    (folder / "state" / "stranger").mkdir()
    for name in ("final.safetensors", "atlas.safetensors"):
        shutil.copy(folder / "state" / "north" / name, folder / "state" / "stranger" / name)
    close_sites()
    return folder


def command(folder: Path, site: str, *options: str) -> list[str]:
    path = str(folder / "sites" / f"{site}.yaml")
    return ["audit", "--config", path, "--privacy", "--minutes", "0", *options]


def results_of(folder: Path) -> Path:
    return next((folder / "finished").rglob("server.json"))


def test_a_small_atlas_leaks_and_the_command_ends_with_one(folder, tmp_path, capsys):
    options = ("--results", str(results_of(folder)), "--out", str(tmp_path))
    assert call(command(folder, "0", *options)) == 1
    printed = capsys.readouterr().out
    assert "A leak beyond the agreed limits" in printed and "covariance of the atlas" in printed
    assert "Not done: canaries: no time left" in printed and "Nothing was sent" in printed
    read = read_leak_audit(tmp_path)
    assert read is not None
    assert read.final_hash == json.loads(results_of(folder).read_text())["final_hash"]
    attacks = {row.name: row for row in read.attacks}
    assert attacks["covariance of the atlas"].auc == 1.0
    assert all("site's sums" not in name and "canaries" not in name for name in attacks)
    page = (tmp_path / "leaks-stay-here.html").read_text(encoding="utf-8")
    assert "stays at the site" in page and "LEAKS" in page and "<script" not in page


def test_a_leaky_run_is_not_released(folder, tmp_path):
    run_folder = Path(shutil.copytree(results_of(folder).parent, tmp_path / "run"))
    shutil.copy(folder / "run.yaml", run_folder)
    out = ("--results", str(results_of(folder)), "--out", str(run_folder))
    assert call(command(folder, "0", *out)) == 1
    held = release_run(read_finished(run_folder), CardConfig(), tmp_path / "released", {})
    assert held.folder is None and not (tmp_path / "released").exists()
    assert {v.gate for v in holding(held.verdicts)} == {"leak_auc", "leak_tpr"}


def test_a_model_that_never_saw_the_site_passes(folder, tmp_path, capsys):
    assert call(command(folder, "stranger", "--json", "--out", str(tmp_path))) == 0
    content = json.loads(capsys.readouterr().out)
    judged = [row for row in content["attacks"] if row["verdict"]]
    assert len(judged) == 4 and all(row["verdict"] in ("open", "within") for row in judged)
    for row in judged:
        low, high = row["strength"]["auc_interval"]
        assert low <= 0.5 <= high
    assert content["nearest_p"] > 0.01


def test_the_gate_file_lies_in_the_state_folder_and_fits_the_run(folder, capsys):
    assert call(command(folder, "0")) == 1
    state = folder / "state" / "north"
    read = read_leak_audit(state)
    assert read is not None and read.final_hash is None
    assert (state / "audit" / "leaks-stay-here.html").is_file()
    kept = json.loads((state / "audit" / "leaks.json").read_text())
    assert read.weights_hash == kept["weights_hash"]
    text = (state / "leak_audit.json").read_text() + json.dumps(kept)
    assert ".png" not in text and '"p1' not in text


def test_with_time_every_attack_is_made(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("client.leak_audit.MATCHING", 4)
    told: list[int] = []
    asked = Asked(folder / "sites" / "0.yaml", minutes=5, out=tmp_path)
    found = audit_leaks(asked, lambda done, total: told.append(done)).content
    names = [row["name"] for row in found["attacks"]]
    assert len(names) == len(set(names)) == 12
    assert found["missing"] == []
    assert found["shadows"] == {"count": 16, "steps": 6}
    assert len(found["inversion"]["single"]) == 5 and found["inversion"]["update"]["ssim"] <= 1
    assert found["canaries"]["inserted"] == 32
    assert told == sorted(told) and told[0] == 0 and told[-1] == 100


@pytest.mark.slow
def test_a_private_run_has_its_bound_beside_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr("client.leak_audit.MATCHING", 4)
    folder = lay_out(tmp_path, run=PRIVATE_RUN)
    run_federation(make_grid(folder), consortium(folder, "finished"), resume=False)
    found = audit_leaks(Asked(folder / "sites" / "0.yaml", minutes=2)).content
    assert found["private"] and found["epsilon"]["unit"] == "patient"
    bounded = {row["name"] for row in found["attacks"] if row["bound"]}
    assert {"membership, head, simple", "membership, head, LiRA", "canaries, head"} <= bounded
    assert not any("atlas" in name for name in bounded)
    for row in found["attacks"]:
        if row["bound"]:
            assert row["strength"]["auc_interval"][0] <= row["bound"]["auc"]
    assert all(each["ssim"] < each["blind_ssim"] for each in found["inversion"]["single"])


def test_a_secure_sum_leaves_out_what_it_hides(folder):
    opened = open_audit(Files(folder / "sites" / "0.yaml"))
    rows, missing = attack_sums(opened, cohort_of(opened.images), masked=True)
    assert [row.seen for row in rows] == ["release", "release"]
    assert "a secure sum hides them" in missing[0]


def test_no_run_yet_and_wrong_use_are_refused(folder, capsys):
    fresh = site_config("north").model_copy(update={"state_folder": Path("../state/fresh")})
    dump_yaml(fresh, folder / "sites" / "fresh.yaml")
    assert call(command(folder, "fresh")) == 1
    assert "not there yet" in capsys.readouterr().err
    assert call(command(folder, "0", "--bias")) == 2
    path = str(folder / "sites" / "0.yaml")
    assert call(["audit", "--config", path, "--results", str(results_of(folder))]) == 2


def test_model_and_results_of_another_run_are_refused(folder, tmp_path):
    other = {**json.loads(results_of(folder).read_text()), "config_hash": "0" * 64}
    (tmp_path / "server.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="is of a run 000000000000"):
        audit_leaks(Asked(folder / "sites" / "0.yaml", results=tmp_path / "server.json"))
    dump_yaml(PRIVATE_RUN, folder / "other.yaml")
    changed = site_config("north").model_copy(update={"run": Path("../other.yaml")})
    dump_yaml(changed, folder / "sites" / "changed.yaml")
    with pytest.raises(ConfigError, match="the model here is of run"):
        audit_leaks(Asked(folder / "sites" / "changed.yaml"))


def test_too_few_held_out_patients_are_refused(folder):
    source = folder / "images" / "north" / "manifest.csv"
    with source.open() as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row["split"] != "test" or row["patient_id"] == "p8"]
    with (source.parent / "few.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    config = site_config("north")
    data = config.data.model_copy(update={"manifest": Path("../images/north/few.csv")})
    dump_yaml(config.model_copy(update={"data": data}), folder / "sites" / "few.yaml")
    with pytest.raises(DataError, match="1 held-out ones") as caught:
        audit_leaks(Asked(folder / "sites" / "few.yaml"))
    assert "p8" not in str(caught.value)


def row(auc: tuple[float, float, float], tpr: tuple[float, float, float]) -> Row:
    hits = Hits(0.01, tpr[1], (tpr[0], tpr[2]))
    strength = Strength(auc[1], (auc[0], auc[2]), (hits, hits), 100, 100)
    return Row("attack", "release", strength, judged=True)


SMALL = (0.0, 0.005, 0.015)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (row((0.49, 0.51, 0.53), SMALL), "within"),
        (row((0.45, 0.52, 0.60), SMALL), "open"),
        (row((0.56, 0.60, 0.64), SMALL), "leaks"),
        (row((0.36, 0.40, 0.44), SMALL), "leaks"),
        (row((0.49, 0.51, 0.53), (0.03, 0.05, 0.09)), "leaks"),
        (row((0.49, 0.51, 0.53), (0.01, 0.015, 0.09)), "open"),
    ],
)
def test_a_verdict_follows_from_the_interval(found, said):
    assert verdict(found, GatesConfig()) == said


def test_a_verdict_follows_from_the_value_where_that_was_agreed():
    gates = GatesConfig(leak_end="value")
    assert verdict(row((0.45, 0.56, 0.60), SMALL), gates) == "leaks"
    assert verdict(row((0.40, 0.44, 0.60), SMALL), gates) == "leaks"
    assert verdict(row((0.40, 0.54, 0.70), (0.0, 0.01, 0.5)), gates) == "within"
    assert np.isclose(gates.max_leak_auc, 0.55)


def attacked_atlas(members: int, others: int, size: int, noise: float, monkeypatch) -> list[Row]:
    """Return the attacks on the atlas of so many patients with normal latents `[size]`."""
    rng, number = np.random.default_rng(3), members + others
    latents, labels = rng.normal(size=(number, size)), np.arange(number) % 2
    none, member = np.zeros((number, 0), np.int64), np.arange(number) < members
    splits = np.where(member, 0, 2)
    images = ImageSet(
        np.zeros((number, 1, 1, 1), np.uint8), labels, none, np.arange(number), splits
    )
    ontology = OntologyConfig(classes=("left", "right"))
    exact = latent_sum(latents[:members], labels[:members], none[:members], np.arange(members),
                       ontology)  # fmt: skip
    both = rng.normal(scale=noise, size=(size, size))
    noisy = {"class.sum": rng.normal(scale=noise, size=(2, size)), "second_moment": both + both.T}
    cells = {name: array + noisy.get(name, 0.0) for name, array in exact.arrays.items()}
    atlas = atlas_from(Sum(cells), ontology, "")
    opened = SimpleNamespace(model=None, ontology=ontology, atlas=atlas)
    monkeypatch.setattr("client.leak_attacks.own_cells", lambda opened: exact)
    monkeypatch.setattr("client.leak_attacks.latents_of", lambda model, images, rows: latents[rows])
    return attack_sums(opened, cohort_of(images), masked=True)[0]


@pytest.mark.parametrize(
    ("size", "said", "state"),
    [((8000, 10000, 8, 20.0), "within", "pass"), ((40, 4000, 64, 0.0), "leaks", "fail"),
     ((400, 500, 8, 20.0), "open", "fail")],
)  # fmt: skip
def test_the_gates_of_a_release_judge_an_audit_as_the_audit_does(
    size, said, state, tmp_path, monkeypatch
):
    rows = attacked_atlas(*size, monkeypatch)
    assert len(rows) == 2 and {verdict(row, GatesConfig()) for row in rows} == {said}
    content = {"attacks": [gate_row(row) for row in rows]}
    (tmp_path / "leak_audit.json").write_text(json.dumps(content, default=float))
    audit = read_leak_audit(tmp_path)
    assert audit is not None
    verdicts = judge(RUN, {"leak_audit": audit.model_dump(mode="json")})
    states = {v.state for v in verdicts if v.gate in ("leak_auc", "leak_tpr")}
    assert ("fail" if "fail" in states else states.pop()) == state
