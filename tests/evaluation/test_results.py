"""Files of an evaluation: a row per phrase as Parquet, JSON that cards read, places that cannot be written to."""

import json

import pyarrow.parquet
import pytest

from albef_amc.evaluation.grounding_evaluation import GroundingEvaluation
from albef_amc.evaluation.grounding_metrics import PhraseResult, score_points
from albef_amc.evaluation.results import PHRASE_SCHEMA, RESULTS_KEY, write_results
from albef_amc.model_cards import read_metrics


@pytest.fixture
def evaluated():
    """Results and phrases of two splits."""
    phrases = [
        PhraseResult("1", "a", "the red car", ["car"], [[0.0, 0.0, 9.0, 9.0]], (4.0, 4.0), 0.75),
        PhraseResult("2", "b", "a dog", [], [[0.0, 0.0, 9.0, 9.0], [5.0, 5.0, 7.0, 7.0]], (9.0, 4.0)),
    ]
    metrics = score_points(phrases)
    rows = GroundingEvaluation(metrics, phrases).to_rows()
    return {"val": {"split": "val", **metrics}, "test": {"split": "test", **metrics}}, {"val": rows[:1], "test": rows}


def test_parquet_has_a_row_per_phrase_and_the_numbers_in_its_header(evaluated, tmp_path):
    results, phrases = evaluated
    path = tmp_path / "new" / "scores.parquet"
    write_results(path, results, phrases)
    table = pyarrow.parquet.read_table(path)
    assert table.schema.equals(PHRASE_SCHEMA)
    rows = table.to_pylist()
    assert [row.pop("split") for row in rows] == ["val", "test", "test"]
    assert rows == [{**phrase, "point": list(phrase["point"])} for split in phrases.values() for phrase in split]
    assert json.loads(table.schema.metadata[RESULTS_KEY]) == results
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_json_is_what_cards_read(evaluated, tmp_path):
    results, phrases = evaluated
    write_results(tmp_path / "both.json", results, phrases)
    assert read_metrics(tmp_path / "both.json").keys() == {"val", "test"}
    write_results(tmp_path / "one.json", {"test": results["test"]}, {"test": phrases["test"]})
    assert read_metrics(tmp_path / "one.json")["test"]["pointing_game_accuracy"] == 0.5
    assert len(json.loads((tmp_path / "one.json").read_text())["phrases"]) == 2
