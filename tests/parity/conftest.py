"""The small published pre-training checkpoint as a model, for the files that compare with it."""

import pytest
import torch
from testing_utils import Golden

from albef_amc import AlbefForPreTraining
from albef_amc.conversion.original_checkpoints import infer_config, rename_original_key


@pytest.fixture
def model() -> AlbefForPreTraining:
    golden = Golden("tiny_pretrain")
    original = torch.load(golden.folder / "checkpoint.pth", weights_only=True)["model"]
    config, _ = infer_config(
        original,
        {
            "vision_config.num_attention_heads": 4,
            "text_config.num_attention_heads": 4,
            "explanation_layer": golden.config["gradcam_text_layer"],
            "explanation_block": golden.config["gradcam_vision_block_itc"],
        },
    )
    model = AlbefForPreTraining(config).eval()
    renamed = {rename_original_key(name): value for name, value in original.items()}
    renamed["albef.temperature"] = original["temp"].reshape(1)
    report = model.load_state_dict({name: value for name, value in renamed.items() if name}, strict=False)
    assert report.missing_keys == ["image_queue_ids", "text_queue_ids"] and not report.unexpected_keys
    return model
