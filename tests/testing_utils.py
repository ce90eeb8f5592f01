"""Small models, inputs, trainers and processes for tests, and how close parity tests must come."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback

from albef_amc import AlbefConfig, AlbefForPreTraining, AlbefImageProcessor, AlbefProcessor
from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row
from albef_amc.layout_albef import PhraseLayout
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer import AmcConfig, AmcTrainer

TESTS_FOLDER = Path(__file__).parent
PROJECT_FOLDER = TESTS_FOLDER.parent
FIXTURES_FOLDER = TESTS_FOLDER / "fixtures"
GOLDEN_FOLDER = TESTS_FOLDER / "parity" / "golden"
DATA_FOLDER = Path(os.environ.get("ALBEF_AMC_DATA", PROJECT_FOLDER.parent / "shared" / "data"))

PATIENCE = 600  # seconds that a test waits for another process: a guard against hanging, never a measure of speed
FLOAT64_FACTOR = 50
RELATIVE_TOLERANCE = 1e-6
UNSTATED_TOLERANCE = 5e-6  # of the maximum, where no `conditioning.json` says what float32 can reach

WORDS = "a the red blue green circle square triangle small big left right of above below dog cup car on".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]

TINY_RECIPE = """
model:
  config: {config}
  vocabulary: data
train_data:
  name: synthetic
  split: train
  num_train_scenes: 8
  num_validation_scenes: 4
  num_test_scenes: 4
  cache_dir: {cache}
evaluation_data:
  split: validation
training:
  max_steps: 2
  per_device_train_batch_size: 4
  learning_rate: 1e-3
  max_length: 24
  logging_steps: 1
  use_cpu: true
  disable_tqdm: true
"""


def build_tiny_config(images_per_text: int = 1, **changes) -> AlbefConfig:
    """Two vision blocks, two text layers and two fusion layers (of an image), 32 x 32 pixels in 8 x 8 patches; sharp
    enough to have uneven maps."""
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    text = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, fusion_layer=2)
    text |= dict(num_hidden_layers=2 + 2 * images_per_text, images_per_text=images_per_text)
    return AlbefConfig(
        vision_config=dict(vision, image_size=32, patch_size=8, initializer_range=0.2),
        text_config=dict(
            text,
            vocab_size=len(VOCABULARY),
            max_position_embeddings=24,
            initializer_range=0.2,
            cls_token_id=2,
            sep_token_id=3,
            mask_token_id=4,
        ),
        **dict(
            dict(projection_dim=16, explanation_layer=2, explanation_block=1, queue_size=16, initializer_range=0.2),
            **changes,
        ),
    )


def build_tiny_processor() -> AlbefProcessor:
    """Processor that fits [`build_tiny_config`]."""
    tokenizer = build_tokenizer(VOCABULARY, model_max_length=24)
    return AlbefProcessor(AlbefImageProcessor(size={"height": 32, "width": 32}), tokenizer)


def build_photo(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """RGB image of smooth random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def build_batch(
    config: AlbefConfig,
    phrases_per_image: tuple[int, ...] = (2, 1),
    length: int = 6,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """Random images and phrases of 2 to `length` tokens, [CLS] first, padded to `length`; the longest comes last."""
    generator = torch.Generator().manual_seed(seed)
    text, vision = config.text_config, config.vision_config
    num_images, num_phrases = len(phrases_per_image), sum(phrases_per_image)
    input_ids = torch.randint(5, text.vocab_size, (num_phrases, length), generator=generator)
    input_ids[:, 0] = text.cls_token_id
    lengths = torch.randint(2, length + 1, (num_phrases,), generator=generator)
    lengths[-1] = length
    attention_mask = (torch.arange(length) < lengths[:, None]).long()
    shape = (num_images, vision.num_channels, *vision.image_height_width)
    return dict(
        pixel_values=torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype),
        input_ids=input_ids * attention_mask,
        attention_mask=attention_mask,
        image_index=torch.arange(num_images).repeat_interleave(torch.tensor(phrases_per_image)),
    )


def list_layout_tensors(layout: PhraseLayout) -> list[torch.Tensor]:
    """All tensors of a layout, in order."""
    found: list[torch.Tensor] = []
    layout.map_tensors(lambda values: found.append(values) or values)
    return found


def assert_same_layout(layout: PhraseLayout, expected: PhraseLayout) -> None:
    """Two layouts describe the same phrases."""
    assert isinstance(layout, PhraseLayout) and layout.num_images == expected.num_images
    grids, others = ([(one.num_rows, one.width) for one in value.groupings] for value in (layout, expected))
    assert grids == others
    for values, wanted in zip(list_layout_tensors(layout), list_layout_tensors(expected), strict=True):
        assert torch.equal(values, wanted)


