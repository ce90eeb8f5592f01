"""What people look at during a run: speed, sheets of heatmaps, the best model per data set, early stopping."""

import importlib.util
import json
import logging
import math
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from testing_utils import (
    build_environment,
    build_rows,
    build_tiny_arguments,
    build_tiny_dataset,
    build_tiny_trainer,
    list_training_logs,
)
from transformers import TrainerControl, TrainerState

from albef_amc import AlbefForImageTextMatching, AlbefProcessor
from albef_amc.evaluation.checkpoints import hash_checkpoint
from albef_amc.saving_albef import replace_folder
from albef_amc.trainer import AmcTrainer
from albef_amc.trainer.callbacks import (
    BaselineCallback,
    HeatmapSheetCallback,
    KeepBestCallback,
    PatienceCallback,
    ThroughputCallback,
)

ACCURACY = "pointing_game_accuracy"


def build_scored_trainer(monkeypatch, accuracies, model, folder, eval_rows, **changes) -> AmcTrainer:
    """A trainer whose evaluations give these accuracies, one after another, of real evaluations' other numbers."""
    trainer = build_tiny_trainer(model, folder, eval_rows=eval_rows, eval_strategy="steps", eval_steps=1, **changes)
    evaluate, given = trainer.evaluate_phrases, iter(accuracies)

    def evaluate_phrases(dataset):
        evaluation = evaluate(dataset)
        evaluation.metrics[ACCURACY] = next(given)
        return evaluation

    monkeypatch.setattr(trainer, "evaluate_phrases", evaluate_phrases)
    return trainer


# ---- baselines beside every evaluation


def list_baseline_messages(caplog) -> list[tuple[str, str]]:
    return [
        (entry.levelname, entry.getMessage()) for entry in caplog.records if "middle of the image" in entry.message
    ]


@pytest.mark.parametrize(
    ("accuracy", "ends", "level", "words"),
    [
        (0.75, True, "INFO", "largest object for 50.0%."),
        (0.25, False, "INFO", "This is no better than a point that reads no words."),
        (0.5, True, "WARNING", "it has not learnt to ground"),
    ],
)
def test_a_run_that_ends_below_the_middle_of_the_image_says_so(accuracy, ends, level, words, caplog, monkeypatch):
    rows = build_rows(2)  # the middle of each image lies in the boxes of the first phrases
    for row in rows:
        row["phrases"][1]["boxes"] = [[0.0, 0.0, 8.0, 8.0]]
        row["proposals"] = [{"box": [0.0, 0.0, 8.0, 8.0], "score": 1.0, "label": None}]
    monkeypatch.setattr(logging.getLogger("albef_amc"), "propagate", True)
    state, control = TrainerState(is_world_process_zero=True, global_step=7), TrainerControl(should_training_stop=ends)
    callback = BaselineCallback({"eval": rows, "eval_other": rows})
    with caplog.at_level(logging.INFO, "albef_amc"):
        callback.on_evaluate(None, state, control, metrics={f"eval_{ACCURACY}": accuracy})
    ((found_level, message),) = list_baseline_messages(caplog)
    assert message.startswith(f"eval at step 7: the heatmaps point into the region for {accuracy:.1%} of the phrases")
    assert "the middle of the image for 50.0%, that of its largest object for 50.0%." in message
    assert (found_level, words in message) == (level, True)


@pytest.mark.parametrize("as_dataset", [True, False])
@pytest.mark.parametrize("has_sizes", [True, False])
def test_rows_without_sizes_have_no_baselines(
    as_dataset, has_sizes, tiny_pretraining_model, tmp_path, caplog, monkeypatch
):
    rows = build_rows(2)
    if not has_sizes:
        del rows[1]["width"]
    rows = build_tiny_dataset(rows) if as_dataset else rows
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, eval_rows=rows)
    monkeypatch.setattr(logging.getLogger("albef_amc"), "propagate", True)
    with caplog.at_level(logging.INFO, "albef_amc"):
        trainer.evaluate()
    assert len(list_baseline_messages(caplog)) == has_sizes


# ---- objectives, as they are logged


