"""Pointing-game evaluation: points at the stored size, phrases without boxes, rules that read no words."""

import copy
import io
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pretend_device import PretendDevice
from testing_utils import FIXTURES_FOLDER, build_rows

from albef_amc import AlbefGroundingOutput
from albef_amc.evaluation.benchmark import evaluate_split
from albef_amc.evaluation.grounding_evaluation import (
    BASELINES,
    evaluate_baselines,
    evaluate_grounding,
    iterate_phrases,
    locate_points,
    predict_points,
    shuffle_phrases,
)
from albef_amc.evaluation.grounding_metrics import PhraseResult, ProposalRanking, score_points, score_proposals
from albef_amc.evaluation.protocols import EvaluationRecipe
from albef_amc.evaluation.results import write_results


def result(point, boxes, types=()) -> PhraseResult:
    return PhraseResult("p", "i", "a dog", list(types), boxes, point)


def test_evaluation_agrees_with_grounding_one_phrase_at_a_time(tiny_model, tiny_processor):
    rows = build_rows(3)
    evaluation = evaluate_grounding(tiny_model, tiny_processor, rows, batch_size=2, phrases_per_chunk=2)
    assert evaluation.metrics["num_phrases"] == len(evaluation.results) == 6
    answers = iter(evaluation.results)
    for row in rows:
        for phrase in row["phrases"]:
            inputs = tiny_processor(images=[row["image"]], text=[[phrase["phrase"]]], return_tensors="pt")
            expected = tiny_processor.post_process_grounding(tiny_model.ground(**inputs))[0][0]
            answer = next(answers)
            assert answer.phrase_id == phrase["phrase_id"]
            assert answer.point == tuple(expected["point"].tolist())
            assert answer.score == pytest.approx(float(expected["score"]), abs=1e-5)
            x, y = answer.point
            assert answer.is_hit == any(
                left < x < right and top < y < bottom for left, top, right, bottom in phrase["boxes"]
            )
    hits = sum(answer.is_hit for answer in evaluation.results)
    assert evaluation.metrics["pointing_game_accuracy"] == pytest.approx(hits / 6)


def test_phrases_without_boxes_are_counted_not_scored(tiny_model, tiny_processor):
    rows = build_rows(2)
    rows[0]["phrases"][0]["boxes"] = None
    rows[1]["phrases"] = []
    evaluation = evaluate_grounding(tiny_model, tiny_processor, rows)
    assert evaluation.num_skipped == 1 and evaluation.metrics["num_phrases"] == 1
    rows[0]["phrases"][1]["boxes"] = []
    with pytest.raises(ValueError, match="no phrase of the data set has a box"):
        evaluate_grounding(tiny_model, tiny_processor, rows)


def test_points_are_pixels_of_the_stored_images():
    heatmap = torch.zeros(3, 4, 4)
    heatmap[0, 0, 3] = heatmap[1, 3, 0] = heatmap[2, 0, 3] = 1.0
    points = locate_points(heatmap, torch.tensor([[40, 80], [40, 80], [100, 20]])).tolist()
    assert points[0][0] > 60 and points[0][1] < 10
    assert points[1][0] < 20 and points[1][1] > 30
    assert points[2][0] > 15 and points[2][1] < 25


def test_hits_lie_strictly_inside_any_box():
    results = [
        result((5, 5), [[0, 0, 10, 10]], ["a"]),
        result((10, 5), [[0, 0, 10, 10]], ["a", "b"]),
        result((25, 5), [[0, 0, 10, 10], [20, 0, 30, 10]]),
    ]
    metrics = score_points(results)
    assert [answer.is_hit for answer in results] == [True, False, True]
    assert metrics["pointing_game_accuracy"] == pytest.approx(2 / 3)
    assert metrics["pointing_game_accuracy_by_type"] == {"a": 0.5, "b": 0.0}


def test_workers_and_batches_change_no_result(tiny_model, tiny_processor):
    rows = build_rows(5)
    rows[1]["phrases"] = []
    rows[2]["proposals"] = [{"box": [4.0, 4.0, 24.0, 20.0], "score": 1.0, "label": None}]
    ranked = ("pointing_game", "box_accuracy")
    expected, num_skipped = predict_points(tiny_model, tiny_processor, rows, batch_size=1, metrics=ranked)
    assert [answer.phrase_id for answer in expected] == [
        f"{row}-{phrase}" for row in (0, 2, 3, 4) for phrase in (0, 1)
    ]
    counted = []

    def count(batches):
        for batch in batches:
            counted.append(batch)
            yield batch

    options = {"batch_size": 1, "metrics": ranked, "num_workers": 2, "progress": count}
    assert predict_points(tiny_model, tiny_processor, rows, **options) == (expected, num_skipped)
    assert len(counted) == len(rows)


