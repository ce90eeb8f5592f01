# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Model cards: front matter the Hub accepts, numbers from the metrics file alone, licences, limits, whole files."""

import ast
import errno
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard as HubModelCard

from albef_amc.model_cards import (
    ModelCard,
    check_front_matter,
    read_metrics,
    read_model_card,
    render_model_card,
    write_model_card,
)

METRICS = {
    "validation": {
        "pointing_game_accuracy": 0.71234,
        "num_phrases": 4321,
        "pointing_game_accuracy_by_type": {"colour": 0.625, "left|right": 1.0},
        "num_phrases_by_type": {"colour": 3211, "left|right": 1110},
    },
    "test": {"pointing_game_accuracy": 0.5, "num_phrases": 987},
    "seconds": 12.5,
}


@pytest.fixture
def metrics_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(METRICS), encoding="utf-8")
    return path


def make_card(metrics_file=None, **changes) -> ModelCard:
    values = {
        "model_name": "albef-small",
        "description": "A small ALBEF trained with AMC.",
        "datasets": ["your-name/synthetic-grounding"],
        "training_arguments": {"learning_rate": 1e-3, "note": "two\nlines | one bar"},
    }
    if metrics_file is not None:
        values |= {"metrics_file": metrics_file, "evaluation_dataset": "synthetic-grounding"}
    return ModelCard(**(values | changes))


def get_section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_the_front_matter_is_what_the_hub_reads(metrics_file):
    data = HubModelCard(render_model_card(make_card(metrics_file))).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "zero-shot-object-detection"
    assert data.license == "apache-2.0"
    assert data.datasets == ["your-name/synthetic-grounding"]
    assert data.model_name == "albef-small"
    assert [(result.dataset_split, result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("validation", "pointing_game_accuracy", 0.71234),
        ("test", "pointing_game_accuracy", 0.5),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_name": "a: b", "description": 'It says "--- {{ x }}" & <tags>'},
        {"datasets": ["made-up scenes: 3 objects"], "base_model": "weights/ALBEF.pth"},
        {"base_model": "ALBEF.pth", "datasets": [], "training_arguments": {}},
    ],
)
def test_odd_words_keep_the_front_matter_valid(changes):
    card = HubModelCard(render_model_card(make_card(**changes)))
    assert card.data.license == "apache-2.0"
    assert card.data.base_model is None
    for word in changes.get("datasets", []) + [
        changes.get("description", ""),
        "ALBEF.pth" if "base_model" in changes else "",
    ]:
        assert word in card.text


def test_a_base_model_of_the_hub_is_linked():
    card = HubModelCard(render_model_card(make_card(base_model="your-name/albef-base")))
    assert card.data.base_model == "your-name/albef-base"
    assert "Started from your-name/albef-base; trained on your-name/synthetic-grounding." in card.text


def test_every_result_of_the_file_is_on_the_card(metrics_file):
    section = get_section(render_model_card(make_card(metrics_file)), "Results")
    for line in (
        "| validation | 71.23 | 4321 |",
        "| test | 50.00 | 987 |",
        "| colour | 62.50 | 3211 |",
        r"| left\|right | 100.00 | 1110 |",
        "`metrics.json`",
    ):
        assert line in section
    assert "12.5" not in section


def test_no_number_of_the_results_comes_from_elsewhere(metrics_file):
    section = get_section(render_model_card(make_card(metrics_file)), "Results")
    results = [METRICS["validation"], METRICS["test"]]
    known = {f"{100 * result['pointing_game_accuracy']:.2f}" for result in results}
    known |= {f"{100 * value:.2f}" for value in METRICS["validation"]["pointing_game_accuracy_by_type"].values()}
    known |= {str(result["num_phrases"]) for result in results}
    known |= {str(value) for value in METRICS["validation"]["num_phrases_by_type"].values()}
    assert set(re.findall(r"\d+(?:\.\d+)?", section)) == known


def test_a_single_result_stands_for_all_phrases(metrics_file):
    metrics_file.write_text(json.dumps(METRICS["test"]), encoding="utf-8")
    assert read_metrics(metrics_file) == {"all": METRICS["test"]}
    assert "| all | 50.00 | 987 |" in render_model_card(make_card(metrics_file))


def test_a_checkpoint_without_metrics_shows_no_number():
    text = render_model_card(make_card())
    assert "This checkpoint has not been evaluated." in text
    assert HubModelCard(text).data.eval_results is None
    assert not re.findall(r"\d", get_section(text, "Results"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no `pointing_game_accuracy`"),
        ('{"test": {"loss": 1}}', "holds no `pointing_game_accuracy`"),
        ('{"pointing_game_accuracy": 71.2, "num_phrases": 5}', r"outside \[0, 1\]"),
        ('{"pointing_game_accuracy": null, "num_phrases": 5}', r"outside \[0, 1\]"),
        ('{"pointing_game_accuracy": NaN, "num_phrases": 5}', r"outside \[0, 1\]"),
    ],
)
def test_a_metrics_file_without_a_usable_result_is_refused(content, words, metrics_file):
    metrics_file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        render_model_card(make_card(metrics_file))


