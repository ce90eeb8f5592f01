# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Retrieval in two stages against the released code's way and against scoring every pair: seconds, peak memory, FLOP.

    python benchmarks/retrieval.py               # 1,000 captions x 200 images, a small model; a quarter of an hour
    python benchmarks/retrieval.py --full-size   # 60 captions x 12 images, the published architecture
    python benchmarks/retrieval.py --quick       # 50 captions x 10 images, to see that it runs

All sides run on the same layers, random weights and inputs, and encode every image and caption once:

- `every_pair` fuses every caption with every image;
- `released` fuses every image with its k best captions by contrastive similarity, then every caption with its k best
  images. As in the released code each query is a batch of its own, captions are padded to 30 tokens, and keys and
  values are projected again for every pair;
- `two_stage` is what `AlbefForImageTextRetrieval` does, in the matching class, which has no momentum copies. The
  shortlists are the same. A pair of both is scored once, keys and values are projected once an image, the captions of
  an image read them together, and nothing is computed for padding.

Times are medians of interleaved repetitions in one process after a warm-up, in which FLOP are counted; peak memory is
that of a process of its own per side, the interpreter and libraries included. Released and two-stage scores must
agree. With random weights the two stages know nothing of each other and recall is that of chance: it shows that the
sides rank alike, not how well. Contrastive features are centred, so that shortlists differ from query to query.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from machine import read_peak_memory, write_result
from measuring import count_flops, describe_side, measure_memory, take_turns
from plots import plot_curves

from albef_amc import AlbefConfig, AlbefForImageTextMatching
from albef_amc.configuration_albef import ITM_MATCH_INDEX
from albef_amc.galleries_albef import NOT_LISTED
from albef_amc.layout_albef import build_layout

CAPTIONS_PER_IMAGE = 5
MAX_TOKENS, SHORTEST, LONGEST = 30, 8, 20  # padded length of the released code; tokens of a caption
IMAGE_BATCH, CAPTION_BATCH = 16, 256
PAIRS_WITH_IMAGES = 64  # pairs at once that have image tokens of their own; more are slower and take more memory
TOLERANCE = 1e-5
RECALL_RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Size:
    """What is measured: images and k, other values of both, and the architecture where it is not the published one."""

    images: int
    k: int
    other_k: tuple[int, ...]
    other_images: tuple[int, ...]
    vision: dict
    text: dict
    explanation: dict

    @property
    def captions(self) -> int:
        return self.images * CAPTIONS_PER_IMAGE


SMALL_LAYERS = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 4}
SMALL = (SMALL_LAYERS, {**SMALL_LAYERS, "fusion_layer": 2}, {"explanation_layer": 3, "explanation_block": 3})
SIZES = {
    "quick": Size(10, 4, (8,), (5,), {**SMALL[0], "image_size": 64}, *SMALL[1:]),
    "small": Size(200, 16, (8, 32, 128), (50, 100), *SMALL),
    "full_size": Size(12, 4, (2, 8), (3, 6), {}, {}, {}),
}


@dataclass(frozen=True)
class Inputs:
    """Gallery of N images and P captions; caption i belongs to image i // 5."""

    coarse_images: torch.Tensor
    image_size: int
    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @classmethod
    def build(cls, size: Size) -> "Inputs":
        """Smooth coloured pictures, kept small, and captions of 8 to 20 tokens."""
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(SHORTEST, LONGEST + 1, (size.captions,), generator=generator)
        attention_mask = (torch.arange(MAX_TOKENS)[None, :] < lengths[:, None]).long()
        input_ids = torch.randint(1000, 30000, (size.captions, MAX_TOKENS), generator=generator) * attention_mask
        input_ids[:, 0] = 101
        coarse_images = torch.randn(size.images, 3, 4, 4, generator=generator)
        return cls(coarse_images, size.vision.get("image_size", 256), input_ids, attention_mask)

    def read_images(self) -> Iterator[torch.Tensor]:
        """Batches of pixel values."""
        for batch in self.coarse_images.split(IMAGE_BATCH):
            yield torch.nn.functional.interpolate(batch, size=(self.image_size, self.image_size), mode="bilinear")


