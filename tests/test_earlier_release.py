# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What an earlier revision wrote: its checkpoint, run, recipe, commands and imports, read by the present package.

Floating-point results are compared to the bit where torch, the vector instructions and the vendor of the CPU are those
that the reference was computed with (`machine` in `reference.json`). Elsewhere sums round differently: there tensors
agree within 5e-6 of their largest value, and losses within 1e-5 of themselves.
"""

import importlib
import json
import shutil
import tarfile
from pathlib import Path

import PIL
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from testing_utils import FIXTURES_FOLDER, UNSTATED_TOLERANCE, run_without_package

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor
from albef_amc.cli.main import build_command, main
from albef_amc.configuration.shipped_files import list_shipped
from albef_amc.datasets_scripts import BUILDERS
from albef_amc.pretraining_losses_albef import UNKNOWN_ID
from albef_amc.trainer import AmcConfig
from albef_amc.trainer.training_recipes import build_arguments, load_recipe

FOLDER = FIXTURES_FOLDER / "earlier_release"
REFERENCE = json.loads((FOLDER / "reference.json").read_text())
PHRASES, NAMES = REFERENCE["phrases"], REFERENCE["names"]
CPU_FILE = Path("/proc/cpuinfo")
LOSS_TOLERANCE = 1e-5
OF_ITS_TIME = ("--set", "use_text_ids=false")  # a default that was another one
ROUNDING = 1e-8  # of weights whose gradient is zero but for rounding


def is_machine_of_the_reference() -> bool:
    lines = CPU_FILE.read_text().splitlines() if CPU_FILE.is_file() else []
    vendors = [line.partition(": ")[2] for line in lines if line.startswith("vendor_id")]
    found = {"torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    return {**found, "cpu_vendor": vendors[0] if vendors else None} == REFERENCE["machine"]


def list_changes(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are missing, new, or other than the reference."""
    changed = sorted(found.keys() ^ expected.keys())
    for name in sorted(found.keys() & expected.keys()):
        value, reference = found[name], expected[name]
        if value.shape != reference.shape or value.dtype != reference.dtype:
            changed.append(name)
        elif is_machine_of_the_reference() or not reference.is_floating_point():
            changed += [] if torch.equal(value, reference) else [name]
        elif (value - reference).abs().max() > UNSTATED_TOLERANCE * reference.abs().max() + ROUNDING:
            changed.append(name)
    return changed


needs_the_pillow_of_the_reference = pytest.mark.skipif(
    REFERENCE["pillow"] != PIL.__version__, reason=f"only Pillow {REFERENCE['pillow']} resizes to the same pixels"
)


def unpack(archive: str, target: Path) -> Path:
    with tarfile.open(FOLDER / f"{archive}.tar.xz") as packed:
        packed.extractall(target, filter="data")
    return target


