# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The collator: what a batch holds, and that nothing drawn depends on anything but seed, draw and ids."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from testing_utils import assert_same_layout

from albef_amc.datasets_scripts.true_phrases import hash_text
from albef_amc.image_processing_albef import AlbefImageProcessor
from albef_amc.layout_albef import build_layout
from albef_amc.processing_albef import AlbefProcessor
from albef_amc.regions_albef import encode_rle
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer.data.augmentation import GroundingAugmentation
from albef_amc.trainer.data.data_collator import DataCollatorForGrounding, hash_image_id

WORDS = "a the red blue dog cat cup left right on of small large round square".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
CLS, MASK = VOCABULARY.index("[CLS]"), VOCABULARY.index("[MASK]")


@pytest.fixture(scope="module")
def processor():
    return AlbefProcessor(AlbefImageProcessor(size=16), build_tokenizer(VOCABULARY))


def make_phrase(phrase_id: str, phrase: str, **values) -> dict:
    fields = ("boxes", "points", "masks", "polygons", "types", "caption", "spans", "paraphrases")
    return {"phrase_id": phrase_id, "phrase": phrase, **dict.fromkeys(fields), **values}


def make_row(image_id: str = "photo", phrases: list[dict] | None = None, size=(16, 8), **values) -> dict:
    if phrases is None:
        phrases = [
            make_phrase(f"{image_id}_0", "a red dog", boxes=[[0.0, 0.0, 8.0, 8.0]]),
            make_phrase(f"{image_id}_1", "the small blue cup on the left", boxes=[[8.0, 0, 16, 4], [0, 4, 8, 8]]),
            make_phrase(f"{image_id}_2", "a round cat"),
        ]
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8))
    row = {"image": image, "image_id": image_id, "width": size[0], "height": size[1]}
    return {**row, "proposals": None, "phrases": phrases, **values}


def assert_equal(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if name == "layout":
            assert_same_layout(value, second[name])
        else:
            assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name], name


