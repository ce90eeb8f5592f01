"""How often a training step and `ground` wait for the device; see `docs/speed-and-memory.md`."""

import pytest
import torch
from pretend_device import DEVICE, PretendDevice
from testing_utils import build_photo, build_tiny_trainer
from transformers import TrainerCallback, TrainingArguments

from albef_amc.trainer import AmcConfig

MOST_WAITS_OF_A_STEP = 6
MOST_WAITS_OF_GROUND = 0
PHRASES = [["the red dog", "a cup"], ["the small blue circle left of a car", "green", "a cup on the car"]]


def check_waits(waits: dict[str, int], limit: int) -> None:
    places = "\n".join(f"{count} x {place}" for place, count in sorted(waits.items()))
    assert sum(waits.values()) <= limit, places


class CountWaits(TrainerCallback):
    """Keeps the waits between one log and the next: those of a step, with its data and its log."""

    def __init__(self, device: PretendDevice):
        self.device = device
        self.steps: list[dict[str, int]] = []

    def on_log(self, args, state, control, **kwargs):
        self.steps.append(dict(self.device.waits))
        self.device.waits.clear()


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(TrainingArguments, "device", DEVICE)
    with PretendDevice() as device:
        yield device


def test_a_training_step(device, tiny_pretraining_model, tmp_path, monkeypatch):
    """With every loss, momentum copies, gradient clipping, and a log."""
    model, counter = device.move(tiny_pretraining_model), CountWaits(device)
    trainer = build_tiny_trainer(model, tmp_path, callbacks=[counter], max_steps=3, max_grad_norm=1.0)
    monkeypatch.setattr(trainer.accelerator.state, "device", DEVICE)
    trainer.accelerator.dataloader_config.non_blocking = AmcConfig("").accelerator_config.non_blocking  # off the CPU
    trainer.train()
    check_waits(counter.steps[1], MOST_WAITS_OF_A_STEP)


@pytest.mark.parametrize("kind", ["itm", "itc"])
@pytest.mark.parametrize("chunk", [2, 32])
@pytest.mark.parametrize("moves_phrases", [False, True])
def test_ground(device, tiny_model, tiny_processor, kind, chunk, moves_phrases):
    """Whether or not the phrases are on the device too, where their layout comes from the processor."""
    images = [build_photo(), build_photo(seed=1)]
    inputs = dict(tiny_processor(images=images, text=PHRASES, return_tensors="pt"))
    expected = tiny_model.ground(**inputs, explanation_kind=kind, phrases_per_chunk=chunk)
    moved = ("pixel_values", "input_ids", "attention_mask", "image_index") if moves_phrases else ("pixel_values",)
    inputs |= {name: device.send(inputs[name]) for name in moved}
    model = device.move(tiny_model)
    outputs = model.ground(**inputs, explanation_kind=kind, phrases_per_chunk=chunk, check_finite=False)
    check_waits(device.waits, MOST_WAITS_OF_GROUND)
    assert outputs.heatmap.device == outputs.image_index.device == DEVICE
    torch.testing.assert_close(outputs.heatmap.cpu(), expected.heatmap, atol=1e-6, rtol=1e-4)
