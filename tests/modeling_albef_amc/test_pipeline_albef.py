# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pipeline `visual-grounding`: forms of its input, its options, and its agreement with processor and model."""

import io

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from testing_utils import assert_same_layout, build_photo
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from albef_amc import AlbefConfig, AlbefForImageTextMatching
from albef_amc.image_processing_albef import AlbefImageProcessor
from albef_amc.pipeline_albef import VisualGroundingPipeline
from albef_amc.processing_albef import AlbefProcessor
from albef_amc.text_processing_albef import build_tokenizer

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cup"]
WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    config = AlbefConfig(
        vision_config={**WIDTHS, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        text_config={
            **WIDTHS,
            "num_hidden_layers": 4,
            "fusion_layer": 2,
            "vocab_size": len(TOKENS),
            "max_position_embeddings": 16,
        },
        projection_dim=16,
        explanation_layer=2,
        explanation_block=1,
        queue_size=8,
    )
    processor = AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(TOKENS, model_max_length=16))
    return VisualGroundingPipeline(model=AlbefForImageTextMatching(config), processor=processor, device="cpu")


@pytest.fixture(scope="module")
def photo():
    return Image.radial_gradient("L").resize((40, 30)).convert("RGB")


def test_equals_processor_and_model(pipe, photo):
    phrases = ["a red dog", "Cup!"]
    results = pipe(photo, phrases=phrases)
    outputs = pipe.model.ground(**pipe.processor(images=photo, text=phrases))
    (expected,) = pipe.processor.post_process_grounding(outputs)
    assert [result["phrase"] for result in results] == phrases
    for result, one in zip(results, expected, strict=True):
        assert result["score"] == pytest.approx(one["score"], abs=1e-6)
        assert result["point"] == one["point"].tolist()
        assert result["box"] == one["box"].tolist()
        assert result["boxes"] == one["boxes"].tolist()
        torch.testing.assert_close(result["heatmap"], one["heatmap"], atol=1e-6, rtol=0)


