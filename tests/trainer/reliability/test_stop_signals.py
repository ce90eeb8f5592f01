"""What a run does when a loss or gradient is not finite, and when it is told to stop."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import fault_tolerance
import pytest
import torch
from testing_utils import (
    PATIENCE,
    TESTS_FOLDER,
    PoisonedCollator,
    SignalAtStep,
    build_rows,
    build_tiny_trainer,
    copy_state,
    list_changes,
)
from transformers import TrainerCallback

from albef_amc.trainer import AmcTrainer
from albef_amc.trainer.reliability.reliable_trainer import ReliableTrainer
from albef_amc.trainer.reliability.run_checkpoints import find_damage
from albef_amc.trainer.reliability.stop_signals import TrainingInterrupted, TrainingTerminated

FUSED = "adamw_torch_fused"  # skips a step on the device


def build_trainer(model, folder, poisoned=None, **changes) -> AmcTrainer:
    """Trainer that reads the rows in their order; the pixels of the one called `poisoned` are not numbers."""
    trainer = build_tiny_trainer(model, folder, **{"train_sampling_strategy": "sequential", **changes})
    if poisoned is not None:
        trainer.data_collator = PoisonedCollator(trainer.data_collator, poisoned)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(("optim", "max_grad_norm"), [("adamw_torch", 1.0), (FUSED, 0.0), (FUSED, 1.0)])
def test_a_loss_that_is_not_finite_changes_nothing(optim, max_grad_norm, tiny_pretraining_model, tmp_path, caplog):
    tiny_pretraining_model.config.momentum = 1.0  # momentum copies stay for another reason
    before = copy_state(tiny_pretraining_model)
    changes = dict(max_steps=1, max_grad_norm=max_grad_norm, optim=optim)
    trainer = build_trainer(tiny_pretraining_model, tmp_path, "1", **changes)
    trainer.train()
    assert list_changes(before, trainer.model) == []
    states = trainer.optimizer.optimizer.state.values()
    assert not any(value.any() for state in states for value in state.values())  # as before the first step
    assert bool(states) == (optim == FUSED)
    assert trainer.skipped_steps == 1 and trainer.state.global_step == 1
    assert [entry["step"] for entry in trainer.state.log_history if "skipped_steps" in entry] == [1]
    assert "step 1 is skipped: the loss is not finite. Images: 0, 1." in caplog.text


@pytest.mark.slow
def test_the_next_step_is_taken(tiny_pretraining_model, tmp_path):
    before = copy_state(tiny_pretraining_model)
    trainer = build_trainer(tiny_pretraining_model, tmp_path, "1")
    trainer.train()
    assert trainer.skipped_steps == 1
    assert list_changes(before, trainer.model, "albef.") != []
    assert all(torch.isfinite(tensor).all() for tensor in trainer.model.state_dict().values())
    assert trainer.model.image_queue_pointer.item() == 2
    logged = [entry for entry in trainer.state.log_history if "amc_loss" in entry]
    assert [entry["step"] for entry in logged] == [2]


@pytest.mark.slow
def test_one_bad_micro_batch_skips_the_step_and_keeps_the_other_features(tiny_pretraining_model, tmp_path):
    before = copy_state(tiny_pretraining_model)
    trainer = build_trainer(tiny_pretraining_model, tmp_path, "3", max_steps=1, gradient_accumulation_steps=2)
    trainer.train()
    assert list_changes(before, trainer.model, "albef.") == []
    assert trainer.model.image_queue_pointer.item() == 2
    assert torch.isfinite(trainer.model.image_queue).all()


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_changes_no_weight(tiny_pretraining_model, tmp_path, caplog):
    before = copy_state(tiny_pretraining_model)
    trainer = build_trainer(tiny_pretraining_model, tmp_path, max_steps=1)
    trainer.model.itm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    trainer.train()
    assert list_changes(before, trainer.model, "albef.") == list_changes(before, trainer.model, "itm_head") == []
    assert "step 1 is skipped: the gradient is not finite. Images: 0, 1." in caplog.text


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_ends_a_run_of_deepspeed_with_the_images(
    tiny_pretraining_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(ReliableTrainer, "_is_step_taken_in_backward", True)  # as under DeepSpeed
    trainer = build_trainer(tiny_pretraining_model, tmp_path, max_steps=2, gradient_accumulation_steps=2)
    trainer.model.itm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite; 1 steps.*step 1: 0, 1, 2, 3\. Look"):
        trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_torch", FUSED])
def test_a_skipped_step_between_two_logs_is_counted_and_changes_nothing(optim, tiny_pretraining_model, tmp_path):
    states = []

    class KeepStates(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            states.append(copy_state(model))

    trainer = build_trainer(tiny_pretraining_model, tmp_path, "1", max_steps=2, logging_steps=2, optim=optim)
    trainer.model.config.momentum = 1.0
    trainer.add_callback(KeepStates())
    before = copy_state(tiny_pretraining_model)
    trainer.train()
    first, second = states
    moved = [[name for name in before if not torch.equal(before[name], state[name])] for state in (first, second)]
    assert moved[0] == [] and moved[1] != []
    skipped = [entry for entry in trainer.state.log_history if "skipped_steps" in entry]
    assert [(entry["step"], entry["skipped_steps"]) for entry in skipped] == [(1, 1)]
    (logged,) = [entry for entry in trainer.state.log_history if "amc_loss" in entry]
    assert all(math.isfinite(value) for value in logged.values())


@pytest.mark.slow
def test_too_many_skips_in_a_row_stop_the_run_with_the_images(tiny_pretraining_model, tmp_path):
    with torch.no_grad():
        tiny_pretraining_model.itm_head.weight.fill_(float("inf"))
    trainer = build_trainer(tiny_pretraining_model, tmp_path, max_skipped_steps=3, max_steps=9)
    with pytest.raises(FloatingPointError, match=r"step 1: 0, 1; step 2: 2, 3; step 3: 0, 1\. Look"):
        trainer.train()
    with pytest.raises(ValueError, match="`max_skipped_steps` must be a whole number of at least 1 and at most"):
        build_trainer(tiny_pretraining_model, tmp_path, max_skipped_steps=0)


@pytest.mark.slow
def test_skips_are_counted_over_a_resume(tiny_pretraining_model, tmp_path):
    changes = dict(max_steps=3, save_strategy="steps", save_steps=1)
    build_trainer(tiny_pretraining_model, tmp_path, "1", **changes).train()
    trainer = build_trainer(tiny_pretraining_model, tmp_path, "1", **changes)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.skipped_steps == 2


class SignalWhen(TrainerCallback):
    """Sends a signal to this process at an event of the run."""

    def __init__(self, event: str, number: int):
        setattr(self, event, lambda *arguments, **others: os.kill(os.getpid(), number))


SIGNALS = {signal.SIGTERM: TrainingTerminated, signal.SIGINT: TrainingInterrupted}


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_finishes_the_step_saves_and_stops(number, tiny_pretraining_model, tmp_path, caplog):
    begin, handler = copy_state(tiny_pretraining_model), signal.getsignal(number)

    def build(folder, callbacks=None):
        tiny_pretraining_model.load_state_dict(begin)
        return build_trainer(tiny_pretraining_model, folder, callbacks=callbacks, max_steps=4, save_total_limit=1)

    whole = build(tmp_path / "whole")
    whole.train()
    expected = copy_state(whole.model)
    with pytest.raises(SIGNALS[number]) as caught:
        build(tmp_path / "stopped", [SignalAtStep(3, number)]).train()
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    else:
        assert isinstance(caught.value, KeyboardInterrupt) and "Once more ends the run at once" in caplog.text
    assert caught.value.checkpoint == tmp_path / "stopped" / "checkpoint-3"
    assert find_damage(caught.value.checkpoint) is None
    assert signal.getsignal(number) is handler
    resumed = build(tmp_path / "stopped")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert list_changes(expected, resumed.model) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("callback", "expected", "checkpoints"),
    [
        (SignalAtStep(2, signal.SIGINT, signal.SIGINT), KeyboardInterrupt, []),
        (SignalAtStep(2, signal.SIGTERM, signal.SIGINT), KeyboardInterrupt, []),
        (SignalAtStep(2, signal.SIGINT, signal.SIGTERM), TrainingTerminated, ["checkpoint-2"]),
        (SignalAtStep(2, signal.SIGTERM, signal.SIGTERM), TrainingTerminated, ["checkpoint-2"]),
        (SignalAtStep(3, signal.SIGINT), TrainingInterrupted, ["checkpoint-3"]),  # the last step
        (SignalWhen("on_epoch_end", signal.SIGTERM), TrainingTerminated, ["checkpoint-3"]),  # after it
        (SignalWhen("on_epoch_end", signal.SIGINT), TrainingInterrupted, ["checkpoint-3"]),
        (SignalWhen("on_train_end", signal.SIGINT), KeyboardInterrupt, []),  # handed on when training has ended
    ],
    ids=["twice", "ctrl-c_second", "sigterm_second", "sigterm_twice", "last", "late_sigterm", "late_ctrl-c", "ended"],
)
def test_what_a_signal_does_depends_on_the_moment(callback, expected, checkpoints, tiny_pretraining_model, tmp_path):
    changes = dict(max_steps=3, per_device_train_batch_size=1)  # one epoch has four steps
    with pytest.raises(expected) as caught:
        build_trainer(tiny_pretraining_model, tmp_path, callbacks=[callback], **changes).train()
    assert type(caught.value) is expected
    assert sorted(path.name for path in tmp_path.iterdir()) == checkpoints


@pytest.mark.slow
def test_ctrl_c_before_the_first_step_ends_quietly(tiny_pretraining_model, tmp_path, caplog):
    trainer = build_trainer(tiny_pretraining_model, tmp_path)
    load_data = trainer.get_train_dataloader
    trainer.get_train_dataloader = lambda: os.kill(os.getpid(), signal.SIGINT) or load_data()
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.train()
    assert type(caught.value) is KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [] and caplog.text == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_ignored(tiny_pretraining_model, tmp_path):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job in the background
    try:
        trainer = build_trainer(tiny_pretraining_model, tmp_path, callbacks=[SignalAtStep(1, signal.SIGINT)])
        trainer.train()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert trainer.state.global_step == 2


@pytest.mark.slow
def test_a_stop_within_an_epoch_is_not_its_end(tiny_pretraining_model, tmp_path):
    changes = dict(max_steps=-1, num_train_epochs=2, eval_strategy="epoch", save_strategy="epoch")
    for step, evaluated in ((1, []), (2, [2])):
        folder = tmp_path / str(step)
        trainer = build_trainer(
            tiny_pretraining_model, folder, eval_rows=build_rows(1), callbacks=[SignalAtStep(step)], **changes
        )
        with pytest.raises(TrainingTerminated):
            trainer.train()
        log = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]
        assert [entry["step"] for entry in log if "eval_pointing_game_accuracy" in entry] == evaluated


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_ctrl_c_to_the_workers_too_still_saves(start, tiny_pretraining_model, tmp_path):
    """A terminal sends Ctrl-C to every process of its group."""

    class SignalToGroup(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGINT)
            time.sleep(0.5)  # one that minds it is gone before the next batch is asked for

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGINT)

    changes = dict(max_steps=3, gradient_accumulation_steps=2, dataloader_multiprocessing_context=start)
    trainer = build_trainer(
        tiny_pretraining_model, tmp_path, callbacks=[SignalToGroup()], dataloader_num_workers=1,
        dataloader_prefetch_factor=1, per_device_train_batch_size=1, **changes,
    )  # fmt: skip
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.train()
    assert caught.value.checkpoint.name == "checkpoint-2"


@pytest.mark.slow
def test_training_in_another_thread_handles_no_signal(tiny_pretraining_model, tmp_path):
    trainer = build_trainer(tiny_pretraining_model, tmp_path, max_steps=1)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 1


TWO_PROCESSES = """
import json, os, signal, sys
import torch
from testing_utils import PoisonedCollator, SignalAtStep, build_tiny_config, build_tiny_trainer, end_process
from albef_amc import AlbefForPreTraining
from albef_amc.trainer.reliability.stop_signals import TrainingInterrupted, TrainingTerminated

