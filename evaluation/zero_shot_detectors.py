# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Detectors of transformers that find boxes for a text: what a grounder is compared with.

A phrase is a query of its own, so that other phrases of an image change nothing. All boxes are kept, without a
threshold, and ranked by their score: like the maximum of a heatmap, the best box is an answer however low its score.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, PreTrainedModel

from albef_amc.checkpoint_files_albef import (
    CONFIG_FILE,
    check_settings,
    find_checkpoint,
    find_commit,
    find_weight_files,
)
from albef_amc.messages_albef import list_first

# model_type -> whether one pass answers several queries of an image; the others read one caption per pass
DETECTORS = {"owlvit": True, "owlv2": True, "grounding-dino": False, "mm-grounding-dino": False}
MOST_BOXES = 100  # of a phrase that are kept, the best ones: the largest rank of the metric `phrase_recall`
NO_THRESHOLD, NO_LABELS = 0.0, 1.0


class ZeroShotDetector:
    """A detector, its processor and its source.

    Args:
        model ([`~transformers.PreTrainedModel`]): of a type in `DETECTORS`, in evaluation mode.
        processor: its processor.
        commit (`str`, *optional*): commit of the repository.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, commit: str | None = None):
        self.model, self.processor, self.commit = model, processor, commit
        self.reads_queries = DETECTORS[model.config.model_type]

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, revision: str | None = None) -> "ZeroShotDetector":
        """Loads a checkpoint with transformers' own classes; code of a repository is never run.

        Args:
            name (`str` or path): folder or Hub repository.
            revision (`str`, *optional*): branch, tag or commit of the repository.

        Raises:
            FileNotFoundError: no such checkpoint, or one without weights in safetensors.
            ValueError: another type of model, quantised weights, or weights that are missing.
        """
        arguments = find_checkpoint(name, {} if revision is None else {"revision": revision})
        commit = find_commit(name, arguments)
        if commit is not None:
            arguments["revision"] = commit  # every file is of one commit
        config = check_settings(name, [CONFIG_FILE], arguments).get(CONFIG_FILE, {})
        if config.get("model_type") not in DETECTORS:
            raise ValueError(
                f"{name} is a model of type {config.get('model_type')!r}. Detectors that can be evaluated: "
                f"{', '.join(DETECTORS)}."
            )
        if config.get("quantization_config") is not None:
            raise ValueError(
                f"{name} has quantised weights, whose numbers are not those of the model. Give the checkpoint that it "
                "was made from."
            )
        if not find_weight_files(name, arguments):
            raise FileNotFoundError(f"{name} has no weights in safetensors. Save it again with transformers.")
        model, report = AutoModelForZeroShotObjectDetection.from_pretrained(
            name, output_loading_info=True, use_safetensors=True, trust_remote_code=False, **arguments
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(
                f"{name} lacks weights of `{type(model).__name__}`: {list_first(missing)}. Get a complete checkpoint."
            )
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False, **arguments)
        return cls(model.eval(), processor, commit)

    def count_text_positions(self) -> int:
        """Tokens that a query or a caption may have, those that the tokenizer adds included."""
        config = self.model.config
        return config.text_config.max_position_embeddings if self.reads_queries else config.max_text_len

    @torch.no_grad()
    def find_boxes(
        self, images: dict[str, torch.Tensor], texts: list[dict[str, torch.Tensor]], size: tuple[int, int]
    ) -> list[tuple[list[list[float]], list[float]]]:
        """Boxes of P phrases in one image.

        Args:
            images (`dict`): of the image processor, one row.
            texts (list of `dict`): of the tokenizer, for each phrase one row.
            size (two `int`): height and width of the stored image.

        Returns:
            For each phrase at most `MOST_BOXES` boxes, x_min, y_min, x_max, y_max in pixels of the stored image, and
            their scores in [0, 1], best first; of equal ones the first of the model.

        Raises:
            ValueError: boxes or scores that are not finite.
        """
        found = []
        for outputs in self._run(images, texts):
            # Logits of padding are minus infinity.
            if outputs.logits.isnan().any() or not outputs.pred_boxes.isfinite().all():
                raise ValueError(
                    "the boxes or scores are not finite: the weights or the pixels hold NaN or infinity. Check the "
                    "checkpoint, or run in float32."
                )
            found.append(self._post_process(outputs, size))
        ranked = []
        for one in found:
            scores, order = one["scores"].float().cpu().sort(descending=True, stable=True)
            boxes = one["boxes"].float().cpu()[order[:MOST_BOXES]]
            ranked.append((boxes.tolist(), scores[:MOST_BOXES].tolist()))
        return ranked

    def _run(self, images: dict[str, torch.Tensor], texts: list[dict[str, torch.Tensor]]) -> Iterator[Any]:
        """Outputs of the model for each phrase alone."""
        device, dtype = self.model.device, self.model.dtype
        pixels = {
            name: value.to(device, dtype if value.is_floating_point() else None) for name, value in images.items()
        }
        if not self.reads_queries:
            for text in texts:
                yield self.model(**pixels, **{name: value.to(device) for name, value in text.items()})
            return
        queries = {name: torch.cat([text[name] for text in texts]).to(device) for name in texts[0]}
        outputs = self.model(**pixels, **queries)
        for index in range(len(texts)):  # logits: (1, num_boxes, P)
            yield type(outputs)(logits=outputs.logits[:, :, index : index + 1], pred_boxes=outputs.pred_boxes)

    def _post_process(self, outputs: Any, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        options = {} if self.reads_queries else {"text_threshold": NO_LABELS}
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=NO_THRESHOLD, target_sizes=[size], **options
        )
        return {"boxes": found["boxes"], "scores": found["scores"]}


__all__ = ["DETECTORS", "ZeroShotDetector"]
