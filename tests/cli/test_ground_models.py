# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc ground` with models of other types: the results of their grounders, side by side, and what is refused."""

import json
import re
import struct
import zlib

import numpy as np
import pytest
from grounder_cases import build_blip, build_tiny_grounder
from hub_server import Repository
from PIL import Image
from testing_utils import build_photo, check_refusal
from transformers import BlipForConditionalGeneration
from transformers.image_utils import load_image

from albef_amc.cli.main import main
from albef_amc.grounders import AutoGrounder
from albef_amc.visualization.drawing import overlay_heatmap

PHRASES = ["a dog", "the red car"]


@pytest.fixture
def save(tmp_path):
    """Saves a small random model of a family as transformers does, and returns its folder."""

    def save_family(name):
        folder = tmp_path / name
        grounder = build_tiny_grounder(name).float()
        grounder.model.save_pretrained(folder)
        grounder.processor.save_pretrained(folder)
        return folder

    return save_family


@pytest.fixture
def photo(tmp_path):
    """A photograph that is much wider than tall, of which CLIP sees the middle."""
    build_photo(120, 60).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def ground(capsys, *words, phrases=PHRASES) -> list[dict]:
    """Runs the command on the CPU; returns the entries of photographs."""
    capsys.readouterr()
    given = [word for phrase in phrases for word in ("--phrase", phrase)]
    status = main(["ground", *map(str, words), *given, "--device", "cpu", "--json"])
    streams = capsys.readouterr()
    assert status == 0, streams.err[-2000:]
    return json.loads(streams.out)["photographs"]


def check_results(found: list[dict], expected: list[dict]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one["point"] == other["point"].tolist() and one["is_present"] == other["is_present"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert one["box"] == pytest.approx(other["box"].tolist(), abs=1e-3)
        assert one["box_scores"] == pytest.approx(other["box_scores"].tolist(), abs=1e-4)


@pytest.mark.parametrize("name", ["blip-itm", "clip-itc", "vilt-itm"])
def test_results_are_those_of_the_grounder(name, save, photo, tmp_path, capsys):
    folder = save(name)
    (entry,) = ground(capsys, photo, "--checkpoint", folder, "--output-dir", tmp_path / "out")
    grounder = AutoGrounder.from_pretrained(folder)
    check_results(entry["phrases"], grounder(images=[photo], phrases=[PHRASES])[0])
    (described,) = entry["models"]
    assert described == {
        "checkpoint": str(folder),
        "commit": None,
        "source": None,
        "model_type": grounder.family.model_type,
        "score": grounder.family.score_name,
        "layer": grounder.layer,
        "method": "grad_cam",
        "is_probability": grounder.family.is_probability,
    }
    assert [phrase["phrase"] for phrase in entry["phrases"]] == PHRASES


def test_models_side_by_side(save, photo, tmp_path, capsys, monkeypatch):
    sheets = []

    def keep_sheet(rows, columns, path, *_, **__):
        sheets.append((rows, columns))
        return path

    monkeypatch.setattr("albef_amc.cli.ground.draw_sheet", keep_sheet)
    folders = [save("blip-itm"), save("clip-itc")]
    words = [word for folder in folders for word in ("--checkpoint", folder)]
    (entry,) = ground(capsys, photo, *words, "--output-dir", tmp_path / "out")
    for index, folder in enumerate(folders):
        found = [phrase for phrase in entry["phrases"] if phrase["checkpoint"] == str(folder)]
        check_results(found, AutoGrounder.from_pretrained(folder)(images=[photo], phrases=[PHRASES])[0])
        assert entry["models"][index]["checkpoint"] == str(folder)
    names = ["photo_1-1.png", "photo_2-1.png", "photo_1-2.png", "photo_2-2.png"]
    assert [phrase["overlay"] for phrase in entry["phrases"]] == [str(tmp_path / "out" / name) for name in names]
    ((rows, columns),) = sheets
    assert columns == ["photograph", "blip-itm", "clip-itc"]
    assert [row[0] for row in rows[::2]] == PHRASES
    scores = [[f"score  {phrase['score']:.2f}" for phrase in entry["phrases"]][start::2] for start in (0, 1)]
    assert [row[1:] for row in rows[::2]] == scores
    pictures = rows[1::2]
    assert all(picture.width == 2 * picture.height for row in pictures for picture in row)
    plain, overlay = np.asarray(overlay_heatmap(photo)), np.asarray(pictures[0][2])
    changed = (overlay != plain).any(axis=(0, 2)).nonzero()[0] * 120 / overlay.shape[1]
    assert changed.min() >= 24 and changed.max() <= 96  # CLIP sees columns 30 to 90; a cross may reach out


def test_a_sheet_of_models_has_a_column_for_each(save, photo, tmp_path, capsys):
    words = [word for name in ("clip-itc", "siglip-itc") for word in ("--checkpoint", save(name))]
    (entry,) = ground(capsys, photo, *words, "--output-dir", tmp_path / "out", "--cell-size", "200")
    with Image.open(entry["sheet"]) as sheet:
        assert sheet.width == 3 * 206 + 6 and sheet.height > 2 * 100


def test_a_rotated_photograph_is_grounded_upright(save, photo, tmp_path, capsys):
    turned = Image.open(photo).transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[274] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.png", exif=exif)
    folder = save("clip-itc")
    entries = ground(capsys, photo, tmp_path / "turned.png", "--checkpoint", folder, "--output-dir", tmp_path / "out")
    assert (entries[1]["width"], entries[1]["height"]) == (120, 60)
    names = ("score", "point", "boxes")
    assert [[phrase[name] for name in names] for phrase in entries[0]["phrases"]] == [
        [phrase[name] for name in names] for phrase in entries[1]["phrases"]
    ]
    upright, other = (np.asarray(load_image(entry["phrases"][0]["overlay"])) for entry in entries)
    assert (upright == other).all()


def test_layer_score_and_method_are_chosen(save, checkpoint, photo, tmp_path, capsys):
    words = ["--layer", "0", "--score", "itc", "--method", "attention", "--output-dir", tmp_path / "out"]
    (entry,) = ground(capsys, photo, "--checkpoint", save("blip-itm"), *words)
    assert [entry["models"][0][name] for name in ("layer", "score", "method")] == [0, "itc", "attention"]
    words = ["--checkpoint", checkpoint, "--output-dir", tmp_path / "out"]
    (usual,) = ground(capsys, photo, *words)
    layer = usual["models"][0]["layer"]
    (same,) = ground(capsys, photo, *words, "--layer", layer)
    assert [phrase["point"] for phrase in same["phrases"]] == [phrase["point"] for phrase in usual["phrases"]]
    assert same["models"] == usual["models"]
    (other,) = ground(capsys, photo, *words, "--method", "attention")
    assert other["models"][0]["method"] == "attention"


def test_a_revision_of_the_hub_and_its_commit(save, hub, photo, tmp_path, capsys):
    repository = hub.repositories["your-name/clip"] = Repository()
    files = {path.name: path.read_bytes() for path in save("clip-itc").iterdir()}
    first = repository.commit("main", files, "first")
    second = repository.commit("main", files | {"README.md": b"a card"}, "second")
    for revision, commit in ((["--revision", first], first), ([], second)):
        words = ["--checkpoint", "your-name/clip", *revision, "--output-dir", tmp_path / "out"]
        (entry,) = ground(capsys, photo, *words)
        assert entry["models"][0]["commit"] == commit


def write_settings(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "9"], "`layer` is 9, but the layers of `text_encoder.encoder.layer.{layer}.crossattention.self`"),
        (["--score", "mlm"], "`score`"),
        (["--method", "lime"], "`method`"),
        (["--method", "similarity"], "Methods that it has: grad_cam, attention"),
        (["--phrase", "dog " * 30], "has 32 tokens, but the model has 16 text positions"),
        (["--image-size", "64"], "`--image-size` is for checkpoints of ALBEF"),
        (["--precision", "int8"], "`--precision int8` is for checkpoints of ALBEF"),
        (["--revision", "main"], "`--revision main`"),
    ],
)
def test_bad_options_are_one_line(words, message, save, photo, tmp_path, capsys):
    given = ["ground", photo, "--phrase", "a dog", "--checkpoint", save("blip-itm"), "-o", tmp_path / "out", *words]
    check_refusal([str(word) for word in given], message, capsys)
    assert not (tmp_path / "out").exists()


