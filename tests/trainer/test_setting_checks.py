# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Every setting is checked for type and range where it enters: in Python, in recipes, on the command line."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from testing_utils import build_rows, build_tiny_config, build_tiny_processor
from transformers import HfArgumentParser
from transformers.utils.import_utils import enable_tf32

from albef_amc import AlbefConfig
from albef_amc.cli.main import main
from albef_amc.configuration.setting_types import list_simple_fields
from albef_amc.evaluation.grounding_evaluation import predict_points
from albef_amc.evaluation.grounding_metrics import ProposalRanking
from albef_amc.evaluation.protocols import load_evaluation_recipe
from albef_amc.lora.adapters import check_lora_options
from albef_amc.trainer import AmcConfig, AmcTrainer, DataCollatorForGrounding, GroundingAugmentation
from albef_amc.trainer.data.mixtures import Mixture
from albef_amc.trainer.objectives.weighted_objectives import build_objective
from albef_amc.trainer.setting_checks import TRAINING_RANGES
from albef_amc.trainer.training_recipes import build_arguments, load_recipe

NOT_FINITE = (math.nan, math.inf, -math.inf)
SWITCHES = [name for name, kinds in list_simple_fields(AmcConfig).items() if kinds == (bool,)]
NUMBERS = [name for name, kinds in list_simple_fields(AmcConfig).items() if {int, float} & set(kinds)]