@pytest.fixture
def earlier_checkpoint(tmp_path):
    """The checkpoint with its code, as it was saved."""
    return unpack("remote_code", unpack("checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def earlier_runs(tmp_path, earlier_checkpoint, monkeypatch):
    """The current folder holds two runs that were stopped after two of four steps, and what they were started from."""
    for name in ("recipe.yaml", "adapter_recipe.yaml", "model.json"):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for name in ("run", "adapter"):
        unpack("remote_code", unpack(name, tmp_path / name) / "checkpoint-2")


def list_pictures() -> list[Path]:
    return sorted((FOLDER / "pictures").iterdir())


@needs_the_pillow_of_the_reference
def test_the_checkpoint_gives_the_heatmaps_and_scores_of_its_time(earlier_checkpoint):
    processor = AlbefProcessor.from_pretrained(earlier_checkpoint)
    model = AlbefForImageTextMatching.from_pretrained(earlier_checkpoint)
    pictures = [Image.open(path) for path in list_pictures()]
    outputs = model.ground(**processor(images=pictures, text=PHRASES, return_tensors="pt"))
    results = [result for image in processor.post_process_grounding(outputs) for result in image]
    found = {"itm_logits": outputs.itm_logits, "heatmap": outputs.heatmap}
    found |= {f"stored_size_heatmap_{number}": result["heatmap"] for number, result in enumerate(results)}
    found["points"] = torch.stack([result["point"] for result in results])
    assert list_changes(found, load_file(FOLDER / "grounding.safetensors")) == []


GROUND_WITH_SHIPPED_CODE = """
    import json, sys, torch
    from PIL import Image
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoModelForZeroShotObjectDetection, AutoProcessor, pipeline

    torch.set_num_threads(1)
    checkpoint, phrases, pictures = sys.argv[1], json.loads(sys.argv[2]), [Image.open(path) for path in sys.argv[3:]]
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    inputs = processor(images=pictures, text=phrases, return_tensors="pt")
    model = AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint, trust_remote_code=True)
    outputs = model.ground(**inputs)
    found = {"itm_logits": outputs.itm_logits, "heatmap": outputs.heatmap}
    pipe = pipeline("visual-grounding", model=checkpoint, trust_remote_code=True)
    rows = [{"image": image, "text": texts} for image, texts in zip(pictures, phrases)]
    results = [result for image in pipe(rows, batch_size=len(rows)) for result in image]
    found |= {f"stored_size_heatmap_{number}": result["heatmap"] for number, result in enumerate(results)}
    found["points"] = torch.tensor([result["point"] for result in results])
    save_file({name: tensor.detach().contiguous() for name, tensor in found.items()}, "found.safetensors")
    names = [type(AutoModel.from_pretrained(checkpoint, trust_remote_code=True)).__name__, type(model).__name__]
    modules = sorted(name for name in sys.modules if name.endswith("_albef"))
    print(json.dumps({"classes": names, "modules": modules}))
"""


@needs_the_pillow_of_the_reference
@pytest.mark.slow
def test_its_code_gives_the_same_without_the_package(earlier_checkpoint, tmp_path):
    words = [str(earlier_checkpoint), json.dumps(PHRASES), *map(str, list_pictures())]
    report = json.loads(run_without_package(GROUND_WITH_SHIPPED_CODE, *words, cwd=tmp_path).splitlines()[-1])
    assert report["classes"] == ["AlbefModel", "AlbefForImageTextMatching"]
    assert report["modules"] and all(name.startswith("transformers_modules.") for name in report["modules"])
    found = load_file(tmp_path / "found.safetensors")
    assert list_changes(found, load_file(FOLDER / "grounding.safetensors")) == []


@pytest.mark.slow
def test_the_run_resumes_to_the_weights_and_losses_of_its_time(earlier_runs):
    assert main(["train", "recipe.yaml", "--output-dir", "run", "--resume", *OF_ITS_TIME]) == 0
    found = load_file("run/model.safetensors")
    assert found.pop("text_queue_text_ids").eq(UNKNOWN_ID).all()  # which that release did not have
    assert list_changes(found, load_file(FOLDER / "resumed_weights.safetensors")) == []
    state = json.loads(Path("run/trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    assert len(steps) == len(REFERENCE["log"]) == 4
    for entry, expected in zip(steps, REFERENCE["log"], strict=True):
        if is_machine_of_the_reference():
            assert {name: entry[name] for name in expected} == expected
        else:
            assert {name: entry[name] for name in expected} == pytest.approx(expected, rel=LOSS_TOLERANCE)
    metrics, expected = json.loads(Path("run/metrics.json").read_text()), REFERENCE["metrics"]
    if not is_machine_of_the_reference():
        metrics["eval"]["weights_sha256"] = expected["eval"]["weights_sha256"]
    assert metrics == expected


@pytest.mark.slow
def test_the_streamed_run_of_an_adapter_resumes_to_the_weights_of_its_time(earlier_runs):
    assert main(["train", "adapter_recipe.yaml", "--output-dir", "adapter", "--resume", *OF_ITS_TIME]) == 0
    for name, stored in (("adapter_model", "resumed_adapter"), ("pretraining_state", "resumed_adapter_state")):
        found = load_file(f"adapter/checkpoint-4/{name}.safetensors")
        found.pop("text_queue_text_ids", None)  # which that release did not have
        assert list_changes(found, load_file(FOLDER / f"{stored}.safetensors")) == [], name


def test_classes_that_files_of_a_run_name_are_where_they_were(earlier_runs):
    arguments = torch.load("run/checkpoint-2/training_args.bin", weights_only=False)
    assert isinstance(arguments, AmcConfig)
    assert (arguments.max_steps, arguments.extra_objectives) == (4, {"dice": 0.5, "kl": {"weight": 0.1}})
    base = json.loads(Path("adapter/checkpoint-2/adapter_config.json").read_text())["auto_mapping"]
    assert getattr(importlib.import_module(base["parent_library"]), base["base_model_class"]) is AlbefForPreTraining


def test_a_recipe_with_every_key_says_what_it_said():
    recipe = load_recipe(FOLDER / "recipe_of_all_keys.yaml")
    arguments = build_arguments(recipe, "run")
    expected = dict(REFERENCE["settings"])
    assert {name: getattr(arguments, name) for name in expected["training"]} == expected.pop("training")
    assert {name: getattr(recipe.model, name) for name in expected["model"]} == expected.pop("model")
    assert {name: getattr(recipe, name) for name in expected} == expected


@pytest.mark.parametrize("module", NAMES["imports"])
def test_public_names_can_be_imported(module):
    present = importlib.import_module(module)
    assert [name for name in NAMES["imports"][module] if not hasattr(present, name)] == []
    assert {*NAMES["imports"][module]} <= {*present.__all__}


@pytest.mark.parametrize("verb", NAMES["commands"])
def test_commands_take_the_words_they_took(verb):
    parameters = build_command(verb).commands[verb].params
    words = {word for parameter in parameters for word in (*parameter.opts, *parameter.secondary_opts)}
    assert {*NAMES["commands"][verb]} <= words


def test_data_sets_and_shipped_files_have_the_names_they_had():
    assert {*NAMES["data_sets"]} <= {*BUILDERS}
    for kind, names in NAMES["recipes"].items():
        assert {*names} <= {*list_shipped(kind)}, kind