def test_results_are_fetched_one_batch_later(tiny_model, tiny_processor, monkeypatch):
    events = []
    ground, check_finite = tiny_model.ground, AlbefGroundingOutput.check_finite
    tiny_model.ground = lambda **inputs: events.append("give") or ground(**inputs)
    monkeypatch.setattr(
        AlbefGroundingOutput, "check_finite", lambda outputs: events.append("fetch") or check_finite(outputs)
    )
    predict_points(tiny_model, tiny_processor, build_rows(3), batch_size=1)
    assert events == ["give", "give", "fetch", "give", "fetch", "fetch"]


@pytest.mark.parametrize("metrics", [["pointing_game"], ["pointing_game", "heatmap_quality"]])
def test_fetching_waits_for_its_own_batch_alone(tiny_model, tiny_processor, metrics):
    """Nothing waits for all that the device was given, which includes the next batch."""
    rows = build_rows(3)
    expected, _ = predict_points(copy.deepcopy(tiny_model), tiny_processor, rows, batch_size=1, metrics=metrics)
    with PretendDevice() as device:
        model = device.move(tiny_model)
        device.waits.clear()
        found, _ = predict_points(model, tiny_processor, rows, batch_size=1, metrics=metrics)
    for own, other in zip(found, expected, strict=True):
        assert (own.phrase_id, own.point) == (other.phrase_id, other.point)
        assert own.score == pytest.approx(other.score, abs=1e-6)
        assert (own.measures is None) == (other.measures is None) == (len(metrics) == 1)
    assert {place.partition(",")[0] for place in device.waits} == {"Event.synchronize"}


def test_scores_that_are_not_finite_are_refused_in_any_batch(tiny_model, tiny_processor):
    rows = build_rows(3)
    with torch.no_grad():
        tiny_model.itm_head.bias[0] = torch.nan
    for batch_size in (1, 3):
        with pytest.raises(ValueError, match="matching scores or heatmaps are not finite"):
            predict_points(tiny_model, tiny_processor, rows, batch_size=batch_size)


def test_shuffled_rows_keep_regions_and_exchange_every_phrase():
    row = build_rows(1, phrases=3)[0]
    shuffled = shuffle_phrases(row)
    assert [phrase["boxes"] for phrase in shuffled["phrases"]] == [phrase["boxes"] for phrase in row["phrases"]]
    words = [phrase["phrase"] for phrase in row["phrases"]]
    assert [phrase["phrase"] for phrase in shuffled["phrases"]] == words[1:] + words[:1]
    assert [phrase["phrase"] for phrase in row["phrases"]] == words


def test_rules_that_read_no_words():
    row = build_rows(1, phrases=2)[0]
    row["proposals"] = [
        {"box": [0.0, 0.0, 10.0, 10.0], "score": 1.0, "label": "small"},
        {"box": [10.0, 4.0, 40.0, 30.0], "score": 1.0, "label": "large"},
    ]
    phrase = row["phrases"][0]
    assert BASELINES["center_point"](row, phrase) == (20.0, 15.0)
    assert BASELINES["largest_object"](row, phrase) == (25.0, 17.0)
    first, again = (BASELINES["random_point"](row, phrase) for _ in range(2))
    assert first == again != BASELINES["random_point"](row, row["phrases"][1])
    assert 0 <= first[0] < 40 and 0 <= first[1] < 30
    scores = evaluate_baselines([row])
    assert scores["center_point"] == 1.0 and set(scores) == set(BASELINES)


def test_phrases_of_a_row_carry_their_boxes_and_no_point():
    phrases = list(iterate_phrases(build_rows(1)[0]))
    assert [phrase.phrase_id for phrase in phrases] == ["0-0", "0-1"]
    assert all(math.isnan(value) for phrase in phrases for value in phrase.point)


