"""Several data sets with weights: shares, passes, names, and the recipes that ask for them."""

import json
import re
from collections import Counter
from itertools import islice

import pytest
from testing_utils import (
    PROJECT_FOLDER,
    build_recording_trainer,
    build_table,
    list_changes,
    run_train_command,
    write_parquet,
)

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.data.epoch_dataset import EpochDataset
from albef_amc.trainer.data.mixtures import MixedRows, Mixture, build_training_dataset, load_training_data
from albef_amc.trainer.run_facts import describe_recipe
from albef_amc.trainer.training_recipes import build_arguments, load_recipe

TINY = """
model: {{config: {config}, vocabulary: data}}
train_data:
  - {{name: synthetic, split: train, weight: 3, num_train_scenes: 6, num_validation_scenes: 2, num_test_scenes: 2,
      cache_dir: {cache}, streaming: {streaming}}}
  - {{name: {folder}, split: train, streaming: {streaming}}}
training: {{max_steps: 2, per_device_train_batch_size: 4, max_length: 24, logging_steps: 1, use_cpu: true,
            disable_tqdm: true, save_strategy: "no"}}
"""


def build_part(size: int) -> list[dict]:
    return [{"image_id": str(number), "phrases": [{"phrase": "a dog"}] * 3} for number in range(size)]


def build_mixed(seed: int = 0, unit: str = "image", **options) -> MixedRows:
    mixture = Mixture([build_part(12), build_part(3)], [1, 2], ["large", "small"])
    args = AmcConfig(output_dir="unused", use_cpu=True, seed=seed, epoch_unit=unit, **options)
    return build_training_dataset(mixture, args)


def read_epoch(rows: MixedRows, epoch: int) -> list[tuple[str, int]]:
    rows.set_epoch(epoch)
    return [(row["image_id"], row["draw"]) for row in (rows[index] for index in range(len(rows)))]


def test_each_part_gives_its_share_and_passes_over_its_rows():
    rows = build_mixed()
    assert len(rows) == 15
    epochs = [read_epoch(rows, epoch) for epoch in range(12)]
    for epoch in epochs:
        assert Counter(image_id.partition(":")[0] for image_id, _ in epoch) == {"large": 5, "small": 10}
    # 60 rows of 12 and 120 of 3: five passes over the large part, forty over the small one, each image once in each.
    counts = Counter(pair for epoch in epochs for pair in epoch)
    assert set(counts.values()) == {1}
    assert set(counts) == {(f"large:{number}", draw) for number in range(12) for draw in range(5)} | {
        (f"small:{number}", draw) for number in range(3) for draw in range(40)
    }


def test_the_order_is_of_the_seed_alone():
    assert read_epoch(build_mixed(1), 4) == read_epoch(build_mixed(1), 4)
    assert read_epoch(build_mixed(1), 4) != read_epoch(build_mixed(2), 4)
    with pytest.raises(IndexError, match="row 15 of 15"):
        build_mixed()[15]


def test_an_epoch_of_phrases_sees_every_phrase_of_a_pass_once():
    rows = build_mixed(unit="phrase", phrases_per_image=2)
    assert len(rows) == 30  # two rows for the three phrases of an image
    rows.set_epoch(0)
    large = [row for row in (rows[index] for index in range(len(rows))) if row["image_id"].startswith("large")]
    assert len(large) == 10
    assert len({(row["image_id"], row["draw"]) for row in large}) == 10
    assert {len(row["phrases"]) for row in large} == {1, 2}


def test_rows_of_one_phrase_are_grouped_in_each_part():
    rows = [{"image_id": "7", "width": 4, "height": 3, "phrases": [{"phrase": word}]} for word in ("a", "b")]
    args = AmcConfig(output_dir="unused", use_cpu=True, group_by_image=True)
    mixed = build_training_dataset(Mixture([rows, rows[:1]], [1, 1], ["one", "other"]), args)
    phrases = {
        row["image_id"]: [entry["phrase"] for entry in row["phrases"]] for row in map(mixed.__getitem__, (0, 1))
    }
    assert phrases == {"one:7": ["a", "b"], "other:7": ["a"]}


