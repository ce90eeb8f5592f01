# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Warm starts of a task from a checkpoint of another class: what is copied, duplicated and new, what is refused."""

import logging
import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from hub_server import OWNER, HubServer
from testing_utils import PATIENCE, PROJECT_FOLDER, build_batch, build_tiny_config, run_without_package
from transformers import AutoModelForVisualQuestionAnswering

from albef_amc import (
    AlbefForImageTextMatching,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForTextAssignment,
    AlbefForVisualEntailment,
    AlbefForVisualReasoning,
    AlbefModel,
)
from albef_amc.warm_start_albef import copy_to_decoder, duplicate_fusion_layers

STARTED = (
    AlbefForImageTextRetrieval,
    AlbefForQuestionAnswering,
    AlbefForTextAssignment,
    AlbefForVisualEntailment,
    AlbefForVisualReasoning,
)
MOMENTUM_ENCODERS = ("momentum_vision_model", "momentum_text_model")


@pytest.fixture
def pretraining(tiny_pretraining_model) -> AlbefForPreTraining:
    """Pre-training model whose momentum copies differ from what they follow, and whose queues know images."""
    torch.manual_seed(1)
    with torch.no_grad():
        for copy, _ in tiny_pretraining_model.iterate_momentum_pairs():
            copy.add_(torch.randn_like(copy))
        tiny_pretraining_model.image_queue_ids[:3] = torch.tensor([5, 6, 7])
    return tiny_pretraining_model


@pytest.fixture
def source(pretraining, tmp_path):
    pretraining.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def log(caplog):
    """Lines of this package's warm starts."""
    caplog.set_level(logging.INFO, "albef_amc.warm_start_albef")
    return lambda: [message for message in caplog.messages if "starts from" in message]


def assert_equal(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in found.state_dict().items())


def assert_encoders_equal(model, expected) -> None:
    assert_equal(model.albef.vision_model, expected.albef.vision_model)
    assert_equal(model.albef.text_model, expected.albef.text_model)


# Question answering


def assert_decoder_equals(decoder, encoder, head) -> None:
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings", "embedding_layer_norm"):
        assert_equal(getattr(decoder, name), getattr(encoder, name))
    for layer, copied in zip(decoder.layers, encoder.layers[2:], strict=True):
        assert_equal(layer, copied)
    assert_equal(decoder.lm_head, head)


def test_fusion_layers_become_the_answer_decoder(source, pretraining, log, caplog):
    model = AlbefForQuestionAnswering.from_pretrained(source)
    assert model.config.decoder_layers == 2
    assert_encoders_equal(model, pretraining)
    assert_decoder_equals(model.answer_decoder, pretraining.albef.text_model, pretraining.mlm_head)
    for name in MOMENTUM_ENCODERS:
        assert_equal(getattr(model, name), getattr(pretraining, name))
    momentum = (pretraining.momentum_text_model, pretraining.momentum_mlm_head)
    assert_decoder_equals(model.momentum_answer_decoder, *momentum)
    (line,) = log()
    assert line.startswith(f"AlbefForQuestionAnswering starts from {source}, a checkpoint for pre-training: ")
    assert "text layers 2 to 3 and embeddings copied to the answer decoder; masked-word head copied" in line
    assert line.endswith("nothing newly initialised; momentum copies taken from the checkpoint.")
    assert [record.levelname for record in caplog.records if record.getMessage() == line] == ["WARNING"]


def test_decoder_shares_no_memory_with_the_encoder(source):
    model = AlbefForQuestionAnswering.from_pretrained(source)
    before = model.albef.text_model.layers[2].fc1.weight.clone()
    with torch.no_grad():
        model.answer_decoder.layers[0].fc1.weight.zero_()
        model.answer_decoder.word_embeddings.weight.zero_()
    assert torch.equal(model.albef.text_model.layers[2].fc1.weight, before)
    assert model.albef.text_model.word_embeddings.weight.any()
    assert not model.answer_decoder.lm_head.decoder.weight.any()  # tied to the decoder's own embeddings