@dataclass(frozen=True)
class Gallery:
    """What is kept of N encoded images and P encoded captions; `similarities` `(N, P)` are the contrastive ones."""

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    attention_mask: torch.Tensor
    similarities: torch.Tensor


def encode_gallery(model: AlbefForImageTextMatching, inputs: Inputs, keep_padding: bool) -> Gallery:
    """Encodes every image and caption once; with `keep_padding` padded tokens as well, as in the released code."""
    albef, mask = model.albef, inputs.attention_mask
    image_embeds = torch.cat([albef.vision_model(batch) for batch in inputs.read_images()])
    if not keep_padding:
        mask = mask[:, : int(mask.sum(dim=1).max())]
    ids = inputs.input_ids[:, : mask.shape[1]]
    batches = zip(ids.split(CAPTION_BATCH), mask.split(CAPTION_BATCH), strict=True)
    text_embeds = torch.cat(
        [
            albef.text_model.encode(batch_ids, build_layout(batch_mask, None, len(batch_mask), keep_padding))
            for batch_ids, batch_mask in batches
        ]
    )
    similarities = albef.project_images(image_embeds) @ albef.project_texts(text_embeds).T
    return Gallery(image_embeds, text_embeds, mask, similarities)


def build_model(size: Size) -> AlbefForImageTextMatching:
    """The same random weights in every process, large ones in a small model so that scores differ between pairs."""
    torch.manual_seed(0)
    spread = {"initializer_range": 0.1 if size.vision else 0.04}
    config = AlbefConfig(
        vision_config={**size.vision, **spread},
        text_config={**size.text, **spread},
        projection_dim=64 if size.vision else 256,
        queue_size=8,
        **size.explanation,
        **spread,
    )
    model = AlbefForImageTextMatching(config).eval()
    gallery = encode_gallery(model, Inputs.build(size), keep_padding=False)
    for projection, embeds in (
        (model.albef.vision_projection, gallery.image_embeds),
        (model.albef.text_projection, gallery.text_embeds),
    ):
        projection.bias -= projection(embeds[:, 0]).mean(dim=0)
    return model


def fuse_pair_by_pair(
    model: AlbefForImageTextMatching, gallery: Gallery, images: torch.Tensor, captions: torch.Tensor
) -> torch.Tensor:
    """Matching scores of pairs; each has image tokens, keys and values of its own, layer by layer."""
    text_model, config = model.albef.text_model, model.config.text_config
    image_embeds, mask = gallery.image_embeds[images], gallery.attention_mask[captions]
    states = gallery.text_embeds[captions]
    layout = build_layout(mask, None, len(mask), keep_padding=True)
    for index in range(config.fusion_layer, config.num_hidden_layers):
        keys_values = text_model.layers[index].cross_attention.project_image(image_embeds)
        of_layers = [keys_values] * (config.num_hidden_layers - config.fusion_layer)  # read at this layer's place
        states = text_model.run_layers(states, layout, of_layers, first=index, last=index + 1)
    return model.itm_head(states[:, 0])[:, ITM_MATCH_INDEX]


Scores = tuple[torch.Tensor, torch.Tensor]  # of images to captions (N, P), of captions to images (P, N)