def build(tmp_path, **values) -> AmcConfig:
    return AmcConfig(**{"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, **values})


def test_the_table_covers_every_number_that_decides_what_is_learned():
    uncovered = set(NUMBERS) - set(TRAINING_RANGES)
    assert uncovered == {"max_steps", "label_smoothing_factor"}


@pytest.mark.parametrize("value", NOT_FINITE)
def test_no_number_is_nan_or_infinite(tmp_path, value):
    for name in NUMBERS:
        with pytest.raises((TypeError, ValueError), match=f"`{name}"):
            build(tmp_path, **{name: value})


@pytest.mark.parametrize("value", [True, "1e-4", "fast", [1], {"value": 1}])
def test_no_number_is_text_or_a_switch(tmp_path, value):
    for name in NUMBERS:
        with pytest.raises(TypeError, match=f"`{name}` must be a"):
            build(tmp_path, **{name: value})


@pytest.mark.parametrize("value", ["false", "no", 0, 1.0, None, []])
def test_no_switch_is_text_or_a_number(tmp_path, value):
    for name in SWITCHES:
        with pytest.raises(TypeError, match=f"`{name}` must be true or false"):
            build(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("amc_weight", -0.1),
        ("itm_weight", -1),
        ("mean_margin", -0.1),
        ("max_weight", -1),
        ("weight_decay", -0.02),
        ("learning_rate", 0),
        ("learning_rate", -1e-5),
        ("min_learning_rate", -1e-6),
        ("distillation_alpha", 5),
        ("distillation_alpha", -0.1),
        ("mlm_probability", 1.5),
        ("adam_beta1", 1),
        ("adam_beta2", 1.1),
        ("adam_beta1", -0.1),
        ("adam_epsilon", 0),
        ("max_grad_norm", -1),
        ("warmup_steps", -5),
        ("num_train_epochs", 0),
        ("num_train_epochs", -3),
        ("max_steps", 0),
        ("max_steps", -2),
        ("per_device_train_batch_size", 0),
        ("per_device_train_batch_size", -8),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("phrases_per_image", 0),
        ("max_length", 1),
        ("mask_size", 0),
        ("mask_size", 10**9),
        ("max_skipped_steps", 0),
        ("shuffle_buffer", -1),
        ("warmup_intervals", -1),
        ("warmup_interval_steps", 0),
        ("num_heatmaps_drawn", -1),
        ("early_stopping_patience", 0),
        ("save_steps", 0),
        ("max_steps", 10**22),
        ("per_device_train_batch_size", 10**30),
        ("num_train_epochs", 1e308),
        ("save_total_limit", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", int("9" * 400)),
        ("amc_weight", int("9" * 400)),
        ("dataloader_num_workers", -1),
        ("label_smoothing_factor", 0.1),
        ("flip", "never"),
        ("amc_mean_reduction", "median"),
        ("lr_scheduler_kwargs", {"num_cycles": math.nan}),
        ("objectives", {"dice": math.nan}),
        ("extra_objectives", {"dice": {"weight": math.inf}}),
        ("objectives", {"kl": {"epsilon": math.nan}}),
    ],
)
def test_no_number_is_outside_its_range(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}") as caught:
        build(tmp_path, **{name: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [True, "much", [1], {"weight": True}, {"weight": "much"}, {"wieght": 1}])
def test_a_weight_of_an_objective_is_a_number(value):
    with pytest.raises(ValueError, match=r"objectives\.dice"):
        build_objective("dice", value)


def test_numbers_of_numpy_and_whole_floats_of_a_recipe_are_numbers(tmp_path):
    arguments = build(tmp_path, learning_rate=np.float32(1e-3), max_steps=np.int64(3), amc_weight=0, max_grad_norm=1)
    assert (arguments.max_steps, arguments.amc_weight) == (3, 0)
    recipe = load_recipe("demo", ["max_steps=1e3", "learning_rate=2e-5", "run_name=1e3"])
    arguments = build_arguments(recipe, tmp_path)
    assert (arguments.max_steps, arguments.learning_rate, arguments.run_name) == (1000, 2e-5, "1e3")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("freeze", "vision_model"),
        ("freeze", 5),
        ("freeze", [1]),
        ("objectives", [1]),
        ("extra_objectives", "dice"),
        ("accelerator_config", 5),
        ("lr_scheduler_kwargs", 5),
        ("metric_for_best_model", 5),
        ("debug", 5),
        ("report_to", 5),
        ("optim_args", 5),
        ("run_name", ["a"]),
        ("include_for_metrics", 5),
    ],
)
def test_lists_and_mappings_are_what_they_are(tmp_path, name, value):
    with pytest.raises(TypeError, match=f"`{name}` must"):
        build(tmp_path, **{name: value})


@pytest.mark.parametrize("change", [("amc_weight", math.nan), ("learning_rate", -1.0), ("max_length", 0)])
def test_settings_that_were_changed_later_are_checked_by_the_trainer(change, tmp_path, tiny_pretraining_model):
    arguments = build(tmp_path)
    setattr(arguments, *change)
    with pytest.raises(ValueError, match=f"`{change[0]}`"):
        AmcTrainer(tiny_pretraining_model, arguments, build_tiny_processor(), train_dataset=build_rows(1))


def test_a_configuration_that_was_changed_later_is_checked_by_the_trainer(tmp_path, tiny_pretraining_model):
    tiny_pretraining_model.config.momentum = math.nan
    with pytest.raises(ValueError, match=r"`model\.config\.momentum`"):
        AmcTrainer(tiny_pretraining_model, build(tmp_path), build_tiny_processor(), train_dataset=build_rows(1))


def test_settings_can_be_copied(tmp_path):
    arguments = build(tmp_path, amc_weight=0.5)
    assert dataclasses.replace(arguments, seed=3).amc_weight == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 1.5},
        {"momentum": math.nan},
        {"distillation_alpha": 5.0},
        {"mlm_probability": -0.1},
        {"temperature_init": math.nan},
        {"temperature_init": 0.0},
        {"temperature_min": 0.6},
        {"queue_size": 0},
        {"queue_size": 10**12},
        {"projection_dim": 0},
        {"decoder_layers": 0},
        {"decoder_layers": 10**9},
        {"initializer_range": math.inf},
        {"vision_config": {"num_hidden_layers": 10**9}},
        {"vision_config": {"hidden_dropout_prob": 1.5}},
        {"vision_config": {"layer_norm_eps": math.nan}},
        {"vision_config": {"image_size": -256}},
        {"vision_config": {"image_size": 16 * 10**9}},
        {"vision_config": {"patch_size": 0}},
        {"vision_config": {"num_channels": 0}},
        {"text_config": {"vocab_size": 0}},
        {"text_config": {"vocab_size": 10**12}},
        {"text_config": {"max_position_embeddings": 0}},
        {"text_config": {"attention_probs_dropout_prob": -0.1}},
        {"text_config": {"num_attention_heads": 0}},
        {"text_config": {"pad_token_id": -1}},
    ],
)
def test_an_architecture_outside_every_range_is_refused(change):
    ((name, value),) = change.items()
    name = next(iter(value)) if isinstance(value, dict) else name
    with pytest.raises(ValueError, match=name):
        AlbefConfig(**change)


