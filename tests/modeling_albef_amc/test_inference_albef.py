"""Packed and quantised layers: the same heatmaps or nearly so, and no training or saving of what has no weights."""

import re

import pytest
import torch
from testing_utils import build_batch, build_tiny_trainer
from torch import nn
from torch.nn.functional import cosine_similarity

from albef_amc.inference_albef import PackedLinear, QuantizedLinear

TOLERANCE = 1e-5  # share of the maximum; oneDNN adds in another order
ROUNDING = 2e-2  # of bfloat16; on some CPUs oneDNN rounds other sums than autocast does
LEAST_COSINE = 0.98

SWITCHES = {
    "pack_weights": lambda model: model.pack_weights(),
    "quantize_image_encoder": lambda model: model.quantize_image_encoder(),
}


@pytest.fixture
def batch(tiny_model):
    """Biases are not 0 as after initialisation, so that they count."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in tiny_model.modules():
            if isinstance(module, nn.Linear):
                module.bias.normal_(std=0.2, generator=generator)
    return build_batch(tiny_model.config, (0, 0, 1, 2, 1))


def find_layers(model: nn.Module, kind: type) -> set[str]:
    return {name for name, module in model.named_modules() if type(module) is kind}


def assert_close(outputs, expected, tolerance: float) -> None:
    slack = tolerance * expected.heatmap.amax(dim=(1, 2))[:, None, None]
    assert ((outputs.heatmap - expected.heatmap).abs() <= slack).all()
    torch.testing.assert_close(outputs.itm_logits, expected.itm_logits, atol=tolerance, rtol=tolerance)


def test_packed_weights_give_the_same_heatmaps(tiny_model, batch):
    expected, random_state = tiny_model.ground(**batch), torch.get_rng_state()
    floating = find_layers(tiny_model, nn.Linear)
    tiny_model.pack_weights()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_close(tiny_model.ground(**batch), expected, TOLERANCE)
    packed, left = find_layers(tiny_model, PackedLinear), find_layers(tiny_model, nn.Linear)
    assert packed | left == floating and not packed & left
    explained = tiny_model.config.explanation_layer
    assert {name for name in floating if name.startswith("albef.vision_model.")} <= packed
    for name in floating:
        layer = re.match(r"albef\.text_model\.layers\.(\d+)\.(.*)", name)
        if layer is not None:
            reads_image = layer[2] in ("cross_attention.k_proj", "cross_attention.v_proj")
            assert (name in packed) == (int(layer[1]) < explained or reads_image), name


@pytest.mark.usefixtures("packed_bfloat16")
def test_packed_bfloat16_weights_give_what_autocast_gives(tiny_model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        expected = tiny_model.ground(**batch)
    tiny_model.pack_weights(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = tiny_model.ground(**batch)
    assert_close(outputs, expected, ROUNDING)


@pytest.mark.usefixtures("packed_bfloat16")
@pytest.mark.parametrize("packs_weights", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_image_encoder_in_int8(tiny_model, batch, autocast, packs_weights, recwarn):
    expected, floating = tiny_model.ground(**batch), find_layers(tiny_model, nn.Linear)
    tiny_model.quantize_image_encoder()
    quantized = find_layers(tiny_model, QuantizedLinear)
    assert quantized == {name for name in floating if name.startswith("albef.vision_model.layers.")}
    if packs_weights:
        tiny_model.pack_weights(torch.bfloat16 if autocast else None)
        assert find_layers(tiny_model, PackedLinear)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = tiny_model.ground(**batch)
    cosines = cosine_similarity(outputs.heatmap.flatten(1), expected.heatmap.flatten(1))
    assert LEAST_COSINE < cosines.min() < 1 - TOLERANCE
    assert outputs.heatmap.dtype == torch.float32
    assert not recwarn.list


@pytest.mark.usefixtures("packed_bfloat16")
def test_a_model_in_bfloat16_can_be_quantised_and_packed(tiny_model, batch):
    expected = tiny_model.ground(**batch)
    tiny_model.to(torch.bfloat16)
    tiny_model.quantize_image_encoder()
    tiny_model.pack_weights()
    outputs = tiny_model.ground(**batch)
    assert cosine_similarity(outputs.heatmap.flatten(1), expected.heatmap.flatten(1)).min() > LEAST_COSINE


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_what_has_no_weights_is_not_saved_pushed_or_trained(switch, tiny_model, tmp_path, hub):
    switch(tiny_model)
    message = (
        "a model with packed or quantised weights cannot be {}: load the checkpoint again, without `pack_weights`"
    )
    with pytest.raises(ValueError, match=message.format("saved or pushed")):
        tiny_model.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=message.format("saved or pushed")):
        tiny_model.push_to_hub("somebody/model")
    assert not (tmp_path / "saved").exists() and not hub.repositories
    with pytest.raises(ValueError, match=message.format("trained")):
        tiny_model.train()


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_a_trainer_refuses_it_before_the_first_step(switch, tiny_pretraining_model, tmp_path):
    switch(tiny_pretraining_model)
    with pytest.raises(ValueError, match="a model with packed or quantised weights cannot be trained"):
        build_tiny_trainer(tiny_pretraining_model, tmp_path)


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_layers_without_a_gradient_are_not_explained(switch, tiny_model, batch):
    switch(tiny_model)
    with pytest.raises(ValueError, match='cannot be explained with `explanation_kind="itc"`'):
        tiny_model.ground(**batch, explanation_kind="itc")


@pytest.mark.parametrize(("name", "switch"), SWITCHES.items())
def test_where_layers_cannot_be_replaced(name, switch, tiny_model):
    tiny_model.peft_config = {}
    with pytest.raises(ValueError, match=rf"merge the adapter \(`albef-amc merge`\) before `{name}`"):
        switch(tiny_model)
    del tiny_model.peft_config
    with pytest.raises(ValueError, match=f"`{name}` is for a CPU, but the model is on meta"):
        switch(tiny_model.to("meta"))


def test_wrong_orders_and_types(tiny_model):
    with pytest.raises(ValueError, match=r"`dtype` must be torch.float32 or torch.bfloat16, got torch.float64"):
        tiny_model.pack_weights(torch.float64)
    tiny_model.pack_weights()
    with pytest.raises(ValueError, match="a model with packed or quantised weights cannot be quantised"):
        tiny_model.quantize_image_encoder()
    with pytest.raises(ValueError, match="a model with packed or quantised weights cannot be packed again"):
        tiny_model.pack_weights()


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_layers_without_weights_are_not_compiled(switch, tiny_model):
    switch(tiny_model)
    with pytest.raises(ValueError, match="a model with packed or quantised weights cannot be compiled"):
        tiny_model.compile_encoders(backend="aot_eager")


def test_a_machine_whose_onednn_lacks_a_type(tiny_model, monkeypatch):
    def refuse(*tensors):
        raise RuntimeError("bf16 path needs the cpu support avx512bw\nmore")

    monkeypatch.setattr(nn.functional, "linear", refuse)
    with pytest.raises(ValueError, match=r"cannot compute with torch.bfloat16 on this machine \(bf16 path needs"):
        tiny_model.pack_weights(torch.bfloat16)
