"""The ClientApp: one handler per exchange, each a short list of named steps.

Every handler goes the same way: open the site, check the message against the site's limits and
the agreed run, the images against those the run began with, work, release the answer through the
outbox. What goes wrong leaves as a coded word; the text stays in the site's own log. What crosses
the hospital's boundary: what `client.outbox` released, or one word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.audit_counts import audit_sum, open_kept
from client.central_round import pay_for_round, shield
from client.cohort import hold_cohort
from client.limits import check_arrays, check_patients, check_privacy, check_request
from client.local_round import class_sums, lesson_of, weight_in, with_own, with_pseudo_labels
from client.pinned_model import check_graph, check_weights
from client.private_release import keep_own_atlas, latent_release, protect
from client.private_round import Permit, count_units, permit_for, spent_in_run, train_permitted
from client.receipts import take_receipts
from client.secret import secret_seed
from client.secure_site import answer_keys, check_agreed, seal_for
from client.site import ATLAS, FINAL, HEADS_FILE, Site, find_site_file, forget_heads, open_site
from client.task_round import TASK_WORK
from mfm_core.atlas import atlas_from, save_atlas
from mfm_core.checkpoint import encoder_hash, flat_weights, save_model
from mfm_core.dataset import SPLITS
from mfm_core.erasure import why_not_comparable
from mfm_core.errors import BoundaryError, MfmError, UpdateRejected, unforeseen_word
from mfm_core.evaluation import metric_sum
from mfm_core.finetuning import fine_tune
from mfm_core.head import candidate_sum
from mfm_core.head_files import heads_from_sum, save_heads
from mfm_core.inference import Inference, infer
from mfm_core.mitigation import HeadData, head_round, head_round_sum
from mfm_core.patches import patch_moments
from mfm_core.sums import Sum
from strategies import wire
from strategies.answers import (
    HEADS,
    LATENT,
    answer_of,
    part_of,
    read_heads,
    request_has_model,
    request_schema,
    trained_methods,
    training_sum,
)
from strategies.code_hash import code_hash
from strategies.plan import (
    KEYS,
    MASKED,
    MESSAGE_TYPES,
    ROUNDED,
    UNPLANNED,
    Kind,
    Step,
    plan_of,
)
from strategies.privacy import PRIVATE_WEIGHT
from strategies.rounds import FAILED, REFUSED

app = ClientApp()
fallback_log = logging.getLogger("mfm.site")


@dataclass(frozen=True)
class Request:
    """A message that passed every check: its arrays and their hash, what it may spend if asked."""

    site: Site
    kind: Kind
    round: int
    payload: wire.Payload
    about: str = ""
    arrays: str = ""
    permit: Permit | None = None

    @property
    def weights(self) -> NDArray[np.float32]:
        """Return the weights the server sent."""
        assert self.payload.model is not None
        return self.payload.model

    @property
    def total(self) -> Sum:
        """Return the Sum the server sent."""
        assert self.payload.total is not None
        return self.payload.total


@dataclass(frozen=True)
class Reply:
    """What a handler wants to send: the images behind it and the arrays."""

    images: int
    payload: wire.Payload


def _answer(kind: Kind) -> Callable[[Message, Context], Message]:
    return lambda message, context: serve(kind, message, context)


for _kind, _type in MESSAGE_TYPES.items():
    _category, _, _action = _type.partition(".")
    getattr(app, _category)(_action or "default")(_answer(_kind))


def serve(kind: Kind, message: Message, context: Context) -> Message:
    """Return the released answer to a message, or an error reply that holds one coded word."""
    log = fallback_log
    try:
        site = open_site(find_site_file(context))
        log = site.log
        take_receipts(site, message.content)
        request = pay(receive(site, kind, message))
        reply = keys_reply(request) if kind in KEYS else shielded(request, perform(kind, request))
        return Message(release(request, reply), reply_to=message)
    except MfmError as error:
        log.error("%s %s: %s", kind, type(error).__name__, error)
        word = error.reason if isinstance(error, UpdateRejected) else error.code
        said_no = isinstance(error, BoundaryError | UpdateRejected)
        return Message(Error(REFUSED if said_no else FAILED, word), reply_to=message)
    except Exception as error:
        log.exception("%s: unexpected", kind)
        return Message(Error(FAILED, unforeseen_word(error)), reply_to=message)


def receive(site: Site, kind: Kind, message: Message) -> Request:
    """Return the message's content after every check; nothing has been computed yet.

    Raises:
        LimitRefusal: the site's limits say no.
        UpdateRejected: the message is not what was agreed; "plan" is a step outside the run's plan.
    """
    check_request(site.config.limits, site.config_hash, kind, message.content)
    check_privacy(site.config.limits, site.run.privacy)
    number = int(message.metadata.group_id or 0) if kind in ROUNDED else 0
    if kind not in UNPLANNED and Step(kind, number) not in plan_of(site.run):
        asked = f"{kind} of round {number}" if kind in ROUNDED else kind
        raise UpdateRejected("plan", f"{asked} is no step of the agreed run; nothing was computed")
    check_arrays(site.config.limits, kind, shapes_of(site, kind))
    about = str(dict(message.content.config_records.get(wire.HEADER, {})).get("about", ""))
    check_agreed(site, kind, about)
    expected = wire.Expected(
        kind=kind,
        round=number,
        config_hash=site.config_hash,
        code_hash=code_hash(),
        model=site.schema if request_has_model(kind) else None,
        total=request_schema(site.run, kind, number),
        sealed=kind in ("secure_shares", "secure_unmask"),
        site="",
        max_bytes=site.config.limits.max_message_bytes,
    )
    header, payload = wire.decode(message.content, expected)
    if payload.model is not None:
        check_graph(site)
        check_weights(site, kind, payload.model)
    return Request(site, kind, number, payload, header.about, header.payload_hash)


def keys_reply(request: Request) -> Reply:
    """Return what a site says in an exchange of a secure sum's keys."""
    found = answer_keys(request.site, request.kind, request.about, request.payload.sealed)
    return Reply(0, found)


