# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Processor: nesting of phrases and annotations, spans, regions, results, and its life on the Hub."""

import json
import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from albef_amc.image_processing_albef import AlbefImageProcessor
from albef_amc.processing_albef import AlbefProcessor
from albef_amc.regions_albef import build_region_mask, encode_rle, find_point, resize_heatmap
from albef_amc.text_processing_albef import build_tokenizer

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "##s", "cup", "left", "of", "the"]
A, RED, DOG, PLURAL, CUP, LEFT, OF, THE = range(5, 13)

RELOAD = """
import importlib.abc, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "albef_amc":
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from transformers import AutoProcessor

processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = processor(images=sys.argv[2], text=["A red dog.", "cups"], boxes=[[[3, 4, 10, 9]], None])
processor.save_pretrained(sys.argv[3])
print(json.dumps({name: None if name == "layout" else value.tolist() for name, value in inputs.items()}))
"""


@pytest.fixture
def processor():
    return AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(TOKENS, model_max_length=8))


@pytest.fixture
def photos():
    return [Image.new("RGB", (40, 30), "red"), Image.new("RGB", (16, 24), "blue"), Image.new("RGB", (8, 8))]


@pytest.fixture
def warnings_logged(caplog):
    logging.Logger.warning_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return caplog


# Phrases and images.


def test_lists_of_phrases_per_image(processor, photos):
    inputs = processor(images=photos, text=[["A dog!", "the red, red cup"], [], ["dogs"]])
    assert inputs["input_ids"].tolist() == [[2, A, DOG, 0, 0], [2, THE, RED, RED, CUP], [2, DOG, PLURAL, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1, 1, 1, 0, 0]]
    assert inputs["image_index"].tolist() == [0, 0, 2]
    assert inputs["pixel_values"].shape == (3, 3, 32, 32)
    assert inputs["original_sizes"].tolist() == [[30, 40], [24, 16], [8, 8]]
    assert set(inputs) == {"pixel_values", "original_sizes", "input_ids", "attention_mask", "image_index", "layout"}
    assert {inputs[name].dtype for name in ("input_ids", "attention_mask", "image_index")} == {torch.int64}


@pytest.mark.parametrize("text", ["a dog", ["a dog"], [["a dog"]], ("a dog",)])
def test_one_phrase_of_one_image(processor, photos, text):
    for images in (photos[0], photos[:1]):
        inputs = processor(images=images, text=text)
        assert inputs["input_ids"].tolist() == [[2, A, DOG]]
        assert inputs["image_index"].tolist() == [0]


def test_flat_list_is_one_phrase_per_image_or_several_of_one(processor, photos):
    assert processor(images=photos, text=["dog", "cup", "a"])["image_index"].tolist() == [0, 1, 2]
    assert processor(images=photos[0], text=["dog", "cup", "a"])["image_index"].tolist() == [0, 0, 0]


def test_images_or_text_alone(processor, photos):
    assert set(processor(images=photos)) == {"pixel_values", "original_sizes"}
    assert set(processor(text=["a dog", "cup"])) == {"input_ids", "attention_mask"}
    with pytest.raises(ValueError, match="give `images`, `text` or both"):
        processor()


@pytest.mark.parametrize("text", [[], [[], [], []]])
def test_no_phrases(processor, photos, text):
    with pytest.raises(ValueError, match="`text` has no phrases"):
        processor(images=photos, text=text)


@pytest.mark.parametrize("phrase", ["", "   ", "?!", "\n", "\u200b"])
def test_empty_phrase(processor, photos, phrase):
    with pytest.raises(ValueError, match="phrase 1 is .* no words once it is cleaned"):
        processor(images=photos[0], text=["a dog", phrase])


@pytest.mark.parametrize("text", [["dog", "cup"], [["dog"], ["cup"]], "dog"])
def test_number_of_phrase_lists_must_be_the_number_of_images(processor, photos, text):
    with pytest.raises(ValueError, match=r"phrases for . images but there are 3 images"):
        processor(images=photos, text=text)


@pytest.mark.parametrize("text", [3, ["dog", ["cup"]], [["dog"], [3]], [[["dog"]]]])
def test_text_of_another_type(processor, text):
    with pytest.raises(TypeError, match="`text` must be a phrase, a list of phrases"):
        processor(text=text)


