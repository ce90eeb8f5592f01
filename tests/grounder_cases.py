"""Small random models of every family that can be grounded, with processors, and an oracle of their heatmaps."""

import copy
import random
from dataclasses import replace

import numpy as np
import torch
import torch._dynamo
from testing_utils import VOCABULARY, build_tiny_config, build_tiny_processor
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    BridgeTowerConfig,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerImageProcessor,
    BridgeTowerProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltImageProcessor,
    ViltProcessor,
)

from albef_amc import AlbefForImageTextMatching
from albef_amc.grounders import Grounder
from albef_amc.grounders.families import FAMILIES, Family

NAMES = tuple(f"{family.model_type}-{family.score_name}" for family in FAMILIES)
BY_NAME = dict(zip(NAMES, FAMILIES, strict=True))
POSITIONS = 16
SMALL = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2)
IDS = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3)
SQUARE = {"height": 32, "width": 32}


def build_tiny_tokenizer(**changes) -> PreTrainedTokenizerFast:
    """Words of the tests, [CLS] first and [SEP] last."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(special, model_max_length=POSITIONS, padding_side="right", **changes)
    )


def build_blip():
    vocab_size = len(VOCABULARY) + 2
    text = dict(SMALL, num_hidden_layers=4, vocab_size=vocab_size, max_position_embeddings=POSITIONS)
    config = BlipConfig(
        text_config=dict(text, encoder_hidden_size=32, bos_token_id=vocab_size - 2, pad_token_id=0, sep_token_id=3),
        vision_config=dict(SMALL, num_hidden_layers=2, image_size=32, patch_size=8),
        image_text_hidden_size=16,
    )
    return BlipForImageTextRetrieval(config), BlipProcessor(BlipImageProcessor(size=SQUARE), build_tiny_tokenizer())


def build_clip():
    text = dict(SMALL, num_hidden_layers=2, vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS, **IDS)
    vision = dict(SMALL, num_hidden_layers=3, image_size=32, patch_size=8)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return CLIPModel(config), CLIPProcessor(processor, build_tiny_tokenizer())


def build_siglip():
    text = dict(SMALL, num_hidden_layers=2, vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS, **IDS)
    vision = dict(SMALL, num_hidden_layers=2, image_size=32, patch_size=8)
    config = SiglipConfig(text_config=text, vision_config=vision)
    return SiglipModel(config), SiglipProcessor(SiglipImageProcessor(size=SQUARE), build_tiny_tokenizer())


def build_siglip2():
    text = dict(SMALL, num_hidden_layers=2, vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS, **IDS)
    vision = dict(SMALL, num_hidden_layers=2, num_patches=16, patch_size=8)
    config = Siglip2Config(text_config=text, vision_config=vision)
    processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=20)
    return Siglip2Model(config), Siglip2Processor(processor, build_tiny_tokenizer())


def build_vilt():
    config = ViltConfig(
        **SMALL, num_hidden_layers=3, vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS,
        image_size=32, patch_size=8, pad_token_id=0,
    )  # fmt: skip
    processor = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    return ViltForImageAndTextRetrieval(config), ViltProcessor(processor, build_tiny_tokenizer())


def build_bridgetower():
    small = dict(SMALL, hidden_size=64)
    text = dict(small, num_hidden_layers=4, vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS + 1, **IDS)
    config = BridgeTowerConfig(
        **dict(small, num_hidden_layers=3),
        text_config=text,
        vision_config=dict(hidden_size=64, num_hidden_layers=4, image_size=32, patch_size=8),
    )
    side = {"shortest_edge": 32}
    processor = BridgeTowerImageProcessor(size=side, crop_size=side, size_divisor=8)
    return BridgeTowerForImageAndTextRetrieval(config), BridgeTowerProcessor(processor, build_tiny_tokenizer())


def build_albef():
    return AlbefForImageTextMatching(build_tiny_config()), build_tiny_processor()


BUILDERS = {
    "albef": build_albef,
    "blip": build_blip,
    "bridgetower": build_bridgetower,
    "clip": build_clip,
    "siglip": build_siglip,
    "siglip2": build_siglip2,
    "vilt": build_vilt,
}


def build_tiny_grounder(name: str, layer: int | None = None, method: str = "grad_cam") -> Grounder:
    """A grounder of a family in float64 and evaluation mode, whose weights make uneven maps."""
    family = BY_NAME[name]
    torch.manual_seed(0)
    model, processor = BUILDERS[family.model_type]()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    return Grounder(model.double(), processor, family, layer, method).eval()


def describe_state(grounder: Grounder) -> dict:
    """What a call must leave as it was."""
    modules, backends = list(grounder.modules()), torch.backends.cuda
    return {
        "hooks": [(len(one._forward_hooks), len(one._forward_pre_hooks), len(one._backward_hooks)) for one in modules],
        "modes": [one.training for one in modules],
        "checkpointing": [getattr(one, "gradient_checkpointing", None) for one in modules],
        "gradients": [parameter.grad is None for parameter in grounder.parameters()],
        "trained": [parameter.requires_grad for parameter in grounder.parameters()],
        "weights": [tensor._version for tensor in (*grounder.parameters(), *grounder.buffers())],
        "configuration": grounder.model.config.to_json_string(),
        "back_ends": [getattr(getattr(one, "config", None), "_attn_implementation", None) for one in modules],
        "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
        "enabled": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "kernels": (backends.flash_sdp_enabled(), backends.mem_efficient_sdp_enabled(), backends.math_sdp_enabled()),
        "watches": torch._C._len_torch_function_stack(),
        "default": torch.get_default_dtype(),
        "compiler": torch._dynamo.eval_frame._stance.stance,
    }


def compute_heatmap_alone(grounder: Grounder, image, phrase: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Score and cells `(C,)` of one phrase: a forward pass, a full backward pass, and A and dS/dA from the projections
    of the layers and from the gradient of what their attention returns."""
    model, family = copy.deepcopy(grounder.model), grounder.family
    batch = grounder.prepare([image], [[phrase]])
    count = batch["layouts"][0].num_cells
    if grounder.method == "similarity":
        return compare_patches_alone(model, family, batch, count)
    first = family.first_column(batch["input_ids"].shape[1])
    watched = [watch_attention(model, name) for name in grounder.module_names]
    order = record_patch_order(model) if family.model_type == "vilt" else None
    score = run_public_forward(model, family, batch)
    score.backward()
    pairs = [read_attention(model, seen, first + count) for seen in watched]
    if grounder.method == "relevancy":
        row = relate_tokens(family, [(map_ * gradient).clamp(min=0).mean(dim=0) for map_, gradient in pairs])
    else:
        ((map_, gradient),) = pairs
        values = map_ if grounder.method == "attention" else map_ * gradient.clamp(min=0)
        rows = batch["token_mask"][0] if family.score.has_token_rows else torch.tensor([True])
        row = values.mean(dim=0)[: len(rows)][rows].mean(dim=0)
    cells = row[first : first + count].detach()
    return score.detach(), cells if order is None else cells[order[0].argsort()]


