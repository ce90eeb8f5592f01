# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The pipeline `visual-grounding` for every model that has a grounder; importing this module registers it."""

import os
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.processing_utils import ProcessorMixin

from albef_amc import AlbefForImageTextMatching, VisualGroundingPipeline
from albef_amc.grounders.auto_grounder import AutoGrounder, find_family
from albef_amc.grounders.grounder import PHRASES_PER_CHUNK, Grounder
from albef_amc.pipeline_albef import (
    RESULT_OPTIONS,
    TASK,
    PhrasePipeline,
    build_result,
    naming_input,
    read_phrases,
)
from albef_amc.ranges_albef import COUNT, check_number


class GrounderPipeline(PhrasePipeline):
    r"""Ground phrases in pictures with a [`~grounder.Grounder`].

    Inputs and results are those of ALBEF's own pipeline, [`VisualGroundingPipeline`], which is built in its place for
    an ALBEF model.

    Example (`checkpoint` as for [`~auto_grounder.AutoGrounder.from_pretrained`], such as
    `"Salesforce/blip-itm-base-coco"`; pass a grounder as `model` to choose layer, score or method):

    ```python
    import albef_amc.grounders
    from transformers import pipeline

    pipe = pipeline("visual-grounding", model=checkpoint)
    for result in pipe("photo.jpg", phrases=["a dog", "the red car"]):
        print(result["phrase"], result["score"], result["point"], result["box"])
    ```
    """

    _load_processor = False  # a grounder has it

    def __new__(cls, *args, **kwargs):
        """Build ALBEF's own pipeline for its model."""
        if isinstance(kwargs.get("model"), AlbefForImageTextMatching):
            return VisualGroundingPipeline(*args, **kwargs)
        return super().__new__(cls)

    def __init__(self, *, model: Any, processor: ProcessorMixin | None = None, **kwargs):
        """Build a [`~transformers.Pipeline`].

        Args:
            model ([`~grounder.Grounder`] or [`~transformers.PreTrainedModel`]): what grounds; a model of transformers
                comes with its `processor`, and is explained by the defaults of its family.
            processor ([`~transformers.ProcessorMixin`], *optional*): of a model of transformers.

        Raises:
            ValueError: a model that cannot be explained, or one without `processor`.
        """
        grounder = model if isinstance(model, Grounder) else _build_grounder(model, processor)
        super().__init__(model=grounder, processor=grounder.processor, **kwargs)

    def _sanitize_parameters(self, phrases_per_chunk: int = PHRASES_PER_CHUNK, **options):
        unknown = set(options) - {*RESULT_OPTIONS}
        if unknown:
            known = ", ".join(("phrases_per_chunk", *RESULT_OPTIONS))
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}. The options are {known}.")
        check_number("phrases_per_chunk", phrases_per_chunk, COUNT)
        return {}, {"phrases_per_chunk": phrases_per_chunk}, options

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Convert one picture and its phrases to tensors."""
        phrases = read_phrases(inputs)
        with naming_input(inputs["name"]):
            batch = self.model.prepare([inputs["image"]], [phrases])
        return {"features": {"phrases": phrases, "batch": batch}}

    def _forward(self, model_inputs: dict[str, Any], phrases_per_chunk: int) -> dict[str, Any]:
        """Ground one picture, or the list of pictures of a batch, one after the other."""
        features = model_inputs["features"]
        grounded = []
        for row in features if isinstance(features, list) else [features]:
            found = list(zip(*self.model.explain_image(row["batch"], phrases_per_chunk), strict=True))
            grounded.append({"phrases": row["phrases"], "layout": row["batch"]["layouts"][0], "found": found})
        return {"grounded": grounded if isinstance(features, list) else grounded[0]}

    def postprocess(self, model_outputs: dict[str, Any], **options) -> list[dict[str, Any]]:
        """Convert tensors to one dict per phrase; numbers become plain Python, the heatmap stays a tensor."""
        grounded = model_outputs["grounded"]
        return [
            build_result(phrase, self.model.locate(grounded["layout"], score, heatmap, **options))
            for phrase, (score, heatmap) in zip(grounded["phrases"], grounded["found"], strict=True)
        ]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save as [`~grounder.Grounder.save_pretrained`] does; no code is saved."""
        self.model.save_pretrained(save_directory)


class PipelineGrounder:
    """What `pipeline` loads a checkpoint with, in the form of an Auto class."""

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None, dtype: Any = "auto", **kwargs) -> Grounder:
        """[`~auto_grounder.AutoGrounder.from_pretrained`], in a precision.

        Args:
            name (`str`): folder or Hub repository.
            revision (`str`, *optional*): branch, tag or commit.
            dtype (`torch.dtype`, *optional*): that of the checkpoint by default.
            kwargs: what `pipeline` passes to every class; code of a repository is not run, whatever they are.
        """
        grounder = AutoGrounder.from_pretrained(name, revision=revision)
        return grounder.to(dtype) if isinstance(dtype, torch.dtype) else grounder


def _build_grounder(model: PreTrainedModel, processor: ProcessorMixin | None) -> Grounder:
    """A grounder of a loaded model with the defaults of its family."""
    name = f"`{type(model).__name__}`"
    family = find_family(model.config.to_dict(), None, name)
    if type(model).__name__ != family.class_name:
        raise ValueError(f"{name} has no score to explain. Load the checkpoint with `{family.class_name}`.")
    if processor is None:
        raise ValueError(f"{name} comes without `processor`. Pass the one that was saved with it.")
    return Grounder(model, processor, family).eval()


del PIPELINE_REGISTRY.supported_tasks[TASK]  # ALBEF's, which this class builds for ALBEF
PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=GrounderPipeline, pt_model=PipelineGrounder, type="multimodal"
)

__all__ = ["GrounderPipeline"]