def test_phrase_longer_than_the_position_table(processor, photos):
    with pytest.raises(ValueError, match=r"phrase 1 has 9 tokens but the model has 8 text positions.*`max_length=8`"):
        processor(images=photos[0], text=["a dog", "a " * 8])
    assert processor(text="a " * 7)["input_ids"].shape == (1, 8)


def test_max_length_counts_the_class_token(processor):
    inputs = processor(text=["the red dogs left", "cup"], max_length=4)
    assert inputs["input_ids"].tolist() == [[2, THE, RED, DOG], [2, CUP, 0, 0]]
    assert processor(text="cup", max_length=6, padding="max_length")["input_ids"].shape == (1, 6)


@pytest.mark.parametrize("max_length", [0, 1, 9])
def test_max_length_out_of_range(processor, max_length):
    with pytest.raises(ValueError, match="`max_length` must lie between 2 .* and 8"):
        processor(text="cup", max_length=max_length)


def test_max_words(processor):
    assert processor(text="the red dogs left", max_words=2)["input_ids"].tolist() == [[2, THE, RED]]


def test_rows_do_not_depend_on_padding(processor):
    assert processor(text=["cup", "dog"], padding=False)["input_ids"].tolist() == [[2, CUP], [2, DOG]]
    with pytest.raises(ValueError, match="different lengths cannot form a tensor with `padding=False`"):
        processor(text=["cup", "a dog"], padding=False)
    with pytest.raises(ValueError, match='`return_tensors` must be "pt"'):
        processor(text="cup", return_tensors="np")


# Spans.


def test_spans_mark_the_tokens_of_a_phrase_in_its_caption(photos):
    processor = AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(TOKENS, model_max_length=16))
    caption = "The (RED) dogs, left of -- a cup."
    cup, dogs = caption.index("a cup"), caption.index("(RED) dogs")
    inputs = processor(images=photos[0], text=[caption] * 3, spans=[[(cup, cup + 5)], [[dogs, dogs + 10]], None])
    assert inputs["input_ids"][0].tolist() == [2, THE, RED, DOG, PLURAL, LEFT, OF, A, CUP]
    assert inputs["token_mask"].int().tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 1, 1],
        [0, 0, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert inputs["token_mask"].dtype == torch.bool


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((3, 5), "covers no token: it is punctuation"),
        ((0, 99), r"does not lie in its caption of 14 characters"),
        ((4, 4), "does not lie in its caption"),
        ((-1, 4), "does not lie in its caption"),
    ],
)
def test_spans_that_mark_nothing(processor, span, message):
    with pytest.raises(ValueError, match=rf"span \({span[0]}, {span[1]}\) of phrase 0.*{message}"):
        processor(text="dog? ! the cup", spans=[span])


def test_truncated_and_malformed_spans(processor):
    with pytest.raises(ValueError, match="was truncated"):
        processor(text="a red dog", spans=[(6, 9)], max_length=3)
    with pytest.raises(ValueError, match=r"`spans` of phrase 0 must be a list of \(start, end\)"):
        processor(text="a red dog", spans=(6, 9))


@pytest.mark.parametrize(
    "span", [(0.5, 3), (float("nan"), 3), (None, 3), ("0", "3"), (True, 3), (0, 3, 4), 5, "ab", {}]
)
def test_spans_are_pairs_of_whole_numbers(processor, span):
    with pytest.raises(ValueError, match=r"`spans` of phrase 0 must be a list of \(start, end\), whole numbers"):
        processor(text="a red dog", spans=[span])
    with pytest.raises(ValueError, match=r"`spans` of phrase 0 must be a list"):
        processor(text=["a red dog"], spans=[7])
    inputs = processor(text="a red dog", spans=[(np.int64(2), torch.tensor(5))])
    assert inputs["token_mask"].sum() == 1


# Regions.