@pytest.mark.slow
def test_a_streamed_mixture_keeps_its_shares(tmp_path):
    streams = [build_table(size).to_iterable_dataset(num_shards=2) for size in (8, 3)]
    args = AmcConfig(output_dir=str(tmp_path), use_cpu=True)
    rows = build_training_dataset(Mixture(streams, [1, 3], ["large", "small"]), args)
    read = [(row["image_id"], row["draw"]) for row in islice(rows, 400)]
    share = sum(image_id.startswith("small") for image_id, _ in read) / 400
    assert abs(share - 0.75) < 0.08
    assert set(Counter(read).values()) == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[{}]], [0], ["a"]), "must be a number above 0, got 0"),
        (([[{}]], ["two"], ["a"]), "must be a number above 0, got 'two'"),
        (([[{}]], [float("nan")], ["a"]), "must be a number above 0, got nan"),
        (([], [], []), "got 0 parts, 0 weights and 0 names"),
        (([[{}], [{}]], [1], ["a", "b"]), "got 2 parts, 1 weights and 2 names"),
    ],
)
def test_mixtures_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixture(*arguments)


def test_a_part_without_rows_is_refused():
    with pytest.raises(ValueError, match="part 'empty' of the mixture has no rows"):
        MixedRows([EpochDataset([{}]), EpochDataset([])], [0.5, 0.5], ["full", "empty"])


@pytest.mark.slow
def test_a_resumed_run_on_a_mixture_ends_with_the_same_bits(tmp_path):
    def build(folder, **options):
        return build_recording_trainer(
            folder, Mixture([build_table(4), build_table(3)], [2, 1], ["a", "b"]), **options
        )

    whole = build(tmp_path, max_steps=4, save_steps=3)
    whole.train()
    resumed = build(tmp_path / "resumed", max_steps=4, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.seen == whole.seen[6:]
    assert list_changes(whole.model.state_dict(), resumed.model) == []


@pytest.fixture
def folder(tmp_path):
    return write_parquet(tmp_path / "photos", build_table(4), 2)


def test_a_list_in_a_recipe_is_a_mixture(tmp_path, folder):
    path = tmp_path / "mixed.yaml"
    path.write_text(TINY.format(config="tiny.json", cache=tmp_path, folder=folder, streaming="false"))
    recipe = load_recipe(path)
    mixture = load_training_data(recipe.train_data)
    assert [len(part) for part in mixture.parts] == [6, 4]
    assert mixture.shares == [0.75, 0.25]
    assert mixture.names == ["synthetic", "photos"]
    assert describe_recipe(recipe)["datasets"] == ["synthetic", "TRAIN_DATA"]


@pytest.mark.slow
@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_run_on_a_mixture(tmp_path, tiny_model, folder, capsys, streaming):
    tiny_model.config.to_json_file(tmp_path / "tiny.json")
    path = tmp_path / "mixed.yaml"
    text = TINY.format(config=tmp_path / "tiny.json", cache=tmp_path, folder=folder, streaming=streaming)
    path.write_text(text)
    assert run_train_command(capsys, path, "--output-dir", tmp_path / "run")["steps"] == 2
    stored = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert [part["name"] for part in stored["train_data"]] == ["synthetic", str(folder)]
    path.write_text(text.replace("weight: 3", "weight: 4"))
    assert main(["train", str(path), "--output-dir", str(tmp_path / "run"), "--resume"]) == 2
    assert "holds a run of another recipe (train_data: [{" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train_data: [3]", "must hold data sets with `name` and `split` each, got 3"),
        ("train_data: [{name: synthetic}]", "`name` and `split` each, got {'name': 'synthetic'}"),
        ("train_data: []", "`name` and `split` each, got None"),
        (
            "train_data: [{name: a, split: train}]\nevaluation_data: {split: test}",
            "`evaluation_data` needs a `name`, since `train_data` is a mixture",
        ),
        (
            "train_data: {name: a, split: train}\nevaluation_data: {split: test, streaming: true}",
            "`evaluation_data` cannot be streamed",
        ),
    ],
)
def test_recipes_without_sense_are_refused(tmp_path, change, message):
    path = tmp_path / "bad.yaml"
    path.write_text(f"model: {{checkpoint: somewhere}}\n{change}\n")
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_overrides_reach_a_part_of_a_mixture(tmp_path):
    path = tmp_path / "mixed.yaml"
    path.write_text("model: {checkpoint: somewhere}\ntrain_data: [{name: a, split: b}, {name: c, split: d}]\n")
    recipe = load_recipe(path, ["train_data.1.weight=2", "train_data.1.data_dir=photos"])
    assert recipe.train_data == [
        {"name": "a", "split": "b"},
        {"name": "c", "split": "d", "weight": 2, "data_dir": "photos"},
    ]
    with pytest.raises(ValueError, match="unknown key `train_data.2`"):
        load_recipe(path, ["train_data.2.weight=2"])
    with pytest.raises(
        ValueError, match=r"`train_data` is not a section of a recipe. It is a list: begin with `train_data\.0`"
    ):
        load_recipe(path, ["train_data.split=all"])


