import pytest
import torch

from mfm_core.rows import (
    add_product,
    channel_shuffle,
    depth_to_space,
    exchange,
    gather,
    product,
    space_to_depth,
    spread,
    sum_with_product,
    to_images,
    to_rows,
    weight_gradient,
)


def pictures(channels: int, side: int = 8, count: int = 3) -> torch.Tensor:
    values = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("groups", [2, 4])
def test_shuffle_sends_an_equal_part_of_every_group_to_every_group(groups: int) -> None:
    rows = torch.arange(groups).repeat_interleave(16).expand(2, -1)
    mixed = channel_shuffle(rows, groups).view(2, groups, 16)
    for group in mixed[0]:
        assert group.bincount(minlength=groups).tolist() == [16 // groups] * groups


def test_shuffle_only_permutes() -> None:
    rows = torch.arange(32.0).expand(3, -1)
    assert torch.equal(channel_shuffle(rows, 4)[0].sort().values, torch.arange(32.0))


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_shuffle_exchanges_groups_and_pieces_and_leaves_what_it_was_given(groups: int) -> None:
    rows = torch.randn(5, groups * groups * 3, generator=torch.Generator().manual_seed(0))
    before = rows.clone()
    expected = rows.view(5, groups, groups, 3).transpose(1, 2).reshape(rows.shape)
    assert torch.equal(channel_shuffle(rows, groups), expected)
    assert torch.equal(rows, before)
    assert exchange(rows, groups).data_ptr() == rows.data_ptr()
    assert torch.equal(rows, expected)


def test_shuffle_passes_gradcheck_twice() -> None:
    rows = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)

    def curved(given: torch.Tensor) -> torch.Tensor:
        return channel_shuffle(given.square(), 2)

    assert torch.autograd.gradcheck(curved, (rows,))
    assert torch.autograd.gradgradcheck(curved, (rows,))


@pytest.mark.parametrize("groups", [1, 2])
def test_depth_to_space_undoes_space_to_depth(groups: int) -> None:
    images = pictures(8)
    rows = space_to_depth(images, 4, groups)
    assert rows.shape == (3 * 4, 8 * 16)
    assert torch.equal(depth_to_space(rows, 3, 4, groups), images)


@pytest.mark.parametrize("groups", [1, 2])
def test_gather_undoes_spread_which_shuffles_what_depth_to_space_spreads(groups: int) -> None:
    rows = to_rows(pictures(32, side=4))
    whole = spread(rows, 3, groups)
    assert torch.equal(gather(whole, groups), rows)
    unmixed = depth_to_space(rows, 3, 2, groups)
    assert torch.equal(whole, to_images(channel_shuffle(to_rows(unmixed), groups), 3))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 7, 512])
def test_a_product_has_the_bits_of_one_that_is_written_and_adds_to_what_is_there(
    groups: int, rows: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(rows, groups * 16, generator=generator)
    blocks = torch.randn(groups, 16, 24, generator=generator)
    parts = torch.bmm(given.view(rows, groups, 16).transpose(0, 1), blocks)
    expected = parts.transpose(0, 1).reshape(rows, -1)
    with torch.no_grad():
        assert torch.equal(product(given, blocks), expected)
        total = torch.ones(rows, groups * 24)
        added = add_product(total, given, blocks)
    assert added is total
    torch.testing.assert_close(total, expected + 1.0)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_sums_and_gradients_are_right_in_both_precisions(groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, start = (torch.randn(64, groups * side, generator=generator) for side in (16, 24))
    blocks, before = torch.randn(groups, 16, 24, generator=generator), start.clone()
    for kind, bound in ((torch.float32, 1e-6), (torch.bfloat16, 2.0**-8)):
        given, factors = rows.to(kind), blocks.to(kind)
        whole = torch.block_diag(*factors.float())  # the same numbers, summed in float32
        with torch.no_grad():
            total = sum_with_product(start, given, factors)
            found = weight_gradient(start.to(kind), given, groups).float()
        expected = start.to(kind).float().T @ given.float()
        parts = zip(expected.chunk(groups, 0), range(groups), strict=True)
        blockwise = torch.stack([part.chunk(groups, 1)[group] for part, group in parts])
        assert total.dtype == torch.float32
        assert float((total - start - given.float() @ whole).abs().max()) <= bound * 32
        assert float((found - blockwise).abs().max()) <= bound * 64
    assert torch.equal(start, before)