def watch_attention(model: nn.Module, name: str) -> dict:
    """What [`read_attention`] needs of a module, once the model ran forwards and backwards."""
    module, seen = model.get_submodule(name), {}
    if isinstance(module, nn.MultiheadAttention):
        module.register_forward_hook(lambda _, inputs, output: keep_whole(seen, module, inputs, output[0]))
    elif hasattr(module, "qkv"):
        module.qkv.register_forward_hook(
            lambda _, inputs, output: seen.update(zip("qkv", output.chunk(3, dim=-1), strict=True))
        )
        module.projection.register_forward_pre_hook(lambda _, inputs: keep(seen, inputs[0]))
    else:
        for which in "qkv":
            find_projection(module, which).register_forward_hook(
                lambda _, inputs, output, which=which: seen.update({which: output})
            )
        if hasattr(module, "out_proj"):
            module.out_proj.register_forward_pre_hook(lambda _, inputs: keep(seen, inputs[0]))
        else:
            module.register_forward_hook(lambda _, inputs, output: keep(seen, output[0]))
    return seen


def read_attention(model: nn.Module, seen: dict, num_columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities `(num_heads, rows, columns)` of a module and dS/dA; columns from a number on are padding."""
    heads = model.config.get_text_config().num_attention_heads
    query, key, value, gradient = (
        rows.reshape(rows.shape[-2], heads, -1).transpose(0, 1)
        for rows in (seen["q"], seen["k"], seen["v"], seen["context_gradient"]())
    )
    logits = query @ key.transpose(1, 2) / key.shape[-1] ** 0.5
    logits[..., num_columns:] = -torch.inf
    return logits.softmax(dim=-1), gradient @ value.transpose(1, 2)


def relate_tokens(family: Family, steps: list[torch.Tensor]) -> torch.Tensor:
    """Relevance of all columns for the token that the score reads, by the rules of the paper, on whole matrices."""
    size = steps[0].shape[-1]
    relevance, of_image = torch.eye(size).double(), torch.zeros_like(steps[min(1, len(steps) - 1)])
    if family.score.has_token_rows and len(family.relevancy.layer_modules) == 2:
        for layer in range(0, len(steps), 2):
            within, across = (  # ALBEF's last layer computes its first row alone
                nn.functional.pad(step, (0, 0, 0, len(relevance) - len(step))) for step in steps[layer : layer + 2]
            )
            relevance, of_image = relevance + within @ relevance, of_image + within @ of_image
            normal = relevance - torch.eye(size)
            normal = torch.stack([row / row.sum() if row.any() else row for row in normal]) + torch.eye(size)
            of_image = of_image + normal.T @ across
        return of_image[0]
    for step in steps[: None if family.relevancy.pooling_name is None else -1]:
        relevance = relevance + step @ relevance
    return relevance[0] if family.relevancy.pooling_name is None else steps[-1][0] @ relevance


def compare_patches_alone(
    model: PreTrainedModel, family: Family, batch: dict, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score, and cosines of the patches minus the least: the score of the class's own `forward` for each patch, which
    takes the place of the class token, or of the whole image before a pooling head."""
    score, chosen = run_public_forward(model, family, batch).detach(), []
    if family.model_type in ("siglip", "siglip2"):
        scale, bias = model.logit_scale.exp(), model.logit_bias
        model.vision_model.head.register_forward_pre_hook(
            lambda _, inputs: (inputs[0][:, chosen], *[None for _ in inputs[1:]])
        )
    else:
        scale, bias = (model.logit_scale.exp() if family.model_type == "clip" else 1), 0
        model.vision_model.encoder.register_forward_hook(
            lambda _, inputs, output: replace(
                output, last_hidden_state=output.last_hidden_state[:, [1 + chosen[0], *range(1, 1 + count)]]
            )
        )
    cosines = []
    for patch in range(count):
        chosen[:] = [patch]
        cosines.append((run_public_forward(model, family, batch) - bias) / scale)
    cells = torch.stack(cosines).flatten().detach()
    return score, cells - cells.min()


def record_patch_order(model: nn.Module) -> list[torch.Tensor]:
    """A list that receives the positions of ViLT's patches, which its own forward pass draws at random."""
    embeddings, order = model.vilt.embeddings, []
    embed = embeddings.visual_embed

    def record(*args, **kwargs):
        states, mask, (index, (height, width)) = embed(*args, **kwargs)
        order.append(index[0, :, 0] * width + index[0, :, 1])
        return states, mask, (index, (height, width))

    embeddings.visual_embed = record
    return order


def find_projection(module: nn.Module, which: str) -> nn.Module:
    """The linear layer of queries, keys or values, by the names in use."""
    names = {"q": ("query", "q_proj"), "k": ("key", "k_proj"), "v": ("value", "v_proj")}[which]
    return next(getattr(module, name) for name in names if hasattr(module, name))


def keep(seen: dict, context: torch.Tensor) -> None:
    context.retain_grad()
    seen["context_gradient"] = lambda: context.grad


def keep_whole(seen: dict, module: nn.MultiheadAttention, inputs: tuple, output: torch.Tensor) -> None:
    parts = zip("qkv", inputs, module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
    seen |= {which: states @ weight.T + bias for which, states, weight, bias in parts}
    output.retain_grad()
    seen["context_gradient"] = lambda: output.grad @ module.out_proj.weight


def run_public_forward(model: PreTrainedModel, family: Family, batch: dict) -> torch.Tensor:
    """The score of the only pair, from the class's own `forward`."""
    images = {
        name: batch[name].double() if batch[name].is_floating_point() else batch[name] for name in family.image_inputs
    }
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if family.model_type in ("siglip", "siglip2"):
        del texts["attention_mask"]
    if family.model_type == "blip":
        return model(**images, **texts, use_itm_head=family.score_name == "itm").itm_score[0, -1]
    outputs = model(**images, **texts)
    if family.model_type == "albef":
        return outputs.itm_logits[0, -1]
    return (outputs.logits_per_image if family.score_name == "itc" else outputs.logits)[0, -1]