def test_boxes_follow_the_nesting_of_text(processor, photos):
    inputs = processor(
        images=photos,
        text=[["dog", "cup"], [], ["a", "red"]],
        boxes=[[[[4, 3, 20, 15]], None], [], [[], [[0, 0, 4, 8], [2, 0, 6, 8]]]],
    )
    assert inputs["region_mask"].shape == (4, 32, 32)
    assert inputs["has_region"].tolist() == [True, False, False, True]
    assert torch.equal(inputs["region_mask"][0], build_region_mask(30, 40, (32, 32), boxes=[[4, 3, 20, 15]]))
    assert inputs["region_mask"][3].mean() == 6 / 8
    assert not inputs["region_mask"][1:3].any()


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("dog", [[0, 0, 8, 8]]),
        ("dog", np.array([[0, 0, 8, 8]])),
        (["dog"], [[[0, 0, 8, 8]]]),
        ([["dog"]], [[[[0, 0, 8, 8]]]]),
        ([["dog"]], [[torch.tensor([[0.0, 0, 8, 8]])]]),
    ],
)
def test_every_nesting_gives_the_same_region(processor, photos, text, boxes):
    inputs = processor(images=photos[2], text=text, boxes=boxes, mask_size=(4, 6))
    assert torch.equal(inputs["region_mask"], torch.ones(1, 4, 6))


def test_polygons_masks_and_none_for_an_image(processor, photos):
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :2] = True
    inputs = processor(
        images=[photos[2], photos[0]],
        text=[["dog", "cup"], ["a"]],
        polygons=[[None, [[4, 0, 8, 0, 8, 8, 4, 8]]], None],
        masks=[[[encode_rle(mask)], None], None],
        mask_size=(1, 4),
    )
    assert inputs["region_mask"].tolist() == [[[1, 0, 0, 0]], [[0, 0, 1, 1]], [[0, 0, 0, 0]]]
    assert inputs["has_region"].tolist() == [True, True, False]


def test_region_follows_exif_rotation(processor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.png", exif=exif)
    inputs = processor(images=tmp_path / "turned.png", text="dog", boxes=[[0, 4, 4, 8]], mask_size=(2, 1))
    assert inputs["original_sizes"].tolist() == [[8, 4]]
    assert inputs["region_mask"].tolist() == [[[0], [1]]]


def test_region_without_area_is_not_a_region_and_logged_once(processor, photos, warnings_logged):
    for _ in range(2):
        inputs = processor(images=photos[0], text=["dog", "cup"], boxes=[[[50, 50, 60, 60]], [[3, 3, 3, 9]]])
        assert inputs["has_region"].tolist() == [False, False]
    message = "Some annotated regions have no area in their image: `has_region` is False for them."
    assert [record.message for record in warnings_logged.records].count(message) == 1


@pytest.mark.parametrize("box", [[9, 0, 3, 3], [float("nan"), 0, 3, 3], [0, 0, 10**400, 3], [0, 0, "3", 3]])
def test_errors_of_boxes_name_the_phrase(processor, photos, box):
    with pytest.raises(ValueError, match=r"annotation of phrase 1: box 0 .*images\[0\]"):
        processor(images=photos[0], text=["dog", "cup"], boxes=[None, [box]])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [30, 40], "counts": [1 << 62] * 4 + [1200]}, "run 0 of a mask is"),
        ({"size": [30, 40], "counts": [600.5, 599.5]}, "run 0 of a mask is 600.5"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, r"a mask has size .* but its image is \[24, 16\]"),
        ({"size": [40, 30], "counts": [1200]}, r"a mask has size .* but its image is \[24, 16\]"),
        ({"size": [24, 16], "counts": "o" * 99}, "cut off"),
        ({"size": [24, 16]}, "`counts`"),
    ],
)
def test_errors_of_masks_name_the_phrase_and_its_image(processor, photos, mask, message):
    good = {"size": [photos[0].height, photos[0].width], "counts": [photos[0].height * photos[0].width]}
    if mask["size"] == [30, 40]:
        call = dict(images=photos[:2], text=[["dog", "cup"], ["dog"]], masks=[[[good], [mask]], [None]])
        place = r"annotation of phrase 1: .*images\[0\]"
    else:
        call = dict(images=photos[:2], text=[["dog", "cup"], ["dog"]], masks=[[[good], None], [[mask]]])
        place = r"annotation of phrase 2: .*images\[1\]"
    with pytest.raises(ValueError, match=message) as caught:
        processor(**call)
    assert re.search(place, str(caught.value), re.DOTALL)


