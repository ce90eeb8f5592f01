# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A small run is killed at random moments and resumed until it ends; its weights must be those of a run left alone.

    python benchmarks/survival.py                          # 20 kills on one process, 20 on two: ten minutes or more
    python benchmarks/survival.py run FOLDER --steps 12    # the run itself; also in several processes

Dropout, augmentation, accumulation, an evaluation and a save every other step are on. A kill is SIGKILL to every
process of the run, one shortly after the other.
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
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from PIL import Image
from transformers import TrainerCallback

from albef_amc import AlbefConfig, AlbefForPreTraining, AlbefImageProcessor, AlbefProcessor
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.files import write_json
from albef_amc.trainer.manifests import get_step, list_checkpoints

RESULTS_FILE = Path(__file__).parent / "results" / "survival.json"
WORDS = "a the red blue green circle square triangle".split()
PROGRESS_FILE, DIGEST_FILE = "progress", "digest.json"
SECONDS_AT_MOST = 300


class SaysWhereItIs(TrainerCallback):
    """Leaves the number of the last finished step in a file."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_json(Path(args.output_dir) / PROGRESS_FILE, state.global_step)


def build_small_model() -> AlbefForPreTraining:
    """Two vision blocks, three text layers with dropout, 32 x 32 pixels."""
    part = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4)
    vision = dict(part, num_hidden_layers=2, image_size=32, patch_size=8)
    text = dict(part, num_hidden_layers=3, fusion_layer=1, vocab_size=5 + len(WORDS), max_position_embeddings=16)
    pieces = dict(cls_token_id=2, sep_token_id=3, mask_token_id=4)
    torch.manual_seed(0)
    return AlbefForPreTraining(
        AlbefConfig(
            vision_config=vision, text_config=dict(text, **pieces), projection_dim=16, explanation_layer=1,
            explanation_block=1, queue_size=32,
        )
    )  # fmt: skip


def build_small_processor() -> AlbefProcessor:
    """Words of the small run, and its image size."""
    tokenizer = build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS], model_max_length=16)
    return AlbefProcessor(AlbefImageProcessor(size={"height": 32, "width": 32}), tokenizer)


def build_small_rows(count: int = 10) -> list[dict]:
    """Pictures of noise with two phrases each."""
    rows = []
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        phrases = [
            {"phrase": f"the {WORDS[2 + (index + number) % 3]} {WORDS[5 + number]}", "boxes": [[4.0, 4.0, 24.0, 20.0]]}
            for number in range(2)
        ]
        rows.append({"image": Image.fromarray(pixels), "image_id": str(index), "phrases": phrases})
    return rows


def run(folder: Path, steps: int, accumulation: int, workers: int, persistent: bool, **changes) -> None:
    """The run, resumed where it has been before; at its end the digests of all weights, momentum copies and queues."""
    torch.set_num_threads(1)
    rows, values = build_small_rows(), dict(evaluation_values(), **changes)
    arguments = AmcConfig(
        output_dir=str(folder), max_steps=steps, gradient_accumulation_steps=accumulation, use_cpu=True,
        dataloader_num_workers=workers, dataloader_persistent_workers=persistent, dataloader_pin_memory=False,
        per_device_train_batch_size=2, learning_rate=1e-3, mask_size=16, max_length=16, logging_steps=1,
        disable_tqdm=True, **values,
    )  # fmt: skip
    trainer = AmcTrainer(
        build_small_model(), arguments, build_small_processor(), train_dataset=rows, eval_dataset=rows[:2],
        callbacks=[SaysWhereItIs()],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=True)
    if trainer.is_world_process_zero():
        state = trainer.model.state_dict()
        content = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}
        write_json(folder / DIGEST_FILE, content)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def evaluation_values() -> dict:
    """A save every other step, the newest two kept, and an evaluation every third."""
    return {
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
    }


def start(folder: Path, processes: int, words: list[str], program: list[str] | None = None) -> list[subprocess.Popen]:
    """Starts the run in `processes` processes of its own, as a launcher does."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(processes):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        group = {name: str(value) for name, value in places.items()} if processes > 1 else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", **group}
        command = [sys.executable, *(program or [str(Path(__file__).resolve())]), "run", str(folder), *words]
        with (folder / f"log-{rank}.txt").open("ab") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return started


