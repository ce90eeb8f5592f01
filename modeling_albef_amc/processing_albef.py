# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Images, phrases and annotated regions to the tensors of ALBEF, and heatmaps back to points and boxes."""

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoImageProcessor, AutoProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import ModelOutput, logging

from .checkpoint_checks_albef import check_model_type, read_model_config
from .checkpoint_files_albef import (
    CONFIG_FILE,
    check_settings,
    find_checkpoint,
    find_checkpoint_file,
    take_hub_arguments,
)
from .collections_albef import describe_type, is_collection, iterate
from .configuration_albef import LABELS, AlbefConfig
from .image_processing_albef import AlbefImageProcessor, ImageLike
from .layout_albef import build_layout
from .processor_checks_albef import (
    IMAGE_FILE,
    OTHER_FILES,
    PROCESSOR_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    VOCABULARY_FILE,
    add_checksums,
    check_fits_model,
    check_processor,
    report_changes,
)
from .ranges_albef import SHARE, Range, check_number
from .regions_albef import (
    BOX_THRESHOLD,
    BOX_THRESHOLDS,
    boxes_from_heatmap,
    build_region_mask,
    find_point,
    iterate_located_phrases,
    read_sizes,
)
from .saving_albef import replacing_files
from .text_processing_albef import clean_with_offsets, find_broken_character, find_text_problem

logger = logging.get_logger(__name__)

MIN_SCORE = 0.5  # from which a phrase counts as present
TEXT_FORMS = "must be a phrase, a list of phrases, or a list of lists of phrases (one per image)."
SHAPE_FORMS = {"boxes": "[x_min, y_min, x_max, y_max]", "polygons": "flat x, y lists", "masks": "run-length dicts"}


