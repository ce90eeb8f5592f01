# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A model of transformers that shows where phrases are in images, as ALBEF does."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils import ModelOutput

from albef_amc.explanation_albef import evaluation_mode, outside_inference_mode
from albef_amc.grounders.attention_tap import check_back_end
from albef_amc.grounders.checkpoint_checks import SETTINGS_FILE
from albef_amc.grounders.explained_scores import Tensors
from albef_amc.grounders.families import Family
from albef_amc.grounders.image_layout import ImageLayout
from albef_amc.grounders.methods import (
    GRAD_CAM,
    PhraseBatch,
    check_method,
    choose_layer,
    compute_cell_heatmap,
    compute_heatmap,
    count_layers,
    describe_layers,
    list_modules,
    normalize_cells,
)
from albef_amc.grounders.pair_inputs import TEXT_INPUTS, PairInputs
from albef_amc.grounders.training_losses import compute_pair_losses
from albef_amc.image_processing_albef import ImageLike, iterate_images, load_image
from albef_amc.parallel_albef import CandidateScope
from albef_amc.pretraining_losses_albef import NegativeSampling
from albef_amc.processing_albef import MIN_SCORE, NestedText, locate_phrase
from albef_amc.ranges_albef import COUNT, SHARE, check_choice, check_number
from albef_amc.regions_albef import BOX_THRESHOLD, BOX_THRESHOLDS
from albef_amc.saving_albef import replacing_files, write_json

PHRASES_PER_CHUNK = 32


@dataclass
class GrounderOutput(ModelOutput):
    """Outputs of a [`Grounder`] for P phrases on at most C cells of an image.

    Cells are numbered as in the image's [`~image_layout.ImageLayout`].

    Args:
        logits (`torch.Tensor` of shape `(P, K)`): outputs of the head; the last column is the score that is explained.
        score (`torch.Tensor` of shape `(P,)`): the score of results, at least float32, without gradient. What it
            means depends on the family: a probability, a cosine or a logit.
        heatmap (`torch.Tensor` of shape `(P, C)`, with `output_heatmap`): what the method gives every cell, >= 0, at
            least float32; in the graph when gradients were enabled. 0 where an image has fewer cells.
        normalized_heatmap (`torch.Tensor` of shape `(P, C)`): minus minimum, over maximum; in [0, 1].
        cell_mask (`torch.Tensor` of shape `(P, C)`): True for cells of the image, False for padding.
        image_index (`torch.Tensor` of shape `(P,)`): image row of every phrase.
        itc_loss, itm_loss, itm_pair_logits, excluded_negatives (`torch.Tensor`, with `losses`): see
            [`~training_losses.PairLosses`].
    """

    logits: torch.Tensor | None = None
    score: torch.Tensor | None = None
    heatmap: torch.Tensor | None = None
    normalized_heatmap: torch.Tensor | None = None
    cell_mask: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    itc_loss: torch.Tensor | None = None
    itm_loss: torch.Tensor | None = None
    itm_pair_logits: torch.Tensor | None = None
    excluded_negatives: torch.Tensor | None = None