def test_what_a_batch_holds(processor):
    batch = DataCollatorForGrounding(processor, mask_size=4)([make_row("one"), make_row("two", size=(8, 16))])
    length = batch["input_ids"].shape[1]
    expected = {
        "pixel_values": ((2, 3, 16, 16), torch.float32),
        "original_sizes": ((2, 2), torch.int64),
        "image_ids": ((2,), torch.int64),
        "input_ids": ((6, length), torch.int64),
        "attention_mask": ((6, length), torch.int64),
        "image_index": ((6,), torch.int64),
        "region_mask": ((6, 4, 4), torch.float32),
        "has_region": ((6,), torch.bool),
    }
    assert batch.pop("row_ids") == ["one", "two"]
    layout = build_layout(batch["attention_mask"], batch["image_index"], 2)
    assert_same_layout(batch.pop("layout"), replace(layout, annotated_phrases=batch["has_region"]))
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == expected
    assert type(batch) is dict
    assert batch["original_sizes"].tolist() == [[8, 16], [16, 8]]
    assert batch["image_index"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["has_region"].tolist() == [True, True, False, True, True, False]
    assert batch["input_ids"][0, :4].tolist() == [CLS, *(VOCABULARY.index(word) for word in ("a", "red", "dog"))]


def test_regions_from_each_source(processor):
    mask = np.zeros((8, 16), bool)
    mask[:, :8] = True
    region = {
        "boxes": [[0.0, 0.0, 8.0, 8.0]],
        "polygons": [[0.0, 0.0, 8.0, 0.0, 8.0, 8.0, 0.0, 8.0]],
        "masks": [encode_rle(mask)],
    }
    for source in region:
        collator = DataCollatorForGrounding(processor, mask_size=4, region_source=source)
        row = make_row(phrases=[make_phrase("0", "a dog", **region), make_phrase("1", "a cat")])
        batch = collator([row])
        assert batch["has_region"].tolist() == [True, False]
        assert batch["region_mask"][0].tolist() == [[1.0, 1.0, 0.0, 0.0]] * 4
        assert batch["region_mask"][1].sum() == 0


def test_another_source_is_not_a_region(processor):
    assert not DataCollatorForGrounding(processor, region_source="masks")([make_row()])["has_region"].any()


def test_all_boxes_or_a_random_one(processor):
    row = make_row(phrases=[make_phrase("0", "a cat", boxes=[[0.0, 0, 8, 8], [8, 0, 16, 8]])])
    assert DataCollatorForGrounding(processor, mask_size=2)([row])["region_mask"].sum() == 4
    collator = DataCollatorForGrounding(processor, mask_size=2, box_choice="random")
    drawn = [collator([{**row, "draw": draw}])["region_mask"][0] for draw in range(20)]
    assert {tuple(mask[0].tolist()) for mask in drawn} == {(1.0, 0.0), (0.0, 1.0)}


def test_masks_without_area_are_not_a_region_counted_and_logged_once(processor, caplog):
    collator = DataCollatorForGrounding(processor)
    row = make_row(
        phrases=[
            make_phrase("0", "a cat", boxes=[[3.0, 3.0, 3.0, 3.0]]),
            make_phrase("1", "a dog", boxes=[[0.0, 0.0, 4.0, 4.0]]),
        ]
    )
    for _ in range(3):
        assert collator([row])["has_region"].tolist() == [False, True]
    assert collator.num_empty_regions == 3
    said = [record for record in caplog.records if record.name.endswith("data_collator")]
    assert len(said) == 1 and "`boxes` without area" in said[0].getMessage()


@pytest.mark.parametrize(
    ("region_source", "types", "has_region"),
    [
        ("boxes", ["incomplete_boxes"], False),
        ("boxes", ["incomplete_outlines"], True),
        ("polygons", ["category", "incomplete_outlines"], False),
        ("polygons", ["incomplete_boxes"], True),
        ("masks", ["incomplete_outlines", "incomplete_boxes"], False),
        ("masks", None, True),
    ],
)
def test_a_part_of_a_region_is_not_a_region(processor, caplog, region_source, types, has_region):
    region = {
        "boxes": [[0.0, 0.0, 8.0, 8.0]],
        "polygons": [[0.0, 0.0, 8.0, 0.0, 8.0, 8.0]],
        "masks": [encode_rle(np.ones((8, 16), bool))],
    }
    rows = [make_row("one", [make_phrase("p", "a dog", types=types, **region), make_phrase("q", "cat", **region)])]
    collator = DataCollatorForGrounding(processor, mask_size=4, region_source=region_source)
    for _ in range(2):
        batch = collator(rows)
    assert batch["has_region"].tolist() == [has_region, True]
    assert collator.num_incomplete_regions == (0 if has_region else 2) and collator.num_empty_regions == 0
    said = [record.message for record in caplog.records if "lost a part" in record.message]
    assert len(said) == (not has_region)
    if not has_region:
        assert said[0].startswith(f"1 phrases of a batch lost a part of their `{region_source}`")


def test_phrases_are_drawn_without_replacement(processor):
    collator = DataCollatorForGrounding(processor, phrases_per_image=2, return_phrase_ids=True)
    drawn = {tuple(collator([make_row(draw=draw)])["phrase_ids"]) for draw in range(40)}
    assert drawn == {("photo_0", "photo_1"), ("photo_0", "photo_2"), ("photo_1", "photo_2")}
    few = make_row(phrases=[make_phrase("only", "a dog")])
    assert collator([few])["phrase_ids"] == ["only"]


def test_max_length_cuts_phrases(processor):
    long = make_row(phrases=[make_phrase("0", " ".join(["a dog"] * 30))])
    assert DataCollatorForGrounding(processor)([long])["input_ids"].shape == (1, 25)
    assert DataCollatorForGrounding(processor, max_length=7)([long])["input_ids"].shape == (1, 7)
    assert DataCollatorForGrounding(processor, max_length=None)([long])["input_ids"].shape == (1, 61)


def make_random_collator(processor, **values) -> DataCollatorForGrounding:
    options = {"phrases_per_image": 2, "mlm_probability": 0.5, "box_choice": "random", "return_phrase_ids": True}
    return DataCollatorForGrounding(processor, augmentation=GroundingAugmentation(), **{**options, **values})


def test_same_seed_and_draw_give_the_same_batch(processor):
    rows = [make_row("one", draw=3), make_row("two", draw=3)]
    first = make_random_collator(processor)(rows)
    torch.manual_seed(9)
    np.random.seed(9)
    state = torch.get_rng_state()
    assert_equal(first, make_random_collator(processor)(rows))
    assert torch.equal(torch.get_rng_state(), state)
    later = make_random_collator(processor)([{**row, "draw": 4} for row in rows])
    assert not torch.equal(later["negative_uniforms"], first["negative_uniforms"])
    seeded = make_random_collator(processor, seed=1)(rows)
    assert not torch.equal(seeded["negative_uniforms"], first["negative_uniforms"])


def test_a_row_is_drawn_alike_alone_and_in_a_batch(processor):
    collator = make_random_collator(processor, phrases_per_image=1)
    longer = make_row("two", phrases=[make_phrase("long", "the small red cup on the left of the large blue dog")])
    alone, together = collator([make_row("one")]), collator([longer, make_row("one")])
    length = alone["input_ids"].shape[1]
    assert torch.equal(together["pixel_values"][1:], alone["pixel_values"])
    for name in ("input_ids", "mlm_input_ids", "mlm_labels"):
        assert torch.equal(together[name][1:, :length], alone[name]), name
    assert torch.equal(together["negative_uniforms"][1:], alone["negative_uniforms"])


def test_the_layout_knows_the_masked_tokens(processor):
    batch = DataCollatorForGrounding(processor, mlm_probability=0.5)([make_row()])
    assert batch["layout"].masked_tokens.any()
    assert torch.equal(batch["layout"].masked_tokens, batch["mlm_labels"] != -100)


def test_masking_follows_the_published_rule(processor):
    phrases = [make_phrase(str(index), "the small red cup on the left of a dog") for index in range(400)]
    phrases.append(make_phrase("long", "a cat on the left of the round blue cup on the square"))
    batch = DataCollatorForGrounding(processor, mlm_probability=0.15)([make_row(phrases=phrases)])
    tokens, masked, labels = batch["input_ids"], batch["mlm_input_ids"], batch["mlm_labels"]
    chosen = labels != -100
    assert torch.equal(labels[chosen], tokens[chosen]) and torch.equal(masked[~chosen], tokens[~chosen])
    assert not chosen[:, 0].any() and not chosen[batch["attention_mask"] == 0].any()
    share = chosen.sum() / (batch["attention_mask"].sum() - len(tokens))
    assert 0.13 < share < 0.17
    assert 0.74 < (masked[chosen] == MASK).float().mean() < 0.86
    assert 0.08 < (masked[chosen] == tokens[chosen]).float().mean() < 0.17
    assert (masked[chosen] < 5).any()  # the random token is any of the vocabulary
    uniforms = batch["negative_uniforms"]
    assert uniforms.shape == (401, 2) and uniforms.dtype == torch.float32
    assert 0 <= uniforms.min() and uniforms.max() < 1 and 0.45 < uniforms.mean() < 0.55


def test_augmentation_moves_the_region(processor):
    only_flip = GroundingAugmentation(flip_probability=1, gray_probability=0, jitter_probability=0)
    row = make_row(phrases=[make_phrase("0", "the dog", boxes=[[0.0, 0.0, 8.0, 8.0]])])
    plain = DataCollatorForGrounding(processor, mask_size=2)([row])
    flipped = DataCollatorForGrounding(processor, mask_size=2, augmentation=only_flip)([row])
    assert torch.equal(flipped["region_mask"], plain["region_mask"].flip(-1))
    torch.testing.assert_close(flipped["pixel_values"], plain["pixel_values"].flip(-1), atol=0.02, rtol=0)
    assert torch.equal(flipped["input_ids"], plain["input_ids"])


def test_image_ids_are_stable_numbers(processor):
    batch = DataCollatorForGrounding(processor)([make_row("one"), make_row("two"), make_row("one")])
    first, second, third = batch["image_ids"].tolist()
    assert first == third == hash_image_id("one") != second and 0 <= second < 1 << 63
    assert hash_image_id("photo_7") == 4639086895887897544


def test_workers_and_pinned_order_change_nothing(processor):
    rows = [make_row(f"photo {index}") for index in range(6)]
    collator = make_random_collator(processor)
    loaders = [
        torch.utils.data.DataLoader(rows, batch_size=2, collate_fn=collator, num_workers=workers) for workers in (0, 1)
    ]
    for first, second in zip(*loaders, strict=True):
        assert_equal(first, second)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"phrases": []}, "image 'photo' is without a phrase"),
        ({"phrases": None}, "image 'photo' is without a phrase"),
        ({"phrases": [make_phrase("p7", "  ")]}, "'p7'.*has no words"),
        ({"phrases": [make_phrase("p7", None)]}, "image 'photo'.*'p7'.*is a NoneType, not a text"),
        ({"phrases": [make_phrase("p7", 5)]}, "image 'photo'.*'p7'.*is a int, not a text"),
        ({"phrases": [make_phrase("p7", b"a dog")]}, "image 'photo'.*'p7'.*is a bytes, not a text"),
        ({"phrases": [make_phrase("p7", float("nan"))]}, "image 'photo'.*'p7'.*is a float, not a text"),
        ({"phrases": [make_phrase("p7", "\ud800")]}, "image 'photo'.*'p7'.*half of a character"),
        ({"phrases": ["a dog"]}, "`phrases` of image 'photo' must be a list of mappings"),
        ({"phrases": {"phrase": ["a dog"]}}, "`phrases` of image 'photo' must be a list of mappings"),
        ({"image_id": "\ud800"}, "`image_id`"),
        ({"image": b"no picture"}, "image 'photo' is not an image"),
        ({"image_id": None}, "`image_id`"),
        ({"width": 8, "height": 16}, "states 8 x 16 pixels"),
        ({"phrases": [make_phrase("p7", "?!")]}, "image 'photo'.*'p7'.*has no words"),
        ({"phrases": [make_phrase("p7", "a dog", boxes=[[8, 0, 2, 4]])]}, r"x_max.*\(image 'photo'\)"),
    ],
)
def test_bad_rows_are_named(processor, change, words):
    with pytest.raises(ValueError, match=words):
        DataCollatorForGrounding(processor)([make_row("fine"), make_row() | change])


