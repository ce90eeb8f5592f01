# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Where a model points for the phrases of a batch of images: one interface for every kind of model.

A locator holds the model. Its `inputs` hold no weights, so that workers of a data loader can have a copy.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, AlbefGroundingOutput
from albef_amc.evaluation.faithfulness import FaithfulnessMeasure, FaithfulnessSettings
from albef_amc.evaluation.grounding_metrics import FAITHFULNESS_METRICS
from albef_amc.evaluation.late_reading import LateReading
from albef_amc.evaluation.zero_shot_detectors import ZeroShotDetector
from albef_amc.grounders import Grounder
from albef_amc.grounders.families import ALBEF
from albef_amc.image_processing_albef import MAX_IMAGE_PIXELS
from albef_amc.regions_albef import find_point, resize_heatmap
from albef_amc.text_processing_albef import clean_caption, find_text_problem

LARGEST_GROWTH = 2  # tokens of a text per character, at most: lower case may be longer

EvaluatedModel = AlbefForImageTextMatching | AlbefForPreTraining | Grounder | ZeroShotDetector


@dataclass(frozen=True)
class LocatedPhrase:
    """Where a model points for a phrase.

    Args:
        point (`tuple`, *optional*): x, y in pixels of the stored image; `None` where a detector finds no box.
        score (`float`, *optional*): what the model scores the pair with; of a detector the score of the best box.
        draw_heatmap (callable, *optional*): the heatmap `(height, width)` at the size of the stored image.
        boxes (`list`, *optional*): of a detector, x_min, y_min, x_max, y_max in the same pixels, best first.
        box_scores (`list` of `float`, *optional*): their scores.
        faithfulness (`dict`, *optional*): of [`~faithfulness.FaithfulnessMeasure.measure`].
    """

    point: tuple[float, float] | None
    score: float | None
    draw_heatmap: Callable[[], torch.Tensor] | None = None
    boxes: list[list[float]] | None = None
    box_scores: list[float] | None = None
    faithfulness: dict[str, float] | None = None


class PhraseInputs(Protocol):
    """Images and phrases to what a model reads."""

    max_image_pixels: int

    def find_problem(self, phrase: str) -> str | None:
        """Why a phrase cannot be used, as the end of a sentence; `None` if it can."""

    def prepare(self, images: list[Image.Image], phrases: list[list[str]]) -> dict[str, Any]:
        """Inputs of N images, each with at least one phrase, none of which has a problem."""


class PhraseLocator(Protocol):
    """A model that points at phrases."""

    inputs: PhraseInputs
    device: torch.device

    def locate(self, inputs: dict[str, Any]) -> Callable[[], Iterator[LocatedPhrase]]:
        """Gives the model a batch of `inputs.prepare`; what is returned waits for its answers, phrase by phrase."""


class AlbefInputs:
    """Inputs of ALBEF.

    Args:
        processor: of the model.
        max_length (`int`, *optional*): tokens of a phrase at most, [CLS] included; all of them by default.
    """

    def __init__(self, processor: Any, max_length: int | None):
        self.processor, self.max_length = processor, max_length
        self.max_image_pixels = processor.image_processor.max_image_pixels

    def find_problem(self, phrase: str) -> str | None:
        """See [`PhraseInputs`]; a phrase that is not cut may have more tokens than the model has positions."""
        problem = find_text_problem(phrase)
        limit = self.processor.tokenizer.model_max_length
        if problem or self.max_length is not None or LARGEST_GROWTH * len(phrase) < limit:
            return problem
        length = len(self.processor.tokenizer(clean_caption(phrase), verbose=False)["input_ids"])
        return f"has {length} tokens but the model has {limit} text positions" if length > limit else None

    def prepare(self, images: list[Image.Image], phrases: list[list[str]]) -> dict[str, Any]:
        """See [`PhraseInputs`]."""
        return dict(self.processor(images=images, text=phrases, max_length=self.max_length, return_tensors="pt"))


class AlbefLocator:
    """ALBEF: maxima of heatmaps are found on the device, and read while it works on the next batch.

    Args:
        model, processor: the checkpoint.
        phrases_per_chunk (`int`): phrases explained together.
        max_length (`int`, *optional*): tokens of a phrase at most.
    """

    def __init__(
        self,
        model: AlbefForImageTextMatching | AlbefForPreTraining,
        processor: Any,
        phrases_per_chunk: int,
        max_length: int | None,
    ):
        self.model, self.phrases_per_chunk = model, phrases_per_chunk
        self.inputs: PhraseInputs = AlbefInputs(processor, max_length)
        self.device = model.device

    def locate(self, inputs: dict[str, Any]) -> Callable[[], Iterator[LocatedPhrase]]:
        """See [`PhraseLocator`]."""
        sizes = inputs["original_sizes"][inputs["image_index"]]
        inputs["pixel_values"] = inputs["pixel_values"].to(self.device, non_blocking=True)
        outputs = self.model.ground(**inputs, phrases_per_chunk=self.phrases_per_chunk, check_finite=False)
        points = locate_points(outputs.heatmap, sizes)
        results = (outputs.itm_logits, outputs.match_probability, outputs.heatmap, points)
        return _GivenBatch(sizes, *map(LateReading, results)).read