def test_evaluation_data_does_not_inherit_streaming(tmp_path):
    path = tmp_path / "streamed.yaml"
    path.write_text(
        "model: {checkpoint: somewhere}\ntrain_data: {name: a, split: train, streaming: true}\n"
        "evaluation_data: {split: test}\n"
    )
    assert load_recipe(path).evaluation_data == {"name": "a", "split": "test"}


def list_blocks(language: str) -> list[str]:
    text = (PROJECT_FOLDER / "docs" / "training-data.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_recipes_of_the_page_load(tmp_path):
    streamed, mixed = list_blocks("yaml")
    (tmp_path / "streamed.yaml").write_text(streamed)
    recipe = load_recipe(tmp_path / "streamed.yaml")
    assert recipe.train_data["streaming"] is True
    assert build_arguments(recipe, tmp_path).shuffle_buffer == 1000
    (tmp_path / "mixed.yaml").write_text(mixed)
    assert [part["weight"] for part in load_recipe(tmp_path / "mixed.yaml").train_data] == [3, 1]


def test_the_python_of_the_page_runs(tmp_path, tiny_pretraining_model, tiny_processor, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "grounding", build_table(4), 2)
    names = dict(
        AmcTrainer=AmcTrainer,
        load_grounding_dataset=load_grounding_dataset,
        model=tiny_pretraining_model,
        processor=tiny_processor,
        arguments=AmcConfig(output_dir=str(tmp_path), use_cpu=True, max_length=24),
        regions=build_table(3),
        scenes=build_table(2),
    )
    kinds = []
    for block in list_blocks("python"):
        exec(block, names)
        kinds.append(type(names["trainer"].train_dataset).__name__)
    assert kinds == ["StreamedRows", "MixedRows"]


def test_the_speed_on_the_page_is_what_the_benchmark_wrote():
    result = json.loads((PROJECT_FOLDER / "benchmarks" / "results" / "loading.json").read_text())
    speed = {name: f"{side['images_per_second']:.0f}" for name, side in result["batches"].items()}
    rows_alone = f"{result['rows_only']['streamed']['images_per_second']:.0f}"
    rows = [
        f"| image files, one by one | {speed['image_files']} | |",
        f"| map-style Parquet | {speed['map_style_0_workers']} | {speed['map_style_2_workers']} |",
        f"| streamed Parquet | {speed['streamed_0_workers']} | {speed['streamed_2_workers']} |",
        f"reading alone gives {rows_alone} rows per second from the stream",
    ]
    text = (PROJECT_FOLDER / "docs" / "training-data.md").read_text()
    assert [row for row in rows if row not in text] == []