def test_a_missing_metrics_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.json"):
        render_model_card(make_card(tmp_path / "metrics.json"))


def test_a_number_needs_its_data_set(metrics_file):
    with pytest.raises(ValueError, match="needs `evaluation_dataset`"):
        make_card(metrics_file, evaluation_dataset="")


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="`source` must be one of albef-amc, albef, amc"):
        make_card(source="clip")


@pytest.mark.parametrize(
    ("source", "licence", "notices"),
    [
        ("albef-amc", "apache-2.0", ["Apache-2.0"]),
        ("albef", "bsd-3-clause", ["BSD-3-Clause", "salesforce", "Apache-2.0"]),
        ("amc", "mit", ["MIT", "Rice-UVA", "BSD-3-Clause", "Apache-2.0"]),
    ],
)
def test_weights_carry_the_licences_of_those_who_made_them(source, licence, notices):
    text = render_model_card(make_card(source=source))
    assert HubModelCard(text).data.license == licence
    assert all(notice in get_section(text, "Licence") for notice in notices)
    assert ("RefCOCO+" in get_section(text, "Limits")) == (source != "albef-amc")


def test_the_loading_line_pins_the_code_and_parses():
    text = render_model_card(make_card(code_revision="0123abc"))
    line = 'from_pretrained("your-name/albef-small", trust_remote_code=True, code_revision="0123abc")'
    assert text.count(line) == 2
    ast.parse(text.split("```python\n")[1].split("```")[0])


def test_the_loading_line_names_the_repository_or_folder_given():
    text = render_model_card(make_card(repo_id='runs/demo/"with" amc'))
    assert r'from_pretrained("runs/demo/\"with\" amc", trust_remote_code=True)' in text


def test_the_card_states_its_limits_and_its_training():
    text = render_model_card(make_card(library_version="9.8.7"))
    limits = " ".join(get_section(text, "Limits").split())
    assert "The heatmap is evidence of what the matching score used. It is not a detector" in limits
    training = get_section(text, "Training")
    assert "Started from random weights; trained on your-name/synthetic-grounding." in training
    assert r"| note | two lines \| one bar |" in training
    assert "albef-amc 9.8.7" in training


def test_the_card_is_written_into_the_folder(tmp_path, metrics_file):
    card = make_card(metrics_file)
    path = write_model_card(tmp_path / "new" / "checkpoint", card)
    assert path == tmp_path / "new" / "checkpoint" / "README.md"
    assert path.read_text(encoding="utf-8") == render_model_card(card)
    assert {file.name for file in path.parent.iterdir()} == {"README.md", "model_card.json", "metrics.json"}
    assert (path.parent / "metrics.json").read_bytes() == metrics_file.read_bytes()


def test_a_full_disk_leaves_the_old_card(tmp_path, monkeypatch):
    path = write_model_card(tmp_path, make_card())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fill_the_disk(self, text, **options):
        with open(self, "w", encoding="utf-8") as file:
            file.write(text[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_text", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write_model_card(tmp_path, make_card(description="Another."))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert read_model_card(path.parent) == make_card()


def test_the_model_index_is_complete_and_is_read_by_the_hub_itself(metrics_file):
    text = render_model_card(make_card(metrics_file))
    check_front_matter(text)
    (model,) = yaml.safe_load(text.split("---\n")[1])["model-index"]
    assert model["name"] == "albef-small"
    for result, (split, value) in zip(model["results"], (("validation", 0.71234), ("test", 0.5)), strict=True):
        assert result["task"] == {"type": "zero-shot-object-detection"}
        assert result["dataset"] == {"name": "synthetic-grounding", "type": "synthetic-grounding", "split": split}
        metric = {"type": "pointing_game_accuracy", "name": "Pointing game accuracy", "value": value}
        assert result["metrics"] == [metric]
    again = HubModelCard(str(HubModelCard(text))).data
    assert again.eval_results == HubModelCard(text).data.eval_results
    assert again.model_name == "albef-small"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("---\n", "", "no front matter"),
        ("language: en", "language: [en", "is not YAML"),
        ("license: apache-2.0", "licence: apache-2.0", "names no `license`"),
        ("- name: albef-small", "- title: albef-small", "`model-index.name` is missing"),
        ("      type: zero-shot-object-detection", "      kind: odd", "`task.type` is missing"),
        ("      split: test", "      part: test", "`dataset.split` is missing"),
        ("- type: pointing_game_accuracy", "- kind: odd", "`metrics.type` is missing"),
        ("value: 0.5", "value: good", "`metrics.value` must be a number, got 'good'"),
        ("value: 0.5", "value: .nan", "`metrics.value` must be a number, got nan"),
    ],
)
def test_a_front_matter_that_the_hub_cannot_read_is_refused(metrics_file, old, new, words):
    metrics_file.write_text(json.dumps({"test": METRICS["test"]}), encoding="utf-8")
    text = render_model_card(make_card(metrics_file))
    assert old in text
    with pytest.raises(ValueError, match=words):
        check_front_matter(text.replace(old, new, 1))


