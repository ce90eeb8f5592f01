"""Results name their weights: one hash for every way to store them, and numbers of other weights are not published."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from albef_amc import AlbefForImageTextMatching, AlbefForImageTextRetrieval, AlbefForPreTraining
from albef_amc.cli.main import main
from albef_amc.evaluation.checkpoints import hash_checkpoint
from albef_amc.evaluation.weight_hash import hash_tensors, hash_weights
from albef_amc.model_cards import WEIGHTS_KEY, ModelCard, check_weights, render_model_card, write_model_card
from albef_amc.publishing.checkpoint_publishing import prepare_publication

SCENES = ("num_train_scenes=2", "num_validation_scenes=2", "num_test_scenes=3")
RESULT = {"dataset": "synthetic", "split": "test", "pointing_game_accuracy": 0.5, "num_phrases": 8}


@pytest.fixture
def trained(tmp_path, tiny_pretraining_model, tiny_processor):
    """Folder of a checkpoint of training without a card."""
    tiny_pretraining_model.save_pretrained(tmp_path / "trained")
    tiny_processor.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


def change_weight(folder, name: str, amount: float = 1e-6) -> None:
    """Changes the first number of one tensor of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] += amount
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_scores(folder, **changes):
    path = folder / "scores.json"
    path.write_text(json.dumps({**RESULT, **changes}))
    return path


def prepare(checkpoint, tmp_path, **options):
    folder = tmp_path / "publication"
    return prepare_publication(checkpoint, folder, "your-name/tiny", source="albef-amc", **options)


@pytest.mark.slow
def test_one_hash_for_every_way_to_store_the_weights(trained, tmp_path, tiny_pretraining_model):
    expected = hash_checkpoint(trained)
    matching = tiny_pretraining_model.export_matching_model()
    assert expected == hash_weights(matching)
    matching.save_pretrained(tmp_path / "matching")
    matching.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    AlbefForImageTextRetrieval.from_pretrained(trained).save_pretrained(tmp_path / "retrieval")
    for name in ("matching", "shards", "retrieval"):
        assert hash_checkpoint(tmp_path / name) == expected, name


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_wider_data_type_keeps_the_hash_and_a_narrower_one_does_not(trained, tmp_path, narrow):
    model = AlbefForImageTextMatching.from_pretrained(trained).to(narrow)
    model.save_pretrained(tmp_path / "narrow")
    model.float().save_pretrained(tmp_path / "wide")
    model.double().save_pretrained(tmp_path / "wider")
    hashes = {hash_checkpoint(tmp_path / name) for name in ("narrow", "wide", "wider")}
    assert len(hashes) == 1 and hash_checkpoint(trained) not in hashes