@pytest.mark.parametrize("region_source", ["boxes", "masks"])
@pytest.mark.parametrize("counts", [[1 << 62] * 4 + [128], "1", [127.5, 0.5]])
def test_damaged_masks_of_a_row_are_named_when_they_are_used(processor, counts, region_source):
    phrase = make_phrase("p", "a dog", boxes=[[0.0, 0.0, 8.0, 8.0]], masks=[{"size": [8, 16], "counts": counts}])
    flip = GroundingAugmentation(flip_probability=1.0)
    collator = DataCollatorForGrounding(processor, region_source=region_source, augmentation=flip)
    with pytest.raises(ValueError, match=r"mask .*image 'broken'"):
        collator([make_row("good"), make_row("broken", [phrase])])


def test_a_missing_picture_names_its_row(processor, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png \(image 'photo'\)"):
        DataCollatorForGrounding(processor)([make_row() | {"image": str(tmp_path / "nothing.png")}])


def test_no_rows(processor):
    with pytest.raises(ValueError, match="at least one row"):
        DataCollatorForGrounding(processor)([])


@pytest.mark.parametrize(
    ("name", "value"),
    [("phrases_per_image", 0), ("region_source", "points"), ("box_choice", "first"), ("mlm_probability", 1.5)],
)
def test_wrong_options_are_named(processor, name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        DataCollatorForGrounding(processor, **{name: value})


def make_paraphrased_row(**values) -> dict:
    phrases = [
        make_phrase("0", "a red dog", boxes=[[0.0, 0, 8, 8], [8, 0, 16, 8]], paraphrases=["the dog", "a dog on red"]),
        make_phrase("1", "a cat", paraphrases=[]),
        make_phrase("2", "a cup", boxes=[[8.0, 0, 16, 4]], paraphrases=["the cup"]),
    ]
    return make_row(phrases=phrases, **values)


def test_paraphrases_follow_their_phrases_with_the_same_region(processor):
    collator = DataCollatorForGrounding(processor, mask_size=4, use_paraphrases=True, return_phrase_ids=True)
    batch = collator([make_paraphrased_row(image_id="one"), make_paraphrased_row(image_id="two")])
    assert batch["paraphrase_index"].tolist() == [1, -1, -1, 4, -1, 6, -1, -1, 9, -1]
    assert batch["paraphrase_index"].dtype == torch.int64
    assert batch["image_index"].tolist() == [0] * 5 + [1] * 5
    assert batch["phrase_ids"][2:5] == ["1", "2", "2~0"]
    for row, other in enumerate(batch["paraphrase_index"].tolist()):
        if other >= 0:
            assert torch.equal(batch["region_mask"][row], batch["region_mask"][other])
            assert batch["has_region"][row] and batch["has_region"][other]
            assert not torch.equal(batch["input_ids"][row], batch["input_ids"][other])
    assert "paraphrase_index" not in DataCollatorForGrounding(processor)([make_paraphrased_row()])


def test_paraphrases_are_drawn_by_seed_draw_and_ids(processor):
    collator = make_random_collator(processor, phrases_per_image=None, use_paraphrases=True)
    drawn = {collator([make_paraphrased_row(draw=draw)])["phrase_ids"][1] for draw in range(20)}
    assert drawn == {"0~0", "0~1"}
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert_equal(collator([make_paraphrased_row(draw=3)]), collator([make_paraphrased_row(draw=3)]))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_phrase_and_its_paraphrase_share_the_drawn_box_and_the_mirror(processor):
    flip = GroundingAugmentation(flip_probability=1, gray_probability=0, jitter_probability=0)
    collator = DataCollatorForGrounding(processor, mask_size=2, use_paraphrases=True, box_choice="random")
    for draw in range(8):
        masks = collator([make_paraphrased_row(draw=draw)])["region_mask"]
        assert torch.equal(masks[0], masks[1]) and masks[0].sum() == 2
    plain = collator([make_paraphrased_row()])["region_mask"]
    collator.augmentation = flip
    flipped = collator([make_paraphrased_row()])["region_mask"]
    assert torch.equal(flipped[3], flipped[4]) and torch.equal(flipped[3], plain[3].flip(-1))
    assert not torch.equal(flipped[3], plain[3])


def test_phrases_are_counted_before_paraphrases_are_added(processor):
    collator = DataCollatorForGrounding(processor, phrases_per_image=1, use_paraphrases=True, return_phrase_ids=True)
    drawn = {tuple(collator([make_paraphrased_row(draw=draw)])["phrase_ids"]) for draw in range(40)}
    assert drawn == {("0", "0~0"), ("0", "0~1"), ("1",), ("2", "2~0")}


def test_an_empty_paraphrase_is_named(processor):
    row = make_row(phrases=[make_phrase("p7", "a dog", paraphrases=["  "])])
    with pytest.raises(ValueError, match="paraphrase 0 of phrase 'p7' of image 'photo', '.*', has no words"):
        DataCollatorForGrounding(processor, use_paraphrases=True)([row])


# Texts that are true or false of an image


FALSE = ["a blue dog", "the cup on the right", "a large cat", "a square"]
FALSE_NAMES = ("false_input_ids", "false_attention_mask", "false_image_index", "false_layout")


def read_false_phrases(processor, batch: dict) -> list[list[str]]:
    """The false phrases of each image."""
    texts = [processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["false_input_ids"]]
    index = batch["false_image_index"].tolist()
    return [[text for text, of in zip(texts, index, strict=True) if of == row] for row in range(len(batch["row_ids"]))]


def test_false_phrases_are_further_texts_of_their_images(processor):
    rows = [make_row("one", false_phrases=FALSE), make_row("two"), make_row("three", false_phrases=FALSE[:1])]
    batch = DataCollatorForGrounding(processor, false_phrases_per_image=2)(rows)
    assert batch["false_image_index"].tolist() == [0, 0, 2]
    first, second, third = read_false_phrases(processor, batch)
    assert len(set(first)) == 2 and set(first) <= set(FALSE) and (second, third) == ([], FALSE[:1])
    layout = build_layout(batch["false_attention_mask"], batch["false_image_index"], 3)
    assert_same_layout(batch["false_layout"], layout)
    plain = DataCollatorForGrounding(processor)(rows)
    assert torch.equal(batch["input_ids"], plain["input_ids"])


def test_false_phrases_are_drawn_by_seed_draw_and_image(processor):
    other = make_row("other", false_phrases=FALSE[::-1])

    def draw(seed=0, number=0, image_id="photo", beside=()):
        collate = DataCollatorForGrounding(processor, false_phrases_per_image=2, seed=seed)
        return read_false_phrases(processor, collate([make_row(image_id, false_phrases=FALSE, draw=number), *beside]))[
            0
        ]

    assert draw() == draw(beside=[other])
    for changes in ({"seed": 1}, {"number": 1}, {"image_id": "another"}):
        name, value = next(iter(changes.items()))
        values = [draw(**{name: f"{value}{number}" if name == "image_id" else number}) for number in range(8)]
        assert len({tuple(texts) for texts in values}) > 1, name


@pytest.mark.parametrize("count", [0, 2])
def test_a_batch_without_false_phrases_has_no_such_tensor(processor, count):
    rows = [
        make_row("one", false_phrases=[] if count else FALSE),
        make_row("two", false_phrases=None),
        make_row("three"),
    ]
    batch = DataCollatorForGrounding(processor, false_phrases_per_image=count)(rows)
    assert not {*FALSE_NAMES} & {*batch}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("...", "a text among `false_phrases` of image 'photo', '...'"),
        (None, "a text among `false_phrases` of image 'photo', None"),
        ("A red dog!", "image 'photo': 'A red dog!' is among `false_phrases`, but the image has it"),
        ("on top", "image 'photo': 'on top' is among `false_phrases`"),
    ],
)
def test_false_phrases_that_cannot_be_are_named(processor, text, words):
    row = make_row(false_phrases=["a square", text], true_phrases=["On top."])
    with pytest.raises(ValueError, match=re.escape(words)):
        DataCollatorForGrounding(processor, false_phrases_per_image=1, phrases_per_image=1)([row])
    DataCollatorForGrounding(processor)([row])  # they are not read


