"""Files for `accelerate launch` and DeepSpeed: what reads them accepts them, and they ask for what their names say."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from testing_utils import PROJECT_FOLDER

from albef_amc.encoders_albef import AlbefVisionLayer
from albef_amc.trainer import AmcConfig

ACCELERATE_FOLDER = PROJECT_FOLDER / "configuration" / "accelerate"
DEEPSPEED_FOLDER = PROJECT_FOLDER / "configuration" / "deepspeed"
ACCELERATE_FILES = sorted(ACCELERATE_FOLDER.glob("*.yaml"))
DEEPSPEED_FILES = sorted(DEEPSPEED_FOLDER.glob("*.json"))
SMALL_RECIPE = """
base: amc_vg
machine: {{num_processes: 8}}
model: {{config: {folder}/tiny.json, vocabulary: data, image_size: 32}}
train_data: {{name: synthetic, split: train, num_train_scenes: 8, num_validation_scenes: 1, num_test_scenes: 1,
  cache_dir: {folder}/cache}}
training:
  max_steps: 2
  warmup_intervals: 0
  per_device_train_batch_size: 4
  dataloader_num_workers: 0
  dataloader_persistent_workers: false
  dataloader_pin_memory: false
  max_length: 24
  mask_size: 32
  logging_steps: 1
  save_strategy: "no"
"""
LAUNCHER_VARIABLES = ("ACCELERATE_", "FSDP_", "MASTER_", "OMP_NUM_THREADS")


def name_of(path) -> str:
    return path.stem


def read_launch(path, monkeypatch):
    """Arguments of `accelerate launch --config_file`, completed by accelerate itself."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    monkeypatch.chdir(PROJECT_FOLDER)
    words = ["--config_file", str(path), "-m", "albef_amc.cli.main", "train", "amc_vg"]
    arguments, _, precision_is_set = _validate_launch_command(launch_command_parser().parse_args(words))
    return arguments, precision_is_set


