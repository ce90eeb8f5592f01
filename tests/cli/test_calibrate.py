# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc calibrate`: what it writes, and what it refuses."""

import json

import pytest
import torch
from testing_utils import build_photo

from albef_amc import AlbefForImageTextMatching
from albef_amc.cli.main import main
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.trainer.reliability.run_checkpoints import MANIFEST_FILE

SCENES = [f"--data=num_{split}_scenes={count}" for split, count in (("train", 2), ("validation", 60), ("test", 2))]


def run(checkpoint, tmp_path, capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    common = ["--output-dir", str(tmp_path / "out"), "--device", "cpu", f"--data=cache_dir={tmp_path / 'cache'}"]
    status = main(["calibrate", str(checkpoint), "synthetic", *SCENES, *common, *words])
    streams = capsys.readouterr()
    return status, streams.out, streams.err


def test_scale_and_bias_are_measured_stored_and_used(tiny_model, tiny_processor, tmp_path, capsys):
    """Random weights order the pairs a little better or worse than chance: of a model and the one with its two
    logits exchanged, one can be calibrated, and the other is refused."""
    folders = []
    for name in ("first", "second"):
        with torch.no_grad():
            tiny_model.itm_head.weight.copy_(tiny_model.itm_head.weight.flip(0))
            tiny_model.itm_head.bias.copy_(tiny_model.itm_head.bias.flip(0))
        for part in (tiny_model, tiny_processor):
            part.save_pretrained(tmp_path / name)
        folders.append((tmp_path / name, (tmp_path / name / "config.json").read_text()))
    results = {folder: run(folder, tmp_path, capsys, "--json") for folder, _ in folders}
    (good, before), (bad, unchanged) = sorted(folders, key=lambda entry: results[entry[0]][0])
    assert results[bad][0] == 2 and "is not larger for pairs that match" in results[bad][2]
    assert (bad / "config.json").read_text() == unchanged

    status, out, _ = results[good]
    result, after = json.loads(out), json.loads((good / "config.json").read_text())
    assert status == 0
    assert result["before"].keys() == result["after"].keys() == {"calibration_error", "brier_score", "log_loss"}
    assert result["base_rate"] == 0.5 and result["num_pairs"] >= 100
    origin = after.pop("match_calibration")
    assert (after.pop("match_scale"), after.pop("match_bias")) == (result["scale"], result["bias"])
    others = {name: value for name, value in json.loads(before).items() if not name.startswith("match_")}
    assert after == others
    model = AlbefForImageTextMatching.from_pretrained(good)
    assert (origin["dataset"], origin["split"]) == ("synthetic", "validation")
    assert origin["weights_sha256"] == hash_weights(model) and len(origin["pairs_sha256"]) == 64
    stored = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert (
        stored["fitted"] == origin and sum(one["num_pairs"] for one in stored["bins"]["after"]) == result["num_pairs"]
    )
    assert (tmp_path / "out" / "reliability.png").is_file()

    inputs = tiny_processor(images=[build_photo()], text=[["a dog"]], return_tensors="pt")
    outputs = model.ground(**inputs)
    margin = outputs.itm_logits[0, 1] - outputs.itm_logits[0, 0]
    expected = torch.sigmoid(result["scale"] * margin + result["bias"]).item()
    (found,) = tiny_processor.post_process_grounding(outputs, min_score=expected - 1e-4)[0]
    assert found["score"] == pytest.approx(expected, abs=1e-6) and found["is_present"]
    (found,) = tiny_processor.post_process_grounding(outputs, min_score=expected + 1e-4)[0]
    assert not found["is_present"]


def test_what_cannot_be_calibrated_is_one_line(checkpoint, tmp_path, capsys):
    stored = (checkpoint / "config.json").read_text()
    for words, message in (
        (["--data=num_validation_scenes=9"], "is given more than once"),
        (["--split", "validation[:20]"], "pairs of image and phrase are too few"),
    ):
        status, out, error = run(checkpoint, tmp_path, capsys, *words)
        assert (status, out) == (2, "") and message in error.splitlines()[-1]
    (checkpoint / MANIFEST_FILE).write_text("{}")
    status, _, error = run(checkpoint, tmp_path, capsys)
    assert status == 2 and "is a checkpoint to resume from" in error.splitlines()[-1]
    status, _, error = run(tmp_path / "nowhere", tmp_path, capsys)
    assert status == 2 and "has no config.json" in error.splitlines()[-1]
    assert (checkpoint / "config.json").read_text() == stored
