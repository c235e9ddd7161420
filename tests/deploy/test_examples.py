"""The example files are real: each loads, and the site's words fit the agreed run."""

from pathlib import Path

from client.config import load_site_config
from mfm_core.config import load_yaml
from mfm_core.manifest import read_manifest
from server.folder import Folder
from server.hosting import load_hosted_run, load_hosting
from server.templates import LIMITS, RUN, consortium_text
from strategies.config import RunConfig

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


def test_coordinator_and_run_are_what_init_writes() -> None:
    hosting = load_hosting(Folder(EXAMPLES))
    assert load_hosted_run(hosting).ontology.classes == ("No Finding", "Finding")
    text = (EXAMPLES / "consortium.yaml").read_text("utf-8")
    assert text == consortium_text(hosting.name, hosting.address)
    assert (EXAMPLES / "run.yaml").read_text("utf-8") == RUN


def test_the_site_shows_every_limit_as_a_kit_does() -> None:
    assert LIMITS in (EXAMPLES / "site.yaml").read_text("utf-8")


def test_the_site_reads_a_manifest_in_its_own_words(tmp_path: Path) -> None:
    run = load_yaml(EXAMPLES / "run.yaml", RunConfig)
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
