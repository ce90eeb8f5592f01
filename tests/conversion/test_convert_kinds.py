# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Every kind of published checkpoint: names, shapes and shared weights at full size, values and results in small."""

import gzip
import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from testing_utils import GOLDEN_FOLDER
from tiny_originals import HEADS, SPECIAL, VOCABULARY, assert_nothing_written, convert, save

from albef_amc import (
    AlbefForImageTextMatching,
    AlbefForImageTextRetrieval,
    AlbefForTextAssignment,
    AlbefForVisualEntailment,
)
from albef_amc.cli.main import main
from albef_amc.conversion.convert_albef_original_to_hf import MODEL_CLASSES, convert_checkpoint, find_aliases
from albef_amc.conversion.original_checkpoints import (
    find_ignored_reason,
    find_kind,
    infer_config,
    list_kinds,
    rename_original_key,
)
from albef_amc.conversion.weight_files import load_original_state_dict

KINDS = {kind.name: kind for kind in list_kinds()}
AMC_PRE_TRAINING, ALBEF_PRE_TRAINING = KINDS["AMC pre-training"], KINDS["ALBEF pre-training"]
RETRIEVAL = KINDS["ALBEF retrieval, or AMC evaluation, which has the same entries"]
QUESTION_ANSWERING = KINDS["ALBEF visual question answering"]
REASONING, ENTAILMENT = KINDS["ALBEF visual reasoning (NLVR)"], KINDS["ALBEF visual entailment"]
TEXT_ASSIGNMENT = KINDS["ALBEF pre-training for NLVR (text assignment)"]
PUBLISHED_KINDS = {
    "amc_pretrain_256": AMC_PRE_TRAINING,
    "albef_pretrain_256": ALBEF_PRE_TRAINING,
    "amc_eval_384": RETRIEVAL,
    "amc_eval_256": RETRIEVAL,
    "albef_retrieval_384": RETRIEVAL,
    "albef_vqa_384": QUESTION_ANSWERING,
    "albef_nlvr_384": REASONING,
    "albef_ve_384": ENTAILMENT,
    "albef_pretrain_nlvr_256": TEXT_ASSIGNMENT,
}
GOLDEN_KINDS = {
    "tiny_retrieval": RETRIEVAL,
    "tiny_vqa": QUESTION_ANSWERING,
    "tiny_nlvr": REASONING,
    "tiny_ve": ENTAILMENT,
}
# Entries of the classes that the originals do not have under a name of their own.
OWN_QUEUE_ENTRIES = {
    "amc_pretrain_256": {"image_queue_ids", "text_queue_ids", "text_queue_text_ids"},
    "albef_pretrain_256": {"image_queue_ids", "text_queue_ids", "text_queue_text_ids", "text_queue_pointer"},
} | dict.fromkeys(
    ("amc_eval_384", "amc_eval_256", "albef_retrieval_384"),
    {"text_queue_ids", "text_queue_text_ids", "text_queue_pointer"},
)
TOLERANCE = 5e-6  # of a tensor's maximum; the batteries of the classes in tests/parity are closer


def golden(name: str) -> Path:
    return GOLDEN_FOLDER / name / "checkpoint.pth"


def read_golden(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in load_original_state_dict(golden(name)).items()}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual.double() - expected.double()).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.fixture(scope="module")
def published() -> dict[str, dict]:
    """What is known of the full-size checkpoints, by model."""
    return json.loads(gzip.decompress((GOLDEN_FOLDER / "official_checkpoint_keys.json.gz").read_bytes()))


def build_meta(description: dict) -> dict[str, torch.Tensor]:
    """Every entry of a full-size checkpoint as a tensor without values."""
    return {
        name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for name, entry in description["keys"].items()
    }


# Names and shapes of the published checkpoints


def test_all_nine_are_known(published):
    assert published.keys() == PUBLISHED_KINDS.keys()
    assert {name: find_kind(build_meta(description)) for name, description in published.items()} == PUBLISHED_KINDS