class Grounder(nn.Module):
    r"""A model, its processor and what is explained of it; built by [`~auto_grounder.AutoGrounder`].

    Args:
        model ([`~transformers.PreTrainedModel`]): the model.
        processor ([`~transformers.ProcessorMixin`]): its processor, with an image processor and a tokenizer.
        family ([`~families.Family`]): what is particular to this kind of model.
        layer (`int`, *optional*): number of the layer that is explained, the first one for `"relevancy"`; the
            family's default without it. `"similarity"` explains none.
        method (`str`, defaults to `"grad_cam"`): `"grad_cam"`, `"attention"`, `"similarity"` or `"relevancy"`, see
            [`methods`].
        source (`dict`, *optional*): `name` and `commit` of the checkpoint, saved with the model.

    Raises:
        ValueError: the layer does not exist, an unknown method or one that the family does not have, or an attention
            back-end that cannot be explained.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        family: Family,
        layer: int | None = None,
        method: str = GRAD_CAM,
        source: Mapping[str, str | None] | None = None,
    ):
        super().__init__()
        check_method(method, family)
        self.model, self.processor, self.family, self.method = model, processor, family, method
        self.inputs = PairInputs(processor, family, model.config)
        self.num_layers = count_layers(method, family, model)
        chosen = choose_layer(method, family, model) if layer is None else layer
        is_number = isinstance(chosen, Integral) and not isinstance(chosen, bool)
        if chosen is not None and not (is_number and chosen in range(self.num_layers)):
            given = "" if layer is None else f"`layer` is {layer!r}, but "
            raise ValueError(given + describe_layers(method, family, model))
        self.layer = None if chosen is None else int(chosen)
        self.module_names = list_modules(method, family, model, self.layer)
        for name in self.module_names:
            check_back_end(model, name)
        self.source = dict(source or {"name": None, "commit": None})

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's data type."""
        return self.model.dtype

    def __call__(self, *args, **kwargs):
        """Ground phrases in images, see [`ground`], where `images` are given; otherwise run [`forward`]."""
        if "images" in kwargs:
            return self.ground(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    @outside_inference_mode
    def prepare(self, images: Sequence[ImageLike], phrases: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Make a batch of N images and P phrases for [`forward`]; see [`~pair_inputs.PairInputs.prepare`]."""
        return self.inputs.prepare(images, phrases)

    @torch.compiler.disable
    @outside_inference_mode
    def forward(
        self,
        batch: Mapping[str, Any],
        output_heatmap: bool = True,
        losses: Collection[str] = (),
        negative_sampling: NegativeSampling = "hard",
        candidate_scope: CandidateScope = "local",
    ) -> GrounderOutput:
        """Score P phrases, with heatmaps that a loss can be computed on, and the model's own losses.

        Args:
            batch (`Mapping`): of [`prepare`]; tensors are moved to the model's device. With `losses` also what
                [`~training_losses.compute_pair_losses`] reads of it.
            output_heatmap (`bool`, defaults to `True`): compute heatmaps, which are in the graph where gradients are
                enabled.
            losses (collection of `str`, *optional*): `"itm"`, `"itc"` or both, as far as the family has them.
            negative_sampling (`str`, defaults to `"hard"`): pairs of the matching loss that do not match are drawn by
                similarity, or each with the same probability (`"uniform"`).
            candidate_scope (`str`, defaults to `"local"`): `"joint"`: with several processes, candidates of all.

        Raises:
            ValueError: gradients of a float16 model, whose range they leave; a loss that the family does not have, or
                negatives by similarity without projections.
        """
        keep_graph = torch.is_grad_enabled()
        if output_heatmap and keep_graph and self.model.dtype == torch.float16:
            raise ValueError(
                "a float16 model cannot be trained on heatmaps: their gradients leave its range. Use float32 or "
                "bfloat16, or `torch.no_grad()` for heatmaps alone."
            )
        self.check_losses(losses, negative_sampling)
        tensors = self._select_tensors(batch)
        texts, image_index = {name: tensors[name] for name in TEXT_INPUTS}, tensors["image_index"]
        states = self.family.score.share_images(self.model, self._select_images(tensors))
        if output_heatmap:
            output = self._explain(states, tensors, keep_graph)
        else:
            logits = self.family.score.compute(self.model, states, image_index, texts)
            output = GrounderOutput(logits=logits, score=self._read_score(logits), image_index=image_index)
        if losses:
            contrast_texts = {**texts, "input_ids": self.inputs.restore_first_token(texts["input_ids"])}
            found = compute_pair_losses(
                self.model,
                self.family,
                states,
                texts,
                contrast_texts,
                output.logits,
                tensors,
                losses,
                negative_sampling,
                candidate_scope,
            )
            for name, value in found._asdict().items():
                output[name] = value
        return output

    def check_losses(self, losses: Collection[str], negative_sampling: str) -> None:
        """Refuse losses that the model does not have, and a sampling of negatives that it cannot do.

        Args:
            losses, negative_sampling: as for [`forward`].

        Raises:
            ValueError: the loss or the sampling is named, with those that there are.
        """
        check_choice("negative_sampling", negative_sampling, get_args(NegativeSampling))
        owner = f"`{self.family.class_name}` with the score {self.family.score_name!r}"
        for name in losses:
            if name not in self.family.losses:
                known = " and ".join(map(repr, self.family.losses)) or "none"
                raise ValueError(f"{owner} has no loss {name!r}. Losses that it has: {known}.")
        if "itm" in losses and negative_sampling == "hard" and self.family.contrast is None:
            raise ValueError(
                f"{owner} has no projections, by whose similarity negatives could be drawn: set "
                '`negative_sampling="uniform"`.'
            )

    def _select_tensors(self, batch: Mapping[str, Any]) -> Tensors:
        """Tensors of a batch, on the model's device; copies of those made in inference mode, which have no graph."""
        tensors = {name: value for name, value in batch.items() if torch.is_tensor(value)}
        return {
            name: (value.clone() if value.is_inference() else value).to(self.model.device)
            for name, value in tensors.items()
        }

    def _select_images(self, tensors: Tensors) -> Tensors:
        """Inputs of the image encoder, floating-point ones in the precision of the model."""
        selected = {name: tensors[name] for name in self.family.image_inputs}
        return {
            name: value.to(self.model.dtype) if value.is_floating_point() else value
            for name, value in selected.items()
        }

    @torch.no_grad()
    def _read_score(self, logits: torch.Tensor) -> torch.Tensor:
        return self.family.read_score(self.model, logits.detach())

    def _explain(self, states: Tensors, tensors: Tensors, keep_graph: bool) -> GrounderOutput:
        """Scores and heatmaps of phrases of images with these shared states, from the tensors of a batch."""
        image_index = tensors["image_index"]
        texts = {name: tensors[name] for name in TEXT_INPUTS}
        cell_mask = tensors["cell_mask"].index_select(0, image_index)
        batch = PhraseBatch(states, image_index, texts, tensors["token_mask"], cell_mask)
        logits, heatmap = compute_heatmap(self.method, self.family, self.model, self.module_names, batch, keep_graph)
        return GrounderOutput(
            logits=logits,
            score=self._read_score(logits),
            heatmap=heatmap,
            normalized_heatmap=normalize_cells(heatmap, cell_mask),
            cell_mask=cell_mask,
            image_index=image_index,
        )

    @outside_inference_mode
    @torch.no_grad()
    def ground(
        self,
        images: Sequence[ImageLike],
        phrases: Sequence[Sequence[str]],
        phrases_per_chunk: int = PHRASES_PER_CHUNK,
        box_threshold: float = BOX_THRESHOLD,
        min_score: float = MIN_SCORE,
        return_heatmaps: bool = True,
    ) -> list[list[dict[str, Any]]]:
        r"""Show where phrases are in images, without dropout and without side effects.

        Each image is encoded once for all its phrases, where the model allows it (docs/grounders.md), and one image is
        in memory at a time.

        Args:
            images: pictures, anything that [`~image_processing_albef.load_image`] accepts.
            phrases (list of lists of `str`): phrases of each image.
            phrases_per_chunk (`int`, defaults to 32): phrases explained at once; bounds the memory.
            box_threshold, min_score, return_heatmaps: as for [`AlbefProcessor.post_process_grounding`].

        Returns:
            Per image a list with, per phrase, a `dict` as [`AlbefProcessor.post_process_grounding`] returns it.
            **score** is what the family scores with; **is_present** is `None` where that is not a probability.
            **heatmap** is 0 where the model does not see the image.

        Raises:
            TypeError, ValueError, FileNotFoundError: an image or a phrase that cannot be used, or scores that are
                not finite.
        """
        check_number("phrases_per_chunk", phrases_per_chunk, COUNT)
        check_number("box_threshold", box_threshold, BOX_THRESHOLDS)
        check_number("min_score", min_score, SHARE)
        pictures = list(iterate_images(images))
        nested = NestedText.read(phrases, len(pictures), name="phrases")
        self.inputs.check_phrases(nested.phrases)
        texts = iter(nested.phrases)
        results: list[list[dict[str, Any]]] = []
        for index, (picture, count) in enumerate(zip(pictures, nested.counts, strict=True)):
            image, words = load_image(picture, name=f"images[{index}]"), list(islice(texts, count))
            results.append([])
            if not words:
                continue
            batch = self.inputs.prepare_images([image], index) | self.inputs.prepare_phrases(words)
            batch["image_index"] = torch.zeros(count, dtype=torch.int64)
            (layout,) = batch["layouts"]
            for score, heatmap in zip(*self.explain_image(batch, phrases_per_chunk), strict=True):
                results[-1].append(self.locate(layout, score, heatmap, box_threshold, min_score, return_heatmaps))
        return results

    def locate(
        self,
        layout: ImageLayout,
        score: float,
        heatmap: torch.Tensor,
        box_threshold: float = BOX_THRESHOLD,
        min_score: float = MIN_SCORE,
        return_heatmaps: bool = True,
    ) -> dict[str, Any]:
        """The result of a phrase of [`ground`].

        Args:
            layout ([`~image_layout.ImageLayout`]): of its image.
            score (`float`), heatmap (`torch.Tensor` of shape `(C,)`): of [`explain_image`].
            box_threshold, min_score, return_heatmaps: as for [`ground`].
        """
        (shown,) = layout.to_image(heatmap[None])
        is_present = score >= min_score if self.family.is_probability else None
        return {"score": score, "is_present": is_present, **locate_phrase(shown, box_threshold, return_heatmaps)}

    @outside_inference_mode
    @torch.no_grad()
    def explain_image(
        self, batch: Mapping[str, Any], phrases_per_chunk: int = PHRASES_PER_CHUNK
    ) -> tuple[list[float], list[torch.Tensor]]:
        """Explain the phrases of one image, which is encoded once for all of them where the model allows it.

        Args:
            batch (`Mapping`): of [`prepare`], for one image.
            phrases_per_chunk (`int`, defaults to 32): phrases explained at once; bounds the memory.

        Returns:
            Scores of the phrases, and their heatmaps `(C,)` over the cells of the image, on the CPU;
            `batch["layouts"][0].to_image` makes pixels of them.

        Raises:
            ValueError: scores or heatmaps that are not finite.
        """
        family = self.family
        scores: list[float] = []
        heatmaps: list[torch.Tensor] = []
        with evaluation_mode(self):
            tensors = self._select_tensors(batch)
            states = family.score.share_images(self.model, self._select_images(tensors))
            num_phrases = len(tensors["input_ids"])
            size = phrases_per_chunk if family.score.has_token_rows else num_phrases
            names = (*TEXT_INPUTS, "token_mask", "image_index")
            for start in range(0, num_phrases, size):
                rows = {name: tensors[name][start : start + size] for name in names}
                outputs = self._explain(states, rows | {"cell_mask": tensors["cell_mask"]}, keep_graph=False)
                if not torch.isfinite(outputs.score).all() or not torch.isfinite(outputs.heatmap).all():
                    raise ValueError(
                        "the scores or heatmaps are not finite: the weights or the pixels hold NaN or infinity. Check "
                        "the checkpoint, or run in float32."
                    )
                scores += outputs.score.tolist()
                heatmaps += outputs.heatmap.cpu().unbind()
        return scores, heatmaps

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Write model and processor as transformers does, so that it alone loads them, and `grounder.json`.

        All files are written, or none.

        Args:
            save_directory (`str` or path): folder; created where it does not exist.
        """
        with replacing_files(save_directory) as folder:
            self.write_files(folder)

    def write_files(self, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the files of [`save_pretrained`] into a folder, one after the other.

        Args:
            folder (`Path`): where they are written.
            weights (mapping, *optional*): state dict to write, those of the model without.
        """
        self.model.save_pretrained(folder, state_dict=weights)
        self.processor.save_pretrained(folder)
        write_json(folder / SETTINGS_FILE, {**self.describe(), "source": self.source})

    def describe(self) -> dict[str, Any]:
        """What is explained, and how: `model_type`, `score`, `layer` and `method`."""
        return {
            "model_type": self.family.model_type,
            "score": self.family.score_name,
            "layer": self.layer,
            "method": self.method,
        }


__all__ = ["Grounder", "GrounderOutput", "compute_cell_heatmap", "normalize_cells"]
