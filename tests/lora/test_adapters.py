"""LoRA: what is trained, how momentum weights follow, what is saved, and that it resumes, merges and grounds."""

import copy
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from testing_utils import (
    PROJECT_FOLDER,
    WORDS,
    build_batch,
    build_environment,
    build_photo,
    build_rows,
    build_tiny_arguments,
    build_tiny_trainer,
    copy_state,
    list_training_logs,
)

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor
from albef_amc.cli.main import main
from albef_amc.evaluation.checkpoints import hash_checkpoint, load_model_and_processor
from albef_amc.publishing.checkpoint_publishing import prepare_publication
from albef_amc.trainer import AmcTrainer, build_lora_config, merge_adapter
from albef_amc.trainer.training_recipes import load_recipe

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


def build_lora_trainer(base, folder, config=None, eval_rows=None, **changes) -> AmcTrainer:
    model = AlbefForPreTraining.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=8) if config is None else config
    return build_tiny_trainer(
        model, folder, eval_rows=eval_rows, peft_config=config, **{"learning_rate": 2e-2, **changes}
    )


def list_trained(trainer) -> list[str]:
    return [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]


def ground(model, batch) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = model.ground(**batch)
    return outputs.itm_logits, outputs.heatmap


def read_keys(file) -> list[str]:
    with safe_open(file, framework="pt") as content:
        return list(content.keys())


def test_default_targets_are_the_fusion_layers_and_the_matching_head(base, tmp_path):
    trainer = build_lora_trainer(base, tmp_path / "run")
    names = list_trained(trainer)
    assert isinstance(trainer.model, PeftModel)
    assert all("albef.text_model.layers." in name or "itm_head.modules_to_save" in name for name in names)
    layers = [name for name in names if "lora_A" in name]
    assert len(layers) == 2 * (8 + 2)  # two fusion layers: four projections of two attentions, two of the MLP
    assert {name.split("layers.")[1][0] for name in layers} == {"2", "3"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "fc1"], "modules_to_save": ["mlm_head", "text_projection"]},
        {"target_modules": r".*text_model.*q_proj"},
        {"target_modules": "all-linear", "exclude_modules": ["fc1"]},
        {"target_modules": ["q_proj"], "bias": "all"},
    ],
)
def test_targets_exclude_the_momentum_copies(base, tmp_path, config):
    trainer = build_lora_trainer(base, tmp_path / "run", LoraConfig(**config))
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


def test_momentum_weights_follow_the_merged_weights(base, tmp_path):
    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=["q_proj", "fc2", "qkv"], modules_to_save=["mlm_head", "vision_projection"]
    )
    trainer = build_lora_trainer(base, tmp_path / "run", config)
    for parameter in trainer.model.parameters():
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
    trainer.adapter.update_momentum()
    after = copy_state(model)
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6, msg=name)
    moved = "momentum_text_model.layers.3.attention.q_proj.weight"
    plain = 0.995 * before[moved] + 0.005 * online["albef.text_model.layers.3.attention.q_proj.base_layer.weight"]
    assert (after[moved] - plain).abs().max() > 1e-5
    assert all(torch.equal(after[name], value) for name, value in online.items())


@pytest.mark.slow
def test_momentum_updates_can_be_switched_off(base, tmp_path):
    trainer = build_lora_trainer(base, tmp_path / "run", use_momentum_updates=False)
    before = copy_state(trainer.model)
    trainer.train()
    after = trainer.model.state_dict()
    momentum = [name for name in before if "momentum_" in name]
    assert momentum and all(torch.equal(before[name], after[name]) for name in momentum)
    assert any(not torch.equal(before[name], after[name]) for name in list_trained(trainer))


@pytest.mark.slow
def test_checkpoints_hold_the_adapter_and_not_the_base(base, tmp_path):
    folder = tmp_path / "run"
    trainer = build_lora_trainer(base, folder, save_strategy="steps", save_steps=2)
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


@pytest.mark.slow
def test_a_copy_that_equals_its_frozen_original_is_neither_moved_nor_stored(checkpoint, tmp_path, tiny_model):
    trainer = build_lora_trainer(checkpoint, tmp_path / "run", mlm_weight=0.0)
    keys = trainer.adapter.collect_state().keys()
    moving = [key for key in keys if key.startswith("momentum_text_model")]
    assert len(moving) == 2 * (8 + 2)
    assert not [key for key in keys if key.startswith("momentum_vision")]
    before = copy_state(trainer.model)
    trainer.train()
    after = trainer.model.get_base_model().state_dict()
    name = "momentum_vision_model.layers.0.fc1.weight"
    assert torch.equal(before["base_model.model." + name], after[name])
    assert all(not torch.equal(before["base_model.model." + key], after[key]) for key in moving)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretraining", "matching"])