@pytest.mark.slow
def test_what_the_matching_model_lacks_does_not_count_and_every_weight_that_it_has_does(
    trained, tiny_pretraining_model
):
    first = hash_checkpoint(trained)
    shared = AlbefForImageTextMatching.from_pretrained(trained).state_dict()
    others = [name for name in load_file(trained / "model.safetensors") if name not in shared]
    assert others
    for name in others[:: len(others) // 5]:
        change_weight(trained, name, amount=1)
    assert hash_checkpoint(trained) == first
    hashes = {first}
    for name in [*list(shared)[::12], "albef.vision_model.position_embeddings", "itm_head.bias"]:
        change_weight(trained, name, amount=0.5)
        hashes.add(hash_checkpoint(trained))
    assert len(hashes) == 3 + len(shared) // 12 + (len(shared) % 12 > 0)


def test_names_shapes_and_values_are_hashed():
    values = torch.arange(6.0)
    hashes = [
        hash_tensors(tensors)
        for tensors in (
            {"a": values},
            {"b": values},
            {"a": values.view(2, 3)},
            {"a": values.view(3, 2)},
            {"a": values.long()},
            {"a": values[:3], "b": values[3:]},
            {"a": values[:4], "b": values[4:]},
            {},
        )
    ]
    assert len(set(hashes)) == len(hashes)
    strided = torch.stack([values, values]).T[:, 0]
    assert hash_tensors({"a": strided}) == hashes[0] != hash_tensors({"a": values}, prefix="x")


def test_hashing_draws_no_random_number(trained):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    hash_checkpoint(trained)
    assert torch.equal(torch.rand(2), expected)


@pytest.fixture
def scores(trained, tmp_path, capsys):
    """What `albef-amc evaluate --output` wrote about the checkpoint, at another image size than its own."""
    words = ["evaluate", str(trained), "synthetic", "--split", "test", "--image-size", "64", "--device", "cpu"]
    words += [word for option in (*SCENES, f"cache_dir={tmp_path / 'cache'}") for word in ("--data", option)]
    assert main([*words, "--output", str(tmp_path / "scores.json")]) == 0
    capsys.readouterr()
    return tmp_path / "scores.json"


@pytest.mark.slow
def test_a_result_names_its_weights_and_is_published_with_them_alone(trained, scores, tmp_path, capsys):
    result = json.loads(scores.read_text())
    assert result[WEIGHTS_KEY] == hash_checkpoint(trained)
    publication = prepare(trained, tmp_path, metrics_file=scores, dtype=torch.bfloat16)
    card = (publication.folder / "README.md").read_text()
    assert f"{100 * result['pointing_game_accuracy']:.2f} | {result['num_phrases']}" in card
    assert "from float32 to bfloat16 for this repository; the results below are those before the conversion" in card
    published = json.loads((publication.folder / "metrics.json").read_text())
    assert published["test"][WEIGHTS_KEY] == result[WEIGHTS_KEY]

    change_weight(trained, "itm_head.bias")
    words = ["push", str(trained), "your-name/tiny", "--source", "albef-amc", "--dry-run"]
    words += ["--metrics-file", str(scores)]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert result[WEIGHTS_KEY] in error and hash_checkpoint(trained) in error
    assert f"`{result['command']} --output scores.json`" in error and "`--metrics-file scores.json`" in error
    assert "--image-size 64" in error


@pytest.mark.parametrize("named", [None, "", "abc", 7])
def test_results_that_do_not_name_these_weights_are_refused_with_the_remedy(checkpoint, tmp_path, named):
    changes = {} if named is None else {WEIGHTS_KEY: named}
    words = "does not say which weights" if named is None else rf"other weights \(`{WEIGHTS_KEY}` {named}\) than those"
    remedy = r"`albef-amc evaluate CHECKPOINT RECIPE_OR_DATASET --output scores.json`"
    with pytest.raises(ValueError, match=f"{words}.*{remedy}"):
        prepare(checkpoint, tmp_path, metrics_file=write_scores(tmp_path, **changes))
    assert not (tmp_path / "publication").exists()


def test_one_split_of_several_is_enough_to_refuse(tmp_path):
    results = {"val": {**RESULT, WEIGHTS_KEY: "a"}, "test": {**RESULT, WEIGHTS_KEY: "b"}}
    check_weights("scores.json", {"val": results["val"]}, "a")
    with pytest.raises(ValueError, match=r"the result of test was measured on other weights \(`weights_sha256` b\)"):
        check_weights("scores.json", results, "a")


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_the_metrics_beside_a_checkpoint_are_checked_as_well(checkpoint, tmp_path, by_hand, named):
    """Weights that were replaced after the card was written, and metrics of a version that named no weights."""
    changes = {WEIGHTS_KEY: hash_checkpoint(checkpoint)} if named else {}
    (checkpoint / "metrics.json").write_text(json.dumps({"eval": {**RESULT, **changes}}))
    card = ModelCard("tiny", "A small model.", metrics_file=checkpoint / "metrics.json", evaluation_dataset="scenes")
    path = write_model_card(checkpoint, card)
    if by_hand:
        path.write_text(path.read_text() + "\nBy hand.\n")
    if named:
        prepare_publication(checkpoint, tmp_path / "first", "your-name/tiny")
        change_weight(checkpoint, "albef.text_projection.weight")
    words = "other weights" if named else "does not say which weights"
    with pytest.raises(ValueError, match=f"result of eval.*{words}"):
        prepare_publication(checkpoint, tmp_path / "publication", "your-name/tiny")


def test_a_card_that_names_its_weights_refuses_others(tmp_path):
    path = write_scores(tmp_path, **{WEIGHTS_KEY: "a" * 64})
    card = ModelCard("tiny", "x", metrics_file=path, evaluation_dataset="scenes", weights_sha256="a" * 64)
    assert "50.00" in render_model_card(card)
    card.weights_sha256 = "b" * 64
    with pytest.raises(ValueError, match="a{64}.*b{64}"):
        render_model_card(card)


def test_a_class_of_training_has_the_hash_of_its_matching_model(trained):
    model = AlbefForPreTraining.from_pretrained(trained)
    assert hash_weights(model) != hash_checkpoint(trained) == hash_weights(model.export_matching_model())
