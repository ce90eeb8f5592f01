# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Layouts of phrases for the text layers: they move rows and change none, and travel with their batch."""

import copy
import dataclasses
import pickle
import sys

import pytest
import torch
from accelerate.utils import send_to_device
from testing_utils import assert_same_layout, build_photo, list_layout_tensors
from torch.utils import _pytree
from torch.utils.data import DataLoader
from torch.utils.data._utils import pin_memory
from transformers import BatchEncoding

from albef_amc import AlbefForPreTraining
from albef_amc.layout_albef import (
    PhraseRows,
    build_layout,
    find_explained_rows,
    group_by_image,
    join_rows,
    split_rows,
)

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
    grouping = group_by_image(index, num_images)
    phrases, images = torch.arange(len(index)) + 100, torch.arange(num_images)
    grid = grouping.to_grid(torch.stack([phrases, index], dim=1))
    read = grouping.select_images(images)
    assert grid.shape == (len(read), grouping.width, 2)
    beside = torch.stack([grid[..., 0], read[:, None].expand(-1, grouping.width)], dim=-1)
    assert torch.equal(grouping.from_grid(beside), torch.stack([phrases, index], dim=1))
    assert torch.equal(grouping.from_grid(grid)[:, 0], phrases)


def test_an_image_is_read_once_unless_that_leaves_most_slots_empty():
    even = group_by_image(torch.tensor([1, 0, 1, 0]), 2)
    assert (even.num_rows, even.width, even.images) == (2, 2, None)
    crowded = group_by_image(torch.tensor([0] * 30 + list(range(1, 20))), 20)
    assert (crowded.num_rows, crowded.width) == (49, 1)


def test_groupings_are_differentiable_twice():
    grouping = group_by_image(torch.tensor([1, 0, 1]), 2)
    values = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: grouping.from_grid(grouping.to_grid(x).sin()).square(), values)


@pytest.mark.parametrize("mask", [[[1, 1, 1], [1, 0, 0]], [[1, 1], [1, 1]], [[1, 0, 1], [0, 1, 1]]])
def test_real_tokens_are_packed_and_padding_comes_back_as_zero(mask):
    mask = torch.tensor(mask)
    layout = build_layout(mask, None, len(mask))
    values = torch.randn(*mask.shape, 4)
    packed = layout.pack(values)
    assert len(packed) == mask.sum()
    assert torch.equal(layout.unpack(packed), values * mask[..., None])
    for kept in (layout.keep_padding(), build_layout(mask, None, len(mask), keep_padding=True)):
        assert torch.equal(kept.unpack(kept.pack(values)), values)
    assert layout.first_tokens().shape == (len(mask), 1)


def test_groupings_for_each_image_of_a_phrase():
    index = torch.tensor([[0, 1], [2, 1], [0, 0]])
    images = torch.tensor([10, 11, 12])
    groupings = build_layout(torch.ones(3, 2), index, 3).groupings
    read = [one.from_grid(one.select_images(images)[:, None].expand(-1, one.width)) for one in groupings]
    assert [values.tolist() for values in read] == [[10, 12, 10], [11, 11, 10]]
    (only,) = build_layout(torch.ones(3, 2), index[:, 0], 3).groupings
    assert only.num_rows == groupings[0].num_rows


def test_without_an_index_every_phrase_has_an_image_of_its_own():
    mask = torch.ones(3, 2)
    assert_same_layout(build_layout(mask, None, 3), build_layout(mask, torch.arange(3), 3))


# On its way through other people's code


@pytest.fixture
def batch(tiny_processor):
    text = [["a dog", "the red cup on a car"], ["small circle"], ["a", "the blue dog"]]
    return tiny_processor(images=[build_photo(seed=seed) for seed in range(3)], text=text)


def test_the_processor_builds_it_of_its_batch(batch):
    expected = build_layout(batch["attention_mask"], batch["image_index"], 3)
    assert expected.token_index is not None and expected.groupings[0].slots is not None
    assert_same_layout(batch["layout"], expected)