def score_every_pair(model: AlbefForImageTextMatching, inputs: Inputs, k: int) -> Scores:
    """Every caption with every image; k is not read."""
    gallery = encode_gallery(model, inputs, keep_padding=True)
    num_images, num_captions = gallery.similarities.shape
    pairs = torch.arange(num_images * num_captions).split(PAIRS_WITH_IMAGES)
    parts = [fuse_pair_by_pair(model, gallery, rows // num_captions, rows % num_captions) for rows in pairs]
    scores = torch.cat(parts).view(num_images, num_captions)
    return scores, scores.T


def score_released_way(model: AlbefForImageTextMatching, inputs: Inputs, k: int) -> Scores:
    """Shortlists of k, a batch for each query, first of all images, then of all captions."""
    gallery = encode_gallery(model, inputs, keep_padding=True)
    of_images = torch.full_like(gallery.similarities, NOT_LISTED)
    for image, captions in enumerate(list_best(gallery.similarities, k)):
        images = torch.full_like(captions, image)
        of_images[image, captions] = fuse_pair_by_pair(model, gallery, images, captions)
    of_captions = torch.full_like(gallery.similarities.T, NOT_LISTED)
    for caption, images in enumerate(list_best(gallery.similarities.T, k)):
        captions = torch.full_like(images, caption)
        of_captions[caption, images] = fuse_pair_by_pair(model, gallery, images, captions)
    return of_images, of_captions


def score_in_two_stages(model: AlbefForImageTextMatching, inputs: Inputs, k: int) -> Scores:
    """The same shortlists, as this package does it."""
    images = model.encode_images({"pixel_values": batch} for batch in inputs.read_images())
    batches = zip(inputs.input_ids.split(CAPTION_BATCH), inputs.attention_mask.split(CAPTION_BATCH), strict=True)
    texts = model.encode_texts({"input_ids": ids, "attention_mask": mask} for ids, mask in batches)
    scores = model.retrieve(images, texts, k)
    return scores.scores_per_image, scores.scores_per_text


def list_best(similarities: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of the k best of every row, or of all where there are fewer."""
    return similarities.topk(min(k, similarities.shape[1]), dim=1).indices


SIDES: dict[str, Callable[[AlbefForImageTextMatching, Inputs, int], Scores]] = {
    "every_pair": score_every_pair,
    "released": score_released_way,
    "two_stage": score_in_two_stages,
}
SHORTLISTED = ("released", "two_stage")


def compute_recall(scores: Scores) -> dict[str, float]:
    """Percent of queries with one of their own among the best 1, 5 and 10, in both directions."""
    of_images, of_captions = scores
    image_of_caption = torch.arange(of_images.shape[1]) // CAPTIONS_PER_IMAGE
    image_hits = image_of_caption[of_images.argsort(dim=1, descending=True)] == torch.arange(len(of_images))[:, None]
    caption_hits = of_captions.argsort(dim=1, descending=True) == image_of_caption[:, None]
    return {
        f"{direction}_recall_at_{rank}": 100 * hits[:, :rank].any(dim=1).double().mean().item()
        for direction, hits in (("image_to_text", image_hits), ("text_to_image", caption_hits))
        for rank in RECALL_RANKS
    }


def compare_scores(scores: dict[str, Scores]) -> dict:
    """How alike the sides rank.

    Raises:
        SystemExit: released and two-stage scores or recalls differ.
    """
    difference = max(
        ((ours - released).abs().max() / released[released != NOT_LISTED].abs().max()).item()
        for released, ours in zip(scores["released"], scores["two_stage"], strict=True)
    )
    recall = {side: compute_recall(of_side) for side, of_side in scores.items()}
    if not difference <= TOLERANCE or recall["released"] != recall["two_stage"]:
        raise SystemExit(f"released and two_stage differ: scores by {difference:.1e} (largest: 1), recalls {recall}")
    directions = zip(("image_to_text", "text_to_image"), scores["every_pair"], scores["two_stage"], strict=True)
    same_best = {
        direction: 100 * (every.argmax(dim=1) == ours.argmax(dim=1)).double().mean().item()
        for direction, every, ours in directions
    }
    of_images, of_captions = (of_side != NOT_LISTED for of_side in scores["two_stage"])
    pairs = {
        "every_pair": of_images.numel(),
        "released": int(of_images.sum() + of_captions.sum()),
        "two_stage": int((of_images | of_captions.T).sum()),
    }
    return {
        "pairs_fused": pairs,
        "largest_relative_score_difference": difference,
        "percent_same_best_as_every_pair": same_best,
        "recall": recall,
    }


def measure_sides(
    model: AlbefForImageTextMatching, inputs: Inputs, k: int, repetitions: int, sides: tuple[str, ...]
) -> tuple[dict[str, dict], dict[str, Scores]]:
    """What is said of sides that take turns (a phrase is a caption), and their scores."""
    scores: dict[str, Scores] = {}

    def run(side: str) -> None:
        scores[side] = SIDES[side](model, inputs, k)

    gflop = {side: count_flops(partial(run, side)) for side in sides}  # warm-up
    runs = {side: partial(run, side) for side in sides}
    seconds, rate = take_turns(runs, repetitions, inputs.input_ids.device, quick=True, warm_ups=0)
    captions = len(inputs.input_ids)
    measured = {side: describe_side(seconds[side], captions, gflop[side], rate) for side in sides}
    return measured, scores


def measure(size: Size, arguments: argparse.Namespace) -> dict:
    """All sides, the memory of each in a process of its own, and the cost of other k and other galleries."""
    model, repetitions = build_model(size), arguments.repetitions
    result, scores = measure_sides(model, Inputs.build(size), size.k, repetitions, tuple(SIDES))
    against_k = {size.k: {side: dict(result[side]) for side in SHORTLISTED}}
    for k in size.other_k:
        against_k[k], _ = measure_sides(model, Inputs.build(size), k, repetitions, SHORTLISTED)
    against_captions = {size.captions: {side: dict(result[side]) for side in SIDES}}
    for images in size.other_images:
        part = replace(size, images=images)
        against_captions[part.captions], _ = measure_sides(
            model, Inputs.build(part), size.k, repetitions, tuple(SIDES)
        )
    for side in SIDES:
        words = ["--only", side, "--threads", arguments.threads]
        words += ["--quick"] * arguments.quick + ["--full-size"] * arguments.full_size
        result[side]["peak_memory_gb"] = measure_memory(__file__, words)
    measures = {"speed": "seconds_median", "flop": "gflop", "memory": "peak_memory_gb"}
    ratios = {
        f"{name}_of_{side}_over_two_stage": result[side][key] / result["two_stage"][key]
        for side in ("every_pair", "released")
        for name, key in measures.items()
    }
    return {
        **ratios,
        **compare_scores(scores),
        **result,
        "against_k": dict(sorted(against_k.items())),
        "against_captions": dict(sorted(against_captions.items())),
    }


def plot_costs(measured: dict, kind: str, output: Path) -> None:
    """Pictures beside `output`: seconds against k and against the number of captions."""
    for sweep, x_label in (("against_k", "k"), ("against_captions", f"captions, {CAPTIONS_PER_IMAGE} an image")):
        points = measured[sweep]
        sides = next(iter(points.values()))
        curves = {side: [(x, of_x[side]["seconds_median"]) for x, of_x in points.items()] for side in sides}
        path = output.with_name(f"{output.stem}_{sweep}.png")
        plot_curves(path, f"Retrieval, {kind}", x_label, "seconds", curves, log_x=True, log_y=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="a few images and a small model, to see that it runs")
    sizes.add_argument("--full-size", action="store_true", help="the published architecture, few images")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)  # the process that measures memory
    parser.add_argument(
        "--output", type=Path, help="JSON to write (benchmarks/results/retrieval[_full_size|_quick].json)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    name = "quick" if arguments.quick else "full_size" if arguments.full_size else "small"
    size = SIZES[name]
    if arguments.only:
        SIDES[arguments.only](build_model(size), Inputs.build(size), size.k)
        print(read_peak_memory())
        return
    kind = "published architecture" if arguments.full_size else "small model"
    data = f"{size.captions} captions x {size.images} images, {kind}, float32"
    measured = {"data": data, "k": size.k, **measure(size, arguments)}
    result_name = "retrieval_full_size" if arguments.full_size else "retrieval"
    output = write_result("retrieval", measured, arguments.output, arguments.quick, result_name)
    plot_costs(measured, kind, output)


if __name__ == "__main__":
    main()