def list_known(batch: dict, row: int) -> set[int]:
    return set(batch["description_ids"][batch["description_index"] == row].tolist())


def test_all_that_is_true_of_an_image_is_known(processor):
    """Phrases that are not drawn, paraphrases and `true_phrases`, cleaned; each image its own."""
    phrases = [make_phrase("0", "A red dog!", paraphrases=["the small dog"]), make_phrase("1", "a cat")]
    rows = [
        make_row("one", phrases, true_phrases=["a red dog", "The LARGE cat.", "..."]),
        make_row("two", phrases[1:]),
    ]
    batch = DataCollatorForGrounding(processor, phrases_per_image=1, use_text_ids=True)(rows)
    true = {"a red dog", "the small dog", "a cat", "the large cat"}
    assert list_known(batch, 0) == set(map(hash_text, true)) and list_known(batch, 1) == {hash_text("a cat")}
    assert set(batch["text_ids"].tolist()) <= set(map(hash_text, true))


def test_a_mirrored_image_loses_the_texts_that_name_a_side(processor):
    phrases = [make_phrase("0", "a cat")]
    true = ["a dog", "the dog on the left"]
    augmentation = GroundingAugmentation(flip_probability=1.0)
    rows = [make_row("photo", phrases, true_phrases=true, false_phrases=["a cup"])]
    make = dict(use_text_ids=True, false_phrases_per_image=1)
    batch = DataCollatorForGrounding(processor, augmentation=augmentation, **make)(rows)
    assert list_known(batch, 0) == {hash_text("a cat"), hash_text("a dog")}
    assert read_false_phrases(processor, batch) == [["a cup"]]
    assert list_known(DataCollatorForGrounding(processor, **make)(rows), 0) >= {hash_text("the dog on the left")}
    sides = make_row("photo", phrases, true_phrases=true, false_phrases=["the cup on the left"])
    batch = DataCollatorForGrounding(processor, augmentation=augmentation, **make)([sides])
    plain = DataCollatorForGrounding(processor, augmentation=replace(augmentation, flip_probability=0.0), **make)(
        [sides]
    )
    assert read_false_phrases(processor, batch) == [["the cup on the left"]]  # such a row is not mirrored
    assert torch.equal(batch["pixel_values"], plain["pixel_values"])