@pytest.mark.parametrize("change", [{"queue_size": True}, {"momentum": "0.9"}, {"vision_config": {"image_size": 1.5}}])
def test_an_architecture_of_wrong_types_is_refused(change):
    with pytest.raises(Exception, match="queue_size|momentum|image_size"):
        AlbefConfig(**change)
    assert build_tiny_config(momentum=1).momentum == 1


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: GroundingAugmentation(flip_probability=math.nan), "flip_probability"),
        (lambda: GroundingAugmentation(gray_probability="0.5"), "gray_probability"),
        (lambda: GroundingAugmentation(hue=True), "hue"),
        (lambda: GroundingAugmentation(protect_colors="false"), "protect_colors"),
        (lambda: DataCollatorForGrounding(None, phrases_per_image=True), "phrases_per_image"),
        (lambda: DataCollatorForGrounding(None, phrases_per_image=1.5), "phrases_per_image"),
        (lambda: DataCollatorForGrounding(None, mlm_probability=math.nan), "mlm_probability"),
        (lambda: DataCollatorForGrounding(None, max_length=0), "max_length"),
        (lambda: DataCollatorForGrounding(None, mask_size=(4, 0)), "mask_size"),
        (lambda: DataCollatorForGrounding(None, mask_size=10**9), "mask_size"),
        (lambda: ProposalRanking(math.nan, "area"), "area_exponent"),
        (lambda: ProposalRanking(True, "area"), "area_exponent"),
        (lambda: predict_points(None, None, [], batch_size=0), "batch_size"),
        (lambda: predict_points(None, None, [], phrases_per_chunk=-1), "phrases_per_chunk"),
        (lambda: Mixture([[]], [math.nan], ["a"]), "weight"),
        (lambda: Mixture([[]], [0], ["a"]), "weight"),
        (lambda: check_lora_options({"r": 0}), "r"),
        (lambda: check_lora_options({"lora_alpha": math.nan}), "lora_alpha"),
        (lambda: check_lora_options({"lora_dropout": 5}), "lora_dropout"),
        (lambda: check_lora_options({"use_rslora": "false"}), "use_rslora"),
    ],
)
def test_options_of_python_are_checked(make, name):
    with pytest.raises((TypeError, ValueError), match=f"`(?:peft_config.)?{name}`"):
        make()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("amc_weight=.nan", "`amc_weight` must be a finite number of at least 0, got nan"),
        ("learning_rate=.inf", "`learning_rate` must be a finite number above 0, got inf"),
        ("learning_rate=nan", "`learning_rate` must be a number, got 'nan' of type str. Write it without quotes."),
        ('use_augmentation="false"', "`use_augmentation` must be true or false, got 'false' of type str."),
        ("weight_decay=-0.1", "`weight_decay` must be a finite number of at least 0, got -0.1"),
        ("distillation_alpha=5", "`distillation_alpha` must be a number in [0, 1], got 5"),
        ("max_steps=0", "`max_steps` must be at least 1, or -1"),
        ("max_steps=2.5", "`max_steps` must be a whole number, got 2.5"),
        ("per_device_train_batch_size=yes", "`per_device_train_batch_size` must be a whole number, got True"),
        ("seed=null", "`seed` must be a whole number, got None"),
        ("model.image_size=0", "`model.image_size` must be a whole number in [1, 16384], got 0"),
        ("model.image_size=big", "`model.image_size` must be a whole number or null, got 'big'"),
        ("model.config=5", "`model.config` must be text or null, got 5"),
        ("log_level=loud", "`log_level` must be one of 'detail', 'debug', 'info'"),
        ("log_level_replica=loud", "`log_level_replica` must be one of 'detail', 'debug', 'info'"),
        ("train_sampling_strategy=shuffled", "`train_sampling_strategy` must be one of 'random', 'sequential', got"),
        ("train_sampling_strategy=group_by_length", "`train_sampling_strategy` must be one of 'random', 'sequential'"),
        ("include_num_input_tokens_seen=some", "`include_num_input_tokens_seen` must be one of True, False, 'all'"),
        ("dataloader_multiprocessing_context=thread", "`dataloader_multiprocessing_context` must be one of 'fork'"),
        ("ddp_backend=none", "`ddp_backend` must be one of 'nccl', 'gloo'"),
        ("parallelism_config=5", "`parallelism_config` must be a `ParallelismConfig` of accelerate, got 5"),
        ("dataloader_persistent_workers=true", "`dataloader_persistent_workers` needs workers"),
        ("optim_args=fast", "`optim_args` must be `name=value,name=value`, got 'fast'"),
        ("optim_args=rank=8,", "`optim_args` must be `name=value,name=value`"),
        ("optim=galore_adamw", "`optim=galore_adamw`: You need to install `galore_torch`"),
        ("accelerator_config={split_batch: true}", "unknown option `split_batch`. Did you mean `split_batches`?"),
        ("accelerator_config={even_batches: 5}", "`accelerator_config.even_batches` must be true or false, got 5"),
        ("lr_scheduler_kwargs={num_cycle: 1}", "`lr_scheduler_kwargs={'num_cycle': 1}` does not fit"),
        ("lr_scheduler_type=cosine_with_min_lr", "does not fit `lr_scheduler_type=cosine_with_min_lr`: One of min_lr"),
        ("lr_scheduler_type=warmup_stable_decay", "does not fit `lr_scheduler_type=warmup_stable_decay`"),
        ("report_to=5", "`report_to` must be the name of a tracker, or a list of names, got 5"),
        ("resume_from_checkpoint=runs/first", "`resume_from_checkpoint` has no meaning in a recipe"),
        ("metric_for_best_model=loss", "`metric_for_best_model` must be `pointing_game_accuracy`, got 'loss'"),
        ("train_data=null", "`--set train_data=null`: `train_data` is a section. Set its keys"),
        ("training=5", "`--set training=5`: `training` is a section. Set its keys"),
        ("base=demo", "`--set base=demo`: the `base` of a recipe is set in its file"),
        ("machine.num_processes=true", "`machine.num_processes` must be a whole number of at least 1, got True"),
    ],
)
def test_a_setting_of_the_command_line_is_one_line(setting, message, tmp_path, capsys):
    short = ["--set", "max_steps=1", "--set", "train_data.num_train_scenes=8"]
    assert main(["train", "demo", *short, "--set", setting, "--output-dir", str(tmp_path / "run")]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1] and "Traceback" not in streams.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-0.5", "0", "1.5"])