@pytest.mark.slow
@pytest.mark.parametrize("model", PUBLISHED_KINDS)
def test_every_published_entry_has_its_place(published, model):
    original, kind = build_meta(published[model]), PUBLISHED_KINDS[model]
    config, notes = infer_config(original)
    with torch.device("meta"):
        built = kind.trained_class(config)
    built.tie_weights()
    expected = {name: tensor.shape for name, tensor in built.state_dict().items()}
    places = {name: rename_original_key(name) for name in original}
    assert {name for name, place in places.items() if place is None} == {
        name for name in original if name.endswith("position_ids")
    }
    for name, place in places.items():
        if place is None:
            assert find_ignored_reason(name)
        else:
            shape = {"temp": (1,), "idx_queue": (65536,)}.get(name, original[name].shape)
            assert shape == expected[place], name
    assert expected.keys() - set(places.values()) == OWN_QUEUE_ENTRIES.get(model, set())
    num_values = sum(parameter.numel() for parameter in built.parameters())
    assert num_values == published[model]["unique_parameters_numel"]
    assert len(notes) == 2 and all("num_attention_heads = 12 is assumed" in note for note in notes)
    aliases = find_aliases(built)
    shared = published[model]["shares_storage_with"]
    shared = {places[name]: places[owner] for name, owner in shared.items() if places[name] != places[owner]}
    assert aliases == shared


@pytest.mark.parametrize("model", PUBLISHED_KINDS)
def test_published_dimensions(published, model):
    config, _ = infer_config(build_meta(published[model]))
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers) == (768, 3072, 12)
    assert (vision.patch_size, vision.num_channels, vision.num_attention_heads) == (16, 3, 12)
    assert vision.image_size == published[model]["image_size"]
    assert (text.vocab_size, text.hidden_size, text.intermediate_size) == (30522, 768, 3072)
    assert (text.fusion_layer, text.max_position_embeddings, text.type_vocab_size) == (6, 512, 2)
    pairs = PUBLISHED_KINDS[model] in (REASONING, TEXT_ASSIGNMENT)
    assert (text.num_hidden_layers, text.images_per_text) == ((18, 2) if pairs else (12, 1))
    assert (config.explanation_layer, config.explanation_block) == ((10, 8) if pairs else (8, 8))
    assert (config.projection_dim, config.queue_size, config.decoder_layers) == (256, 65536, 6)
    assert config.num_labels == (3 if model == "albef_ve_384" else 2)


def test_classes_have_their_published_names(published):
    entailment, _ = infer_config(build_meta(published["albef_ve_384"]))
    assert entailment.id2label == {0: "contradiction", 1: "neutral", 2: "entailment"}
    reasoning, _ = infer_config(build_meta(published["albef_nlvr_384"]))
    assert reasoning.label2id == {"False": 0, "True": 1}


