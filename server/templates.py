"""The commented files that people start from: consortium.yaml, run.yaml and a site's site.yaml.

`deploy/examples` shows the first two, and the limits of the third, as they are written here; a
test keeps them equal. What
crosses a hospital's boundary: towards it, in its kit, run.yaml and the template of site.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from mfm_core.config import OntologyConfig
from strategies.config import RunConfig
from strategies.onboarding import Kit
from strategies.plan import KINDS

RUN = """\
# What the whole consortium agreed on. It travels in the app bundle; every message carries its hash.
name: chest-findings
seed: 0
rounds: 40
ontology:
  classes: [No Finding, Finding]       # the order is the index; never change it during a run
  attributes:
    view: [AP, PA]                     # what may explain a bias; a site leaves out what it lacks
image: {size_px: 64, channels: 1, fit: pad}
learning:
  objective: {beta: 0.03, class_weight: 0.5, cycle_weight: 10}
  augmentation: {flip_probability: 0}  # the heart lies on the left
  training: {batch_size: 32, steps_per_round: 40, learning_rate: 0.002}
aggregation: {kind: fedavg}            # fedprox with proximal_mu, scaffold, fedadam, fedyogi
statistics:
  refit_head: true
  bootstrap_replicates: 200            # 0: no intervals, nothing but plain counts leaves
gates:                                 # what `mfm-server release` asks of the finished model
  allow_degraded: false                # true: release although a site missed an exchange
  # min_macro_auc: 0.8                 # lower end of the 95 % interval
  # min_class_auc: 0.7                 # weakest class
  # min_ssim: 0.8                      # redrawn test images
  # max_subgroup_gap: 0.05             # AUC, upper end of the 95 % interval
# Off where left out: mitigation, privacy, secure_sum. strategies/config.py describes every key.
"""

_CONSORTIUM = """\
# How this coordinator hosts the consortium. It stays on the coordinator's machine.
# Sites are not listed here: see `mfm-server site`.
name: {name}
address: {address}   # host:port that the hospitals' nodes call
listen: {listen}   # IP:port of the gateway on this machine; open it in the firewall
superlink: {superlink}   # Flower's SuperLink; loopback only, never open it
gateway: auto               # nginx where it is installed, else builtin
run: run.yaml               # the agreed run; after a change: `mfm-server site kit` for all

# How long to wait for whom. Unset, quorum is more than half of the admitted sites, and the two
# times follow from the rounds of earlier runs.
# quorum: 2                 # sites whose replies a round needs; fewer are asked again
# deadline_s: 3600          # longest wait for the replies of one round, seconds
# grace_s: 600              # wait for the rest once the quorum is there, seconds
attempts: 3                 # times a round is asked before the run stops; it can then be resumed
node_wait_s: 300            # longest wait for sites to appear, seconds
threads: 1                  # CPU threads of the server process
# pretrained: start.safetensors   # the released model that run.yaml's `pretrained` names by hash
# metrics: 127.0.0.1:9464   # figures for a Prometheus on this machine; left out: none
"""

_SITE = """\
# The settings of {name}. This file never leaves the hospital; relative paths start at its folder.
name: {name}
run: kit/run.yaml             # this site's own copy of what was agreed
data:
{data}limits:                       # no run can widen these
  accepted_runs:              # hashes of the runs this site takes part in; this is {run} of the kit
    - "{run_hash}"
  accepted_bundles:           # hashes of the program this site works for; this one is the kit's
    - "{bundle_hash}"
{limits}receipt_key: "{receipt_key}"   # the coordinator's receipts must be signed by it
state_folder: state           # cache, ledger, log and received models
device: cpu                   # auto: a graphics card where there is one; cuda: not without one
# precision: bf16             # tf32 or bf16 round the factors of products; left out: float32
threads: 1
# metrics: 127.0.0.1:9465     # counts and times for this hospital's own Prometheus; left out: none
"""

_DATA = """\
  root: images                # folder that file names are relative to
  manifest: manifest.csv      # one row per image; leave out to read one folder per class
  columns:                    # which column of the manifest holds what
    file: file
    label: label
    patient: patient_id       # images of one patient are never divided between train and test
    attributes: {columns}
  label_mapping:              # this site's words to the consortium's; null leaves a row out
{labels}
  attribute_mapping:{values}
  val_fraction: 0.1
  test_fraction: 0.2
