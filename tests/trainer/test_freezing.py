"""Freezing: what stays, what is still trained, and that heatmaps can be differentiated all the same."""

import pytest
import torch
from testing_utils import build_batch, build_tiny_arguments, build_tiny_trainer, copy_state, list_training_logs

from albef_amc.trainer.freezing import PARTS, freeze_parameters

BELOW_FUSION = tuple(
    f"albef.text_model.{name}"
    for name in (
        "layers.0.",
        "layers.1.",
        "word_embeddings.",
        "position_embeddings.",
        "token_type_embeddings.",
        "embedding_layer_norm.",
    )
)
FUSION = ("albef.text_model.layers.2.", "albef.text_model.layers.3.")


def list_trained(model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_every_parameter_belongs_to_one_part(tiny_pretraining_model):
    for name in list_trained(tiny_pretraining_model):
        assert sum(belongs(name, 2) for belongs in PARTS.values()) == 1, name


@pytest.mark.parametrize(
    ("names", "frozen", "trained"),
    [
        (["vision"], ("albef.vision_model.",), ("albef.vision_projection.", *BELOW_FUSION, *FUSION)),
        (["text"], BELOW_FUSION, (*FUSION, "mlm_head.decoder.bias")),
        (["fusion", "temperature"], (*FUSION, "albef.temperature"), BELOW_FUSION),
        (["mlm_head"], ("mlm_head.",), ("albef.text_model.word_embeddings.",)),
        (["albef.vision_model.layers.1", "itm_head."], ("albef.vision_model.layers.1.", "itm_head."), BELOW_FUSION),
    ],
)
def test_parts_and_beginnings_of_names(tiny_pretraining_model, names, frozen, trained):
    before = list_trained(tiny_pretraining_model)
    listed = freeze_parameters(tiny_pretraining_model, names)
    after = list_trained(tiny_pretraining_model)
    assert sorted(listed) == sorted(set(before) - set(after))
    assert listed and all(name.startswith(frozen) for name in listed)
    for beginning in frozen:
        assert any(name.startswith(beginning) for name in listed), beginning
    for beginning in trained:
        assert any(name.startswith(beginning) for name in after), beginning


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["visoin"], "Did you mean `vision`?"),
        (["albef.vision_model.layer.1"], "Did you mean `albef.vision_model.layers.1`?"),
        (["albef.vision_model.lay"], "no part"),
        (["momentum_vision_model"], "no part 'momentum_vision_model'"),
        (list(PARTS), "leaves nothing to train"),
    ],
)
def test_names_that_cannot_be_frozen(tiny_pretraining_model, names, words):
    before = list_trained(tiny_pretraining_model)
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        freeze_parameters(tiny_pretraining_model, names)
    assert list_trained(tiny_pretraining_model) == before


def test_a_word_in_place_of_a_list_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"`freeze` must be a list"):
        build_tiny_arguments(tmp_path, freeze="vision")


@pytest.mark.slow
def test_frozen_parts_stay_to_the_bit_and_the_others_learn(tiny_pretraining_model, tmp_path):
    freeze = ["vision", "text", "projections", "temperature", "mlm_head"]
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, freeze=freeze)
    before = copy_state(trainer.model)
    trainer.train()
    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name]) and not name.startswith("mom")}
    assert changed - {name for name in changed if "queue" in name} == set(list_trained(trainer.model))


@pytest.mark.parametrize("keep_trained", ["itm_head", "albef.text_model.layers.3", "albef.text_model.layers.2.fc1"])
def test_heatmaps_are_differentiable_with_nothing_trained_before_the_map(tiny_pretraining_model, keep_trained):
    model, batch = tiny_pretraining_model, build_batch(tiny_pretraining_model.config)
    expected = model(**batch, objectives=(), output_heatmap=True).heatmap
    parameters = dict(model.named_parameters())
    freeze_parameters(model, [name for name in list_trained(model) if not name.startswith(keep_trained)])
    heatmap = model(**batch, objectives=(), output_heatmap=True).heatmap
    torch.testing.assert_close(heatmap, expected)
    trained = [parameters[name] for name in list_trained(model) if not name.endswith("itm_head.bias")]
    ours = torch.autograd.grad(heatmap.square().sum(), trained, allow_unused=True)
    model.requires_grad_(True)
    whole = model(**batch, objectives=(), output_heatmap=True).heatmap
    theirs = torch.autograd.grad(whole.square().sum(), trained, allow_unused=True)
    reached = [pair for pair in zip(ours, theirs, strict=True) if pair[1] is not None]
    assert any(gradient.abs().max() > 0 for _, gradient in reached)
    for gradient, reference in reached:
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_amc_alone_trains_the_matching_head(tiny_pretraining_model, tmp_path, checkpointing):
    freeze = [part for part in PARTS if part != "itm_head"]
    weights = {"itc_weight": 0.0, "itm_weight": 0.0, "mlm_weight": 0.0}
    trainer = build_tiny_trainer(
        tiny_pretraining_model,
        tmp_path,
        freeze=freeze,
        gradient_checkpointing=checkpointing,
        **weights,
    )
    before = trainer.model.itm_head.weight.clone()
    trainer.train()
    assert list_training_logs(trainer)[0]["amc_loss"] > 0
    assert not torch.equal(trainer.model.itm_head.weight, before)


@pytest.mark.slow
def test_a_frozen_temperature_is_not_clamped(tiny_pretraining_model, tmp_path):
    tiny_pretraining_model.albef.temperature.data.fill_(5.0)
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, freeze=["temperature"], max_steps=1)
    trainer.train()
    assert trainer.model.albef.temperature.item() == 5.0


@pytest.mark.slow
def test_a_loss_that_reaches_nothing_is_one_error(tiny_pretraining_model, tmp_path):
    freeze = [part for part in PARTS if part != "fusion"]
    trainer = build_tiny_trainer(
        tiny_pretraining_model,
        tmp_path,
        freeze=freeze,
        amc_weight=0.0,
        itm_weight=0.0,
        mlm_weight=0.0,
    )
    with pytest.raises(ValueError, match="no objective with a weight reaches a parameter"):
        trainer.train()
