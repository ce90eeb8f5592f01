"""AmcTrainer on a small model: what it learns, logs, saves and resumes."""

import json
import math

import pytest
import torch
from testing_utils import (
    build_rows,
    build_tiny_arguments,
    build_tiny_config,
    build_tiny_trainer,
    copy_state,
    list_backward_names,
    list_training_logs,
)

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor, pretraining_losses_albef
from albef_amc.datasets_scripts.true_phrases import hash_text
from albef_amc.evaluation.checkpoints import hash_checkpoint
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.text_processing_albef import clean_caption
from albef_amc.trainer import AmcConfig, build_lora_config
from albef_amc.trainer.data.epoch_dataset import EpochDataset

TERMS = ("itc_loss", "itm_loss", "mlm_loss", "amc_loss", "amc_mean_loss", "amc_max_loss")


@pytest.mark.slow
def test_every_term_is_logged_and_the_sum_is_the_loss(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, itm_weight=0.5, amc_weight=2.0)
    trainer.train()
    logs = list_training_logs(trainer)
    assert len(logs) == 2
    for entry in logs:
        assert all(math.isfinite(entry[name]) for name in TERMS)
        total = entry["itc_loss"] + 0.5 * entry["itm_loss"] + entry["mlm_loss"] + 2 * entry["amc_loss"]
        assert entry["loss"] == pytest.approx(total, rel=1e-4)
        assert entry["amc_loss"] == pytest.approx(0.2 * entry["amc_mean_loss"] + 0.8 * entry["amc_max_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("counted", [True, "non_padding"])
def test_tokens_seen_are_those_of_the_texts(counted, tiny_pretraining_model, tiny_processor, tmp_path):
    """Two steps over four rows of two phrases, of which the second is shorter and padded."""
    rows = build_rows()
    for row in rows:
        row["phrases"][0]["phrase"] += " left of the small car"
    trainer = build_tiny_trainer(
        tiny_pretraining_model,
        tmp_path,
        rows,
        include_num_input_tokens_seen=counted,
        phrases_per_image=2,
        mlm_weight=0.0,
        amc_weight=0.0,
    )
    trainer.train()
    lengths = [len(tiny_processor(text=phrase["phrase"])["input_ids"][0]) for row in rows for phrase in row["phrases"]]
    expected = sum(lengths) if counted == "non_padding" else len(lengths) * max(lengths)
    assert len(set(lengths)) > 1
    assert trainer.state.num_input_tokens_seen == expected
    assert list_training_logs(trainer)[-1]["num_input_tokens_seen"] == expected
    albef = trainer.model.albef
    vision, text = (part.num_parameters(exclude_embeddings=True) for part in (albef.vision_model, albef.text_model))
    assert trainer.state.total_flos == 6 * (4 * 17 * vision + len(lengths) * max(lengths) * text)


@pytest.mark.slow
def test_baseline_computes_no_heatmap(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, amc_weight=0.0, mlm_weight=0.0)
    trainer.train()
    assert {"itc_loss", "itm_loss"} <= list_training_logs(trainer)[0].keys()
    assert not {"amc_loss", "mlm_loss"} & list_training_logs(trainer)[0].keys()


def test_gradients_of_all_objectives_do_not_depend_on_the_order_of_threads(tiny_pretraining_model, tmp_path):
    objectives = {"amc": 1.0, "dice": 1.0, "kl": 1.0, "selfeq": 1.0}
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, objectives=objectives, use_paraphrases=True)
    rows = [{**row, "draw": 0} for row in build_rows()]
    for row in rows:
        row["phrases"][0]["paraphrases"] = ["the car"]
    loss = trainer.compute_loss(tiny_pretraining_model.train(), trainer.data_collator(rows))
    names = list_backward_names([loss])
    assert {"AmaxBackward0", "SmoothL1LossBackward0"} <= names
    assert not [name for name in names if name.startswith(("IndexBackward", "IndexPut"))]


@pytest.mark.slow
def test_order_of_events_in_a_step(tiny_pretraining_model, tmp_path, monkeypatch):
    events = []
    for name in ("clamp_temperature", "update_momentum", "forward", "enqueue"):
        original = getattr(AlbefForPreTraining, name)

        def record(self, *args, _original=original, _name=name, **kwargs):
            events.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(AlbefForPreTraining, name, record)
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, max_steps=1, gradient_accumulation_steps=2)
    trainer.train()
    assert events == ["clamp_temperature", "update_momentum", "forward", "enqueue", "forward", "enqueue"]


