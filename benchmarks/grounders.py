# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Heatmaps of BLIP and CLIP of transformers against a pass per phrase, and against two detectors, side by side.

    python benchmarks/grounders.py          # base size: 14 phrases on one image; writes docs/grounders.md too
    python benchmarks/grounders.py --quick  # small models, to see that it runs

Every side takes an image and 14 phrases of 6 to 10 tokens, in tensors as its model reads them, and gives a heatmap or
boxes for each phrase. Weights are random, so only time and memory mean something. Sides:

- `blip`, `clip`: this package, Grad-CAM, as `AutoGrounder` computes it; with `_attention`, `_similarity` and
  `_relevancy` its other methods.
- `blip_lavis`: what `compute_gradcam` of LAVIS does for each phrase: the image encoder, the text encoder with
  cross-attention, and a backward pass into every parameter, the probabilities of layer 6 and their gradient kept.
- `clip_hooks`: for each phrase both encoders with attention that shows its probabilities, a hook that keeps those of
  the last block, and a backward pass into every parameter.
- `grounding_dino_tiny`, `owlv2_base`: zero-shot detectors at the image sizes of their published checkpoints
  (GroundingDINO: 800 x 1067 pixels of an image of 480 x 640; OWLv2: 960 x 960), all phrases in one pass, without
  gradients. GroundingDINO reads the phrases as one text.

Sides take turns in one process after a warm-up on two phrases, and medians over rounds are compared. Both ways of BLIP
and of CLIP must give the same heatmaps. Peak memory is that of a process of its own per side, the interpreter and
libraries included; a way with a pass per phrase runs on two there, because more phrases take no more.
"""

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from grounders_pages import write_page
from machine import read_peak_memory, write_result
from measuring import (
    compare_range,
    compare_turns,
    measure_memory,
    print_table,
    take_turns,
)
from transformers import (
    BertConfig,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    PreTrainedModel,
    SwinConfig,
)

from albef_amc.grounders.families import BLIP_ITM, CLIP, Family
from albef_amc.grounders.methods import PhraseBatch, choose_layer, compute_cell_heatmap, compute_heatmap, list_modules

LARGEST_DIFFERENCE = 1e-4  # of the maximum, float32
LONGEST, SHORTEST = 10, 6  # tokens of a phrase
FIRST, LAST, FULL_STOP, ENCODE = 101, 102, 1012, 30523  # BERT's; GroundingDINO splits phrases at 1012; BLIP's [ENC]
CLIP_FIRST, CLIP_LAST = 49406, 49407
WARM_UP_PHRASES = 2
SMALL = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4}
Inputs = dict[str, torch.Tensor]
Side = Callable[[int], Any]  # with a number of phrases


@dataclass(frozen=True)
class Sizes:
    """Sides of the images in pixels, and changes of the published configurations."""

    blip: int = 384
    clip: int = 224
    grounding_dino: tuple[int, int] = (800, 1067)
    owlv2: int = 960
    small: bool = False

    def change(self, **more: Any) -> dict[str, Any]:
        """Changes of a transformer of base size."""
        return {**SMALL, **more} if self.small else {}


FULL = Sizes()
QUICK = Sizes(64, 64, (64, 96), 64, small=True)


def build_phrases(count: int, first: int, last: int) -> Inputs:
    """`input_ids` and `attention_mask` of random phrases between two tokens that every phrase has."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=generator)
    places = torch.arange(LONGEST)[None]
    attention_mask = (places < lengths[:, None]).long()
    input_ids = torch.randint(2000, 20000, (count, LONGEST), generator=generator) * attention_mask
    input_ids[:, 0] = first
    input_ids = torch.where(places == lengths[:, None] - 1, last, input_ids)
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def build_image(height: int, width: int) -> torch.Tensor:
    """An image `(1, 3, height, width)` of random pixels."""
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(2))


def build_blip(sizes: Sizes) -> BlipForImageTextRetrieval:
    """The architecture of `Salesforce/blip-itm-base-coco`."""
    text = sizes.change(encoder_hidden_size=96, num_hidden_layers=12)
    config = BlipConfig(
        text_config={"is_decoder": True, **text}, vision_config={"image_size": sizes.blip, **sizes.change()}
    )
    return BlipForImageTextRetrieval(config)


def build_clip(sizes: Sizes) -> CLIPModel:
    """The architecture of `openai/clip-vit-base-patch16`."""
    vision = {"patch_size": 16, "image_size": sizes.clip, **sizes.change()}
    return CLIPModel(CLIPConfig(vision_config=vision, text_config={"eos_token_id": CLIP_LAST, **sizes.change()}))


def build_grounding_dino(sizes: Sizes) -> GroundingDinoForObjectDetection:
    """The architecture of `IDEA-Research/grounding-dino-tiny`."""
    swin = {"depths": [1, 1, 1, 1]} if sizes.small else {"depths": [2, 2, 6, 2]}
    backbone = SwinConfig(embed_dim=96, num_heads=[3, 6, 12, 24], out_indices=[2, 3, 4], **swin)
    layers = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 50} if sizes.small else {}
    return GroundingDinoForObjectDetection(
        GroundingDinoConfig(backbone_config=backbone, text_config=BertConfig(**sizes.change()), **layers)
    )


