"""Rows of one image become one row, without reading images beforehand."""

import datasets
import pytest
import torch
from testing_utils import build_photo, build_rows

from albef_amc.datasets_scripts import GROUNDING_FEATURES
from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.trainer.data.group_by_image import GroupedRows, group_rows_by_image


class UnreadableImages(dict):
    """A row that fails where its image is read."""

    def __getitem__(self, name):
        assert name != "image", "the image was read"
        return super().__getitem__(name)


def build_phrase_rows(image_ids: str) -> list[dict]:
    return [
        build_row(build_photo(seed=ord(image_id)), image_id, 40, 30, [build_phrase(number, f"the cup {number}")])
        for number, image_id in enumerate(image_ids)
    ]


def list_phrases(rows) -> list[tuple[str, list[str]]]:
    return [
        (rows[index]["image_id"], [phrase["phrase_id"] for phrase in rows[index]["phrases"]])
        for index in range(len(rows))
    ]


def test_rows_of_an_image_become_one_in_the_order_of_their_first():
    grouped = group_rows_by_image(build_phrase_rows("baabcb"))
    assert isinstance(grouped, GroupedRows)
    assert list_phrases(grouped) == [("b", ["0", "3", "5"]), ("a", ["1", "2"]), ("c", ["4"])]
    assert grouped[1]["image"].tobytes() == build_photo(seed=ord("a")).tobytes()


def test_a_data_set_of_the_schema_is_grouped_alike():
    rows = build_phrase_rows("baab")
    table = datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)
    grouped = group_rows_by_image(table)
    assert list_phrases(grouped) == list_phrases(group_rows_by_image(rows))
    assert grouped[0]["image"].size == (40, 30) and grouped[0]["width"] == 40
    assert torch.utils.data.default_collate([grouped[index]["width"] for index in range(2)]).tolist() == [40, 40]


def test_no_image_is_read_beforehand_and_one_for_a_group_later():
    decoded = []
    table = datasets.Dataset.from_list(build_phrase_rows("aab"), features=GROUNDING_FEATURES)
    original = datasets.Image.decode_example

    def count(self, *args, **kwargs):
        decoded.append(self)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.Image, "decode_example", count)
        grouped = group_rows_by_image(table)
        assert decoded == []
        assert len(grouped[0]["phrases"]) == 2
        assert len(decoded) == 1
    rows = [UnreadableImages(row) for row in build_phrase_rows("aa")]
    assert len(group_rows_by_image(rows)) == 1


def test_rows_without_repeated_images_are_unchanged():
    rows = build_rows()
    assert group_rows_by_image(rows) is rows


def test_rows_that_do_not_fit_together_are_named():
    rows = build_phrase_rows("aa")
    rows[1]["width"] = 41
    with pytest.raises(ValueError, match=r"rows of image 'a' state different sizes, \(40, 30\) and \(41, 30\)"):
        group_rows_by_image(rows)[0]


def test_streamed_rows_are_refused():
    table = datasets.Dataset.from_list(build_phrase_rows("aab"), features=GROUNDING_FEATURES)
    with pytest.raises(TypeError, match="without streaming, or set `group_by_image=False`"):
        group_rows_by_image(table.to_iterable_dataset())


def test_what_is_known_of_an_image_is_that_of_all_its_rows():
    rows = build_phrase_rows("aaab")
    rows[0] |= {"true_phrases": ["one", "two"], "false_phrases": None}
    rows[1] |= {"true_phrases": None, "false_phrases": ["three"]}
    rows[2] |= {"true_phrases": ["two", "four"], "false_phrases": ["three", "five"]}
    rows[3] |= {"true_phrases": None, "false_phrases": []}
    first, second = group_rows_by_image(rows)
    assert (first["true_phrases"], first["false_phrases"]) == (["one", "two", "four"], ["three", "five"])
    assert (second["true_phrases"], second["false_phrases"]) == (None, None)
    without = [{name: row[name] for name in ("image_id", "phrases")} for row in build_phrase_rows("aa")]
    assert group_rows_by_image(without)[0].keys() == {"image_id", "phrases"}