class AlbefProcessor(ProcessorMixin):
    r"""Image processor and tokenizer of ALBEF; it also draws annotated regions with the same geometry as the image.

    Args:
        image_processor ([`AlbefImageProcessor`]): makes `pixel_values` and `original_sizes`.
        tokenizer (`PreTrainedTokenizerFast`): of [`~text_processing_albef.build_tokenizer`]; its `model_max_length` is
            the number of text positions of the model.

    Example:

    ```python
    >>> import numpy as np
    >>> from albef_amc import AlbefImageProcessor, AlbefProcessor
    >>> from albef_amc.text_processing_albef import build_tokenizer
    >>> tokenizer = build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cup"])
    >>> processor = AlbefProcessor(AlbefImageProcessor(size=64), tokenizer)
    >>> photo = np.zeros((30, 40, 3), dtype=np.uint8)
    >>> inputs = processor(images=[photo, photo], text=[["A dog.", "dog"], ["a cup"]])
    >>> inputs["input_ids"].tolist(), inputs["image_index"].tolist()
    ([[2, 5, 6], [2, 6, 0], [2, 5, 7]], [0, 0, 1])

    ```
    """

    def __init__(self, image_processor, tokenizer, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args, **kwargs
    ) -> "AlbefProcessor | tuple[AlbefProcessor, dict]":
        """Load a processor like [`~transformers.ProcessorMixin.from_pretrained`], and refuse one that fits no model.

        Args:
            pretrained_model_name_or_path (`str` or path): folder or Hub repository.
            args, kwargs: as for [`~transformers.ProcessorMixin.from_pretrained`], such as `size`.

        Raises:
            FileNotFoundError: the folder does not exist, or the repository cannot be read.
            TypeError, ValueError: a file cannot be read, settings or a tokenizer would silently give other heatmaps
                (see `processor_checks_albef`), or the processor does not fit the model in the same folder.
        """
        path = pretrained_model_name_or_path
        kwargs |= find_checkpoint(path, take_hub_arguments(kwargs))
        kwargs.setdefault("trust_remote_code", False)  # never ask to run remote code
        names = (PROCESSOR_FILE, *TOKENIZER_FILES, *OTHER_FILES, CONFIG_FILE)
        stored = check_settings(path, names, take_hub_arguments(kwargs))
        config = _read_model_config(path, stored.get(CONFIG_FILE, {}))
        _check_files(path, stored, take_hub_arguments(kwargs))
        try:
            loaded = super().from_pretrained(path, *args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # damaged settings can raise anything
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"the processor of {path} cannot be read ({reason}). Download or save it again."
            ) from error
        processor = loaded[0] if isinstance(loaded, tuple) else loaded
        check_processor(processor, path)
        if config is not None:
            check_fits_model(processor, config, check_size=False)
        report_changes(stored, path)
        return loaded

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Write the settings, with checksums of them and of the tokenizer's files in the same folder."""
        super().to_json_file(json_file_path)
        add_checksums(Path(json_file_path))

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike] | None = None,
        text: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        spans: Sequence | None = None,
        boxes: Sequence | None = None,
        polygons: Sequence | None = None,
        masks: Sequence | None = None,
        max_length: int | None = None,
        max_words: int | None = None,
        mask_size: tuple[int, int] | None = None,
        padding: bool | str = True,
        return_tensors: str = "pt",
        original_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> BatchFeature:
        r"""Prepare N images and P phrases.

        `spans`, `boxes`, `polygons` and `masks` are nested like `text`: for each phrase they have its annotation, or
        `None`.

        Args:
            images: picture or list of pictures, anything that [`~image_processing_albef.load_image`] accepts.
            text: a phrase; a list with one phrase per image, or several phrases of the only image; or a list of
                phrases per image (empty for an image without phrases).
            spans: if given, `text` holds captions and a phrase is a list of `(start, end)` character offsets in the
                raw caption; `None` for the full caption.
            boxes: per phrase a list of `[x_min, y_min, x_max, y_max]` in pixels of the stored image after EXIF
                rotation.
            polygons: per phrase a list of flat x, y lists in the same pixels.
            masks: per phrase a list of COCO run-length masks of the image's size.
            max_length (`int`, *optional*): longest phrase in tokens, [CLS] included; longer ones are truncated. By
                default nothing is truncated, as in the published evaluation.
            max_words (`int`, *optional*): number of words that cleaning keeps of a phrase.
            mask_size (`tuple[int, int]`, *optional*): height and width of `region_mask`; those of the model's image by
                default.
            padding (`bool` or `str`, defaults to `True`): to the longest phrase; `"max_length"` to `max_length`.
            return_tensors (`str`, defaults to `"pt"`): only PyTorch tensors are supported.
            original_sizes (sequence of (height, width), *optional*): sizes of the stored images, if `images` are
                reduced copies of them; annotations are in pixels of the stored images.

        Returns:
            `BatchFeature` with, depending on what was given:
            - **pixel_values** `(N, 3, height, width)` and **original_sizes** `(N, 2)` int64
            - **input_ids**, **attention_mask** `(P, T)` int64
            - **image_index** `(P,)` int64, the image row of each phrase
            - **layout** ([`~layout_albef.PhraseLayout`]), computed from these two for the model
            - **token_mask** `(P, T)` bool, the tokens of the spans
            - **region_mask** `(P, mask_height, mask_width)` in [0, 1] and **has_region** `(P,)` bool
        """
        if images is None and text is None:
            raise ValueError("give `images`, `text` or both.")
        if return_tensors != "pt":
            raise ValueError(f'`return_tensors` must be "pt" (PyTorch), got {return_tensors!r}.')
        data = dict(self.image_processor(images, return_tensors="pt")) if images is not None else {}
        if original_sizes is not None:
            data["original_sizes"] = _read_original_sizes(original_sizes, len(data.get("original_sizes", ())))
        sizes = data["original_sizes"].tolist() if images is not None else None
        if text is None:
            self._refuse(dict(spans=spans, boxes=boxes, polygons=polygons, masks=masks), "`text`")
            return BatchFeature(data)
        nested = NestedText.read(text, None if sizes is None else len(sizes))
        flat_spans = None if spans is None else nested.flatten("spans", spans)
        data |= self._encode_text(nested.phrases, flat_spans, max_length, max_words, padding)
        annotations = dict(boxes=boxes, polygons=polygons, masks=masks)
        if sizes is None:
            self._refuse(annotations, "`images`")
            return BatchFeature(data)
        data["image_index"] = torch.tensor(nested.image_index)
        # copies, so that later changes to the batch are detected
        data["layout"] = build_layout(data["attention_mask"].clone(), data["image_index"].clone(), len(sizes))
        flat = {name: nested.flatten(name, values) for name, values in annotations.items() if values is not None}
        if flat:
            data |= self._build_regions(flat, sizes, nested.image_index, mask_size)
        return BatchFeature(data)

    @staticmethod
    def _refuse(arguments: dict[str, Any], missing: str) -> None:
        given = [f"`{name}`" for name, value in arguments.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)} without {missing}: an annotation belongs to a phrase of an image.")

    def _encode_text(
        self,
        phrases: list[str],
        spans: list | None,
        max_length: int | None,
        max_words: int | None,
        padding: bool | str,
    ) -> dict[str, torch.Tensor]:
        limit = self.tokenizer.model_max_length
        if max_length is not None:
            check_number("max_length", max_length, Range(is_whole=True))
        if max_length is not None and not 2 <= max_length <= limit:
            raise ValueError(
                f"`max_length` must lie between 2 ([CLS] and one token) and {limit} (text positions), "
                f"got {max_length}."
            )
        for index, phrase in enumerate(phrases):
            problem = find_text_problem(phrase)
            if problem:
                raise ValueError(f"phrase {index} is {phrase!r:.80}, which {problem}. Give a phrase with words.")
        cleaned = [clean_with_offsets(phrase, max_words) for phrase in phrases]
        encoded = self.tokenizer(
            [phrase for phrase, _ in cleaned],
            padding=padding,
            truncation=max_length is not None,
            max_length=max_length,
            return_offsets_mapping=True,
            return_token_type_ids=False,
            verbose=False,
        )
        _check_lengths(phrases, [sum(kept) for kept in encoded["attention_mask"]], limit)
        data = {name: _to_tensor(encoded[name], padding) for name in ("input_ids", "attention_mask")}
        if spans is not None:
            rows = [
                _mark_tokens(index, phrases[index], spans[index], sources, offsets, kept)
                for index, ((_, sources), offsets, kept) in enumerate(
                    zip(cleaned, encoded["offset_mapping"], encoded["attention_mask"], strict=True)
                )
            ]
            data["token_mask"] = _to_tensor(rows, padding)
        return data

    def _build_regions(
        self,
        annotations: dict[str, list],
        sizes: list[list[int]],
        image_index: list[int],
        mask_size: tuple[int, int] | None,
    ) -> dict[str, torch.Tensor]:
        if mask_size is None:
            mask_size = (self.image_processor.size.height, self.image_processor.size.width)
        regions, is_annotated = [], []
        for index, image in enumerate(image_index):
            height, width = sizes[image]
            shapes = {name: _check_shapes(name, index, values[index]) for name, values in annotations.items()}
            try:
                regions.append(build_region_mask(height, width, mask_size, **shapes))
            except ValueError as error:
                raise ValueError(f"annotation of phrase {index}: {error} (images[{image}])") from error
            is_annotated.append(any(len(values) for values in shapes.values()))
        region_mask = torch.stack(regions)
        has_region = region_mask.flatten(1).amax(dim=1) > 0
        if (torch.tensor(is_annotated) & ~has_region).any():
            logger.warning_once("Some annotated regions have no area in their image: `has_region` is False for them.")
        return {"region_mask": region_mask, "has_region": has_region}

    def encode_answers(self, answers: Sequence[str]) -> BatchFeature:
        r"""Encode answers to train on or to explain as tokens [CLS] answer [SEP]; not cleaned, as published.

        Args:
            answers (sequence of `str`): one or more; several questions may have the same answer.

        Returns:
            `BatchFeature` with **answer_ids** and **answer_mask** `(A, L)` int64.
        """
        ids, mask = self._pad_answers(self._read_answers(answers))
        return BatchFeature({"answer_ids": ids, "answer_mask": mask})

    def encode_candidates(self, answers: Sequence[str]) -> BatchFeature:
        r"""Encode the answers to choose from, such as the content of `answer_list.json`.

        Args:
            answers (sequence of `str`): one or more, without duplicates.

        Returns:
            `BatchFeature` with **candidate_ids** and **candidate_mask** `(C, L)` int64.
        """
        rows = self._read_answers(answers)
        seen: dict[tuple[int, ...], int] = {}
        for index, row in enumerate(rows):
            first = seen.setdefault(tuple(row), index)
            if first != index:
                raise ValueError(
                    f"`answers` holds {answers[first]!r} and {answers[index]!r} (entries {first} and {index}), which "
                    "have the same tokens: one would take a share of the other's probability. Keep one of them."
                )
        ids, mask = self._pad_answers(rows)
        return BatchFeature({"candidate_ids": ids, "candidate_mask": mask})

    def _read_answers(self, answers: Sequence[str]) -> list[list[int]]:
        if not is_collection(answers):
            raise TypeError(f"`answers` must be a list of strings, got {answers!r:.80}.")
        answers = list(iterate(answers))
        for index, answer in enumerate(answers):
            if not isinstance(answer, str):
                raise TypeError(f"`answers` must be a list of strings, got {describe_type(answer)} as answer {index}.")
            broken = find_broken_character(answer)
            if broken:
                raise ValueError(f"answer {index} is {answer!r:.80}, which {broken}. Correct it.")
        if not answers:
            raise ValueError("`answers` is empty: give at least one.")
        limit = self.tokenizer.model_max_length
        rows = self.tokenizer(list(answers), verbose=False)["input_ids"]
        for index, row in enumerate(rows):
            row.append(self.tokenizer.sep_token_id)
            if len(row) == 2:  # [CLS] and [SEP]
                raise ValueError(f"answer {index} is {answers[index]!r}, which has no words. Drop it.")
            if len(row) > limit:
                raise ValueError(
                    f"answer {index} has {len(row)} tokens, [CLS] and [SEP] included, but the model has {limit} text "
                    "positions. Shorten it."
                )
        return rows

    def _pad_answers(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = [torch.tensor(row) for row in rows]
        ids = pad_sequence(tokens, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return ids, pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call can return."""
        names = ["pixel_values", "original_sizes", "input_ids", "attention_mask", "image_index", "layout"]
        return [*names, "token_mask", "region_mask", "has_region"]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Save settings and code as [`~transformers.ProcessorMixin`] does; without `push_to_hub`, all files or none.

        Raises:
            OSError: the files could not be written; existing files are unchanged.
        """
        if push_to_hub:
            return super().save_pretrained(save_directory, push_to_hub=True, **kwargs)
        with replacing_files(save_directory) as folder:
            super().save_pretrained(folder, **kwargs)
            names = sorted(file.name for file in folder.iterdir())
        return [os.path.join(save_directory, name) for name in names]

    def post_process_grounding(
        self,
        outputs: ModelOutput,
        original_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        box_threshold: float = BOX_THRESHOLD,
        return_heatmaps: bool = True,
        min_score: float = MIN_SCORE,
    ) -> list[list[dict[str, Any]]]:
        r"""Convert the heatmaps of `ground()` to points and boxes in pixels of the stored images.

        Args:
            outputs ([`AlbefGroundingOutput`]): `heatmap`, `match_probability`, `image_index`, `original_sizes`.
            original_sizes (`(N, 2)`, *optional*): height and width per image; those of `outputs` by default.
            box_threshold (`float`, defaults to 0.5): minimum value of a box's pixels, as a share in (0, 1] of
                the map's maximum.
            return_heatmaps (`bool`, defaults to `True`): `False` saves the memory of the full-size maps.
            min_score (`float`, defaults to 0.5): score in [0, 1] from which a phrase counts as present in the image.

        Returns:
            Per image a list with, per phrase in the order given, a `dict`:
            - **score** (`float`): probability that phrase and image match; accurate only if the checkpoint is
              calibrated (`albef-amc calibrate`)
            - **is_present** (`bool`): whether the score reaches `min_score`
            - **point** (`(2,)` int64): x, y of the first maximum of the bicubically resized map, overshoot included;
              (0, 0) for a map that is zero everywhere
            - **box** (`(4,)` float32 or `None`): tightest box of the thresholded component that contains the point
            - **boxes** (`(K, 4)` float32), **box_scores** (`(K,)`): all components, the point's first; the score is
              the component's maximum as a share of the map's maximum
            - **heatmap** (`(height, width)` float32 in [0, 1], or `None`): the resized map over its maximum, negative
              overshoot clipped
        """
        check_number("box_threshold", box_threshold, BOX_THRESHOLDS)
        check_number("min_score", min_score, SHARE)
        if not isinstance(return_heatmaps, bool):
            raise TypeError(f"`return_heatmaps` must be True or False, got {return_heatmaps!r}.")
        sizes = read_sizes(outputs, original_sizes, "original_sizes")
        results: list[list[dict[str, Any]]] = [[] for _ in sizes]
        for image, score, heatmap in iterate_located_phrases(outputs, sizes):
            located = locate_phrase(heatmap, box_threshold, return_heatmaps)
            results[image].append({"score": score, "is_present": score >= min_score, **located})
        return results


def locate_phrase(heatmap: torch.Tensor, box_threshold: float, return_heatmap: bool) -> dict[str, Any]:
    """Convert a heatmap of shape `(height, width)` at the size of the stored image to the entries of a result.

    Returns:
        `dict`: **point**, **box**, **boxes**, **box_scores** and **heatmap** of
        [`AlbefProcessor.post_process_grounding`].
    """
    boxes, box_scores = boxes_from_heatmap(heatmap, box_threshold)
    if not len(boxes):
        logger.warning_once("A heatmap is zero everywhere: its point is (0, 0) and it has no box.")
    shown = None
    if return_heatmap:
        shown = (heatmap.clamp(min=0) / (heatmap.max() if len(boxes) else 1)).float()
    return {
        "point": find_point(heatmap),
        "box": boxes[0] if len(boxes) else None,
        "boxes": boxes,
        "box_scores": box_scores,
        "heatmap": shown,
    }


def _check_files(path: str | os.PathLike, stored: Mapping[str, Any], hub_arguments: Mapping[str, Any]) -> None:
    """Refuse a folder without image settings or a tokenizer; the message names the missing file."""
    has_images = PROCESSOR_FILE in stored or IMAGE_FILE in stored
    has_tokenizer = TOKENIZER_FILE in stored or find_checkpoint_file(path, VOCABULARY_FILE, hub_arguments) is not None
    for exists, name in ((has_images, PROCESSOR_FILE), (has_tokenizer, TOKENIZER_FILE)):
        if not exists:
            raise FileNotFoundError(
                f"No `{name}` in {path}: this is not a checkpoint folder, or it is incomplete. Download or save the "
                "processor again."
            )


def _read_model_config(path: str | os.PathLike, settings: dict[str, Any]) -> AlbefConfig | None:
    """Read and check the model's configuration before `transformers` does; None if it is not ALBEF's."""
    if check_model_type(path, settings) == AlbefConfig.model_type:
        return read_model_config(path, settings)
    if settings.get("num_labels") is not None:
        check_number("num_labels", settings["num_labels"], LABELS)
    return None


@dataclass(frozen=True)
class NestedText:
    """Flat list of phrases and their nesting depth: `text` was a phrase (0), a list (1) or a list per image (2)."""

    phrases: list[str]
    counts: list[int]  # phrases of each image
    depth: int

    @classmethod
    def read(cls, text, num_images: int | None, name: str = "text") -> "NestedText":
        """Distinguish the three forms of `text` and check them against the images; `name` is its name in messages.

        Lists may be tuples, arrays of text, columns of data sets or generators ([`is_collection`]).
        """
        rows = list(iterate(text)) if is_collection(text) else text
        if isinstance(rows, str):
            nested = cls([rows], [1], depth=0)
        elif not isinstance(rows, list):
            raise TypeError(f"`{name}` {TEXT_FORMS} Got {describe_type(text)}.")
        elif rows and all(isinstance(phrase, str) for phrase in rows):
            nested = cls(rows, [len(rows)] if num_images in (None, 1) else [1] * len(rows), depth=1)
        else:
            has_phrases = any(isinstance(row, str) for row in rows)
            lists = [list(iterate(row)) if is_collection(row) else row for row in rows]
            for index, row in enumerate(lists):
                if not isinstance(row, str if has_phrases else list):
                    raise TypeError(f"`{name}` {TEXT_FORMS} Got {describe_type(row)} as {name}[{index}].")
            nested = cls([phrase for row in lists for phrase in row], [len(row) for row in lists], depth=2)
        for index, phrase in enumerate(nested.phrases):
            if not isinstance(phrase, str):
                raise TypeError(f"`{name}` {TEXT_FORMS} Got {describe_type(phrase)} as phrase {index}.")
        if not nested.phrases:
            raise ValueError(f"`{name}` has no phrases: give at least one.")
        if num_images is not None and len(nested.counts) != num_images:
            raise ValueError(
                f"`{name}` has phrases for {len(nested.counts)} images but there are {num_images} images. Give one "
                "phrase, or one list of phrases, per image."
            )
        return nested

    @property
    def image_index(self) -> list[int]:
        """Image row of each phrase."""
        return [image for image, count in enumerate(self.counts) for _ in range(count)]

    def flatten(self, name: str, values) -> list:
        """Flatten annotations that are nested like `text` to a list with one entry per phrase."""
        if self.depth == 0:
            return [values]
        expected = len(self.phrases) if self.depth == 1 else len(self.counts)
        if not _is_list(values) or len(values) != expected:
            raise ValueError(
                f"`{name}` must be nested like `text`: a list with {expected} entries. Use None for gaps."
            )
        if self.depth == 1:
            return list(values)
        rows = [[None] * count if row is None else row for row, count in zip(values, self.counts, strict=True)]
        for image, (row, count) in enumerate(zip(rows, self.counts, strict=True)):
            if not _is_list(row) or len(row) != count:
                raise ValueError(f"`{name}[{image}]` must have {count} entries, one per phrase. Use None for gaps.")
        return [value for row in rows for value in row]


def _read_original_sizes(original_sizes: Sequence[tuple[int, int]], num_images: int) -> torch.Tensor:
    """Convert given sizes of the stored images to `(N, 2)` int64."""
    is_read = _is_list(original_sizes) and len(original_sizes) == num_images
    for size in original_sizes if is_read else ():
        is_read = is_read and _is_list(size) and len(size) == 2 and all(_is_whole(side) and side > 0 for side in size)
    if not is_read:
        raise ValueError(
            f"`original_sizes` must have the height and width in pixels of each of the {num_images} images, got "
            f"{original_sizes!r:.80}."
        )
    return torch.tensor([[int(side) for side in size] for size in original_sizes])


def _check_lengths(phrases: list[str], lengths: list[int], limit: int) -> None:
    for index, (phrase, length) in enumerate(zip(phrases, lengths, strict=True)):
        if length < 2:
            raise ValueError(
                f"phrase {index} is {phrase!r:.80}, of which the tokenizer keeps nothing. Give a phrase with words."
            )
        if length > limit:
            raise ValueError(
                f"phrase {index} has {length} tokens but the model has {limit} text positions. Shorten it or truncate "
                f"with `max_length={limit}`."
            )


def _check_shapes(name: str, index: int, shapes) -> Sequence:
    """Check that a phrase's annotation is a list of boxes, polygons or masks, not a single one."""
    if shapes is None:
        return []
    if name == "masks":
        is_list = _is_list(shapes) and all(isinstance(mask, dict) for mask in shapes)
    else:
        is_list = _is_list(shapes) and all(_is_list(shape) for shape in shapes)
    if name == "boxes":
        is_list = is_list and all(len(box) == 4 for box in shapes)
    if not is_list:
        raise ValueError(
            f"`{name}` of phrase {index} must be a list of {SHAPE_FORMS[name]}, got {str(shapes)[:80]}. Nest `{name}` "
            "like `text`, one level deeper."
        )
    return shapes


def _is_whole(value) -> bool:
    """Whether a value is an integer of Python, NumPy or PyTorch, but not a `bool`."""
    try:
        return not isinstance(value, bool) and operator.index(value) is not None
    except TypeError:
        return False


def _is_list(value) -> bool:
    """Whether a value is a list, tuple, array or tensor, but not a string or dict."""
    return hasattr(value, "__len__") and not isinstance(value, str | dict)


def _mark_tokens(index, caption, spans, sources, offsets, kept) -> list[bool]:
    """Mark the tokens of a cleaned caption that come from spans of the raw one; without spans, all kept tokens."""
    if spans is None or (_is_list(spans) and not len(spans)):
        return [bool(value) for value in kept]
    if not _is_list(spans) or not all(
        _is_list(span) and len(span) == 2 and all(map(_is_whole, span)) for span in spans
    ):
        raise ValueError(
            f"`spans` of phrase {index} must be a list of (start, end), whole numbers, got {str(spans)[:80]}."
        )
    chosen = set()
    for start, end in spans:
        if not 0 <= start < end <= len(caption):
            raise ValueError(
                f"span ({start}, {end}) of phrase {index} does not lie in its caption of {len(caption)} characters. "
                "Spans are (start, end) offsets in the raw caption, end exclusive."
            )
        marked = {
            token
            for token, (first, last) in enumerate(offsets)
            if any(start <= source < end for source in sources[first:last])
        }
        if not marked:
            raise ValueError(
                f"span ({start}, {end}) of phrase {index}, {caption[start:end]!r}, covers no token: it is "
                "punctuation, or was truncated. Move the span or raise `max_length` / `max_words`."
            )
        chosen |= marked
    return [token in chosen for token in range(len(offsets))]


def _to_tensor(rows: list[list], padding: bool | str) -> torch.Tensor:
    if len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"phrases of different lengths cannot form a tensor with `padding={padding!r}`. Use `padding=True`."
        )
    return torch.tensor(rows)


AlbefImageProcessor.register_for_auto_class("AutoImageProcessor")
AlbefProcessor.register_for_auto_class("AutoProcessor")
AutoImageProcessor.register(AlbefConfig, image_processor_classes={"pil": AlbefImageProcessor}, exist_ok=True)
AutoProcessor.register(AlbefConfig, AlbefProcessor, exist_ok=True)

__all__ = ["AlbefProcessor", "locate_phrase"]
