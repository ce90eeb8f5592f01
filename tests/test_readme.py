# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""README and docs tell the truth: commands, options, recipes, files and the Python blocks exist and run."""

import importlib.util
import inspect
import json
import re
import shlex
from ast import literal_eval
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from shutil import copy

import datasets
import pytest
from accelerate.commands.launch import launch_command_parser
from page_numbers import find_loose_numbers, render_ties
from testing_utils import PROJECT_FOLDER, VOCABULARY, build_photo, build_tiny_config

from albef_amc import AlbefForImageTextMatching, AlbefImageProcessor, AlbefProcessor
from albef_amc.cli.main import VERBS, build_command
from albef_amc.cli.options import EARLIER_NAMES
from albef_amc.configuration.recipes import read_key_values
from albef_amc.configuration.shipped_files import list_shipped
from albef_amc.datasets_scripts import BUILDERS, GROUNDING_FEATURES
from albef_amc.evaluation.protocols import load_evaluation_recipe
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer.training_recipes import load_recipe

README = PROJECT_FOLDER / "README.md"
DOCUMENTS = [README, PROJECT_FOLDER / "CONTRIBUTING.md", *sorted((PROJECT_FOLDER / "docs").rglob("*.md"))]
NUM_POSITIONS = 32


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT_FOLDER))