def test_photographs_that_cannot_be_read_are_skipped(save, photo, tmp_path, capsys):
    content = bytearray(photo.read_bytes())
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    content[16:24] = struct.pack(">II", 12_000, 10_000)  # width and height, in the header
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "huge.png").write_bytes(content)
    words = ["ground", *(str(tmp_path / name) for name in ("cut.png", "huge.png", "photo.png"))]
    words += ["--phrase", "a dog", "--checkpoint", str(save("blip-itm")), "-o", str(tmp_path / "out"), "--json"]
    capsys.readouterr()
    assert main(words) == 2
    streams = capsys.readouterr()
    assert "albef-amc: error: 2 of 3 photographs cannot be read: " in streams.err.splitlines()[-1]
    result = json.loads(streams.out)
    assert [entry["photograph"] for entry in result["photographs"]] == [str(photo)]
    assert "100000000" in re.sub(r"[,_ ]", "", result["skipped"][1]["reason"])


def test_checkpoints_that_cannot_be_grounded_are_one_line(save, checkpoint, photo, tmp_path, capsys):
    folder = save("blip-itm")
    words = ["ground", str(photo), "--phrase", "a dog", "--checkpoint", str(checkpoint), "--checkpoint", str(folder)]
    words += ["--output-dir", str(tmp_path / "out"), "--device", "cpu"]
    check_refusal([*words, "--layer", "3"], f"{folder}: `layer` is 3, but", capsys)
    write_settings(folder, attn_implementation="flex_attention")
    check_refusal(words, "flex_attention", capsys)
    write_settings(folder, attn_implementation=None, model_type="blip-3")
    check_refusal(words, "Types that can: albef, blip, clip", capsys)
    BlipForConditionalGeneration(build_blip()[0].config).save_pretrained(folder)
    check_refusal(words, "lacks weights of `BlipForImageTextRetrieval`", capsys)
