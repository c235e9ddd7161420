"""PrivacyConfig: how the agreed run protects patients, and the label of each exchange.

Three words, printed by dry run, ledger and reports alike. *Formal*: differential privacy with
epsilon, delta, unit, neighbouring relation and accountant. *Heuristic*: a rule that makes attacks
harder and promises nothing. *None*: nothing beyond adding up.

DP-SGD (at the sites, `client.private_round`) and central DP (`strategies.central_noise`) cover the
weights that leave a training round and nothing else. A private run therefore
sends no counts and no loss terms with them, every site has the weight of one, no head and no
starting weights are made of unprotected statistics (so the final weights follow from the private
updates alone), and each other exchange that shows something of patients must stand in
`unprotected`. What crosses the hospital's boundary: nothing here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from mfm_core.config import Part
from strategies import central_noise
from strategies.central_noise import CentralConfig, central_problems
from strategies.private_atlas import (
    ACCOUNTANT,
    PrivateAtlasConfig,
    atlas_problems,
    mechanism_words,
)

if TYPE_CHECKING:
    from strategies.config import RunConfig

Unprotected = Literal["latent_sums", "mitigate", "evaluate", "audit"]
"""Exchanges that a private run may make although nothing formal protects what they release."""

Level = Literal["formal", "heuristic", "none"]
PRIVATE_WEIGHT = 1
"""Weight of every site in a private run: the number of its images would be a figure of patients."""


class PrivacyConfig(Part):
    """Differential privacy of what leaves a training round."""

    training: Literal["none", "dp_sgd", "central"] = Field(
        "none",
        description="dp_sgd: clipped, noisy gradients of Poisson-sampled units (Opacus). central: "
        "clipped updates of whole sites, noise on their sum.",
    )
    unit: Literal["image", "patient"] = Field(
        "patient",
        description="dp_sgd: whose presence is hidden: one image, or all images of a patient.",
    )
    noise_multiplier: float = Field(
        1.0, gt=0, le=1000, description="Standard deviation of the noise over the clip."
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="dp_sgd: longest gradient of one unit, L2; longer ones are clipped."
    )
    delta: float = Field(
        1e-6, gt=0, lt=1e-2, description="Delta at which reports of the run give epsilon."
    )
    trainable: Literal["all", "head"] = Field(
        "all", description="head: the encoder stays as it starts, the cheap mode."
    )
    unprotected: tuple[Unprotected, ...] = Field(
        (),
        description="Exchanges agreed to although no formal protection covers them; a private run "
        "lists each one that it makes.",
    )
    central: CentralConfig = CentralConfig()
    atlas: PrivateAtlasConfig = PrivateAtlasConfig()
    public_pictures: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of public.safetensors beside run.yaml, films of no patient here: of "
        "them come the basis of a private atlas and the start of a private run's linear path. "
        "None: generated pictures, and random weights.",
    )

    @property
    def private(self) -> bool:
        """Return whether training is differentially private."""
        return self.training != "none"

    @property
    def private_steps(self) -> bool:
        """Return whether the sites' own training steps are private."""
        return self.training == "dp_sgd"

    @property
    def private_sum(self) -> bool:
        """Return whether the sum of the sites' updates is."""
        return self.training == "central"

    @property
    def patient_noise(self) -> float:
        """Return the noise multiplier of what one patient can move; 0 in a run without privacy.

        Central DP's noise is made for a site left out; a patient can turn its clipped update into
        the opposite one, twice as far.
        """
        if not self.private:
            return 0.0
        return self.noise_multiplier / 2 if self.private_sum else self.noise_multiplier

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if not self.private and (self.unprotected or self.trainable == "head"):
            raise ValueError(
                "unprotected and trainable: head belong to training: dp_sgd or central; set one"
            )
        if not self.private_sum and self.central != CentralConfig():
            raise ValueError("central belongs to training: central; set it")
        if self.private_sum and (self.unit, self.max_grad_norm) != ("patient", 1.0):
            raise ValueError(
                "unit and max_grad_norm belong to training: dp_sgd; central DP hides whole sites "
                "and clips at central.clip. The two are not combined: their epsilons are of "
                "different units"
            )
        if len(set(self.unprotected)) < len(self.unprotected):
            raise ValueError("unprotected: an exchange stands twice; name each one once")
        if self.public_pictures and not (self.private or self.atlas.private):
            raise ValueError(
                "public_pictures belong to training: dp_sgd or a private atlas; set one of them"
            )
        return self


def unprotected_kinds(run: RunConfig) -> tuple[Unprotected, ...]:
    """Return the exchanges of a private run's plan that release unprotected figures."""
    kinds: list[Unprotected] = [] if run.privacy.atlas.private else ["latent_sums"]
    if run.mitigation.attribute is not None:
        kinds.append("mitigate")
    kinds.append("evaluate")
    if run.audit.enabled:
        kinds.append("audit")
    return tuple(kinds)