@pytest.mark.parametrize(
    ("text", "boxes", "message"),
    [
        (["dog", "cup"], [[[0, 0, 1, 1]]], "`boxes` must be nested like `text`: a list with 2 entries"),
        ([["dog"], ["cup"]], [[None]], "`boxes` must be nested like `text`"),
        ([["dog"], ["cup"]], [[None], [None, None]], r"`boxes\[1\]` must have 1 entries"),
        (["dog", "cup"], [[0, 0, 1, 1], None], r"`boxes` of phrase 0 must be a list of \[x_min"),
        (["dog", "cup"], [[[0, 0, 1]], None], r"`boxes` of phrase 0 must be a list of \[x_min"),
        (["dog", "cup"], "boxes", "`boxes` must be nested like `text`"),
    ],
)
def test_boxes_of_another_structure(processor, photos, text, boxes, message):
    with pytest.raises(ValueError, match=message):
        processor(images=photos[:2], text=text, boxes=boxes)


def test_masks_and_polygons_of_another_structure(processor, photos):
    with pytest.raises(ValueError, match="`masks` of phrase 0 must be a list of run-length dicts"):
        processor(images=photos[0], text="dog", masks={"size": [30, 40], "counts": "1"})
    with pytest.raises(ValueError, match="`polygons` of phrase 0 must be a list of flat x, y lists"):
        processor(images=photos[0], text="dog", polygons=[0, 0, 1, 0, 1, 1])