@dataclass(frozen=True)
class _GivenBatch:
    """What the device computes of P phrases, and the sizes of their images."""

    sizes: torch.Tensor
    itm_logits: LateReading
    match_probability: LateReading
    heatmap: LateReading
    points: LateReading

    def read(self) -> Iterator[LocatedPhrase]:
        heatmaps = self.heatmap.read()
        AlbefGroundingOutput(itm_logits=self.itm_logits.read(), heatmap=heatmaps).check_finite()
        columns = (self.points.read().tolist(), self.match_probability.read().tolist(), heatmaps, self.sizes.tolist())
        for (x, y), score, heatmap, size in zip(*columns, strict=True):
            yield LocatedPhrase((float(x), float(y)), score, partial(resize_heatmap, heatmap, *size))


class GrounderInputs:
    """Inputs of a [`~grounders.Grounder`]: a batch for each image.

    Args:
        grounder ([`~grounders.Grounder`]): the model; only its inputs are kept.
    """

    max_image_pixels = MAX_IMAGE_PIXELS

    def __init__(self, grounder: Grounder):
        self.pairs = grounder.inputs

    def find_problem(self, phrase: str) -> str | None:
        """See [`PhraseInputs`]."""
        return self.pairs.find_problem(phrase)

    def prepare(self, images: list[Image.Image], phrases: list[list[str]]) -> dict[str, Any]:
        """See [`PhraseInputs`]."""
        pairs = zip(images, phrases, strict=True)
        batches = [self.pairs.prepare([image], [words]) for image, words in pairs]
        return {"batches": batches, "images": images, "phrases": phrases}


class GrounderLocator:
    """A model of another family: one image at a time, as [`~grounders.Grounder.ground`].

    Args:
        grounder ([`~grounders.Grounder`]): the model.
        phrases_per_chunk (`int`): phrases explained together.
        faithfulness ([`~faithfulness.FaithfulnessMeasure`], *optional*): measures of the heatmaps beside points.
    """

    def __init__(self, grounder: Grounder, phrases_per_chunk: int, faithfulness: FaithfulnessMeasure | None = None):
        self.grounder, self.phrases_per_chunk, self.faithfulness = grounder, phrases_per_chunk, faithfulness
        self.inputs: PhraseInputs = GrounderInputs(grounder)
        self.device = grounder.model.device

    def locate(self, inputs: dict[str, Any]) -> Callable[[], Iterator[LocatedPhrase]]:
        """See [`PhraseLocator`]."""
        explained = [self.grounder.explain_image(batch, self.phrases_per_chunk) for batch in inputs["batches"]]
        layouts = [batch["layouts"][0] for batch in inputs["batches"]]

        def read() -> Iterator[LocatedPhrase]:
            images = zip(layouts, explained, inputs["images"], inputs["phrases"], strict=True)
            for layout, (scores, maps), image, phrases in images:
                for score, cells, phrase in zip(scores, maps, phrases, strict=True):
                    heatmap = layout.to_image(cells[None])[0]
                    x, y = find_point(heatmap).tolist()
                    measured = None
                    if self.faithfulness is not None:
                        measured = self.faithfulness.measure(image, phrase, heatmap)
                    yield LocatedPhrase((float(x), float(y)), score, heatmap.detach, faithfulness=measured)

        return read