def build_owlv2(sizes: Sizes) -> Owlv2ForObjectDetection:
    """The architecture of `google/owlv2-base-patch16`."""
    vision = {"image_size": sizes.owlv2, **sizes.change()}
    projection = {"projection_dim": SMALL["hidden_size"]} if sizes.small else {}
    return Owlv2ForObjectDetection(Owlv2Config(vision_config=vision, text_config=sizes.change(), **projection))


def ground(model: PreTrainedModel, family: Family, method: str, image: torch.Tensor, texts: Inputs) -> torch.Tensor:
    """Heatmaps `(P, C)` by this package, from one encoding of the image."""
    names = list_modules(method, family, model, choose_layer(method, family, model))
    num_cells = family.count_cells(model.config, {"pixel_values": image})[0]
    count = len(texts["input_ids"])
    with torch.no_grad():
        states = family.score.share_images(model, {"pixel_values": image})
        batch = PhraseBatch(
            states=states,
            image_index=torch.zeros(count, dtype=torch.int64),
            texts=texts,
            token_mask=mark_words(texts),
            cell_mask=torch.ones(count, num_cells, dtype=torch.bool),
        )
        return compute_heatmap(method, family, model, names, batch, keep_graph=False)[1]


def mark_words(texts: Inputs) -> torch.Tensor:
    """Tokens without the first and the last of each phrase."""
    mask = texts["attention_mask"].bool().clone()
    mask[torch.arange(len(mask)), texts["attention_mask"].sum(dim=1) - 1] = False
    mask[:, 0] = False
    return mask


