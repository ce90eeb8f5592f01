"""The published optimization: learning rates digit by digit, parameter groups by name, one AdamW step."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from testing_utils import Golden

from albef_amc import AlbefImageProcessor, AlbefProcessor
from albef_amc.conversion.original_checkpoints import rename_original_key
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer import AmcConfig, AmcTrainer, AttentionMaskConsistencyLoss
from albef_amc.trainer.schedules import AlbefCosineScheduler, build_albef_cosine

STEP = Golden("tiny_pretrain_step")
OPTIMIZER = json.loads((STEP.folder / "optimizer.json").read_text())


@pytest.fixture
def trainer(model, tmp_path) -> AmcTrainer:
    arguments = AmcConfig(output_dir=str(tmp_path), use_cpu=True, dataloader_pin_memory=False, report_to="none")
    text, (height, width) = model.config.text_config, model.config.vision_config.image_height_width
    # the tokens of BERT, which the published weights have: [UNK], [CLS], [SEP] and [MASK] are 100 to 103
    tokens = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = build_tokenizer(tokens, model_max_length=text.max_position_embeddings)
    processor = AlbefProcessor(AlbefImageProcessor(size={"height": height, "width": width}), tokenizer)
    return AmcTrainer(model, arguments, processor)


@pytest.mark.parametrize("published", OPTIMIZER["schedules"], ids=lambda entry: f"{entry['config']['epochs']}-epochs")
def test_learning_rates_are_those_of_the_published_schedule_to_the_last_digit(published):
    config = published["config"]
    schedule = build_albef_cosine(
        SimpleNamespace(
            num_train_epochs=config["epochs"],
            min_learning_rate=config["min_lr"],
            warmup_learning_rate=config["warmup_lr"],
            warmup_intervals=config["warmup_epochs"],
            warmup_interval_steps=100,
        )
    )
    rates = [schedule.compute_learning_rate(config["lr"], t) for t in range(len(published["lr_at_t"]))]
    assert rates == published["lr_at_t"]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=config["lr"])
    scheduler = AlbefCosineScheduler(optimizer, schedule, steps_per_epoch=1000)
    assert scheduler.get_last_lr() == [published["lr_before_first_step"]]
    assert optimizer.param_groups[0]["lr"] == published["lr_before_first_step"]


def test_parameter_groups_are_the_published_ones(trainer):
    optimizer = trainer.create_optimizer()
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups = {
        group["weight_decay"]: {names[parameter] for parameter in group["params"]} for group in optimizer.param_groups
    }
    assert groups == {
        group["weight_decay"]: {rename_original_key(name) for name in group["names"]} for group in OPTIMIZER["groups"]
    }
    for group, published in zip(optimizer.param_groups, reversed(OPTIMIZER["groups"]), strict=True):
        assert [group["lr"], list(group["betas"]), group["eps"]] == [
            published["lr"], published["betas"], published["eps"],
        ]  # fmt: skip


def test_one_step_moves_the_weights_as_published(trainer):
    """To the rounding of the largest weight in float32; a step with the wrong sign is off by a hundred times that."""
    model = trainer.model
    optimizer = trainer.create_optimizer()
    inputs = STEP.inputs
    model.clamp_temperature()
    model.update_momentum()
    names = ("pixel_values", "input_ids", "attention_mask", "mlm_input_ids", "mlm_labels")
    outputs = model(
        **{name: inputs[name] for name in names},
        negative_image_index=inputs["negative_image_for_text"],
        negative_text_index=inputs["negative_text_for_image"],
        distillation_alpha=STEP.config["alpha"],
        distillation_axis="sequence",
        output_heatmap=True,
        heatmap_denominator="padded",
    )
    terms = AttentionMaskConsistencyLoss(mean_reduction="batch")(
        outputs.normalized_heatmap, inputs["region_mask"], inputs["gt_mask_indicator"][:, 0].bool()
    )
    total = outputs.loss + terms["amc_loss"]
    STEP.check("loss_total", total)
    total.backward()
    optimizer.step()
    parameters = dict(model.named_parameters())
    moved = load_file(STEP.folder / "after_adamw_step.safetensors")
    assert len(moved) == 9
    for name, expected in moved.items():
        difference = (parameters[rename_original_key(name)].detach().reshape(expected.shape) - expected).abs().max()
        assert difference <= torch.finfo(torch.float32).eps * expected.abs().max(), name
