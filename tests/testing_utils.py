"""Small models, processors and inputs for tests, and how close parity tests must come."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from albef_amc import AlbefConfig, AlbefImageProcessor, AlbefProcessor
from albef_amc.layout_albef import PhraseLayout
from albef_amc.text_processing_albef import build_tokenizer

PROJECT_FOLDER = Path(__file__).parents[1]
FIXTURES_FOLDER = Path(__file__).parent / "fixtures"
GOLDEN_FOLDER = Path(__file__).parent / "parity" / "golden"
DATA_FOLDER = Path(os.environ.get("ALBEF_AMC_DATA", PROJECT_FOLDER.parent / "shared" / "data"))

PATIENCE = 600  # seconds that a test waits for another process: a guard against hanging, never a measure of speed
FLOAT64_FACTOR = 50
RELATIVE_TOLERANCE = 1e-6
UNSTATED_TOLERANCE = 5e-6  # of the maximum, where no `conditioning.json` says what float32 can reach

WORDS = "a the red blue green circle square triangle small big left right of above below dog cup car on".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


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
