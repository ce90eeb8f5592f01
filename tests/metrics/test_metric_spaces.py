# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What holds for every metric: a file that stands alone, a Space with card and page, shares of several processes."""

import ast
import importlib.util
import json
import multiprocessing
import re
import sys

import evaluate
import pytest
import yaml
from hub_server import OWNER
from huggingface_hub import HfApi
from testing_utils import PATIENCE, PROJECT_FOLDER, run_without_package

from albef_amc.metrics import get_metric_folder

METRICS = ("box_accuracy", "heatmap_quality", "phrase_recall", "pointing_game")
# Metrics of the tasks beside grounding, each with an input and what it gives.
TASK_METRICS = {
    "retrieval_recall": (
        {"predictions": [[2, 0], [1]], "references": [[0], [1]], "direction": "image_to_text"},
        "text_recall_at_1",
        50,
    ),
    "vqa_accuracy": ({"predictions": ["red"], "references": [["red"] * 3 + ["blue"] * 7]}, "vqa_accuracy", 0.9),
}
ALL_METRICS = (*METRICS, *TASK_METRICS)
BOX, FAR_BOX = [0, 0, 10, 10], [50, 50, 60, 60]
HEAT = dict(heat_inside=3.0, heat_total=4.0, heat_distance=0.5, num_peaks_inside=1, num_peaks=1)
AREA = dict(region_area=10.0, image_area=100.0)
# One phrase that is answered well and one that is not, and the result for the first, the second and the first again.
PHRASES = {
    "box_accuracy": ([[BOX], [FAR_BOX]], [[BOX], [BOX]], "box_accuracy_at_50", 2 / 3),
    "heatmap_quality": ([HEAT, {**HEAT, "heat_inside": 0.0}], [AREA, AREA], "energy_inside", 0.5),
    "phrase_recall": ([[BOX], [FAR_BOX]], [[BOX], [BOX]], "recall_at_1_any", 2 / 3),
    "pointing_game": ([[5, 5], [50, 50]], [[BOX], [BOX]], "pointing_game_accuracy", 2 / 3),
}
OPTIONS = {
    "box_accuracy": {"return_hits": True},
    "heatmap_quality": {"return_values": True},
    "phrase_recall": {"return_ious": True},
    "pointing_game": {"return_hits": True},
}


def read_card(name: str) -> tuple[dict, str]:
    _, front_matter, text = (get_metric_folder(name) / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front_matter), text


def test_these_are_all_metrics():
    folders = {path.name for path in get_metric_folder("pointing_game").parent.iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(ALL_METRICS)


@pytest.mark.parametrize("name", ALL_METRICS)
def test_the_module_stands_alone_with_one_import_per_line(name):
    tree = ast.parse((get_metric_folder(name) / f"{name}.py").read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in imports for alias in node.names}
    assert names - sys.stdlib_module_names == {"datasets", "evaluate", "numpy"}
    assert all(isinstance(node, ast.Import) and len(node.names) == 1 for node in imports)


@pytest.mark.parametrize("name", ALL_METRICS)
def test_the_space_has_what_the_hub_asks_for(name):
    card, _ = read_card(name)
    folder = get_metric_folder(name)
    assert (card["sdk"], card["tags"], card["license"]) == ("gradio", ["evaluate", "metric"], "apache-2.0")
    assert (folder / card["app_file"]).is_file()
    required = (folder / "requirements.txt").read_text("utf-8").split()
    assert [line.split(">=")[0] for line in required] == ["datasets", "evaluate", "numpy"]


@pytest.mark.parametrize("name", ALL_METRICS)
def test_the_example_of_the_card_gives_what_the_card_says(name, monkeypatch):
    monkeypatch.chdir(get_metric_folder(name).parent)
    _, text = read_card(name)
    code, shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, flags=re.DOTALL).groups()
    tree = ast.parse(code)
    names = {}
    exec(compile(ast.Module(tree.body[:-1], []), name, "exec"), names)
    assert eval(compile(ast.Expression(tree.body[-1].value), name, "eval"), names) == ast.literal_eval(shown)