class DetectorInputs:
    """Inputs of a detector: each phrase is a query of its own.

    Args:
        detector ([`~zero_shot_detectors.ZeroShotDetector`]): the model; only its processor and limits are kept.
    """

    max_image_pixels = MAX_IMAGE_PIXELS

    def __init__(self, detector: ZeroShotDetector):
        self.processor, self.reads_queries, self.limit = (
            detector.processor,
            detector.reads_queries,
            detector.count_text_positions(),
        )

    def find_problem(self, phrase: str) -> str | None:
        """See [`PhraseInputs`]."""
        problem = find_text_problem(phrase)
        if problem:
            return problem
        length = len(self.processor.tokenizer(self._write_query(phrase), verbose=False)["input_ids"])
        return f"has {length} tokens but the model has {self.limit} text positions" if length > self.limit else None

    def prepare(self, images: list[Image.Image], phrases: list[list[str]]) -> dict[str, Any]:
        """See [`PhraseInputs`]."""
        return {
            "images": [dict(self.processor.image_processor(image, return_tensors="pt")) for image in images],
            "texts": [[self._encode(phrase) for phrase in words] for words in phrases],
            "sizes": [(image.height, image.width) for image in images],
        }

    def _encode(self, phrase: str) -> dict[str, torch.Tensor]:
        # Queries have one length; a caption has its own, and kinds of tokens.
        options = {"padding": "max_length", "max_length": self.limit} if self.reads_queries else {}
        encoded = self.processor.tokenizer(
            self._write_query(phrase),
            return_tensors="pt",
            return_attention_mask=True,
            return_token_type_ids=not self.reads_queries,
            **options,
        )
        return dict(encoded)

    def _write_query(self, phrase: str) -> str:
        """The phrase; a caption is in lower case and ends with a dot, as the models were trained."""
        return phrase if self.reads_queries else f"{phrase.lower().strip().rstrip('.')}."


class DetectorLocator:
    """A detector: the centre of the best box is the point.

    Args:
        detector ([`~zero_shot_detectors.ZeroShotDetector`]): the model.
    """

    def __init__(self, detector: ZeroShotDetector):
        self.detector = detector
        self.inputs: PhraseInputs = DetectorInputs(detector)
        self.device = detector.model.device

    def locate(self, inputs: dict[str, Any]) -> Callable[[], Iterator[LocatedPhrase]]:
        """See [`PhraseLocator`]."""
        batches = zip(inputs["images"], inputs["texts"], inputs["sizes"], strict=True)
        found = [one for images, texts, size in batches for one in self.detector.find_boxes(images, texts, size)]
        return lambda: map(_point_at_best, found)


def _point_at_best(found: tuple[list[list[float]], list[float]]) -> LocatedPhrase:
    boxes, scores = found
    if not boxes:
        return LocatedPhrase(None, None, boxes=boxes, box_scores=scores)
    left, top, right, bottom = boxes[0]
    return LocatedPhrase(((left + right) / 2, (top + bottom) / 2), scores[0], boxes=boxes, box_scores=scores)


def build_locator(
    model: EvaluatedModel,
    processor: Any,
    phrases_per_chunk: int,
    max_length: int | None,
    metrics: Collection[str],
    faithfulness: FaithfulnessSettings,
) -> PhraseLocator:
    """The locator of a model.

    Args:
        model: ALBEF, a [`~grounders.Grounder`] or a [`~zero_shot_detectors.ZeroShotDetector`].
        processor: of ALBEF; the others have their own.
        phrases_per_chunk (`int`): phrases explained together.
        max_length (`int`, *optional*): tokens of a phrase at most, for ALBEF; other models never cut a phrase.
        metrics (collection of `str`): with some of `FAITHFULNESS_METRICS`, ALBEF is asked as a grounder.
        faithfulness ([`~faithfulness.FaithfulnessSettings`]): how these are measured.
    """
    asked = [name for name in FAITHFULNESS_METRICS if name in metrics]
    if asked and isinstance(model, AlbefForImageTextMatching | AlbefForPreTraining):
        model = Grounder(model, processor, ALBEF, model.config.explanation_layer).train(model.training)
    if isinstance(model, Grounder):
        measure = FaithfulnessMeasure(model, asked, faithfulness) if asked else None
        return GrounderLocator(model, phrases_per_chunk, measure)
    if isinstance(model, ZeroShotDetector):
        return DetectorLocator(model)
    return AlbefLocator(model, processor, phrases_per_chunk, max_length)


def locate_points(heatmap: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Maxima of heatmaps `(P, G_h, G_w)` at the stored sizes `(P, 2)` (height, width): x, y as int64 `(P, 2)`.

    With `sizes` on the CPU nothing waits for the device of the heatmaps.
    """
    points = torch.empty(len(heatmap), 2, dtype=torch.int64, device=heatmap.device)
    for height, width in sizes.unique(dim=0).tolist():
        rows = (sizes == torch.tensor([height, width], device=sizes.device)).all(dim=1).nonzero().flatten()
        rows = rows.to(heatmap.device, non_blocking=True)
        points[rows] = find_point(resize_heatmap(heatmap[rows], height, width))
    return points


__all__ = [
    "EvaluatedModel",
    "GrounderLocator",
    "LocatedPhrase",
    "PhraseInputs",
    "PhraseLocator",
    "build_locator",
    "locate_points",
]
