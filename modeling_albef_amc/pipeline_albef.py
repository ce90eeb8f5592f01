# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The pipeline `visual-grounding`: from phrases and a picture to points, boxes and heatmaps."""

import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import AutoModelForZeroShotObjectDetection, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .collections_albef import describe_type, is_collection, iterate, without_format
from .processor_checks_albef import check_fits_model

TASK = "visual-grounding"
# Entry of a checkpoint's configuration, so that `pipeline` finds this class if the package is not installed.
PIPELINE_ENTRY = {
    TASK: {
        "impl": "pipeline_albef.VisualGroundingPipeline",
        "pt": ["AutoModelForZeroShotObjectDetection"],
        "type": "multimodal",
    }
}
FORWARD_OPTIONS = ("explanation_kind", "phrases_per_chunk")
RESULT_OPTIONS = ("box_threshold", "min_score", "return_heatmaps")


class PhrasePipeline(Pipeline):
    """Pictures with phrases in any form that [`__call__`] lists, as rows of one picture and its phrases."""

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, images: Any, phrases: Any = None, **kwargs) -> Any:
        r"""Ground phrases.

        Args:
            images: a picture (anything [`AlbefProcessor`] accepts) with `phrases`; or a dict with `image` and `text`;
                or a collection of either: a list, a data set or one of its columns, `KeyDataset`, a generator.
            phrases (`str` or collection of `str`, *optional*): phrases of the picture, or of every picture of a
                collection; they replace `text`.
            batch_size (`int`, *optional*): pictures of a collection that are grounded together, 1 by default; also an
                argument of the constructor. Results are the same for any number.
            phrases_per_chunk (`int`, *optional*): phrases explained at once; limits the memory.
            box_threshold (`float`, *optional*): minimum value of a box's pixels, as a share of the map's
                maximum.
            min_score (`float`, *optional*): score in [0, 1] from which a phrase counts as present; 0.5 by default.
            return_heatmaps (`bool`, *optional*): whether results contain the full-size heatmap.

        Returns:
            Per phrase a dict with `phrase`, `score` (matching probability), `is_present` (whether the score reaches
            `min_score`), `point` [x, y], `box` [x_min, y_min, x_max, y_max] or `None`, `boxes`, `box_scores`, and
            `heatmap` (`torch.Tensor` of the picture's size in [0, 1], or `None`); pixels are those of the stored
            image after EXIF rotation. A list of inputs gives a list of such lists; any other collection gives an
            iterable of them, which reads pictures on demand.

        Raises:
            ValueError, TypeError, FileNotFoundError: an input cannot be used; in a collection the message names its
                index.
        """
        if phrases is not None and is_collection(phrases):
            phrases = list(iterate(phrases))
        images = without_format(images)
        is_stack = isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4
        if hasattr(images, "tolist") and is_collection(images):
            images = images.tolist()  # an array or a column of a table, whose labels are not positions
        if isinstance(images, list | tuple) or is_stack:
            rows = [_build_row(image, phrases, f"input {index}") for index, image in enumerate(images)]
            return super().__call__(rows, **kwargs) if rows else []
        if is_collection(images):
            has_positions = hasattr(images, "__getitem__") and hasattr(images, "__len__")
            items = enumerate(iterate(images))
            numbered = (_build_row(image, phrases, f"input {index}") for index, image in items)
            return super().__call__(_Rows(images, phrases) if has_positions else numbered, **kwargs)
        return super().__call__(_build_row(images, phrases), **kwargs)

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *parameters: dict[str, Any]) -> Any:
        """Iterate over the results of several pictures, with any start method of worker processes.

        The base class batches with a function that only forked workers can use. Checked against transformers 5.23.

        Raises:
            ValueError: a generator is used with workers that are not forked.
        """
        if num_workers and not hasattr(inputs, "__len__") and multiprocessing.get_start_method() != "fork":
            raise ValueError(
                f"a generator cannot be sent to the {num_workers} processes of `num_workers`: pass `num_workers=0`, "
                "or a list or a data set of pictures."
            )
        results = super().get_iterator(inputs, num_workers, batch_size, *parameters)
        if batch_size > 1:
            results.loader.loader.collate_fn = _collect_features
        return results