def read_progress(folder: Path) -> int:
    """The last finished step of the run in a folder, 0 at its beginning."""
    path = folder / PROGRESS_FILE
    return json.loads(path.read_text()) if path.is_file() else 0


def has_reached(folder: Path, step: int, since: float) -> bool:
    """Whether the run in a folder has finished a step since a time; a resumed run counts from its checkpoint again."""
    path = folder / PROGRESS_FILE
    return path.is_file() and path.stat().st_mtime > since and read_progress(folder) >= step


def wait_for(folder: Path, started: list[subprocess.Popen], is_reached) -> bool:
    """Waits until `is_reached()`, or until the run has ended, which returns False."""
    deadline = time.monotonic() + SECONDS_AT_MOST
    while not is_reached():
        if all(process.poll() is not None for process in started):
            return False
        if time.monotonic() > deadline:
            kill(started)
            raise TimeoutError(f"nothing happened in {SECONDS_AT_MOST} s; see the logs in {folder}")
        time.sleep(0.002)
    return True


def kill(started: list[subprocess.Popen]) -> None:
    """SIGKILL to every process of a run."""
    for process in started:
        process.send_signal(signal.SIGKILL)
    for process in started:
        process.wait()


def finish(folder: Path, started: list[subprocess.Popen]) -> dict[str, str]:
    """Waits for the end of a run and returns the digests of its weights."""
    if any(process.wait(timeout=SECONDS_AT_MOST) != 0 for process in started):
        raise RuntimeError((folder / "log-0.txt").read_text()[-3000:])
    return json.loads((folder / DIGEST_FILE).read_text())


def survive(folder: Path, processes: int, words: list[str], num_kills: int, seed: int) -> tuple[list[dict], dict]:
    """Kills a run at random moments, resumes it each time, and lets it end."""
    draws, kills = random.Random(seed), []
    while len(kills) < num_kills:
        begin, started = time.time(), start(folder, processes, words)
        step = max(map(get_step, list_checkpoints(folder)), default=0) + draws.randint(1, 4)
        if not wait_for(folder, started, partial(has_reached, folder, step, begin)):
            break  # it ended before it could be killed
        time.sleep(draws.uniform(0, 0.3))
        draws.shuffle(started)
        kill(started)
        in_save = any(folder.glob(".unfinished-*")) or any(folder.glob(".replaced-*"))
        kills.append({"last_finished_step": read_progress(folder), "in_save": in_save})
    return kills, finish(folder, start(folder, processes, words))


def measure(processes: int, num_kills: int, steps: int) -> dict:
    """Kills, and whether every tensor came out equal."""
    words = ["--steps", str(steps), "--accumulation", "2"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = finish(folder / "whole", start(folder / "whole", processes, words))
        kills, reached = [], []
        while len(kills) < num_kills:
            seed = 100 * processes + len(reached)
            target = folder / f"killed-{len(reached)}"
            new_kills, digests = survive(target, processes, words, num_kills - len(kills), seed)
            kills += new_kills
            reached.append(digests)
            print(f"{processes} processes: {len(kills)} kills, equal: {digests == expected}", file=sys.stderr)
    return {
        "processes": processes,
        "steps": steps,
        "kills": kills,
        "kills_inside_a_save": sum(one["in_save"] for one in kills),
        "runs": len(reached),
        "tensors": len(expected),
        "equal": all(digests == expected for digests in reached),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output", type=Path, default=RESULTS_FILE)
    verbs = parser.add_subparsers(dest="verb")
    single = verbs.add_parser("run", help="the run itself")
    single.add_argument("folder", type=Path)
    single.add_argument("--steps", type=int, required=True)
    single.add_argument("--accumulation", type=int, default=1)
    single.add_argument("--workers", type=int, default=0)
    single.add_argument("--persistent", action="store_true")
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run(arguments.folder, arguments.steps, arguments.accumulation, arguments.workers, arguments.persistent)
        return
    content = {
        "command": " ".join(["python", "benchmarks/survival.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "runs": [measure(processes, arguments.kills, arguments.steps) for processes in (1, 2)],
    }
    write_json(arguments.output, content)
    print(json.dumps({f"{one['processes']} processes": one["equal"] for one in content["runs"]}))


if __name__ == "__main__":
    main()
