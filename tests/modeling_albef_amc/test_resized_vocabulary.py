# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Tokens added to or taken from the vocabulary: every part with one row per token follows, and training continues."""

import pytest
import torch
from model_cases import MODELS, add_task_inputs, build_model
from peft import LoraConfig
from testing_utils import (
    VOCABULARY,
    build_batch,
    build_photo,
    build_rows,
    build_tiny_arguments,
    build_tiny_processor,
    build_tiny_trainer,
)

from albef_amc import AlbefForPreTraining, AlbefForQuestionAnswering, AlbefProcessor
from albef_amc.evaluation.checkpoints import load_model_and_processor
from albef_amc.trainer import AmcTrainer

SIZE = len(VOCABULARY)


def list_vocabulary_parameters(model) -> set[str]:
    """Names of all parameters, tied ones under each of their names, with one row per token."""
    return {name for name in model.state_dict() if "word_embeddings." in name or ".decoder." in name}


CHANGES = [(SIZE + 3, None), (SIZE - 4, None), (SIZE, None), (SIZE + 1, 16), (None, 32)]
CASES = [(AlbefForQuestionAnswering, change) for change in CHANGES] + [(model, CHANGES[0]) for model in MODELS]


@pytest.mark.parametrize(("model_class", "changes"), [*CASES, (AlbefForPreTraining, CHANGES[1])])
def test_every_part_follows(model_class, changes, tmp_path):
    model = build_model(model_class)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = list_vocabulary_parameters(model)
    embeddings = model.resize_token_embeddings(*changes)
    wanted, multiple = changes
    size = wanted if multiple is None else -((wanted or SIZE) // -multiple) * multiple
    assert embeddings is model.get_input_embeddings() and embeddings.num_embeddings == size
    assert model.config.text_config.vocab_size == size
    assert embeddings.padding_idx == 0
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert len(tensor) == (size if name in names else len(before[name])), name
        shared = min(size, SIZE) if name in names else None
        assert torch.equal(tensor[:shared], before[name][:shared]), name
    check_learns(model)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert loaded.config.text_config.vocab_size == size
    assert all(torch.equal(tensor, after[name]) for name, tensor in loaded.state_dict().items() if "queue" not in name)


def check_learns(model) -> None:
    """Loss, gradients and the steps around them, with phrases of the last token."""
    inputs = add_task_inputs(model, build_batch(model.config))
    inputs["input_ids"][:, 1] = model.config.text_config.vocab_size - 1
    output = model(**inputs)
    loss = getattr(output, "loss", None)
    if loss is None:
        return
    loss.backward()
    assert model.get_input_embeddings().weight.grad[-1].abs().sum() > 0
    if hasattr(model, "update_momentum"):
        model.update_momentum()
    if hasattr(model, "enqueue"):
        model.enqueue(output.image_features.detach(), output.text_features.detach(), image_index=output.image_index)
    model.zero_grad()


@pytest.mark.parametrize("model_class", [AlbefForPreTraining, AlbefForQuestionAnswering])
def test_new_rows_of_copies_are_those_they_follow(model_class):
    model = build_model(model_class)
    with torch.no_grad():
        for own, _ in model.iterate_momentum_pairs():
            own.add_(1)
    model.resize_token_embeddings(SIZE + 2)
    for own, online in model.iterate_momentum_pairs():
        assert own.shape == online.shape and not own.requires_grad and own.dtype == torch.float32
        if len(own) == SIZE + 2:
            assert torch.equal(own[SIZE:], online[SIZE:]) and not torch.equal(own[:SIZE], online[:SIZE])
    for name, source in model.all_tied_weights_keys.items():
        assert model.get_parameter(name) is model.get_parameter(source)


def test_copies_stay_float32_in_a_model_of_half_precision(tiny_pretraining_model, tmp_path):
    tiny_pretraining_model.save_pretrained(tmp_path)
    model = AlbefForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model.resize_token_embeddings(SIZE + 2)
    assert model.albef.text_model.word_embeddings.weight.dtype == torch.bfloat16
    assert model.momentum_text_model.word_embeddings.weight.dtype == torch.float32
    assert model.momentum_mlm_head.decoder.bias.dtype == torch.float32


def test_an_added_word_grounds_after_a_round_trip(tiny_model, tmp_path):
    processor = build_tiny_processor()
    processor.tokenizer.add_tokens(["zebra", "okapi"])
    tiny_model.resize_token_embeddings(len(processor.tokenizer))
    tiny_model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AlbefProcessor.from_pretrained(tmp_path)
    inputs = loaded(images=build_photo(), text=["a zebra", "the okapi"])
    assert inputs["input_ids"].max() == SIZE + 1
    outputs = type(tiny_model).from_pretrained(tmp_path).ground(**inputs)
    assert torch.equal(outputs.heatmap, tiny_model.ground(**inputs).heatmap)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"new_num_tokens": 0}, ValueError, "`new_num_tokens` must be positive, got 0. Pass `len"),
        ({"new_num_tokens": -3}, ValueError, "must be positive, got -3"),
        ({"new_num_tokens": 26.0}, TypeError, "`new_num_tokens` must be an integer, got 26.0"),
        ({"new_num_tokens": True}, TypeError, "`new_num_tokens` must be an integer, got True"),
        ({"new_num_tokens": 30, "pad_to_multiple_of": 0}, ValueError, "`pad_to_multiple_of` must be positive, got 0"),
        ({"new_num_tokens": 4}, ValueError, "special tokens must stay, and .* id 4. Keep 5 tokens at least"),
    ],
)
@pytest.mark.parametrize("model_class", [AlbefForPreTraining, AlbefForQuestionAnswering])
def test_numbers_that_make_no_vocabulary(model_class, changes, error, words):
    model = build_model(model_class)
    with pytest.raises(error, match=words):
        model.resize_token_embeddings(**changes)
    assert model.config.text_config.vocab_size == model.get_input_embeddings().num_embeddings == SIZE