def build_rows(count: int = 4, phrases: int = 2) -> list[dict]:
    """Data set rows with photographs, phrases and boxes."""
    rows = []
    for index in range(count):
        entries = [
            {
                "phrase_id": f"{index}-{number}",
                "phrase": f"the {WORDS[2 + (index + number) % 3]} {WORDS[5 + number % 3]}",
                "boxes": [[4.0 + number, 4.0, 24.0, 20.0 + number]],
                "types": ["odd" if number % 2 else "even"],
            }
            for number in range(phrases)
        ]
        rows.append(
            dict(
                image=build_photo(seed=index), image_id=str(index), width=40, height=30, proposals=[], phrases=entries
            )
        )
    return rows


def build_tiny_dataset(rows: list[dict]) -> datasets.Dataset:
    """Rows as a data set; what they lack is None."""
    columns = {name: [row.get(name) for row in rows] for name in GROUNDING_FEATURES}
    columns["image"] = [build_photo() for _ in rows]
    entries = GROUNDING_FEATURES["phrases"].feature
    columns["phrases"] = [[{name: phrase.get(name) for name in entries} for phrase in row["phrases"]] for row in rows]
    return datasets.Dataset.from_dict(columns, features=GROUNDING_FEATURES)


def build_table(count: int, phrases_per_row: int = 3) -> datasets.Dataset:
    """Images with three phrases each, in rows of `phrases_per_row` of them; the rows of an image follow each other."""
    rows = []
    for row in build_rows(count, phrases=3):
        entries = [build_phrase(**entry) for entry in row["phrases"]]
        parts = [entries[begin : begin + phrases_per_row] for begin in range(0, len(entries), phrases_per_row)]
        rows += [build_row(row["image"], row["image_id"], 40, 30, part) for part in parts]
    return datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)


def write_parquet(folder: Path, table: datasets.Dataset, num_shards: int = 3) -> Path:
    """Writes a table as Parquet files with row groups of two rows."""
    folder.mkdir(parents=True)
    for number in range(num_shards):
        name = f"train-{number:05d}-of-{num_shards:05d}.parquet"
        table.shard(num_shards, number, contiguous=True).to_parquet(folder / name, batch_size=2)
    return folder


