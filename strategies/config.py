"""RunConfig: what the whole consortium agreed on.

It travels as run.yaml inside the app bundle; its canonical hash stands in every message,
checkpoint, ledger line and report. A site may narrow it, never widen it.
"""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from mfm_core.autoencoder import MAX_PARAMETERS, latent_grid, parameters_of
from mfm_core.config import ImageConfig, LearningConfig, ModelConfig, OntologyConfig, Part
from mfm_core.errors import ConfigError
from mfm_core.mitigation import TRAINED, MethodName, Recipe
from strategies.gates import GatesConfig
from strategies.privacy import PrivacyConfig, privacy_problems
from strategies.robust import Combine
from strategies.scaffold import scaffold_problems
from strategies.secure_payload import SecureSumConfig

MAX_LATENT = 2048
"""Most latent numbers L: the second moment a site releases is `[L, L] float64`, then 32 MiB."""


class AggregationConfig(Part):
    """How site updates become the next global model."""

    kind: Literal["fedavg", "fedprox", "fedadam", "fedyogi", "scaffold"] = Field(
        "fedavg", description="Formula of the next global model."
    )
    proximal_mu: float = Field(0.0, ge=0, description="FedProx: weight of the proximal term.")
    server_learning_rate: float = Field(0.01, gt=0, description="FedAdam, FedYogi: eta.")
    beta_1: float = Field(0.9, ge=0, lt=1, description="FedAdam, FedYogi.")
    beta_2: float = Field(0.99, ge=0, lt=1, description="FedAdam, FedYogi.")
    tau: float = Field(1e-3, gt=0, description="FedAdam, FedYogi: degree of adaptivity.")
    personal: tuple[Literal["norms", "head"], ...] = Field(
        (), description="Parts that a site keeps its own version of: norms (FedBN), head (FedPer)."
    )
    max_site_images: int = Field(
        1_000_000, ge=1, description="Largest weight of a site; a larger claim is refused."
    )
    max_update_norm: float = Field(1e4, gt=0, description="Largest L2 norm of a site's update.")
    combine: Combine = Field(
        "mean", description="mean by images; trimmed_mean or median count every site the same."
    )
    trim: float = Field(
        0.2, ge=0, lt=0.5, description="trimmed_mean: share of the sites cut off at either end."
    )
    norm_bound: float | None = Field(
        None,
        gt=0,
        description="Longest update, in medians of all norms; longer ones shrink.",
    )

    @property
    def inspects(self) -> bool:
        """Return whether single updates are looked at."""
        return self.combine != "mean" or self.norm_bound is not None

    @model_validator(mode="after")
    def _proximal_term_belongs_to_fedprox(self) -> Self:
        if (self.kind == "fedprox") != (self.proximal_mu > 0):
            raise ValueError("proximal_mu > 0 and kind: fedprox belong together; set both or none")
        if len(set(self.personal)) < len(self.personal):
            raise ValueError("personal: a part stands twice; name every part once")
        return self


class StatisticsConfig(Part):
    """The one release of latent sums at the end of a run, and what is computed from it."""

    refit_head: bool = Field(True, description="Closed-form head from sums, kept if it validates.")
    bootstrap_replicates: int = Field(
        200, ge=0, le=1000, description="Poisson bootstrap replicates by patient; 0: no intervals."
    )


class MitigationConfig(Part):
    """Heads that leave a recorded attribute out of the decision (paper section 3.3)."""

    attribute: str | None = Field(
        None, description="Attribute of the ontology to leave out, e.g. view; None: no such heads."
    )
    methods: tuple[MethodName, ...] = Field(
        get_args(MethodName), min_length=1, description="Heads to make, side by side."
    )
    use: MethodName | None = Field(
        None, description="Head of the released model; None keeps the one that validates best."
    )
    sigma: float = Field(
        2.0, ge=0, le=100, description="random_alpha: standard deviation of alpha."
    )
    rounds: int = Field(10, ge=1, le=1000, description="Rounds of head training, encoder frozen.")
    steps_per_round: int = Field(
        1, ge=1, description="Full-batch steps of a site per round; with one, sites equal the pool."
    )

    @model_validator(mode="after")
    def _used_head_is_made(self) -> Self:
        if self.use is not None and (self.attribute is None or self.use not in self.methods):
            raise ValueError(f"use is {self.use}; name an attribute and list {self.use} in methods")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("methods: one stands twice; name every method once")
        return self

    @property
    def exchanges(self) -> int:
        """Return how often the sites are asked: once where no method is trained at them."""
        return self.rounds if set(self.methods) & set(TRAINED) else 1

    @property
    def recipe(self) -> Recipe:
        """Return what the algorithms need to know; the attribute must be set."""
        return Recipe(attribute=self.attribute or "", sigma=self.sigma)


class AuditConfig(Part):
    """What sites count about the final model: explanations, flips, subgroups."""

    enabled: bool = Field(True, description="Ask the sites for audit counts at the end of a run.")
    explained_per_class: int = Field(
        12,
        ge=0,
        le=100,
        description="Images of a class, and of the others, scored per site; a site withholds "
        "figures of fewer patients than its min_cell_count.",
    )
    min_group: int = Field(
        10, ge=1, description="Fewest patients of a subgroup whose figures are shown."
    )


