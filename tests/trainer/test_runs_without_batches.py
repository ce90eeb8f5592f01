# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A run that would never see a batch, and data that is not there, are errors before the start."""

import pytest
import torch
from testing_utils import build_rows, build_tiny_dataset, build_tiny_processor, build_tiny_trainer

from albef_amc.cli.main import main
from albef_amc.datasets_scripts.loading import stream_rows
from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.data.mixtures import Mixture, build_training_dataset


def build_settings(tmp_path, **values) -> AmcConfig:
    return AmcConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **values)


@pytest.mark.parametrize(
    ("num_rows", "values", "message"),
    [
        (0, {}, "the training data has no rows"),
        (0, {"dataloader_drop_last": True}, "the training data has no rows"),
        (0, {"max_steps": 5}, "the training data has no rows"),
        (
            7,
            {"dataloader_drop_last": True},
            "has 7 rows and a batch on each process takes 8 .*` 8, 1 proc",
        ),
        (
            3,
            {"dataloader_drop_last": True, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            "has 3 rows .* takes 4 .*`gradient_accumulation_steps` 2",
        ),
    ],
)
def test_too_few_rows_are_refused(num_rows, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_training_dataset(build_rows(num_rows), build_settings(tmp_path, **values))


@pytest.mark.parametrize(
    ("num_rows", "values"),
    [
        (1, {}),
        (8, {"dataloader_drop_last": True}),
        (4, {"dataloader_drop_last": True, "epoch_unit": "phrase", "phrases_per_image": 1}),
    ],
)
def test_enough_rows_are_taken(num_rows, values, tmp_path):
    assert len(build_training_dataset(build_rows(num_rows), build_settings(tmp_path, **values))) >= num_rows


def test_an_empty_part_of_a_mixture_is_named(tmp_path):
    with pytest.raises(ValueError, match="part 'cups' of the mixture has no rows"):
        build_training_dataset(Mixture([build_rows(2), []], [1, 1], ["dogs", "cups"]), build_settings(tmp_path))


def test_an_empty_stream_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the data set has no rows: there is nothing to stream"):
        stream_rows(build_tiny_dataset(build_rows(2)).select([]))
    stream = stream_rows(build_tiny_dataset(build_rows(2)))
    stream.info.splits["all"].num_examples = 0  # as the card of an empty repository says
    with pytest.raises(ValueError, match="the streamed training data has no rows"):
        build_training_dataset(stream, build_settings(tmp_path, max_steps=2))


@pytest.mark.parametrize("evaluation_rows", [[], {"first": [], "second": build_rows(1)}])
def test_empty_evaluation_data_is_refused(evaluation_rows, tiny_pretraining_model, tmp_path):
    with pytest.raises(ValueError, match="the evaluation data.* has no rows"):
        AmcTrainer(
            tiny_pretraining_model,
            build_settings(tmp_path),
            build_tiny_processor(),
            train_dataset=build_rows(1),
            eval_dataset=evaluation_rows,
        )


@pytest.mark.slow
def test_a_stream_of_ones_own_without_rows_is_not_a_run(tiny_pretraining_model, tmp_path):
    class Nothing(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path)
    trainer.train_dataset = Nothing()
    with pytest.raises(ValueError, match="the run ended without a step"):
        trainer.train()
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["dataloader_drop_last=true", "per_device_train_batch_size=9"],
            "has 8 rows and a batch on each process takes 9",
        ),
        (["train_data.split=train[:0]"], "corresponds to no data"),
        (["evaluation_data.split=validation[:0]"], "corresponds to no data"),
    ],
)
def test_the_command_ends_before_it_trains(recipe, settings, message, tmp_path, capsys):
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", str(recipe), "-o", str(tmp_path / "run"), *words]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1] and "Traceback" not in streams.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train_data.split=trian", "has no split 'trian'"),
        ("evaluation_data.split=vaildation", "Did you mean `validation`?"),
        ("train_data.split=3", "`train_data.split` must be text, got 3"),
        ("train_data.split=''", "`train_data.split` must be text"),
        ("train_data.num_train_scene=5", "Did you mean `num_train_scenes`?"),
        ("train_data.num_train_scenes=many", "num_train_scenes"),
        ("train_data.streaming=maybe", "`train_data.streaming` must be true or false, got 'maybe'"),
        ("train_data.cache_dir=5", "`train_data.cache_dir` must be text, got 5"),
        ("train_data.split=null", "`train_data.split` must be text, got None"),
        ("train_data.name=jsonl", "jsonl"),
        ("train_data.name=no_such_data", "No data set 'no_such_data'"),
        ("train_data.name=sinthetic", "synthetic"),
    ],
)
def test_data_that_is_not_there_is_found_before_a_model_is_made(recipe, setting, message, tmp_path, capsys):
    words = ["--set", setting, "--set", "model.config=no_such_model"]
    assert main(["train", str(recipe), "-o", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.config=no_such_model", "no file no_such_model"),
        ("model.config=BROKEN", "broken.json"),
        ("model.vocabulary=no_such.txt", "no vocabulary at no_such.txt"),
    ],
)
def test_files_of_a_model_are_looked_for_before_the_data_is_built(recipe, setting, message, tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{")
    words = ["--set", setting.replace("BROKEN", str(tmp_path / "broken.json"))]
    assert main(["train", str(recipe), "-o", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synthetic", "--split", "tset"], "Did you mean `test`?"),
        (["synthetic", "--split", ""], "`split` must be a text"),
        (["synthetic", "--split", "test["], "test["),
        (["synthetic", "--split", "test", "--data", "num_test_scene=3"], "Did you mean `num_test_scenes`?"),
        (["synthetic", "--split", "test", "--data", "num_test_scenes=few"], "num_test_scenes"),
        (["refcoco_plus", "testA", "--data", "data_root=/no/such/folder"], "No folder /no/such/folder"),
        (["synthetic", "tset"], "Did you mean `test`?"),
        (["no_such_data"], "No data set 'no_such_data'"),
        (["/no/such/folder"], "/no/such/folder"),
        (["no_such_recipe.yaml"], "no_such_recipe.yaml"),
    ],
)
def test_an_evaluation_is_checked_before_its_model_is_looked_for(words, message, capsys):
    assert main(["evaluate", "no_checkpoint", *words]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1] and "Traceback" not in streams.err


def test_an_empty_split_is_not_evaluated(checkpoint, tmp_path, capsys):
    data = ["--data", "num_train_scenes=2", "--data", "num_validation_scenes=2", "--data", "num_test_scenes=2"]
    words = ["evaluate", str(checkpoint), "synthetic", "--split", "test[:0]", "--data", f"cache_dir={tmp_path}", *data]
    assert main(words) == 2
    assert "corresponds to no data" in capsys.readouterr().err.splitlines()[-1]
