"""Checkpoints that are complete or refused, and resumed runs that end with the bits of an uninterrupted one."""

import copy
import errno
import hashlib
import inspect
import json
import random
import re
import shutil
import subprocess
import sys

import fault_tolerance
import numpy as np
import pytest
import torch
from testing_utils import PROJECT_FOLDER, build_rows, build_tiny_processor, build_tiny_trainer, copy_state
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from albef_amc.cli.main import main
from albef_amc.trainer import AmcTrainer, DataCollatorForGrounding, GroundingAugmentation
from albef_amc.trainer.data.epoch_dataset import EpochDataset
from albef_amc.trainer.reliability.reliable_trainer import CHECKED_TRANSFORMERS, ReliableTrainer
from albef_amc.trainer.reliability.run_checkpoints import (
    choose_checkpoint,
    clear_leftovers,
    find_damage,
    list_checkpoints,
    put_in_place,
    rotate_checkpoints,
)

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def build_trainer(model, folder, rows=None, callbacks=None, **changes) -> AmcTrainer:
    """Four steps, of which every second is saved."""
    rows = build_rows(5) if rows is None else rows
    values = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **changes}
    return build_tiny_trainer(model, folder, rows, rows[:2], callbacks=callbacks, **values)


def read_folder(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def _finished_run(_tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    build_trainer(copy.deepcopy(_tiny_models["pretraining"]), folder).train()
    return folder


@pytest.fixture
def finished_run(_finished_run, tmp_path):
    """Folder of a run with checkpoints at steps 2 and 4, a fresh copy for each test."""
    return shutil.copytree(_finished_run, tmp_path / "run")


@pytest.mark.slow
def test_a_checkpoint_is_complete_and_its_manifest_names_every_file(finished_run):
    assert sorted(path.name for path in finished_run.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    for step in (2, 4):
        folder = finished_run / f"checkpoint-{step}"
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["step"] == step and manifest["circumstances"]["world_size"] == 1
        files = {entry["name"]: entry["size"] for entry in manifest["files"]}
        assert files == {name: len(data) for name, data in read_folder(folder).items() if name != "manifest.json"}
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= {*files}
        assert find_damage(folder) is None


def test_private_methods_of_transformers_are_overridden_in_one_class_with_their_parameters():
    assert AmcTrainer.__mro__[:3] == (AmcTrainer, ReliableTrainer, Trainer)
    private = {name for name in vars(Trainer) if name.startswith("_") and not name.startswith("__")}
    assert not private & {*vars(AmcTrainer)}
    overridden = sorted(private & {*vars(ReliableTrainer)})
    assert "_save_checkpoint" in overridden and "_run_epoch" in overridden
    for name in overridden:
        theirs, ours = (inspect.signature(getattr(owner, name)).parameters for owner in (Trainer, ReliableTrainer))
        takes_the_rest = any(parameter.kind == parameter.VAR_KEYWORD for parameter in ours.values())
        named = {parameter.name for parameter in ours.values() if parameter.kind not in VARIADIC}
        assert named <= {*theirs} and (takes_the_rest or named == {*theirs}), name
    pinned = re.search(r"^transformers==(\S+)$", (PROJECT_FOLDER / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned[1] in CHECKED_TRANSFORMERS


def change_manifest(change):
    """A damage: the manifest is changed, and agrees with the files that are left."""

    def damage(folder):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return damage


def forget(*names):
    """A damage: files that are neither in the folder nor in its manifest."""

    def damage(folder):
        for name in names:
            (folder / name).unlink()
        keep = change_manifest(
            lambda manifest: manifest.update(files=[one for one in manifest["files"] if one["name"] not in names])
        )
        keep(folder)

    return damage


def rewrite(name, content: bytes):
    """A damage: another content, of which the manifest knows size and digest."""
    entry = {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def damage(folder):
        (folder / name).write_bytes(content)
        change_manifest(
            lambda manifest: manifest.update(files=[entry, *(one for one in manifest["files"] if one["name"] != name)])
        )(folder)

    return damage


def change_first_file(**values):
    return change_manifest(lambda manifest: manifest["files"][0].update(values))


def set_world_size(value):
    return change_manifest(lambda manifest: manifest["circumstances"].update(world_size=value))


def flip_last_byte(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


DAMAGES = {
    "missing": (lambda folder: (folder / "optimizer.pt").unlink(), r"lacks optimizer\.pt"),
    "cut": (lambda folder: (folder / "optimizer.pt").write_bytes(b"0"), r"has 1 bytes in optimizer\.pt"),
    "flipped": (lambda folder: flip_last_byte(folder / "model.safetensors"), r"other bytes in model\.safetensors"),
    "garbled": (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
    "list": (lambda folder: (folder / "manifest.json").write_text("[]"), "an invalid manifest"),
    "deep": (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "cannot be read"),
    "not UTF-8": (lambda folder: (folder / "manifest.json").write_bytes(b"\xff{"), "cannot be read"),
    "outside": (change_first_file(name="../outside"), r"lists '\.\./outside', outside the checkpoint"),
    "outside by a detour": (change_first_file(name="a/../../outside"), "outside the checkpoint"),
    "absolute": (change_first_file(name="/etc/hostname"), "lists '/etc/hostname', outside the checkpoint"),
    "name of another type": (change_first_file(name=3), "an invalid manifest"),
    "size of another type": (change_first_file(size="12"), "an invalid manifest"),
    "size that is a truth value": (change_first_file(size=True), "an invalid manifest"),
    "size below 0": (change_first_file(size=-1), "an invalid manifest"),
    "digest of another type": (change_first_file(sha256=None), "an invalid manifest"),
    "entry of another type": (change_manifest(lambda manifest: manifest["files"].append("a")), "an invalid manifest"),
    "a file twice": (change_manifest(lambda manifest: manifest["files"].append(manifest["files"][0])), "file twice"),
    "no list": (change_manifest(lambda manifest: manifest.pop("files")), "an invalid manifest"),
    "files are a mapping": (change_manifest(lambda manifest: manifest.update(files={})), "an invalid manifest"),
    "no circumstances": (change_manifest(lambda manifest: manifest.pop("circumstances")), "an invalid manifest"),
    "no files": (change_manifest(lambda manifest: manifest.update(files=[])), "lists no weights"),
    "no weights": (forget("model.safetensors"), "lists no weights"),
    "no optimizer": (forget("optimizer.pt"), "lists no state of the optimizer"),
    "no schedule": (forget("scheduler.pt"), "lists no learning rate schedule"),
    "no generators": (forget("rng_state.pth"), r"does not list rng_state\.pth"),
    "no state": (forget("trainer_state.json"), "lists no state of the run"),
    "weights alone": (
        forget("optimizer.pt", "scheduler.pt", "rng_state.pth"),
        "lists no state of the optimizer.*save_only_model",
    ),
    "empty optimizer": (rewrite("optimizer.pt", b""), "lists no state of the optimizer"),
    "optimizer is not listed": (
        change_manifest(
            lambda manifest: manifest.update(files=[one for one in manifest["files"] if "optim" not in one["name"]])
        ),
        "lists no state of the optimizer",
    ),
    "generators of one process of two": (set_world_size(2), r"does not list rng_state_0\.pth"),
    "no processes": (set_world_size(0), "an invalid manifest"),
    "too many processes": (set_world_size(10**12), "an invalid manifest"),
    "streams of one process": (rewrite("stream-1.json", b"{}"), r"does not list stream-0\.json"),
    "adapter alone": (rewrite("adapter_model.safetensors", b"1"), r"does not list pretraining_state\.safetensors"),
    "a shard is missing": (
        rewrite("model.safetensors.index.json", b'{"weight_map": {"a": "model-1.safetensors"}}'),
        r"does not list model-1\.safetensors",
    ),
    "end of another type": (change_manifest(lambda manifest: manifest.update(is_last="no")), "an invalid manifest"),
    "no step": (change_manifest(lambda manifest: manifest.pop("step")), "an invalid manifest"),
    "another step": (change_manifest(lambda manifest: manifest.update(step=2)), "manifest.json of step 2"),
    "step with a point": (change_manifest(lambda manifest: manifest.update(step=4.0)), "an invalid manifest"),
    "step as text": (change_manifest(lambda manifest: manifest.update(step="4")), "an invalid manifest"),
    "state of another step": (
        rewrite("trainer_state.json", b'{"global_step": 2}'),
        r"trainer_state\.json of step 2, and a manifest\.json of step 4",
    ),
    "state without a step": (rewrite("trainer_state.json", b"{}"), r"trainer_state\.json of step None"),
    "state that is a list": (rewrite("trainer_state.json", b"[]"), r"trainer_state\.json of step None"),
    "state that is no JSON": (rewrite("trainer_state.json", b"{"), r"trainer_state\.json that cannot be read"),
}


def test_a_folder_of_another_step_is_found(finished_run):
    (finished_run / "checkpoint-4").rename(finished_run / "checkpoint-6")
    assert find_damage(finished_run / "checkpoint-6") == "has a manifest.json of step 4"
    assert choose_checkpoint(finished_run, True) == finished_run / "checkpoint-2"


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_and_an_older_checkpoint_taken(kind, finished_run, caplog):
    damage, words = DAMAGES[kind]
    damage(finished_run / "checkpoint-4")
    with pytest.raises(ValueError, match=rf"checkpoint-4 .*{words}"):
        choose_checkpoint(finished_run, str(finished_run / "checkpoint-4"))
    assert choose_checkpoint(finished_run, True) == finished_run / "checkpoint-2"
    assert sum("is skipped" in record.getMessage() for record in caplog.records) == 1


def test_only_damaged_checkpoints_are_an_error_and_none_a_beginning(finished_run, tmp_path, caplog):
    (finished_run / "checkpoint-2" / "manifest.json").unlink()
    flip_last_byte(finished_run / "checkpoint-4" / "scheduler.pt")
    with pytest.raises(ValueError, match=r"has other bytes in scheduler\.pt.*has no manifest\.json"):
        choose_checkpoint(finished_run, True)
    assert choose_checkpoint(finished_run, str(finished_run / "checkpoint-2")) is not None
    assert "whether it is complete is not known" in caplog.text
    assert choose_checkpoint(tmp_path / "nothing", True) is None
    assert "starts from the beginning" in caplog.text
    with pytest.raises(FileNotFoundError, match="no such folder"):
        choose_checkpoint(tmp_path, str(tmp_path / "nothing"))


@pytest.mark.slow
def test_other_circumstances_are_reported(finished_run, tiny_pretraining_model, caplog):
    path = finished_run / "checkpoint-4" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["circumstances"]["threads"] = 64
    path.write_text(json.dumps(manifest))
    build_trainer(tiny_pretraining_model, finished_run).train(resume_from_checkpoint=True)
    assert "threads 64 -> 1" in caplog.text


def test_a_checkpoint_is_replaced_and_never_lost_between(tmp_path):
    for name, content in (("checkpoint-3", "old"), (".unfinished-checkpoint-3", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
    final, unfinished = tmp_path / "checkpoint-3", tmp_path / ".unfinished-checkpoint-3"
    shutil.copytree(tmp_path, tmp_path / "killed")
    put_in_place(unfinished, final)
    assert (final / "file").read_text() == "new" and [path.name for path in list_checkpoints(tmp_path)] == [final.name]

    killed = tmp_path / "killed"  # between the two renames
    (killed / "checkpoint-3").rename(killed / ".replaced-checkpoint-3")
    clear_leftovers(killed)
    assert [path.name for path in killed.iterdir()] == ["checkpoint-3"]
    assert (killed / "checkpoint-3" / "file").read_text() == "old"


@pytest.mark.slow
def test_the_same_step_is_saved_twice(tiny_pretraining_model, tmp_path):
    trainer = build_trainer(tiny_pretraining_model, tmp_path, max_steps=2)
    trainer.train()
    trainer._save_checkpoint(trainer.model, trial=None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert find_damage(tmp_path / "checkpoint-2") is None


def test_rotation_keeps_the_best_and_the_newest(tmp_path):
    for step in (1, 3, 4, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rotate_checkpoints(tmp_path / "checkpoint-4", best=str(tmp_path / "checkpoint-1"), limit=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]


@pytest.mark.slow
def test_the_best_checkpoint_is_named_as_it_is_found(tiny_pretraining_model, tmp_path):
    changes = dict(eval_strategy="steps", eval_steps=2, metric_for_best_model="pointing_game_accuracy")
    trainer = build_trainer(
        tiny_pretraining_model, tmp_path, **changes, load_best_model_at_end=True, save_total_limit=1, max_steps=2
    )
    trainer.train()
    stored = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert stored["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")


@pytest.mark.slow
def test_a_save_that_fails_leaves_what_was_there(finished_run, tiny_pretraining_model):
    before = read_folder(finished_run)
    (finished_run / ".unfinished-checkpoint-6").write_text("in the way")
    trainer = build_trainer(tiny_pretraining_model, finished_run, max_steps=6)
    with pytest.raises(OSError, match="cannot write the checkpoint; earlier ones are unchanged"):
        trainer.train(resume_from_checkpoint=True)
    (finished_run / ".unfinished-checkpoint-6").unlink()
    assert read_folder(finished_run) == before


@pytest.fixture
def disk(tmp_path):
    """Mounts a file system of a size in memory, which needs the right to."""
    mounted = []

    def mount(size: str):
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
        if done.returncode != 0:
            pytest.skip("mounting a small file system is not permitted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


class FillDisk(TrainerCallback):
    """Leaves a tenth of a megabyte of a disk after the first save."""

    def __init__(self, folder):
        self.folder = folder

    def on_save(self, args, state, control, **kwargs):
        free = shutil.disk_usage(self.folder).free
        (self.folder / "other").write_bytes(bytes(free - 100_000))


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_the_new_checkpoint_alone(tiny_pretraining_model, disk):
    folder = disk("16m")
    trainer = build_trainer(tiny_pretraining_model, folder / "run", callbacks=[FillDisk(folder)])
    with pytest.raises(OSError, match="No space left") as caught:
        trainer.train()
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in (folder / "run").iterdir()] == ["checkpoint-2"]
    assert find_damage(folder / "run" / "checkpoint-2") is None


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_seen_before_the_first_step(tiny_pretraining_model, disk):
    folder = disk("1m")
    with pytest.raises(OSError, match="need about .* GB and the disk has") as caught:
        build_trainer(tiny_pretraining_model, folder / "run").train()
    assert caught.value.errno == errno.ENOSPC
    assert list((folder / "run").iterdir()) == []


def test_the_data_path_draws_from_no_global_generator():
    collator = DataCollatorForGrounding(
        build_tiny_processor(),
        phrases_per_image=1,
        max_length=24,
        mask_size=16,
        box_choice="random",
        augmentation=GroundingAugmentation(),
        mlm_probability=0.5,
    )
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    collator([{**row, "draw": 1} for row in build_rows(4)])
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_evaluation_and_the_start_of_an_epoch_draw_from_no_global_generator(tiny_pretraining_model, tmp_path):
    trainer = build_trainer(tiny_pretraining_model, tmp_path)
    before = torch.get_rng_state()
    next(iter(trainer.get_train_dataloader()))
    trainer._evaluate(trial=None, ignore_keys_for_eval=None)
    assert torch.equal(torch.get_rng_state(), before)


def get_draws(rows: list[dict]) -> list[int]:
    return [row["draw"] for row in rows]


def test_the_epoch_reaches_workers_that_live_on():
    dataset = EpochDataset([{"image_id": "a"}] * 4)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=get_draws)
    assert list(loader) == [[0, 0], [0, 0]]
    dataset.set_epoch(3)
    assert list(loader) == [[3, 3], [3, 3]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 5, "save_steps": 2},  # in the middle of an epoch, and in the middle of the next one
        {"max_steps": 5, "save_steps": 3, "eval_strategy": "epoch"},  # where an epoch ends, before its evaluation
        {"max_steps": 3, "save_steps": 1, "gradient_accumulation_steps": 2, "max_grad_norm": 1.0},
    ],
    ids=["middle", "end_of_epoch", "accumulation"],
)
def test_a_resumed_run_sees_the_same_rows_and_ends_with_the_same_bits(changes, tiny_pretraining_model, tmp_path):
    begin = copy_state(tiny_pretraining_model)

    def train(resume):
        tiny_pretraining_model.load_state_dict(begin)
        trainer = build_trainer(tiny_pretraining_model, tmp_path, **changes)
        collator, seen = trainer.data_collator, []

        def record(rows):
            seen.append([(row["image_id"], row["draw"]) for row in rows])
            return collator(rows)

        trainer.data_collator = record
        trainer.train(resume_from_checkpoint=resume)
        return seen, copy_state(trainer.model)

    seen, expected = train(None)
    for checkpoint in list_checkpoints(tmp_path)[:-1]:
        seen_again, state = train(str(checkpoint))
        assert seen_again == seen[-len(seen_again) :], checkpoint.name
        assert [name for name in expected if not torch.equal(state[name], expected[name])] == []


def read_tree(folder) -> dict[str, tuple[bytes, int]]:
    """Bytes of every file and when it was written."""
    return {name: (data, (folder / name).stat().st_mtime_ns) for name, data in read_folder(folder).items()}


def refuse_to_step(*arguments):
    raise AssertionError("a step is taken after the end of the run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 4),  # three steps make an epoch: the run ends in the second
        ({"max_steps": 3}, 3),
        ({"max_steps": -1, "num_train_epochs": 1.5}, 5),
        ({"max_steps": -1, "num_train_epochs": 1, "save_strategy": "epoch", "eval_strategy": "epoch"}, 3),
        ({"max_steps": 2, "gradient_accumulation_steps": 2, "save_total_limit": 1}, 2),
    ],
    ids=["within_an_epoch", "end_of_an_epoch", "part_of_an_epoch", "epochs", "accumulation"],
)
def test_a_run_that_is_over_takes_no_step(changes, steps, tiny_pretraining_model, tmp_path, caplog):
    begin = copy_state(tiny_pretraining_model)
    trainer = build_trainer(tiny_pretraining_model, tmp_path, **changes)
    trainer.train()
    assert trainer.state.global_step == steps
    expected, before = copy_state(trainer.model), read_tree(tmp_path)
    for _ in range(2):
        tiny_pretraining_model.load_state_dict(begin)
        trainer = build_trainer(tiny_pretraining_model, tmp_path, **changes)
        trainer.training_step = refuse_to_step
        metrics = trainer.train(resume_from_checkpoint=True).metrics
        assert trainer.state.global_step == steps
        assert [name for name in expected if not torch.equal(trainer.model.state_dict()[name], expected[name])] == []
        assert read_tree(tmp_path) == before
        assert not [name for name in {**metrics, **trainer.state.log_history[-1]} if name.startswith("train_")]
    assert f"checkpoint-{steps} is the end of its run: no step is left to take" in caplog.text


@pytest.mark.slow
def test_a_run_that_is_over_continues_where_it_becomes_longer(finished_run, tiny_pretraining_model):
    trainer = build_trainer(tiny_pretraining_model, finished_run, max_steps=5)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 5
    assert [path.name for path in list_checkpoints(finished_run)] == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]


@pytest.mark.slow
def test_a_checkpoint_at_the_end_of_an_epoch_holds_the_evaluation_that_belongs_there(tiny_pretraining_model, tmp_path):
    changes = dict(max_steps=4, save_steps=1, eval_strategy="epoch")  # three steps make an epoch
    build_trainer(tiny_pretraining_model, tmp_path, **changes).train()
    evaluated = {}
    for checkpoint in list_checkpoints(tmp_path):
        log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
        evaluated[checkpoint.name] = [entry["step"] for entry in log if "eval_pointing_game_accuracy" in entry]
    assert evaluated == {"checkpoint-1": [], "checkpoint-2": [], "checkpoint-3": [3], "checkpoint-4": [3, 4]}


# The command stops at a moment, says so with a file, and goes no further until it is killed.
HELD_COMMAND = """
import os, sys, time
from pathlib import Path
from transformers import TrainerState
from albef_amc.cli.main import main
from albef_amc.trainer import AmcTrainer

def hold_after(owner, name, is_moment):
    function = getattr(owner, name)

    def call_and_hold(self, *arguments, **options):
        result = function(self, *arguments, **options)
        if is_moment(self, *arguments):
            Path(f"{sys.argv[1]}-{os.environ.get('RANK', 0)}").touch()
            time.sleep(600)
        return result

    setattr(owner, name, call_and_hold)

kind, place = sys.argv[2].split()
if kind == "step":
    hold_after(AmcTrainer, "training_step", lambda trainer, *_: trainer.state.global_step == int(place) - 1)
else:
    hold_after(TrainerState, "save_to_json", lambda state, path: place in path)
sys.exit(main(sys.argv[3:]))
"""


def kill_at(moment: str, folder, processes: int, command: list[str]) -> None:
    """Starts a command and kills it at a moment: "step NUMBER", or "save FOLDER", after its state is written."""
    logs, reached = folder.with_name("logs"), folder.with_name(f"at {moment}")
    words = command[command.index("train") :]
    held = [sys.executable, "-c", HELD_COMMAND, str(reached), moment, *words]
    started = fault_tolerance.start(logs, processes, held)
    files = [reached.with_name(f"{reached.name}-{rank}") for rank in range(processes)]
    are_there = fault_tolerance.wait_for(logs, started, lambda: all(file.exists() for file in files))
    fault_tolerance.kill(started)
    assert are_there, (logs / "log-0.txt").read_text()[-2000:]


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_in_a_step_and_in_a_save_ends_with_the_same_bits(tmp_path):
    recipe = fault_tolerance.write_recipe(tmp_path, steps=6)
    workers = ["dataloader_num_workers=2", "dataloader_persistent_workers=true"]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    command = fault_tolerance.build_command(recipe, folder, *workers)
    kill_at("step 1", folder, 1, command)
    assert (folder / "recipe.json").is_file() and not list_checkpoints(folder)
    kill_at("step 4", folder, 1, command)
    assert fault_tolerance.find_newest(folder) == 2
    unfinished = folder / ".unfinished-checkpoint-6"
    kill_at(f"save {unfinished.name}", folder, 1, command)
    assert unfinished.is_dir() and not (folder / "checkpoint-6").exists()
    assert main(command[command.index("train") :]) == 0
    command = fault_tolerance.build_command(recipe, whole, *workers)
    assert main(command[command.index("train") :]) == 0
    digests = fault_tolerance.read_digests(whole)
    assert len(digests) > 200 and fault_tolerance.read_digests(folder) == digests
    assert not list(folder.glob(".*")) and fault_tolerance.find_last_step(folder) == 6


@pytest.mark.slow
def test_a_run_on_two_processes_ends_with_the_same_bits(tmp_path):
    recipe = fault_tolerance.write_recipe(tmp_path, steps=6)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    for target in (whole, folder):
        command = fault_tolerance.build_command(recipe, target, "dataloader_num_workers=1")
        if target == folder:
            kill_at("step 5", folder, 2, command)
            assert fault_tolerance.find_newest(folder) == 4
        fault_tolerance.finish(tmp_path / "logs", fault_tolerance.start(tmp_path / "logs", 2, command))
    assert fault_tolerance.read_digests(folder) == fault_tolerance.read_digests(whole)