def privacy_problems(run: RunConfig) -> list[str]:
    """Return why a run cannot keep what it promises; empty if it can or promises nothing."""
    problems = [*atlas_problems(run), *_learning_problems(run)]
    if run.aggregation.personal and (run.privacy.private or run.privacy.atlas.private):
        problems.append(
            "aggregation.personal must be empty: nothing accounts for what a site keeps of its own"
        )
    if not run.privacy.private:
        return problems
    if run.privacy.private_sum:
        problems += central_problems(run)
    if run.learning.objective.attention.rounds:
        problems.append("learning.objective.attention.rounds must be 0: one map is shared by all")
    if run.statistics.refit_head:
        problems.append("statistics.refit_head must be false: the head would be made of sums")
    if run.mitigation.use is not None:
        problems.append("mitigation.use must be unset: that head is trained without noise")
    agreed, made = set(run.privacy.unprotected), set(unprotected_kinds(run))
    if missing := sorted(made - agreed):
        names = ", ".join(missing)
        problems.append(
            f"privacy.unprotected must list {names}: their figures of patients leave without "
            "formal protection (audit.enabled: false and mitigation.attribute: null leave two out)"
        )
    if idle := sorted(agreed - made):
        problems.append(f"privacy.unprotected lists {', '.join(idle)}, which this run never makes")
    return problems


def _learning_problems(run: RunConfig) -> list[str]:
    """Return what of the learning a run with anything private cannot have."""
    learning, problems = run.learning, []
    private = run.privacy.private or run.privacy.atlas.private
    if private and learning.pseudo_labels.from_round:
        problems.append("learning.pseudo_labels.from_round must be 0: class sums leave unprotected")
    if run.privacy.private and learning.trainable == "head":
        problems.append(
            "learning.trainable must be all: a private run says privacy.trainable: head"
        )
    if run.privacy.private and learning.trainable == "lora":
        problems.append(
            "learning.trainable must be all: low-rank changes have no gradients per image; "
            "privacy.trainable: head trains few weights privately"
        )
    return problems


OPEN_KINDS = ("hello", "atlas", "receipts", "secure_keys", "secure_shares", "secure_unmask")
"""Exchanges that no secure sum masks: they hold no figure of patients but hello's counts."""


@dataclass(frozen=True)
class Label:
    """What protects patients in one exchange.

    Attributes:
        level: formal, heuristic or none.
        mechanism: in words; "none" where there is none.
        unit, neighbours, accountant: of a formal label; empty otherwise.
        noise_multiplier, delta: likewise; 0 otherwise.
        trust: whom a formal label trusts beyond the site itself; empty for nobody.
    """

    level: Level
    mechanism: str
    unit: str = ""
    neighbours: str = ""
    accountant: str = ""
    noise_multiplier: float = 0.0
    delta: float = 0.0
    trust: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, its words included."""
        return {**asdict(self), "words": self.words}

    @property
    def words(self) -> str:
        """Return the label as one line of a table."""
        if self.level == "none":
            return self.mechanism
        if self.level == "heuristic":
            return f"{self.mechanism} (heuristic)"
        formal = f"formal, {self.trust}" if self.trust else "formal"
        return f"{self.mechanism} ({formal}: {self.unit}, {self.neighbours}, {self.accountant})"


NO_LABEL = Label("none", "none")


def label_of(run: RunConfig, kind: str, smallest: int | None = None) -> Label:
    """Return the label of an exchange of the agreed run; `smallest` is a site's own least cell.

    Epsilon of training is not in it: it follows from the number of a site's patients, stays in its
    ledger, and leaves once, rounded up, for the gates of a release. That of the private atlas
    follows from the agreed run alone.
    Masks of a secure sum hide a site among the others and change no level: the sum itself is read.
    """
    found = _label_of(run, kind, smallest)
    if not run.secure_sum.enabled or kind in OPEN_KINDS:
        return found
    bare = "" if found.mechanism == "none" else f"{found.mechanism}; "
    return replace(found, mechanism=f"{bare}masked, the server reads the sum of all sites alone")


def _label_of(run: RunConfig, kind: str, smallest: int | None) -> Label:
    private, few = run.privacy.private, f"below {smallest}" if smallest else "of too few"
    if kind == "train" and private:
        return _training_label(run)
    if kind == "latent_sums" and run.privacy.atlas.private:
        return Label(
            "formal",
            mechanism_words(run),
            unit="patient",
            neighbours="add or remove one patient",
            accountant=ACCOUNTANT,
            noise_multiplier=run.privacy.atlas.sigma,
            delta=run.privacy.atlas.delta,
        )
    if kind in ("class_sums", "latent_sums", "audit"):
        return Label("heuristic", f"cells {few} patients leave as zeros")
    rules = {
        "patch_moments": f"refused {few} patients",
        "atlas": "the epsilon spent, rounded up to the next half" if private else "",
    }
    if rules.get(kind):
        return Label("heuristic", rules[kind])
    if kind in OPEN_KINDS and (kind != "hello" or private):
        return Label("none", "none needed: no figure of patients leaves")
    return NO_LABEL


def _training_label(run: RunConfig) -> Label:
    """Return the label of the training rounds of a private run."""
    agreed = run.privacy
    shared = partial(Label, "formal", noise_multiplier=agreed.noise_multiplier, delta=agreed.delta)
    if agreed.private_sum:
        return shared(
            central_noise.mechanism_words(run),
            unit="site",
            neighbours=central_noise.NEIGHBOURS,
            accountant=central_noise.ACCOUNTANT,
            trust=central_noise.trust_words(run),
        )
    return shared(
        f"DP-SGD, noise {agreed.noise_multiplier:g} x clip {agreed.max_grad_norm:g}",
        unit=agreed.unit,
        neighbours=f"add or remove one {agreed.unit}",
        accountant="PRV, secret Poisson sampling",
    )