@pytest.mark.slow
def test_queues_hold_the_ids_of_the_images(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, max_steps=1)
    trainer.train()
    model = trainer.model
    assert model.image_queue_pointer.item() == 2 and model.text_queue_pointer.item() == 4
    assert (model.image_queue_ids[:2] >= 0).all() and (model.image_queue_ids[2:] == -1).all()
    assert torch.equal(model.text_queue_ids[:4], model.image_queue_ids[:2].repeat_interleave(2))


def test_regions_that_were_changed_after_the_layout_are_refused(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path)
    batch = trainer.data_collator(build_rows(2))
    trainer.model.eval()
    expected = trainer.compute_loss(trainer.model, batch)
    batch["has_region"][0] = False
    with pytest.raises(ValueError, match="`layout` does not fit the batch: it was built from another `has_region`"):
        trainer.compute_loss(trainer.model, batch)
    batch.pop("layout")
    assert trainer.compute_loss(trainer.model, batch) != expected
    batch["has_region"][0] = True
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected)


@pytest.mark.slow
def test_batches_without_regions_leave_amc_at_zero(tiny_pretraining_model, tmp_path):
    rows = build_rows()
    for row in rows:
        for phrase in row["phrases"]:
            phrase["boxes"] = None
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, rows)
    trainer.train()
    assert [entry["amc_loss"] for entry in list_training_logs(trainer)] == [0.0, 0.0]
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_distillation_ramps_over_the_first_epoch(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, distillation_alpha=0.4)
    alphas = []
    for trainer.state.epoch in (0.0, 0.25, 1.0, 3.0):
        alphas.append(trainer.get_distillation_alpha())
    assert alphas == pytest.approx([0.0, 0.1, 0.4, 0.4])
    trainer.args.distillation_ramp_epochs = 0.0
    trainer.state.epoch = 0.0
    assert trainer.get_distillation_alpha() == pytest.approx(0.4)


@pytest.mark.slow
def test_evaluation_returns_logs_and_cards_the_pointing_game(tiny_pretraining_model, tmp_path):
    rows = build_rows()
    trainer = build_tiny_trainer(
        tiny_pretraining_model,
        tmp_path,
        rows,
        rows,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    before = trainer.evaluate()
    assert before["eval_num_phrases"] == 8 and 0 <= before["eval_pointing_game_accuracy"] <= 1
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    stored = json.loads((checkpoint / "metrics.json").read_text())["eval"]
    logged = [entry for entry in trainer.state.log_history if "eval_pointing_game_accuracy" in entry]
    assert stored["pointing_game_accuracy"] == logged[-1]["eval_pointing_game_accuracy"]
    assert set(stored["num_phrases_by_type"].items()) == {("even", 4), ("odd", 4)}
    card = (checkpoint / "README.md").read_text()
    assert f"{100 * stored['pointing_game_accuracy']:.2f}" in card
    assert stored["weights_sha256"] == hash_checkpoint(checkpoint)
    assert stored["weights_sha256"] == hash_weights(tiny_pretraining_model.export_matching_model())


def test_evaluation_changes_neither_the_training_mode_nor_gradients(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, eval_rows={"first": build_rows(2)})
    trainer.model.train()
    metrics = trainer.evaluate()
    assert "eval_first_pointing_game_accuracy" in metrics
    assert all(module.training for module in trainer.model.modules())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


@pytest.mark.slow
def test_checkpoint_loads_as_either_class_with_its_processor(tiny_pretraining_model, tiny_processor, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path)
    trainer.train()
    trainer.save_model()
    matching = AlbefForImageTextMatching.from_pretrained(tmp_path)
    expected = trainer.model.export_matching_model().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in matching.state_dict().items())
    resumed = AlbefForPreTraining.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in trainer.model.state_dict().items())
    ids = AlbefProcessor.from_pretrained(tmp_path)(text=["the red dog"], return_tensors="pt")["input_ids"]
    assert torch.equal(ids, tiny_processor(text=["the red dog"], return_tensors="pt")["input_ids"])
    assert (tmp_path / "README.md").is_file()