def build_tiny_arguments(folder: Path, **changes) -> AmcConfig:
    """Two steps on the CPU with two images each; every step is logged, and no checkpoint saved."""
    values = dict(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=2,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        learning_rate=1e-3,
        mask_size=16,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return AmcConfig(**{**values, **changes})


def build_tiny_trainer(
    model: torch.nn.Module,
    folder: Path,
    rows=None,
    eval_rows=None,
    processor: AlbefProcessor | None = None,
    callbacks: list[TrainerCallback] | None = None,
    peft_config=None,
    **changes,
) -> AmcTrainer:
    """Trainer of a small model on four images with two phrases each; `changes` are arguments."""
    return AmcTrainer(
        model,
        build_tiny_arguments(folder, **changes),
        build_tiny_processor() if processor is None else processor,
        train_dataset=build_rows() if rows is None else rows,
        eval_dataset=eval_rows,
        callbacks=callbacks,
        peft_config=peft_config,
    )


def build_recording_trainer(folder: Path, rows, **changes) -> AmcTrainer:
    """Trainer of a model from seed 0, two batches in a step, two epochs; `seen` lists the `row_ids` of each batch."""
    values = dict(gradient_accumulation_steps=2, num_train_epochs=2, max_steps=-1, max_length=24)
    values |= dict(save_strategy="steps", save_steps=500)
    torch.manual_seed(0)
    model = AlbefForPreTraining(build_tiny_config())
    trainer = build_tiny_trainer(model, folder, rows, **{**values, **changes})
    trainer.seen, step = [], trainer.training_step

    def note_and_step(model, inputs, *arguments):
        trainer.seen.append(inputs["row_ids"])
        return step(model, inputs, *arguments)

    trainer.training_step = note_and_step
    return trainer


def list_backward_names(tensors: list[torch.Tensor]) -> set[str]:
    """Names of the operations in the graphs of tensors, such as `IndexSelectBackward0`."""
    pending, seen = [tensor.grad_fn for tensor in tensors], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [below for below, _ in node.next_functions]
    return {node.name() for node in seen}


def copy_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers of a model as they are now."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def list_changes(before: dict[str, torch.Tensor], model: torch.nn.Module, prefix: str = "") -> list[str]:
    """Names of the weights and buffers that are not as before, bit for bit."""
    state = model.state_dict()
    return [name for name in before if name.startswith(prefix) and not torch.equal(before[name], state[name])]


def list_training_logs(trainer: AmcTrainer) -> list[dict]:
    """What a trainer logged of its steps."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


class PoisonedCollator:
    """A run's collator, with the pixels of one row not a number."""

    def __init__(self, collator, row_id: str):
        self.collator = collator
        self.row_id = row_id

    def __call__(self, rows: list[dict]) -> dict:
        batch = self.collator(rows)
        for index, row_id in enumerate(batch["row_ids"]):
            if row_id == self.row_id:
                batch["pixel_values"][index] = float("nan")
        return batch


class SignalAtStep(TrainerCallback):
    """Sends signals to this process when a step begins."""

    def __init__(self, step: int, *numbers: int):
        self.step = step
        self.numbers = numbers or (signal.SIGTERM,)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def run_train_command(capsys, *words) -> dict:
    """Runs `albef-amc train`, which must succeed; returns its JSON result."""
    capsys.readouterr()
    status = main(["train", *map(str, words), "--json"])
    streams = capsys.readouterr()
    assert status == 0, streams.err[-2000:]
    return json.loads(streams.out)


def check_refusal(words: list[str], message: str, capsys) -> None:
    """The command ends with 2, gives `message` in its last line, and prints no result."""
    capsys.readouterr()
    assert main(words) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err
    assert streams.out == ""


@contextmanager
def limit_work(seconds: float = 10) -> Iterator[None]:
    """Fails if the block makes the processor work longer for this process; what other programs do is not counted."""
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds


class Golden:
    """One folder of reference outputs, with the tolerance that its `conditioning.json` states, where it has one."""

    def __init__(self, name: str):
        self.folder = GOLDEN_FOLDER / name
        self.config = self._read("config.json")
        has_conditioning = (self.folder / "conditioning.json").is_file()
        self.conditioning = self._read("conditioning.json") if has_conditioning else None
        self.outputs = load_file(self.folder / "outputs.safetensors")
        inputs = self.folder / "inputs.safetensors"
        self.inputs = load_file(inputs) if inputs.is_file() else {}

    def _read(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def tolerance(self, name: str) -> float:
        """The larger of 50 times the stated float64 difference and 1e-6 of the stated maximum; 5e-6 of the reference's
        maximum where nothing is stated."""
        if self.conditioning is None:
            return UNSTATED_TOLERANCE * self.outputs[name].abs().max().item()
        stated = self.conditioning[name]
        return max(FLOAT64_FACTOR * stated["max_abs_diff_vs_float64"], RELATIVE_TOLERANCE * stated["max_abs_value"])

    def check(self, name: str, value: torch.Tensor) -> None:
        """Fails unless `value` agrees with the reference called `name`; integers exactly."""
        expected = self.outputs[name]
        value = value.detach().reshape(expected.shape)
        if not expected.is_floating_point():
            assert torch.equal(value, expected), name
            return
        difference = (value.float() - expected).abs().max().item()
        assert difference <= self.tolerance(name), f"{name}: {difference:.3g} > {self.tolerance(name):.3g}"


def build_environment(**changes: str) -> dict[str, str]:
    """Environment of a Python process that is offline, has one thread and may import the modules of this folder."""
    fixed = dict(PYTHONPATH=str(TESTS_FOLDER), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    return {**os.environ, **fixed, **changes}


def launch_two_processes(script: str, *arguments: str, returncode: int = 0) -> str:
    """Runs a script of this folder on two processes, which must end with `returncode`; returns its standard error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(TESTS_FOLDER / script), *arguments],
        env=build_environment(DS_ACCELERATOR="cpu"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == returncode, done.stderr[-4000:]
    return done.stderr


def end_process() -> None:
    """Closes the process group and ends the process at once: the interpreter's own teardown sometimes aborts after
    gloo, when everything that a test asks about has been written."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run_without_package(code: str, *arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Runs Python code in a fresh process in which `albef_amc` cannot be imported; returns its standard output.

    Without `environment` the process is offline.
    """
    blocker = """
        import importlib.abc, sys

        class Blocker(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("albef_amc", "modeling_albef_amc"):
                    raise ModuleNotFoundError(f"{name} is blocked in this process")

        sys.meta_path.insert(0, Blocker())
        try:
            import albef_amc
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit("albef_amc is importable: the test would prove nothing")
    """
    program = textwrap.dedent(blocker) + textwrap.dedent(code)
    own = dict(os.environ, HF_HUB_OFFLINE="1", HF_HOME=str(cwd / "hf_home"), TOKENIZERS_PARALLELISM="false")
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env=own | (environment or {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