def pay(request: Request) -> Request:
    """Return the request; a private training round is paid for here, or refused."""
    if request.kind == "train" and request.site.run.privacy.private_sum:
        pay_for_round(request.site, request.round, request.payload.total)
    elif request.kind == "train" and request.site.run.privacy.private:
        return replace(request, permit=permit_for(request.site, request.round, count(request.site)))
    return request


def shapes_of(site: Site, kind: Kind) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every array that was agreed to leave in an exchange of a kind."""
    answer = answer_of(site.run, kind)
    update = {wire.MODEL: (wire.model_size(site.update_schema),)} if answer.update else {}
    return update | dict(answer.total or ())


def shielded(request: Request, reply: Reply) -> Reply:
    """Return the reply as it leaves: clipped (`shield`), noisy (`protect`), with what was spent."""
    site, total = request.site, reply.payload.total
    if request.kind == "train" and site.run.privacy.private_sum:
        return replace(reply, payload=shield(site, request.payload.total, reply.payload))
    if request.kind == "atlas" and site.run.privacy.private:
        return Reply(0, wire.Payload(total=spent_in_run(site)))
    if request.kind != "latent_sums" or not site.run.privacy.atlas.private or total is None:
        return reply
    asked = (request.total, request.about)
    return Reply(0, wire.Payload(total=protect(site, request.weights, asked, total)))


def release(request: Request, reply: Reply) -> RecordDict:
    """Return the record of an answer once the outbox has let it through."""
    site = request.site
    header = wire.Header(
        kind=request.kind,
        round=request.round,
        config_hash=site.config_hash,
        code_hash=code_hash(),
        site=site.config.name,
        num_images=reply.images,
    )
    answer, seal = answer_of(site.run, request.kind), None
    if request.about and request.kind in MASKED:
        asked = request.about, request.arrays
        seal = seal_for(site, Step(request.kind, request.round), answer, asked)
    record = site.outbox.release(header, reply.payload, site.update_schema, answer, seal)
    size = wire.record_bytes(record)
    site.log.info("%s round %d: %d bytes left", header.kind, header.round, size)
    return record


def say_hello(request: Request) -> Reply:
    """Return how many images each split has; zeros in a private run, whose counts stay here."""
    images, private = request.site.images, request.site.run.privacy.private
    counts = np.array([0.0 if private else float(len(images.select(s))) for s in SPLITS])
    return Reply(0 if private else len(images), wire.Payload(total=Sum({"images": counts})))


def give_patch_moments(request: Request) -> Reply:
    """Return the patch moments of the training images, if they come from enough patients."""
    site, indices = request.site, request.site.images.select("train")
    check_patients(site.config.limits, site.images.patients[indices])
    found = patch_moments(site.images, indices, site.run.model)
    return Reply(len(indices), wire.Payload(total=found))


def train_one_round(request: Request) -> Reply:
    """Return the change of the weights after local training, with telemetry if not private."""
    site, number = request.site, request.round
    if site.run.privacy.private:
        change = train_permitted(site, request.weights, number, request.permit)
        return Reply(PRIVATE_WEIGHT, wire.Payload(change))
    model, indices = site.load(request.weights, number), site.images.select("train")
    validation = count_metrics(request, look(request, "val"), "val", 0)
    images = with_pseudo_labels(site, number, request.payload.total)
    lesson = lesson_of(site, number, request.payload.total)
    update, terms = fine_tune(model, images, indices, site.run.learning, lesson)
    if site.run.aggregation.personal:  # the round began with own parts; the change is from the sent
        update = flat_weights(model) - request.weights
    site.keep_own(number)
    weight = weight_in(site, number, images.labels[indices])
    told = training_sum(validation, terms, weight)
    return Reply(weight, wire.Payload(update, with_own(site, lesson, number, (told, weight))))


def give_class_sums(request: Request) -> Reply:
    """Return the class sums of the training images under the weights of this round."""
    site = request.site
    site.load(request.weights)
    return Reply(len(site.images.select("train")), wire.Payload(total=class_sums(site)))


def give_latent_sums(request: Request) -> Reply:
    """Return the latent sums of the training images, or the cells that noise will be added to."""
    images, found = latent_release(request.site, request.weights, request.payload.total)
    return Reply(images, wire.Payload(total=found))


def try_heads(request: Request) -> Reply:
    """Return what each candidate head makes of the validation images."""
    site = request.site
    site.load(request.weights)
    labels = site.images.labels[site.images.select("val")]
    found = candidate_sum(site.latents("val"), labels, read_heads(request.total))
    return Reply(len(labels), wire.Payload(total=found))


def train_heads(request: Request) -> Reply:
    """Return the change of the heads that this site trained on its frozen latents."""
    site, images = request.site, request.site.images
    run, chosen = site.run, images.select("train")
    model = site.load(request.weights)
    latent = part_of(request.total, LATENT)
    known = atlas_from(latent, run.ontology, encoder_hash(model), site.config_hash)
    sent = heads_from_sum(part_of(request.total, HEADS))
    before = {method: sent[method] for method in trained_methods(run)}
    parts = (images.labels[chosen], images.attributes[chosen], images.patients[chosen])
    data = HeadData(site.latents("train"), *parts)
    if why_not_comparable(known, run.mitigation.recipe.attribute):
        unmoved = head_round_sum(before, before, data.images)  # as the server decided, too
        return Reply(len(chosen), wire.Payload(total=unmoved))
    after = {
        method: head_round(
            method,
            before[method],
            data,
            known,
            run.mitigation.recipe,
            steps=run.mitigation.steps_per_round,
        )
        for method in before
    }
    found = head_round_sum(before, after, data.images)
    return Reply(len(chosen), wire.Payload(total=found))


def test_final(request: Request) -> Reply:
    """Return the test counts with bootstrap replicates."""
    site = request.site
    site.load(request.weights)
    seen = look(request, "test")
    found = count_metrics(request, seen, "test", site.run.statistics.bootstrap_replicates)
    return Reply(len(seen.ssim), wire.Payload(total=found))


def store_atlas(request: Request) -> Reply:
    """Write model, atlas and mitigated heads into the state folder; reply with nothing.

    Heads that an earlier run left are of another encoder: they go before the model changes.
    """
    site, folder = request.site, request.site.config.state_folder
    model, run = site.load(request.weights), site.run
    encoder, latent = encoder_hash(model), part_of(request.total, LATENT)
    forget_heads(folder)
    save_model(folder / FINAL, model, site.config_hash, run.ontology)
    atlas = atlas_from(latent, run.ontology, encoder, site.config_hash)
    save_atlas(folder / ATLAS, atlas)
    keep_own_atlas(site, atlas)
    attribute = run.mitigation.attribute
    if attribute is not None and not why_not_comparable(atlas, attribute):
        heads = heads_from_sum(part_of(request.total, HEADS))
        save_heads(folder / HEADS_FILE, heads, encoder, attribute)
    return Reply(0, wire.Payload())


def give_audit(request: Request) -> Reply:
    """Return the audit counts of the test images, from the model and atlas that are kept here."""
    site, images = request.site, request.site.images
    folder, smallest = site.config.state_folder, site.config.limits.min_cell_count
    kept, chosen = open_kept(folder, site.config_hash), images.select("test")

    def seed_of(purpose: str) -> int:
        return secret_seed(folder, f"{purpose} {site.config_hash}")

    found = audit_sum(kept, images, chosen, site.run, smallest, seed_of)
    return Reply(len(chosen), wire.Payload(total=found))


WORK: dict[Kind, Callable[[Request], Reply]] = {
    "hello": say_hello,
    "patch_moments": give_patch_moments,
    "class_sums": give_class_sums,
    "train": train_one_round,
    "latent_sums": give_latent_sums,
    "heads": try_heads,
    "mitigate": train_heads,
    "evaluate": test_final,
    "atlas": store_atlas,
    "audit": give_audit,
    "receipts": lambda request: Reply(0, wire.Payload()),
}


def do_work(kind: Kind, request: Request) -> Reply:
    """Return what a site answers to a checked request; nothing has been released yet.

    Raises:
        MfmError: the images changed since the run began, or the work cannot be done.
    """
    hold_cohort(request.site, Step(kind, request.round))
    if request.site.run.ontology.tasks and kind in TASK_WORK:
        return Reply(*TASK_WORK[kind](request.site, request.weights, request.round))
    return WORK[kind](request)


perform: Callable[[Kind, Request], Reply] = do_work
"""Who computes: this process, or the confined one that a hospital's runner puts here."""

count: Callable[[Site], int] = count_units
"""Who counts what a private round is paid for by: likewise, since images are decoded there."""


def look(request: Request, split: str) -> Inference:
    """Return what the loaded model makes of one split."""
    return infer(request.site.model, request.site.images, request.site.images.select(split))


def count_metrics(request: Request, seen: Inference, split: str, replicates: int) -> Sum:
    """Return the metric counts of what was seen of a split."""
    site, images = request.site, request.site.images
    chosen = images.select(split)
    seed = secret_seed(site.config.state_folder, f"bootstrap {site.config_hash}")
    people = images.patients[chosen]
    return metric_sum(seen.logits, images.labels[chosen], seen.ssim, people, replicates, seed)
