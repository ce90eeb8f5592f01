"""Every model class with a small configuration and inputs of its task, for tests that all of them must pass."""

import torch
from testing_utils import build_tiny_config
from torch import nn

from albef_amc import (
    AlbefConfig,
    AlbefForImageTextMatching,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForTextAssignment,
    AlbefForVisualEntailment,
    AlbefForVisualReasoning,
    AlbefModel,
)

MODELS = (
    AlbefModel,
    AlbefForImageTextMatching,
    AlbefForPreTraining,
    AlbefForImageTextRetrieval,
    AlbefForQuestionAnswering,
    AlbefForVisualEntailment,
    AlbefForVisualReasoning,
    AlbefForTextAssignment,
)
MODELS_OF_PAIRS = (AlbefForVisualReasoning, AlbefForTextAssignment)  # whose text layers read two images
MODELS_WITHOUT_HEATMAP = (AlbefModel, AlbefForTextAssignment)
NO_INDEX = -1


def build_config(model_class: type, **changes) -> AlbefConfig:
    """The tiny configuration as the class needs it."""
    num_labels = 3 if model_class is AlbefForVisualEntailment else 2
    changes = dict(images_per_text=2 if model_class in MODELS_OF_PAIRS else 1, num_labels=num_labels) | changes
    return build_tiny_config(**changes)


def build_model(model_class: type, seed: int = 0, **changes) -> nn.Module:
    """A tiny model with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return model_class(build_config(model_class, **changes)).eval()


def add_task_inputs(model: nn.Module, batch: dict) -> dict:
    """The batch, of two images at least, with labels and with all that `forward` would draw."""
    image_index, input_ids = batch["image_index"], batch["input_ids"]
    others = len(batch["pixel_values"]) - 1 - image_index
    count = torch.arange(len(input_ids), device=input_ids.device)
    if isinstance(model, (AlbefForPreTraining, AlbefForImageTextRetrieval)):
        texts = [int((image_index == image).nonzero()[0, 0]) for image in others]
        negatives = {"negative_image_index": others, "negative_text_index": image_index.new_tensor(texts)}
        if isinstance(model, AlbefForImageTextRetrieval):
            return batch | negatives
        return batch | negatives | mask_second_tokens(model.config, input_ids)
    if isinstance(model, AlbefForQuestionAnswering):
        return batch | build_answers(model.config, input_ids)
    if isinstance(model, AlbefForTextAssignment):
        negatives = torch.stack([others, torch.full_like(others, NO_INDEX)], dim=1)
        return batch | {"assignments": count % 2, "negative_image_index": negatives}
    if isinstance(model, AlbefForVisualReasoning):
        return batch | {"image_index": torch.stack([image_index, others], dim=1), "labels": count % 2}
    return batch | ({"labels": count % 3} if isinstance(model, AlbefForVisualEntailment) else {})


def mask_second_tokens(config: AlbefConfig, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Masked phrases whose second token is to be predicted."""
    labels, masked = torch.full_like(input_ids, -100), input_ids.clone()
    labels[:, 1] = input_ids[:, 1]
    masked[:, 1] = config.text_config.mask_token_id
    return {"mlm_input_ids": masked, "mlm_labels": labels}


def build_answers(config: AlbefConfig, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """An answer of one token, the second of the question, to every question."""
    answers = input_ids[:, :3].clone()
    answers[:, 0], answers[:, 2] = config.text_config.cls_token_id, config.text_config.sep_token_id
    return {"answer_ids": answers, "answer_mask": torch.ones_like(answers)}


def take_phrase(model: nn.Module, inputs: dict, phrase: int) -> dict:
    """Inputs of one phrase alone, without padding, with the images that it is read with."""
    length = int(inputs["attention_mask"][phrase].sum())
    images = torch.atleast_1d(inputs["image_index"][phrase])
    alone = {"input_ids": inputs["input_ids"][phrase][None, :length]}
    if isinstance(model, AlbefForTextAssignment):
        images = torch.cat([images, inputs["negative_image_index"][phrase, :1]])
        alone |= {
            "assignments": inputs["assignments"][phrase][None],
            "image_index": torch.tensor([0]),
            "negative_image_index": torch.tensor([[1, NO_INDEX]]),
        }
    return alone | {"pixel_values": inputs["pixel_values"][images]}


def run(model: nn.Module, batch: dict, **options):
    """Runs the model on the batch and what its task adds to it."""
    return model(**{**add_task_inputs(model, batch), **options})


def list_heatmap_options(model_class: type, name: str = "output_heatmap") -> dict[str, bool]:
    """Asks for a heatmap where the class has one."""
    return {} if model_class in MODELS_WITHOUT_HEATMAP else {name: True}


def list_tensors(outputs) -> dict[str, torch.Tensor]:
    """The tensors of an output, by name."""
    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def assert_same_outputs(outputs, expected, atol: float = 0.0) -> None:
    """Fails unless two outputs hold the same tensors, up to `atol`."""
    outputs, expected = list_tensors(outputs), list_tensors(expected)
    assert outputs.keys() == expected.keys()
    for name, value in outputs.items():
        torch.testing.assert_close(
            value, expected[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