def test_annotations_need_text_and_images(processor, photos):
    with pytest.raises(ValueError, match="`boxes` without `images`"):
        processor(text="dog", boxes=[[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="`spans`, `masks` without `text`"):
        processor(images=photos, spans=[[(0, 1)]], masks=[])


# Results.


def build_outputs(heatmap, image_index=(0, 1, 1), sizes=((30, 40), (24, 16), (5, 5))):
    probability = torch.tensor([0.5, 0.880797, 0.119203])[: len(heatmap)]
    return SimpleNamespace(
        heatmap=heatmap,
        match_probability=probability,
        image_index=None if image_index is None else torch.tensor(image_index),
        original_sizes=torch.tensor(sizes),
    )


def test_results_per_image_and_phrase(processor):
    heatmap = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.01
    results = processor.post_process_grounding(build_outputs(heatmap))
    assert [len(phrases) for phrases in results] == [1, 2, 0]
    for result, phrase_map, size, score in zip(
        [*results[0], *results[1]], heatmap, [(30, 40), (24, 16), (24, 16)], [0.5, 0.880797, 0.119203], strict=True
    ):
        resized = resize_heatmap(phrase_map, *size)
        assert result["score"] == pytest.approx(score, abs=1e-6)
        assert result["is_present"] == (score >= 0.5)
        assert result["point"].tolist() == find_point(resized).tolist()
        assert torch.equal(result["heatmap"], resized.clamp(min=0) / resized.max())
        assert result["heatmap"].shape == size
        assert result["boxes"].shape == (len(result["box_scores"]), 4)
        assert torch.equal(result["box"], result["boxes"][0])
        x_min, y_min, x_max, y_max = result["box"].tolist()
        assert x_min <= result["point"][0] < x_max and y_min <= result["point"][1] < y_max


def test_overshoot_counts_for_the_point_and_is_clipped_for_the_picture(processor):
    heatmap = torch.zeros(1, 4, 4)
    heatmap[0, 1, 1] = heatmap[0, 1, 2] = 1
    resized = resize_heatmap(heatmap[0], 64, 64)
    assert resized.max() > 1 and resized.min() < 0
    ((result,),) = processor.post_process_grounding(build_outputs(heatmap, [0], [(64, 64)]))
    assert result["point"].tolist() == find_point(resized).tolist()
    assert result["heatmap"].min() == 0 and result["heatmap"].max() == 1


def test_threshold_and_no_heatmaps(processor):
    heatmap = torch.eye(4)[None] * 0.5
    heatmap[0, 0, 0] = 1
    outputs = build_outputs(heatmap, [0], [(4, 4)])
    assert processor.post_process_grounding(outputs, box_threshold=0.5)[0][0]["box"].tolist() == [0, 0, 4, 4]
    assert processor.post_process_grounding(outputs, box_threshold=0.6)[0][0]["box"].tolist() == [0, 0, 1, 1]
    assert processor.post_process_grounding(outputs, return_heatmaps=False)[0][0]["heatmap"] is None
    for threshold in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"`box_threshold` must be a number in \(0, 1\]"):
            processor.post_process_grounding(outputs, box_threshold=threshold)


def test_sizes_and_image_rows_given_otherwise(processor):
    outputs = build_outputs(torch.ones(2, 4, 4), None)
    results = processor.post_process_grounding(outputs, original_sizes=[(6, 7), (8, 9)])
    assert [result["heatmap"].shape for (result,) in results] == [(6, 7), (8, 9)]
    with pytest.raises(ValueError, match="names image 1 but there are 1 sizes"):
        processor.post_process_grounding(outputs, original_sizes=[(6, 7)])
    outputs.original_sizes = None
    with pytest.raises(ValueError, match="has no `original_sizes`"):
        processor.post_process_grounding(outputs)


def test_map_of_zeros_has_a_point_no_box_and_a_warning(processor, warnings_logged):
    ((result,),) = processor.post_process_grounding(build_outputs(torch.zeros(1, 4, 4), [0], [(5, 6)]))
    assert result["point"].tolist() == [0, 0]
    assert result["box"] is None
    assert result["boxes"].shape == (0, 4) and result["box_scores"].shape == (0,)
    assert torch.equal(result["heatmap"], torch.zeros(5, 6))
    assert [record.message for record in warnings_logged.records] == [
        "A heatmap is zero everywhere: its point is (0, 0) and it has no box."
    ]


@pytest.mark.parametrize("name", ["heatmap", "match_probability"])
def test_outputs_that_are_not_of_grounding(processor, name):
    outputs = build_outputs(torch.ones(2, 4, 4), [0, 0])
    delattr(outputs, name)
    with pytest.raises(ValueError, match=f"`outputs` has no `{name}`. Use `model.ground"):
        processor.post_process_grounding(outputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_map_that_is_not_finite(processor, value):
    heatmap = torch.ones(2, 4, 4)
    heatmap[1, 2, 2] = value
    with pytest.raises(ValueError, match="the heatmap of phrase 1 is not finite"):
        processor.post_process_grounding(build_outputs(heatmap, [0, 0]))


# Saving.


def test_saved_and_loaded_with_the_package(processor, tmp_path, photos):
    processor.image_processor.max_image_pixels = 5000
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["auto_map"]["AutoProcessor"] == "processing_albef.AlbefProcessor"
    assert settings["image_processor"]["max_image_pixels"] == 5000
    before = processor(images=photos, text=["a dog", "cups", "red"])
    for loader in (AlbefProcessor, AutoProcessor):
        reloaded = loader.from_pretrained(tmp_path)
        assert isinstance(reloaded, AlbefProcessor)
        assert isinstance(reloaded.image_processor, AlbefImageProcessor)
        assert reloaded.image_processor.max_image_pixels == 5000
        assert reloaded.tokenizer.model_max_length == 8
        after = reloaded(images=photos, text=["a dog", "cups", "red"])
        assert set(before) == set(after)
        assert all(torch.equal(before[name], after[name]) for name in before if name != "layout")


@pytest.mark.slow
def test_loads_and_saves_again_where_the_package_cannot_be_imported(processor, tmp_path):
    saved, again, photo = tmp_path / "saved", tmp_path / "again", tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    processor.save_pretrained(saved)
    expected = processor(images=photo, text=["A red dog.", "cups"], boxes=[[[3, 4, 10, 9]], None])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    for source in (saved, again):
        answer = subprocess.run(
            [sys.executable, "-c", RELOAD, str(source), str(photo), str(again)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        assert answer.returncode == 0, answer.stderr
        reloaded = json.loads(answer.stdout)
        assert set(reloaded) == set(expected)
        for name in set(expected) - {"layout"}:
            assert torch.equal(torch.tensor(reloaded[name], dtype=expected[name].dtype), expected[name]), name
