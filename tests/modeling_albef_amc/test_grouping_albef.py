"""Layouts of phrases for the text layers: they move rows and change none."""

import pytest
import torch

from albef_amc.grouping_albef import PhraseGroups, PhraseRows, PieceLayout, divide_rows

CASES = {
    "one image": ([0, 0, 0], 1),
    "one phrase an image": ([0, 1, 2], 3),
    "in order": ([0, 0, 1, 1], 2),
    "out of order": ([2, 0, 2, 1, 0], 3),
    "images without a phrase": ([4, 1, 4, 1, 1], 6),
    "one crowded image": ([0] * 30 + list(range(1, 20)), 20),
    "no phrase": ([], 2),
}


@pytest.mark.parametrize(("index", "num_images"), CASES.values(), ids=CASES)
def test_every_phrase_stands_in_the_row_of_its_image_and_comes_back(index, num_images):
    index = torch.tensor(index, dtype=torch.int64)
    groups = PhraseGroups.of(index, num_images)
    phrases, images = torch.arange(len(index)) + 100, torch.arange(num_images)
    on_grid = groups.spread(torch.stack([phrases, index], dim=1))
    read = groups.select(images)
    assert on_grid.shape == (len(read), groups.width, 2)
    beside = torch.stack([on_grid[..., 0], read[:, None].expand(-1, groups.width)], dim=-1)
    assert torch.equal(groups.collect(beside), torch.stack([phrases, index], dim=1))
    assert torch.equal(groups.collect(on_grid)[:, 0], phrases)


def test_an_image_is_read_once_unless_that_leaves_most_places_empty():
    even = PhraseGroups.of(torch.tensor([1, 0, 1, 0]), 2)
    assert (even.num_rows, even.width, even.images) == (2, 2, None)
    crowded = PhraseGroups.of(torch.tensor([0] * 30 + list(range(1, 20))), 20)
    assert (crowded.num_rows, crowded.width) == (49, 1)
    assert PhraseGroups.of(even, 2) is even


def test_groups_are_differentiable_twice():
    groups = PhraseGroups.of(torch.tensor([1, 0, 1]), 2)
    values = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: groups.collect(groups.spread(x).sin()).square(), values)


@pytest.mark.parametrize("mask", [[[1, 1, 1], [1, 0, 0]], [[1, 1], [1, 1]], [[1, 0, 1], [0, 1, 1]]])
def test_real_pieces_are_packed_and_padding_comes_back_as_zero(mask):
    mask = torch.tensor(mask)
    layout = PieceLayout.of(mask)
    values = torch.randn(*mask.shape, 4)
    packed = layout.pack(values)
    assert len(packed) == mask.sum()
    assert torch.equal(layout.unpack(packed), values * mask[..., None])
    kept = PieceLayout.of(mask, keep_padding=True)
    assert torch.equal(kept.unpack(kept.pack(values)), values)
    assert layout.first_pieces().shape == (len(mask), 1)


def test_groups_for_each_image_of_a_phrase():
    index = torch.tensor([[0, 1], [2, 1], [0, 0]])
    of_images = torch.tensor([10, 11, 12])
    groups = PhraseGroups.of_each(index, 3)
    read = [one.collect(one.select(of_images)[:, None].expand(-1, one.width)) for one in groups]
    assert [values.tolist() for values in read] == [[10, 12, 10], [11, 11, 10]]
    assert PhraseGroups.of_each(groups, 3) is groups
    (only,) = PhraseGroups.of_each(index[:, 0], 3)
    assert only.num_rows == groups[0].num_rows and PhraseGroups.of_each(only, 3) == (only,)


def build_phrase_rows(count: int, length: int, keep_padding: bool = False) -> PhraseRows:
    return PhraseRows(
        torch.randn(count, length, 2), torch.ones(count, length), torch.arange(count), keep_padding=keep_padding
    )


def test_kinds_of_rows_are_joined_and_divided():
    parts = [build_phrase_rows(2, 3), build_phrase_rows(0, 3), build_phrase_rows(1, 5, keep_padding=True)]
    joined = PhraseRows.join(parts)
    assert joined.states.shape == (3, 5, 2) and joined.keep_padding
    assert joined.attention_mask[0].tolist() == [1, 1, 1, 0, 0]
    divided = PhraseRows.split(joined.states * 2, parts)
    for part, new in zip(parts, divided, strict=True):
        assert torch.equal(new.states, part.states * 2) and new.keep_padding == part.keep_padding
    assert torch.equal(parts[0][torch.tensor([1])].states, parts[0].states[1:])


def test_the_first_part_of_divided_rows_is_never_empty():
    marked, others = divide_rows(torch.tensor([False, True, True]))
    assert (marked.tolist(), others.tolist()) == ([1, 2], [0])
    marked, others = divide_rows(torch.zeros(3, dtype=torch.bool))
    assert (marked.tolist(), others.tolist()) == ([0], [1, 2])