def test_proposals_are_ranked_by_the_heat_inside(tiny_model, tiny_processor):
    rows = build_rows(2)
    box, far = rows[0]["phrases"][0]["boxes"][0], [30.0, 24.0, 40.0, 30.0]
    rows[0]["proposals"] = [{"box": box, "score": 1.0, "label": None}]
    rows[1]["proposals"] = None
    ranking = ProposalRanking(area_exponent=0.5, overlap_rule="released")
    evaluation = evaluate_grounding(tiny_model, tiny_processor, rows, proposal_ranking=ranking)
    assert [answer.proposal for answer in evaluation.results] == [box, box, None, None]
    assert [answer.proposal_iou for answer in evaluation.results] == [1.0, pytest.approx(304 / 339), 0.0, 0.0]
    assert [answer.is_proposal_hit for answer in evaluation.results] == [True, True, False, False]
    assert evaluation.metrics["box_accuracy_at_50"] == 0.5
    assert evaluation.metrics["num_phrases_without_proposal"] == 2
    assert "measures" not in evaluation.to_rows()[0]
    answer = result((5, 5), [box])
    answer.measures = {"box_accuracy": [(far, 8.0), (box, 9.0)]}
    assert score_proposals([answer], ranking)["box_accuracy_at_50"] == 0.0  # 8 over 60 ** 0.5, 9 over 320 ** 0.5
    assert score_proposals([answer], ProposalRanking(0, "area"))["box_accuracy_at_50"] == 1.0


def test_several_boxes_count_one_by_one_or_merged():
    answer = result((15, 5), [[0, 0, 10, 10], [20, 0, 30, 10]])
    assert score_points([answer])["pointing_game_accuracy"] == 0.0
    assert score_points([answer], "merged")["pointing_game_accuracy"] == 1.0
    assert answer.boxes == [[0, 0, 10, 10], [20, 0, 30, 10]]


@pytest.mark.parametrize(("values", "message"), [((-1, "area"), "`area_exponent`"), ((1, "iou"), "`overlap_rule`")])
def test_a_ranking_with_other_values_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ProposalRanking(*values)


def spoil(rows, damage, tmp_path):
    """Rows of which the second picture, or the first phrase of the second row, cannot be used."""
    phrase = rows[1]["phrases"][0]
    if damage in WORDS_THAT_FAIL:
        phrase["phrase"] = WORDS_THAT_FAIL[damage]
        return "phrase '1-0' of image '1'"
    content = io.BytesIO()
    rows[1]["image"].save(content, "png")
    rows[1]["image"] = {
        "cut": content.getvalue()[:200],
        "none": None,
        "missing": str(tmp_path / "nothing.png"),
        "text": b"no picture",
        "postscript": str(FIXTURES_FOLDER / "pictures" / "postscript.jpg"),
        "avif": str(FIXTURES_FOLDER / "pictures" / "damaged.avif"),
        "float": Image.fromarray(np.full((30, 40), 200, dtype=np.float32)),
        "large": Image.new("1", (20_000, 6_000)),
    }[damage]
    return "image '1'"


WORDS_THAT_FAIL = {
    "dots": "...",
    "empty": "",
    "null": None,
    "number": 5,
    "bytes": b"a dog",
    "half": "a \ud800 dog",
    "invisible": "\u200b",
    "long": "dog " * 30,
}
PICTURES_THAT_FAIL = ["cut", "none", "missing", "text", "postscript", "avif", "float", "large"]


@pytest.mark.parametrize("damage", [*WORDS_THAT_FAIL, *PICTURES_THAT_FAIL])
def test_what_cannot_be_used_is_named_and_the_others_continue(tiny_model, tiny_processor, tmp_path, caplog, damage):
    rows = build_rows(3)
    expected = predict_points(tiny_model, tiny_processor, rows)[0]
    name = spoil(rows, damage, tmp_path)
    lost = ["1-0"] if damage in WORDS_THAT_FAIL else ["1-0", "1-1"]
    evaluation = evaluate_grounding(tiny_model, tiny_processor, rows, batch_size=2)
    assert [answer.phrase_id for answer in evaluation.unusable] == lost
    assert all(name in answer.problem and answer.point is None for answer in evaluation.unusable)
    assert (
        f"{len(lost)} phrases of 1 images cannot be used and are not scored: " in caplog.text and name in caplog.text
    )
    kept = [answer for answer in expected if answer.phrase_id not in lost]
    assert [answer.phrase_id for answer in evaluation.results] == [answer.phrase_id for answer in kept]
    for answer, before in zip(evaluation.results, kept, strict=True):
        assert answer.point == before.point and answer.score == pytest.approx(before.score, abs=1e-5)
    assert evaluation.metrics["num_phrases"] == 6 - len(lost)


