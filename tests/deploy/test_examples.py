"""The example files are real: each loads, and the site's words fit the agreed run."""

from pathlib import Path

from client.config import load_site_config
from mfm_core.manifest import read_manifest
from server.config import load_agreed_run, load_consortium

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


def test_coordinator_and_run_fit_together() -> None:
    consortium = load_consortium(EXAMPLES / "consortium.yaml")
    assert load_agreed_run(consortium).ontology.classes == ("No Finding", "Finding")
    assert consortium.rules.quorum <= len(consortium.rules.sites)


def test_the_site_reads_a_manifest_in_its_own_words(tmp_path: Path) -> None:
    run = load_agreed_run(load_consortium(EXAMPLES / "consortium.yaml"))
    (tmp_path / "site.yaml").write_text((EXAMPLES / "site.yaml").read_text("utf-8"), "utf-8")
    words = [("normal", "posteroanterior"), ("pneumonia", "anteroposterior"), ("unclear", "")]
    rows = [f"{n}.png,{word},p{n},{view}" for n, (word, view) in enumerate(words * 4)]
    header = "path,finding,patient_number,view_position"
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    (tmp_path / "images").mkdir()
    for n in range(12):
        (tmp_path / "images" / f"{n}.png").touch()
    manifest = read_manifest(load_site_config(tmp_path / "site.yaml").data, run.ontology)
    assert [entry.label for entry in manifest.entries] == [0, 1] * 4
    assert [entry.attributes for entry in manifest.entries] == [(1,), (0,)] * 4