def task_problems(run: RunConfig) -> list[str]:
    """Return what a multi-task pre-training cannot be combined with; empty without tasks."""
    if not run.ontology.tasks:
        return []
    refused = {
        "privacy.training must be none: its steps know one question": (
            run.privacy.training != "none"
        ),
        "aggregation.combine must be mean, without norm_bound: a task's head is the mean over the "
        "sites that have the task": run.aggregation.inspects,
        "secure_sum.updates must be exact: rounding moves heads of other tasks": (
            run.secure_sum.enabled and run.secure_sum.updates == "quantised"
        ),
        "mitigation.attribute must be null: heads of tasks are not mitigated": (
            run.mitigation.attribute is not None
        ),
        "aggregation.personal must be empty: heads of tasks are shared": bool(
            run.aggregation.personal
        ),
        "learning.objective.attention.rounds must be 0: tasks share no map": (
            run.learning.objective.attention.rounds > 0
        ),
        "learning.trainable must be all: a task's head is the mean over the sites that have it": (
            run.learning.trainable != "all"
        ),
        "learning.pseudo_labels.from_round must be 0: tasks have several heads": (
            run.learning.pseudo_labels.from_round > 0
        ),
        "ontology.attributes must be left out: figures are counted per task": bool(
            run.ontology.attributes
        ),
    }
    return [problem for problem, found in refused.items() if found]


class RunConfig(Part):
    """One agreed federated run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="Short name of the run.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random in the run.")
    rounds: int = Field(20, ge=1, le=10_000, description="Training rounds.")
    ontology: OntologyConfig
    pretrained: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the released model file whose autoencoder the run starts from; the "
        "coordinator's settings name the file. None: a new model.",
    )
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    learning: LearningConfig = LearningConfig()
    aggregation: AggregationConfig = AggregationConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    mitigation: MitigationConfig = MitigationConfig()
    audit: AuditConfig = AuditConfig()
    gates: GatesConfig = GatesConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    secure_sum: SecureSumConfig = SecureSumConfig()

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        found = (
            self._attribute_is_recorded(),
            self._attention_leaves_room(),
            self._what_learns_fits(),
            self._privacy_is_kept(),
            self._tasks_are_trained_plainly(),
            self._scaffold_corrects_plain_gradients(),
            self._either_hidden_or_inspected(),
            self._model_can_be_sent(),
        )
        if problems := [problem for each in found for problem in each]:
            raise ValueError("; ".join(problems))
        return self

    def _attribute_is_recorded(self) -> list[str]:
        name, known = self.mitigation.attribute, self.ontology.attributes
        if name is not None and name not in known:
            return [
                f"mitigation.attribute: {name!r} is not an attribute of the ontology "
                f"({', '.join(known) or 'it has none'})"
            ]
        return []

    def _attention_leaves_room(self) -> list[str]:
        stage_one = self.learning.objective.attention.rounds
        if stage_one >= self.rounds:
            return [
                f"learning.objective.attention.rounds is {stage_one} of {self.rounds} rounds; "
                "stage two needs at least one round"
            ]
        return []

    def _what_learns_fits(self) -> list[str]:
        learning, problems = self.learning, []
        if learning.trainable != "all" and learning.objective.attention.rounds:
            problems.append(
                f"learning.trainable is {learning.trainable}, so the attention map cannot learn; "
                "set learning.objective.attention.rounds to 0"
            )
        if self.aggregation.personal and learning.trainable != "all":
            problems.append(
                f"learning.trainable is {learning.trainable}, so a site has no part of its own to "
                "keep; leave aggregation.personal empty"
            )
        if self.aggregation.personal and learning.pseudo_labels.from_round:
            problems.append(
                "learning.pseudo_labels needs one encoder at all sites; leave "
                "aggregation.personal empty"
            )
        if "head" in self.aggregation.personal and self.mitigation.use is not None:
            problems.append(
                f"mitigation.use is {self.mitigation.use}, but sites with a head of their own "
                "would not use it; leave head out of aggregation.personal, or use empty"
            )
        if learning.pseudo_labels.from_round > self.rounds:
            problems.append(
                f"learning.pseudo_labels.from_round is {learning.pseudo_labels.from_round} of "
                f"{self.rounds} rounds; use a round of the run, or 0 for never"
            )
        return problems

    def _privacy_is_kept(self) -> list[str]:
        if problems := privacy_problems(self):
            found = f"privacy.training is {self.privacy.training}"
            return [f"{found}: {'; '.join(problems)}"]
        return []

    def _tasks_are_trained_plainly(self) -> list[str]:
        if problems := task_problems(self):
            return [f"ontology.tasks: {'; '.join(problems)}"]
        return []

    def _scaffold_corrects_plain_gradients(self) -> list[str]:
        if problems := scaffold_problems(self):
            return [f"aggregation.kind is scaffold: {'; '.join(problems)}"]
        return []

    def _either_hidden_or_inspected(self) -> list[str]:
        if self.secure_sum.enabled and self.aggregation.inspects:
            return [
                "secure_sum.enabled hides single updates, aggregation.combine and norm_bound look "
                "at them; choose one: combine: mean without norm_bound, or enabled: false"
            ]
        return []

    def _model_can_be_sent(self) -> list[str]:
        classes = len(self.ontology.classes)
        try:
            latent = self.model.latent_channels * latent_grid(self.model, self.image) ** 2
            found = parameters_of(self.model, self.image, classes)
        except ConfigError as error:
            return [f"image: {text}" for text in error.problems]
        wrong = []
        if found > MAX_PARAMETERS:
            wrong.append(f"the model has {found:,} parameters, allowed are {MAX_PARAMETERS:,}")
        if latent > MAX_LATENT:
            wrong.append(f"its latent has {latent:,} numbers, allowed are {MAX_LATENT:,}")
        if wrong:
            return [
                f"model: at image.size_px {self.image.size_px} {' and '.join(wrong)}; use stem 8, "
                "fewer or smaller widths, fewer latent_channels or a smaller image"
            ]
        return []