rank, folder = int(os.environ["RANK"]), sys.argv[1]

def train(poisoned, callbacks):
    torch.manual_seed(0)
    model = AlbefForPreTraining(build_tiny_config())
    options = dict(max_steps=3, per_device_train_batch_size=1, train_sampling_strategy="sequential")
    trainer = build_tiny_trainer(model, folder, callbacks=callbacks, **options)
    trainer.data_collator = PoisonedCollator(trainer.data_collator, poisoned)
    status = 0
    try:
        trainer.train()
    except TrainingTerminated as stopped:
        status = stopped.code
    except TrainingInterrupted as stopped:
        status = stopped.checkpoint.name
    state = model.state_dict()
    assert type(trainer.model_wrapped).__name__ == "DistributedDataParallel"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    total = float(sum(tensor.double().sum() for tensor in state.values()))
    return [status, trainer.state.global_step, trainer.skipped_steps, model.image_queue_pointer.item(), total]

results = [train("3", None), train(None, [SignalAtStep(2)] if rank == 1 else None)]
results.append(train(None, [SignalAtStep(2, signal.SIGINT)]))  # as torchrun hands Ctrl-C on
results.append(train(None, [SignalAtStep(1, signal.SIGINT if rank else signal.SIGTERM)]))
print("RESULT " + json.dumps(results), flush=True)
end_process()
"""


@pytest.mark.slow
def test_two_processes_agree_on_a_skip_and_on_stopping(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS_FOLDER))
    program = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)]
    for process in fault_tolerance.start(tmp_path, 2, program):
        assert process.wait(timeout=PATIENCE) == 0, (tmp_path / "log-0.txt").read_text()
    logs = [(tmp_path / f"log-{rank}.txt").read_text() for rank in (0, 1)]
    results = [json.loads(line[7:]) for log in logs for line in log.splitlines() if line.startswith("RESULT ")]
    assert results[0] == results[1]
    (poisoned, stopped, interrupted, both) = results[0]
    assert poisoned[:4] == [0, 3, 1, 4]  # one step of three skipped: two images of each other one in the queue
    assert "step 2 is skipped: the loss is not finite. Images: 3." in logs[1]
    assert stopped[:4] == [143, 2, 0, 4]
    assert interrupted[:4] == ["checkpoint-2", 2, 0, 4] and both[:4] == [143, 1, 0, 2]
    assert find_damage(tmp_path / "checkpoint-2") is None


@pytest.fixture
def endless_recipe(tmp_path, tiny_pretraining_model):
    """A run that ends only when it is stopped."""
    tiny_pretraining_model.config.to_json_file(tmp_path / "tiny.json")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"""
        model: {{config: {tmp_path / "tiny.json"}, vocabulary: data}}
        train_data: {{name: synthetic, split: train, num_train_scenes: 8, num_validation_scenes: 4, num_test_scenes: 4,
                      cache_dir: {tmp_path / "cache"}}}
        training: {{max_steps: 100000, per_device_train_batch_size: 2, max_length: 24, save_steps: 1, use_cpu: true,
                    save_total_limit: 1, disable_tqdm: true}}
        """
    )
    return recipe


def start_command(program: list[str], recipe, folder) -> subprocess.Popen:
    words = ["train", str(recipe), "--output-dir", str(folder)]
    return subprocess.Popen([sys.executable, *program, *words], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]
)
def test_the_command_ends_with_the_status_of_its_signal_and_says_how_to_resume(
    number, status, name, endless_recipe, tmp_path
):
    folder = tmp_path / "run"
    process = start_command(["-m", "albef_amc.cli.main"], endless_recipe, folder)
    fault_tolerance.wait_for(tmp_path, [process], lambda: any(folder.glob("checkpoint-*")))
    process.send_signal(number)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == status, error[-2000:]
    (checkpoint,) = folder.glob("checkpoint-*")
    assert f"stopped by {name}; {checkpoint} is saved. Continue with the same command and `--resume`" in error
    assert "Traceback" not in error and not (folder / ".lock").exists()
    assert find_damage(checkpoint) is None


# The command takes its folder, says so with a file, and waits where it would build the model.
HELD_BEFORE_TRAINING = """
import sys, time
from pathlib import Path
from albef_amc import AlbefForPreTraining
from albef_amc.cli.main import main

def wait(model, config):
    Path(sys.argv[1]).touch()
    time.sleep(600)

AlbefForPreTraining.__init__ = wait
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_ctrl_c_before_training_ends_the_command_silently(endless_recipe, tmp_path):
    waits = tmp_path / "waits"
    process = start_command(["-c", HELD_BEFORE_TRAINING, str(waits)], endless_recipe, tmp_path / "run")
    assert fault_tolerance.wait_for(tmp_path, [process], waits.is_file)
    assert (tmp_path / "run" / ".lock").is_file()
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130, error[-2000:]
    assert "Traceback" not in error and "resume" not in error
    assert not (tmp_path / "run").exists()
