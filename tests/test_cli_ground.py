# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc ground`: JSON and pictures of a photograph of one's own, and one clear line for bad input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from testing_utils import build_photo
from transformers.image_utils import load_image

from albef_amc.cli.ground import find_unknown_words
from albef_amc.cli.main import main
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer.recipes import build_vocabulary

PHRASES = ("a dog", "the red car")


@pytest.fixture
def photo(tmp_path):
    """A photograph whose width, height and colours all differ."""
    build_photo(90, 60).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def ground(capsys, checkpoint, output_dir, *words) -> dict:
    """Runs the command and returns its JSON result."""
    capsys.readouterr()
    common = ["--checkpoint", str(checkpoint), "--output-dir", str(output_dir), "--device", "cpu", "--json"]
    status = main(["ground", *map(str, words), *common])
    streams = capsys.readouterr()
    assert status == 0, streams.err[-2000:]
    return json.loads(streams.out)


def name_phrases(*phrases) -> list[str]:
    return [word for phrase in phrases for word in ("--phrase", phrase)]


def test_json_and_overlays_agree_with_the_model(checkpoint, photo, tiny_model, tiny_processor, tmp_path, capsys):
    result = ground(capsys, checkpoint, tmp_path / "out", photo, *name_phrases(*PHRASES))
    (entry,) = result["photographs"]
    assert json.loads((tmp_path / "out" / "grounding.json").read_text()) == result["photographs"]
    assert (entry["width"], entry["height"]) == (90, 60)
    inputs = tiny_processor(images=[Image.open(photo)], text=[list(PHRASES)])
    expected = tiny_processor.post_process_grounding(tiny_model.ground(**inputs))[0]
    for phrase, found, one in zip(PHRASES, entry["phrases"], expected, strict=True):
        assert found["phrase"] == phrase
        assert found["point"] == one["point"].tolist()
        assert found["score"] == pytest.approx(one["score"], abs=1e-6)
        assert found["box"] == pytest.approx(one["box"].tolist(), abs=1e-4)
        assert len(found["boxes"]) == len(found["box_scores"]) == len(one["boxes"])
        x, y = found["point"]
        assert found["box"][0] <= x <= found["box"][2] and found["box"][1] <= y <= found["box"][3]


def test_switches_change_little_and_leave_the_process_as_it_was(checkpoint, photo, tmp_path, capsys):
    words = [photo, *name_phrases(*PHRASES)]
    (exact,) = ground(capsys, checkpoint, tmp_path / "exact", *words)["photographs"]
    switches = ["--precision", "bfloat16", "--matmul-precision", "medium"]
    (rounded,) = ground(capsys, checkpoint, tmp_path / "rounded", *words, *switches)["photographs"]
    pairs = [(one["score"], other["score"]) for one, other in zip(exact["phrases"], rounded["phrases"], strict=True)]
    assert all(one == pytest.approx(other, abs=0.05) and one != other for one, other in pairs)
    assert torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled("cpu")


def test_pictures_show_the_photograph_and_differ_by_phrase(checkpoint, photo, tmp_path, capsys):
    result = ground(capsys, checkpoint, tmp_path / "out", photo, *name_phrases(*PHRASES))
    (entry,) = result["photographs"]
    overlays = [np.asarray(load_image(found["overlay"])) for found in entry["phrases"]]
    assert overlays[0].shape[0] >= 60 and overlays[0].shape[1] >= 90
    assert (overlays[0] != overlays[1]).any()
    assert load_image(entry["sheet"]).width > 3 * 90


def test_several_photographs_of_any_kind(checkpoint, photo, tmp_path, capsys):
    turned = Image.open(photo)
    exif = turned.getexif()
    exif[274] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    build_photo(50, 40).convert("L").save(tmp_path / "gray.png")
    build_photo(50, 40).convert("CMYK").save(tmp_path / "cmyk.tiff")
    files = [tmp_path / name for name in ("turned.jpg", "gray.png", "cmyk.tiff")]
    result = ground(capsys, checkpoint, tmp_path / "out", *files, *name_phrases("a dog"))
    assert [(entry["width"], entry["height"]) for entry in result["photographs"]] == [(60, 90), (50, 40), (50, 40)]


@pytest.mark.slow
def test_photographs_of_the_same_name_do_not_overwrite_each_other(checkpoint, tmp_path, capsys):
    files = []
    for seed, folder in enumerate(("first", "second")):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "photo.png")
        build_photo(seed=seed).save(files[-1])
    result = ground(capsys, checkpoint, tmp_path / "out", *files, *name_phrases("a dog"))
    overlays = [found["overlay"] for entry in result["photographs"] for found in entry["phrases"]]
    assert len(set(overlays)) == len({entry["sheet"] for entry in result["photographs"]}) == 2