"""

_TASK_DATA = """\
  root: images                # folder of the data sets, in the MIMeta layout
  mimeta: []                  # names of those to use; []: all that have a task of the run
"""

LIMITS = f"""\
  # allowed_kinds: [{", ".join(KINDS)}]
  # allowed_arrays: {{latent_sums: ["class.*", "attribute.*", suppressed]}}   # narrower than agreed
  # max_numbers: {{train: 4000000}}   # most numbers in one record of a kind
  # max_update_norm: 10       # a larger change of the weights does not leave
  max_message_mib: 64
  min_cell_count: 10          # fewest patients of a released cell; smaller ones leave as zeros
  require_secure_sum: false   # true: refuse answers that the server could read by themselves
  min_secure_sites: 3         # fewest sites of a secure sum
  # peers: {{north: "SHA256:{"A" * 43}"}}   # node key of each other site
  max_atlas_releases: 3       # most private releases of cells in one run
  max_epsilon: 8.0            # of all private training here, over every run
  delta: 1.0e-6               # delta at which max_epsilon holds
  min_noise_multiplier: 0.0   # above 0: runs with less noise for a patient are refused
  privacy_unit: patient       # or image: whom a private run must hide
  weight_margin: 20.0         # how many times weights may exceed those of usual models
  # graph: "{"2" * 64}"   # the only architecture accepted; left out: any that this code builds
  manual: false               # true: hold every message until `mfm-client outbox approve`
  manual_minutes: 720         # longest wait for that person; then it is refused
  # hours: "18:00-06:00"      # when this site works, local time; left out: always
  max_minutes: 240            # longest work on one message; then it is ended
  # max_memory_gib: 8         # largest private memory of the working process
"""
"""Every limit of a site at its default; one line is a comment where the default is none."""


def consortium_text(name: str, address: str) -> str:
    """Return a commented consortium.yaml that listens on the port of `address`.

    Args:
        name: of the consortium.
        address: host:port that sites call.
    """
    port = address.rpartition(":")[2]
    return _CONSORTIUM.format(
        name=_one(name),
        address=_one(address),
        listen=_one(f"0.0.0.0:{port}"),
        superlink=f"127.0.0.1:{8001 if port == '8000' else 8000}",
    )


def site_text(kit: Kit, run: RunConfig) -> str:
    """Return a commented site.yaml in the words of the agreed run.

    Args:
        kit: names the site, the only run and bundle it accepts and the key of receipts.
        run: the agreed run.
    """
    return _SITE.format(
        name=_one(kit.site),
        data=_data(run.ontology),
        run=run.name,
        run_hash=kit.run_hash,
        bundle_hash=kit.bundle_hash,
        receipt_key=kit.receipt_key,
        limits=LIMITS,
    )


def _data(ontology: OntologyConfig) -> str:
    """Return the lines of data, in the words of the run; its tasks have their words with them."""
    if ontology.tasks:
        return _TASK_DATA
    return _DATA.format(
        columns=_flow({attribute: attribute for attribute in ontology.attributes}),
        labels="\n".join(f"    {_one(label)}: {_one(label)}" for label in ontology.classes),
        values=_values(ontology),
    )


def _values(ontology: OntologyConfig) -> str:
    """Return the lines of attribute_mapping; `null` is unknown, '*' any other word."""
    if not ontology.attributes:
        return " {}"
    rows = []
    for attribute, values in ontology.attributes.items():
        mapping: dict[str, str | None] = {value: value for value in values}
        rows.append(f"    {_one(attribute)}: {_flow({**mapping, '*': None})}")
    return "   # null is unknown, '*' is any other word\n" + "\n".join(rows)


def _one(text: str) -> str:
    """Return a text as YAML reads it back: bare where that is safe, else quoted."""
    bare = yaml.safe_dump(text, allow_unicode=True, width=10_000).removesuffix("...\n").strip()
    return bare if "\n" not in bare and ": " not in bare else json.dumps(text)


def _flow(mapping: Mapping[str, Any]) -> str:
    dumped = yaml.safe_dump(
        dict(mapping), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return str(dumped).strip()