@pytest.mark.slow
def test_objectives_are_logged_and_added(tiny_pretraining_model, tmp_path):
    extra = {"dice": 0.5, "kl": {"weight": 0.1, "epsilon": 0.1}, "selfeq": {}}
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, objectives=extra, use_paraphrases=True)
    for row in trainer.train_dataset.rows:
        row["phrases"][0]["paraphrases"] = ["the small cup"]
    trainer.train()
    for entry in list_training_logs(trainer):
        weights = {"itc": 1, "itm": 1, "mlm": 1, "amc": 1, "dice": 0.5, "kl": 0.1, "selfeq": 1}
        assert all(math.isfinite(entry[f"{name}_loss"]) for name in weights)
        assert entry["selfeq_similarity_loss"] > 0
        total = sum(weight * entry[f"{name}_loss"] for name, weight in weights.items())
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


@pytest.mark.slow
def test_objectives_without_amc_and_without_the_others(tiny_pretraining_model, tmp_path):
    weights = dict.fromkeys(("amc_weight", "itc_weight", "itm_weight", "mlm_weight"), 0.0)
    before = {name: tensor.clone() for name, tensor in tiny_pretraining_model.state_dict().items()}
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, objectives={"dice": 2.0, "kl": 0}, **weights)
    trainer.train()
    entry = list_training_logs(trainer)[0]
    assert entry["loss"] == pytest.approx(2 * entry["dice_loss"], rel=1e-4)
    assert not {"amc_loss", "mlm_loss", "kl_loss"} & entry.keys()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_rows_are_grouped_where_the_run_says_so(tiny_pretraining_model, tiny_processor, tmp_path):
    rows = [{**row, "phrases": [phrase]} for row in build_rows(2) for phrase in row["phrases"]]
    for group, count in ((True, 2), (False, 4)):
        arguments = build_tiny_arguments(tmp_path, group_by_image=group)
        trainer = AmcTrainer(tiny_pretraining_model, arguments, tiny_processor, train_dataset=rows)
        assert len(trainer.train_dataset) == count
        assert sum(len(trainer.train_dataset[index]["phrases"]) for index in range(count)) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": {"dise": 1.0}}, "unknown objective `dise`. Did you mean `dice`"),
        ({"extra_objectives": {"dise": 1.0}}, "unknown objective `dise`. Did you mean `dice`"),
        ({"objectives": {"amc": {"mean_marign": 1.0}}}, "unknown option `mean_marign`. Did you mean `mean_margin`"),
        ({"objectives": {"amc": 1.0}, "amc_weight": 2.0}, "the short form of `objectives.amc.weight`, which is 1.0"),
        (
            {"objectives": {"dice": 1.0}, "extra_objectives": {"dice": 1.0}},
            "'dice' is in `objectives` and in `extra_objectives`",
        ),
        ({"objectives": {"selfeq": 1.0}}, "Set `use_paraphrases=True`"),
        ({"accelerator_config": {"dispatch_batches": True}}, "`dispatch_batches=True`.*Leave it out"),
        ({"num_heatmaps_drawn": -1}, "`num_heatmaps_drawn` must be a whole number of at least 0"),
        (
            {"early_stopping_patience": 0, "eval_strategy": "steps"},
            "`early_stopping_patience` must be a whole number of at least 1",
        ),
        ({"early_stopping_patience": 2}, "`early_stopping_patience` needs evaluations: set `eval_strategy`"),
    ],
)
def test_settings_refuse_bad_values(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        build_tiny_arguments(tmp_path, **changes)


def test_batches_are_never_dispatched(tmp_path, tiny_pretraining_model):
    for given in (None, {"split_batches": False}, {"dispatch_batches": None}):
        assert build_tiny_arguments(tmp_path, accelerator_config=given).accelerator_config.dispatch_batches is False
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path)
    assert trainer.accelerator.dispatch_batches is False


def test_the_best_model_is_chosen_by_pointing(tmp_path):
    for changes in ({"early_stopping_patience": 2}, {"load_best_model_at_end": True, "save_strategy": "steps"}):
        arguments = build_tiny_arguments(tmp_path, eval_strategy="steps", eval_steps=500, **changes)
        assert (arguments.metric_for_best_model, arguments.greater_is_better) == (ACCURACY, True)
    assert build_tiny_arguments(tmp_path).metric_for_best_model is None
    named = build_tiny_arguments(
        tmp_path, eval_strategy="steps", early_stopping_patience=1, metric_for_best_model=f"flickr_{ACCURACY}"
    )
    assert named.metric_for_best_model == f"flickr_{ACCURACY}" and named.greater_is_better


