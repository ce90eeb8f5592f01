# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The image encoder with registers or a class token that is not read; attention kernels of the encoders.

What needs a GPU is imitated: `plans_by_shape` is true for the CPU, and torch code with the signature
and the limits of flash attention's functions takes their place.
"""

import json
import math

import pytest
import torch
from model_cases import MODELS, assert_same_outputs, build_model, list_heatmap_options, run
from testing_utils import build_batch, build_tiny_config
from torch._dynamo.utils import counters
from torch.autograd.function import once_differentiable
from transformers import modeling_flash_attention_utils as flash
from transformers.utils import is_flash_attn_2_available

from albef_amc import (
    AlbefConfig,
    AlbefForImageTextMatching,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefModel,
    AlbefVisionConfig,
    encoders_albef,
)
from albef_amc.encoders_albef import AlbefVisionAttention
from albef_amc.trainer import AttentionMaskConsistencyLoss

BFLOAT16_TOLERANCE = 0.03  # of values up to 1
FLASH_MODELS = [model_class for model_class in MODELS if model_class is not AlbefForQuestionAnswering]


# The image encoder


@pytest.mark.parametrize("use_eager", [False, True])
def test_a_class_token_that_is_not_read(use_eager):
    config = AlbefVisionConfig(hidden_size=12, num_attention_heads=3, is_class_token_read=False)
    config._attn_implementation = "sdpa"
    attention = AlbefVisionAttention(config).double().eval()
    states = torch.randn(2, 5, 12, dtype=torch.float64)
    with torch.no_grad():
        query, key, value = attention.qkv(states).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / 2
        scores[:, :, 1:, 0] = -torch.inf
        expected = attention.out_proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(2, 5, 12))
        output, probabilities = attention(states, use_eager)
    torch.testing.assert_close(output, expected)
    if use_eager:
        torch.testing.assert_close(probabilities, scores.softmax(-1)[:, :, :1])


@pytest.mark.parametrize("changes", [{"num_register_tokens": 3}, {"is_class_token_read": False}])
def test_heatmaps_of_a_vision_block_show_patches_alone(changes):
    """The formula of the heatmap, on the columns of the patches in the row of the class token."""
    config = build_tiny_config()
    vision_config = AlbefVisionConfig(**{**config.vision_config.to_dict(), **changes})
    torch.manual_seed(0)
    model = AlbefForImageTextMatching(AlbefConfig(**{**config.to_dict(), "vision_config": vision_config})).eval()
    batch = build_batch(model.config, (2, 1))
    found = model.ground(**batch, explanation_kind="itc").heatmap
    encoder, block = model.albef.vision_model, model.config.explanation_block
    states = encoder.run_layers(encoder.embed(batch["pixel_values"]), last=block)
    states, attention_map = encoder.run_explained_layer(block, states[batch["image_index"]])
    image_features = model.albef.project_images(encoder.layer_norm(encoder.run_layers(states, first=block + 1)))
    text_features = model.albef.get_text_features(batch["input_ids"], batch["attention_mask"])
    score = (image_features * text_features).sum() / model.albef.temperature
    (gradient,) = torch.autograd.grad(score, attention_map)
    num_patches = math.prod(vision_config.grid_size)
    first = 1 + changes.get("num_register_tokens", 0)
    assert attention_map.shape[-1] == first + num_patches
    expected = (attention_map * gradient.clamp(min=0)).mean(1)[:, 0, first:].unflatten(-1, vision_config.grid_size)
    torch.testing.assert_close(found, expected.detach())
    assert encoder(batch["pixel_values"]).shape[1] == 1 + num_patches


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "relu"}, "`vision_config.hidden_act` must be one of 'gelu', 'gelu_pytorch_tanh', got 'relu'"),
        ({"num_register_tokens": -1}, "`vision_config.num_register_tokens` must be .* got -1"),
    ],
)
def test_settings_that_no_image_encoder_has(changes, words):
    with pytest.raises(ValueError, match=words):
        AlbefVisionConfig(**changes)


def test_registers_that_the_configuration_does_not_have(tmp_path):
    config = build_tiny_config()
    config.vision_config.num_register_tokens = 3
    AlbefForImageTextMatching(config).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["vision_config"]["num_register_tokens"] = 2
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"vision_config.num_register_tokens.*2.*3"):
        AlbefForImageTextMatching.from_pretrained(tmp_path)


# Kernels without plans


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, bool]]:
    """Keys of each call of torch's attention, and whether it might have been given to cuDNN."""
    noted, attend = [], torch.nn.functional.scaled_dot_product_attention

    def note_and_attend(query, key, *arguments, **options):
        noted.append((key.shape[2], torch.backends.cuda.cudnn_sdp_enabled()))
        return attend(query, key, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note_and_attend)
    return noted