def test_started_question_answering_learns(source):
    model = AlbefForQuestionAnswering.from_pretrained(source)
    answers = {"answer_ids": torch.tensor([[2, 7, 3], [2, 8, 3], [2, 9, 3]])}
    model(**build_batch(model.config), **answers).loss.backward()
    assert all(parameter.grad is not None for parameter in model.answer_decoder.parameters())


def test_fewer_decoder_layers(source, pretraining, log):
    model = AlbefForQuestionAnswering.from_pretrained(source, decoder_layers=1)
    assert len(model.answer_decoder.layers) == len(model.momentum_answer_decoder.layers) == 1
    assert_equal(model.answer_decoder.layers[0], pretraining.albef.text_model.layers[2])
    assert "text layers 2 to 2" in log()[0]


@pytest.mark.parametrize("as_config", [False, True])
def test_more_decoder_layers_than_there_are(source, as_config):
    choice = {"config": build_tiny_config(decoder_layers=3)} if as_config else {"decoder_layers": 3}
    with pytest.raises(ValueError, match="`decoder_layers` is 3, but .*source has 2 fusion layers to copy"):
        AlbefForQuestionAnswering.from_pretrained(source, **choice)


def test_matching_checkpoint_has_no_word_head(tiny_model, tmp_path, log):
    tiny_model.save_pretrained(tmp_path)
    model = AlbefForQuestionAnswering.from_pretrained(tmp_path)
    assert_equal(model.answer_decoder.layers[1], tiny_model.albef.text_model.layers[3])
    assert_equal(model.momentum_answer_decoder, model.answer_decoder)
    assert_equal(model.momentum_text_model, model.albef.text_model)
    (line,) = log()
    assert "newly initialised: answer_decoder.lm_head.decoder.bias, answer_decoder.lm_head.dense.bias" in line
    assert line.endswith("momentum copies made from the online weights.")


def test_base_model_checkpoint(tiny_model, tmp_path):
    tiny_model.albef.save_pretrained(tmp_path)
    model = AlbefForQuestionAnswering.from_pretrained(tmp_path)
    assert_encoders_equal(model, tiny_model)
    assert_equal(model.answer_decoder.layers[0], tiny_model.albef.text_model.layers[2])


def test_texts_of_another_width_than_images(tmp_path, log):
    config = build_tiny_config()
    config.vision_config.hidden_size = config.text_config.encoder_width = 48
    pretraining = AlbefForPreTraining(config)
    pretraining.save_pretrained(tmp_path)
    model = AlbefForQuestionAnswering.from_pretrained(tmp_path)
    assert_equal(model.answer_decoder.layers[1].attention, pretraining.albef.text_model.layers[3].attention)
    assert_equal(model.momentum_answer_decoder, model.answer_decoder)
    assert "newly initialised: answer_decoder.layers.0.cross_attention.k_proj.bias, " in log()[0]


def test_auto_class(source, pretraining, log):
    model = AutoModelForVisualQuestionAnswering.from_pretrained(source)
    assert isinstance(model, AlbefForQuestionAnswering) and len(log()) == 1
    assert_decoder_equals(model.answer_decoder, pretraining.albef.text_model, pretraining.mlm_head)


# Two images


