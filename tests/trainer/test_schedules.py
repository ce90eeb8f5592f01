"""`albef_cosine` over a run: the order of the released loop, short runs, resume, settings that contradict it."""

import logging
import math

import pytest
import torch
from testing_utils import build_rows, build_tiny_trainer

from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.schedules import AlbefCosine, AlbefCosineScheduler

PUBLISHED = AlbefCosine(epochs=30, min_learning_rate=1e-6, warmup_learning_rate=1e-6)


def build_scheduler(schedule: AlbefCosine, steps_per_epoch: int) -> AlbefCosineScheduler:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=1e-5)
    return AlbefCosineScheduler(optimizer, schedule, steps_per_epoch)


def walk(scheduler: AlbefCosineScheduler, num_steps: int) -> list[float]:
    """Learning rate that each of the next steps is taken with."""
    rates = []
    for _ in range(num_steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def simulate_released_loop(steps_per_epoch: int, num_epochs: int) -> list[float]:
    """Rates of the released training loop with its published values, written from its description.

    Its argument t is set before an epoch and after a step. For t < 20 the rate is 1e-6 + t * 4.5e-7, so that t = 20
    gives 1e-5; then it is the cosine 5.5e-6 + 4.5e-6 cos(pi (t - 20) / 30).
    """
    rates, t = [], 0
    for epoch in range(num_epochs):
        if epoch > 0:
            t = epoch + 20
        for step in range(steps_per_epoch):
            rates.append(1e-6 + t * 4.5e-7 if t < 20 else 5.5e-6 + 4.5e-6 * math.cos(math.pi * (t - 20) / 30))
            interval, rest = divmod(step, 100)
            if epoch == 0 and rest == 0 and interval <= 20:
                t = interval
    return rates


@pytest.mark.parametrize("steps_per_epoch", [2500, 2000, 700])
def test_every_step_has_the_rate_of_the_released_loop(steps_per_epoch):
    rates = walk(build_scheduler(PUBLISHED, steps_per_epoch), 3 * steps_per_epoch)
    assert rates == pytest.approx(simulate_released_loop(steps_per_epoch, num_epochs=3), rel=1e-12)
    assert rates[0] == 1e-6
    assert max(rates[:steps_per_epoch]) == (1e-5 if steps_per_epoch > 2000 else rates[steps_per_epoch - 1])


def test_the_cosine_ends_with_its_epochs_and_stays():
    schedule = AlbefCosine(epochs=2, min_learning_rate=1e-6, warmup_learning_rate=1e-6, warmup_intervals=0)
    rates = walk(build_scheduler(schedule, steps_per_epoch=2), 8)
    assert rates[:2] == [1e-5, 1e-5]
    assert rates[2:4] == pytest.approx([5.5e-6, 5.5e-6])
    assert rates[4:] == [1e-6] * 4


def test_a_resumed_scheduler_continues_where_it_stopped():
    schedule = AlbefCosine(3, 1e-6, 1e-6, warmup_intervals=2, warmup_interval_steps=2)
    whole = walk(build_scheduler(schedule, steps_per_epoch=6), 18)
    first = build_scheduler(schedule, steps_per_epoch=6)
    assert walk(first, 5) == whole[:5]
    second = build_scheduler(schedule, steps_per_epoch=6)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    state = first.state_dict()
    assert all(isinstance(value, (int, float, bool, list)) for value in state.values()), state
    second.load_state_dict(state)
    assert walk(second, 13) == whole[5:]


def build_trainer(model, folder, **changes) -> AmcTrainer:
    schedule = dict(lr_scheduler="albef_cosine", min_learning_rate=1e-4, warmup_learning_rate=1e-4)
    schedule |= dict(warmup_intervals=2, warmup_interval_steps=1)
    return build_tiny_trainer(
        model, folder, build_rows(8), **{"max_steps": -1, "num_train_epochs": 3, **schedule, **changes}
    )


def get_rates(trainer: AmcTrainer) -> list[float]:
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


@pytest.mark.slow
def test_a_run_follows_the_schedule_and_its_resume_too(tiny_pretraining_model, tmp_path):
    trainer = build_trainer(tiny_pretraining_model, tmp_path, save_strategy="steps", save_steps=5)
    trainer.train()
    # Three epochs of four steps: from 1e-4 to 1e-3 in two intervals of one step, of which the first has one more; then
    # 5.5e-4 + 4.5e-4 cos(pi e / 3) in epoch e, whose cosines are 1/2 and -1/2.
    expected = [1e-4, 1e-4, 5.5e-4, 1e-3, *[7.75e-4] * 4, *[3.25e-4] * 4]
    assert get_rates(trainer) == pytest.approx(expected)
    resumed = build_trainer(tiny_pretraining_model, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert get_rates(resumed) == pytest.approx(expected)


@pytest.mark.slow
def test_a_run_cut_short_has_the_rates_of_the_whole_run(tiny_pretraining_model, tmp_path, caplog):
    trainer = build_trainer(tiny_pretraining_model, tmp_path, max_steps=3, warmup_interval_steps=100)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert get_rates(trainer) == pytest.approx([1e-4] * 3)
    assert "warm-up" not in caplog.text


@pytest.mark.slow
def test_an_epoch_shorter_than_the_warm_up_is_reported(tiny_pretraining_model, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("albef_amc.trainer.schedules.logger.warning", said.append)
    trainer = build_trainer(tiny_pretraining_model, tmp_path, max_steps=6, warmup_interval_steps=100)
    trainer.train()
    assert len(said) == 1 and "An epoch has 4 steps and the warm-up 200" in said[0]
    assert "`warmup_interval_steps` to 2" in said[0]
    # The first epoch ends at the first rate of the warm-up; the second begins with the cosine's second.
    assert get_rates(trainer)[3:5] == pytest.approx([1e-4, 1e-4 + 0.45e-3 * 1.5])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(lr_scheduler="albef_cosin"), "`lr_scheduler` must be one of None, 'albef_cosine'"),
        (dict(lr_scheduler="albef_cosine", warmup_steps=0.1), "Set `warmup_intervals`"),
        (dict(warmup_interval_steps=0), "`warmup_interval_steps` must be a whole number of at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        AmcConfig(output_dir=str(tmp_path), use_cpu=True, **changes)