@pytest.mark.slow
def test_full_size(tmp_path, published):
    original = {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)  # one number each: the file stays small
        for name, tensor in build_meta(published["amc_pretrain_256"]).items()
    }
    path = save(original, tmp_path / "AMC.pth", epoch=0, config={"image_res": 256})
    tokens = [*(SPECIAL.get(index, f"token{index}") for index in range(30522))]
    report = convert_checkpoint(path, tmp_path / "out", vocab=tokens, image_size=384, dtype=torch.bfloat16)
    assert not report.missing and not report.unexpected
    with torch.device("meta"):
        expected = AlbefForImageTextMatching(AlbefForImageTextMatching.config_class.from_pretrained(tmp_path / "out"))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as written:
        shapes = {name: tuple(written.get_slice(name).get_shape()) for name in written.keys()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
    assert shapes["albef.vision_model.position_embeddings"] == (1, 577, 768)


# The small reference models, from the command line


@pytest.fixture
def vocabulary_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return str(path)


@pytest.mark.parametrize("keep_momentum", [False, True], ids=["online", "everything"])
@pytest.mark.parametrize("name", GOLDEN_KINDS)
def test_command_converts_every_kind(name, keep_momentum, tmp_path, vocabulary_file, capsys):
    kind, original = GOLDEN_KINDS[name], read_golden(name)
    words = ["convert", str(golden(name)), "--output-dir", str(tmp_path / "out"), "--vocab", vocabulary_file, "--json"]
    words += [word for key, value in HEADS.items() for word in ("--set", f"{key}={value}")]
    assert main(words + ["--keep-momentum"] * keep_momentum) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["kind"], report["model_class"]) == (kind.name, kind.classes[0])
    assert f"{golden(name)}: {kind.name}\n" in printed.err
    assert not report["missing"] and not report["unexpected"] and not report["resized"]
    left_out = {name for names in report["ignored"].values() for name in names}
    assert report["num_converted"] + len(left_out) == len(original)
    assert keep_momentum == all(name.endswith("position_ids") for name in left_out)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert keep_momentum == any(name.startswith("momentum_") or "_queue" in name for name in weights)
    model, info = MODEL_CLASSES[kind.classes[0]].from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    arrived = model.state_dict()
    for entry in original.keys() - left_out - {"idx_queue"}:
        value = arrived[rename_original_key(entry)]
        assert torch.equal(value, original[entry].reshape(value.shape)), entry
    for copy, followed in model.iterate_momentum_pairs():
        assert keep_momentum or torch.equal(copy, followed)


@pytest.mark.parametrize("name", ["tiny_ve", "tiny_nlvr"])
def test_converted_classifier_matches_the_reference(name, tmp_path):
    report = convert(golden(name), tmp_path / "out")
    model = MODEL_CLASSES[report.model_class].from_pretrained(tmp_path / "out")
    inputs, expected = (load_file(GOLDEN_FOLDER / name / f"{part}.safetensors") for part in ("inputs", "outputs"))
    given = {key: inputs[key] for key in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        outputs = model(**given, labels=inputs["targets"], distillation_alpha=0.0)
    assert_close(outputs.logits, expected["logits"])
    assert_close(outputs.loss, expected["loss_no_distill"])


def test_converted_decoder_matches_the_reference(tmp_path):
    report = convert(golden("tiny_vqa"), tmp_path / "out")
    model = MODEL_CLASSES[report.model_class].from_pretrained(tmp_path / "out")
    folder = GOLDEN_FOLDER / "tiny_vqa"
    inputs, expected = (load_file(folder / f"{part}.safetensors") for part in ("inputs", "outputs"))
    with torch.no_grad():
        outputs = model(
            inputs["pixel_values"],
            inputs["question_ids"],
            inputs["question_mask"],
            answer_ids=inputs["answer_ids"],
            answer_mask=inputs["answer_mask"],
            answer_index=torch.arange(3).repeat_interleave(inputs["answers_per_question"]),
            answer_weights=inputs["answer_weights"],
            distillation_alpha=0.0,
        )
    assert_close(outputs.loss, expected["loss_no_distill"])


def test_converted_retrieval_matches_the_reference(tmp_path):
    convert(golden("tiny_retrieval"), tmp_path / "out", keep_momentum=True)
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "out")
    folder = GOLDEN_FOLDER / "tiny_retrieval"
    inputs, expected = (load_file(folder / f"{part}.safetensors") for part in ("inputs", "outputs"))
    given = {key: inputs[key] for key in ("pixel_values", "input_ids", "attention_mask")}
    negatives = {
        "negative_image_index": inputs["negative_image_for_text"],
        "negative_text_index": inputs["negative_text_for_image"],
    }
    model.update_momentum()
    with torch.no_grad():
        outputs = model(**given, **negatives, image_ids=inputs["idx"], distillation_alpha=0.0)
    assert_close(outputs.itc_loss, expected["loss_ita_no_distill"])
    assert_close(outputs.itm_loss, expected["loss_itm"])