@pytest.mark.slow
def test_resume_continues_to_the_same_weights(tiny_pretraining_model, tmp_path):
    start = copy_state(tiny_pretraining_model)

    def run(folder, resume=None, **changes):
        tiny_pretraining_model.load_state_dict(start)
        changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **changes}
        trainer = build_tiny_trainer(tiny_pretraining_model, folder, **changes)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = copy_state(run(tmp_path / "whole").model)
    resumed = run(tmp_path / "other", resume=str(tmp_path / "whole" / "checkpoint-2")).model.state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_overfits_four_images(tmp_path):
    torch.manual_seed(0)
    config = build_tiny_config(initializer_range=0.05)
    config.vision_config.initializer_range = config.text_config.initializer_range = 0.05
    rows = build_rows(4, phrases=1)
    boxes = ([9, 6, 21, 16], [19, 6, 31, 16], [9, 14, 21, 24], [19, 14, 31, 24])
    for row, box in zip(rows, boxes, strict=True):
        row["phrases"][0]["boxes"] = [[float(value) for value in box]]
    trainer = build_tiny_trainer(
        AlbefForPreTraining(config),
        tmp_path,
        rows,
        rows,
        max_steps=150,
        per_device_train_batch_size=4,
        use_augmentation=False,
        learning_rate=2e-3,
        logging_steps=50,
        amc_weight=10.0,
        itc_weight=0.1,
        mlm_weight=0.0,
        warmup_steps=10,
        max_grad_norm=1.0,
    )
    trainer.train()
    assert list_training_logs(trainer)[-1]["amc_loss"] < 0.05
    assert trainer.evaluate()["eval_pointing_game_accuracy"] == 1.0


@pytest.mark.slow
def test_bfloat16_keeps_queues_and_losses_in_float32(tiny_pretraining_model, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, bf16=True)
    trainer.train()
    model = trainer.model
    assert model.image_queue.dtype == model.text_queue.dtype == torch.float32
    assert all(momentum.dtype == torch.float32 for momentum, _ in model.iterate_momentum_pairs())
    assert all(math.isfinite(entry[name]) for entry in list_training_logs(trainer) for name in TERMS)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_losses(tiny_pretraining_model, tmp_path):
    start = copy_state(tiny_pretraining_model)
    losses = []
    for checkpointing in (False, True):
        tiny_pretraining_model.load_state_dict(start)
        trainer = build_tiny_trainer(
            tiny_pretraining_model, tmp_path / str(checkpointing), gradient_checkpointing=checkpointing
        )
        trainer.train()
        losses.append([entry["loss"] for entry in list_training_logs(trainer)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_matching_model_is_refused(tiny_model, tmp_path):
    with pytest.raises(TypeError, match="must be an `AlbefForPreTraining`"):
        build_tiny_trainer(tiny_model, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"amc_weight": -1.0}, "`amc_weight` must be a finite number of at least 0"),
        ({"amc_mean_reduction": "pixel"}, "`amc_mean_reduction` must be one of 'sample', 'batch'"),
        ({"heatmap_denominator": "all"}, "`heatmap_denominator` must be one of 'kept', 'padded'"),
        ({"distillation_axis": "tokens"}, "`distillation_axis` must be one of"),
        ({"region_source": "points"}, "`region_source` must be one of"),
        ({"fp16": True}, "Use `bf16=True`"),
        ({"amc_weight": 0.0, "itc_weight": 0.0, "itm_weight": 0.0, "mlm_weight": 0.0}, "nothing to learn"),
    ],
)
def test_configuration_refuses_bad_values(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        build_tiny_arguments(tmp_path, **changes)


def test_published_values_are_the_defaults(tmp_path):
    config = AmcConfig(output_dir=str(tmp_path))
    (loss,) = config.build_heatmap_objectives().objectives
    assert (loss.mean_margin, loss.max_margin, loss.mean_weight, loss.max_weight) == (0.1, 0.5, 0.2, 0.8)
    assert (config.learning_rate, config.weight_decay, config.max_length) == (1e-5, 0.02, 25)
    assert config.pretraining_objectives == ("itc", "itm", "mlm")


def test_rows_know_their_epoch():
    dataset = EpochDataset([{"image_id": "a"}])
    assert dataset[0] == {"image_id": "a", "draw": 0}
    dataset.set_epoch(3)
    assert dataset[0]["draw"] == 3 and len(dataset) == 1


@pytest.mark.parametrize("has_adapter", [False, True])
def test_training_removes_the_calibration_of_other_weights(has_adapter, tiny_pretraining_model, tmp_path):
    tiny_pretraining_model.save_pretrained(tmp_path / "base")
    model = AlbefForPreTraining.from_pretrained(tmp_path / "base")
    model.config.match_scale, model.config.match_bias, model.config.match_calibration = 0.7, -0.4, {"dataset": "mine"}
    adapter = build_lora_config(model.config, r=2) if has_adapter else None
    trainer = build_tiny_trainer(model, tmp_path / "run", build_rows(), max_steps=1, peft_config=adapter)
    assert model.config.match_calibration == {"dataset": "mine"}
    trainer.train()
    assert (model.config.match_scale, model.config.match_bias, model.config.match_calibration) == (1, 0, None)


def test_pairs_that_are_true_are_no_negatives(tmp_path):
    """Four images hold the same phrase: with identities of texts none of them is a negative of it."""
    rows = build_rows()
    for row in rows[:3]:
        row["phrases"][0]["phrase"] = "a thing"
    rows[3]["phrases"] = [{**rows[3]["phrases"][0], "paraphrases": ["A thing!"]}]
    hashes = [hash_text(clean_caption(phrase["phrase"])) for row in rows for phrase in row["phrases"]]
    logs, queued = {}, {}
    for use_text_ids in (False, True):
        torch.manual_seed(0)
        model = AlbefForPreTraining(build_tiny_config())
        changes = dict(per_device_train_batch_size=4, max_steps=1, use_text_ids=use_text_ids)
        trainer = build_tiny_trainer(model, tmp_path / str(use_text_ids), rows, **changes)
        trainer.train()
        (logs[use_text_ids],) = list_training_logs(trainer)
        queued[use_text_ids] = sorted(model.text_queue_text_ids[:7].tolist())
    assert logs[False]["excluded_negatives"] == 0
    assert logs[True]["excluded_negatives"] == pytest.approx(3 * 3 / 7)
    assert queued == {False: [-1] * 7, True: sorted(hashes)}
    one_in_three = math.log(3) - 2 / 3 * math.log(2)
    assert logs[False]["constant_itm_loss"] == pytest.approx(one_in_three)  # a match and two pairs that do not
    share = 7 / (7 + 4 + 7)  # three phrases are true of every image; every image has a phrase that is not its own
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert logs[True]["constant_itm_loss"] == pytest.approx(entropy)


@pytest.mark.parametrize("sampling", ["hard", "uniform"])
def test_sampling_of_negatives_is_an_option(sampling, tiny_pretraining_model, tmp_path, monkeypatch):
    seen = []
    draw = pretraining_losses_albef.compute_negative_probabilities
    monkeypatch.setattr(
        pretraining_losses_albef,
        "compute_negative_probabilities",
        lambda *given: seen.append(given[2]) or draw(*given),
    )
    build_tiny_trainer(tiny_pretraining_model, tmp_path, max_steps=1, negative_sampling=sampling).train()
    assert seen == [sampling, sampling]


def count_pairs(logs: dict, num_matches: int, num_pairs: int) -> None:
    share = num_matches / num_pairs
    entropy = -share * math.log(share) - ((1 - share) * math.log(1 - share) if share < 1 else 0)
    assert logs["constant_itm_loss"] == pytest.approx(entropy)


@pytest.mark.parametrize("num_false", [0, 2])
def test_false_phrases_are_counted_in_the_loss_of_a_constant_answer(tiny_pretraining_model, tmp_path, num_false):
    """Each of two images has two phrases, each with two negatives; and two false phrases are drawn of three."""
    rows = build_rows(2)
    for index, row in enumerate(rows):
        row["false_phrases"] = [f"{word} car {index}" for word in ("a", "the", "one")]
    changes = dict(max_steps=1, per_device_train_batch_size=2, false_phrases_per_image=num_false)
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, rows, **changes)
    trainer.train()
    (logs,) = list_training_logs(trainer)
    count_pairs(logs, 4, 12 - round(4 * logs["missing_negatives"]) + 2 * num_false)
    assert 0 <= logs["missing_negatives"] < 2


