"""AmcTrainer on grounders of other models: steps, files, resume, LoRA, refusals, and the command."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from grounder_cases import build_tiny_grounder
from grounder_processes import run_case
from testing_utils import (
    PROJECT_FOLDER,
    TINY_RECIPE,
    build_photo,
    build_rows,
    build_tiny_arguments,
    launch_two_processes,
    list_training_logs,
)

from albef_amc.cli.main import main
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.grounders import AutoGrounder, Grounder
from albef_amc.trainer import AmcTrainer
from albef_amc.trainer.data.grounder_collator import DataCollatorForGrounder

LONG = "the small red dog on the left of the big blue cup above the green triangle below"


def build_grounder(name: str) -> Grounder:
    grounder = build_tiny_grounder(name)
    grounder.model.float()
    return grounder


def build_trainer(
    grounder: Grounder, folder: Path, rows=None, eval_rows=None, peft_config=None, **changes
) -> AmcTrainer:
    losses = {f"{name}_weight": float(name in grounder.family.losses) for name in ("itc", "itm", "mlm")}
    settings = {**losses, "mask_size": None, **changes}
    return AmcTrainer(
        grounder,
        build_tiny_arguments(folder, **settings),
        grounder.processor,
        train_dataset=build_rows() if rows is None else rows,
        eval_dataset=eval_rows,
        peft_config=peft_config,
    )


def build_lora():
    return pytest.importorskip("peft").LoraConfig(r=2, lora_alpha=8)


@pytest.mark.parametrize("name", ["blip-itm", "clip-itc"])
def test_a_run_logs_its_terms_and_leaves_a_plain_checkpoint(name, tmp_path):
    grounder = build_grounder(name)
    before = {key: value.clone() for key, value in grounder.model.state_dict().items()}
    trainer = build_trainer(
        grounder, tmp_path, eval_rows=build_rows(3), max_steps=1, eval_strategy="steps", eval_steps=1, keep_best=True
    )
    trainer.train()
    (logs,) = list_training_logs(trainer)
    terms = [f"{loss}_loss" for loss in grounder.family.losses] + ["amc_loss"]
    assert logs["loss"] == pytest.approx(sum(logs[term] for term in terms), rel=1e-4)
    assert logs["unseen_regions"] == 0
    (evaluated,) = [entry for entry in trainer.state.log_history if "eval_pointing_game_accuracy" in entry]
    assert evaluated["eval_num_phrases"] == 6 and 0 <= evaluated["eval_matching_auc"] <= 1
    trainer.save_model()
    saved = grounder.model.state_dict()
    assert sum(not torch.equal(before[key], saved[key]) for key in saved) > 20

    model = getattr(transformers, grounder.family.class_name).from_pretrained(tmp_path)
    transformers.AutoProcessor.from_pretrained(tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved[key]), key
    loaded = AutoGrounder.from_pretrained(tmp_path)
    expected, found = (one.ground([build_photo()], [["a red dog"]])[0][0] for one in (grounder, loaded))
    assert found["score"] == pytest.approx(expected["score"], abs=1e-6)
    torch.testing.assert_close(found["heatmap"], expected["heatmap"], rtol=0, atol=1e-5)
    (metrics,) = json.loads((tmp_path / "metrics.json").read_text()).values()
    assert metrics["weights_sha256"] == hash_weights(loaded.model)
    assert hash_weights(AutoGrounder.from_pretrained(tmp_path / "best-eval").model) == metrics["weights_sha256"]
    card = (tmp_path / "README.md").read_text()
    assert "Every number of these tables" in card
    assert f"import AutoProcessor, {grounder.family.class_name}" in card and "AutoGrounder" in card
    assert f"layer {grounder.layer} of `{grounder.family.module_name.partition('.{')[0]}`" in card
    assert "licence holds" in card and "albef\n" not in card.partition("---\n\n")[0]


@pytest.mark.parametrize("has_lora", [False, True])
def test_a_resumed_run_has_the_same_weights_to_the_bit(has_lora, tmp_path):
    runs = {}
    for name, steps in (("whole", 2), ("parts", 1)):
        peft_config = build_lora() if has_lora else None
        grounder = build_grounder("blip-itm")
        changes = dict(save_strategy="steps", save_steps=1, lr_scheduler_type="constant", peft_config=peft_config)
        build_trainer(grounder, tmp_path / name, max_steps=steps, **changes).train()
        runs[name] = grounder
    peft_config = build_lora() if has_lora else None
    resumed = build_grounder("blip-itm")
    trainer = build_trainer(
        resumed, tmp_path / "parts", max_steps=2, lr_scheduler_type="constant", peft_config=peft_config
    )
    trainer.train(resume_from_checkpoint=True)
    expected, found = runs["whole"].model.state_dict(), resumed.model.state_dict()
    assert trainer.state.global_step == 2 and expected.keys() == found.keys()
    for key in expected:
        assert torch.equal(expected[key], found[key]), key
    assert any(not torch.equal(value, found[key]) for key, value in runs["parts"].model.state_dict().items())


@pytest.mark.parametrize("name", ["blip-itm", "siglip-itc"])
def test_lora_trains_its_layers_alone_and_saves_the_merged_model(name, tmp_path):
    config = build_lora()
    config.modules_to_save = ["itm_head"] if name == "blip-itm" else None
    grounder = build_grounder(name)
    base = {key: value.clone() for key, value in grounder.model.state_dict().items()}
    trainer = build_trainer(grounder, tmp_path, save_strategy="steps", save_steps=2, peft_config=config)
    trainer.train()
    trained = [key for key, value in grounder.model.named_parameters() if value.requires_grad]
    assert trained and all("lora_" in key or key.startswith("itm_head") for key in trained)
    loaded = AutoGrounder.from_pretrained(tmp_path / "checkpoint-2")
    merged = loaded.model.state_dict()
    assert merged.keys() == base.keys()
    changed = {key for key in base if not torch.equal(base[key], merged[key])}
    adapted = {key.replace("base_layer.", "") for key in grounder.model.state_dict() if "base_layer.weight" in key}
    assert adapted & changed and changed <= adapted | {"itm_head.weight", "itm_head.bias"}
    batch = grounder.prepare([build_photo()], [["a red dog"]])
    with torch.no_grad():
        expected, found = grounder.eval()(batch), loaded(batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.normalized_heatmap, expected.normalized_heatmap, rtol=0, atol=1e-3)
    assert (tmp_path / "checkpoint-2" / "adapter" / "adapter_config.json").is_file()
    with pytest.raises(ValueError, match="is of a LoRA run"):
        build_trainer(build_grounder(name), tmp_path, max_steps=3).train(resume_from_checkpoint=True)


def test_bfloat16_computes_finite_losses_in_float32(tmp_path):
    trainer = build_trainer(build_grounder("blip-itm"), tmp_path, max_steps=1, bf16=True)
    trainer.train()
    (logs,) = list_training_logs(trainer)
    exact = build_trainer(build_grounder("blip-itm"), tmp_path / "exact", max_steps=1)
    exact.train()
    (expected,) = list_training_logs(exact)
    assert logs["loss"] == pytest.approx(expected["loss"], rel=0.1) and logs["loss"] != expected["loss"]
    assert trainer.model.model.dtype == torch.float32


def test_a_region_outside_of_the_crop_takes_no_part_and_is_counted():
    """CLIP sees the square in the middle of a picture of 90 x 30 pixels."""
    grounder = build_grounder("clip-itc")
    boxes = [[[0.0, 0.0, 20.0, 30.0]], [[40.0, 0.0, 50.0, 30.0]], None]
    phrases = [{"phrase_id": str(n), "phrase": "a red dog", "boxes": box} for n, box in enumerate(boxes)]
    row = dict(image=build_photo(90, 30), image_id="wide", width=90, height=30, phrases=phrases, proposals=[], draw=0)
    batch = DataCollatorForGrounder(grounder.inputs)([row])
    assert batch["has_region"].tolist() == [False, True, False] and batch["num_unseen_regions"] == 1
    columns = batch["region_mask"][1].reshape(4, 4)
    torch.testing.assert_close(columns, torch.tensor([0.0, 2 / 3, 2 / 3, 0.0]).expand(4, 4), rtol=0, atol=1e-3)


def quantise(grounder: Grounder) -> None:
    grounder.model.is_quantized = True


def explain_attention(grounder: Grounder) -> None:
    grounder.method = "attention"


@pytest.mark.parametrize(
    "name, change, settings, words",
    [
        ("clip-itc", lambda one: one.half(), {}, "weights in torch.float16.*grounder.float()"),
        ("clip-itc", quantise, {}, "quantised weights"),
        ("clip-itc", explain_attention, {}, "`method` is \"attention\".*same for all phrases"),
        ("clip-itc", None, {"itm_weight": 1.0, "mlm_weight": 1.0}, "no loss 'itm' and 'mlm'.*`itm_weight=0`"),
        ("vilt-itm", None, {}, "no projections.*uniform"),
        ("clip-itc", None, {"use_reduced_images": True}, "`use_reduced_images=True` is for ALBEF alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_at_once(name, change, settings, words, tmp_path):
    grounder = build_grounder(name)
    if change is not None:
        change(grounder)
    with pytest.raises(ValueError, match=words):
        build_trainer(grounder, tmp_path, **settings)


@pytest.mark.parametrize("fault, words", [("length", "text positions"), ("negatives", "no image is a negative")])
def test_rows_that_cannot_be_trained_on_are_refused_before_the_first_step(fault, words, tmp_path):
    rows = build_rows()
    rows[-1]["phrases"][1]["phrase"] = LONG
    if fault == "negatives":
        for row in rows:
            row["phrases"] = [{**phrase, "phrase": "a dog"} for phrase in row["phrases"]]
    trainer = build_trainer(build_grounder("blip-itm"), tmp_path, rows)
    with pytest.raises(ValueError, match=f"Training data: .*{words}"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_another_processor_than_that_of_the_grounder_is_refused(tmp_path):
    grounder = build_grounder("clip-itc")
    with pytest.raises(ValueError, match="pass `grounder.processor`"):
        AmcTrainer(grounder, build_tiny_arguments(tmp_path), build_grounder("clip-itc").processor)


def test_the_page_shows_a_run_that_works(tmp_path, monkeypatch):
    page = (PROJECT_FOLDER / "docs" / "grounders.md").read_text()
    block = next(one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "AmcTrainer" in one)
    build_grounder("blip-itm").save_pretrained(tmp_path / "blip")
    shorter = {"Salesforce/blip-itm-base-coco": str(tmp_path / "blip"), "max_steps=100": "max_steps=1, use_cpu=True"}
    shorter["num_train_scenes=64"] = "num_train_scenes=8"
    for text, replacement in shorter.items():
        assert text in block
        block = block.replace(text, replacement)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/grounders.md", "exec"), {})
    assert AutoGrounder.from_pretrained(tmp_path / "runs" / "blip").layer == 2


def test_the_command_trains_a_checkpoint_of_another_class(tmp_path, capsys):
    build_grounder("clip-itc").save_pretrained(tmp_path / "clip")
    recipe = tmp_path / "recipe.yaml"
    start = f"model:\n  checkpoint: {tmp_path / 'clip'}\n"
    text = TINY_RECIPE.format(config="demo", cache=tmp_path / "cache").partition("train_data:")
    recipe.write_text(f"{start}{text[1]}{text[2]}  itm_weight: 0\n  mlm_weight: 0\n")
    assert main(["train", str(recipe), "--output-dir", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 2 and "eval_pointing_game_accuracy" in result
    transformers.CLIPModel.from_pretrained(tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "grounder.json").read_text())
    assert settings["score"] == "itc" and settings["layer"] == 2
    assert f"Started from {'clip'}" in (tmp_path / "run" / "README.md").read_text()
    assert main(["train", str(recipe), "--set", "model.image_size=64", "--output-dir", str(tmp_path / "other")]) == 2
    assert "`model.image_size` is for ALBEF" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_two_processes_take_the_step_of_one(tmp_path):
    names = ("blip-itm", "clip-itc", "siglip-itc", "vilt-itm", "bridgetower-itm")
    launch_two_processes("grounder_processes.py", str(tmp_path), *names)
    for name in names:
        expected = run_case(name, tmp_path)
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{name}-2-{rank}.pt")
            assert found["wrapper"] == "DistributedDataParallel"
            assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-9)
            assert found["logged"] == pytest.approx(expected["logged"], rel=1e-6)
            assert found["gradients"].keys() == expected["gradients"].keys() and expected["gradients"]
            largest = max(value.abs().max() for value in expected["gradients"].values())
            for key, value in expected["gradients"].items():
                torch.testing.assert_close(found["gradients"][key] / largest, value / largest, rtol=0, atol=1e-9)