# What is particular to a kind


def test_identities_and_pointer_of_one_queue_serve_both(tmp_path):
    original = read_golden("tiny_retrieval")
    report = convert(golden("tiny_retrieval"), tmp_path / "out", keep_momentum=True)
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "out")
    ids = original["idx_queue"][0]
    empty = ids == -100
    assert 0 < empty.sum() < len(ids)
    for modality in ("image", "text"):
        arrived = getattr(model, f"{modality}_queue_ids")
        assert torch.equal(arrived[~empty], ids[~empty]) and (arrived[empty] == -1).all()
        assert torch.equal(getattr(model, f"{modality}_queue_pointer"), original["queue_ptr"])
    (note,) = [note for note in report.notes if "the queues name" in note]
    assert f"{(~empty).sum()} images" in note and "fill `image_queue_ids`" in note


def test_retrieval_without_identities(tmp_path):
    original = read_golden("tiny_retrieval")
    del original["idx_queue"]
    report = convert(save(original, tmp_path / "old.pth"), tmp_path / "out", keep_momentum=True)
    assert report.kind == RETRIEVAL.name
    assert (AlbefForImageTextRetrieval.from_pretrained(tmp_path / "out").text_queue_ids == -1).all()


def test_evaluation_model_of_amc_grounds(tmp_path):
    convert(golden("tiny_retrieval"), tmp_path / "out")
    model, info = AlbefForImageTextMatching.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    convert(golden("tiny_retrieval"), tmp_path / "small", model_class="AlbefForImageTextMatching")
    small = AlbefForImageTextMatching.from_pretrained(tmp_path / "small")
    inputs = load_file(GOLDEN_FOLDER / "tiny_retrieval" / "inputs.safetensors")
    given = {key: inputs[key] for key in ("pixel_values", "input_ids", "attention_mask")}
    outputs = model.ground(**given)
    assert outputs.heatmap.shape == (4, 3, 3) and torch.equal(outputs.heatmap, small.ground(**given).heatmap)


@pytest.mark.parametrize("part", ["key.weight", "key.bias", "value.weight", "value.bias"])
@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_m"])
def test_shared_projections_must_be_equal(part, encoder, tmp_path):
    original = read_golden("tiny_nlvr")
    original[f"{encoder}.encoder.layer.5.crossattention.self.{part}"][0] += 1
    path = save(original, tmp_path / "torn.pth")
    if encoder.endswith("_m"):
        convert(path, tmp_path / "online")
    words = r"layers\.5\.cross_attention\.\w_proj\.\w+` differs from `.*layers\.4\.cross_attention.*is damaged"
    with pytest.raises(ValueError, match=words):
        convert(path, tmp_path / "out", keep_momentum=True)
    assert not (tmp_path / "out").exists()


def build_text_assignment() -> dict[str, torch.Tensor]:
    """The NLVR reference as its own pre-training has it: no momentum, a contrastive part, another head."""
    original = read_golden("tiny_nlvr")
    kept = {name: value for name, value in original.items() if "_m." not in name and not name.startswith("cls_head")}
    contrastive = {"temp": torch.tensor(0.07)}
    for modality in ("vision", "text"):
        contrastive |= {f"{modality}_proj.weight": torch.ones(16, 32), f"{modality}_proj.bias": torch.ones(16)}
    return kept | contrastive | {"ta_head.weight": torch.randn(3, 32), "ta_head.bias": torch.randn(3)}


def test_text_assignment(tmp_path):
    original = build_text_assignment()
    path = save(original, tmp_path / "assignment.pth")
    report = convert(path, tmp_path / "out", keep_momentum=True)
    assert report.kind == TEXT_ASSIGNMENT.name and not report.unexpected
    assert "there are no momentum copies to keep." in report.notes
    model = AlbefForTextAssignment.from_pretrained(tmp_path / "out")
    assert torch.equal(model.assignment_head.weight, original["ta_head.weight"])
    assert torch.equal(model.albef.temperature, original["temp"][None])
    assert model.config.text_config.images_per_text == 2


