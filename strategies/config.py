"""RunConfig: what the whole consortium agreed on.

It travels as run.yaml inside the app bundle; its canonical hash stands in every message,
checkpoint, ledger line and report. A site may narrow it, never widen it.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mfm_core.autoencoder import MAX_PARAMETERS, latent_grid, parameters_of
from mfm_core.config import ImageConfig, LearningConfig, ModelConfig, OntologyConfig, Part
from mfm_core.errors import ConfigError

MAX_LATENT = 2048
"""Most latent numbers L: the second moment a site releases is `[L, L] float64`, then 32 MiB."""


class AggregationConfig(Part):
    """How site updates become the next global model."""

    kind: Literal["fedavg", "fedprox", "fedadam", "fedyogi"] = Field(
        "fedavg", description="Formula of the next global model."
    )
    proximal_mu: float = Field(0.0, ge=0, description="FedProx: weight of the proximal term.")
    server_learning_rate: float = Field(0.01, gt=0, description="FedAdam, FedYogi: eta.")
    beta_1: float = Field(0.9, ge=0, lt=1, description="FedAdam, FedYogi.")
    beta_2: float = Field(0.99, ge=0, lt=1, description="FedAdam, FedYogi.")
    tau: float = Field(1e-3, gt=0, description="FedAdam, FedYogi: degree of adaptivity.")
    max_site_images: int = Field(
        1_000_000, ge=1, description="Largest weight of a site; a larger claim is refused."
    )
    max_update_norm: float = Field(1e4, gt=0, description="Largest L2 norm of a site's update.")

    @model_validator(mode="after")
    def _proximal_term_belongs_to_fedprox(self) -> Self:
        if (self.kind == "fedprox") != (self.proximal_mu > 0):
            raise ValueError("proximal_mu > 0 and kind: fedprox belong together; set both or none")
        return self


class StatisticsConfig(Part):
    """The one release of latent sums at the end of a run, and what is computed from it."""

    refit_head: bool = Field(True, description="Closed-form head from sums, kept if it validates.")
    bootstrap_replicates: int = Field(
        200, ge=0, le=1000, description="Poisson bootstrap replicates by patient; 0: no intervals."
    )


class RunConfig(Part):
    """One agreed federated run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="Short name of the run.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random in the run.")
    rounds: int = Field(20, ge=1, le=10_000, description="Training rounds.")
    ontology: OntologyConfig
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    learning: LearningConfig = LearningConfig()
    aggregation: AggregationConfig = AggregationConfig()
    statistics: StatisticsConfig = StatisticsConfig()

    @model_validator(mode="after")
    def _attention_leaves_room(self) -> Self:
        stage_one = self.learning.objective.attention.rounds
        if stage_one >= self.rounds:
            raise ValueError(
                f"learning.objective.attention.rounds is {stage_one} of {self.rounds} rounds; "
                "stage two needs at least one round"
            )
        return self

    @model_validator(mode="after")
    def _model_can_be_sent(self) -> Self:
        classes = len(self.ontology.classes)
        try:
            latent = self.model.latent_channels * latent_grid(self.model, self.image) ** 2
            found = parameters_of(self.model, self.image, classes)
        except ConfigError as error:
            raise ValueError("; ".join(f"image: {text}" for text in error.problems)) from None
        wrong = []
        if found > MAX_PARAMETERS:
            wrong.append(f"the model has {found:,} parameters, allowed are {MAX_PARAMETERS:,}")
        if latent > MAX_LATENT:
            wrong.append(f"its latent has {latent:,} numbers, allowed are {MAX_LATENT:,}")
        if wrong:
            raise ValueError(
                f"model: at image.size_px {self.image.size_px} {' and '.join(wrong)}; use stem 8, "
                "fewer or smaller widths, fewer latent_channels or a smaller image"
            )
        return self