def test_forms_of_the_input(pipe, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    reference = pipe(photo, phrases=["a dog"])
    forms = [
        pipe(photo, phrases="a dog"),
        pipe(photo, ["a dog"]),
        pipe(str(tmp_path / "photo.png"), phrases=["a dog"]),
        pipe({"image": photo, "text": "a dog"}),
        *pipe([photo, photo], phrases=["a dog"]),
        *pipe([{"image": photo, "text": ["a dog"]}, {"image": photo, "text": ["a dog"]}]),
    ]
    assert len(forms) == 8
    for results in forms:
        assert [result["point"] for result in results] == [reference[0]["point"]]
        assert torch.equal(results[0]["heatmap"], reference[0]["heatmap"])


def test_options(pipe, photo):
    (result,) = pipe(photo, phrases="a dog", return_heatmaps=False, box_threshold=1.0)
    assert result["heatmap"] is None
    x_min, y_min, x_max, y_max = result["box"]
    assert (x_min, y_min) == tuple(result["point"]) and (x_max - x_min) * (y_max - y_min) == 1
    assert torch.equal(
        pipe(photo, phrases="a red dog", max_length=2)[0]["heatmap"], pipe(photo, phrases="a")[0]["heatmap"]
    )
    itm, itc = (pipe(photo, phrases="a dog", explanation_kind=kind)[0]["heatmap"] for kind in ("itm", "itc"))
    assert not torch.equal(itm, itc)


def test_errors(pipe, photo):
    with pytest.raises(ValueError, match=r"give `pipe\(image, phrases"):
        pipe(photo)
    with pytest.raises(ValueError, match="batch_size"):
        pipe([photo, photo], phrases="a dog", batch_size=0)
    with pytest.raises(TypeError, match="input 0: `text` must be a phrase.*Got a list as phrase 0"):
        pipe([photo, photo], phrases=[["a dog"]])
    with pytest.raises(TypeError, match="unknown option threshold. The options are max_length"):
        pipe(photo, phrases="a dog", threshold=0.5)
    for option in ({"max_length": "5"}, {"max_length": 5.5}, {"phrases_per_chunk": 1.5}, {"return_heatmaps": "no"}):
        with pytest.raises(TypeError, match=f"`{next(iter(option))}` must be "):
            pipe(photo, phrases="a dog", **option)
    with pytest.raises(ValueError, match="`text` has no phrases"):
        pipe(photo, phrases=[])
    with pytest.raises(ValueError, match=r"phrase 1 is .*, which has no words"):
        pipe(photo, phrases=["a dog", "?!"])


PHRASES = [["a red dog", "cup", "a"], ["a dog"], ["red"], ["a cup", "a red red cup"], ["dog"]]


def build_photos() -> list[Image.Image]:
    """Photographs of different sizes, one for each entry of `PHRASES`."""
    return [build_photo(40 + 3 * index, 30 + index, seed=index) for index in range(len(PHRASES))]


@pytest.fixture(scope="module")
def dataset():
    """The photographs and their phrases as a data set."""
    photos = build_photos()
    features = Features({"image": ImageFeature(), "text": List(Value("string")), "note": Value("string")})
    columns = {"image": photos, "text": PHRASES, "note": ["a dog"] * len(photos)}
    return Dataset.from_dict(columns, features=features)


def check_same(results, expected):
    assert len(results) == len(expected)
    for picture, reference in zip(results, expected, strict=True):
        assert [one["phrase"] for one in picture] == [one["phrase"] for one in reference]
        for one, other in zip(picture, reference, strict=True):
            assert one["point"] == other["point"] and one["boxes"] == other["boxes"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
            torch.testing.assert_close(one["heatmap"], other["heatmap"], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def singles(pipe):
    """Each photograph grounded alone."""
    return [pipe(photo, phrases=phrases) for photo, phrases in zip(build_photos(), PHRASES, strict=True)]


@pytest.mark.parametrize("batch_size", [2, 3, 5, 8])
@pytest.mark.parametrize("where", ["construction", "call"])
@pytest.mark.parametrize("form", ["list", "tuple", "generator", "data set", "torch data set"])
def test_batches_equal_singles(pipe, singles, dataset, batch_size, where, form):
    rows = [{"image": photo, "text": phrases} for photo, phrases in zip(build_photos(), PHRASES, strict=True)]
    inputs = {
        "list": rows,
        "tuple": tuple(rows),
        "generator": (row for row in rows),
        "data set": dataset,
        "torch data set": KeyDataset([{"row": row} for row in rows], "row"),
    }[form]
    if where == "construction":
        made = VisualGroundingPipeline(model=pipe.model, processor=pipe.processor, device="cpu", batch_size=batch_size)
        results = made(inputs)
    else:
        results = pipe(inputs, batch_size=batch_size)
    assert isinstance(results, list) == (form in ("list", "tuple"))
    check_same(list(results), singles)


def test_batches_of_a_pipeline_that_transformers_makes(pipe, singles, checkpoint_folder):
    made = pipeline("visual-grounding", model=checkpoint_folder, device="cpu", batch_size=2, trust_remote_code=True)
    rows = [{"image": photo, "text": phrases} for photo, phrases in zip(build_photos(), PHRASES, strict=True)]
    check_same(made(rows), singles)


@pytest.fixture(scope="module")
def checkpoint_folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "checkpoint"
    pipe.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_picture_of_a_batch_is_named(pipe, photo, num_workers):
    rows = [{"image": image, "text": "a dog"} for image in (photo, photo, b"no picture", photo)]
    with pytest.raises(ValueError, match=r"input 2: images\[0\] is not an image"):
        pipe(rows, batch_size=2, num_workers=num_workers)
    results = iter(pipe((row for row in rows), batch_size=2))
    assert [next(results)[0]["phrase"], next(results)[0]["phrase"]] == ["a dog", "a dog"]
    with pytest.raises(ValueError, match="input 2: "):
        next(results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, r"input 1: images\[0\] is a NoneType"),
        ({"image": "missing.jpg"}, "input 1: No image file"),
        ({"text": []}, "input 1: `text` has no phrases"),
        ({"text": "?!"}, "input 1: phrase 0 is"),
        ({"text": ["a dog", None]}, r"input 1: `text` must be .* Got a NoneType as phrase 1"),
        ({"text": 7}, "input 1: `text` must be .* Got a int as phrase 0"),
        ({"text": None}, "input 1: give `pipe"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_bad_input_is_named(pipe, photo, change, message, batch_size):
    row = {"image": photo, "text": "a dog"}
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        pipe([row, {**row, **change}, row], batch_size=batch_size)


def test_nothing_gives_nothing(pipe):
    assert pipe([], phrases="a dog") == [] == list(pipe(iter([]), phrases="a dog"))


def encode(photo: Image.Image) -> bytes:
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    return stream.getvalue()


COLLECTIONS = {
    "list of pictures": lambda dataset: build_photos(),
    "list of arrays": lambda dataset: [np.asarray(photo) for photo in build_photos()],
    "list of tensors": lambda dataset: [torch.tensor(np.asarray(photo)).movedim(-1, 0) for photo in build_photos()],
    "list of floats in 0 to 1": lambda dataset: [np.asarray(photo) / 255 for photo in build_photos()],
    "list of bytes": lambda dataset: [encode(photo) for photo in build_photos()],
    "column": lambda dataset: dataset["image"],
    "column of tensors": lambda dataset: dataset.with_format("torch")["image"],
    "column of arrays": lambda dataset: dataset.with_format("numpy")["image"],
    "batch of tensors": lambda dataset: dataset.with_format("torch")[:]["image"],
    "batch of arrays": lambda dataset: dataset.with_format("numpy")[:]["image"],
    "column of pandas": lambda dataset: dataset.with_format("pandas")[:]["image"],
    "pandas with other labels": lambda dataset: pandas.Series(build_photos(), index=[7, 3, 1, 0, 9]),
    "undecoded column": lambda dataset: dataset.cast_column("image", ImageFeature(decode=False))["image"],
    "undecoded rows of tensors": lambda dataset: [
        row["image"] for row in dataset.cast_column("image", ImageFeature(decode=False)).with_format("torch")
    ],
    "key of a data set": lambda dataset: KeyDataset(dataset, "image"),
    "key of tensors": lambda dataset: KeyDataset(dataset.with_format("torch"), "image"),
    "generator": lambda dataset: (photo for photo in build_photos()),
    "iterator": lambda dataset: iter(build_photos()),
    "streamed column": lambda dataset: dataset.to_iterable_dataset()["image"],
    "array of objects": lambda dataset: np.array([*build_photos(), None], dtype=object)[:-1],
}


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_collections_of_pictures_with_phrases(pipe, dataset, name, batch_size):
    expected = pipe(build_photos(), phrases=["a red dog", "cup"])
    results = pipe(COLLECTIONS[name](dataset), phrases=("a red dog", "cup"), batch_size=batch_size)
    check_same(list(results), expected)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_collections_of_pictures_in_the_processor(pipe, dataset, name):
    inputs = pipe.processor(images=COLLECTIONS[name](dataset), text=PHRASES)
    expected = pipe.processor(images=build_photos(), text=PHRASES)
    assert inputs.keys() == expected.keys()
    for key, value in expected.items():
        if key == "layout":
            assert_same_layout(inputs[key], value)
        else:
            assert torch.equal(inputs[key], value), key


@pytest.mark.parametrize("shape", ["array", "tensor"])
def test_a_stack_of_pictures(pipe, shape):
    photos = [build_photo(40, 30, seed=seed) for seed in range(3)]
    stack = np.stack([np.asarray(photo) for photo in photos])
    results = pipe(stack if shape == "array" else torch.tensor(stack).movedim(-1, 1), phrases="a dog", batch_size=2)
    check_same(results, pipe(photos, phrases="a dog"))


@pytest.mark.parametrize("data_format", [None, "torch", "numpy"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("decoded", [False, True])
def test_rows_of_a_data_set(pipe, dataset, singles, data_format, streamed, decoded):
    rows = dataset.cast_column("image", ImageFeature(decode=decoded))
    rows = (rows.to_iterable_dataset() if streamed else rows).with_format(data_format)
    check_same(list(pipe(rows, batch_size=2)), singles)
    check_same([pipe(row) for row in rows], singles)


TEXTS = {
    "column": lambda dataset: dataset["text"],
    "column of arrays": lambda dataset: dataset.with_format("numpy")["text"],
    "batch of arrays": lambda dataset: dataset.with_format("numpy")[:]["text"],
    "column of pandas": lambda dataset: dataset.with_format("pandas")[:]["text"],
    "key of a data set": lambda dataset: KeyDataset(dataset, "text"),
    "generator": lambda dataset: (tuple(phrases) for phrases in PHRASES),
    "arrays": lambda dataset: [np.array(phrases) for phrases in PHRASES],
}


@pytest.mark.parametrize("name", TEXTS)
def test_collections_of_phrases_in_the_processor(pipe, dataset, name):
    inputs = pipe.processor(images=build_photos(), text=TEXTS[name](dataset))
    expected = pipe.processor(images=build_photos(), text=PHRASES)
    for key, value in expected.items():
        if key == "layout":
            assert_same_layout(inputs[key], value)
        else:
            assert torch.equal(inputs[key], value), key
    one_each = pipe.processor(images=build_photos(), text=dataset["note"])
    assert one_each["image_index"].tolist() == list(range(len(PHRASES)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda dataset: dataset[0], r"images\[0\] is a dict with the keys 'image', 'text', 'note'.*Of a row give"),
        (lambda dataset: dataset, r"images\[0\] is a dict with the keys 'image'"),
        (lambda dataset: dataset.with_format("pandas")[:2], r"images\[0\] is a pandas DataFrame.*with_format\(None\)"),
        (lambda dataset: dataset.with_format("pandas")[0]["text"], r"images\[0\] is a numpy ndarray|array of shape"),
        (lambda dataset: dataset.with_format("arrow")[:2], r"images\[0\] is a pyarrow .*with_format\(None\)"),
        (lambda dataset: {"bytes": None, "path": "/etc/hostname"}, "undecoded row without bytes"),
        (lambda dataset: {"bytes": None, "path": "http://example.org/a.jpg"}, "undecoded row without bytes"),
        (lambda dataset: {"path": "a.jpg"}, "is a dict with the keys 'path'"),
        (lambda dataset: set(["a.jpg"]), r"images\[0\] is a set"),
        (lambda dataset: iter([]), "`images` is empty"),
        (lambda dataset: np.zeros((3, 30, 40), dtype=np.uint8), r"expected \(height, width\[, channels\]\)"),
        (lambda dataset: torch.zeros(30, 40, 3, dtype=torch.uint8), r"expected \(\[channels, \]height, width\)"),
        (lambda dataset: np.full((3, 4, 3), 200.0), "values outside 0 to 1"),
    ],
)
def test_what_is_not_a_picture_is_refused(pipe, dataset, images, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pipe.processor(images=images(dataset), text="a dog")