def test_prefix_of_the_word_head_is_optional(tmp_path):
    original = read_golden("tiny_ve")
    named = {re.sub(r"^(text_encoder(_m)?)\.", r"\1.bert.", name): value for name, value in original.items()}
    report = convert(save(named, tmp_path / "named.pth"), tmp_path / "out")
    convert(golden("tiny_ve"), tmp_path / "expected")
    assert report.kind == ENTAILMENT.name
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "expected"))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_number_of_images_can_be_set(tmp_path):
    heads = {**HEADS, "text_config.images_per_text": 1}
    report = convert(golden("tiny_nlvr"), tmp_path / "out", overrides=heads)
    assert report.kind == ENTAILMENT.name
    model = AlbefForVisualEntailment.from_pretrained(tmp_path / "out")
    assert (model.config.num_labels, model.config.text_config.num_hidden_layers) == (2, 6)


DEPTHS = [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3), (4, 2), (5, 1)]  # text layers, pairs of fusion layers


def build_reasoning(num_text_layers: int, num_pairs: int, are_shared: bool = True) -> dict[str, torch.Tensor]:
    """The NLVR reference at another depth, with random weights; neighbouring fusion layers share keys and values."""
    generator = torch.Generator().manual_seed(num_text_layers)
    state = {name: value for name, value in read_golden("tiny_nlvr").items() if ".encoder.layer." not in name}
    for name, value in read_golden("tiny_nlvr").items():
        found = re.fullmatch(r"(text_encoder(?:_m)?\.encoder\.layer\.)([02])\.(.+)", name)
        if found is None:
            continue
        layers = range(num_text_layers)
        if found[2] == "2":
            layers = range(num_text_layers, num_text_layers + 2 * num_pairs)
        for layer in layers:
            is_second = found[2] == "2" and (layer - num_text_layers) % 2
            is_shared = are_shared and re.match(r"crossattention\.self\.(key|value)", found[3])
            if is_second and is_shared:
                state[f"{found[1]}{layer}.{found[3]}"] = state[f"{found[1]}{layer - 1}.{found[3]}"].clone()
            else:
                drawn = torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
                state[f"{found[1]}{layer}.{found[3]}"] = drawn
    return state


