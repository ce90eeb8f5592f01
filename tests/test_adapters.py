"""LoRA: what is trained, how momentum weights follow, what is saved, and that it resumes, merges and grounds."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from test_amc_trainer import build_arguments, copy_state, training_logs
from testing_utils import build_batch, build_rows

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.cli.main import main
from albef_amc.trainer import AmcTrainer, build_lora_config, merge_adapter
from albef_amc.trainer.checkpoints import load_model_and_processor

STATE_FILE = "pretraining_state.safetensors"


@pytest.fixture
def base(tmp_path, tiny_pretraining_model, tiny_processor):
    """Folder of a pre-training checkpoint whose momentum copies are not the online weights."""
    torch.manual_seed(1)
    for own, _ in tiny_pretraining_model.iterate_momentum_pairs():
        own.data.add_(0.01 * torch.randn_like(own))
    tiny_pretraining_model.save_pretrained(tmp_path / "base")
    tiny_processor.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def build_lora_trainer(base, processor, folder, config=None, eval_rows=None, **changes) -> AmcTrainer:
    model = AlbefForPreTraining.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=8) if config is None else config
    torch.manual_seed(0)
    arguments = build_arguments(folder, **{"learning_rate": 2e-2, **changes})
    return AmcTrainer(
        model, arguments, processor, train_dataset=build_rows(), eval_dataset=eval_rows, peft_config=config
    )


def list_trained(trainer) -> list[str]:
    return [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]


def ground(model, batch) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = model.ground(**batch)
    return outputs.itm_logits, outputs.heatmap


def read_keys(file) -> list[str]:
    with safe_open(file, framework="pt") as content:
        return list(content.keys())


def test_default_targets_are_the_fusion_layers_and_the_matching_head(base, tiny_processor, tmp_path):
    trainer = build_lora_trainer(base, tiny_processor, tmp_path / "run")
    names = list_trained(trainer)
    assert isinstance(trainer.model, PeftModel)
    assert all("albef.text_model.layers." in name or "itm_head.modules_to_save" in name for name in names)
    layers = [name for name in names if "lora_A" in name]
    assert len(layers) == 2 * (8 + 2)  # two fusion layers: four projections of two attentions, two of the MLP
    assert {name.split("layers.")[1][0] for name in layers} == {"2", "3"}


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "fc1"], "modules_to_save": ["mlm_head", "text_projection"]},
        {"target_modules": r".*text_model.*q_proj"},
        {"target_modules": "all-linear", "exclude_modules": ["fc1"]},
        {"target_modules": ["q_proj"], "bias": "all"},
    ],
)
def test_targets_leave_the_momentum_copies_alone(base, tiny_processor, tmp_path, config):
    trainer = build_lora_trainer(base, tiny_processor, tmp_path / "run", LoraConfig(**config))
    names = [name for name, _ in trainer.model.named_parameters()]
    model = trainer.model.get_base_model()
    plain = [name for name, _ in AlbefForPreTraining.from_pretrained(base).named_parameters()]
    momentum = [name for name, _ in model.named_parameters() if name.startswith("momentum_")]
    assert momentum == [name for name in plain if name.startswith("momentum_")]
    assert any("lora_A" in name for name in names)
    assert not [name for name in list_trained(trainer) if "momentum_" in name]
    assert not [name for name in names if "fc1.lora" in name and config.get("exclude_modules")]
    trainer.train()
    trainer.save_model()
    assert not [name for name in read_keys(tmp_path / "run" / "adapter_model.safetensors") if "momentum_" in name]


def test_momentum_weights_follow_the_merged_weights(base, tiny_processor, tmp_path):
    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=["q_proj", "fc2", "qkv"], modules_to_save=["mlm_head", "vision_projection"]
    )
    trainer = build_lora_trainer(base, tiny_processor, tmp_path / "run", config)
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    model = trainer.model.get_base_model()
    online = {name: value for name, value in copy_state(model).items() if not name.startswith("momentum_")}
    before = {name: value for name, value in copy_state(model).items() if name.startswith("momentum_")}
    merged = copy.deepcopy(trainer.model).merge_and_unload()
    expected = {
        name: 0.995 * before[name] + 0.005 * value.detach()
        for (name, _), (_, value) in zip(
            (entry for entry in merged.named_parameters() if entry[0].startswith("momentum_")),
            merged.iterate_momentum_pairs(),
            strict=True,
        )
    }
    assert model.config.momentum == 0.995
    trainer.move_momentum(model)
    after = copy_state(model)
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6, msg=name)
    moved = "momentum_text_model.layers.3.attention.q_proj.weight"
    plain = 0.995 * before[moved] + 0.005 * online["albef.text_model.layers.3.attention.q_proj.base_layer.weight"]
    assert (after[moved] - plain).abs().max() > 1e-5
    assert all(torch.equal(after[name], value) for name, value in online.items())


def test_momentum_updates_can_be_switched_off(base, tiny_processor, tmp_path):
    trainer = build_lora_trainer(base, tiny_processor, tmp_path / "run", use_momentum_updates=False)
    before = copy_state(trainer.model)
    trainer.train()
    after = trainer.model.state_dict()
    momentum = [name for name in before if "momentum_" in name]
    assert momentum and all(torch.equal(before[name], after[name]) for name in momentum)
    assert any(not torch.equal(before[name], after[name]) for name in list_trained(trainer))


def test_checkpoints_hold_the_adapter_and_not_the_base(base, tiny_processor, tmp_path):
    folder = tmp_path / "run"
    trainer = build_lora_trainer(base, tiny_processor, folder, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    names = {file.name for file in folder.iterdir() if file.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json", "README.md"} <= names
    assert not {"model.safetensors", "config.json", STATE_FILE} & names
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert all("lora_" in key or "itm_head" in key for key in read_keys(folder / "adapter_model.safetensors"))
    assert (folder / "README.md").read_text().count("albef-amc") > 1
    checkpoint = folder / "checkpoint-2"
    keys = read_keys(checkpoint / STATE_FILE)
    assert {"image_queue", "text_queue_ids", "text_queue_pointer"} <= set(keys)
    assert not [key for key in keys if key.startswith("albef.")]
    assert not (checkpoint / "model.safetensors").exists()


def test_a_copy_that_equals_its_frozen_original_is_neither_moved_nor_stored(
    checkpoint, tiny_processor, tmp_path, tiny_model
):
    trainer = build_lora_trainer(checkpoint, tiny_processor, tmp_path / "run", mlm_weight=0.0)
    keys = trainer.lora_momentum.collect_state().keys()
    moving = [key for key in keys if key.startswith("momentum_text_model")]
    assert len(moving) == 2 * (8 + 2)
    assert not [key for key in keys if key.startswith("momentum_vision")]
    before = copy_state(trainer.model)
    trainer.train()
    after = trainer.model.get_base_model().state_dict()
    name = "momentum_vision_model.layers.0.fc1.weight"
    assert torch.equal(before["base_model.model." + name], after[name])
    assert all(not torch.equal(before["base_model.model." + key], after[key]) for key in moving)


@pytest.mark.parametrize("kind", ["pretraining", "matching"])
def test_resume_is_bit_identical(base, checkpoint, tiny_processor, tmp_path, kind):
    start, weight = (base, 1.0) if kind == "pretraining" else (checkpoint, 0.0)

    def run(folder, resume=None, **changes):
        changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "mlm_weight": weight, **changes}
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1)
        trainer = build_lora_trainer(start, tiny_processor, folder, config, **changes)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    if kind == "matching":  # queues of a matching checkpoint begin with random features
        torch.manual_seed(5)
    whole = copy_state(run(tmp_path / "whole").model)
    torch.manual_seed(6)
    resumed = run(tmp_path / "other", resume=str(tmp_path / "whole" / "checkpoint-2")).model.state_dict()
    assert whole.keys() == resumed.keys()
    assert [name for name, tensor in whole.items() if not torch.equal(resumed[name], tensor)] == []


def test_merged_and_adapted_models_agree(base, tiny_processor, tmp_path):
    trainer = build_lora_trainer(base, tiny_processor, tmp_path / "run")
    trainer.train()
    trainer.save_model()
    batch = build_batch(trainer.model.config)
    expected = ground(trainer.model, batch)
    folder = merge_adapter(tmp_path / "run", tmp_path / "merged")
    merged = AlbefForImageTextMatching.from_pretrained(folder)
    loaded, _ = load_model_and_processor(AlbefForImageTextMatching, tmp_path / "run")
    integrated = AlbefForImageTextMatching.from_pretrained(tmp_path / "run")
    for model in (merged, loaded, integrated):
        for ours, theirs in zip(ground(model, batch), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    plain = ground(AlbefForImageTextMatching.from_pretrained(base), batch)
    assert (plain[0] - expected[0]).abs().max() > 1e-3
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert type(loaded) is AlbefForImageTextMatching and not hasattr(loaded, "peft_config")
    assert str(base) in (folder / "README.md").read_text()