@pytest.mark.parametrize(
    "carry",
    [
        lambda batch: batch.to("cpu"),
        lambda batch: batch.to(torch.float32),
        lambda batch: BatchEncoding(dict(batch)).to("cpu"),
        lambda batch: send_to_device(dict(batch), torch.device("cpu")),
        lambda batch: _pytree.tree_map(lambda leaf: leaf, dict(batch)),
        lambda batch: pickle.loads(pickle.dumps(batch)),
        copy.deepcopy,
        lambda batch: next(iter(DataLoader([dict(batch)], batch_size=None, num_workers=1))),
    ],
    ids=["feature", "dtype", "encoding", "accelerate", "pytree", "pickle", "deepcopy", "worker"],
)
def test_batches_carry_it(batch, carry, tiny_model):
    expected = copy.deepcopy(batch["layout"])
    carried = carry(batch)
    assert_same_layout(carried["layout"], expected)
    assert torch.isfinite(tiny_model.ground(**carried).heatmap).all()


def test_it_goes_to_a_device_with_its_mask_left_where_it_was_built(batch):
    moved = batch["layout"].to("meta", non_blocking=True)
    assert {values.device.type for values in list_layout_tensors(moved)} == {"cpu", "meta"}
    assert moved.attention_mask is batch["layout"].attention_mask
    assert send_to_device({"layout": batch["layout"]}, "meta")["layout"].token_index.device.type == "meta"


def test_a_loader_pins_it(batch, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: pinned.append(values) or values)
    assert_same_layout(pin_memory.pin_memory({"layout": batch["layout"]})["layout"], batch["layout"])
    assert list(map(id, pinned)) == list(map(id, list_layout_tensors(batch["layout"])))


def test_models_give_the_same_with_it_and_without(batch, tiny_model):
    without = {name: value for name, value in batch.items() if name != "layout"}
    pretraining = AlbefForPreTraining(tiny_model.config).eval()
    uniforms = torch.rand(len(batch["input_ids"]), 2, generator=torch.Generator().manual_seed(0))
    del batch["original_sizes"]
    for compute in (
        lambda inputs: tiny_model.ground(**inputs).heatmap,
        lambda inputs: tiny_model.ground(**inputs, phrases_per_chunk=2).heatmap,
        lambda inputs: tiny_model(**inputs, output_heatmap=True).heatmap,
        lambda inputs: pretraining(**inputs, objectives=("itc", "itm"), negative_uniforms=uniforms).loss,
    ):
        without.pop("original_sizes", None)
        assert torch.equal(compute(batch), compute(without))


def test_forward_builds_none_where_the_batch_has_one(batch, tiny_model, monkeypatch):
    built = []

    def record(*arguments, **options):
        built.append(arguments)
        return build_layout(*arguments, **options)

    for name, module in list(sys.modules.items()):
        if name.startswith("albef_amc.") and getattr(module, "build_layout", None) is build_layout:
            monkeypatch.setattr(module, "build_layout", record)
    tiny_model(**batch, output_heatmap=True)
    tiny_model.ground(**batch)
    assert not built
    batch.pop("layout")
    tiny_model(**batch, output_heatmap=True)
    assert len(built) == 1


def change(name: str):
    def apply(batch: dict) -> None:
        batch[name] = batch[name][:-1]

    return apply


def cut_all(batch: dict) -> None:
    for name in ("input_ids", "attention_mask", "image_index"):
        batch[name] = batch[name][:3]


