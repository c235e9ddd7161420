"""Secret generators differ at every call and after every step; seeded ones repeat."""

from __future__ import annotations

import torch

from mfm_core.chance import STATE_START, STATE_WORDS, Chance, refill


def drawn(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(2000, generator=generator)


def test_the_operating_system_fills_every_word_of_the_state() -> None:
    generator = torch.Generator()
    states = []
    for _ in range(6):
        refill(generator)
        words = generator.get_state()[STATE_START : STATE_START + 8 * STATE_WORDS]
        states.append(words.view(STATE_WORDS, 8)[:, :4].clone())
    changing = (torch.stack(states) != states[0]).any(dim=0)
    assert changing.all()


def test_no_two_secret_generators_and_no_two_steps_agree() -> None:
    one, two = Chance(None), Chance(None)
    assert one.secret
    draws = [drawn(one.noise), drawn(two.noise), drawn(one.draws)]
    one.refresh()
    draws.append(drawn(one.noise))
    for index, values in enumerate(draws):
        assert abs(values.mean()) < 0.12 and abs(values.std() - 1) < 0.12
        assert all((values != other).float().mean() > 0.99 for other in draws[:index])


def test_a_seed_repeats_and_draws_are_not_the_noise() -> None:
    one, two = Chance(7), Chance(7)
    two.refresh()
    assert not one.secret
    assert torch.equal(drawn(one.noise), drawn(two.noise))
    assert not torch.equal(drawn(one.draws), drawn(two.noise))
    assert not torch.equal(drawn(Chance(8).noise), drawn(Chance(7).noise))