def list_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def list_sections(path: Path) -> list[str]:
    """Headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def get_marked_block(marker: str) -> str:
    """The Python block of the README after a comment that names it."""
    found = re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert found, f"no block after <!-- {marker} -->"
    return found[1]


def list_commands(path: Path, program: str) -> list[list[str]]:
    """Words of every command line of `program` in the shell blocks and in the running text, without comments."""
    lines = [line for block in list_blocks(path, "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(rf"`({program} [^`]*)`", path.read_text())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(program + " ")]


COMMANDS = [(name_of(path), words) for path in DOCUMENTS for words in list_commands(path, "albef-amc")]


def of_verb(verb: str) -> list[tuple[str, list[str]]]:
    return [(document, words) for document, words in COMMANDS if words[0] == verb]


def list_values(words: list[str], *options: str) -> list[str]:
    """Values that a command line gives to options."""
    return [value for option, value in pairwise(words) if option in options]


@cache
def list_options(verb: str) -> set[str]:
    """Options of a command, without names of earlier releases."""
    command = build_command(verb).commands[verb]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return options - set(EARLIER_NAMES.get(verb, {}))


@pytest.mark.parametrize(
    ("document", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_commands_exist_with_their_options(document, words):
    verb = words[0]
    if verb == "VERB":
        return
    assert verb in VERBS, f"{document}: no verb {verb}"
    options = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
    assert options <= list_options(verb) | {"--help"}, f"{document}: {verb} has no {options - list_options(verb)}"


@pytest.mark.parametrize(("document", "words"), of_verb("train"))
def test_training_commands_name_recipes_and_keys_that_exist(document, words):
    recipe = words[1]
    if recipe not in list_shipped("training"):
        assert recipe.isupper() or recipe.endswith(".yaml"), f"{document}: no recipe {recipe} ships"
        return
    load_recipe(recipe, list_values(words, "--set", "-s"))


LAUNCHES = [(name_of(path), words) for path in DOCUMENTS for words in list_commands(path, "accelerate")]


@pytest.mark.parametrize(("document", "words"), [launch for launch in LAUNCHES if len(launch[1]) > 1])
def test_launch_commands_name_files_and_keys_that_exist(document, words):
    launch = launch_command_parser().parse_args(words[1:])
    assert words[0] == "launch" and (launch.module, launch.training_script) == (True, "albef_amc.cli.main")
    verb, recipe, *rest = launch.training_script_args
    if launch.config_file is not None:
        assert (PROJECT_FOLDER / launch.config_file).is_file(), f"{document}: no {launch.config_file}"
    assert verb == "train" and (PROJECT_FOLDER / recipe).is_file(), f"{document}: no {recipe}"
    load_recipe(PROJECT_FOLDER / recipe, list_values(rest, "--set", "-s"))


@pytest.mark.parametrize(("document", "words"), of_verb("evaluate"))
def test_evaluation_commands_name_data_sets_and_arguments_that_exist(document, words):
    options = read_key_values(list_values(words, "--data"), "--data")
    if len(words) > 2 and not words[2].startswith("-"):
        name = words[2]
        if name in list_shipped("evaluation"):
            recipe = load_evaluation_recipe(name)
            name = recipe.data["name"]
            splits = list(takewhile(lambda word: not word.startswith("-"), words[3:]))
            assert {split.partition("[")[0] for split in splits} <= set(recipe.splits), document
        assert options.keys() <= set(inspect.signature(BUILDERS[name].BUILDER_CONFIG_CLASS).parameters), document


@pytest.mark.parametrize(("document", "words"), of_verb("build-dataset") + of_verb("inspect-dataset"))
def test_building_commands_name_data_sets_and_arguments_that_exist(document, words):
    name = words[1] if len(words) > 1 else "NAME"
    if name in BUILDERS:
        options = read_key_values(list_values(words, "--data"), "--data")
        configuration = options.pop("config_name", None)
        assert configuration is None or configuration in BUILDERS[name].CONFIGURATIONS, document
        assert options.keys() <= set(inspect.signature(BUILDERS[name].BUILDER_CONFIG_CLASS).parameters), document
    else:
        assert name.isupper() or words[0] == "inspect-dataset", f"{document}: no builder {name}"


def test_every_verb_is_documented():
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    assert [verb for verb in VERBS if f"albef-amc {verb}" not in text and f"`{verb}`" not in text] == []


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_FOLDER / "Makefile").read_text(), flags=re.MULTILINE))
    for path in DOCUMENTS:
        named = {words[0] for words in list_commands(path, "make")}
        assert named <= targets, f"{name_of(path)}: no target {named - targets}"
    assert "make test" in (PROJECT_FOLDER / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_scripts_exist_with_their_options(path):
    for script, *words in list_commands(path, "python"):
        text = (PROJECT_FOLDER / script).read_text("utf-8")
        assert [word for word in words if word.startswith("-") and f'"{word}"' not in text] == [], script


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_and_paths_lead_somewhere(path):
    text = path.read_text()
    for target, _, section in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", text)):
        page = path.parent / target if target else path
        assert target.startswith("https://") or page.exists(), f"no {target}"
        assert not section or section in list_sections(page), f"no section {section} in {target}"
    packages = [path.parent.name for path in PROJECT_FOLDER.glob("*/__init__.py")]
    folders = "|".join([*packages, "docs", "benchmarks", "tests"])
    for target in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
        assert (PROJECT_FOLDER / target).exists() or "NAME" in target, f"no {target}"


def test_the_table_of_recipes_and_models_is_complete():
    text = "".join((PROJECT_FOLDER / "docs" / f"{page}.md").read_text() for page in ("training", "recipes"))
    assert [name for kind in ("training", "models") for name in list_shipped(kind) if f"`{name}`" not in text] == []


def test_readme_is_short_and_in_order():
    headings = re.findall(r"^## (.*)$", README.read_text(), flags=re.MULTILINE)
    expected = ["Why this and not another", "Install", "Ground a phrase in five lines", "Results", "Train", "Evaluate"]
    assert headings == [*expected, "Where things live", "Limits", "Citation", "Licence"]
    assert len(README.read_text().splitlines()) < 190


def test_the_index_lists_every_page_once():
    index = (PROJECT_FOLDER / "docs" / "README.md").read_text()
    assert re.findall(r"^## (.*)$", index, flags=re.MULTILINE) == ["Use", "Train", "Evaluate", "Extend"]
    listed = re.findall(r"^- \[[^]]+\]\(([^)]+)\): .+\.$", index, flags=re.MULTILINE)
    pages = {str(path.relative_to(PROJECT_FOLDER / "docs")) for path in (PROJECT_FOLDER / "docs").rglob("*.md")}
    assert sorted(listed) == sorted((pages - {"README.md"}) | {"../CONTRIBUTING.md"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_python_blocks_are_python(path):
    for block in list_blocks(path, "python"):
        compile(block, name_of(path), "exec")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_names_of_the_package_exist(path):
    text = path.read_text("utf-8")
    for module, names in re.findall(r"from (albef_amc[\w.]*) import ([\w, ]+)", text):
        missing = [name for name in names.split(", ") if not hasattr(importlib.import_module(module), name)]
        assert missing == [], f"{module} has no {missing}"
    for module in re.findall(r"(?:`|-m )(albef_amc\.[\w.]+)", text):
        assert importlib.util.find_spec(module), f"no module {module}"


@pytest.fixture
def demo_folder(tmp_path, monkeypatch):
    """The working folder of a reader of the README: two images, and a small checkpoint in runs/demo."""
    config = build_tiny_config()
    config.text_config.max_position_embeddings = NUM_POSITIONS
    tokenizer = build_tokenizer(VOCABULARY, model_max_length=NUM_POSITIONS)
    checkpoint = tmp_path / "runs" / "demo" / "with_amc"
    AlbefForImageTextMatching(config).save_pretrained(checkpoint)
    AlbefProcessor(AlbefImageProcessor(size=32), tokenizer).save_pretrained(checkpoint)
    scene = Path("docs") / "pictures" / "scene.png"
    (tmp_path / scene).parent.mkdir(parents=True)
    copy(PROJECT_FOLDER / scene, tmp_path / scene)
    build_photo().save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_quickstart_runs_and_prints_what_is_shown(demo_folder, capsys):
    """Points and boxes of the base model that ships: another machine may move them by a pixel."""
    block = get_marked_block("quickstart")
    assert len([line for line in block.splitlines() if line and not line.startswith("from")]) == 5
    shown = README.read_text().partition(block)[2].removeprefix("```\n\n```\n").partition("```")[0]
    names = {}
    exec(block, names)
    for found, expected in zip(literal_eval(capsys.readouterr().out), literal_eval(shown), strict=True):
        assert found[0] == pytest.approx(expected[0], abs=1) and found[1] == pytest.approx(expected[1], abs=1)
    assert [entry["heatmap"].shape for entry in names["results"][0]] == [(64, 64)] * 2
    annotated = re.findall(r"\[(\d+), (\d+), (\d+), (\d+)\]", README.read_text().partition("The annotated boxes")[2])
    for (point, _), box in zip(literal_eval(shown), annotated, strict=True):
        left, top, right, bottom = map(int, box)
        assert left < point[0] < right and top < point[1] < bottom


@pytest.mark.slow
def test_the_training_block_runs(demo_folder):
    block = get_marked_block("training")
    smaller = {
        "num_train_scenes=1000": f"num_train_scenes=4, cache_dir={str(demo_folder)!r}",
        "max_steps=50": "max_steps=1, use_cpu=True",
        "batch_size=16": "batch_size=2",
    }
    for written, replacement in smaller.items():
        assert block.count(written) == 1
        block = block.replace(written, replacement)
    exec(block, {})
    assert (demo_folder / "runs" / "mine" / "checkpoint-1" / "model.safetensors").is_file()


def test_the_rows_of_the_documentation_fit_the_schema(demo_folder):
    blocks = list_blocks(PROJECT_FOLDER / "docs" / "datasets.md", "python")
    (block,) = (block for block in blocks if "build_row" in block)
    names = {}
    exec(block, names)
    row = datasets.Dataset.from_list(names["rows"], features=GROUNDING_FEATURES)[0]
    assert row["phrases"][0]["boxes"] == [[10, 20, 110, 90]]
    assert row["image"].size == (40, 30)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_decimal_is_tied_to_a_key_of_a_file(path):
    assert find_loose_numbers(path.read_text("utf-8")) == []


def test_results_have_numbers_and_speed_has_many():
    pages = [(README, 15), (PROJECT_FOLDER / "docs" / "speed-and-memory.md", 200)]
    for path, least in pages:
        comments = re.findall(r"<!-- numbers\n(.*?)-->", path.read_text("utf-8"), flags=re.DOTALL)
        assert sum(len(render_ties(comment)) for comment in comments) >= least


TABLE = """
<!-- numbers
trainer/amc_config.py [AmcConfig] max_margin:.1% mean_margin:.1%
benchmarks/results/grounding.json cases.0.phrases:d 1000/cases.0.sides.ground.phrases_per_second:.0f
-->
| maximum | {} % |
| mean | 10.0 % |
| 3 seeds, {} phrases | 43 ms |
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TABLE.format("50.0", 14), None),
        (TABLE.format("50.1", 14), "50.1 is not tied"),
        (TABLE.format("10.0", 14), "10.0 is not tied"),  # a number of the file, in the wrong place
        (TABLE.format("50.0", 15), "14 of a file is not in its block"),
        (TABLE.format("50.0", 14) + "\nIt takes 0.97 s.\n", "0.97 is not tied"),
        ("It takes 0.97s.\n\n`0.5` and\n\n```python\nx = 0.5\n```\n", "0.97 is not tied"),
        ("Since 2023, 1,000 of [these](page-1.2.md).\n", None),
    ],
)
def test_a_wrong_number_is_found(text, problem):
    found = find_loose_numbers(text)
    assert found == [] if problem is None else found[0].startswith(problem)


def test_kills_ended_with_the_bits_of_uninterrupted_runs():
    result = json.loads((PROJECT_FOLDER / "benchmarks/results/fault_tolerance.json").read_text())
    assert {run["processes"]: len(run["kills"]) for run in result["runs"]} == {1: 60, 2: 40}
    for run in result["runs"]:
        assert run["equal"] and run["finished_runs_unchanged_by_resume"]
        assert run["last_step"] == run["steps"]
        assert min(run["kills_by_newest_checkpoint"].values()) > 0


def test_building_reads_files_once():
    building = json.loads((PROJECT_FOLDER / "benchmarks/results/building.json").read_text())
    for name in ("visual_genome", "amc_json"):
        build = building[name]
        assert build["num_images"] == 108_077 and build["peak_memory_gb"] < 2
        read_once = build["annotation_bytes"] + build["image_bytes"]
        assert read_once < build["bytes_read"] < read_once + 3 * build["parquet_bytes"]