@pytest.mark.parametrize("num_images", [1, 2])
def test_a_batch_in_which_all_is_true_has_no_negative_and_is_counted(
    tiny_pretraining_model, tmp_path, num_images, caplog
):
    rows = build_rows(num_images)
    for row in rows:
        row["phrases"] = [{**phrase, "phrase": "a thing"} for phrase in row["phrases"]]
    changes = dict(max_steps=1, per_device_train_batch_size=num_images)
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, rows, **changes)
    trainer.train()
    (logs,) = list_training_logs(trainer)
    assert logs["missing_negatives"] == 2 and logs["constant_itm_loss"] == 0
    assert math.isfinite(logs["loss"]) and logs["itm_loss"] > 0
    warnings = [record.message for record in caplog.records if "no image is a negative" in record.message]
    assert len(warnings) == 1 and f"the same, 'a thing' (images looked at: {num_images})" in warnings[0]
    assert "set `itm_weight=0`" in warnings[0]


def test_data_without_negatives_are_fine_where_nothing_is_matched(tiny_pretraining_model, tmp_path, caplog):
    rows = build_rows(1)
    build_tiny_trainer(tiny_pretraining_model, tmp_path, rows, max_steps=1, itm_weight=0.0).train()
    assert "is a negative" not in caplog.text
