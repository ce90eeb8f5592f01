# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Worker processes that are not copies of this one, as on macOS and Windows, make the same rows and batches."""

import multiprocessing
import os
from functools import partial
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from testing_utils import FIXTURES_FOLDER, build_photo, build_rows
from torch.utils.data import DataLoader

from albef_amc import VisualGroundingPipeline
from albef_amc.cli.main import main
from albef_amc.datasets_scripts import BUILDERS, load_grounding_dataset
from albef_amc.datasets_scripts.split_reader import SplitReader, list_split_readers
from albef_amc.evaluation.grounding_evaluation import _GroundingInputs
from albef_amc.evaluation.phrase_locators import AlbefInputs
from albef_amc.publishing.dataset_building import build_dataset
from albef_amc.trainer import AmcConfig, evaluate_grounding
from albef_amc.trainer.amc_trainer import AmcTrainer
from albef_amc.trainer.data.mixtures import Mixture, build_training_dataset

SCENES = {"num_train_scenes": 40, "num_validation_scenes": 2, "num_test_scenes": 6}
AMC = {"data_root": str(FIXTURES_FOLDER / "amc_json"), "image_root": str(FIXTURES_FOLDER / "visual_genome")}
LISTED, IMAGES = {"data_root": str(FIXTURES_FOLDER / "albef_json" / "data")}, FIXTURES_FOLDER / "albef_json" / "images"
VQA = FIXTURES_FOLDER / "vqa"