def test_the_command_of_the_numbers_names_the_repository(metrics_file):
    command = "albef-amc evaluate CHECKPOINT synthetic --split test"
    text = render_model_card(make_card(metrics_file, evaluation_command=command, repo_id="your-name/mine"))
    assert text.count("albef-amc evaluate your-name/mine synthetic --split test\n") == 1
    assert "CHECKPOINT" not in text
    metrics_file.write_text(
        json.dumps({**METRICS["test"], "split": "val", "command": "albef-amc evaluate CHECKPOINT x"})
    )
    section = get_section(render_model_card(make_card(metrics_file, evaluation_command=command)), "Results")
    assert "| val | 50.00 | 987 |" in section
    assert "albef-amc evaluate your-name/albef-small x\n" in section
    assert "synthetic --split" not in section


def test_the_split_of_a_single_result_can_be_named(metrics_file):
    metrics_file.write_text(json.dumps({"eval": METRICS["test"]}), encoding="utf-8")
    text = render_model_card(make_card(metrics_file, evaluation_split="validation[:100]"))
    assert "| validation[:100] | 50.00 | 987 |" in text
    assert HubModelCard(text).data.eval_results[0].dataset_split == "validation[:100]"


def test_protocol_recipe_and_software_are_named():
    text = render_model_card(make_card(image_size=(256, 384), recipe="amc_vg", software={"torch": "2.13.0"}))
    assert "It reads images of 256 x 384 pixels." in get_section(text, "Results")
    assert "recipe `amc_vg`." in get_section(text, "Training")
    assert "With torch 2.13.0." in get_section(text, "Training")


def test_hardware_and_time_without_an_estimate_of_energy():
    text = render_model_card(make_card(hardware="Accelerator X", num_processes=4, training_seconds=5400))
    section = get_section(text, "Hardware and energy")
    assert "- Hardware: 4 x Accelerator X.\n" in section
    assert "1.5 hours, evaluations during training included; 6 hours over 4 processes." in section
    assert "Energy was not measured." in section
    assert "Time, as measured: 42 seconds, " in render_model_card(make_card(training_seconds=42))
    assert "co2_eq_emissions" not in text
    assert "Hardware and energy" not in render_model_card(make_card())


def test_an_estimate_of_the_emissions_is_in_grams_for_the_hub():
    text = render_model_card(make_card(hardware="Accelerator X", co2_emissions_kg=1.25))
    emissions = HubModelCard(text).data.to_dict()["co2_eq_emissions"]
    assert emissions["emissions"] == 1250
    assert emissions["hardware_used"] == "Accelerator X"
    assert "1.25 kg CO2 equivalent, an estimate" in get_section(text, "Hardware and energy")
    assert "not measured" not in text


@pytest.mark.parametrize(("name", "value"), [("co2_emissions_kg", -1), ("training_seconds", float("nan"))])
def test_impossible_amounts_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number from 0"):
        make_card(**{name: value})


def test_the_papers_are_cited():
    section = get_section(render_model_card(make_card()), "Citation")
    assert section.count("@inproceedings{") == 2
    assert section.count("{") == section.count("}")
    assert "Align before Fuse" in section and "Gradient-based Explanations" in section
    assert "pages" not in section


def test_the_folder_of_a_base_model_is_hidden():
    text = render_model_card(make_card(base_model="/data/checkpoints/albef-14m"))
    assert "Started from albef-14m;" in text
    assert "/data" not in text


def test_a_stored_card_is_read_back_and_rendered_the_same(tmp_path, metrics_file):
    path = write_model_card(tmp_path / "checkpoint", make_card(metrics_file, image_size=(32, 32)))
    card = read_model_card(path.parent)
    assert card.metrics_file == path.parent / "metrics.json"
    assert render_model_card(card) == path.read_text(encoding="utf-8")


def test_a_card_edited_by_hand_is_not_taken_for_its_fields(tmp_path):
    path = write_model_card(tmp_path, make_card())
    path.write_text(path.read_text() + "\nBy hand.\n")
    assert read_model_card(tmp_path) is None
    (tmp_path / "model_card.json").unlink()
    assert read_model_card(tmp_path) is None


@pytest.mark.parametrize("change", [{"metrics_file": "../metrics.json"}, {"unknown": 1}, {"source": "clip"}])
def test_damaged_fields_are_refused(tmp_path, change):
    write_model_card(tmp_path, make_card())
    stored = json.loads((tmp_path / "model_card.json").read_text())
    stored["fields"] |= change
    (tmp_path / "model_card.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"model_card.json is damaged"):
        read_model_card(tmp_path)
