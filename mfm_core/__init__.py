"""The paper in code: model, training step, latent statistics, explanations. No Flower here."""
