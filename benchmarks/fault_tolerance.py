# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A small run of `albef-amc train` is killed at random moments and resumed until it ends: are its bits the same?

    python benchmarks/fault_tolerance.py                  # 60 kills on one process, 40 on two: half an hour or more

A kill is SIGKILL to every process of the command, one shortly after the other, at any moment of its life: during the
imports, before the first checkpoint, in a step, in a save, after the last checkpoint. A seed draws the moments, in one
of four ways (`WAYS`), since imports take most of the time of so small a run. Dropout, augmentation,
accumulation, an evaluation and a save every other step are on. The weights, momentum copies, queues and numbers of the
run must be those of an uninterrupted run, no step may follow the last one, and resuming the finished run once more
must change no file.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import describe_machine
from safetensors.torch import load_file

from albef_amc import AlbefConfig
from albef_amc.saving_albef import write_json
from albef_amc.trainer.reliability.run_checkpoints import get_step, list_checkpoints
from albef_amc.trainer.reliability.run_folder import END_FILE
from albef_amc.trainer.reliability.run_lock import LOCK_FILE

RESULTS_FILE = Path(__file__).parent / "results" / "fault_tolerance.json"
KILLS = {1: 60, 2: 40}  # by number of processes
KILLS_OF_A_RUN = 20
SECONDS_AT_MOST = 600
SECONDS_IN_A_SAVE, SECONDS_IN_THE_STEPS, SECONDS_AFTER_THE_LAST = 0.05, 0.3, 1.5
SAVES_AT_MOST = 4  # that a start which is killed in the steps makes before
UNINTERRUPTED = "uninterrupted"
STEPS_OF_A_SAVE = 2
# How often each way of choosing the moment is drawn.
WAYS = {"any moment": 6, "in the steps": 8, "in a save": 4, "after the last checkpoint": 2}
CHANCE_TO_END = 0.4  # that a run which only lacks its end is not killed
RECIPE = """
model: {{config: {config}, vocabulary: data}}
train_data: {{name: synthetic, split: train, num_train_scenes: 12, num_validation_scenes: 4, num_test_scenes: 4,
              cache_dir: {cache}}}
evaluation_data: {{split: validation}}
training: {{max_steps: {steps}, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 1e-3,
            max_length: 24, mask_size: 16, logging_steps: 1, save_strategy: steps, save_steps: {save},
            save_total_limit: 2, eval_strategy: steps, eval_steps: 3, use_cpu: true, disable_tqdm: true,
            dataloader_pin_memory: false}}
"""


