# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The converter on the small pre-training checkpoint: every value, the command, and bad files.

The other kinds, and the names and shapes of the published checkpoints, are in `test_convert_kinds`.
"""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_originals import HEADS, TINY, VOCABULARY, assert_nothing_written, convert, save

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.cli.main import main
from albef_amc.conversion.convert_albef_original_to_hf import IncompleteCheckpointError
from albef_amc.conversion.original_checkpoints import infer_config, rename_original_key
from albef_amc.conversion.weight_files import load_original_state_dict
from albef_amc.processing_albef import AlbefProcessor

CLASSES = {False: AlbefForImageTextMatching, True: AlbefForPreTraining}


@pytest.fixture
def tiny_state():
    return {name: tensor.clone() for name, tensor in load_original_state_dict(TINY).items()}


# The small reference model


@pytest.mark.slow
@pytest.mark.parametrize("keep_momentum", [False, True])
def test_every_value_arrives(tmp_path, keep_momentum, tiny_state):
    report = convert(TINY, tmp_path / "out", keep_momentum=keep_momentum)
    model, info = CLASSES[keep_momentum].from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert report.model_class == CLASSES[keep_momentum].__name__
    weights = model.state_dict()
    left_out = {name for names in report.ignored.values() for name in names}
    for name, tensor in tiny_state.items():
        if name not in left_out:
            arrived = weights[rename_original_key(name)]
            assert torch.equal(arrived, tensor.reshape(arrived.shape)), name
    assert report.num_converted + len(left_out) == len(tiny_state)
    assert not report.missing and not report.unexpected and not report.resized
    if keep_momentum:
        assert (weights["image_queue_ids"] == -1).all() and (weights["text_queue_ids"] == -1).all()
        assert left_out == {name for name in tiny_state if name.endswith("position_ids")}


def test_converted_model_matches_the_reference(tmp_path):
    convert(TINY, tmp_path / "out", overrides={**HEADS, "explanation_layer": 4, "explanation_block": 1})
    model = AlbefForImageTextMatching.from_pretrained(tmp_path / "out")
    inputs = load_file(TINY.parent / "inputs.safetensors")
    expected = load_file(TINY.parent / "outputs.safetensors")["itm_logits"]
    names = ("pixel_values", "input_ids", "attention_mask")
    actual = model.ground(**{name: inputs[name] for name in names}).itm_logits
    stated = json.loads((TINY.parent / "conditioning.json").read_text())["itm_logits"]
    tolerance = max(50 * stated["max_abs_diff_vs_float64"], 1e-6 * stated["max_abs_value"])
    assert (actual.double() - expected.double()).abs().max() <= tolerance


@pytest.mark.slow
def test_dimensions_processor_and_guesses(tmp_path):
    report = convert(TINY, tmp_path / "out")
    processor = AlbefProcessor.from_pretrained(tmp_path / "out")
    model = AlbefForImageTextMatching.from_pretrained(tmp_path / "out")
    assert processor.image_processor.size == {"height": 64, "width": 64}
    assert processor.tokenizer("token7 token9")["input_ids"] == [101, 7, 9]
    text = model.config.text_config
    assert (text.pad_token_id, text.cls_token_id, text.mask_token_id, text.fusion_layer) == (0, 101, 103, 3)
    assert (model.config.explanation_layer, model.config.explanation_block) == (4, 1)
    assert sum("IS A GUESS" in note for note in report.notes) == 2
    given = convert(TINY, tmp_path / "given", overrides={**HEADS, "explanation_layer": 5, "explanation_block": 2})
    assert not given.notes and given.dimensions["explanation_layer"] == 5


def test_one_pointer_of_albef_serves_both_queues(tmp_path, tiny_state):
    tiny_state["queue_ptr"] = tiny_state.pop("queue_ptr_img")
    del tiny_state["queue_ptr_txt"]
    path = save(tiny_state, tmp_path / "albef.pth")
    assert convert(path, tmp_path / "out", keep_momentum=True).kind == "ALBEF pre-training"
    model = AlbefForPreTraining.from_pretrained(tmp_path / "out")
    assert model.image_queue_pointer == model.text_queue_pointer == tiny_state["queue_ptr"]


def test_bare_state_dict_and_old_format(tmp_path, tiny_state):
    torch.save(tiny_state, tmp_path / "bare.pth", _use_new_zipfile_serialization=False)
    report = convert(tmp_path / "bare.pth", tmp_path / "out")
    assert report.num_converted == convert(TINY, tmp_path / "again").num_converted


@pytest.mark.slow
@pytest.mark.parametrize("keep_momentum", [False, True])
def test_image_size_resizes_the_position_embeddings(tmp_path, keep_momentum, tiny_state):
    report = convert(TINY, tmp_path / "out", image_size=96, keep_momentum=keep_momentum)
    assert len(report.resized) == 1 + keep_momentum
    assert report.resized["albef.vision_model.position_embeddings"] == "(1, 17, 48) to (1, 37, 48)"
    model = CLASSES[keep_momentum].from_pretrained(tmp_path / "out")
    assert model.config.vision_config.image_size == 96
    original = tiny_state["visual_encoder.pos_embed"]
    grid = original[:, 1:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False)
    actual = model.albef.vision_model.position_embeddings
    assert torch.equal(actual[:, :1], original[:, :1])
    torch.testing.assert_close(actual[:, 1:].reshape(1, 6, 6, 48).permute(0, 3, 1, 2), expected)
    assert AlbefProcessor.from_pretrained(tmp_path / "out").image_processor.size == {"height": 96, "width": 96}


def test_same_image_size_changes_nothing(tmp_path):
    assert not convert(TINY, tmp_path / "out", image_size=64).resized


def test_dtype(tmp_path, tiny_state):
    report = convert(TINY, tmp_path / "out", dtype=torch.bfloat16)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert report.dtype == "bfloat16" and {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert any("stored as float32 and written as bfloat16" in note for note in report.notes)
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tiny_state.items()}
    convert(save(half, tmp_path / "half.pth"), tmp_path / "widened")
    assert load_file(tmp_path / "widened" / "model.safetensors")["itm_head.weight"].dtype == torch.float32
    with pytest.raises(ValueError, match="stay float32"):
        convert(TINY, tmp_path / "no", dtype=torch.bfloat16, keep_momentum=True)


def test_unexpected_entries_are_named(tmp_path, tiny_state):
    tiny_state["visual_encoder.extra.weight"] = torch.ones(2)
    tiny_state["mystery"] = torch.ones(2)
    report = convert(save(tiny_state, tmp_path / "more.pth"), tmp_path / "out")
    assert sorted(report.unexpected) == ["albef.vision_model.extra.weight", "mystery"]
    assert "UNEXPECTED  mystery: has no place in our models, skipped" in report.describe()


# What is refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "keep_momentum"),
    [
        ("text_encoder.bert.encoder.layer.4.crossattention.self.key.weight", False),
        ("itm_head.bias", False),
        ("temp", False),
        ("visual_encoder_m.blocks.1.norm1.bias", True),
        ("text_queue", True),
    ],
)
def test_missing_entries_are_refused_by_name(tmp_path, tiny_state, name, keep_momentum):
    del tiny_state[name]
    path = save(tiny_state, tmp_path / "less.pth")
    with pytest.raises(IncompleteCheckpointError, match="lacks 1 entries") as raised:
        convert(path, tmp_path / "out", keep_momentum=keep_momentum)
    assert raised.value.report.missing == [rename_original_key(name)]
    assert rename_original_key(name) in str(raised.value)
    assert_nothing_written(tmp_path)


def test_missing_momentum_does_not_matter_without_it(tmp_path, tiny_state):
    online = {name: value for name, value in tiny_state.items() if "_m." not in name and "queue" not in name}
    report = convert(save(online, tmp_path / "online.pth"), tmp_path / "out")
    assert not report.missing and report.kind == "ALBEF pre-training"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, tiny_state, value):
    tiny_state["itm_head.weight"][1, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity in 1 entries: `itm_head.weight`"):
        convert(save(tiny_state, tmp_path / "broken.pth"), tmp_path / "out")
    assert_nothing_written(tmp_path)


def test_shapes_that_do_not_fit(tmp_path, tiny_state):
    tiny_state["itm_head.weight"] = torch.zeros(2, 40)
    with pytest.raises(ValueError, match=r"itm_head.weight \(2, 40\) instead of \(2, 48\)"):
        convert(save(tiny_state, tmp_path / "other.pth"), tmp_path / "out")
    tiny_state["visual_encoder.pos_embed"] = torch.zeros(1, 16, 48)
    with pytest.raises(ValueError, match="not those of a class token and a square grid"):
        infer_config(tiny_state, HEADS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("text_encoder.cls.predictions.decoder.bias", "shares its values"),
        ("text_encoder.cls.predictions.decoder.weight", "to which ALBEF ties it"),
    ],
)
def test_entries_that_should_be_one(tmp_path, tiny_state, change, words):
    tiny_state[change] += 1
    with pytest.raises(ValueError, match=words):
        convert(save(tiny_state, tmp_path / "untied.pth"), tmp_path / "out", keep_momentum=True)


class Payload:
    """Something whose unpickling runs code: here it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.pth"
    content = TINY.read_bytes()
    if kind == "code":
        torch.save({"model": {}, "extra": Payload(folder / "was_run")}, path)
    elif kind == "another":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "optimizer":
        torch.save({"optimizer": {}, "epoch": 3}, path)
    else:
        path.write_bytes({"zero": b"", "text": b"<html>Not found</html>", "cut": content[: len(content) // 2]}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zero", "is empty"),
        ("text", "not a checkpoint that torch can read"),
        ("cut", "not a checkpoint that torch can read, or was cut off"),
        ("code", "holds pickled objects that could run code"),
        ("another", "belongs to another architecture.*`weight`"),
        ("list", "holds no state dict"),
        ("optimizer", "holds no state dict.*it holds optimizer, epoch"),
    ],
)
def test_bad_files_get_one_line(tmp_path, kind, words):
    path = bad_file(tmp_path, kind)
    with pytest.raises(ValueError, match=words) as raised:
        convert(path, tmp_path / "out")
    assert "\n" not in str(raised.value) and path.name in str(raised.value)
    assert not (tmp_path / "was_run").exists()
    assert_nothing_written(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*missing\.pth"):
        convert(tmp_path / "missing.pth", tmp_path / "out")
    with pytest.raises(ValueError, match="is not a file"):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, "`vision_config.num_attention_heads` leaves no trace"),
        ({**HEADS, "vision_config.heads": 4}, "unknown value `vision_config.heads`"),
        ({**HEADS, "vision_config.hidden_size": 64}, "is 48 according to the shapes of the checkpoint"),
        ({**HEADS, "vision_config.image_size": 96}, "--image-size"),
        ({**HEADS, "explanation_layer": 1}, "must be a fusion layer"),
        ({**HEADS, "explanation_layer": "four"}, "explanation_layer"),
    ],
)
def test_overrides_that_cannot_be(tiny_state, overrides, words):
    with pytest.raises(Exception, match=words):
        infer_config(tiny_state, overrides)