def hide_a_token(batch: dict) -> None:
    batch["attention_mask"][1, -1] = 0  # in place


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (change("pixel_values"), "describes 5 phrases .* on 3 images, but `input_ids` has .* there are 2 images"),
        (cut_all, r"describes 5 phrases of 7 tokens on 3 images, but `input_ids` has shape \(3, 7\)"),
        (change("attention_mask"), "was built from another `attention_mask`"),
        (hide_a_token, "was built from another `attention_mask`"),
        (change("image_index"), "was built from another `image_index`"),
        (lambda batch: batch.update(image_index=torch.tensor([0, 1, 1, 2, 2])), "was built from another"),
    ],
    ids=["pixels", "phrases", "mask", "mask in place", "index", "other images"],
)
def test_a_batch_that_was_changed_is_refused(batch, alter, reason, tiny_model):
    batch = dict(batch)
    alter(batch)
    for call in (tiny_model, tiny_model.ground, tiny_model.albef):
        inputs = {name: value for name, value in batch.items() if call != tiny_model.albef or name != "original_sizes"}
        with pytest.raises(ValueError, match=rf"`layout` does not fit the batch: it {reason}.*Remove it"):
            call(**inputs)


def test_what_describes_phrases_stays_where_it_was_built(batch):
    known = dict(masked_tokens=torch.ones(5, 7) > 0, annotated_phrases=torch.ones(5) > 0, explained_phrases=None)
    layout = dataclasses.replace(batch["layout"], **known)
    moved = layout.to("meta")
    for name in ("attention_mask", "image_index", *known):
        assert getattr(moved, name) is getattr(layout, name)
    assert all(torch.equal(getattr(pickle.loads(pickle.dumps(layout)), name), known[name]) for name in list(known)[:2])


def test_a_layout_of_another_device_is_built_anew(batch, tiny_model):
    expected = tiny_model.ground(**batch).heatmap
    batch["layout"] = batch["layout"].map_tensors(lambda values: values.to("meta"))
    assert torch.equal(tiny_model.ground(**batch).heatmap, expected)


def test_other_masked_tokens_are_refused(batch, tiny_model):
    model = AlbefForPreTraining(tiny_model.config).eval()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, 1] = batch["input_ids"][0, 1]
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask", "image_index")}
    masks = dict(mlm_input_ids=batch["input_ids"], mlm_labels=labels)
    expected = model(**inputs, **masks, objectives=("mlm",)).loss
    layout = dataclasses.replace(batch["layout"], masked_tokens=labels != -100)
    assert torch.equal(model(**inputs, **masks, objectives=("mlm",), layout=layout).loss, expected)
    layout = dataclasses.replace(batch["layout"], masked_tokens=labels == -100)
    with pytest.raises(ValueError, match="`layout` does not fit the batch: it was built from other `mlm_labels`"):
        model(**inputs, **masks, objectives=("mlm",), layout=layout)


def test_a_slice_of_it_is_refused(batch):
    with pytest.raises(TypeError, match=r"`layout` of a batch cannot be cut .* Remove it from the batch"):
        {name: value[:2] for name, value in batch.items()}


# Rows that go through layers together


def build_phrase_rows(count: int, length: int, keep_padding: bool = False) -> PhraseRows:
    return PhraseRows(
        torch.randn(count, length, 2), torch.ones(count, length), torch.arange(count), keep_padding=keep_padding
    )


def test_kinds_of_rows_are_joined_and_divided():
    parts = [build_phrase_rows(2, 3), build_phrase_rows(0, 3), build_phrase_rows(1, 5, keep_padding=True)]
    joined = join_rows(parts)
    assert joined.states.shape == (3, 5, 2) and joined.keep_padding
    assert joined.attention_mask[0].tolist() == [1, 1, 1, 0, 0]
    divided = split_rows(joined.states * 2, parts)
    for part, new in zip(parts, divided, strict=True):
        assert torch.equal(new.states, part.states * 2) and new.keep_padding == part.keep_padding
    assert torch.equal(parts[0].select(torch.tensor([1])).states, parts[0].states[1:])


def test_some_phrase_is_always_explained():
    marked, others = find_explained_rows(torch.tensor([False, True, True]))
    assert (marked.tolist(), others.tolist()) == ([1, 2], [0])
    marked, others = find_explained_rows(torch.zeros(3, dtype=torch.bool))
    assert (marked.tolist(), others.tolist()) == ([0], [1, 2])