def write_recipe(folder: Path, steps: int) -> Path:
    """A recipe of a model with two vision blocks, three text layers with dropout and 32 x 32 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    part = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4)
    vision = dict(part, num_hidden_layers=2, image_size=32, patch_size=8)
    text = dict(part, num_hidden_layers=3, fusion_layer=1, max_position_embeddings=32)
    config = AlbefConfig(
        vision_config=vision, text_config=text, projection_dim=16, explanation_layer=1, explanation_block=1,
        queue_size=32,
    )  # fmt: skip
    config.to_json_file(folder / "small.json")
    recipe = folder / "small.yaml"
    recipe.write_text(
        RECIPE.format(config=folder / "small.json", cache=folder / "cache", steps=steps, save=STEPS_OF_A_SAVE)
    )
    return recipe


def build_command(recipe: Path, folder: Path, *settings: str) -> list[str]:
    """The command that begins or resumes the run in a folder."""
    words = [word for setting in settings for word in ("--set", setting)]
    program = [sys.executable, "-m", "albef_amc.cli.main", "train", str(recipe)]
    return [*program, "--output-dir", str(folder), "--resume", *words]


def start(logs: Path, processes: int, command: list[str]) -> list[subprocess.Popen]:
    """Starts a command in `processes` processes of its own, as a launcher does; their output goes to a folder."""
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(processes):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        group = {name: str(value) for name, value in places.items()} if processes > 1 else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", **group}
        with (logs / f"log-{rank}.txt").open("ab") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return started


def wait_for(logs: Path, started: list[subprocess.Popen], is_reached) -> bool:
    """Waits until `is_reached()`, or until the command has ended, which returns False."""
    deadline = time.monotonic() + SECONDS_AT_MOST
    while not is_reached():
        if all(process.poll() is not None for process in started):
            return False
        if time.monotonic() > deadline:
            kill(started)
            raise TimeoutError(f"nothing happened in {SECONDS_AT_MOST} s; see the logs in {logs}")
        time.sleep(0.002)
    return True


def kill(started: list[subprocess.Popen]) -> None:
    """SIGKILL to every process of a command."""
    for process in started:
        process.send_signal(signal.SIGKILL)
    for process in started:
        process.wait()


def finish(logs: Path, started: list[subprocess.Popen]) -> None:
    """Waits for the end of a command, which must be a good one."""
    if any(process.wait(timeout=SECONDS_AT_MOST) != 0 for process in started):
        raise RuntimeError((logs / "log-0.txt").read_text()[-3000:])


def read_digests(folder: Path) -> dict[str, str]:
    """Digest of every tensor of a finished run (weights, momentum copies, queues), and of its scores."""
    state = load_file(folder / "model.safetensors")
    digests = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}
    scores = json.loads((folder / "metrics.json").read_text())
    accuracies = {name: score["pointing_game_accuracy"] for name, score in scores.items() if isinstance(score, dict)}
    return {**digests, "accuracies": json.dumps(accuracies)}


def read_tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest of every file below a folder, and when it was written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def find_newest(folder: Path) -> int:
    """Step of the newest checkpoint in a folder, 0 without any."""
    return max(map(get_step, list_checkpoints(folder)), default=0)


def find_last_step(folder: Path) -> int:
    """The newest step that a checkpoint or the log of a finished run has."""
    steps = [find_newest(folder)]
    if (folder / END_FILE).is_file():
        state = json.loads((folder / "trainer_state.json").read_text())
        steps += [state["global_step"], *(entry["step"] for entry in state["log_history"])]
    return max(steps)


class Life:
    """One start of the command in a folder, and how far it is."""

    def __init__(self, folder: Path, logs: Path, processes: int, steps: int, command: list[str]):
        self.folder, self.logs, self.steps = folder, logs, steps
        self.began, self.first = time.time(), find_newest(folder)
        self.started = start(logs, processes, command)

    def end(self) -> float:
        """Waits for the end of the command; returns the seconds that it took."""
        finish(self.logs, self.started)
        return self.seconds

    @property
    def seconds(self) -> float:
        return time.time() - self.began

    def has_begun(self) -> bool:
        """Whether this process has taken the folder: imports and the reading of the recipe are over."""
        lock = self.folder / LOCK_FILE
        return lock.is_file() and lock.stat().st_mtime >= self.began

    def is_saving(self) -> bool:
        parts = [*self.folder.glob(".unfinished*"), *self.folder.glob(".replaced-*")]
        return self.has_begun() and any(path.exists() for path in parts)

    def has_saved(self, count: int) -> bool:
        """Whether this process has made a number of checkpoints, or the last one."""
        steps = min(self.first + count * STEPS_OF_A_SAVE, self.steps)
        return self.has_begun() and find_newest(self.folder) >= steps

    def is_after_the_last_checkpoint(self) -> bool:
        return self.has_begun() and (self.folder / f"checkpoint-{self.steps}").is_dir()

    def describe(self) -> str:
        """The moment, in words."""
        if not self.has_begun():
            return "before the run takes its folder"
        if self.is_after_the_last_checkpoint():
            return "after the last checkpoint"
        if self.is_saving():
            return "in a save"
        return "between checkpoints" if list_checkpoints(self.folder) else "before the first checkpoint"

    def reach(self, way: str, draws: random.Random, usual_seconds: float) -> bool:
        """Waits for the moment to kill at; False if the command ended by itself."""
        if way == "in the steps":
            count = draws.randint(0, SAVES_AT_MOST)
            reached, pause = lambda: self.has_saved(count), draws.uniform(0, SECONDS_IN_THE_STEPS)
        elif way == "in a save":
            reached, pause = self.is_saving, draws.uniform(0, SECONDS_IN_A_SAVE)
        elif way == "after the last checkpoint":
            reached, pause = self.is_after_the_last_checkpoint, draws.uniform(0, SECONDS_AFTER_THE_LAST)
        else:
            end = draws.uniform(0, usual_seconds)
            reached, pause = lambda: self.seconds >= end, 0.0
        if not wait_for(self.logs, self.started, reached):
            return False
        time.sleep(pause)
        return any(process.poll() is None for process in self.started)


def kill_and_resume(
    folder: Path, recipe: Path, processes: int, steps: int, num_kills: int, usual_seconds: float, seed: int
) -> tuple[list[dict], float]:
    """Kills a run at random moments, resumes it each time, and lets it end; returns the kills and its last seconds."""
    draws, kills = random.Random(seed), []
    logs, command = folder.with_name(f"{folder.name}-logs"), build_command(recipe, folder)
    while True:
        only_lacks_end = find_newest(folder) == steps
        is_killed = len(kills) < num_kills and not (only_lacks_end and draws.random() < CHANCE_TO_END)
        way = draws.choices([*WAYS], [*WAYS.values()])[0] if is_killed else UNINTERRUPTED
        life = Life(folder, logs, processes, steps, command)
        if way == UNINTERRUPTED or not life.reach(way, draws, usual_seconds):
            return kills, life.end()
        moment, seconds = life.describe(), life.seconds
        draws.shuffle(life.started)
        kill(life.started)
        kills.append({"moment": moment, "seconds": round(seconds, 2), "newest_checkpoint": find_newest(folder)})


def measure(processes: int, num_kills: int, steps: int) -> dict:
    """Kills; whether all tensors came out equal, no step followed the last, and a finished run stayed as it was."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        recipe = write_recipe(place, steps)
        complete, logs = place / "complete", place / "complete-logs"
        for target in (complete, place / "again"):  # the second one finds the data made, as most do
            usual_seconds = Life(target, logs, processes, steps, build_command(recipe, target)).end()
        expected = read_digests(complete)
        kills, equal, last_steps, unchanged = [], [read_digests(place / "again") == expected], [], []
        while len(kills) < num_kills:
            number = len(last_steps)
            folder = place / f"killed-{number}"
            wanted = min(KILLS_OF_A_RUN, num_kills - len(kills))
            seed = 1000 * processes + number
            new, usual_seconds = kill_and_resume(folder, recipe, processes, steps, wanted, usual_seconds, seed)
            kills += new
            equal.append(read_digests(folder) == expected)
            last_steps.append(find_last_step(folder))
            before = read_tree(folder)
            finish(logs, start(logs, processes, build_command(recipe, folder)))
            unchanged.append(read_tree(folder) == before)
            words = f"equal: {equal[-1]}, last step: {last_steps[-1]} of {steps}, unchanged: {unchanged[-1]}"
            print(f"{processes} processes: {len(kills)} kills, {words}", file=sys.stderr, flush=True)
    return {
        "processes": processes,
        "steps": steps,
        "kills": kills,
        "kills_by_moment": dict(Counter(one["moment"] for one in kills).most_common()),
        "kills_by_newest_checkpoint": {
            "none": sum(one["newest_checkpoint"] == 0 for one in kills),
            "one of the run": sum(0 < one["newest_checkpoint"] < steps for one in kills),
            "the last": sum(one["newest_checkpoint"] == steps for one in kills),
        },
        "runs": len(last_steps),
        "tensors": len(expected) - 1,
        "equal": all(equal),
        "last_step": max(last_steps),
        "finished_runs_unchanged_by_resume": all(unchanged),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, help="kills for each number of processes")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path, default=RESULTS_FILE)
    arguments = parser.parse_args()
    with ThreadPoolExecutor() as pool:  # one process and two at the same time
        jobs = [pool.submit(measure, one, arguments.kills or kills, arguments.steps) for one, kills in KILLS.items()]
        runs = [job.result() for job in jobs]
    content = {
        "command": " ".join(["python", "benchmarks/fault_tolerance.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "runs": runs,
    }
    write_json(arguments.output, content)
    print(json.dumps({f"{one['processes']} processes": one["equal"] for one in content["runs"]}))


if __name__ == "__main__":
    main()