# ---- speed


@pytest.mark.slow
def test_speed_is_logged_beside_the_losses(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, gradient_accumulation_steps=2)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    logs = list_training_logs(trainer)
    assert len(logs) == 2
    for entry in logs:
        assert entry["phrases_per_second"] == pytest.approx(2 * entry["images_per_second"])
    assert sum(4 / entry["images_per_second"] for entry in logs) <= seconds


def test_evaluations_and_checkpoints_are_not_training_time(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    callback, state = ThroughputCallback(), (None, TrainerState(), TrainerControl())
    inputs = {"pixel_values": torch.zeros(2, 3, 4, 4), "input_ids": torch.zeros(6, 5)}
    callback.on_train_begin(*state)
    for training, logs, evaluation, saving in ((2.0, False, 50.0, 0.0), (1.0, True, 7.0, 30.0), (4.0, True, 0.0, 0.0)):
        clock[0] += training
        callback.count(inputs)
        callback.on_step_end(*state)
        if logs:
            speed = callback.compute(torch.device("cpu"))
            expected = 2 * 2 / 3.0 if training == 1.0 else 2 / 4.0
            assert speed["images_per_second"] == pytest.approx(expected)
            assert speed["phrases_per_second"] == pytest.approx(3 * expected)
        clock[0] += evaluation
        callback.on_evaluate(*state)
        clock[0] += saving
        callback.on_save(*state)


def test_the_share_of_waiting_for_batches(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    callback, shares = ThroughputCallback(), []
    callback.on_train_begin(None, TrainerState(), TrainerControl())
    for waited, computed in ((50.0, 1.0), (3.0, 1.0), (0.0, 4.0), (1.0, 3.0)):
        clock[0] += waited + computed
        callback.count_wait(waited)
        shares.append(callback.compute(torch.device("cpu"))["data_wait_share"])
    assert shares == [0.0, 0.75, 0.0, 0.25]  # workers start in the first step


@pytest.mark.parametrize(("kind", "share", "warns"), [("cuda", 0.3, True), ("cuda", 0.1, False), ("cpu", 0.9, False)])
def test_a_device_that_waits_for_images_is_a_warning(
    tiny_pretraining_model, tmp_path, monkeypatch, caplog, kind, share, warns
):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path)
    logging.Logger.warning_once.cache_clear()
    speed = {"phrases_per_second": 1.0, "images_per_second": 1.0, "data_wait_share": share}
    monkeypatch.setattr(trainer.throughput, "compute", lambda device: speed)
    monkeypatch.setattr(type(trainer.args), "device", torch.device(kind))
    for _ in range(2):
        trainer._term_sums["amc_loss"], trainer._term_count = torch.ones(()), torch.ones(())
        trainer.log({"loss": 1.0})
    assert caplog.text.count("`dataloader_num_workers` (now 0)") == (1 if warns else 0)


# ---- sheets


@pytest.mark.slow
def test_sheets_are_drawn_at_every_evaluation(tiny_pretraining_model, tmp_path):
    parts = {"first": build_rows(3), "second": build_rows(1)}
    trainer = build_tiny_trainer(
        tiny_pretraining_model,
        tmp_path,
        eval_rows=parts,
        num_heatmaps_drawn=2,
        eval_strategy="steps",
        eval_steps=1,
    )
    callback = next(item for item in trainer.callback_handler.callbacks if isinstance(item, HeatmapSheetCallback))
    assert [phrase["phrase_id"] for phrase in callback.phrases] == ["0-0", "1-1", "0-0"]
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "heatmaps").iterdir()) == ["step-1.png", "step-2.png"]
    with Image.open(tmp_path / "heatmaps" / "step-2.png") as sheet:
        assert sheet.width > 3 * 240 and sheet.height > 3 * 100