@pytest.fixture
def forkserver():
    """Processes are started by a server, which then is their parent; set back afterwards."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def read_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


@pytest.mark.slow
def test_a_build_makes_the_same_files(forkserver, tmp_path):
    for num_workers in (1, 2):
        build_dataset("synthetic", tmp_path / str(num_workers), SCENES, num_workers=num_workers)
    assert read_bytes(tmp_path / "1") == read_bytes(tmp_path / "2")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("synthetic", SCENES),
        ("amc_json", AMC),
        ("albef_json", {**LISTED, "image_root": str(IMAGES), "annotation_files": ["pretrain/vg.json"]}),
        ("refcoco", {"data_root": str(FIXTURES_FOLDER / "refer")}),
        ("visual_genome", {"data_root": str(FIXTURES_FOLDER / "visual_genome")}),
        ("flickr30k_entities", {"data_root": str(FIXTURES_FOLDER / "flickr30k_entities")}),
        ("coco", {"data_root": str(FIXTURES_FOLDER / "coco")}),
        ("phrasecut", {"data_root": str(FIXTURES_FOLDER / "phrasecut" / "VGPhraseCut_v0")}),
        ("albef_nlvr2", {**LISTED, "image_root": str(IMAGES / "nlvr2"), "train_files": "nlvr_train.json"}),
        ("vqa_v2", {"data_root": str(VQA / "v2"), "image_root": str(VQA / "images")}),
    ],
)
def test_the_reader_of_any_builder_can_be_sent_to_a_process(name, options, tmp_path):
    readers, _ = list_split_readers(BUILDERS[name](cache_dir=str(tmp_path), **options))
    for reader in readers.values():
        sent = ForkingPickler.loads(ForkingPickler.dumps(reader))
        assert sent.read(0, 3)[0].equals(reader.read(0, 3)[0])


def build_arguments(tmp_path, **settings):
    settings = {"per_device_train_batch_size": 2, "use_cpu": True, "seed": 3, **settings}
    return AmcConfig(output_dir=str(tmp_path / "run"), report_to=[], save_strategy="no", **settings)


def build_data(kind, tmp_path, args):
    """Training rows of every kind that there is."""
    load = partial(load_grounding_dataset, "synthetic", "train", cache_dir=str(tmp_path / "cache"), **SCENES)
    rows = load(streaming=kind.startswith("stream"))
    if kind.endswith("mixture"):
        rows = Mixture([rows, load(streaming=kind.startswith("stream"))], [1, 2], ["a", "b"])
    return build_training_dataset(rows, args)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("rows", {}),
        ("rows", {"epoch_unit": "phrase", "phrases_per_image": 1}),
        ("rows", {"group_by_image": True}),
        ("mixture", {}),
        ("stream", {"max_steps": 3}),
        ("stream mixture", {"max_steps": 3, "shuffle_buffer": 4}),
    ],
)
def test_rows_of_every_kind_can_be_sent_to_a_process(kind, settings, tmp_path):
    rows = build_data(kind, tmp_path, build_arguments(tmp_path, **settings))
    sent = ForkingPickler.loads(ForkingPickler.dumps(rows))
    first, expected = (next(iter(found)) for found in (sent, rows))
    assert first["phrases"] == expected["phrases"] and first["draw"] == expected["draw"]


def train(model, processor, rows, tmp_path, **settings):
    args = build_arguments(tmp_path, max_steps=3, logging_steps=1, learning_rate=1e-3, **settings)
    trainer = AmcTrainer(model, args, processor, train_dataset=rows)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_training_takes_the_same_steps(tiny_pretraining_model, tiny_processor, tmp_path):
    weights = {name: value.clone() for name, value in tiny_pretraining_model.state_dict().items()}
    losses = []
    for settings in ({}, {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}):
        rows = load_grounding_dataset("synthetic", "train", cache_dir=str(tmp_path / "cache"), **SCENES)
        tiny_pretraining_model.load_state_dict(weights)
        losses.append(train(tiny_pretraining_model, tiny_processor, rows, tmp_path, **settings))
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_an_evaluation_finds_the_same_points(forkserver, tiny_model, tiny_processor):
    rows = build_rows()
    expected = evaluate_grounding(tiny_model, tiny_processor, rows, batch_size=2)
    found = evaluate_grounding(tiny_model, tiny_processor, rows, batch_size=2, num_workers=1)
    assert found.to_rows() == expected.to_rows()


def test_epochs_that_are_set_reach_a_process_that_lives_longer(tmp_path):
    rows = build_data("rows", tmp_path, build_arguments(tmp_path))
    sent = ForkingPickler.loads(ForkingPickler.dumps(rows))
    rows.set_epoch(5)
    assert sent.epoch == 5


def test_inputs_of_an_evaluation_can_be_sent_to_a_process(tiny_processor):
    inputs = _GroundingInputs(AlbefInputs(tiny_processor, None))
    loader = DataLoader(build_rows(), batch_size=2, collate_fn=ForkingPickler.loads(ForkingPickler.dumps(inputs)))
    expected = DataLoader(build_rows(), batch_size=2, collate_fn=inputs)
    for (_, found, *_), (_, wanted, *_) in zip(loader, expected, strict=True):
        assert torch.equal(found["pixel_values"], wanted["pixel_values"])


@pytest.mark.slow
def test_a_worker_that_is_lost_is_reported_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SplitReader, "read", lambda *_: os._exit(1))  # as the kernel does where memory runs out
    words = [word for name, value in SCENES.items() for word in ("--data", f"{name}={value}")]
    assert main(["build-dataset", "synthetic", "-o", str(tmp_path / "built"), "--num-workers", "2", *words]) == 1
    error = capsys.readouterr().err
    assert "ended before its time: it was killed" in error and "`--resume`" in error and "Traceback" not in error
    assert not list((tmp_path / "built").glob("data/*"))


def forget_heatmaps(results):
    """Results without their tensors, which have no `==`."""
    return [[{**entry, "heatmap": entry["heatmap"].tolist()} for entry in found] for found in results]


@pytest.mark.slow
def test_a_pipeline_with_batches_finds_the_same(forkserver, tiny_model, tiny_processor):
    pipe = VisualGroundingPipeline(model=tiny_model, processor=tiny_processor)
    rows = [{"image": build_photo(seed=number), "text": ["a dog"]} for number in range(3)]
    found = pipe(rows, batch_size=2, num_workers=1)
    assert forget_heatmaps(found) == forget_heatmaps(pipe(rows, batch_size=2))


def test_a_generator_is_not_sent_to_a_process(forkserver, tiny_model, tiny_processor):
    pipe = VisualGroundingPipeline(model=tiny_model, processor=tiny_processor)
    photos = ({"image": build_photo(seed=number), "text": ["a dog"]} for number in range(3))
    with pytest.raises(ValueError, match="a generator cannot be sent to the 1 processes of `num_workers`"):
        list(pipe(photos, num_workers=1))