def test_vocabulary_of_another_size(tmp_path):
    with pytest.raises(ValueError, match="`vocab` has 119 tokens but the checkpoint 120"):
        convert(TINY, tmp_path / "out", vocab=VOCABULARY[:-1])


def test_existing_folders(tmp_path):
    output = tmp_path / "out"
    convert(TINY, output)
    (output / "old").touch()
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert(TINY, output)
    convert(TINY, output, overwrite=True)
    assert not (output / "old").exists() and (output / "model.safetensors").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not a checkpoint folder"):
        convert(TINY, precious, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "precious"]


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    import safetensors
    from transformers import modeling_utils

    convert(TINY, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(tensors, filename, *args, **kwargs):
        Path(filename).write_bytes(b"half")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(modeling_utils, "safe_save_file", fail)
    with pytest.raises(OSError, match="no partial files remain"):
        convert(TINY, tmp_path / "out", overwrite=True)
    with pytest.raises(OSError, match="No space left on device"):
        convert(TINY, tmp_path / "new")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# The command


@pytest.fixture
def vocabulary_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return str(path)


def command(output, vocabulary_file, *options, source=TINY) -> list[str]:
    settings = [word for name, value in HEADS.items() for word in ("--set", f"{name}={value}")]
    return ["convert", str(source), "--output-dir", str(output), "--vocab", vocabulary_file, *settings, *options]


def test_command(tmp_path, vocabulary_file, capsys):
    assert main(command(tmp_path / "out", vocabulary_file, "--image-size", "96")) == 0
    printed = capsys.readouterr()
    assert "AMC pre-training" in printed.out and "vision_config.image_size" in printed.out
    assert "RESIZED     albef.vision_model.position_embeddings: (1, 17, 48) to (1, 37, 48)" in printed.err
    assert "IS A GUESS" in printed.err
    assert (tmp_path / "out" / "config.json").is_file()


def test_command_json(tmp_path, vocabulary_file, capsys):
    assert main(command(tmp_path / "out", vocabulary_file, "--keep-momentum", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model_class"] == "AlbefForPreTraining" and result["missing"] == []
    assert result["dimensions"]["queue_size"] == 64


def test_command_says_what_is_missing(tmp_path, vocabulary_file, tiny_state, capsys):
    lost = [name for name in tiny_state if name.startswith("text_encoder.bert.encoder.layer.4.")]
    path = save({name: value for name, value in tiny_state.items() if name not in lost}, tmp_path / "less.pth")
    assert main(command(tmp_path / "out", vocabulary_file, source=path)) == 2
    printed = capsys.readouterr().err
    assert all(f"MISSING     {rename_original_key(name)}\n" in printed for name in lost)
    assert printed.splitlines()[-1].startswith("albef-amc: error:")
    assert not (tmp_path / "out").exists()


def test_command_takes_the_folder_as_a_word_too(tmp_path, vocabulary_file, capsys):
    words = command(tmp_path / "out", vocabulary_file)
    words.remove("--output-dir")
    assert main(words) == 0 and (tmp_path / "out" / "config.json").is_file()
    assert f"its name is `--output-dir {tmp_path / 'out'}` now" in capsys.readouterr().err
    assert main([*words, "--output-dir", str(tmp_path / "other")]) == 2
    assert "give the folder to write once" in capsys.readouterr().err
    words.remove(str(tmp_path / "out"))
    assert main(words) == 2 and "give the folder to write once" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("options", [("--dtype", "int8"), ("--set", "queue_size"), ("--set", "nothing=1")])
def test_command_with_bad_options(tmp_path, vocabulary_file, options, capsys):
    assert main(command(tmp_path / "out", vocabulary_file, *options)) == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if "error:" in line]) == 1


def test_nothing_is_logged_for_a_clean_conversion(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        convert(TINY, tmp_path / "out")
    assert not caplog.records