def test_another_image_size(checkpoint, photo, tmp_path, capsys):
    result = ground(capsys, checkpoint, tmp_path / "out", photo, *name_phrases("a dog"), "--image-size", 64)
    assert len(result["photographs"]) == 1


def test_unknown_words_are_said(checkpoint, photo, tmp_path, capsys):
    words = ["ground", str(photo), "--phrase", "a zebra", "--checkpoint", str(checkpoint)]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    assert '"a zebra"' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.data
def test_real_photographs(checkpoint, data_folder, tmp_path, capsys):
    files = sorted((data_folder / "coco_cc_mini" / "images").iterdir())[:3]
    result = ground(capsys, checkpoint, tmp_path / "out", *files, *name_phrases(*PHRASES))
    for entry in result["photographs"]:
        for found in entry["phrases"]:
            assert 0 <= found["score"] <= 1
            assert 0 <= found["point"][0] < entry["width"] and 0 <= found["point"][1] < entry["height"]


def make_bad_photo(name: str, folder):
    path = folder / name
    if name == "cut.jpg":
        build_photo(400, 300).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif name == "empty.jpg":
        path.touch()
    elif name == "text.jpg":
        path.write_text("not a photograph")
    elif name == "folder.jpg":
        path.mkdir()
    return path


@pytest.mark.parametrize("name", ["missing.jpg", "cut.jpg", "empty.jpg", "text.jpg", "folder.jpg"])
def test_a_bad_photograph_is_one_line_that_names_it(name, checkpoint, photo, tmp_path, capsys):
    bad = make_bad_photo(name, tmp_path)
    words = ["ground", str(photo), str(bad), "--phrase", "a dog", "--checkpoint", str(checkpoint)]
    check_refusal([*words, "--output-dir", str(tmp_path / "out")], name, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--checkpoint": "no_such_folder"}, "no_such_folder"),
        ({"--phrase": ""}, "no words"),
        ({"--phrase": " .,! "}, "no words"),
        ({"--phrase": "dog " * 30}, "pieces"),
        ({"--box-threshold": "0"}, "box_threshold"),
        ({"--box-threshold": "2"}, "--box-threshold"),
        ({"--image-size": "33"}, "image_size"),
        ({"--device": "no_such_device"}, "`--device no_such_device`"),
    ],
)
def test_bad_input_is_one_line(changes, message, checkpoint, photo, tmp_path, capsys):
    options = {"--phrase": "a dog", "--checkpoint": str(checkpoint), "--output-dir": str(tmp_path / "out"), **changes}
    check_refusal(["ground", str(photo), *(word for item in options.items() for word in item)], message, capsys)


def test_a_folder_without_a_checkpoint_is_refused(photo, tmp_path, capsys):
    words = ["ground", str(photo), "--phrase", "a dog", "--checkpoint", str(tmp_path)]
    check_refusal(words, "config.json", capsys)


def test_a_checkpoint_of_another_architecture_is_refused(checkpoint, photo, capsys):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    check_refusal(["ground", str(photo), "--phrase", "a dog", "--checkpoint", str(checkpoint)], "bert", capsys)


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoint, photo, capsys):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["itm_head.weight"]
    weights["albef.text_projection.bias"] = torch.zeros(3)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    words = ["ground", str(photo), "--phrase", "a dog", "--checkpoint", str(checkpoint)]
    check_refusal(words, "itm_head.weight, albef.text_projection.bias", capsys)


def test_weights_that_are_not_finite_give_no_heatmap(checkpoint, tiny_model, photo, tmp_path, capsys):
    with torch.no_grad():
        tiny_model.albef.text_model.word_embeddings.weight.fill_(float("nan"))
    tiny_model.save_pretrained(checkpoint)
    words = ["ground", str(photo), "--phrase", "a dog", "--checkpoint", str(checkpoint)]
    check_refusal([*words, "--output-dir", str(tmp_path / "out")], "not finite", capsys)
    assert not (tmp_path / "out").exists()


def check_refusal(words, message, capsys):
    """The command ends with 2, says `message` in its last line, and prints no result."""
    capsys.readouterr()
    assert main(words) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err
    assert streams.out == ""


def test_words_that_are_only_spelled_count_as_unknown():
    tokenizer = build_tokenizer(build_vocabulary(["the red dog", "a cup"]))
    assert find_unknown_words("The red god, a cup", tokenizer) == ["god"]
    assert find_unknown_words("the red zebra", tokenizer) == ["zebra"]