@pytest.mark.parametrize("model_class", [AlbefForVisualReasoning, AlbefForTextAssignment])
def test_fusion_layers_are_duplicated(model_class, source, pretraining, log):
    model = model_class.from_pretrained(source)
    text = model.config.text_config
    assert (text.num_hidden_layers, text.fusion_layer, text.images_per_text) == (6, 2, 2)
    assert model.config.explanation_layer == 2
    pairs = [(model.albef.text_model, pretraining.albef.text_model)]
    if model_class is AlbefForVisualReasoning:
        pairs.append((model.momentum_text_model, pretraining.momentum_text_model))
        assert_equal(model.momentum_vision_model, pretraining.momentum_vision_model)
    for found, expected in pairs:
        assert_equal(found.word_embeddings, expected.word_embeddings)
        for index, layer in enumerate(found.layers):
            assert_equal(layer, expected.layers[index if index < 2 else 2 + (index - 2) // 2])
        first, second = (found.layers[index].cross_attention for index in (4, 5))
        assert first.k_proj.weight is second.k_proj.weight and first.v_proj.bias is second.v_proj.bias
        assert first.q_proj.weight is not second.q_proj.weight
    (line,) = log()
    head = "classifier.dense.bias" if model_class is AlbefForVisualReasoning else "assignment_head.bias"
    assert f"text layers 2 to 3 duplicated, one for each image; newly initialised: {head}, " in line
    assert ("momentum copies taken" in line) == (model_class is AlbefForVisualReasoning)


def test_duplicates_share_no_memory_but_keys_and_values(source):
    model = AlbefForVisualReasoning.from_pretrained(source)
    layers = model.albef.text_model.layers
    with torch.no_grad():
        layers[2].fc1.weight.zero_()
    assert layers[3].fc1.weight.any()


def test_published_numbers_of_duplicated_layers():
    names = [f"{encoder}layers.{index}.fc1.bias" for encoder in ("albef.text_model.", "momentum_text_model.")
             for index in range(12)]  # fmt: skip
    doubled = duplicate_fusion_layers({name: torch.tensor(number) for number, name in enumerate(names)}, 6)
    for encoder, offset in (("albef.text_model.", 0), ("momentum_text_model.", 12)):
        found = [int(doubled[f"{encoder}layers.{index}.fc1.bias"]) - offset for index in range(18)]
        assert found == [0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11]


def test_published_numbers_of_decoder_layers():
    weights = {f"albef.text_model.layers.{index}.fc1.bias": torch.tensor(index) for index in range(12)}
    copies = copy_to_decoder(weights, 6, 6)
    assert {name: int(value) for name, value in copies.items()} == {
        f"answer_decoder.layers.{index}.fc1.bias": 6 + index for index in range(6)
    }


def test_text_assignment_starts_visual_reasoning(source, tmp_path, log):
    assignment = AlbefForTextAssignment.from_pretrained(source)
    assignment.save_pretrained(tmp_path / "assignment")
    model = AlbefForVisualReasoning.from_pretrained(tmp_path / "assignment")
    assert_encoders_equal(model, assignment)
    assert_equal(model.momentum_text_model, assignment.albef.text_model)
    line = log()[-1]
    assert "a checkpoint for text assignment (pre-training for NLVR2): " in line and "duplicated" not in line
    assert "newly initialised: classifier.dense.bias" in line and "made from the online weights" in line


# As it is


def test_retrieval_takes_over_everything_but_identities(source, pretraining, log, caplog):
    model = AlbefForImageTextRetrieval.from_pretrained(source)
    assert_equal(model.albef, pretraining.albef)
    assert_equal(model.itm_head, pretraining.itm_head)
    for name in model._momentum_of:
        assert_equal(getattr(model, name), getattr(pretraining, name))
    assert torch.equal(model.image_queue, pretraining.image_queue)
    assert (model.image_queue_ids == -1).all() and (model.text_queue_ids == -1).all()
    (line,) = log()
    assert "queues kept, their image identities forgotten; nothing newly initialised" in line
    assert [record.levelname for record in caplog.records if record.getMessage() == line] == ["INFO"]


def test_entailment_has_its_three_classes(source, pretraining, log):
    model = AlbefForVisualEntailment.from_pretrained(source)
    assert_encoders_equal(model, pretraining)
    assert model.config.id2label == {0: "contradiction", 1: "neutral", 2: "entailment"}
    assert model.classifier.out_proj.weight.shape == (3, 32)
    assert_equal(model.momentum_text_model, pretraining.momentum_text_model)
    assert_equal(model.momentum_classifier, model.classifier)
    assert AlbefForVisualEntailment.from_pretrained(source, num_labels=2).config.num_labels == 2
    assert len(log()) == 2


def test_retrieval_grounds_silently(tiny_model, tmp_path, log):
    torch.manual_seed(0)
    retrieval = AlbefForImageTextRetrieval(build_tiny_config())
    retrieval.save_pretrained(tmp_path)
    model, info = AlbefForImageTextMatching.from_pretrained(tmp_path, output_loading_info=True)
    assert_equal(model.albef, retrieval.albef)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not log()


# Every way of loading


@pytest.mark.parametrize("model_class", STARTED)
def test_saved_and_loaded_again_it_is_a_checkpoint_of_its_own(model_class, source, tmp_path, log):
    model = model_class.from_pretrained(source)
    model.save_pretrained(tmp_path / "saved")
    assert len(log()) == 1
    again, info = model_class.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and len(log()) == 1
    assert_equal(again, model)


@pytest.mark.parametrize("model_class", STARTED)
def test_image_size_and_dtype(model_class, source):
    model = model_class.from_pretrained(source, image_size=48, dtype=torch.bfloat16)
    assert model.config.vision_config.grid_size == (6, 6)
    dtypes = {parameter.dtype for name, parameter in model.named_parameters() if not name.startswith("momentum_")}
    assert dtypes == {torch.bfloat16}
    momentum = {parameter.dtype for name, parameter in model.named_parameters() if name.startswith("momentum_")}
    assert momentum == (set() if model_class is AlbefForTextAssignment else {torch.float32})
    for encoder in (model.albef, model):
        for name in ("vision_model", "momentum_vision_model"):
            if hasattr(encoder, name):
                assert getattr(encoder, name).position_embeddings.shape == (1, 37, 32)


def test_configuration_with_another_image_size(source):
    config = build_tiny_config()
    config.vision_config.image_size = 48
    model = AlbefForVisualReasoning.from_pretrained(source, config=config)
    assert model.config.vision_config.grid_size == (6, 6) and model.config.text_config.num_hidden_layers == 6
    assert config.text_config.num_hidden_layers == 4  # the caller's is unchanged


def test_several_weight_files(pretraining, tmp_path):
    pretraining.save_pretrained(tmp_path, max_shard_size="50kB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model = AlbefForQuestionAnswering.from_pretrained(tmp_path)
    assert_decoder_equals(model.answer_decoder, pretraining.albef.text_model, pretraining.mlm_head)


LOAD_FROM_HUB = """
    import sys, torch
    from huggingface_hub import HfApi
    from albef_amc import AlbefForQuestionAnswering, AlbefForVisualReasoning

    started, answers, here = sys.argv[1:]
    HfApi().create_repo(started)
    HfApi().upload_folder(repo_id=started, folder_path=here)
    model = AlbefForQuestionAnswering.from_pretrained(started, revision="main")
    model.save_pretrained("answers")
    HfApi().create_repo(answers)
    HfApi().upload_folder(repo_id=answers, folder_path="answers")
    try:
        AlbefForVisualReasoning.from_pretrained(answers)
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_hub_repository(source, pretraining, tmp_path):
    with HubServer() as hub:
        command = [sys.executable, "-c", textwrap.dedent(LOAD_FROM_HUB), f"{OWNER}/started", f"{OWNER}/answers"]
        environment = os.environ | hub.environment(tmp_path / "home")
        done = subprocess.run(
            [*command, str(source)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
    assert done.returncode == 0, done.stderr
    assert f"AlbefForQuestionAnswering starts from {OWNER}/started, a checkpoint for pre-training" in done.stderr
    kinds = (r"question answering \(AlbefForQuestionAnswering\)", r"visual reasoning \(NLVR2\)")
    assert re.search(f"{OWNER}/answers is a checkpoint for {kinds[0]}, not for {kinds[1]}", done.stdout)
    model = AlbefForQuestionAnswering.from_pretrained(tmp_path / "answers")
    assert_decoder_equals(model.answer_decoder, pretraining.albef.text_model, pretraining.mlm_head)


LOAD_WITHOUT_THE_PACKAGE = """
    import sys
    from transformers import AutoModelForVisualQuestionAnswering

    model = AutoModelForVisualQuestionAnswering.from_pretrained(sys.argv[1], trust_remote_code=True)
    model.save_pretrained("answers")
"""


@pytest.mark.slow
def test_the_code_in_a_checkpoint_starts_a_task(source, pretraining, tmp_path):
    run_without_package(LOAD_WITHOUT_THE_PACKAGE, str(source), cwd=tmp_path)
    model = AlbefForQuestionAnswering.from_pretrained(tmp_path / "answers")
    assert_decoder_equals(model.answer_decoder, pretraining.albef.text_model, pretraining.mlm_head)


def test_block_of_the_documentation(pretraining, tmp_path, monkeypatch):
    text = (PROJECT_FOLDER / "docs" / "checkpoints.md").read_text()
    block, *_ = (
        part for part in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "384" in part
    )
    pretraining.save_pretrained(tmp_path / "checkpoints" / "albef")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["model"].config.vision_config.image_size == 384


# What is refused


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder of each kind."""
    folder = tmp_path_factory.mktemp("checkpoints")
    AlbefForPreTraining(build_tiny_config()).save_pretrained(folder / "source")
    for model_class in STARTED:
        model_class.from_pretrained(folder / "source").save_pretrained(folder / model_class.__name__)
    return folder


WRONG = [
    ("AlbefForVisualEntailment", AlbefForQuestionAnswering, "visual entailment", "question answering"),
    ("AlbefForQuestionAnswering", AlbefForVisualEntailment, "question answering", "visual entailment"),
    ("AlbefForVisualReasoning", AlbefForTextAssignment, "visual reasoning", "text assignment"),
    ("AlbefForVisualReasoning", AlbefForVisualEntailment, "visual reasoning", "visual entailment"),
    ("AlbefForTextAssignment", AlbefForImageTextRetrieval, "text assignment", "retrieval"),
    ("AlbefForVisualEntailment", AlbefForImageTextMatching, "visual entailment", "matching and grounding"),
    ("AlbefForQuestionAnswering", AlbefForPreTraining, "question answering", "pre-training"),
    ("AlbefForQuestionAnswering", AlbefModel, "question answering", "features of images and texts"),
]


@pytest.mark.parametrize(("saved", "model_class", "task", "asked"), WRONG)
def test_checkpoint_of_another_kind_names_both(saved, model_class, task, asked, checkpoints):
    words = rf"{saved} is a checkpoint for {task}.* \({saved}\), not for {asked}.* \({model_class.__name__}\)"
    with pytest.raises(ValueError, match=words):
        model_class.from_pretrained(checkpoints / saved)


@pytest.mark.parametrize("model_class", [AlbefForQuestionAnswering, AlbefForVisualEntailment])
def test_damaged_weights_of_a_start(model_class, source):
    weights = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="weights of .*source cannot be read .* damaged or was cut off"):
        model_class.from_pretrained(source)


@pytest.mark.parametrize("model_class", STARTED)
def test_a_start_that_lacks_weights(model_class, pretraining, tmp_path):
    weights = pretraining.state_dict()
    del weights["albef.text_model.layers.3.fc1.weight"]
    pretraining.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=rf"lacks \d weights of {model_class.__name__} \(albef.text_model.layers"):
        model_class.from_pretrained(tmp_path)


def test_a_start_without_weight_file(source):
    (source / "model.safetensors").unlink()
    with pytest.raises(OSError, match="source has no file named model.safetensors"):
        AlbefForQuestionAnswering.from_pretrained(source)
