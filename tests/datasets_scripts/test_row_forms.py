# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Rows as people hold them: data sets in any format, undecoded images, rows without ids and types."""

import copy
import io

import datasets
import evaluate
import numpy as np
import pytest
import torch
from testing_utils import assert_same_layout, build_photo, build_rows

from albef_amc.collections_albef import without_format
from albef_amc.datasets_scripts.features import GROUNDING_FEATURES, build_phrase, build_row, read_row
from albef_amc.evaluation.grounding_evaluation import evaluate_baselines
from albef_amc.metrics import get_metric_folder
from albef_amc.trainer import AmcConfig, DataCollatorForGrounding, evaluate_grounding
from albef_amc.trainer.amc_trainer import AmcTrainer


def build_full_rows() -> list[dict]:
    """Rows with every field of the schema; the first phrase of each has null in the place of its types."""
    rows = []
    for row in build_rows(4):
        phrases = [build_phrase(**phrase) for phrase in row["phrases"]]
        phrases[0]["types"] = None
        size = (row["width"], row["height"])
        rows.append(build_row(row["image"], row["image_id"], *size, phrases, [{"box": [1.0, 2.0, 9.0, 9.0]}]))
    return rows


class Wrapped(torch.utils.data.Dataset):
    """A data set that hides the one inside, as `Subset` does."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def undecode(rows):
    return rows.cast_column("image", datasets.Image(decode=False))


FORMS = {
    "rows": lambda rows: build_full_rows(),
    "torch": lambda rows: rows.with_format("torch"),
    "torch, one column": lambda rows: rows.with_format("torch", columns=["image"]),
    "numpy": lambda rows: rows.with_format("numpy"),
    "pandas": lambda rows: rows.with_format("pandas"),
    "arrow": lambda rows: rows.with_format("arrow"),
    "undecoded": undecode,
    "undecoded torch": lambda rows: undecode(rows).with_format("torch"),
    "undecoded numpy": lambda rows: undecode(rows).with_format("numpy"),
    "wrapped torch": lambda rows: Wrapped(rows.with_format("torch")),
    "wrapped numpy": lambda rows: Wrapped(rows.with_format("numpy")),
    "wrapped undecoded": lambda rows: Wrapped(undecode(rows)),
    "transformed": lambda rows: rows.with_transform(lambda batch: batch),
}


@pytest.fixture(scope="module")
def dataset():
    return datasets.Dataset.from_list(build_full_rows(), features=GROUNDING_FEATURES)


@pytest.mark.parametrize("name", FORMS)
def test_evaluation_reads_every_form(name, dataset, tiny_model, tiny_processor):
    expected = evaluate_grounding(tiny_model, tiny_processor, dataset)
    found = evaluate_grounding(tiny_model, tiny_processor, FORMS[name](dataset))
    assert found.metrics == expected.metrics
    assert [one.phrase_id for one in found.results] == [one.phrase_id for one in expected.results]
    assert [one.point for one in found.results] == [one.point for one in expected.results]
    assert evaluate_baselines(FORMS[name](dataset)) == evaluate_baselines(dataset)


@pytest.mark.parametrize("name", FORMS)
def test_the_collator_reads_every_form(name, dataset, tiny_processor):
    rows = without_format(FORMS[name](dataset))
    collator = DataCollatorForGrounding(tiny_processor, max_length=20, mlm_probability=0.5)
    expected = collator([dataset[index] for index in range(4)])
    found = collator([rows[index] for index in range(4)])
    assert found.keys() == expected.keys()
    assert_same_layout(found.pop("layout"), expected.pop("layout"))
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value, key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "numpy", "undecoded torch", "wrapped torch"])
def test_training_reads_every_form(name, dataset, tiny_pretraining_model, tiny_processor, tmp_path):
    losses = []
    for rows in (dataset, FORMS[name](dataset)):
        arguments = AmcConfig(
            output_dir=tmp_path,
            max_steps=1,
            per_device_train_batch_size=2,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
        )
        model = copy.deepcopy(tiny_pretraining_model)
        losses.append(AmcTrainer(model, arguments, tiny_processor, train_dataset=rows).train().training_loss)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("data_format", ["torch", "numpy"])
def test_a_format_does_not_change_the_colours(data_format, tiny_model, tiny_processor):
    """An array of ink, or of places in a palette, looks like another picture."""
    rows = build_full_rows()
    for row, mode in zip(rows, ("CMYK", "P", "LA", "RGB"), strict=True):
        row["image"] = build_photo(seed=int(row["image_id"])).convert("L" if mode == "LA" else "RGB").convert(mode)
    images = [undecoded_copy(row["image"]) for row in rows]
    dataset = datasets.Dataset.from_list(
        [{**row, "image": image} for row, image in zip(rows, images, strict=True)], features=GROUNDING_FEATURES
    )
    expected = evaluate_grounding(tiny_model, tiny_processor, dataset)
    found = evaluate_grounding(tiny_model, tiny_processor, dataset.with_format(data_format))
    assert [one.score for one in found.results] == [one.score for one in expected.results]


def undecoded_copy(image) -> dict:
    stream = io.BytesIO()
    image.save(stream, "TIFF" if image.mode == "CMYK" else "PNG")
    return {"bytes": stream.getvalue(), "path": None}


@pytest.mark.parametrize("change", ["absent", "null"])
def test_rows_without_phrase_ids_get_them_everywhere(change, tiny_model, tiny_processor):
    rows = build_rows(2)
    for row in rows:
        for phrase in row["phrases"]:
            if change == "null":
                phrase["phrase_id"] = None
            else:
                del phrase["phrase_id"]
    ids = ["0#0", "0#1", "1#0", "1#1"]
    assert [one.phrase_id for one in evaluate_grounding(tiny_model, tiny_processor, rows).results] == ids
    assert DataCollatorForGrounding(tiny_processor, max_length=20, return_phrase_ids=True)(rows)["phrase_ids"] == ids
    assert set(evaluate_baselines(rows)) == {"center_point", "random_point", "largest_object"}


@pytest.mark.parametrize("types", [None, [], [None]])
def test_phrases_without_types_count_in_none(types, tiny_model, tiny_processor):
    rows = build_rows(2)
    rows[0]["phrases"][0]["types"] = types
    metrics = evaluate_grounding(tiny_model, tiny_processor, rows).metrics
    assert metrics["num_phrases"] == 4 and metrics["num_phrases_by_type"] == {"even": 1, "odd": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {**row, "phrases": [{**row["phrases"][0], "types": "odd"}]}, "`types` of phrase 0 of image '0'"),
        (lambda row: {**row, "phrases": ["a dog"]}, "`phrases` of image '0' must be a list of mappings"),
        (lambda row: {key: value for key, value in row.items() if key != "image_id"}, "a row has no `image_id`"),
        (lambda row: {key: value for key, value in row.items() if key != "image"}, "a row has no `image`"),
        (lambda row: {key: value for key, value in row.items() if key != "phrases"}, "a row has no `phrases`"),
        (lambda row: list(row.items()), r"a row is a list.*with_format\(None\)"),
    ],
)
def test_what_is_not_a_row_is_refused_by_name(change, message, tiny_model, tiny_processor, tmp_path):
    rows = [change(row) for row in build_rows(1)]
    with pytest.raises((TypeError, ValueError), match=message):
        evaluate_grounding(tiny_model, tiny_processor, Wrapped(rows))
    with pytest.raises((TypeError, ValueError), match=message):
        DataCollatorForGrounding(tiny_processor, max_length=20)(rows)


def test_tables_inside_a_wrapper_are_refused_by_name(dataset, tiny_model, tiny_processor):
    with pytest.raises(TypeError, match=r"a row is a pandas DataFrame.*pass `dataset.with_format\(None\)`"):
        evaluate_grounding(tiny_model, tiny_processor, Wrapped(dataset.with_format("pandas")))


def test_a_row_keeps_what_is_plain_already():
    (row,) = build_rows(1)
    assert read_row(row) == row and read_row(row)["image"] is row["image"]
    arrays = {**row, "phrases": np.array(row["phrases"]), "image_id": np.str_("0"), "width": torch.tensor(40)}
    assert read_row(arrays) == row


def test_columns_that_the_collator_reads_cannot_be_removed(tmp_path):
    with pytest.raises(ValueError, match="`remove_unused_columns=True` is refused"):
        AmcConfig(output_dir=tmp_path, remove_unused_columns=True)


POINTS = {"predictions": [[5.0, 5.0]] * 3, "references": [[[0.0, 0.0, 9.0, 9.0]]] * 3}


@pytest.mark.parametrize(
    "types", [[None, ["odd"], []], [[None], ["odd"], None], [np.array([]), np.array(["odd"]), (None,)]]
)
def test_metrics_take_null_for_no_types(types):
    metric = evaluate.load(str(get_metric_folder("pointing_game")))
    assert metric.compute(**POINTS, phrase_types=types)["num_phrases_by_type"] == {"odd": 1}


@pytest.mark.parametrize("types", ["odd", 7, [7]])
def test_metrics_refuse_what_is_not_a_list_of_types(types):
    metric = evaluate.load(str(get_metric_folder("pointing_game")))
    with pytest.raises(ValueError, match=r"`phrase_types\[1\]` must be a list of strings or None"):
        metric.compute(**POINTS, phrase_types=[[], types, []])
