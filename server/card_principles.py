"""The model card after FUTURE-AI and CLAIM: each item filled from the run, or "not done".

Sources: FUTURE-AI (Lekadir et al., BMJ 2025), six principles and general items; the Checklist for
AI in Medical Imaging (CLAIM), items on study, data, model and evaluation. The wording is ours.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

from mfm_core.report_audit import bias_lead, goals_sentence
from mfm_core.report_groups import gap_lead
from mfm_core.report_words import listed, number, several
from server.card_items import Item, Known, Section, item, section, text_of, told
from server.card_sections import leak_text, privacy_text, recorded, training_data
from strategies.plan import plan_of

AUDIT = "Agree on audit.enabled: true."


def principles_of(known: Known) -> list[Section]:
    """Return a section for each of the six principles, then the general items."""
    return [
        section("fairness", "Fairness", _fairness(known)),
        section("universality", "Universality", _universality(known)),
        section("traceability", "Traceability", _traceability(known)),
        section("usability", "Usability", _usability(known)),
        section("robustness", "Robustness", _robustness(known)),
        section("explainability", "Explainability", _explainability(known)),
        section("general", "General", _general(known)),
    ]


def _fairness(known: Known) -> list[Item]:
    biases, gaps, made = known.biases, known.gaps, known.run.mitigation
    heads = f"Heads made without {made.attribute}: {', '.join(made.methods)}"
    used = f"; in use: {made.use}" if made.use else "; none of them in use"
    return [
        item("Sources of bias looked for", bias_lead(biases) if biases else None,
             f"{AUDIT} It needs patients on both sides of a field."),
        item("Attributes recorded", recorded(known), "Agree on attributes such as view, sex, age."),
        item("Fairness measured", gap_lead(gaps) if gaps else None,
             f"Record an attribute. {AUDIT} It needs patients on both sides."),
        item("Bias reduced", heads + used if made.attribute else None, "Set mitigation.attribute."),
    ]  # fmt: skip


def _spread(known: Known) -> str | None:
    found = [
        (row.get("macro_auc") or {}).get("value") for row in known.figures["per_site"].values()
    ]
    values = sorted(value for value in found if value is not None)
    if len(values) < 2:
        return None
    low, high = number(values[0], 3), number(values[-1], 3)
    return f"Macro AUC at {len(values)} hospitals on their own test images: {low} to {high}"


def _universality(known: Known) -> list[Item]:
    people = known.people
    return [
        told("Clinical setting", people.data_source, "data_source"),
        item("Open standards", "Weights in safetensors, settings in YAML, figures in JSON; images "
             "from DICOM or common picture files.", ""),
        item("Evaluated at several hospitals", _spread(known), "Evaluate at two hospitals."),
        told("Evaluated where nobody trained", people.external_evaluation, "external_evaluation"),
    ]  # fmt: skip


def _traceability(known: Known) -> list[Item]:
    facts, people = known.facts, known.people
    hashes = "Hashes of run, code, encoder, weights and result stand in release.json"
    checked = "; figures computed again from the run's state" if facts["recomputed"] else ""
    return [
        told("Risks managed over the life cycle", people.risks, "risks"),
        item("Documented", f"This card, its JSON and metrics.json. {hashes}{checked}.", ""),
        item("Inputs checked", None, "The run keeps no record of the checks at each hospital."),
        told("Watched and renewed in use", people.monitoring, "monitoring"),
        item("Logged", "rounds.jsonl tells every exchange; each hospital keeps a hash-chained "
             "ledger of what left it.", ""),
        told("Somebody answers for it", people.contact, "contact"),
    ]  # fmt: skip


def _usability(known: Known) -> list[Item]:
    people = known.people
    return [
        told("Use and users defined", people.intended_use, "intended_use"),
        told("Human oversight", people.oversight, "oversight"),
        told("Tested with users, users trained", people.usability, "usability"),
        told("Clinical benefit and safety measured", people.clinical_evaluation,
             "clinical_evaluation"),
    ]  # fmt: skip


def _robustness(known: Known) -> list[Item]:
    found = known.run.learning.augmentation
    varied = [name for name, value in found.model_dump().items() if value]
    return [
        item("Variation of the data named", recorded(known), "Agree on attributes such as device."),
        item("Trained on varied data", training_data(known), "The run tells no counts of images."),
        item("Training images varied", f"Random {listed(varied)}" if varied else None,
             "Switch on augmentation."),
        item("Robustness measured", None,
             "Evaluate on noisy, shifted and foreign images; the run does not."),
    ]  # fmt: skip


def _explainability(known: Known) -> list[Item]:
    rows = known.explanations
    return [
        item("Explanations offered", "Class axes of the atlas: an image is drawn with more and "
             "less of a class, and encoded again." if known.figures["patients_per_class"] else None,
             "The run released no latent sums."),
        item("Explanations measured", goals_sentence(rows) if rows else None,
             f"{AUDIT} Set audit.explained_per_class above 0."),
        told("Judged by readers", known.people.clinical_evaluation, "clinical_evaluation"),
    ]  # fmt: skip


def _general(known: Known) -> list[Item]:
    asked = [v for v in known.verdicts if v.asked != "nothing" and v.gate != "run_status"]
    limits = "; ".join(f"{v.title} {v.asked}" for v in asked if not v.gate.startswith("leak"))
    people, seconds = known.people, known.figures.get("seconds")
    return [
        told("Patients and clinicians heard", people.stakeholders, "stakeholders"),
        item("Privacy protected", privacy_text(known), "Agree on a private privacy.training."),
        item("Privacy attacked", leak_text(known), "Put leak_audit.json beside the run."),
        item("Goals agreed before training", limits, "Set limits below gates in run.yaml."),
        told("Ethics", people.ethics, "ethics"),
        item("Approved as a medical device", None, "A conformity assessment; none was begun."),
        item("Resources", f"{seconds:.0f} s of federated work; no energy figure" if seconds
             else None, "The run tells no times."),
    ]  # fmt: skip


def claim_of(known: Known) -> Section:
    """Return the items after CLAIM."""
    run, people = known.run, known.people
    training, goal = run.learning.training, run.learning.objective
    steps = (
        f"{run.aggregation.kind}, {run.rounds} rounds of {training.steps_per_round} steps, "
        f"batch {training.batch_size}, AdamW, learning rate {training.learning_rate:g}; weights of "
        f"KL {goal.beta:g}, classes {goal.class_weight:g}, cycle {goal.cycle_weight:g}"
    )
    if run.privacy.private:
        way = "central DP" if run.privacy.private_sum else "DP-SGD"
        steps = f"{steps}; {way}, trained part: {run.privacy.trainable}"
    patches = any(step.kind == "patch_moments" for step in plan_of(run))
    started = "; linear path from all hospitals' patch statistics" if patches else ""
    chosen = known.figures.get("heads")
    items = [
        item("Study", "Federated training; figures on test images of the same hospitals.", ""),
        told("Source of the data", people.data_source, "data_source"),
        told("Eligibility", people.inclusion, "inclusion"),
        told("Reference standard", people.ground_truth, "ground_truth"),
        item("Preparation of images", f"Grey levels to [0, 1], {run.image.size_px} pixels a side, "
             f"fit: {run.image.fit}", ""),
        item("Division of the data", "Training, validation and test within each hospital, by "
             "patient unless its manifest divides.", ""),
        item("Sample size justified", None, "State the n that the limits of the gates need."),
        item("Start of training", f"Random weights, seed {run.seed}{started}", ""),
        item("Training", steps, ""),
        item("Choice of the final model", "Head chosen on validation images of all hospitals."
             if chosen else None, "Set statistics.refit_head: true."),
        item("Performance with uncertainty", text_of(known.pooled.get("macro_auc"))
             if known.pooled else None, "Evaluate the final model at the sites."),
        item("Analysis of failures", _failures(known), AUDIT),
        told("External test", people.external_evaluation, "external_evaluation"),
        item("Registered in advance", None, "Register the study and name the number."),
        told("Funding", people.funding, "funding"),
    ]  # fmt: skip
    return section("claim", "Items after CLAIM", items)


def _failures(known: Known) -> str | None:
    rows = known.pooled.get("per_class") or []
    found = [row for row in rows if (row.get("auc") or {}).get("value") is not None]
    if not found:
        return None
    worst = min(found, key=lambda row: row["auc"]["value"])
    return f"Weakest of {several(len(rows), 'class', 'classes')}: {worst['class']}, " + text_of(
        worst["auc"]
    )
