# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc ground`: JSON and pictures of a photograph of one's own, and one clear line for bad input."""

import csv
import io
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from testing_utils import build_photo, check_refusal
from transformers.image_utils import load_image

from albef_amc import AlbefForImageTextMatching
from albef_amc.cli.main import main
from albef_amc.evaluation.phrase_coverage import find_unknown_words
from albef_amc.image_processing_albef import load_image as load_image_file
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer.training_recipes import build_vocabulary

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


@pytest.mark.slow
def test_switches_change_little_and_leave_the_process_as_it_was(checkpoint, photo, tmp_path, capsys):
    words = [photo, *name_phrases(*PHRASES)]
    (exact,) = ground(capsys, checkpoint, tmp_path / "exact", *words)["photographs"]
    switches = ["--precision", "bfloat16", "--matmul-precision", "medium"]
    (rounded,) = ground(capsys, checkpoint, tmp_path / "rounded", *words, *switches)["photographs"]
    pairs = [(one["score"], other["score"]) for one, other in zip(exact["phrases"], rounded["phrases"], strict=True)]
    assert all(one == pytest.approx(other, abs=0.05) and one != other for one, other in pairs)
    assert torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("packed_bfloat16")
@pytest.mark.slow
def test_packed_and_quantised_layers(checkpoint, photo, tmp_path, capsys):
    words = [photo, *name_phrases(*PHRASES)]
    (exact,) = ground(capsys, checkpoint, tmp_path / "exact", *words)["photographs"]
    (packed,) = ground(capsys, checkpoint, tmp_path / "packed", *words, "--pack-weights")["photographs"]
    switches = ["--precision", "int8", "--pack-weights"]
    (rounded,) = ground(capsys, checkpoint, tmp_path / "rounded", *words, *switches)["photographs"]
    for one, same, other in zip(exact["phrases"], packed["phrases"], rounded["phrases"], strict=True):
        assert same["score"] == pytest.approx(one["score"], abs=1e-5) and same["point"] == one["point"]
        assert other["score"] == pytest.approx(one["score"], abs=0.05) and other["score"] != one["score"]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_photographs_are_grounded_together(
    batch_size, checkpoint, tiny_model, tiny_processor, tmp_path, capsys, monkeypatch
):
    files = [tmp_path / f"{index}.png" for index in range(5)]
    for index, file in enumerate(files):
        build_photo(40 + 10 * index, 60, seed=index).save(file)
    make_bad_photo("empty.jpg", tmp_path)
    given = [*files[:2], tmp_path / "empty.jpg", *files[2:]]
    calls, grounded_at_once = [], AlbefForImageTextMatching.ground

    def record(model, pixel_values, **inputs):
        calls.append(len(pixel_values))
        return grounded_at_once(model, pixel_values, **inputs)

    monkeypatch.setattr(AlbefForImageTextMatching, "ground", record)
    words = ["ground", *map(str, given), *name_phrases(*PHRASES), "--batch-size", str(batch_size), "--json"]
    words += ["--checkpoint", str(checkpoint), "--output-dir", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 2  # the empty file alone is skipped
    result = json.loads(capsys.readouterr().out)
    assert calls == {1: [1] * 5, 2: [2, 2, 1], 4: [4, 1]}[batch_size]
    assert [entry["photograph"] for entry in result["photographs"]] == [str(file) for file in files]
    assert [entry["photograph"] for entry in result["skipped"]] == [str(tmp_path / "empty.jpg")]
    for file, entry in zip(files, result["photographs"], strict=True):
        inputs = tiny_processor(images=[Image.open(file)], text=[list(PHRASES)])
        expected = tiny_processor.post_process_grounding(tiny_model.ground(**inputs))[0]
        assert [found["phrase"] for found in entry["phrases"]] == list(PHRASES)
        for found, one in zip(entry["phrases"], expected, strict=True):
            assert found["point"] == one["point"].tolist()
            assert found["score"] == pytest.approx(one["score"], abs=1e-6)


def test_photographs_leave_the_memory_when_they_are_written(checkpoint, tmp_path, capsys, monkeypatch):
    files = [tmp_path / f"{index}.png" for index in range(12)]
    for index, file in enumerate(files):
        build_photo(seed=index).save(file)
    images, most, read = [], [], load_image_file

    def count(path):
        image = read(path)
        images.append(weakref.ref(image))
        most.append(sum(one() is not None for one in images))
        return image

    monkeypatch.setattr("albef_amc.cli.photographs.load_image", count)
    ground(capsys, checkpoint, tmp_path / "out", *files, *name_phrases("a dog"), "--batch-size", 4)
    assert 4 <= max(most) <= 6  # four, the first photograph, and the last that was written


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


def test_unknown_words_are_reported(checkpoint, photo, tmp_path, capsys):
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


@pytest.mark.parametrize("name", ["missing.jpg", "folder.jpg"])
def test_a_word_that_names_no_file_is_refused_before_any_work(name, checkpoint, photo, tmp_path, capsys):
    bad = make_bad_photo(name, tmp_path)
    words = ["ground", str(photo), str(bad), "--phrase", "a dog", "--checkpoint", str(checkpoint)]
    check_refusal([*words, "--output-dir", str(tmp_path / "out")], name, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["photos", "photos/*.jpg", "**/*.jpg"])
def test_folders_and_patterns(form, checkpoint, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for index in (1, 0):
        build_photo(seed=index).save(tmp_path / "photos" / f"{index}.jpg")
    (tmp_path / "photos" / ".hidden.jpg").touch()
    (tmp_path / "photos" / "notes.txt").touch()
    words = [tmp_path / form, tmp_path / "photos" / "0.jpg", *name_phrases("a dog")]
    for _ in range(2):  # pictures of the first run lie among the photographs in the second
        result = ground(capsys, checkpoint, tmp_path / "photos", *words)
        names = [entry["photograph"] for entry in result["photographs"]]
        assert names == [str(tmp_path / "photos" / name) for name in ("0.jpg", "1.jpg")]
    assert main(["ground", *map(str, words), "--checkpoint", str(checkpoint), "-o", str(tmp_path / "photos")]) == 0
    streams = capsys.readouterr()
    assert "1 photographs were given more than once" in streams.err
    assert ("4 pictures that albef-amc drew are no photographs" in streams.err) == (form == "photos")
    assert "2/2" in streams.err  # photographs, on the progress bar


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("photos", "is a folder without pictures"),
        ("*.jpg", "*.jpg matches no picture"),
        ("no.jpg", "No image file at"),
    ],
)
def test_nothing_to_ground_is_one_line(form, message, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").touch()
    check_refusal(["ground", str(tmp_path / form), "--phrase", "a dog", "--checkpoint", "missing"], message, capsys)


def test_phrases_of_a_file(checkpoint, photo, tmp_path, capsys):
    (tmp_path / "phrases.txt").write_text("a cup\n\n  the red car\na dog\n", encoding="utf-8-sig")
    words = ["--phrases-file", tmp_path / "phrases.txt", "--phrase", "a dog"]
    result = ground(capsys, checkpoint, tmp_path / "out", photo, *words)
    phrases = [found["phrase"] for found in result["photographs"][0]["phrases"]]
    assert phrases == ["a dog", "a cup", "the red car"]
    words = ["ground", str(photo), "--checkpoint", "missing"]
    check_refusal(words, "no phrase: give `--phrase`, or a `--phrases-file`", capsys)
    (tmp_path / "phrases.txt").write_text("a cup\n ?!\n")
    words += ["--phrases-file", str(tmp_path / "phrases.txt")]
    check_refusal(words, f"line 2 of {tmp_path / 'phrases.txt'} ", capsys)
    (tmp_path / "phrases.txt").write_bytes(b"a cup\xff")
    check_refusal(words, "phrases.txt", capsys)


def test_heatmaps_and_a_table(checkpoint, photo, tiny_model, tiny_processor, tmp_path, capsys):
    words = [photo, *name_phrases(*PHRASES)]
    result = ground(capsys, checkpoint, tmp_path / "out", *words, "--heatmaps", "--csv")
    inputs = tiny_processor(images=[Image.open(photo)], text=[list(PHRASES)])
    expected = tiny_processor.post_process_grounding(tiny_model.ground(**inputs))[0]
    found = result["photographs"][0]["phrases"]
    for one, other in zip(found, expected, strict=True):
        heatmap = np.load(one["heatmap"])
        assert heatmap.dtype == np.float32 and heatmap.shape == (60, 90)
        np.testing.assert_allclose(heatmap, other["heatmap"].numpy(), atol=1e-6)
    rows = list(csv.DictReader(Path(result["csv"]).read_text().splitlines()))
    for row, one in zip(rows, found, strict=True):
        assert [float(row[name]) for name in ("x_min", "y_min", "x_max", "y_max")] == one["box"]
        assert [float(row["x"]), float(row["y"])] == one["point"]
        assert (row["photograph"], row["phrase"]) == (str(photo), one["phrase"])
        assert float(row["score"]) == one["score"]
    ground(capsys, checkpoint, tmp_path / "out", *words, "--heatmaps", "--csv")  # replaces its own files
    ground(capsys, checkpoint, tmp_path / "out", *words)
    assert not [*(tmp_path / "out").glob("*.npy"), *(tmp_path / "out").glob("*.csv")]


@pytest.mark.parametrize("name", ["cut.jpg", "empty.jpg", "text.jpg"])
def test_a_photograph_that_cannot_be_read_is_skipped_and_named(name, checkpoint, photo, tmp_path, capsys):
    bad = make_bad_photo(name, tmp_path)
    build_photo(seed=1).save(tmp_path / "last.png")
    words = ["ground", str(photo), str(bad), str(tmp_path / "last.png"), "--phrase", "a dog", "--json"]
    assert main([*words, "--checkpoint", str(checkpoint), "--output-dir", str(tmp_path / "out")]) == 2
    streams = capsys.readouterr()
    assert "albef-amc: error: 1 of 3 photographs cannot be read: " in streams.err.splitlines()[-1]
    assert str(bad) in streams.err.splitlines()[-1] and "Traceback" not in streams.err
    result = json.loads(streams.out)
    assert [Path(entry["photograph"]).name for entry in result["photographs"]] == ["photo.jpg", "last.png"]
    assert [entry["photograph"] for entry in result["skipped"]] == [str(bad)] and result["skipped"][0]["reason"]
    assert json.loads((tmp_path / "out" / "grounding.json").read_text()) == result["photographs"]


def test_photographs_none_of_which_can_be_read_need_no_model(tmp_path, capsys):
    bad = [make_bad_photo(name, tmp_path) for name in ("cut.jpg", "empty.jpg")]
    words = ["ground", *map(str, bad), "--phrase", "a dog", "--checkpoint", "missing"]
    check_refusal([*words, "--output-dir", str(tmp_path / "out")], "2 of 2 photographs cannot be read", capsys)
    assert not (tmp_path / "out").exists()


def test_what_is_given_twice_is_grounded_once(checkpoint, photo, tmp_path, capsys):
    (tmp_path / "link.jpg").symlink_to(photo)
    result = ground(
        capsys, checkpoint, tmp_path / "out", photo, photo, tmp_path / "link.jpg", *name_phrases("a dog", "a dog")
    )
    (entry,) = result["photographs"]
    assert entry["photograph"] == str(photo) and len(entry["phrases"]) == 1


def test_a_name_with_bytes_that_are_not_text(checkpoint, tmp_path, capfd, monkeypatch):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    build_photo().save(odd)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", errors="strict"))
    result = ground(capfd, checkpoint, tmp_path / "out", odd, *name_phrases("a dog"))
    assert result["photographs"][0]["photograph"] == odd
    assert json.loads((tmp_path / "out" / "grounding.json").read_text()) == result["photographs"]


# The output folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("name", ["photo_1.png", "photo_sheet.png", "grounding.json", "photo_1.npy", "grounding.csv"])
@pytest.mark.parametrize("is_given", [False, True])
def test_a_file_that_no_run_wrote_is_never_replaced(name, is_given, checkpoint, photo, capsys):
    own = photo.with_name(name)
    if name.endswith(".png"):
        build_photo(seed=3).save(own)
    else:
        own.write_text('{"mine": 1}')
    before = read_files(photo.parent)
    given = [str(photo), *([str(own)] if is_given else [])]
    words = ["ground", *given, "--phrase", "a dog", "--checkpoint", str(checkpoint), "-o", str(photo.parent)]
    words += ["--heatmaps", "--csv"]
    check_refusal(words, f"{own} would be overwritten", capsys)
    assert read_files(photo.parent) == before


@pytest.mark.parametrize("content", ["[1]", "[{}]", "null", "{", "[" * 100_000, b"\xff\xfe", '[{"sheet": 1}]'])
def test_a_foreign_json_file_is_kept(content, checkpoint, photo, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "grounding.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ["ground", str(photo), "--phrase", "a dog", "--checkpoint", str(checkpoint), "-o", str(tmp_path / "out")]
    check_refusal(words, "grounding.json would be overwritten", capsys)


def test_the_folder_of_the_photographs_keeps_all_of_its_files(checkpoint, photo, capsys):
    build_photo(seed=2).save(photo.with_name("photo.png"))
    build_photo(seed=3).save(photo.with_name("Photo-2.png"))
    before = read_files(photo.parent)
    files = [photo, photo.with_name("photo.png"), photo.with_name("Photo-2.png")]
    for _ in range(2):  # the second run replaces what the first wrote
        result = ground(capsys, checkpoint, photo.parent, *files, *name_phrases("a dog"))
        after = read_files(photo.parent)
        assert {name: after[name] for name in before} == before
        assert len(after) == len(before) + 3 * 2 + 1
        assert len({entry["sheet"].casefold() for entry in result["photographs"]}) == 3


def test_pictures_of_the_run_before_do_not_stay_among_the_new_ones(checkpoint, photo, tmp_path, capsys):
    build_photo(seed=1).save(tmp_path / "other.png")
    out = tmp_path / "out"
    ground(capsys, checkpoint, out, photo, tmp_path / "other.png", *name_phrases(*PHRASES))
    (out / "notes.txt").write_text("mine")
    build_photo(seed=5).save(out / "other_2.png")  # somebody's, now
    capsys.readouterr()
    words = ["ground", str(photo), "--phrase", "a cup", "--checkpoint", str(checkpoint), "-o", str(out)]
    assert main(words) == 0
    assert f"removed from {out}: 3 pictures of the run before" in capsys.readouterr().err
    assert sorted(read_files(out)) == ["grounding.json", "notes.txt", "other_2.png", "photo_1.png", "photo_sheet.png"]


def test_a_list_of_a_run_cannot_name_files_elsewhere(checkpoint, photo, tmp_path, capsys):
    ground(capsys, checkpoint, tmp_path / "first", photo, *name_phrases("a dog"))
    victim = tmp_path / "first" / "photo_1.png"
    (tmp_path / "out").mkdir()
    entry = {"sheet": str(victim), "phrases": [{"overlay": "../first/photo_sheet.png"}]}
    (tmp_path / "out" / "grounding.json").write_text(json.dumps([entry]))
    ground(capsys, checkpoint, tmp_path / "out", photo, *name_phrases("a dog"))
    assert victim.is_file() and (tmp_path / "first" / "photo_sheet.png").is_file()


@pytest.mark.slow
def test_an_overlay_as_a_photograph_is_kept(checkpoint, photo, tmp_path, capsys):
    out = tmp_path / "out"
    ground(capsys, checkpoint, out, photo, *name_phrases("a dog"))
    ground(capsys, checkpoint, out, out / "photo_1.png", *name_phrases("a dog"))
    assert (out / "photo_1.png").is_file() and not (out / "photo_sheet.png").exists()


def test_a_name_as_long_as_the_file_system_allows(checkpoint, photo, tmp_path, capsys):
    long = tmp_path / f"{'é' * 125}.jpg"
    build_photo().save(long)
    result = ground(capsys, checkpoint, tmp_path / "out", long, *name_phrases("a dog"))
    assert Path(result["photographs"][0]["sheet"]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--checkpoint": "no_such_folder"}, "no_such_folder"),
        ({"--phrase": ""}, "no words"),
        ({"--phrase": " .,! "}, "no words"),
        ({"--phrase": "dog " * 30}, "tokens"),
        ({"--box-threshold": "0"}, "--box-threshold"),
        ({"--box-threshold": "2"}, "--box-threshold"),
        ({"--image-size": "33"}, "image_size"),
        ({"--device": "no_such_device"}, "`--device no_such_device`"),
        ({"--device": "meta"}, "`--device meta` cannot be used here"),
        ({"--batch-size": "0"}, "--batch-size"),
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
    check_refusal([*words, "--output-dir", str(tmp_path / "out")], "hold NaN or infinity in 1 entries", capsys)
    assert not (tmp_path / "out").exists()


def test_words_that_are_only_spelled_count_as_unknown():
    tokenizer = build_tokenizer(build_vocabulary(["the red dog", "a cup"]))
    assert find_unknown_words("The red god, a cup", tokenizer) == ["god"]
    assert find_unknown_words("the red zebra", tokenizer) == ["zebra"]
