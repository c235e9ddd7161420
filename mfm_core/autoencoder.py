"""The autoencoder: a denoising beta-VAE of ShuffleNet units with a spatial latent.

Paper section 2.1, at most 1.4 M parameters. Two encoders write into one latent and two decoders
read from it: a linear patch path, started from a PCA of patches (`mfm_core.patches`), and the
ShuffleNet units, whose contribution starts at zero. So the model reconstructs from its first
step and the units learn what the linear path cannot do. No connection goes round the latent:
what is not in it is not in the reconstruction. The weights cross the hospital's boundary as an
update; nothing else here does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mfm_core.blocks import Down, ShuffleUnit, Up, clamp_gently, group_norm
from mfm_core.config import ImageConfig, ModelConfig

LOGVAR_RANGE = (-9.0, 2.0)
"""Bounds of log variance: a posterior deviation between 0.011 and 2.7."""


class Output(NamedTuple):
    """What one pass gives.

    Attributes:
        reconstruction: `[N, C, H, W] float32 in [0, 1]`.
        mu: `[N, L] float32`, the latent used for statistics and classification.
        logvar: `[N, L] float32`, log variance of the posterior.
        logits: `[N, K] float32`.
    """

    reconstruction: torch.Tensor
    mu: torch.Tensor
    logvar: torch.Tensor
    logits: torch.Tensor


def latent_grid(model: ModelConfig, image: ImageConfig) -> int:
    """Return the side of the spatial latent: size / (stem * 2^(stages - 1))."""
    return int(image.size_px // (model.stem * 2 ** (len(model.widths) - 1)))


def _units(width: int, depth: int, model: ModelConfig) -> list[nn.Module]:
    inner = int(width * model.bottleneck)
    return [ShuffleUnit(width, inner, model.groups, model.norm_channels) for _ in range(depth)]


class _Encoder(nn.Sequential):
    """Stem, then the stages: `[N, C, H, W]` to `[N, widths[-1], grid, grid]`."""

    def __init__(self, model: ModelConfig, channels: int) -> None:
        first = model.widths[0]
        parts: list[nn.Module] = [
            nn.Conv2d(channels, first, model.stem, stride=model.stem),
            *_units(first, model.depths[0], model),
        ]
        for before, after, depth in zip(
            model.widths, model.widths[1:], model.depths[1:], strict=False
        ):
            parts.append(Down(before, after, model.groups, model.norm_channels))
            parts.extend(_units(after, depth, model))
        parts.append(group_norm(model.widths[-1], model.norm_channels))
        super().__init__(*parts)


class _Decoder(nn.Sequential):
    """The mirrored stages: `[N, latent_channels, grid, grid]` to `[N, C, H, W]`."""

    def __init__(self, model: ModelConfig, channels: int) -> None:
        widths, depths = model.widths[::-1], model.depths[::-1]
        parts: list[nn.Module] = [
            nn.Conv2d(model.latent_channels, widths[0], 1),
            *_units(widths[0], depths[0], model),
        ]
        for before, after, depth in zip(widths, widths[1:], depths[1:], strict=False):
            parts.append(Up(before, after, model.groups, model.norm_channels))
            parts.extend(_units(after, depth, model))
        parts.append(group_norm(widths[-1], model.norm_channels))
        parts.append(nn.ConvTranspose2d(widths[-1], channels, model.stem, stride=model.stem))
        super().__init__(*parts)


class Autoencoder(nn.Module):
    """Encoder, latent, decoder and linear head.

    Attributes:
        latent_size: L = latent_channels * grid * grid.
        head: linear from flattened mu to class logits.
        attention_logits: `[1, 1, H, W]`, the pixel attention; learns only in stage one.
    """

    def __init__(self, model: ModelConfig, image: ImageConfig, num_classes: int) -> None:
        super().__init__()
        self.model_config, self.image_config = model, image
        self.grid = latent_grid(model, image)
        self.patch = image.size_px // self.grid
        self.latent_size = model.latent_channels * self.grid**2
        self.encoder = _Encoder(model, image.channels)
        self.decoder = _Decoder(model, image.channels)
        self.to_latent = nn.Conv2d(model.widths[-1], 2 * model.latent_channels, 1)
        if model.linear_path:
            side, latent = self.patch, model.latent_channels
            self.linear_in = nn.Conv2d(image.channels, latent, side, stride=side)
            self.linear_out = nn.ConvTranspose2d(
                latent, image.channels, side, stride=side, bias=False
            )
            self.mean_image = nn.Parameter(
                torch.full((1, image.channels, image.size_px, image.size_px), 0.5)
            )
        self.head = nn.Linear(self.latent_size, num_classes)
        self.attention_logits = nn.Parameter(
            torch.zeros(1, 1, image.size_px, image.size_px), requires_grad=False
        )
        self._start()

    def _start(self) -> None:
        """Give the branches their starting weights: units at zero beside a linear path."""
        latent = self.model_config.latent_channels
        with torch.no_grad():
            self.to_latent.bias.zero_()  # type: ignore[union-attr]
            self.to_latent.weight[latent:].zero_()
            self.to_latent.bias[latent:] = -4.0  # type: ignore[index]
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
            last = self.decoder[-1]
            assert isinstance(last, nn.ConvTranspose2d)
            if self.model_config.linear_path:
                self.to_latent.weight.zero_()
                last.weight.zero_()
                last.bias.zero_()  # type: ignore[union-attr]
            else:
                last.bias.fill_(0.5)  # type: ignore[union-attr]

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `mu [N, L]` and `logvar [N, L]` of `images [N, C, H, W] float32 in [0, 1]`."""
        mean = self.mean_image if self.model_config.linear_path else 0.5
        centred = (images - mean).contiguous(memory_format=torch.channels_last)
        statistics = self.to_latent(self.encoder(centred))
        mu, logvar = statistics.chunk(2, dim=1)
        if self.model_config.linear_path:
            mu = mu + self.linear_in(centred)
        return mu.flatten(1), logvar.flatten(1).clamp(*LOGVAR_RANGE)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Return `[N, C, H, W] float32 in [0, 1]` of `latent [N, L]`."""
        spatial = latent.view(len(latent), -1, self.grid, self.grid)
        spatial = spatial.contiguous(memory_format=torch.channels_last)
        images = self.decoder(spatial)
        if self.model_config.linear_path:
            images = images + self.linear_out(spatial) + self.mean_image
        return clamp_gently(images)

    def classify(self, mu: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]` of `mu [N, L]`."""
        logits: torch.Tensor = self.head(mu)
        return logits

    def forward(self, images: torch.Tensor, generator: torch.Generator | None = None) -> Output:
        """Return everything; decode a sample drawn with `generator`, or mu itself without one."""
        mu, logvar = self.encode(images)
        latent = mu
        if generator is not None:
            noise = torch.empty_like(mu).normal_(generator=generator)
            latent = torch.addcmul(mu, noise, torch.exp(0.5 * logvar))
        return Output(self.decode(latent), mu, logvar, self.classify(mu))


def build_autoencoder(
    model: ModelConfig, image: ImageConfig, num_classes: int, seed: int
) -> Autoencoder:
    """Return a new autoencoder in channels-last layout, the same bits for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = Autoencoder(model, image, num_classes)
    return built.to(memory_format=torch.channels_last)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, those that learn only in stage one of attention included."""
    return sum(parameter.numel() for parameter in model.parameters())