@pytest.mark.parametrize("name", METRICS)
def test_the_page_runs_its_example(name):
    gradio = pytest.importorskip("gradio", reason="the pages of Spaces need gradio (`pip install '.[app]'`)")
    spec = importlib.util.spec_from_file_location(f"app_of_{name}", get_metric_folder(name) / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    values = [component.value for component in app.demo.input_components]
    assert app.score(*values)["num_phrases"] >= 1
    with pytest.raises(gradio.Error, match=r"reversed|negative|more than"):
        app.score(*[re.sub(r"\b10\b|\b30\b|\b40\b", "-7", value) for value in values])


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_single_phrases_add_up(name, tmp_path):
    predictions, references, key, expected = PHRASES[name]
    metric = evaluate.load(str(get_metric_folder(name)), cache_dir=str(tmp_path))
    metric.add_batch(predictions=predictions, references=references, phrase_types=[["people"], []])
    metric.add(prediction=predictions[0], reference=references[0], phrase_types=["people"])
    result = metric.compute(**OPTIONS[name])
    assert result[key] == pytest.approx(expected)
    assert result["num_phrases"] == 3 and result["num_phrases_by_type"] == {"people": 2}
    again = metric.compute(predictions=predictions[1:], references=references[1:])
    assert (again[key], again["num_phrases"]) == (0, 1)


@pytest.mark.parametrize("name", METRICS)
def test_what_is_missing_or_uneven_is_refused_and_leaves_nothing_behind(name, tmp_path):
    predictions, references, _, _ = PHRASES[name]
    metric = evaluate.load(str(get_metric_folder(name)), cache_dir=str(tmp_path))
    for inputs, words in (
        ({}, "no phrase was added"),
        ({"predictions": [], "references": []}, "no phrase was added"),
        ({"predictions": predictions}, "`predictions` and `references`"),
        ({"phrase_types": [["people"]]}, "`phrase_types` were given without"),
        ({"predictions": predictions, "references": references[:1]}, "2 `predictions` but 1 `references`"),
        ({"predictions": predictions, "references": references, "phrase_types": [[]]}, "but 1 `phrase_types`"),
        ({"predictions": predictions, "references": references, "phrase_types": ["a", "b"]}, "a list of strings"),
    ):
        with pytest.raises(ValueError, match=words):
            metric.compute(**inputs)
    assert metric.compute(predictions=predictions[:1], references=references[:1])["num_phrases"] == 1


def score_shares(rank: int, folder: str, results) -> None:
    """Process 0 adds both phrases. Process 1 adds the first; then, in a second game and in other tasks, none."""
    found = {}
    for name, (predictions, references, _, _) in PHRASES.items():
        for game, num_kept in (("", 2 - rank), ("_alone", 2 - 2 * rank)):
            metric = evaluate.load(
                str(get_metric_folder(name)),
                cache_dir=folder,
                num_process=2,
                process_id=rank,
                experiment_id=name + game,
            )
            if num_kept:
                metric.add_batch(
                    predictions=predictions[:num_kept],
                    references=references[:num_kept],
                    phrase_types=[["people"]] * num_kept,
                )
            found[name + game] = metric.compute(**OPTIONS[name])
    for name, (inputs, _, _) in TASK_METRICS.items():
        options = dict(cache_dir=folder, num_process=2, process_id=rank, experiment_id=name)
        metric = evaluate.load(str(get_metric_folder(name)), **options)
        if rank == 0:
            metric.add_batch(**inputs)
        found[name] = metric.compute()
    results.put((rank, found))


@pytest.mark.slow
def test_two_processes_share_the_phrases(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=score_shares, args=(rank, str(tmp_path), queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=PATIENCE) for _ in processes)
    for process in processes:
        process.join(timeout=PATIENCE)
        assert process.exitcode == 0
    assert set(results[1].values()) == {None}
    for name, (_, _, key, expected) in PHRASES.items():
        assert results[0][name][key] == pytest.approx(expected)
        assert results[0][name]["num_phrases_by_type"] == {"people": 3}
        assert results[0][f"{name}_alone"]["num_phrases"] == 2
    for name, (_, key, expected) in TASK_METRICS.items():
        assert results[0][name][key] == pytest.approx(expected)
    for name in ("box_accuracy", "pointing_game"):
        assert results[0][name]["hits"] == [True, False, True]
    assert results[0]["heatmap_quality"]["values"]["energy_inside"] == [0.75, 0, 0.75]
    assert results[0]["phrase_recall"]["ious"]["all"] == [1, 0, 1]


def test_the_example_of_the_documentation_scores_a_heatmap_with_every_metric():
    text = (PROJECT_FOLDER / "docs" / "metrics.md").read_text("utf-8")
    names = {}
    exec(re.search(r"<!-- all metrics -->\n```python\n(.*?)```", text, flags=re.DOTALL)[1], names)
    results = names["results"]
    assert set(results) == set(METRICS)
    assert results["pointing_game"]["pointing_game_accuracy"] == 1
    assert results["box_accuracy"]["mean_iou"] == pytest.approx(22 * 22 / 24 / 24)
    assert results["heatmap_quality"]["energy_inside"] > 0.85
    assert results["phrase_recall"]["mean_iou_at_1_all"] > 0.9


LOAD_FROM_THE_HUB = """
    import json, sys
    import evaluate

    owner, inputs = sys.argv[1], json.loads(sys.argv[2])
    found = {name: evaluate.load(f"{owner}/{name}").compute(**batch) for name, batch in inputs.items()}
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_metric_is_loaded_from_its_space(hub, tmp_path):
    """Published on a local Hub, then loaded by name in a process that lacks this package."""
    api = HfApi()
    for name in ALL_METRICS:
        repository = {"repo_id": f"{OWNER}/{name}", "repo_type": "space"}
        api.create_repo(**repository, space_sdk="gradio")
        api.upload_folder(**repository, folder_path=get_metric_folder(name), ignore_patterns="__pycache__/*")
    inputs = {
        name: {"predictions": predictions, "references": references}
        for name, (predictions, references, _, _) in PHRASES.items()
    }
    inputs |= {name: given for name, (given, _, _) in TASK_METRICS.items()}
    words = (OWNER, json.dumps(inputs))
    environment = hub.environment(tmp_path / "home") | {"HF_EVALUATE_OFFLINE": "0"}
    printed = run_without_package(LOAD_FROM_THE_HUB, *words, cwd=tmp_path, environment=environment)
    found = json.loads(printed.splitlines()[-1])
    assert {name: (found[name]["num_phrases"], found[name][PHRASES[name][2]]) for name in METRICS} == {
        name: (2, 0.5) if name != "heatmap_quality" else (2, pytest.approx(3 / 8)) for name in METRICS
    }
    for name, (_, key, expected) in TASK_METRICS.items():
        assert found[name][key] == pytest.approx(expected)
