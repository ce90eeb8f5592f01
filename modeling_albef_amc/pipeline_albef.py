# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The pipeline `visual-grounding`: phrases and a picture in, points, boxes and heatmaps out."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from transformers import AutoModelForZeroShotObjectDetection, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

TASK = "visual-grounding"
# Entry of a checkpoint's configuration by which `pipeline` finds this class where the package is not installed.
PIPELINE_ENTRY = {
    TASK: {
        "impl": "pipeline_albef.VisualGroundingPipeline",
        "pt": ["AutoModelForZeroShotObjectDetection"],
        "type": "multimodal",
    }
}
FORWARD_OPTIONS = ("explanation_kind", "phrases_per_chunk")
RESULT_OPTIONS = ("box_threshold", "return_heatmaps")


class VisualGroundingPipeline(Pipeline):
    r"""Ground phrases in pictures with [`AlbefForImageTextMatching`].

    Example (of a checkpoint folder or repository `checkpoint`):

    ```python
    from transformers import pipeline

    pipe = pipeline("visual-grounding", model=checkpoint, trust_remote_code=True)
    for result in pipe("photo.jpg", phrases=["a dog", "the red car"]):
        print(result["phrase"], result["score"], result["point"], result["box"])
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, images: Any, phrases: str | Sequence[str] | None = None, **kwargs) -> list:
        r"""Ground phrases.

        Args:
            images: a picture (anything [`AlbefProcessor`] takes) with `phrases`; or a dict with `image` and `text`;
                or a list of either.
            phrases (`str` or list of `str`, *optional*): phrases of the picture, or of every picture of a list.
            max_length (`int`, *optional*): longest phrase in pieces; nothing is truncated by default.
            explanation_kind (`str`, *optional*): `"itm"` (default) or `"itc"`.
            phrases_per_chunk (`int`, *optional*): phrases explained at once; bounds the memory.
            box_threshold (`float`, *optional*): share of a map's maximum that a box's pixels reach.
            return_heatmaps (`bool`, *optional*): whether results carry the full-size heatmap.

        Returns:
            Per phrase a dict with `phrase`, `score` (matching probability), `point` [x, y], `box` [x_min, y_min,
            x_max, y_max] or `None`, `boxes`, `box_scores`, and `heatmap` (`torch.Tensor` of the picture's size in
            [0, 1], or `None`); pixels are those of the stored image after EXIF rotation. A list of inputs gives a
            list of such lists.
        """
        if kwargs.get("batch_size", 1) not in (1, None):
            raise ValueError(
                "`batch_size` must stay 1: the phrases of a picture already form a batch. Give more phrases per "
                "picture, or use `processor` and `model.ground()` for batches of pictures."
            )
        if phrases is not None:
            images = (
                [{"image": image, "text": phrases} for image in images]
                if isinstance(images, list | tuple)
                else {"image": images, "text": phrases}
            )
        return super().__call__(images, **kwargs)

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
        """One picture and its phrases to tensors."""
        if not isinstance(inputs, dict) or not {"image", "text"} <= set(inputs):
            raise ValueError('give `pipe(image, phrases=[...])` or dicts with "image" and "text".')
        phrases = [inputs["text"]] if isinstance(inputs["text"], str) else list(inputs["text"])
        features = self.processor(images=inputs["image"], text=[phrases], max_length=max_length)
        return {"phrases": phrases, **features}

    def _forward(self, model_inputs: dict[str, Any], **options) -> dict[str, Any]:
        phrases = model_inputs.pop("phrases")
        model_inputs["pixel_values"] = model_inputs["pixel_values"].to(self.model.dtype)
        outputs = self.model.ground(**model_inputs, **options)
        names = ("heatmap", "itm_logits", "image_index", "original_sizes")
        return {"phrases": phrases, **{name: outputs[name] for name in names}}

    def postprocess(self, model_outputs: dict[str, Any], **options) -> list[dict[str, Any]]:
        """Tensors to one dict per phrase; numbers become plain Python, the heatmap stays a tensor."""
        phrases = model_outputs.pop("phrases")
        (results,) = self.processor.post_process_grounding(SimpleNamespace(**model_outputs), **options)
        return [
            {
                "phrase": phrase,
                "score": result["score"],
                "point": result["point"].tolist(),
                "box": None if result["box"] is None else result["box"].tolist(),
                "boxes": result["boxes"].tolist(),
                "box_scores": result["box_scores"].tolist(),
                "heatmap": result["heatmap"],
            }
            for phrase, result in zip(phrases, results, strict=True)
        ]

    def save_pretrained(self, save_directory: str, **kwargs) -> None:
        """Save the model, this code, and the processor, which the base class leaves out."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=VisualGroundingPipeline,
    pt_model=AutoModelForZeroShotObjectDetection,
    type="multimodal",
)

__all__ = ["PIPELINE_ENTRY", "VisualGroundingPipeline"]
