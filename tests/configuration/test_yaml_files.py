# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""YAML of people is bounded: hostile and mistaken recipes are one line that names the file."""

import tracemalloc

import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.cli.main import main
from albef_amc.configuration.recipes import read_key_values
from albef_amc.configuration.yaml_files import MOST_BYTES, parse_yaml, read_yaml
from albef_amc.evaluation.protocols import load_evaluation_recipe
from albef_amc.trainer.training_recipes import load_recipe

DEEP_BLOCK = "\n".join("  " * level + "a:" for level in range(300))
HOSTILE = {
    "anchors that multiply": (FIXTURES_FOLDER / "recipe_of_multiplied_anchors.yaml").read_text(),
    "mappings that multiply": "a0: &a0 {x: 1, y: 2}\n"
    + "\n".join(f"a{n}: &a{n} {{{', '.join(f'k{k}: *a{n - 1}' for k in range(9))}}}" for n in range(1, 9)),
    "merged keys that multiply": "a0: &a0 {x: 1, y: 2}\n"
    + "\n".join(f"a{n}: &a{n} {{k: {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}}}" for n in range(1, 9)),
    "3,000 flow levels": "training: " + "[" * 3000 + "]" * 3000,
    "100,000 open brackets": "model: " + "[" * 100_000,
    "3,000 mappings": "training: " + "{a: " * 3000 + "1" + "}" * 3000,
    "300 block levels": DEEP_BLOCK + " 1",
    "3,000 dashes": "- " * 3000 + "x",
    "an anchor in itself": "training: &t {seed: 1, more: *t}",
    "an anchor that is not there": "training: *t",
    "a key twice": "training: {seed: 1, seed: 2}",
    "a section twice": "training: {seed: 1}\ntraining: {seed: 2}",
    "an object of Python": "training: !!python/object/apply:os.system [echo]",
    "two documents": "training: {}\n---\ntraining: {}",
    "an impossible date": "training: {run_name: 2001-13-45}",
    "a number of 5,000 digits": f"training: {{seed: {'9' * 5000}}}",
    "bytes that are none": "training: {run_name: !!binary 'a'}",
    "a list as a key": "? [a, b]\n: 1",
    "a control character": "training: {run_name: '\x07'}",
    "text": "just text",
    "a list": "- a\n- b",
    "a number": "5",
    "many values": "card: [" + "1," * 60_000 + "]",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_hostile_recipe_is_one_line(content, command, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    words = {"train": ["train", str(path)], "evaluate": ["evaluate", "no_checkpoint", str(path)]}[command]
    assert main(words) == 2
    streams = capsys.readouterr()
    line = streams.err.splitlines()[-1]
    assert "mine.yaml" in line and len(line) < 600
    assert "Traceback" not in streams.err and streams.out == ""


def test_anchors_are_counted_before_they_are_written_out(tmp_path):
    tracemalloc.start()
    for name in ("anchors that multiply", "mappings that multiply", "merged keys that multiply", "3,000 flow levels"):
        content = HOSTILE[name]
        with pytest.raises(ValueError, match=r"mine\.yaml"):
            (tmp_path / "mine.yaml").write_text(content)
            load_recipe(tmp_path / "mine.yaml")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)
    for load in (load_recipe, load_evaluation_recipe, read_yaml):
        with pytest.raises(
            ValueError, match=rf"mine\.yaml has 1000000000000 bytes; a recipe has {MOST_BYTES} at most"
        ):
            load(path)


@pytest.mark.parametrize("value", ["[" * 3000, "&a [*a]", "{a: 1, a: 2}", "!!python/name:os.system", "[1"])
@pytest.mark.parametrize(
    "words", [["train", "demo", "--set", "seed="], ["evaluate", "x", "synthetic", "--data", "seed="]]
)
def test_a_hostile_value_of_the_command_line_is_one_line(value, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words[:-1], words[-1] + value]) == 2
    streams = capsys.readouterr()
    assert f"`{words[-2]} seed`" in streams.err.splitlines()[-1] and "Traceback" not in streams.err


@pytest.mark.parametrize("number", [1, 2, 9, 2000])
def test_recipes_that_lead_on_to_each_other_end(number, tmp_path):
    for index in range(number):
        (tmp_path / f"r{index}.yaml").write_text(f"base: r{(index + 1) % number}.yaml\n")
    with pytest.raises(ValueError, match=r"r0\.yaml: (?:its `base` leads back to itself|more than 8 recipes)"):
        load_recipe(tmp_path / "r0.yaml")


@pytest.mark.parametrize("base", ["[demo]", "{demo: 1}", "5", "true"])
def test_a_base_is_text(base, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"base: {base}\n")
    with pytest.raises(TypeError, match=r"mine\.yaml: `base` must be the name or the path of a recipe"):
        load_recipe(tmp_path / "mine.yaml")


def test_settings_of_a_command():
    given = ["a.b=4", "c=0.5", "d=text", "e=[1, 2]", "f=a=b", "g=1e-5", "h="]
    expected = {"a.b": 4, "c": 0.5, "d": "text", "e": [1, 2], "f": "a=b", "g": 1e-5, "h": None}
    assert read_key_values(given, "--data") == expected
    for wrong in ("seed", "=3", " =3"):
        with pytest.raises(ValueError, match=f"^`--data {wrong}` is not of the form key=value.$"):
            read_key_values([wrong], "--data")
    with pytest.raises(ValueError, match=r"^`--set seed=\.\.\.` is given more than once"):
        read_key_values(["seed=1", "seed=2"], "--set")


def test_an_evaluation_recipe_on_top_of_another(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: refcoco_plus\nimage_size: 256\ndata: {split_by: umd}\n")
    mine, base = load_evaluation_recipe(tmp_path / "mine.yaml"), load_evaluation_recipe("refcoco_plus")
    assert (mine.name, mine.image_size, mine.data) == ("mine", 256, {**base.data, "split_by": "umd"})
    assert mine.published == base.published and mine.splits == base.splits
    (tmp_path / "mine.yaml").write_text("bas: refcoco_plus\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: unknown key `bas`\. Did you mean `base`"):
        load_evaluation_recipe(tmp_path / "mine.yaml")


def test_an_anchor_used_twice_is_two_values(tmp_path):
    assert parse_yaml("a: &x [1, {b: 2}]\nc: *x", "text") == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model: {config: demo, vocabulary: data}\n"
        "train_data: &d {name: synthetic, split: train}\nevaluation_data: *d\n"
    )
    recipe = load_recipe(path, ["evaluation_data.split=test"])
    assert (recipe.train_data["split"], recipe.evaluation_data["split"]) == ("train", "test")


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbfbase: demo\r\ntraining:\r\n  seed: 3\r\n")
    assert load_recipe(path).training["seed"] == 3
    path.write_bytes("base: demo\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"mine\.yaml is UTF-16"):
        load_recipe(path)
    path.write_bytes(b"base: demo # caf\xe9\n")
    with pytest.raises(ValueError, match=r"mine\.yaml, line 1"):
        load_recipe(path)


def test_recipes_that_ship_are_far_below_the_limits():
    from albef_amc.configuration.shipped_files import CONFIGURATION_FOLDER

    assert max(path.stat().st_size for path in CONFIGURATION_FOLDER.rglob("*.yaml")) * 10 < MOST_BYTES