def test_no_number_changes_nothing(tiny_pretraining_model):
    embeddings = tiny_pretraining_model.resize_token_embeddings()
    assert embeddings is tiny_pretraining_model.get_input_embeddings() and embeddings.num_embeddings == SIZE


# Training


def build_resized(folder):
    """A pre-training checkpoint with two added words, its model and its processor."""
    model, processor = AlbefForPreTraining.from_pretrained(folder), build_tiny_processor()
    processor.tokenizer.add_tokens(["zebra", "okapi"])
    model.resize_token_embeddings(len(processor.tokenizer))
    rows = build_rows()
    for row in rows:
        row["phrases"][0]["phrase"] = "the zebra left of the okapi"
    return model, processor, rows


@pytest.fixture
def base(tmp_path, tiny_pretraining_model):
    tiny_pretraining_model.save_pretrained(tmp_path / "base")
    build_tiny_processor().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.slow
def test_a_run_with_added_words_is_saved_and_resumed(base, tmp_path):
    model, processor, rows = build_resized(base)
    options = dict(processor=processor, save_strategy="steps", save_steps=1)
    build_tiny_trainer(model, tmp_path / "run", rows, **options).train()
    loaded, found = load_model_and_processor(AlbefForPreTraining, tmp_path / "run" / "checkpoint-2")
    assert loaded.momentum_mlm_head.decoder.out_features == len(found.tokenizer) == SIZE + 2
    assert torch.equal(loaded.momentum_mlm_head.decoder.bias, model.momentum_mlm_head.decoder.bias)
    again, processor, rows = build_resized(base)
    trainer = build_tiny_trainer(again, tmp_path / "run", rows, processor=processor, max_steps=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert trainer.state.global_step == 3


@pytest.mark.slow
def test_lora_needs_the_resized_base_as_a_checkpoint(base, tmp_path):
    model, processor, rows = build_resized(base)
    options = dict(train_dataset=rows, peft_config=LoraConfig(r=2))
    with pytest.raises(ValueError, match=r"has 26 word embeddings, but its checkpoint .*base has 24, .* Save the res"):
        AmcTrainer(model, build_tiny_arguments(tmp_path / "run"), processor, **options)
    model.save_pretrained(tmp_path / "resized")
    processor.save_pretrained(tmp_path / "resized")
    model = AlbefForPreTraining.from_pretrained(tmp_path / "resized")
    trainer = AmcTrainer(model, build_tiny_arguments(tmp_path / "run"), processor, **options)
    trainer.train()
    trainer.save_model()
    with pytest.raises(ValueError, match="the model has LoRA layers, and an adapter does not hold word embeddings"):
        trainer.model.resize_token_embeddings(30)
    merged, found = load_model_and_processor(AlbefForPreTraining, tmp_path / "run")
    assert merged.get_input_embeddings().num_embeddings == len(found.tokenizer) == SIZE + 2
    merged.resize_token_embeddings(SIZE + 4)
    assert merged.momentum_text_model.word_embeddings.num_embeddings == SIZE + 4
