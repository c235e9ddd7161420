"""Where a private step's randomness comes from: the operating system, or a seed that repeats.

Noise hides a unit only from those who cannot repeat it. torch keeps 32 bits of a seed, so a
seeded generator protects nobody, however secret the seed; it is for simulation.
Nothing here crosses the hospital's boundary, and its states must not.
"""

from __future__ import annotations

import os

import numpy as np
import torch

STATE_WORDS = 624
"""32-bit words of torch's generator on the CPU, a Mersenne twister."""

STATE_START = 24
"""Bytes of its state before the words, which take 8 bytes each."""


class Chance:
    """Two generators: `draws` for sampling and augmentation, `noise` for the noise.

    Args:
        seed: None takes both from the operating system; a number repeats, for simulation only.
    """

    def __init__(self, seed: int | None) -> None:
        self.secret = seed is None
        self.draws, self.noise = torch.Generator(), torch.Generator()
        if seed is not None:
            first, second = np.random.SeedSequence(seed).generate_state(2, np.uint64).tolist()
            self.draws.manual_seed(first)
            self.noise.manual_seed(second)
        self.refresh()

    def refresh(self) -> None:
        """Forget the past: both generators get new words of the operating system, unless seeded."""
        if self.secret:
            refill(self.draws)
            refill(self.noise)


def refill(generator: torch.Generator) -> None:
    """Give a generator of the CPU 19,968 bits of state from the operating system.

    The Mersenne twister is no cryptographic generator (Opacus's secure mode wants torchcsprng,
    which has no build for current torch). Its numbers never leave by themselves, only in sums with
    gradients, and each private step starts from new words.
    """
    generator.manual_seed(0)
    state = generator.get_state()
    words = np.frombuffer(os.urandom(4 * STATE_WORDS), dtype="<u4").astype("<u8")
    end = STATE_START + 8 * STATE_WORDS
    state[STATE_START:end] = torch.from_numpy(words.view(np.uint8))
    generator.set_state(state)
