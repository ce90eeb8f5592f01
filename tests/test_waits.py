"""How often a training step and `ground` wait for the device; see `docs/speed-and-memory.md`."""

import pytest
import torch
from pretend_device import DEVICE, PretendDevice
from testing_utils import PoisonedCollator, build_photo, build_rows, build_tiny_dataset, build_tiny_trainer
from transformers import TrainerCallback, TrainingArguments

from albef_amc.datasets_scripts.loading import stream_rows
from albef_amc.trainer import AmcConfig, AmcTrainer

WAITS_OF_A_STEP = 2
WAITS_OF_SELFEQ = 3
MOST_WAITS_WITH_A_LOG = 6
PHRASES = [["the red dog", "a cup"], ["the small blue circle left of a car", "green", "a cup on the car"]]


def check_waits(waits: dict[str, int], limit: int) -> None:
    places = "\n".join(f"{count} x {place}" for place, count in sorted(waits.items()))
    assert sum(waits.values()) <= limit, places


class CountWaits(TrainerCallback):
    """Keeps the waits of every step: with its data, and with the log of the step before."""

    def __init__(self, device: PretendDevice):
        self.device = device
        self.steps: list[dict[str, int]] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(dict(self.device.waits))
        self.device.waits.clear()


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(TrainingArguments, "device", DEVICE)
    with PretendDevice() as device:
        yield device


def build_trainer(device, model, folder, monkeypatch, **changes) -> AmcTrainer:
    """Trainer of four steps on the device, of which every second one is logged."""
    rows = build_rows()
    for row in rows:
        row["phrases"][0]["paraphrases"] = ["a big dog"]
        row["false_phrases"] = ["a small cup left of a car"]
    values = dict(max_steps=4, logging_steps=2, max_grad_norm=1.0, rows=rows)
    trainer = build_tiny_trainer(device.move(model), folder, **{**values, **changes})
    monkeypatch.setattr(trainer.accelerator.state, "device", DEVICE)
    trainer.accelerator.dataloader_config.non_blocking = AmcConfig("").accelerator_config.non_blocking  # off the CPU
    return trainer


SELFEQ = {"objectives": {"selfeq": 1.0}, "use_paraphrases": True}
FALSE_PHRASES = {"false_phrases_per_image": 1}


@pytest.fixture
def repeatable():
    """Refuses what a GPU cannot repeat, as `full_determinism` does."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "more"), [({}, 0), (SELFEQ, WAITS_OF_SELFEQ), (FALSE_PHRASES, 0)], ids=["amc", "selfeq", "false"]
)
def test_a_training_step(device, repeatable, tiny_pretraining_model, tmp_path, monkeypatch, changes, more):
    """With every loss, momentum copies and gradient clipping."""
    counter = CountWaits(device)
    trainer = build_trainer(device, tiny_pretraining_model, tmp_path, monkeypatch, callbacks=[counter], **changes)
    trainer.train()
    _, second, third, _ = counter.steps
    check_waits(second, WAITS_OF_A_STEP + more)
    check_waits(third, MOST_WAITS_WITH_A_LOG + more)


@pytest.mark.slow
def test_a_training_step_on_streamed_rows(device, tiny_pretraining_model, tmp_path, monkeypatch):
    counter, rows = CountWaits(device), stream_rows(build_tiny_dataset(build_rows()))
    values = dict(rows=rows, callbacks=[counter], max_steps=2)
    trainer = build_trainer(device, tiny_pretraining_model, tmp_path, monkeypatch, **values)
    trainer.args.dataloader_pin_memory = True  # as it is off the CPU
    trainer.train()
    check_waits(counter.steps[1], WAITS_OF_A_STEP)


class KeepWeights(TrainerCallback):
    """Keeps a weight after every step."""

    def __init__(self):
        self.weights: list[torch.Tensor] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(model.itm_head.weight.detach().clone())


@pytest.mark.slow
def test_a_step_that_is_not_finite(device, tiny_pretraining_model, tmp_path, monkeypatch):
    """The device skips it; that this was so is read in the step after it."""
    counter, kept = CountWaits(device), KeepWeights()
    values = dict(callbacks=[counter, kept], train_sampling_strategy="sequential", logging_steps=4, max_steps=3)
    trainer = build_trainer(device, tiny_pretraining_model, tmp_path, monkeypatch, **values)
    trainer.data_collator = PoisonedCollator(trainer.data_collator, "2")  # of the second step
    trainer.train()
    check_waits(counter.steps[1], WAITS_OF_A_STEP)
    first, second, third = (weight.cpu() for weight in kept.weights)
    assert torch.equal(first, second) and not torch.equal(second, third) and torch.isfinite(third).all()
    assert trainer.model.image_queue_pointer.cpu().item() == 4 and trainer.skipped_steps == 1
    assert [entry["step"] for entry in trainer.state.log_history if "skipped_steps" in entry] == [2]


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
    check_waits(device.waits, 0)
    assert outputs.heatmap.device == outputs.image_index.device == DEVICE
    torch.testing.assert_close(outputs.heatmap.cpu(), expected.heatmap, atol=1e-6, rtol=1e-4)