def test_resume_is_bit_identical(base, checkpoint, tmp_path, kind):
    start, weight = (base, 1.0) if kind == "pretraining" else (checkpoint, 0.0)

    def run(folder, resume=None, **changes):
        changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "mlm_weight": weight, **changes}
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1)
        trainer = build_lora_trainer(start, folder, config, **changes)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    torch.manual_seed(5)  # queues and masked-word head of a matching checkpoint begin at random
    whole = copy_state(run(tmp_path / "whole").model)
    torch.manual_seed(6)
    resumed = run(tmp_path / "other", resume=str(tmp_path / "whole" / "checkpoint-2")).model.state_dict()
    assert whole.keys() == resumed.keys()
    assert [name for name, tensor in whole.items() if not torch.equal(resumed[name], tensor)] == []
    over = run(tmp_path / "whole", resume=True)
    assert over.state.global_step == 4 and "train_loss" not in over.state.log_history[-1]
    assert [name for name, tensor in whole.items() if not torch.equal(over.model.state_dict()[name], tensor)] == []


@pytest.mark.slow
def test_merged_and_adapted_models_agree(base, tmp_path):
    trainer = build_lora_trainer(base, tmp_path / "run")
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


@pytest.fixture
def adapter(base, tmp_path):
    """Folder of a trained adapter."""
    trainer = build_lora_trainer(base, tmp_path / "adapter", max_steps=1)
    trainer.train()
    trainer.save_model()
    return tmp_path / "adapter"