def test_a_published_protocol_counts_what_cannot_be_used_as_misses(tiny_model, tiny_processor, tmp_path):
    rows = build_rows(3)
    for row in rows:
        for phrase in row["phrases"]:
            phrase["boxes"] = [[-1.0, -1.0, 41.0, 31.0], [0.0, 0.0, 40.0, 30.0]]
    rows[2]["phrases"][1]["phrase"] = "?!"
    spoil(rows, "cut", tmp_path)
    for rule in ("any", "merged"):
        evaluation = evaluate_grounding(tiny_model, tiny_processor, rows, box_rule=rule, counts_unusable=True)
        assert [answer.phrase_id for answer in evaluation.results] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
        assert [answer.is_hit for answer in evaluation.results] == [True, True, False, False, True, False]
        assert evaluation.metrics["pointing_game_accuracy"] == 0.5 and evaluation.metrics["num_phrases"] == 6
    ranking = ProposalRanking(area_exponent=0.5, overlap_rule="area")
    evaluation = evaluate_grounding(tiny_model, tiny_processor, rows, proposal_ranking=ranking, counts_unusable=True)
    assert not any(answer.is_proposal_hit for answer in evaluation.results if answer.problem)


def test_an_entry_without_a_phrase_is_refused_with_its_image(tiny_model, tiny_processor):
    rows = build_rows(2)
    rows[0]["phrases"][0] = None
    with pytest.raises(ValueError, match="`phrases` of image '0' must be a list of mappings with `phrase`"):
        evaluate_grounding(tiny_model, tiny_processor, rows)


def test_nothing_that_can_be_used_is_an_error(tiny_model, tiny_processor):
    rows = build_rows(1)
    rows[0]["image"] = b"no picture"
    with pytest.raises(ValueError, match="none of the 2 phrases with a box can be used. First: image '0' is not an"):
        evaluate_grounding(tiny_model, tiny_processor, rows)
    evaluation = evaluate_grounding(tiny_model, tiny_processor, rows, counts_unusable=True)
    assert evaluation.metrics["pointing_game_accuracy"] == 0.0


def test_a_benchmark_reports_what_was_skipped(tiny_model, tiny_processor, tmp_path):
    rows = build_rows(3)
    rows[2]["phrases"][1]["phrase"] = "..."
    spoil(rows, "cut", tmp_path)
    own, _ = evaluate_split(tiny_model, tiny_processor, rows, "test", num_resamples=0)
    assert own["num_phrases"] == 3 and own["num_phrases_skipped"] == 3
    assert [(entry["image_id"], entry["phrase_ids"]) for entry in own["skipped"]] == [
        ("1", ["1-0", "1-1"]),
        ("2", ["2-1"]),
    ]
    recipe = EvaluationRecipe(data={"name": "mine"}, splits={"test": "test"}, num_phrases={"test": 6})
    published, _ = evaluate_split(tiny_model, tiny_processor, rows, "test", recipe, {"name": "mine"}, num_resamples=0)
    assert published["num_phrases"] == 6 and not published["protocol"]["agrees"]
    assert published["protocol"]["departures"] == ["3 phrases were skipped and count as misses"]
    clean, evaluation = evaluate_split(tiny_model, tiny_processor, build_rows(3), "test", recipe, {"name": "mine"})
    assert clean["protocol"]["agrees"] and "skipped" not in clean and not evaluation.unusable


def test_files_of_results_hold_skipped_phrases(tiny_model, tiny_processor, tmp_path):
    rows = build_rows(2)
    rows[0]["phrases"][0]["phrase"] = "\ud800"
    evaluation = evaluate_grounding(tiny_model, tiny_processor, rows, counts_unusable=True)
    for name in ("results.parquet", "results.json"):
        write_results(tmp_path / name, {"test": evaluation.metrics}, {"test": evaluation.to_rows()})
    row = pq.read_table(tmp_path / "results.parquet").to_pylist()[0]
    assert row["point"] is None and row["is_hit"] is False and "half of a character" in row["problem"]


@pytest.mark.parametrize("phrases", [7, "dog", [7], {"phrase": 7}, [{"phrase": "dog", "boxes": 7}]], ids=str)
def test_phrases_of_another_kind_are_named(tiny_model, tiny_processor, phrases):
    rows = build_rows(1)
    rows = [{**rows[0], "phrases": phrases}]
    with pytest.raises(ValueError, match="of image '?[^ ]+'?( must be a list|: boxes are 7, where a list)"):
        evaluate_grounding(tiny_model, tiny_processor, rows)