class VisualGroundingPipeline(PhrasePipeline):
    r"""Ground phrases in pictures with [`AlbefForImageTextMatching`].

    Options of a call beside those of [`PhrasePipeline`]: `max_length` (`int`), the longest phrase in tokens (nothing
    is truncated by default), and `explanation_kind`, `"itm"` (default) or `"itc"`.

    Example (of a checkpoint folder or repository `checkpoint`):

    ```python
    from transformers import pipeline

    pipe = pipeline("visual-grounding", model=checkpoint, trust_remote_code=True)
    for result in pipe("photo.jpg", phrases=["a dog", "the red car"]):
        print(result["phrase"], result["score"], result["point"], result["box"])
    ```
    """

    def __init__(self, *args, **kwargs):
        """Build a [`~transformers.Pipeline`]; raises `ValueError` for a processor that does not fit the model."""
        super().__init__(*args, **kwargs)
        check_fits_model(self.processor, self.model.config)

    def _sanitize_parameters(self, max_length: int | None = None, **options):
        unknown = set(options) - {*FORWARD_OPTIONS, *RESULT_OPTIONS}
        if unknown:
            known = ", ".join(("max_length", *FORWARD_OPTIONS, *RESULT_OPTIONS))
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}. The options are {known}.")
        return (
            {} if max_length is None else {"max_length": max_length},
            {name: options[name] for name in FORWARD_OPTIONS if name in options},
            {name: options[name] for name in RESULT_OPTIONS if name in options},
        )

    def preprocess(self, inputs: dict[str, Any], max_length: int | None = None) -> dict[str, Any]:
        """Convert one picture and its phrases to tensors."""
        phrases = read_phrases(inputs)
        with naming_input(inputs["name"]):
            features = self.processor(images=[inputs["image"]], text=[phrases], max_length=max_length)
        # The base class would concatenate tensors by its own rules; other values it puts in a list.
        return {"features": {"phrases": phrases, **features}}

    def _forward(self, model_inputs: dict[str, Any], **options) -> dict[str, Any]:
        """Ground one picture, or the list of pictures of a batch."""
        features = model_inputs["features"]
        rows = features if isinstance(features, list) else [features]
        outputs = self.model.ground(
            **_join_features(rows, self.processor.tokenizer.pad_token_id, self.model.dtype), **options
        )
        counts = [len(row["phrases"]) for row in rows]
        maps = zip(rows, outputs.heatmap.split(counts), outputs.match_probability.split(counts), strict=True)
        grounded = [{**row, "heatmap": heatmap, "match_probability": part} for row, heatmap, part in maps]
        return {"grounded": grounded if isinstance(features, list) else grounded[0]}

    def postprocess(self, model_outputs: dict[str, Any], **options) -> list[dict[str, Any]]:
        """Convert tensors to one dict per phrase; numbers become plain Python, the heatmap stays a tensor."""
        grounded = model_outputs["grounded"]
        (results,) = self.processor.post_process_grounding(SimpleNamespace(**grounded), **options)
        return [build_result(phrase, result) for phrase, result in zip(grounded["phrases"], results, strict=True)]

    def save_pretrained(self, save_directory: str, **kwargs) -> None:
        """Save the model, this code, and the processor, which the base class omits."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def build_result(phrase: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """A result of `post_process_grounding` with its phrase, numbers as plain Python; the heatmap stays a tensor."""
    return {
        "phrase": phrase,
        "score": result["score"],
        "is_present": result["is_present"],
        "point": result["point"].tolist(),
        "box": None if result["box"] is None else result["box"].tolist(),
        "boxes": result["boxes"].tolist(),
        "box_scores": result["box_scores"].tolist(),
        "heatmap": result["heatmap"],
    }


def read_phrases(inputs: Mapping[str, Any]) -> list[Any]:
    """The phrases of a row, of which there may be one."""
    text = inputs["text"]
    return list(iterate(text)) if is_collection(text) else [text]


@contextmanager
def naming_input(name: str) -> Iterator[None]:
    """Errors of bad input begin with the name of the input, which is empty for the only one of a call."""
    try:
        yield
    except (FileNotFoundError, TypeError, ValueError) as error:
        kind = next(kind for kind in (FileNotFoundError, TypeError, ValueError) if isinstance(error, kind))
        raise kind(f"{name}: {error}" if name else str(error)) from error


class _Rows(Dataset):
    """A collection that is read by index, each picture on demand."""

    def __init__(self, images: Any, phrases: Any):
        self.images, self.phrases = images, phrases

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _build_row(self.images[index], self.phrases, f"input {index}")


def _collect_features(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Collect the results of [`VisualGroundingPipeline.preprocess`] in lists; they are padded and joined later."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _build_row(image: Any, phrases: Any, name: str = "") -> dict[str, Any]:
    """Build a row with picture, phrases, and the name of the input in messages."""
    is_row = isinstance(image, Mapping) and "image" in image
    text = image.get("text") if phrases is None and is_row else phrases
    if text is None:
        where = f"{name}: " if name else ""
        raise ValueError(
            f'{where}give `pipe(image, phrases=[...])` or dicts with "image" and "text", got {describe_type(image)}.'
        )
    return {"image": image["image"] if is_row else image, "text": text, "name": name}


def _join_features(rows: list[dict[str, Any]], pad_token_id: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Join pictures and their phrases to one batch of `ground`; shorter phrases are padded on the right."""
    length = max(row["input_ids"].shape[1] for row in rows)
    padded = {
        name: torch.cat([functional.pad(row[name], (0, length - row[name].shape[1]), value=value) for row in rows])
        for name, value in (("input_ids", pad_token_id), ("attention_mask", 0))
    }
    return {
        **padded,
        "pixel_values": torch.cat([row["pixel_values"] for row in rows]).to(dtype),
        "original_sizes": torch.cat([row["original_sizes"] for row in rows]),
        "image_index": torch.cat([row["image_index"] + index for index, row in enumerate(rows)]),
    }


if TASK not in PIPELINE_REGISTRY.supported_tasks:  # code of a checkpoint leaves what the installed package registered
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=VisualGroundingPipeline,
        pt_model=AutoModelForZeroShotObjectDetection,
        type="multimodal",
    )

__all__ = [
    "PIPELINE_ENTRY",
    "TASK",
    "PhrasePipeline",
    "VisualGroundingPipeline",
    "build_result",
    "naming_input",
    "read_phrases",
]
