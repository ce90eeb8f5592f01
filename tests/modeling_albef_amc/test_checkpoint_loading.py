# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that must not load or not be lost: wrong, incomplete, damaged, and a disk that fills up while saving."""

import copy
import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from testing_utils import build_photo, build_tiny_config
from transformers import AutoModel, BertConfig, BertModel

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, AlbefModel
from albef_amc.saving_albef import replacing_files

MODELS = (AlbefModel, AlbefForImageTextMatching, AlbefForPreTraining)
BUNDLE = {
    "base_albef.py",
    "checkpoint_checks_albef.py",
    "checkpoint_files_albef.py",
    "classification_albef.py",
    "collections_albef.py",
    "configuration_albef.py",
    "decoder_albef.py",
    "encoders_albef.py",
    "explanation_albef.py",
    "galleries_albef.py",
    "inference_albef.py",
    "layout_albef.py",
    "matching_albef.py",
    "messages_albef.py",
    "modeling_albef.py",
    "momentum_albef.py",
    "outputs_albef.py",
    "parallel_albef.py",
    "pipeline_albef.py",
    "pretrained_albef.py",
    "pretraining_albef.py",
    "pretraining_losses_albef.py",
    "processor_checks_albef.py",
    "question_answering_albef.py",
    "ranges_albef.py",
    "contrastive_albef.py",
    "retrieval_albef.py",
    "reasoning_albef.py",
    "saving_albef.py",
    "text_files_albef.py",
    "text_processing_albef.py",
    "warm_start_albef.py",
}
AUTO_MAP = {
    "AutoConfig": "configuration_albef.AlbefConfig",
    "AutoModel": "modeling_albef.AlbefModel",
    "AutoModelForPreTraining": "modeling_albef.AlbefForPreTraining",
    "AutoModelForVisualQuestionAnswering": "modeling_albef.AlbefForQuestionAnswering",
    "AutoModelForZeroShotObjectDetection": "modeling_albef.AlbefForImageTextMatching",
}


