"""An epoch over phrases: every phrase once, grouped differently in each epoch, reproducible from the seed."""

import datasets
import numpy as np
import pytest
import torch
from testing_utils import build_rows

from albef_amc.datasets_scripts import GROUNDING_FEATURES
from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.true_phrases import list_true_phrases
from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.data.epoch_dataset import EpochDataset
from albef_amc.trainer.data.phrase_epochs import PhraseEpochDataset, build_epoch_dataset, count_phrases

COUNTS = (3, 0, 1, 5)


def build_plain_rows() -> list[dict]:
    return [
        {"image_id": str(index), "phrases": [{"phrase_id": f"{index}-{number}"} for number in range(count)]}
        for index, count in enumerate(COUNTS)
    ]


def list_ids(rows: PhraseEpochDataset) -> list[list[str]]:
    return [[phrase["phrase_id"] for phrase in rows[index]["phrases"]] for index in range(len(rows))]


@pytest.mark.parametrize(("size", "num_rows"), [(1, 9), (2, 6), (4, 4), (9, 3)])
def test_an_epoch_sees_every_phrase_once(size, num_rows):
    rows = PhraseEpochDataset(build_plain_rows(), phrases_per_row=size)
    parts = list_ids(rows)
    assert len(rows) == num_rows
    assert all(0 < len(part) <= size for part in parts)
    everything = [phrase["phrase_id"] for row in build_plain_rows() for phrase in row["phrases"]]
    assert sorted(name for part in parts for name in part) == sorted(everything)
    assert all(len({name.partition("-")[0] for name in part}) == 1 for part in parts)
    assert rows[-1] == rows[len(rows) - 1]
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_rows_of_an_image_and_epochs_draw_differently():
    rows = PhraseEpochDataset(build_plain_rows(), phrases_per_row=2)
    draws = {(row["image_id"], row["draw"]) for row in (rows[index] for index in range(len(rows)))}
    first = list_ids(rows)
    rows.set_epoch(1)
    draws |= {(row["image_id"], row["draw"]) for row in (rows[index] for index in range(len(rows)))}
    assert len(draws) == 2 * len(rows)
    assert list_ids(rows) != first
    again = PhraseEpochDataset(build_plain_rows(), phrases_per_row=2)
    assert list_ids(again) == first
    assert list_ids(PhraseEpochDataset(build_plain_rows(), phrases_per_row=2, seed=1)) != first


def test_phrases_of_a_data_set_are_counted_as_those_of_a_list():
    rows = [
        build_row(None, str(index), 4, 4, [build_phrase(number, "a dog") for number in range(count)])
        for index, count in enumerate(COUNTS)
    ]
    dataset = datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)
    assert count_phrases(dataset).tolist() == count_phrases(rows).tolist() == list(COUNTS)
    assert count_phrases(dataset.select([3, 1])).tolist() == [5, 0]
    assert count_phrases(dataset.select([])).dtype == np.int64
    assert len(PhraseEpochDataset(dataset.select([]), 2)) == 0


@pytest.mark.slow
def test_the_setting_chooses_what_an_epoch_is(tiny_pretraining_model, tiny_processor, tmp_path):
    values = dict(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2, num_train_epochs=1)
    values.update(mask_size=16, report_to="none", save_strategy="no", dataloader_pin_memory=False, disable_tqdm=True)
    lengths = {}
    for unit, drawn in (("image", 1), ("phrase", 1), ("phrase", 2), ("phrase", None)):
        arguments = AmcConfig(**values, epoch_unit=unit, phrases_per_image=drawn)
        trainer = AmcTrainer(tiny_pretraining_model, arguments, tiny_processor, train_dataset=build_rows(4, phrases=3))
        lengths[unit, drawn] = len(trainer.train_dataset)
    assert lengths == {("image", 1): 4, ("phrase", 1): 12, ("phrase", 2): 8, ("phrase", None): 4}
    arguments = AmcConfig(**values, epoch_unit="phrase", phrases_per_image=2)
    trainer = AmcTrainer(tiny_pretraining_model, arguments, tiny_processor, train_dataset=build_rows(4, phrases=3))
    trainer.train()
    assert trainer.state.global_step == 4
    assert np.isfinite(trainer.state.log_history[-1]["train_loss"])


def test_iterable_data_has_no_phrases_to_count(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(build_rows())

    arguments = AmcConfig(output_dir=str(tmp_path), use_cpu=True, epoch_unit="phrase", phrases_per_image=1)
    with pytest.raises(ValueError, match="`epoch_unit='phrase'` needs rows that can be counted"):
        build_epoch_dataset(Stream(), arguments)
    arguments.epoch_unit = "image"
    stream, rows = Stream(), EpochDataset(build_rows())
    assert build_epoch_dataset(stream, arguments) is stream
    assert build_epoch_dataset(rows, arguments) is rows
    with pytest.raises(ValueError, match="`epoch_unit` must be one of 'image', 'phrase'"):
        AmcConfig(output_dir=str(tmp_path), use_cpu=True, epoch_unit="row")


def test_phrases_that_are_in_other_rows_stay_true_of_the_image():
    phrases = [{"phrase": "a dog", "paraphrases": ["a puppy"]}, {"phrase": "a cat"}]
    rows = PhraseEpochDataset([{"image_id": "0", "phrases": phrases, "true_phrases": ["fur"]}], phrases_per_row=1)
    assert [len(rows[index]["phrases"]) for index in range(2)] == [1, 1]
    assert all(list_true_phrases(rows[index]) == {"a dog", "a puppy", "a cat", "fur"} for index in range(2))