@contextmanager
def keeping_attention(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list that receives the probabilities that an attention module returns, whose gradient is kept."""
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        outputs[1].retain_grad()
        seen.append(outputs[1])

    hook = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def explain_each_phrase(
    model: PreTrainedModel, family: Family, image: torch.Tensor, texts: Inputs, compute_score: Callable
) -> torch.Tensor:
    """Heatmaps `(P, C)`: for each phrase a pass of the whole model, and a backward pass into every parameter."""
    (name,) = list_modules("grad_cam", family, model, choose_layer("grad_cam", family, model))
    words, heatmaps = mark_words(texts), []
    with keeping_attention(model.get_submodule(name)) as seen:
        for index, length in enumerate(texts["attention_mask"].sum(dim=1).tolist()):
            pair = {name: rows[index : index + 1, :length] for name, rows in texts.items()}
            model.zero_grad()
            compute_score(model(pixel_values=image, **pair)).backward()
            attention = seen.pop()
            parts = [rows.detach()[..., 1:] for rows in (attention, attention.grad)]
            mask = words[index : index + 1, :length]
            if not family.score.has_token_rows:
                parts, mask = [rows[:, :, :1] for rows in parts], mask[:, :1] | True
            cells = torch.ones(1, parts[0].shape[-1], dtype=torch.bool)
            heatmaps.append(compute_cell_heatmap(*parts, mask, cells))
    model.zero_grad()
    return torch.cat(heatmaps)


def build_blip_sides(sizes: Sizes) -> dict[str, Side]:
    """BLIP by this package, and as LAVIS does it. The library's BLIP computes attention by its formula, as LAVIS."""
    model, image = build_blip(sizes).eval(), build_image(sizes.blip, sizes.blip)
    build_texts = partial(build_phrases, first=ENCODE, last=LAST)

    def read_score(outputs: Any) -> torch.Tensor:
        return outputs.itm_score[:, 1].sum()

    return {
        "blip_lavis": lambda count: explain_each_phrase(model, BLIP_ITM, image, build_texts(count), read_score),
        "blip": lambda count: ground(model, BLIP_ITM, "grad_cam", image, build_texts(count)),
        "blip_attention": lambda count: ground(model, BLIP_ITM, "attention", image, build_texts(count)),
        "blip_relevancy": lambda count: ground(model, BLIP_ITM, "relevancy", image, build_texts(count)),
    }


def build_clip_sides(sizes: Sizes) -> dict[str, Side]:
    """CLIP by this package, and with a pass per phrase."""
    model, image = build_clip(sizes).eval(), build_image(sizes.clip, sizes.clip)
    eager = copy.deepcopy(model, memo={id(parameter): parameter for parameter in model.parameters()})
    eager.set_attn_implementation("eager")  # the same weights
    build_texts = partial(build_phrases, first=CLIP_FIRST, last=CLIP_LAST)

    def read_score(outputs: Any) -> torch.Tensor:
        return outputs.logits_per_image.sum()

    return {
        "clip_hooks": lambda count: explain_each_phrase(eager, CLIP, image, build_texts(count), read_score),
        "clip": lambda count: ground(model, CLIP, "grad_cam", image, build_texts(count)),
        "clip_attention": lambda count: ground(model, CLIP, "attention", image, build_texts(count)),
        "clip_similarity": lambda count: ground(model, CLIP, "similarity", image, build_texts(count)),
        "clip_relevancy": lambda count: ground(model, CLIP, "relevancy", image, build_texts(count)),
    }


def build_grounding_dino_sides(sizes: Sizes) -> dict[str, Side]:
    """GroundingDINO on the phrases as one text, a full stop after each."""
    model, image = build_grounding_dino(sizes).eval(), build_image(*sizes.grounding_dino)

    @torch.no_grad()
    def find_boxes(count: int) -> torch.Tensor:
        phrases = build_phrases(count, first=FIRST, last=FULL_STOP)
        words = phrases["input_ids"][:, 1:][phrases["attention_mask"][:, 1:].bool()]
        text = torch.cat([torch.tensor([FIRST]), words, torch.tensor([LAST])])[None]
        return model(pixel_values=image, input_ids=text).pred_boxes

    return {"grounding_dino_tiny": find_boxes}


def build_owlv2_sides(sizes: Sizes) -> dict[str, Side]:
    """OWLv2 with a query per phrase."""
    model, image = build_owlv2(sizes).eval(), build_image(sizes.owlv2, sizes.owlv2)

    @torch.no_grad()
    def find_boxes(count: int) -> torch.Tensor:
        return model(pixel_values=image, **build_phrases(count, first=CLIP_FIRST, last=CLIP_LAST)).pred_boxes

    return {"owlv2_base": find_boxes}


BUILDERS = {
    "blip": build_blip_sides,
    "clip": build_clip_sides,
    "grounding_dino": build_grounding_dino_sides,
    "owlv2": build_owlv2_sides,
}
PASS_PER_PHRASE = ("blip_lavis", "clip_hooks")
DETECTORS = ("grounding_dino_tiny", "owlv2_base")
PAIRS = {"blip": ("blip_lavis", "blip"), "clip": ("clip_hooks", "clip")}


def build_sides(sizes: Sizes, only: str | None = None) -> dict[str, Side]:
    """All sides with the same random weights in every process; or those of the model of one side."""
    sides: dict[str, Side] = {}
    for name, build in BUILDERS.items():
        if only is None or only.startswith(name):
            torch.manual_seed(0)
            sides |= build(sizes)
    return sides


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and peak memory of every side, and the ratios."""
    sides = build_sides(QUICK if arguments.quick else FULL)
    results = {name: run(WARM_UP_PHRASES) for name, run in sides.items()}
    differences = {}
    for model, (slow, fast) in PAIRS.items():
        expected, heatmap = results[slow], results[fast]
        differences[model] = ((heatmap - expected).abs().max() / expected.max()).item()
        if not differences[model] < LARGEST_DIFFERENCE:
            sys.exit(f"{model}: the heatmaps of both ways differ by {differences[model]:.1e} of their maximum.")
    turns = {name: partial(run, arguments.phrases) for name, run in sides.items()}
    seconds, rate = take_turns(turns, arguments.rounds, torch.device("cpu"), arguments.quick, warm_ups=0)
    described = {}
    for name in sides:
        median = statistics.median(seconds[name])
        described[name] = {
            "seconds_median": median,
            "seconds": seconds[name],
            "phrases_per_second": arguments.phrases / median,
        }
    for name in [name for pair in PAIRS.values() for name in pair] + list(DETECTORS):
        count = WARM_UP_PHRASES if name in PASS_PER_PHRASE else arguments.phrases
        words = ["--only", name, "--phrases", count, "--threads", arguments.threads]
        described[name]["peak_memory_gb"] = measure_memory(__file__, words + ["--quick"] * arguments.quick)
    return {
        "phrases": arguments.phrases,
        "rounds": arguments.rounds,
        "speed_ratio": {model: compare_turns(seconds[slow], seconds[fast]) for model, (slow, fast) in PAIRS.items()},
        "speed_ratio_range": {
            model: compare_range(seconds[slow], seconds[fast]) for model, (slow, fast) in PAIRS.items()
        },
        "largest_relative_heatmap_difference": differences,
        "matrix_gflop_per_second": rate,
        "sides": described,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small models, to see that it runs")
    parser.add_argument("--phrases", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process of a side
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/grounders[_quick].json)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        build_sides(QUICK if arguments.quick else FULL, arguments.only)[arguments.only](arguments.phrases)
        print(read_peak_memory())
        return
    measured = measure(arguments)
    file = write_result("grounders", measured, arguments.output, arguments.quick)
    if not (arguments.output or arguments.quick):
        write_page(json.loads(file.read_text()))
    rows = [
        {
            "side": name,
            **{key: side.get(key, "-") for key in ("seconds_median", "phrases_per_second", "peak_memory_gb")},
        }
        for name, side in measured["sides"].items()
    ]
    print_table(f"{arguments.phrases} phrases on one image", rows)


if __name__ == "__main__":
    main()