@pytest.fixture
def checkpoint(tiny_model, tmp_path) -> Path:
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def transformers_log(caplog):
    """What `transformers` logs, whose logger does not pass messages on."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def read_folder(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def change_weights(checkpoint: Path, change) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    save_file(change(weights), checkpoint / "model.safetensors", metadata={"format": "pt"})


# Loading


@pytest.mark.parametrize("model_class", MODELS)
def test_missing_folder(model_class, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint folder at .*/nothing.*`albef-amc convert`"):
        model_class.from_pretrained(tmp_path / "nothing")


def test_folder_without_configuration(checkpoint):
    (checkpoint / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"No `config.json` in .*checkpoint"):
        AlbefForImageTextMatching.from_pretrained(checkpoint)


def test_file_in_place_of_a_folder(tmp_path):
    torch.save({}, tmp_path / "ALBEF.pth")
    with pytest.raises(ValueError, match="ALBEF.pth is a file, but a checkpoint is a folder. Convert"):
        AlbefForImageTextMatching.from_pretrained(tmp_path / "ALBEF.pth")


@pytest.fixture
def bert(tmp_path) -> Path:
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("model_class", MODELS)
def test_another_architecture(model_class, bert):
    with pytest.raises(ValueError, match="another architecture: its `model_type` is 'bert', not 'albef'"):
        model_class.from_pretrained(bert)


@pytest.mark.parametrize("model_class", MODELS)
def test_weights_of_another_architecture_under_our_configuration(model_class, bert):
    build_tiny_config().save_pretrained(bert)
    with pytest.raises(ValueError, match=rf"bert lacks \d+ weights of {model_class.__name__} \(.* and \d+ more\)"):
        model_class.from_pretrained(bert)


@pytest.mark.parametrize(
    "name", ["albef.vision_model.cls_token", "albef.text_model.layers.3.cross_attention.q_proj.bias"]
)
def test_a_single_missing_weight_is_refused(checkpoint, name):
    change_weights(checkpoint, lambda weights: {key: value for key, value in weights.items() if key != name})
    with pytest.raises(ValueError, match=f"lacks 1 weights of AlbefForImageTextMatching \\({name}\\)"):
        AlbefForImageTextMatching.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="lacks 1 weights"):
        AutoModel.from_pretrained(checkpoint)


def test_missing_weights_in_a_given_state_dict(tiny_model):
    weights = tiny_model.state_dict()
    del weights["albef.temperature"]
    with pytest.raises(ValueError, match="the given state dict lacks 1 weights"):
        AlbefForImageTextMatching.from_pretrained(None, config=tiny_model.config, state_dict=weights)


def test_missing_head_is_new_and_announced(tiny_model, tmp_path, transformers_log):
    tiny_model.albef.save_pretrained(tmp_path)
    model = AlbefForImageTextMatching.from_pretrained(tmp_path)
    assert "itm_head.weight" in transformers_log.text and "MISSING" in transformers_log.text
    assert torch.equal(model.albef.text_projection.weight, tiny_model.albef.text_projection.weight)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_weights(checkpoint, share):
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[: int(share * len(weights))])
    with pytest.raises(ValueError, match="weights of .*checkpoint cannot be read .* damaged or was cut off"):
        AlbefForImageTextMatching.from_pretrained(checkpoint)


def test_missing_weight_file(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named model.safetensors"):
        AlbefForImageTextMatching.from_pretrained(checkpoint)


def test_missing_shard(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path, max_shard_size="50kB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[0].unlink()
    with pytest.raises((OSError, ValueError), match="model-00001-of-"):
        AlbefForImageTextMatching.from_pretrained(tmp_path)


def test_damaged_configuration(checkpoint):
    text = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="config.json is not valid JSON .*Download or save it again"):
        AlbefForImageTextMatching.from_pretrained(checkpoint)


def test_weights_of_another_shape(checkpoint):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AlbefForImageTextMatching.from_pretrained(checkpoint, config=build_tiny_config(projection_dim=8))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["albef.text_model.layers.3.fc1.weight", "albef.temperature"])
def test_weights_that_are_not_finite_are_refused_by_name(checkpoint, name, value):
    def poison(weights):
        weights[name].view(-1)[0] = value
        return weights

    change_weights(checkpoint, poison)
    words = f"weights of .*checkpoint hold NaN or infinity in 1 entries: {name}. Its training diverged"
    with pytest.raises(ValueError, match=words):
        AlbefForImageTextMatching.from_pretrained(checkpoint)


def test_weights_that_become_infinite_in_half_precision(checkpoint):
    def enlarge(weights):
        weights["itm_head.weight"][0, 0] = 1e6
        return weights

    change_weights(checkpoint, enlarge)
    assert AlbefForImageTextMatching.from_pretrained(checkpoint).itm_head.weight[0, 0] == 1e6
    with pytest.raises(ValueError, match="itm_head.weight.*do not fit in the `dtype`"):
        AlbefForImageTextMatching.from_pretrained(checkpoint, dtype=torch.float16)


def test_nan_in_a_model_never_becomes_a_heatmap(tiny_model, tiny_processor):
    with torch.no_grad():
        tiny_model.albef.text_model.layers[3].fc1.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite: .* weights hold NaN"):
        tiny_model.ground(**tiny_processor(images=build_photo(), text=["a dog"]))


def test_loading_information_on_request(checkpoint):
    model, information = AlbefForImageTextMatching.from_pretrained(checkpoint, output_loading_info=True)
    assert isinstance(model, AlbefForImageTextMatching)
    assert not information["missing_keys"] and not information["unexpected_keys"]


# Saving


@pytest.mark.parametrize("model_class", MODELS)
def test_checkpoint_holds_its_code_and_nothing_else(model_class, tmp_path):
    model_class(build_tiny_config()).save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors", *BUNDLE}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert config["architectures"] == [model_class.__name__]
    assert list(config["custom_pipelines"]) == ["visual-grounding"]


def test_saving_again_replaces_what_is_read_and_keeps_the_rest(tiny_model, checkpoint):
    (checkpoint / "README.md").write_text("card")
    with torch.no_grad():
        tiny_model.itm_head.bias.add_(1)
    tiny_model.save_pretrained(checkpoint, max_shard_size="50kB")
    assert not (checkpoint / "model.safetensors").exists()  # would be read instead of the shards
    assert torch.equal(AlbefForImageTextMatching.from_pretrained(checkpoint).itm_head.bias, tiny_model.itm_head.bias)
    tiny_model.save_pretrained(checkpoint)
    assert [file.name for file in checkpoint.glob("model*.safetensors*")] == ["model.safetensors"]
    assert (checkpoint / "README.md").read_text() == "card"
    assert not (checkpoint / ".unfinished").exists()


def test_save_to_a_file_is_refused(tiny_model, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(NotADirectoryError, match="taken is a file"):
        tiny_model.save_pretrained(tmp_path / "taken")


def test_only_the_main_process_writes(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert list((tmp_path / "other").iterdir()) == []


def test_rest_of_a_killed_save_is_removed(tiny_model, checkpoint):
    (checkpoint / ".unfinished").mkdir()
    (checkpoint / ".unfinished" / "model.safetensors").write_bytes(b"half")
    tiny_model.save_pretrained(checkpoint)
    assert not (checkpoint / ".unfinished").exists()
    AlbefForImageTextMatching.from_pretrained(checkpoint)


def test_error_in_the_middle_of_a_save(checkpoint):
    before = read_folder(checkpoint)
    with pytest.raises(ZeroDivisionError), replacing_files(checkpoint) as folder:
        (folder / "config.json").write_text("{}")
        raise ZeroDivisionError
    assert read_folder(checkpoint) == before


def test_processor_is_unchanged_by_a_save_that_fails(tiny_processor, checkpoint, monkeypatch):
    tiny_processor.save_pretrained(checkpoint)
    before = read_folder(checkpoint)
    tokenizer = copy.deepcopy(tiny_processor)

    def fail(folder, **kwargs):
        (Path(folder) / "tokenizer.json").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tokenizer.tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="cannot write the checkpoint") as raised:
        tokenizer.save_pretrained(checkpoint)
    assert raised.value.errno == errno.ENOSPC
    assert read_folder(checkpoint) == before


SAVE_WITH_LITTLE_SPACE = """
    import sys, torch
    from albef_amc import AlbefForImageTextMatching

    model = AlbefForImageTextMatching.from_pretrained(sys.argv[1])
    torch.nn.init.zeros_(model.itm_head.weight)
    {limit}
    try:
        model.save_pretrained(sys.argv[1])
    except OSError as error:
        print(error)
    else:
        print("saved")