@pytest.mark.slow
def test_weights_of_the_pre_training_class_are_skipped_in_grounding(base, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "dense"], modules_to_save=["itm_head", "text_projection"])
    trainer = build_lora_trainer(base, tmp_path / "dense", config)
    trainer.train()
    trainer.save_model()
    assert any("mlm_head" in key for key in read_keys(tmp_path / "dense" / "adapter_model.safetensors"))
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["itm_head", "mlm_head"])
    other = build_lora_trainer(base, tmp_path / "whole", config)
    other.train()
    other.save_model()
    for run, folder in ((trainer, "dense"), (other, "whole")):
        batch = build_batch(run.model.config)
        loaded, _ = load_model_and_processor(AlbefForImageTextMatching, tmp_path / folder)
        for ours, theirs in zip(ground(loaded, batch), ground(run.model, batch), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        whole, _ = load_model_and_processor(AlbefForPreTraining, tmp_path / folder)
        head = run.model.get_base_model().mlm_head
        states = torch.randn(3, 32)
        torch.testing.assert_close(whole.mlm_head(states), head(states), rtol=0, atol=1e-5)
        assert whole.mlm_head.decoder.weight is whole.albef.text_model.word_embeddings.weight


@pytest.mark.slow
def test_a_masked_word_head_trained_in_full_keeps_the_frozen_embeddings(base, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["mlm_head"])
    trainer = build_lora_trainer(base, tmp_path / "run", config)
    before = copy_state(trainer.model)
    trainer.train()
    model = trainer.model.get_base_model()
    head = model.mlm_head.modules_to_save["default"]
    assert head.decoder.weight is model.albef.text_model.word_embeddings.weight
    prefix = "base_model.model."
    embeddings = "albef.text_model.word_embeddings.weight"
    assert torch.equal(before[prefix + embeddings], model.state_dict()[embeddings])
    assert not torch.equal(before[prefix + "mlm_head.original_module.dense.weight"], head.dense.weight)
    pairs = {id(own): online for own, online, _ in trainer.adapter.pairs}
    assert pairs[id(model.momentum_mlm_head.dense.weight)] is head.dense.weight


@pytest.mark.slow
def test_an_adapter_keeps_the_image_size_it_was_trained_at(base, tmp_path):
    model, processor = load_model_and_processor(AlbefForPreTraining, base, image_size=48)
    arguments = build_tiny_arguments(tmp_path / "run", learning_rate=2e-2)
    trainer = AmcTrainer(model, arguments, processor, build_rows(), peft_config=build_lora_config(model.config))
    trainer.train()
    trainer.save_model()
    loaded, stored = load_model_and_processor(AlbefForImageTextMatching, tmp_path / "run")
    assert loaded.config.vision_config.image_height_width == (48, 48)
    assert stored.image_processor.size.height == 48
    batch = build_batch(loaded.config)
    for ours, theirs in zip(ground(loaded, batch), ground(trainer.model, batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_commands_take_an_adapter(adapter, tmp_path, capsys):
    build_photo().save(tmp_path / "photo.png")
    phrase = f"the {WORDS[2]} dog"
    merged = tmp_path / "merged"
    assert main(["merge", str(adapter), "--output-dir", str(merged), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_dir"] == str(merged)
    assert main(["merge", str(adapter), "--output-dir", str(merged)]) == 2
    assert "holds a checkpoint" in capsys.readouterr().err
    points = []
    for checkpoint in (adapter, merged):
        output = tmp_path / checkpoint.name / "pictures"
        words = ["ground", str(tmp_path / "photo.png"), "-p", phrase, "-c", str(checkpoint), "-o", str(output)]
        assert main([*words, "--device", "cpu"]) == 0
        points.append(json.loads((output / "grounding.json").read_text())[0]["phrases"][0]["point"])
    assert points[0] == points[1]
    assert AlbefProcessor.from_pretrained(merged).tokenizer.vocab_size == 24
    capsys.readouterr()
    small = ["num_train_scenes=2", "num_validation_scenes=1", "num_test_scenes=2", f"cache_dir={tmp_path / 'cache'}"]
    options = [word for option in small for word in ("--data", option)]
    assert main(["evaluate", str(adapter), "synthetic", *options, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_phrases"] > 0


@pytest.mark.slow
def test_merging_takes_over_the_licence_of_the_card(adapter, tmp_path):
    card = (adapter / "README.md").read_text()
    (adapter / "README.md").write_text(card.replace("license: apache-2.0", "license: mit"))
    merged = (merge_adapter(adapter, tmp_path / "merged") / "README.md").read_text()
    assert "license: mit" in merged and "Rice-UVA" in merged


def edit_adapter(adapter, **changes) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.slow
def test_a_base_that_is_not_there_is_named(adapter, base, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    base.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=rf"was trained on {base}, which cannot be found"):
        load_model_and_processor(AlbefForImageTextMatching, adapter)
    merged = merge_adapter(adapter, tmp_path / "merged", base=tmp_path / "moved")
    assert (merged / "model.safetensors").is_file()
    edit_adapter(adapter, base_model_name_or_path="your-name/nothing")
    with pytest.raises(FileNotFoundError, match="your-name/nothing, which cannot be found"):
        load_model_and_processor(AlbefForImageTextMatching, adapter)
    edit_adapter(adapter, base_model_name_or_path=None)
    with pytest.raises(ValueError, match="does not name the checkpoint"):
        load_model_and_processor(AlbefForImageTextMatching, adapter)
    edit_adapter(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(ValueError, match="is an adapter itself"):
        load_model_and_processor(AlbefForImageTextMatching, adapter)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"r": 2}, ValueError, "does not fit this model"),
        ({"target_modules": ["fc1"]}, ValueError, "does not fit this model"),
        ({"target_modules": ["no_such"]}, ValueError, "Linear layers of this model: .*q_proj"),
        ({"use_dora": True}, ValueError, "`peft_config.use_dora` is not supported"),
        ({"peft_type": "IA3"}, ValueError, "of the type 'IA3' .`peft_type`., and only LORA can be read here"),
        ({"peft_type": "XYZ"}, ValueError, "of the type 'XYZ' .`peft_type`., and only LORA can be read here"),
        ({"peft_type": ["LORA"]}, ValueError, "of the type .'LORA'. .`peft_type`."),
        ({"peft_type": None}, ValueError, "of the type None .`peft_type`."),
        ({"r": 10**9}, ValueError, "has the rank 1000000000, but its weights have 4"),
        ({"r": -1}, ValueError, "rank -1|LoRA configuration"),
        ({"rank_pattern": {"fc1": 10**9}}, ValueError, "has the rank 1000000000, but its weights have 4"),
        ({"target_modules": 5}, (TypeError, ValueError), "target_modules|LoRA|int"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter, tmp_path, changes, error, words):
    edit_adapter(adapter, **changes)
    with pytest.raises(error, match=words):
        merge_adapter(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_only_adapters_are_merged(base, tmp_path):
    with pytest.raises(ValueError, match="is not an adapter"):
        merge_adapter(base, tmp_path / "merged")
    with pytest.raises(FileNotFoundError, match="No checkpoint folder"):
        merge_adapter(tmp_path / "none" / "at" / "all", tmp_path / "merged")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_file_is_named(adapter, tmp_path, name):
    content = (adapter / name).read_bytes()
    (adapter / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{name}.* (is not valid JSON|is damaged or was cut off)"):
        merge_adapter(adapter, tmp_path / "merged")


@pytest.mark.slow
def test_resume_refuses_another_run(base, adapter, tiny_processor, tmp_path):
    run = tmp_path / "run"
    build_lora_trainer(base, run, save_strategy="steps", save_steps=1, max_steps=1).train()
    checkpoint = str(run / "checkpoint-1")
    other = build_lora_trainer(base, tmp_path / "other", LoraConfig(r=4, lora_alpha=16))
    with pytest.raises(ValueError, match="`peft_config.lora_alpha` is 16"):
        other.train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="Give a `checkpoint-N` folder"):
        other.train(resume_from_checkpoint=str(adapter))
    plain = AmcTrainer(
        AlbefForPreTraining.from_pretrained(base),
        build_tiny_arguments(tmp_path / "plain"),
        tiny_processor,
        build_rows(),
    )
    with pytest.raises(ValueError, match="is of a LoRA run"):
        plain.train(resume_from_checkpoint=checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (LoraConfig(use_dora=True), {}, "`peft_config.use_dora` is not supported"),
        (LoraConfig(init_lora_weights="pissa"), {}, "got 'pissa': others change the base"),
        (LoraConfig(target_modules=["query"]), {}, "Linear layers of this model: .*q_proj"),
        (LoraConfig(target_modules=["decoder"]), {}, "mlm_head.decoder, whose weights are tied"),
        (LoraConfig(), {"freeze": ["vision"]}, "exclude each other"),
        (LoraConfig(), {"amc_weight": 0.0, "itm_weight": 0.0, "mlm_weight": 0.0}, "no objective with a weight"),
    ],
)
def test_what_lora_cannot_do_is_refused(base, tmp_path, config, changes, words):
    with pytest.raises(ValueError, match=words):
        build_lora_trainer(base, tmp_path / "run", config, **changes).train()


@pytest.mark.slow
def test_bases_that_lora_refuses(base, checkpoint, adapter, tiny_processor, tmp_path):
    with pytest.raises(ValueError, match="has no masked-word head"):
        build_lora_trainer(checkpoint, tmp_path / "run")
    merged, _ = load_model_and_processor(AlbefForPreTraining, adapter)
    with pytest.raises(ValueError, match="is an adapter. Merge it first"):
        AmcTrainer(merged, build_tiny_arguments(tmp_path), tiny_processor, build_rows(), peft_config=LoraConfig())
    model = build_lora_trainer(base, tmp_path / "run").model
    with pytest.raises(TypeError, match="has LoRA layers already"):
        AmcTrainer(model, build_tiny_arguments(tmp_path), tiny_processor, build_rows())
    with pytest.raises(TypeError, match="must be a `peft.LoraConfig`, got dict"):
        build_lora_trainer(base, tmp_path / "run", {"r": 8})


def test_a_model_without_a_checkpoint_is_warned_of(tiny_pretraining_model, tiny_processor, tmp_path, caplog):
    from transformers.utils import logging

    tiny_pretraining_model.name_or_path = ""
    logging.enable_propagation()
    AmcTrainer(
        tiny_pretraining_model, build_tiny_arguments(tmp_path), tiny_processor, build_rows(), peft_config=LoraConfig()
    )
    logging.disable_propagation()
    assert "has no base to name" in caplog.text


@pytest.mark.slow
def test_the_best_checkpoint_is_loaded_at_the_end(base, tmp_path):
    trainer = build_lora_trainer(
        base,
        tmp_path / "run",
        eval_rows=build_rows(2),
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="pointing_game_accuracy",
    )
    trainer.train()
    best, _ = load_model_and_processor(AlbefForImageTextMatching, trainer.state.best_model_checkpoint)
    batch = build_batch(best.config)
    for ours, theirs in zip(ground(best, batch), ground(trainer.model, batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"bf16": True}, {"gradient_checkpointing": True}])
def test_bfloat16_and_gradient_checkpointing(base, tmp_path, changes):
    logs, gradients = [], []
    for name, settings in (("plain", {}), ("changed", changes)):
        trainer = build_lora_trainer(base, tmp_path / name, **settings)
        trainer.train()
        logs.append([entry["loss"] for entry in list_training_logs(trainer)])
        gradients.append({name: value for name, value in copy_state(trainer.model).items() if "lora_B" in name})
        assert all(own.dtype == torch.float32 for own, _, _ in trainer.adapter.pairs)
    assert logs[0] == pytest.approx(logs[1], rel=1e-4 if "bf16" not in changes else 3e-2)
    assert all(value.abs().max() > 0 for value in gradients[1].values())
    if "bf16" not in changes:
        for name, value in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], value, rtol=0, atol=1e-4, msg=name)


@pytest.mark.slow
def test_the_documented_run_runs(base, tmp_path, monkeypatch):
    text = (PROJECT_FOLDER / "docs" / "lora.md").read_text()
    first, second = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    smaller = {
        'split="train"': f'split="train", num_train_scenes=4, num_validation_scenes=2, num_test_scenes=2, '
        f"cache_dir={str(tmp_path)!r}",
        "max_steps=100": "max_steps=1, use_cpu=True, max_length=24, per_device_train_batch_size=2",
        '"checkpoints/albef"': repr(str(base)),
    }
    for written, replacement in smaller.items():
        assert written in first
        first = first.replace(written, replacement)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(first, names)
    exec(second, names)
    assert names["model"].name_or_path == "runs/lora"


def test_layers_start_the_same_with_the_same_seed(base, tmp_path):
    starts = []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)  # the global generator has no part in it
        trainer = build_lora_trainer(base, tmp_path / "run", seed=seed)
        starts.append({name: value for name, value in copy_state(trainer.model).items() if "lora_A" in name})
    for name, value in starts[0].items():
        assert torch.equal(value, starts[1][name]) and not torch.equal(value, starts[2][name])


TWO_PROCESSES = """
import sys
import torch
from accelerate.utils import gather_object
from peft import LoraConfig
from torch.nn.parallel import DistributedDataParallel
from albef_amc import AlbefForPreTraining
from testing_utils import build_tiny_trainer, end_process

model, config = AlbefForPreTraining.from_pretrained(sys.argv[1]), LoraConfig(r=4, lora_dropout=0.1)
trainer = build_tiny_trainer(model, sys.argv[2], peft_config=config, learning_rate=2e-2)
before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
trainer.train()
assert type(trainer.model_wrapped) is DistributedDataParallel, type(trainer.model_wrapped)
assert trainer.args.world_size == 2
after = trainer.model.state_dict()
sums = {name: value.double().sum().item() for name, value in after.items()}
for other in gather_object([sums]):
    assert other == sums, [name for name in sums if other[name] != sums[name]]
trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
changed = {name for name in before if not torch.equal(before[name], after[name])}
assert trained <= changed, trained - changed
assert not [name for name in changed - trained if "momentum_" not in name and "_queue" not in name]
assert any("momentum_text_model.layers.3.fc1" in name for name in changed)
trainer.save_model()
end_process()
"""


@pytest.mark.slow
def test_two_processes_train_one_adapter(base, tmp_path):
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(tmp_path / "run.py"), str(base), str(tmp_path / "adapter")]
    done = subprocess.run(command, capture_output=True, text=True, env=build_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    model, _ = load_model_and_processor(AlbefForImageTextMatching, tmp_path / "adapter")
    assert torch.isfinite(ground(model, build_batch(model.config))[1]).all()


@pytest.mark.slow
def test_without_peft_the_error_says_how_to_install_it(adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    for words in (["merge", str(adapter)], ["train", "coco_phrases", "--set", "peft.r=8"]):
        assert main([*words, "--output-dir", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "pip install '.[peft]'" in error and "[train]" not in error


RECIPE = """
model: {{checkpoint: {base}}}
train_data: {{name: synthetic, split: train, num_train_scenes: 4, num_validation_scenes: 2, num_test_scenes: 2,
  cache_dir: {cache}}}
peft: {{r: 2, lora_alpha: 4}}
training: {{max_steps: 1, per_device_train_batch_size: 2, use_cpu: true, max_length: 24, disable_tqdm: true}}
"""


@pytest.fixture
def recipe(tmp_path, base):
    """A recipe of one step with LoRA."""
    (tmp_path / "lora.yaml").write_text(RECIPE.format(base=base, cache=tmp_path / "cache"))
    return str(tmp_path / "lora.yaml")


@pytest.mark.slow
def test_a_recipe_trains_an_adapter(recipe, base, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", recipe, "--output-dir", str(run), "--set", "peft.lora_dropout=0.1"]
    assert main(words) == 0
    stored = json.loads((run / "adapter_config.json").read_text())
    assert (stored["r"], stored["lora_alpha"], stored["lora_dropout"]) == (2, 4, 0.1)
    assert stored["base_model_name_or_path"] == str(base) and stored["modules_to_save"] == ["itm_head"]
    capsys.readouterr()
    assert main(words) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("peft.lora_alfa=2", "peft: unknown key `lora_alfa`. Did you mean `lora_alpha`?"),
        ("peft.use_dora=true", "`peft_config.use_dora` is not supported"),
        ("peft=3", "`peft` is a section"),
        ("freeze=[visoin]", "exclude each other"),
        ("freeze=vision", "Write [vision]"),
    ],
)
def test_bad_settings_are_one_line(recipe, tmp_path, capsys, setting, words):
    assert main(["train", recipe, "--output-dir", str(tmp_path / "run"), "--set", setting]) == 2
    streams = capsys.readouterr()
    assert words in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("adapter*"))


def test_lora_on_random_weights_is_refused(recipe, tmp_path):
    words = ["model.checkpoint=null", "model.config=demo", "model.vocabulary=data"]
    with pytest.raises(ValueError, match="`peft` needs `model.checkpoint`"):
        load_recipe(recipe, words)
    with pytest.raises(ValueError, match="section `peft` must hold keys"):
        (tmp_path / "list.yaml").write_text((tmp_path / "lora.yaml").read_text().replace("{r: 2, lora_alpha: 4}", "8"))
        load_recipe(tmp_path / "list.yaml")


@pytest.mark.slow
def test_the_best_model_of_a_lora_run_is_an_adapter(base, tmp_path):
    options = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "keep_best": True}
    trainer = build_lora_trainer(base, tmp_path / "run", eval_rows=build_rows(2), **options)
    trainer.train()
    best = tmp_path / "run" / "best-eval"
    assert (best / "adapter_model.safetensors").is_file() and not (best / "model.safetensors").exists()
    loaded, _ = load_model_and_processor(AlbefForImageTextMatching, best)
    batch = build_batch(trainer.model.config)
    for ours, theirs in zip(ground(loaded, batch), ground(trainer.model, batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_adapter_is_published_with_the_numbers_of_its_run_and_not_with_those_of_another(base, tmp_path):
    options = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = build_lora_trainer(base, tmp_path / "run", eval_rows=build_rows(2), **options)
    trainer.train()
    trainer.save_model()
    result = json.loads((tmp_path / "run" / "metrics.json").read_text())["eval"]
    assert result["weights_sha256"] == hash_checkpoint(tmp_path / "run") != hash_checkpoint(base)
    publication = prepare_publication(tmp_path / "run", tmp_path / "publication", "your-name/merged")
    assert f"{100 * result['pointing_game_accuracy']:.2f}" in (publication.folder / "README.md").read_text()

    refused = []
    for number, change in enumerate(("adapter", "scale", "base")):
        folder = tmp_path / f"changed-{number}"
        shutil.copytree(tmp_path / "run", folder)
        if change == "scale":
            edit_adapter(folder, lora_alpha=16)
        else:
            file = base / "model.safetensors" if change == "base" else folder / "adapter_model.safetensors"
            tensors = load_file(file)
            name = "itm_head.bias" if change == "base" else sorted(tensors)[0]
            save_file({**tensors, name: tensors[name] + 1}, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match="was measured on other weights"):
            prepare_publication(folder, tmp_path / f"refused-{number}", "your-name/merged")
        refused.append(hash_checkpoint(folder))
    assert len(set(refused)) == 3


@pytest.mark.slow
def test_an_adapter_is_published_as_the_complete_matching_model(adapter, tmp_path):
    publication = prepare_publication(adapter, tmp_path / "publication", "your-name/merged")
    assert {"model.safetensors", "config.json", "README.md", "modeling_albef.py"} <= publication.list_files().keys()
    published = AlbefForImageTextMatching.from_pretrained(publication.folder)
    loaded, _ = load_model_and_processor(AlbefForImageTextMatching, adapter)
    expected = loaded.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in published.state_dict().items())