def test_a_threshold_is_checked_before_the_checkpoint_is_looked_for(value, tmp_path, capsys):
    words = ["ground", str(tmp_path / "photo.png"), "-p", "dog", "-c", "no_checkpoint", "--box-threshold", value]
    assert main(words) == 2
    assert "box-threshold" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("value", ["0", "-5", "1000000000"])
def test_an_image_size_is_checked_before_the_checkpoint_is_looked_for(value, tmp_path, capsys):
    assert main(["evaluate", "no_checkpoint", "synthetic", "--image-size", value]) == 2
    assert "--image-size" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "line",
    ["image_size: true", "image_size: -3", "max_length: 1", "num_phrases: {test: -1}", "published: 3"],
)
def test_an_evaluation_recipe_of_wrong_values_is_refused(line, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"data: {{name: synthetic}}\nsplits: {{test: test}}\n{line}\n")
    with pytest.raises((TypeError, ValueError), match=rf"mine\.yaml.*`{line.split(':')[0]}"):
        load_evaluation_recipe(path)


@pytest.mark.parametrize("value", ["sometimes", "Boxes ", 7, True, {}, ["steps"], None])
@pytest.mark.parametrize(
    "name", ["lr_scheduler_type", "optim", "eval_strategy", "save_strategy", "logging_strategy", "hub_strategy"]
)
def test_names_that_transformers_does_not_know_are_refused_with_the_setting(tmp_path, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}` must be one of .*, got "):
        AmcConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})


@pytest.mark.parametrize(
    "setting", ["eval_strategy=steps", "eval_on_start=true", "keep_best=true", "num_heatmaps_drawn=2"]
)
def test_evaluations_without_their_data_are_refused_before_data_is_read(setting, tmp_path, capsys):
    words = ["train", "demo", "--set", "evaluation_data=null", "--set", "eval_strategy=no", "--set", "max_steps=1"]
    words += ["--set", setting]
    assert main([*words, "--output-dir", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert f"`{setting.partition('=')[0]}` needs evaluations: give the recipe a section `evaluation_data`" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "null", "~"])
def test_an_output_folder_without_a_name_is_that_of_the_recipe(text):
    assert load_recipe("demo", [f"output_dir={text}"]).output_dir == load_recipe("demo").output_dir


@pytest.mark.parametrize(
    "values",
    [
        {"warmup_steps": 0.1},
        {"logging_steps": 0.5, "save_steps": 0.25},
        {"num_train_epochs": 0.5, "max_grad_norm": 0},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}},
        {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": '{"num_cycles": 2}'},
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1},
        {"lr_scheduler_type": "inverse_sqrt"},
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2}},
        {"optim": "adafactor", "optim_args": "scale_parameter=False, relative_step=False"},
        {"accelerator_config": {"even_batches": False, "use_seedable_sampler": True}},
        {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 1}}},
        {"accelerator_config": None},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 4},
        {"train_sampling_strategy": "sequential", "include_num_input_tokens_seen": "non_padding"},
        {"include_num_input_tokens_seen": True, "log_level": "info"},
        {"report_to": ["tensorboard"], "fsdp": "", "deepspeed": None},
        {"save_strategy": "best", "eval_strategy": "epoch"},
    ],
)
def test_values_that_transformers_takes_are_taken(tmp_path, values):
    build(tmp_path, **values)


def test_saving_the_best_weights_needs_evaluations(tmp_path):
    with pytest.raises(ValueError, match='`save_strategy="best"` needs evaluations: set `eval_strategy`'):
        build(tmp_path, save_strategy="best")


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--warmup_steps", "0.1"], "warmup_steps", 0.1),
        (["--freeze", "vision", "text"], "freeze", ["vision", "text"]),
        (["--use_augmentation", "false"], "use_augmentation", False),
        (["--amc_weight", "0.5"], "amc_weight", 0.5),
        (["--lr_scheduler_type", "cosine"], "lr_scheduler_type", "cosine"),
    ],
)
def test_settings_come_from_the_parser_of_transformers(tmp_path, words, name, value):
    parser = HfArgumentParser(AmcConfig)
    words = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--report_to", "none", *words]
    (settings,) = parser.parse_args_into_dataclasses(words)
    assert getattr(settings, name) == value


@pytest.mark.parametrize("value", [10**300, -(10**300), 1e300, 10**19, 2**63], ids=lambda value: f"{float(value):.0e}")
def test_no_count_is_beyond_every_run(tmp_path, value):
    names = ["gradient_accumulation_steps", "save_steps", "logging_steps", "eval_steps", "eval_delay", "warmup_steps"]
    for name in [*names, "max_steps", "local_rank", "seed", "per_device_train_batch_size"]:
        with pytest.raises((TypeError, ValueError), match=f"`{name}` must be"):
            build(tmp_path, **{name: value})


def test_a_path_is_a_text(tmp_path):
    assert AmcConfig(output_dir=tmp_path, use_cpu=True).output_dir == str(tmp_path)


@pytest.fixture(autouse=True)
def _matmul_precision():
    previous = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(previous)


def test_the_precision_of_a_recipe_is_set_where_the_trainer_is_made(tiny_pretraining_model, tiny_processor, tmp_path):
    recipe = load_recipe("demo", ["float32_matmul_precision=high", "use_cpu=true", "bf16=false"])
    arguments = build_arguments(recipe, tmp_path)
    assert torch.get_float32_matmul_precision() == "highest"
    AmcTrainer(tiny_pretraining_model, arguments, tiny_processor, build_rows(), eval_dataset=build_rows())
    assert torch.get_float32_matmul_precision() == "high"


def test_without_the_setting_the_precision_stays(tiny_pretraining_model, tiny_processor, tmp_path):
    torch.set_float32_matmul_precision("medium")
    AmcTrainer(tiny_pretraining_model, AmcConfig(str(tmp_path), use_cpu=True), tiny_processor, build_rows())
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch_compile": True}, r"`torch_compile=True` compiles the whole model.*call `model.compile_encoders\(\)`"),
        ({"torch_compile_backend": "inductor"}, "`torch_compile_backend=inductor` compiles the whole model"),
        ({"torch_compile_mode": "default"}, "`torch_compile_mode=default` compiles the whole model"),
        ({"float32_matmul_precision": "low"}, "`float32_matmul_precision` must be one of 'highest', 'high', 'medium'"),
        ({"float32_matmul_precision": "highest", "tf32": True}, "`tf32=True` contradict each other"),
        ({"float32_matmul_precision": "high", "tf32": False}, "`tf32=False` contradict each other"),
    ],
)
def test_switches_that_cannot_work_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        AmcConfig(str(tmp_path), use_cpu=True, **changes)


def test_two_settings_that_agree_are_accepted(tmp_path):
    arguments = AmcConfig(str(tmp_path), use_cpu=True, float32_matmul_precision="highest", tf32=False)
    assert arguments.float32_matmul_precision == "highest"


@pytest.mark.parametrize(("tf32", "precision"), [(False, "ieee"), (True, "tf32")])
def test_tf32_is_a_setting_of_convolutions_too(tf32, precision, tmp_path, monkeypatch):
    """The convolution that embeds patches uses TF32 on a GPU unless a run says `tf32: false`."""
    backends = torch.backends
    assert backends.cudnn.conv.fp32_precision == "tf32"
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.enable_tf32", enable_tf32.__wrapped__)
    monkeypatch.setattr(backends, "fp32_precision", backends.fp32_precision)
    AmcConfig(str(tmp_path), use_cpu=True, tf32=tf32)
    assert backends.cudnn.conv.fp32_precision == precision