"""
# A file may not grow beyond half of the weights: the same write error in a process of its own, without a mount.
FILE_SIZE_LIMIT = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
FILE_SIZE_LIMIT += "resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def save_with_little_space(checkpoint: Path, limit: str) -> str:
    program = textwrap.dedent(SAVE_WITH_LITTLE_SPACE).format(limit=limit)
    done = subprocess.run([sys.executable, "-c", program, str(checkpoint)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system has no limit for the size of a file")
def test_write_error_while_saving(checkpoint):
    before = read_folder(checkpoint)
    size = (checkpoint / "model.safetensors").stat().st_size // 2
    printed = save_with_little_space(checkpoint, FILE_SIZE_LIMIT.format(size=size))
    assert "cannot write the checkpoint; no partial files remain and existing files are unchanged" in printed
    assert read_folder(checkpoint) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB in memory; mounting one needs the right to."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is not permitted here; the write error is tested without one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="this system has no `mount`")
def test_full_disk_while_saving(checkpoint, small_disk):
    shutil.copytree(checkpoint, small_disk / "checkpoint")
    before = read_folder(checkpoint)
    used = sum(map(len, before.values()))
    (small_disk / "other").write_bytes(bytes(2**21 - used - used // 2 - 2**16))
    printed = save_with_little_space(small_disk / "checkpoint", limit="")
    assert "No space left" in printed and "existing files are unchanged" in printed
    assert read_folder(small_disk / "checkpoint") == before
    os.remove(small_disk / "other")
    assert save_with_little_space(small_disk / "checkpoint", limit="") == "saved\n"
    assert not AlbefForImageTextMatching.from_pretrained(small_disk / "checkpoint").itm_head.weight.any()