@pytest.mark.parametrize("checkpointed", [False, True])
def test_layers_of_phrases_are_not_given_to_cudnn(calls, monkeypatch, checkpointed):
    """The image encoder is, which has one shape; so is everything on a CPU. Both passes of checkpointing agree."""
    model = build_model(AlbefForPreTraining).train()
    if checkpointed:
        model.activation_checkpointing_enable()
    batch = build_batch(model.config, length=7)
    run(model, batch).loss.backward()
    assert all(may_be_cudnn for _, may_be_cudnn in calls)
    calls.clear()
    monkeypatch.setattr(encoders_albef, "plans_by_shape", lambda device: True)
    run(model, batch).loss.backward()
    num_patches = math.prod(model.config.vision_config.grid_size)
    of_tokens = [may_be_cudnn for keys, may_be_cudnn in calls if keys == 7]
    of_patches = [may_be_cudnn for keys, may_be_cudnn in calls if keys == 1 + num_patches]
    assert of_tokens and not any(of_tokens)
    assert any(of_patches) and not all(of_patches)  # the image encoder, and attention from phrases to patches
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_only_a_gpu_plans_by_shape():
    assert [encoders_albef.plans_by_shape(torch.device(kind)) for kind in ("cpu", "meta", "cuda")] == [
        False,
        False,
        True,
    ]


@pytest.mark.slow
def test_the_choice_of_kernels_is_compiled_with_the_layers(tiny_model, monkeypatch):
    batch = build_batch(tiny_model.config)
    expected = tiny_model.ground(**batch)
    monkeypatch.setattr(encoders_albef, "plans_by_shape", lambda device: True)
    torch._dynamo.reset()
    counters.clear()
    tiny_model.compile_encoders(backend="aot_eager", fullgraph=True)
    assert_same_outputs(tiny_model.ground(**batch), expected, atol=1e-6)
    assert counters["stats"]["unique_graphs"] > 0
    torch._dynamo.reset()


# Flash attention 2


def attend_once(query, key, value, scale):
    """Attention `(heads, queries, head_dim)` over `(heads, keys, head_dim)`, by the formula."""
    return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value


class OnceDifferentiable(torch.autograd.Function):
    """[`attend_once`] with a gradient that has none itself, as that of flash attention."""

    @staticmethod
    def forward(context, query, key, value, scale):
        context.save_for_backward(query, key, value)
        context.scale = scale
        return attend_once(query, key, value, scale)

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in context.saved_tensors]
            return *torch.autograd.grad(attend_once(*inputs, context.scale), inputs, gradient), None


