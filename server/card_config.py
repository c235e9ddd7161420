"""CardConfig: card.yaml, what no run can know and a model card has to say.

It lies in the consortium's folder (or in a plain run folder). A field left out stands in the card
as "not done", with what it would take. What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from mfm_core.config import Part, load_yaml

CARD_FILE = "card.yaml"

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]


class CardConfig(Part):
    """What people say about a model; every field may be left out."""

    name_sites: bool = Field(
        False, description="True puts the sites' names into releases; else they are numbered."
    )
    organisation: Text | None = Field(None, description="Who released the model.")
    contact: Text | None = Field(None, description="Where questions and complaints go.")
    licence: Text | None = Field(None, description="Terms under which the model may be used.")
    citation: Text | None = Field(None, description="How to cite it.")
    intended_use: Text | None = Field(None, description="The task and the setting it is for.")
    intended_users: Text | None = Field(None, description="Who is meant to use it.")
    out_of_scope: tuple[Text, ...] = Field((), description="Uses it is not for, beside the given.")
    oversight: Text | None = Field(None, description="Who watches its answers, and how.")
    data_source: Text | None = Field(
        None, description="Where the images come from: period, devices, kind of patients."
    )
    inclusion: Text | None = Field(None, description="Which images were taken and left out, why.")
    ground_truth: Text | None = Field(None, description="Who or what made the labels.")
    ethics: Text | None = Field(None, description="Approvals, consent, legal basis.")
    stakeholders: Text | None = Field(None, description="Patients and clinicians who had a say.")
    risks: Text | None = Field(None, description="Known risks of use and what is done about them.")
    external_evaluation: Text | None = Field(
        None, description="Results at hospitals that did not take part, with n."
    )
    clinical_evaluation: Text | None = Field(
        None, description="Results of readers or patients with the model, with n."
    )
    usability: Text | None = Field(None, description="Tests with users, training given to them.")
    monitoring: Text | None = Field(
        None, description="How it is watched and renewed in use, and who decides to withdraw it."
    )
    funding: Text | None = Field(None, description="Who paid, and conflicts of interest.")
    limitations: tuple[Text, ...] = Field((), description="Known limits, beside the measured.")


CARD = """\
# What no run can know, for the model card of `mfm-server release`. Everything here becomes public
# with a release. A line that stays a comment stands in the card as "not done".
name_sites: false             # true: hospitals stand under their names, else as site 1, site 2, ...
# organisation: Example consortium, department of radiology
# contact: fl@example.org
# licence: Research use only
# citation: Names, title, year
# intended_use: Research on telling apart findings in chest radiographs of adults
# intended_users: Researchers in medical imaging
# out_of_scope:
#   - Children
# oversight: A radiologist reads every image; answers are shown afterwards
# data_source: Chest radiographs of 2019 to 2024, computed and digital radiography
# inclusion: First image of an adult per visit; lateral views left out
# ground_truth: Labels drawn from reports by rules, 300 checked by two radiologists
# ethics: Approvals of every hospital's board, with numbers
# stakeholders: Two patients and three radiologists reviewed aims and this card
# risks: Wrong answers on portable images; see the subgroup table
# external_evaluation: Hospital that took no part, n 1,200, macro AUC 0.81 (0.78 to 0.84)
# clinical_evaluation: None yet
# usability: Four readers tried the explanations for a week
# monitoring: Figures of every hospital once a quarter; the steering group may withdraw the model
# funding: Name of the fund; no conflicts of interest
# limitations:
#   - Trained on one continent
"""
"""A commented card.yaml; `mfm-server init` writes it."""


def read_card(folder: Path) -> CardConfig:
    """Return card.yaml of a folder, all fields open where there is none.

    Raises:
        ConfigError: it is wrong; all problems are listed.
    """
    path = folder / CARD_FILE
    return load_yaml(path, CardConfig) if path.is_file() else CardConfig()