@pytest.mark.slow
@pytest.mark.parametrize("depth", DEPTHS)
def test_reasoning_of_any_depth_is_known_by_its_weights(depth, tmp_path):
    path = save(build_reasoning(*depth), tmp_path / "nlvr.pth")
    report = convert(path, tmp_path / "out", model_class="AlbefForVisualReasoning")
    assert report.kind == REASONING.name and not report.unexpected
    assert any(
        note == "text_config.images_per_text = 2: neighbouring fusion layers share the keys and values of images."
        for note in report.notes
    )
    model = MODEL_CLASSES[report.model_class].from_pretrained(tmp_path / "out")
    text, layer = model.config.text_config, model.config.explanation_layer
    assert (text.fusion_layer, text.num_hidden_layers, text.images_per_text) == (depth[0], sum(depth) + depth[1], 2)
    assert layer == depth[0] + 2 * (depth[1] // 3)
    assert any(note.startswith(f"explanation_layer = {layer} IS A GUESS") for note in report.notes)
    chosen = depth[0] + 2 * depth[1] - 2
    given = convert(path, tmp_path / "given", overrides={**HEADS, "explanation_layer": chosen})
    assert given.dimensions["explanation_layer"] == chosen
    assert not any("explanation_layer" in note for note in given.notes)


@pytest.mark.parametrize("depth", DEPTHS)
def test_entailment_of_any_depth_is_known_by_its_weights(depth, tmp_path):
    original = build_reasoning(*depth, are_shared=False)  # also where the number of layers is that of pairs
    report = convert(save(original, tmp_path / "ve.pth"), tmp_path / "out")
    assert report.kind == ENTAILMENT.name
    assert any("images_per_text = 1: neighbouring fusion layers do not share" in note for note in report.notes)
    with pytest.raises(ValueError, match="is ALBEF visual entailment, but AlbefForVisualReasoning is for"):
        convert(tmp_path / "ve.pth", tmp_path / "no", model_class="AlbefForVisualReasoning")


def test_what_weights_do_not_determine_is_guessed_and_reported():
    original = {name: torch.zeros_like(value) for name, value in build_reasoning(1, 1).items()}
    config, notes = infer_config(original, HEADS)
    assert config.text_config.images_per_text == 2
    assert "text_config.images_per_text = 2 IS A GUESS from the number of layers. Set it if you know it." in notes


def test_image_size_and_dtype_of_another_kind(tmp_path):
    report = convert(golden("tiny_vqa"), tmp_path / "out", image_size=64, dtype=torch.bfloat16)
    assert list(report.resized) == ["albef.vision_model.position_embeddings"]
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    model = MODEL_CLASSES["AlbefForQuestionAnswering"].from_pretrained(tmp_path / "out")
    assert model.config.vision_config.grid_size == (4, 4)
    assert math.prod(model.momentum_vision_model.position_embeddings.shape) == 17 * 32


# What is refused


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        (
            "tiny_ve",
            "AlbefForQuestionAnswering",
            "is ALBEF visual entailment, but AlbefForQuestionAnswering is for question answering. It converts to "
            "AlbefForVisualEntailment.",
        ),
        (
            "tiny_pretrain",
            "AlbefForVisualReasoning",
            r"is AMC pre-training, but AlbefForVisualReasoning is for visual reasoning \(NLVR2\). It converts to "
            "AlbefForImageTextMatching or AlbefForPreTraining. Convert it, and load the folder with "
            "AlbefForVisualReasoning, which starts from it.",
        ),
        ("tiny_vqa", "AlbefForImageTextMatching", "visual question answering, but .* for matching and grounding"),
        ("tiny_retrieval", "AlbefForPreTraining", "ALBEF retrieval, or AMC evaluation.* for pre-training"),
        ("tiny_ve", "AlbefForVqa", "`model_class` must be one of .*'AlbefForImageTextMatching', .* got 'AlbefForVqa'"),
    ],
)
def test_a_class_of_another_kind_is_refused(name, asked, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        convert(golden(name), tmp_path / "out", model_class=asked)
    assert_nothing_written(tmp_path)


def test_a_class_without_momentum_copies(tmp_path):
    with pytest.raises(ValueError, match="AlbefForImageTextMatching has no momentum copies to keep"):
        convert(golden("tiny_pretrain"), tmp_path / "out", keep_momentum=True, model_class="AlbefForImageTextMatching")
    report = convert(golden("tiny_pretrain"), tmp_path / "out", model_class="AlbefForPreTraining")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert report.model_class == "AlbefForPreTraining" and "mlm_head.dense.weight" in weights
    assert not any(name.startswith("momentum_") or "queue" in name for name in weights)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("tiny_vqa", "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"),
        ("tiny_nlvr", "cls_head.2.bias"),
        ("tiny_ve", "cls_head_m.0.weight"),
    ],
)
def test_missing_entries_of_heads_are_refused(name, entry, tmp_path):
    original = read_golden(name)
    del original[entry]
    with pytest.raises(ValueError, match=f"lacks 1 entries .*{re.escape(rename_original_key(entry))}"):
        convert(save(original, tmp_path / "less.pth"), tmp_path / "out", keep_momentum=True)


def test_encoders_without_a_known_head(tmp_path):
    original = {name: value for name, value in read_golden("tiny_ve").items() if not name.startswith("cls_head")}
    with pytest.raises(ValueError, match="the head of no published model"):
        convert(save(original, tmp_path / "headless.pth"), tmp_path / "out")