def test_drawing_changes_neither_the_model_nor_random_states(tiny_pretraining_model, tiny_processor, tmp_path):
    model = tiny_pretraining_model.train()
    learns = [parameter.requires_grad for parameter in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    callback = HeatmapSheetCallback([*build_rows(2), {**build_rows(1)[0], "phrases": []}], tiny_processor, tmp_path)
    callback.on_evaluate(None, TrainerState(global_step=7), TrainerControl(), model=model)
    assert (tmp_path / "step-7.png").is_file()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == learns
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_only_the_main_process_draws(tiny_pretraining_model, tiny_processor, tmp_path):
    callback = HeatmapSheetCallback(build_rows(1), tiny_processor, tmp_path)
    other = TrainerState(global_step=7, is_world_process_zero=False)
    callback.on_evaluate(None, other, TrainerControl(), model=tiny_pretraining_model)
    assert list(tmp_path.iterdir()) == []


# ---- the best model


@pytest.mark.slow
def test_the_best_model_is_kept_complete_with_its_card(tiny_pretraining_model, tiny_processor, tmp_path, monkeypatch):
    saved = {}
    trainer = build_scored_trainer(
        monkeypatch,
        [0.25, 0.75, 0.5, 0.75],
        tiny_pretraining_model,
        tmp_path,
        build_rows(2),
        keep_best=True,
        max_steps=4,
        learning_rate=1e-2,
    )
    evaluate = trainer.evaluate

    def remember(*args, **kwargs):
        saved[trainer.state.global_step] = trainer.model.export_matching_model().state_dict()
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(trainer, "evaluate", remember)
    trainer.train()
    best = tmp_path / "best-eval"
    assert json.loads((best / "best.json").read_text()) == {ACCURACY: 0.75, "step": 2}
    weights = AlbefForImageTextMatching.from_pretrained(best).state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved[2].items())
    assert any(not torch.equal(weights[name], tensor) for name, tensor in saved[4].items())
    assert not (best / "optimizer.pt").exists()
    assert "75.00" in (best / "README.md").read_text()
    metrics = json.loads((best / "metrics.json").read_text())["eval"]
    assert (metrics[ACCURACY], metrics["weights_sha256"]) == (0.75, hash_checkpoint(best))
    ids = AlbefProcessor.from_pretrained(best)(text=["the red dog"], return_tensors="pt")["input_ids"]
    assert torch.equal(ids, tiny_processor(text=["the red dog"], return_tensors="pt")["input_ids"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_every_data_set_has_its_best(tiny_pretraining_model, tmp_path, monkeypatch):
    parts = {"flickr": build_rows(1), "refcoco_plus": build_rows(1)}
    trainer = build_scored_trainer(
        monkeypatch,
        [0.5, 0.5, 0.25, 1.0],
        tiny_pretraining_model,
        tmp_path,
        parts,
        keep_best=True,
    )
    trainer.train()
    steps = {name: json.loads((tmp_path / f"best-{name}" / "best.json").read_text())["step"] for name in parts}
    assert steps == {"flickr": 1, "refcoco_plus": 2}


def test_a_resumed_run_knows_the_best_and_a_new_one_does_not(tiny_model, tmp_path):
    best = tmp_path / "best-eval"
    best.mkdir()
    (best / "best.json").write_text(json.dumps({ACCURACY: 0.5, "step": 3}))
    moved_aside = tmp_path / ".previous-best-other"
    moved_aside.mkdir()
    (moved_aside / "best.json").write_text(json.dumps({ACCURACY: 0.25, "step": 1}))
    callback = KeepBestCallback(None)
    arguments = build_tiny_arguments(tmp_path)
    callback.on_train_begin(arguments, TrainerState(global_step=4), None)
    assert callback.best == {"eval": 0.5, "other": 0.25}
    assert (tmp_path / "best-other").is_dir() and not moved_aside.exists()
    callback.on_train_begin(arguments, TrainerState(), None)
    assert callback.best == {}


def test_an_evaluation_before_training_keeps_nothing(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, eval_rows=build_rows(1), keep_best=True)
    trainer.evaluate()
    assert not (tmp_path / "best-eval").exists()


def test_keeping_the_best_draws_no_random_numbers(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, eval_rows=build_rows(1), keep_best=True)
    callback = next(item for item in trainer.callback_handler.callbacks if isinstance(item, KeepBestCallback))
    callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    metrics = {f"eval_{ACCURACY}": 0.5}
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics=metrics, model=trainer.model)
    assert (tmp_path / "best-eval" / "model.safetensors").is_file()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_failed_save_keeps_the_previous_best(tiny_pretraining_model, tmp_path, monkeypatch):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, eval_rows=build_rows(1), keep_best=True)
    callback = next(item for item in trainer.callback_handler.callbacks if isinstance(item, KeepBestCallback))
    callback.best = {"eval": -0.5}
    (tmp_path / "best-eval").mkdir()
    (tmp_path / "best-eval" / "best.json").write_text("{}")

    def fail(folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(trainer, "write_card", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.evaluate()
    assert [path.name for path in tmp_path.iterdir()] == ["best-eval"]
    assert (tmp_path / "best-eval" / "best.json").read_text() == "{}"


def test_a_folder_replaces_another(tmp_path):
    for name in ("new", "target", ".previous-target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "target")
    assert [(path.name, (path / "file").read_text()) for path in tmp_path.iterdir()] == [("target", "new")]


# ---- early stopping


@pytest.mark.slow
def test_a_run_stops_where_pointing_no_longer_improves(tiny_pretraining_model, tmp_path, monkeypatch):
    accuracies = [0.2, 0.5, 0.4, 0.3, 0.9]
    trainer = build_scored_trainer(
        monkeypatch,
        accuracies,
        tiny_pretraining_model,
        tmp_path,
        build_rows(1),
        early_stopping_patience=2,
        max_steps=5,
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.state.best_metric == 0.5


@pytest.mark.slow
def test_with_several_data_sets_the_named_one_counts(tiny_pretraining_model, tmp_path, monkeypatch):
    parts = {"first": build_rows(1), "second": build_rows(1)}
    arguments = (tiny_pretraining_model, tmp_path)
    changes = dict(early_stopping_patience=1, max_steps=4)
    accuracies = [0.1, 0.5, 0.2, 0.4, 0.9, 0.9]
    metric = f"second_{ACCURACY}"
    trainer = build_scored_trainer(monkeypatch, accuracies, *arguments, parts, metric_for_best_model=metric, **changes)
    trainer.train()
    assert trainer.state.global_step == 2
    with pytest.raises(ValueError, match="give `first_pointing_game_accuracy`, `second_pointing_game_accuracy`: name"):
        build_tiny_trainer(*arguments, eval_rows=parts, eval_strategy="steps", **changes)


@pytest.mark.slow
def test_patience_is_restored_by_a_resume(tiny_pretraining_model, tmp_path, monkeypatch):
    start = {name: tensor.clone() for name, tensor in tiny_pretraining_model.state_dict().items()}
    stopped = []
    for resume, accuracies in ((None, [0.5, 0.4, 0.3, 0.2]), ("checkpoint-2", [0.3, 0.2])):
        tiny_pretraining_model.load_state_dict(start)
        trainer = build_scored_trainer(
            monkeypatch,
            accuracies,
            tiny_pretraining_model,
            tmp_path,
            build_rows(1),
            early_stopping_patience=2,
            max_steps=4,
            save_strategy="steps",
            save_steps=1,
        )
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / resume))
        stopped.append(trainer.state.global_step)
        assert sum(isinstance(item, PatienceCallback) for item in trainer.callback_handler.callbacks) == 1
    assert stopped == [3, 3]


@pytest.mark.slow
def test_a_run_that_stopped_early_is_over(tiny_pretraining_model, tmp_path, monkeypatch):
    def build(accuracies, **changes):
        options = dict(early_stopping_patience=1, save_strategy="steps", save_steps=1, **changes)
        arguments = (tiny_pretraining_model, tmp_path, build_rows(1))
        return build_scored_trainer(monkeypatch, accuracies, *arguments, **options)

    build([0.5, 0.4], max_steps=4).train()
    resumed = build([], max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 2
    longer = build([0.6, 0.7, 0.8], max_steps=5)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 5


@pytest.mark.parametrize(("name", "value"), [("num_heatmaps_drawn", 2), ("keep_best", True)])
def test_settings_that_need_evaluation_data(tiny_pretraining_model, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}` needs evaluations: pass an `eval_dataset`"):
        build_tiny_trainer(tiny_pretraining_model, tmp_path, **{name: value})


# ---- trackers


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_every_term(tiny_pretraining_model, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    build_tiny_trainer(tiny_pretraining_model, tmp_path, report_to="tensorboard").train()
    (events,) = {path.parent for path in (tmp_path / "board").rglob("events.*")}
    board = EventAccumulator(str(events)).Reload()
    names = ("loss", "itc_loss", "itm_loss", "mlm_loss", "amc_loss", "amc_mean_loss", "phrases_per_second")
    for name in names:
        assert [event.step for event in board.Scalars(f"train/{name}")] == [1, 2]


# ---- several processes

RUN_SCRIPT = """
import json
import sys

import torch
from testing_utils import build_rows, build_tiny_config, build_tiny_trainer, end_process, list_training_logs

from albef_amc import AlbefForPreTraining


def run(folder, batch_size):
    torch.manual_seed(0)
    config = build_tiny_config()
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    rows = build_rows(4)
    rows[0]["phrases"][1]["boxes"] = rows[1]["phrases"][0]["boxes"] = rows[1]["phrases"][1]["boxes"] = None
    for index in (0, 2, 3):
        rows[index]["phrases"][0]["paraphrases"] = ["the small cup", "the big car"]
    trainer = build_tiny_trainer(
        AlbefForPreTraining(config),
        folder,
        rows,
        build_rows(3),
        per_device_train_batch_size=batch_size,
        max_steps=1,
        learning_rate=5e-5,
        eval_strategy="steps",
        eval_steps=1,
        use_augmentation=False,
        use_paraphrases=True,
        objectives={"dice": 0.5, "kl": 0.5, "selfeq": 1.0},
        keep_best=True,
        num_heatmaps_drawn=1,
        early_stopping_patience=2,
    )
    trainer.train()
    logs = list_training_logs(trainer)
    if trainer.is_world_process_zero():
        wrapper = type(trainer.model_wrapped).__name__
        with open(f"{folder}/logs.json", "w") as file:
            json.dump({"world_size": trainer.args.world_size, "wrapper": wrapper, "logs": logs}, file)


if __name__ == "__main__":
    run(sys.argv[1], 2)
    end_process()
"""


@pytest.mark.slow
def test_two_processes_log_what_one_does_and_write_once(tmp_path):
    """Phrases with a region, and pairs, are spread unevenly over the processes."""
    script = tmp_path / "run.py"
    script.write_text(RUN_SCRIPT)
    names = {"__name__": "one_process"}
    exec(RUN_SCRIPT, names)
    names["run"](tmp_path / "one", 4)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [script, tmp_path / "two"]
    done = subprocess.run(command, env=build_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "logs.json").read_text()) for name in ("one", "two"))
    assert (one["world_size"], two["world_size"], two["wrapper"]) == (1, 2, "DistributedDataParallel")
    for name in ("one", "two"):
        assert [path.name for path in (tmp_path / name / "heatmaps").iterdir()] == ["step-1.png"]
        assert (tmp_path / name / "best-eval" / "model.safetensors").is_file()
    (alone,), (together,) = one["logs"], two["logs"]
    for name in ("amc_loss", "dice_loss", "kl_loss", "selfeq_loss"):
        assert together[name] == pytest.approx(alone[name], rel=1e-5), name
    speeds = [entry["phrases_per_second"] / entry["images_per_second"] for entry in (alone, together)]
    assert speeds == pytest.approx([11 / 4] * 2)  # eight phrases and three paraphrases of four images


def test_rows_that_cannot_be_used_are_not_drawn(tiny_processor, tmp_path, caplog):
    rows = build_rows(4)
    rows[0]["image"] = b"no picture"
    rows[1]["image"] = str(tmp_path / "nothing.png")
    rows[2]["phrases"] = [{"phrase": "..."}]
    callback = HeatmapSheetCallback(rows, tiny_processor, tmp_path)
    assert [phrase["phrase_id"] for phrase in callback.phrases] == ["3-0"] and len(callback.images) == 1
    skipped = "A row whose heatmaps were to be drawn is skipped:"
    assert f"{skipped} image '0' is not an image" in caplog.text
    assert f"{skipped} No image file at {tmp_path / 'nothing.png'} (image '1')" in caplog.text