class FlashFunctions:
    """`flash_attn_func` and `flash_attn_varlen_func` of flash-attn 2 in torch; counts the calls of each."""

    def __init__(self, dtypes: tuple[torch.dtype, ...]):
        self.dtypes = dtypes
        self.num_calls = {"fixed": 0, "varlen": 0}

    def attend(self, query, key, value, dropout_p, softmax_scale, causal):
        if {query.dtype, key.dtype, value.dtype} - set(self.dtypes):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        assert dropout_p == 0 and not causal
        by_head = (tensor.transpose(0, 1) for tensor in (query, key, value))
        return OnceDifferentiable.apply(*by_head, softmax_scale).transpose(0, 1)

    def fixed(self, q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
        """`(batch, length, heads, head_dim)`."""
        self.num_calls["fixed"] += 1
        rows = zip(q, k, v, strict=True)
        return torch.stack([self.attend(*row, dropout_p, softmax_scale, causal) for row in rows])

    def varlen(
        self,
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
    ):
        """`(tokens of all rows, heads, head_dim)`; the lengths are given as cumulative sums."""
        self.num_calls["varlen"] += 1
        assert max_seqlen_q == cu_seqlens_q.diff().max() and max_seqlen_k == cu_seqlens_k.diff().max()
        queries, keys = (lengths.diff().tolist() for lengths in (cu_seqlens_q, cu_seqlens_k))
        rows = zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
        return torch.cat([self.attend(*row, dropout_p, softmax_scale, causal) for row in rows])


@pytest.fixture
def flash_functions(monkeypatch):
    """Puts torch code in place of flash attention; takes the types that it accepts."""

    def install(*dtypes: torch.dtype) -> FlashFunctions:
        functions = FlashFunctions(dtypes)
        found = (functions.fixed, functions.varlen, None, flash._pad_input, flash._unpad_input)
        monkeypatch.setattr(flash, "_lazy_imports", lambda *arguments, **options: found)
        monkeypatch.setattr(flash, "_loaded_implementation", None)
        return functions

    return install


def choose_flash_attention(model) -> None:
    """As `attn_implementation="flash_attention_2"` does where the package is installed."""
    assert type(model)._supports_flash_attn
    for config in (model.config, model.config.vision_config, model.config.text_config):
        config._attn_implementation = "flash_attention_2"


@pytest.mark.parametrize("model_class", FLASH_MODELS)
def test_flash_attention_computes_the_same(model_class, flash_functions):
    """With and without padding, first tokens alone included; layers that are explained stay with eager attention."""
    functions = flash_functions(torch.float64)
    model = build_model(model_class).double()
    batch = build_batch(model.config, dtype=torch.float64)
    options = list_heatmap_options(model_class, "output_token_heatmap")
    expected = run(model, batch, **options)
    choose_flash_attention(model)
    outputs = run(model, batch, **options)
    assert min(functions.num_calls.values()) > 0
    if model_class is AlbefModel:  # returns the states of padding, which nothing reads
        for values in (outputs, expected):
            values["last_hidden_state"] = values["last_hidden_state"] * batch["attention_mask"][..., None]
            values["text_embeds"] = values["text_embeds"] * batch["attention_mask"][..., None]
    assert_same_outputs(outputs, expected, atol=1e-10)


def test_flash_attention_trains_with_amc(flash_functions):
    """No layer with flash attention is differentiated twice, and all gradients are those of torch's attention."""
    model = build_model(AlbefForPreTraining).double()
    batch = build_batch(model.config, dtype=torch.float64)
    mask = torch.zeros(len(batch["input_ids"]), 16, 16, dtype=torch.float64)
    mask[:, 4:12, 2:8] = 1

    def differentiate() -> dict[str, torch.Tensor]:
        model.zero_grad()
        outputs = run(model, batch, output_heatmap=True)
        amc = AttentionMaskConsistencyLoss()(outputs.normalized_heatmap, mask, torch.ones(len(mask), dtype=torch.bool))
        (outputs.loss + amc["amc_loss"]).backward()
        return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    expected = differentiate()
    functions = flash_functions(torch.float64)
    choose_flash_attention(model)
    gradients = differentiate()
    assert min(functions.num_calls.values()) > 0 and gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-9, rtol=1e-7, msg=name)


@pytest.mark.parametrize("loaded_as", [torch.float32, torch.bfloat16])
def test_flash_attention_wants_bfloat16(loaded_as, flash_functions):
    """Of weights or by autocast; a model in float32 without autocast is refused by flash attention itself."""
    flash_functions(torch.float16, torch.bfloat16)
    model = build_model(AlbefForImageTextMatching).to(loaded_as)
    batch = build_batch(model.config, dtype=loaded_as)

    def ground() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=loaded_as is torch.float32):
            return model.ground(**batch).normalized_heatmap

    expected = ground()
    choose_flash_attention(model)
    heatmap = ground()
    assert heatmap.dtype == torch.float32
    torch.testing.assert_close(heatmap, expected, atol=BFLOAT16_TOLERANCE, rtol=0)
    if loaded_as is torch.float32:
        with pytest.raises(RuntimeError, match="only support fp16 and bf16"):
            model.ground(**batch)


@pytest.mark.gpu
@pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs a CUDA device and flash-attn")
def test_flash_attention_on_a_gpu(tmp_path):
    """The package itself, as a user asks for it."""
    build_model(AlbefForImageTextMatching).save_pretrained(tmp_path)
    heatmaps = []
    for implementation in ("sdpa", "flash_attention_2"):
        options = dict(attn_implementation=implementation, dtype=torch.bfloat16)
        model = AlbefForImageTextMatching.from_pretrained(tmp_path, **options).cuda()
        batch = build_batch(model.config)
        batch["pixel_values"] = batch["pixel_values"].cuda()
        heatmaps.append(model.ground(**batch).normalized_heatmap.cpu())
    torch.testing.assert_close(heatmaps[1], heatmaps[0], atol=BFLOAT16_TOLERANCE, rtol=0)