@pytest.fixture
def clean_environment():
    """No variable of an earlier launcher, and none left behind."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(LAUNCHER_VARIABLES):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


def test_every_way_to_run_has_its_file():
    expected = "cpu deepspeed_zero1 deepspeed_zero2 fsdp2 gpu_1 gpu_2 gpu_8 nodes_2x8".split()
    assert [path.stem for path in ACCELERATE_FILES] == expected
    assert [path.stem for path in DEEPSPEED_FILES] == ["zero1", "zero2"]


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=name_of)
def test_accelerate_reads_the_file(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.mixed_precision in (None, "no", "bf16")
    processes = {"cpu": 1, "gpu_1": 1, "gpu_2": 2, "nodes_2x8": 16}
    assert config.num_processes == processes.get(path.stem, 8)
    assert config.use_cpu == (path.stem == "cpu")


def test_accelerate_refuses_a_key_that_it_does_not_know(tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    (tmp_path / "wrong.yaml").write_text((ACCELERATE_FOLDER / "gpu_8.yaml").read_text() + "num_proceses: 4\n")
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(tmp_path / "wrong.yaml"))


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=name_of)
def test_every_key_of_a_section_is_an_option_of_the_launcher(path, monkeypatch, clean_environment):
    """accelerate takes any key in `fsdp_config` and `deepspeed_config`, and ignores those that it does not know."""
    from accelerate.commands.launch import launch_command_parser

    options = vars(launch_command_parser().parse_args(["script.py"]))
    content = yaml.safe_load(path.read_text())
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(content.get(section, {})) <= set(options), path.name


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=name_of)
def test_the_launcher_starts_what_the_name_says(path, monkeypatch, clean_environment):
    arguments, _ = read_launch(path, monkeypatch)
    kinds = {
        "multi_gpu": path.stem in ("gpu_2", "gpu_8", "nodes_2x8"),
        "use_fsdp": path.stem == "fsdp2",
        "use_deepspeed": path.stem.startswith("deepspeed"),
    }
    assert {name: bool(getattr(arguments, name)) for name in kinds} == kinds
    assert arguments.module and arguments.training_script == "albef_amc.cli.main"
    assert arguments.training_script_args == ["train", "amc_vg"]


@pytest.mark.slow
def test_accelerate_launch_runs_a_recipe_on_the_cpu(tmp_path, tiny_model, clean_environment):
    """The command of the documentation, with a small recipe in the place of the shipped one."""
    tiny_model.config.to_json_file(tmp_path / "tiny.json")
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE.format(folder=tmp_path))
    program = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ACCELERATE_FOLDER / "cpu.yaml"),
    ]
    words = ["-m", "albef_amc.cli.main", "train", "small.yaml", "--set", "learning_rate=2e-4", "--json"]
    done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"] == 2
    rates = json.loads((tmp_path / "runs" / "small" / "trainer_state.json").read_text())["log_history"]
    assert [entry["learning_rate"] for entry in rates if "loss" in entry] == [2e-4, 2e-4]
    assert "made for 8 processes and this run has 1" in done.stderr


def test_fsdp_shards_vision_layers_only(monkeypatch, clean_environment):
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    arguments, _ = read_launch(ACCELERATE_FOLDER / "fsdp2.yaml", monkeypatch)
    os.environ.update(prepare_multi_gpu_env(arguments))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type == torch.distributed.fsdp.StateDictType.FULL_STATE_DICT
    assert plugin.transformer_cls_names_to_wrap == [AlbefVisionLayer.__name__]
    assert not plugin.activation_checkpointing
    assert type(plugin.cpu_offload) is torch.distributed.fsdp.OffloadPolicy, "nothing is moved to the CPU"


@pytest.mark.parametrize("stage", [1, 2])
def test_the_deepspeed_launch_finds_its_file_and_takes_precision_from_the_recipe(
    stage, monkeypatch, clean_environment
):
    arguments, precision_is_set = read_launch(ACCELERATE_FOLDER / f"deepspeed_zero{stage}.yaml", monkeypatch)
    named = PROJECT_FOLDER / arguments.deepspeed_config_file
    assert named == DEEPSPEED_FOLDER / f"zero{stage}.json" and named.is_file()
    assert not precision_is_set, "accelerate refuses `mixed_precision` beside `deepspeed_config_file`"


@pytest.mark.parametrize("path", DEEPSPEED_FILES, ids=name_of)
def test_deepspeed_reads_the_file_as_the_trainer_fills_it(path, tmp_path, clean_environment):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: pip install '.[deepspeed]'")
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.runtime.config import DeepSpeedConfig
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    arguments = AmcConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=True, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    config = HfTrainerDeepSpeedConfig(str(path))
    config.trainer_config_process(arguments)
    config.trainer_config_finalize(arguments, model=None, num_training_steps=10)
    read = DeepSpeedConfig(config.config)
    assert read.zero_optimization_stage == int(path.stem[-1])
    assert (read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps, read.train_batch_size) == (4, 2, 8)
    assert not read.bfloat16_config.enabled and not read.float16_config.enabled, "weights stay float32"
    assert read.torch_autocast_enabled and read.torch_autocast_dtype == torch.bfloat16
    assert read.torch_autocast_lower_precision_safe_modules == [], "gradients are summed in float32"
    assert read.gradient_clipping == 0.0
    assert not {"optimizer", "scheduler"} & set(config.config), "the published ones of the Trainer are used"


@pytest.mark.parametrize("path", DEEPSPEED_FILES, ids=name_of)
def test_deepspeed_files_hold_known_keys_only(path):
    """DeepSpeed ignores unknown keys at the top; in a section it refuses them."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: pip install '.[deepspeed]'")
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    content = json.loads(path.read_text())
    known = {value for name, value in vars(constants).items() if name.isupper() and isinstance(value, str)}
    assert set(content) <= known | {"zero_optimization", "bf16", "torch_autocast"}
    assert set(content["zero_optimization"]) <= set(DeepSpeedZeroConfig.model_fields)
    with pytest.raises(ValueError, match="stag"):
        DeepSpeedZeroConfig(**{"stag": 1})
