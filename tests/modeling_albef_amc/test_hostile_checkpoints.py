# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints from strangers: files without settings, sizes without bound, processors that were changed."""

import json
import logging
import shutil
import socket
import struct

import pytest
import torch
from hub_server import OWNER
from safetensors.torch import load_file, save_file
from testing_utils import build_photo, build_tiny_config, build_tiny_processor, check_refusal, limit_work

from albef_amc import AlbefForImageTextMatching, AlbefProcessor, VisualGroundingPipeline
from albef_amc.evaluation.checkpoints import load_model_and_processor

CONFIG, PROCESSOR, TOKENIZER = "config.json", "processor_config.json", "tokenizer.json"
TOKENIZER_SETTINGS, WEIGHTS = "tokenizer_config.json", "model.safetensors"
MODEL_FILES = (CONFIG, "generation_config.json")
PROCESSOR_FILES = (PROCESSOR, TOKENIZER, TOKENIZER_SETTINGS, "special_tokens_map.json", "added_tokens.json")
NO_SETTINGS = {
    "list": ("[1, 2]", "must hold an object of settings, got list"),
    "null": ("null", "must hold an object of settings, got NoneType"),
    "number": ("5", "must hold an object of settings, got int"),
    "text": ('"x"', "must hold an object of settings, got str"),
    "deep list": ("[" * 100_000 + "]" * 100_000, "is nested too deeply"),
    "deep object": ('{"a":' * 50_000 + "1" + "}" * 50_000, "is nested too deeply"),
    "digits": ('{"hidden_size": ' + "9" * 5000 + "}", "is not valid JSON"),
    "bytes": (b"\xff\xfe\x00\x01".decode("latin-1"), "is not valid JSON"),
    "cut off": ('{"model_type": "alb', "is not valid JSON"),
    "empty": ("", "is not valid JSON"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint that is copied for every test, and never changed."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    torch.manual_seed(0)
    AlbefForImageTextMatching(build_tiny_config()).save_pretrained(folder)
    build_tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


@pytest.fixture
def said(caplog):
    """The warnings of the bundle, whose loggers do not pass messages on."""
    logger = logging.getLogger("albef_amc")
    logger.addHandler(caplog.handler)
    yield lambda: " ".join(record.getMessage() for record in caplog.records)
    logger.removeHandler(caplog.handler)


def change(file, path: str, value) -> None:
    """Sets the entry of a JSON file that a dotted path names."""
    content = json.loads(file.read_text())
    *owners, name = path.split(".")
    place = content
    for owner in owners:
        place = place[owner]
    place[name] = value
    file.write_text(json.dumps(content))


def check_refused(checkpoint, words: str) -> None:
    """Model and processor are refused with little work, and with words that name what is wrong."""
    with limit_work(), pytest.raises((ValueError, TypeError, OSError), match=words):
        load_model_and_processor(AlbefForImageTextMatching, checkpoint)


# Files of settings


@pytest.mark.parametrize("kind", NO_SETTINGS)
@pytest.mark.parametrize("name", [*MODEL_FILES, *PROCESSOR_FILES])
def test_a_file_that_without_settings_is_named(checkpoint, name, kind):
    content, words = NO_SETTINGS[kind]
    (checkpoint / name).write_text(content, encoding="latin-1")
    loader = AlbefForImageTextMatching if name in MODEL_FILES else AlbefProcessor
    with pytest.raises(ValueError, match=f"{name} {words}"):
        loader.from_pretrained(checkpoint)


def test_settings_larger_than_any(checkpoint):
    (checkpoint / CONFIG).write_text(" " * (2**22 + 1))
    check_refused(checkpoint, "config.json has 4194305 bytes, more than the 4194304 that settings may take")


def test_one_line_from_the_command(checkpoint, tmp_path, capsys):
    build_photo().save(tmp_path / "photo.png")
    (checkpoint / PROCESSOR).write_text("null")
    words = ["ground", str(tmp_path / "photo.png"), "-p", "a dog", "-c", str(checkpoint), "-o", str(tmp_path / "out")]
    check_refusal(words, "processor_config.json must hold an object of settings, got NoneType", capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "values"),
    [
        *((f"vision_config.{name}", (10**9, 10**12, 10**400, -1, 0, 2**16 + 4)) for name in ("hidden_size",)),
        ("vision_config.intermediate_size", (10**12, -1)),
        ("vision_config.num_hidden_layers", (10**9, 10**400, 1000, 0)),
        ("vision_config.image_size", (10**7, [10**7, 10**7], 10**12, 2**14, [2**14, 2**14])),
        ("vision_config.num_channels", (10**7, -8)),
        ("text_config.hidden_size", (10**12, 0, 2**16)),
        ("text_config.num_hidden_layers", (10**9, 10**12, 1000)),
        ("text_config.vocab_size", (10**12, -1, 2**22, 25)),
        ("text_config.max_position_embeddings", (10**9, 2**17, 25)),
        ("text_config.type_vocab_size", (10**9, 3)),
        ("text_config.pad_token_id", (10**9, 10**400)),
        ("projection_dim", (10**12, -1, 17)),
        ("num_labels", (10**10, 10**400, -1, 0)),
        ("id2label", (5, [1])),
        ("architectures", (5, {"a": 1}, [5])),
        ("dtype", ("int8", "float8_e4m3fn", "nonsense", 5)),
        ("quantization_config", ({"quant_method": "fp8"}, {"quant_method": "bitsandbytes"}, 5)),
    ],
)
def test_settings_without_bound_or_that_do_not_fit_the_weights(checkpoint, path, values):
    for value in values:
        change(checkpoint / CONFIG, path, value)
        check_refused(checkpoint, f"{path.rpartition('.')[2]}|quantised|Storage|patches")


def test_sizes_are_compared_with_the_weights(checkpoint):
    change(checkpoint / CONFIG, "text_config.num_hidden_layers", 900)
    words = (
        r"config.json of .* does not fit its weights: `text_config.num_hidden_layers` is 900, but the weights have 4"
    )
    check_refused(checkpoint, words)


def test_weights_of_no_model_under_a_large_configuration(checkpoint):
    save_file({"x": torch.zeros(1)}, checkpoint / WEIGHTS)
    for name in ("vision_config", "text_config"):
        change(checkpoint / CONFIG, f"{name}.num_hidden_layers", 1000)
        change(checkpoint / CONFIG, f"{name}.hidden_size", 2**14)
    check_refused(checkpoint, r"describes encoders of \d+ numbers, but the weights have 1")


# Weight files


def build_file(header, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def build_entry(shape, offsets, dtype="F32") -> dict:
    return {"albef.temperature": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04" + bytes(100),
        b"<html>Not found</html>",
        build_file({}, length=2**62),
        build_file({}, length=99_000_000),
        build_file(b"[1]"),
        build_file(b"[" * 100_000),
        build_file({"a": 5}),
        build_file(build_entry([10**6, 10**6], [0, 4 * 10**12]), bytes(4)),
        build_file(build_entry([10**6, 10**6], [0, 4]), bytes(4)),
        build_file(build_entry([-1], [0, 4]), bytes(4)),
        build_file(build_entry([1.5], [0, 4]), bytes(4)),
        build_file(build_entry([1], [4, 0]), bytes(4)),
        build_file(build_entry([1], [0, 4, 8]), bytes(8)),
        build_file({f"a{index}": 0 for index in range(100_001)}),
    ],
    ids=range(15),
)
def test_weight_files_whose_header_lies(checkpoint, content):
    (checkpoint / WEIGHTS).write_bytes(content)
    check_refused(checkpoint, "the weights of .*checkpoint cannot be read .* damaged or was cut off")


@pytest.mark.parametrize(
    "index",
    [
        {"metadata": {}},
        {"weight_map": ["a"]},
        {"weight_map": {"a": 5}},
        {"weight_map": {"a": "../../secret.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
    ],
)
def test_an_index_names_files_beside_it(checkpoint, index):
    (checkpoint / WEIGHTS).unlink()
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    check_refused(checkpoint, "index.json must map names of weights to safetensors files in its folder")


def test_weights_as_a_pickle_are_not_read(checkpoint):
    torch.save(load_file(checkpoint / WEIGHTS), checkpoint / "pytorch_model.bin")
    (checkpoint / WEIGHTS).unlink()
    check_refused(checkpoint, r"are a pickle \(pytorch_model.bin\), which this package does not read")


def cast(file, dtype: torch.dtype, part: str = "") -> None:
    weights = {name: value.to(dtype) if part in name else value for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("part", ["", "layers.3.fc1.weight"])
def test_weights_that_are_not_floats_are_named(checkpoint, dtype, part):
    cast(checkpoint / WEIGHTS, dtype, part)
    check_refused(checkpoint, r"has \d+ weights of a type that no model of this package has: .*\(")


@pytest.mark.parametrize(("dtype", "part"), [(torch.float16, ""), (torch.float64, ""), (torch.bfloat16, "fc1.weight")])
def test_weights_of_another_type_than_the_settings_say_are_reported(checkpoint, said, dtype, part):
    cast(checkpoint / WEIGHTS, dtype, part)
    AlbefForImageTextMatching.from_pretrained(checkpoint)
    assert "config.json says float32: they may be rounded" in said()


def test_a_checkpoint_of_half_precision_is_silent(checkpoint, said):
    AlbefForImageTextMatching.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(checkpoint)
    said_before = said()
    AlbefForImageTextMatching.from_pretrained(checkpoint)
    assert said() == said_before == ""


# Processors


IMAGE = "image_processor."
SEPARATED = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
REFUSED = [
    *((PROCESSOR, f"{IMAGE}{name}", value, f"`{name}` in") for name in ("do_normalize", "do_rescale", "do_resize")
      for value in (False, None, "no")),
    *((PROCESSOR, f"{IMAGE}{name}", True, f"`{name}` in") for name in ("do_center_crop", "do_pad")),
    *((PROCESSOR, f"{IMAGE}image_mean", value, "`image_mean` in .* must be 3 numbers")
      for value in ([123, 117, 104], [0.5], 0.5, None, "x", [float("nan")] * 3, [-1, 0, 0], [[1]], [])),
    *((PROCESSOR, f"{IMAGE}image_std", value, "`image_std` in .* must be 3 numbers")
      for value in ([0, 0, 0], [1e-9] * 3, [58, 57, 57], [-0.2] * 3, None)),
    *((PROCESSOR, f"{IMAGE}rescale_factor", value, "`rescale_factor`") for value in (1, 0, 1 / 127.5, -1, "x", None)),
    *((PROCESSOR, f"{IMAGE}resample", value, "resample|read") for value in (7, -1, "y", True, None)),
    *((PROCESSOR, f"{IMAGE}size", value, "size")
      for value in ({"height": 64, "width": 64}, {"shortest_edge": 32}, {"height": 0, "width": 0}, 5.5, None,
                    {"height": 10**9, "width": 10**9})),
    (PROCESSOR, f"{IMAGE}max_image_pixels", 0, "max_image_pixels"),
    (PROCESSOR, "image_processor", [1], "processor of .* cannot be read"),
    (TOKENIZER, "post_processor", None, r"must put \[CLS\] before a phrase and nothing after it"),
    (TOKENIZER, "post_processor.single", SEPARATED[::-1], r"reads \[UNK\] as \['\[UNK\]', '\[CLS\]'\]"),
    (TOKENIZER, "post_processor.single", [SEPARATED[0], *SEPARATED], r"must put \[CLS\] before"),
    (TOKENIZER, "post_processor", {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}, r"\[SEP\]'\]"),
    (TOKENIZER, "model.vocab.dog", 5, "gives the id 5 to 'a' and 'dog'"),
    (TOKENIZER, "model.vocab.dog", 999, "ids up to 999, but the model 24 word embeddings"),
    (TOKENIZER, "model.vocab.dog", -1, "processor of .* cannot be read"),
    (TOKENIZER, "model.vocab.zebra", 24, "ids up to 24"),
    (TOKENIZER, "model.vocab", {}, "cannot read a word"),
    (TOKENIZER_SETTINGS, "tokenizer_class", "BertTokenizer", r"\[SEP\]'\]"),
    (TOKENIZER_SETTINGS, "model_max_length", 512, "allows 512 tokens .* 24 text positions"),
    (TOKENIZER_SETTINGS, "model_max_length", 1, "model_max_length"),
    (TOKENIZER_SETTINGS, "padding_side", "left", "`padding_side`"),
    (TOKENIZER_SETTINGS, "cls_token", "[SEP]", "one token for several purposes"),
    (TOKENIZER_SETTINGS, "cls_token", None, "`cls_token` of the tokenizer"),
    (TOKENIZER_SETTINGS, "pad_token", "dog", "`text_config.pad_token_id` of the model is 0, but the tokenizer has 20"),
    (TOKENIZER_SETTINGS, "model_input_names", ["input_ids"], "`model_input_names`"),
    (TOKENIZER_SETTINGS, "added_tokens_decoder", 5, "processor of .* cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "value", "words"), REFUSED, ids=range(len(REFUSED)))
def test_a_processor_that_no_model_was_trained_with_is_refused(checkpoint, name, path, value, words):
    change(checkpoint / name, path, value)
    check_refused(checkpoint, words)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        (PROCESSOR, "image_processor.image_mean", [0.485, 0.456, 0.406]),
        (PROCESSOR, "image_processor.image_std", [1, 1, 1]),
        (PROCESSOR, "image_processor.resample", 2),
        (TOKENIZER, "normalizer.lowercase", False),
        (TOKENIZER, "pre_tokenizer", None),
        (TOKENIZER, "model.continuing_subword_prefix", "@@"),
        (TOKENIZER_SETTINGS, "truncation_side", "left"),
        (TOKENIZER_SETTINGS, "model_max_length", 5),
    ],
)
def test_a_change_that_may_be_meant_is_reported_until_the_processor_is_saved(checkpoint, said, name, path, value):
    change(checkpoint / name, path, value)
    processor = AlbefProcessor.from_pretrained(checkpoint)
    part = "image_processor" if name == PROCESSOR else name
    assert f"{part} of {checkpoint} was changed after the processor was saved" in said()
    processor.save_pretrained(checkpoint)
    before = said()
    AlbefProcessor.from_pretrained(checkpoint)
    assert said() == before


def test_words_that_changed_places_are_reported(checkpoint, said):
    vocabulary = json.loads((checkpoint / TOKENIZER).read_text())["model"]["vocab"]
    change(checkpoint / TOKENIZER, "model.vocab", vocabulary | {"dog": vocabulary["cup"], "cup": vocabulary["dog"]})
    AlbefProcessor.from_pretrained(checkpoint)
    assert "tokenizer.json of" in said() and "was changed after the processor was saved" in said()


def test_a_vocabulary_that_lost_words_is_reported(checkpoint, said):
    vocabulary = json.loads((checkpoint / TOKENIZER).read_text())["model"]["vocab"]
    change(checkpoint / TOKENIZER, "model.vocab", {word: id_ for word, id_ in vocabulary.items() if word != "dog"})
    AlbefProcessor.from_pretrained(checkpoint)
    assert "the tokenizer has 23 tokens, but the model 24 word embeddings" in said()


def test_means_of_another_encoder_are_kept_in_silence(checkpoint, said):
    processor = build_tiny_processor()
    processor.image_processor.image_mean, processor.image_processor.image_std = [0.485, 0.456, 0.406], [0.2, 0.2, 0.2]
    processor.save_pretrained(checkpoint)
    _, loaded = load_model_and_processor(AlbefForImageTextMatching, checkpoint)
    assert list(loaded.image_processor.image_mean) == [0.485, 0.456, 0.406] and said() == ""


def test_a_processor_of_an_earlier_version_has_no_checksums(checkpoint, said):
    content = json.loads((checkpoint / PROCESSOR).read_text())
    assert content.pop("checksums").keys() == {TOKENIZER, TOKENIZER_SETTINGS, "image_processor"}
    (checkpoint / PROCESSOR).write_text(json.dumps(content))
    AlbefProcessor.from_pretrained(checkpoint)
    assert said() == ""


def test_the_pipeline_takes_no_processor_of_another_model(tiny_model):
    processor = build_tiny_processor()
    processor.image_processor.size = {"height": 64, "width": 64}
    with pytest.raises(ValueError, match="images of 64 x 64 pixels, but the model reads 32 x 32"):
        VisualGroundingPipeline(model=tiny_model, processor=processor, device="cpu")
    processor = build_tiny_processor()
    processor.tokenizer.add_tokens(["zebra"])
    with pytest.raises(ValueError, match="ids up to 24, but the model 24 word embeddings"):
        VisualGroundingPipeline(model=tiny_model, processor=processor, device="cpu")


# Places


@pytest.mark.parametrize(
    "place", ["./nothing", "runs/nothing/", "/no/such/folder", "a/b/c", "nothing", r"C:\runs\x", ""]
)
@pytest.mark.parametrize("loader", [AlbefForImageTextMatching, AlbefProcessor])
def test_a_path_that_is_not_a_name_is_a_missing_folder(loader, place, hub):
    with pytest.raises(FileNotFoundError, match="No checkpoint folder at"):
        loader.from_pretrained(place)
    assert hub.requests == []


VERBS = {
    "ground": lambda name, folder: ["ground", str(folder / "photo.png"), "-p", "a dog", "-c", name],
    "evaluate": lambda name, folder: ["evaluate", name, "synthetic", "--split", "test"],
    "merge": lambda name, folder: ["merge", name, "-o", str(folder / "merged")],
}  # fmt: skip


@pytest.mark.parametrize("verb", ["ground", "evaluate", "merge"])
def test_a_name_that_does_not_exist_is_asked_for_once(verb, hub, tmp_path, capsys):
    build_photo().save(tmp_path / "photo.png")
    words = f"{OWNER}/nothing is neither a folder here nor a Hub repository that can be read: {hub.url} has none of"
    check_refusal(VERBS[verb](f"{OWNER}/nothing", tmp_path), words, capsys)
    assert [request for request in hub.requests if "nothing" in request] == [f"GET /api/models/{OWNER}/nothing"]


@pytest.mark.parametrize("loader", [AlbefForImageTextMatching, AlbefProcessor])
def test_a_hub_that_cannot_be_reached_is_asked_once(loader, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # refuses
    connect, calls = socket.socket.connect, []
    monkeypatch.setattr(socket.socket, "connect", lambda own, to: calls.append(to) or connect(own, to), raising=False)
    with pytest.raises(FileNotFoundError, match="neither a folder here nor .* http://127.0.0.1:9 cannot be reached"):
        loader.from_pretrained("runs/nothing")
    assert calls == [("127.0.0.1", 9)]


def test_offline_mode_is_named(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="offline mode is on .HF_HUB_OFFLINE., and the cache has no copy"):
        AlbefForImageTextMatching.from_pretrained("runs/nothing")
    assert hub.requests == []


@pytest.mark.parametrize("value", [["albef"], {"a": 1}, None, 7, True, []])
@pytest.mark.parametrize("entry", ["model_type", "vision_config.model_type", "text_config.model_type"])
def test_an_architecture_is_a_name(checkpoint, entry, value):
    change(checkpoint / CONFIG, entry, value)
    for loader in (AlbefForImageTextMatching, AlbefProcessor):
        with pytest.raises(ValueError, match=f"`{entry}` in {CONFIG} of .* must be the name of an architecture"):
            loader.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("entry", "value"),
    [("num_labels", None), ("id2label", {"a": 1}), ("vision_config", [1]), ("text_config.hidden_size", None)],
)
def test_an_entry_that_transformers_refuses_is_given_with_its_file(checkpoint, entry, value):
    change(checkpoint / CONFIG, entry, value)
    with pytest.raises((TypeError, ValueError), match=f"{CONFIG} of .* cannot be used"):
        AlbefForImageTextMatching.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", [PROCESSOR, TOKENIZER])
def test_a_missing_file_of_the_processor_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"No `{name}` in"):
        AlbefProcessor.from_pretrained(checkpoint)
