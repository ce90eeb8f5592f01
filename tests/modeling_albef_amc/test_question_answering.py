"""Question answering: what the reference outputs do not show. Ranking, generation, heatmaps of answers, bad input."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from testing_utils import build_batch, build_photo, build_tiny_config, run_without_package

from albef_amc import AlbefConfig, AlbefForQuestionAnswering
from albef_amc.encoders_albef import AlbefTextLayer
from albef_amc.layout_albef import build_layout
from albef_amc.question_answering_albef import compute_answer_losses

CLS, SEP, PAD = 2, 3, 0
LIST = ["red", "the blue dog", "circle", "dog", "red cup", "the red", "small", "green car on"]


def build_config(**changes) -> AlbefConfig:
    return build_tiny_config(decoder_layers=2, **changes)


@pytest.fixture(scope="module")
def built() -> AlbefForQuestionAnswering:
    torch.manual_seed(0)
    model = AlbefForQuestionAnswering(build_config()).eval()
    for own, _ in model.iterate_momentum_pairs():
        own.data.add_(0.02 * torch.randn_like(own))
    return model


@pytest.fixture
def model(built) -> AlbefForQuestionAnswering:
    return copy.deepcopy(built)


def pad_answers(rows: list[list[int]], length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Words of answers as `(A, L)` tokens [CLS] answer [SEP] and their mask."""
    rows = [[CLS, *row, SEP] for row in rows]
    length = max(map(len, rows)) if length is None else length
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask


def build_questions(config: AlbefConfig, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Two questions about one image and one about another, of 2 to 6 tokens."""
    return build_batch(config, phrases_per_image=(2, 1), dtype=dtype)


def build_answers(**changes) -> dict[str, torch.Tensor]:
    """Two answers to the first question, none to the second, three to the third."""
    ids, mask = pad_answers([[7], [8, 9, 10], [11, 12], [13], [7]])
    answers = dict(answer_ids=ids, answer_mask=mask, answer_index=torch.tensor([0, 0, 2, 2, 2]))
    return answers | dict(answer_weights=torch.tensor([0.5, 0.3, 1.0, 0.6, 0.1])) | changes


def build_candidates(processor) -> dict[str, torch.Tensor]:
    return dict(processor.encode_candidates(LIST))


def pick(questions: dict, row: int) -> dict[str, torch.Tensor]:
    """One question with its image, without padding."""
    mask = questions["attention_mask"][row].bool()
    return dict(
        pixel_values=questions["pixel_values"][questions["image_index"][row]][None],
        input_ids=questions["input_ids"][row][mask][None],
        attention_mask=questions["attention_mask"][row][mask][None],
    )


def assert_close(value: torch.Tensor, expected: torch.Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(value, expected, atol=atol, rtol=1e-5)


# Forward


def test_shapes_and_no_loss_without_answers(model):
    questions, answers = build_questions(model.config), build_answers()
    sizes = torch.tensor([[10, 20], [30, 40]])
    outputs = model(**questions, **answers, output_token_heatmap=True, original_sizes=sizes)
    vocab_size, grid = model.config.text_config.vocab_size, model.config.vision_config.grid_size
    expected = {
        "loss": (),
        "answer_losses": (5,),
        "answer_logits": (5, 5, vocab_size),
        "question_states": (3, 6, 32),
        "heatmap": (5, *grid),
        "normalized_heatmap": (5, *grid),
        "token_heatmap": (5, 6, *grid),
        "image_index": (3,),
        "answer_index": (5,),
        "original_sizes": (2, 2),
    }
    assert {name: tuple(value.shape) for name, value in outputs.items()} == expected
    assert set(model(**questions).keys()) == {"question_states", "image_index"}
    assert isinstance(model(**questions, **answers, return_dict=False), tuple)


@torch.no_grad()
def test_batch_equals_single_questions_and_answers(model):
    questions, answers = build_questions(model.config), build_answers()
    outputs = model(**questions, **answers, output_heatmap=True)
    for answer, row in enumerate(answers["answer_index"].tolist()):
        question, kept = pick(questions, row), answers["answer_mask"][answer].bool()
        single = model(**question, answer_ids=answers["answer_ids"][answer][kept][None], output_heatmap=True)
        length = question["input_ids"].shape[1]
        assert_close(outputs.question_states[row, :length], single.question_states[0])
        assert_close(outputs.answer_logits[answer][kept], single.answer_logits[0])
        assert_close(outputs.answer_losses[answer], single.answer_losses[0])
        assert_close(outputs.heatmap[answer], single.heatmap[0])


@torch.no_grad()
def test_padding_changes_nothing(model):
    questions, answers = build_questions(model.config), build_answers()
    expected = model(**questions, **answers, output_heatmap=True)
    wider = dict(questions)
    for name in ("input_ids", "attention_mask"):
        wider[name] = torch.nn.functional.pad(questions[name], (0, 3))
    wider["input_ids"][:, -3:] = 9  # what stands at padding is not read
    longer = dict(answers)
    for name in ("answer_ids", "answer_mask"):
        longer[name] = torch.nn.functional.pad(answers[name], (0, 2))
    longer["answer_ids"] = longer["answer_ids"].masked_fill(longer["answer_mask"] == 0, 9)
    outputs = model(**wider, **longer, output_heatmap=True)
    for name in ("loss", "answer_losses", "heatmap"):
        assert_close(getattr(outputs, name), getattr(expected, name))


@torch.no_grad()
def test_later_tokens_do_not_change_scores_before_them(model):
    questions = build_questions(model.config)
    ids, mask = pad_answers([[7, 8, 9]] * 3)
    others = ids.clone()
    others[:, 2:4] = 15
    before = model(**questions, answer_ids=ids, answer_mask=mask).answer_logits
    after = model(**questions, answer_ids=others, answer_mask=mask).answer_logits
    assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2:4] - after[:, 2:4]).abs().max() > 1e-3


@torch.no_grad()
def test_loss_by_hand(model):
    questions, answers = build_questions(model.config), build_answers()
    outputs = model(**questions, **answers, distillation_alpha=0.0)
    log_probabilities = outputs.answer_logits.log_softmax(dim=-1)
    for answer, (ids, mask) in enumerate(zip(answers["answer_ids"], answers["answer_mask"], strict=True)):
        steps = range(int(mask.sum()) - 1)
        expected = -sum(log_probabilities[answer, step, ids[step + 1]] for step in steps)
        assert_close(outputs.answer_losses[answer], expected)
    assert_close(outputs.loss, (answers["answer_weights"] * outputs.answer_losses).sum() / 3)
    del answers["answer_weights"]
    assert_close(model(**questions, **answers, distillation_alpha=0.0).loss, outputs.answer_losses.sum() / 3)


@torch.no_grad()
def test_distillation_by_hand(model):
    questions, answers = build_questions(model.config), build_answers()
    momentum = copy.deepcopy(model)
    for own, online in momentum.iterate_momentum_pairs():
        online.copy_(own)
    outputs, teacher = (one(**questions, **answers, distillation_alpha=0.0) for one in (model, momentum))
    is_read = answers["answer_mask"][:, 1:]
    products = outputs.answer_logits.log_softmax(dim=-1) * teacher.answer_logits.softmax(dim=-1)
    distilled = -(products.sum(dim=-1)[:, :-1] * is_read).sum(dim=1)
    expected = (answers["answer_weights"] * (0.6 * outputs.answer_losses + 0.4 * distilled)).sum() / 3
    assert model.config.distillation_alpha == 0.4
    assert_close(model(**questions, **answers).loss, expected)


def test_every_image_is_encoded_once(model):
    seen = []
    model.albef.vision_model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    model(**build_questions(model.config), **build_answers(), output_heatmap=True, distillation_alpha=0.0)
    assert seen == [2]


# Training


def test_gradient_reaches_every_trainable_parameter(model):
    model(**build_questions(model.config), **build_answers()).loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("momentum_"):
            assert parameter.grad is None and not parameter.requires_grad, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_gradient_checkpointing_changes_neither_loss_nor_gradients(model):
    for config in (model.config.text_config, model.answer_decoder.config):
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model = model.double().train()
    questions, answers = build_questions(model.config, torch.float64), build_answers()
    calls = []
    model.answer_decoder.layers[0].fc1.register_forward_hook(lambda *_: calls.append(1))

    def train() -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
        model.zero_grad()
        calls.clear()
        outputs = model(**questions, **answers, output_heatmap=True)
        (outputs.loss + outputs.normalized_heatmap.square().mean()).backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        return outputs.loss.detach(), gradients, len(calls)

    loss, gradients, num_calls = train()
    model.activation_checkpointing_enable()
    checkpointed_loss, checkpointed, num_checkpointed_calls = train()
    assert num_checkpointed_calls > num_calls
    assert_close(checkpointed_loss, loss, atol=1e-10)
    assert checkpointed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-11, rtol=1e-8)


def test_momentum_copies_follow(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.update_momentum()
    after, name = model.state_dict(), "layers.1.cross_attention.k_proj.weight"
    own, online = f"momentum_answer_decoder.{name}", f"answer_decoder.{name}"
    momentum = model.config.momentum
    assert_close(after[own], momentum * before[own] + (1 - momentum) * before[online], atol=1e-7)
    assert torch.equal(after[online], before[online])


def test_forward_ranking_and_generation_change_no_state(model, tiny_processor):
    model.train()
    model.answer_decoder.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    questions = build_questions(model.config)
    model.rank_answers(**questions, **build_candidates(tiny_processor))
    model.generate(**questions, max_new_tokens=3)
    model(**questions, **build_answers(), output_heatmap=True)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_learns_answers_by_heart(model, tiny_processor):
    """Two answers to a question in the shares of their weights, one to each of the others."""
    questions = build_questions(model.config)
    answers = dict(tiny_processor.encode_answers(["red", "the blue dog", "circle", "small cup"]))
    answers |= dict(answer_index=torch.tensor([0, 0, 1, 2]), answer_weights=torch.tensor([0.75, 0.25, 1.0, 1.0]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    model.train()
    for _ in range(130):
        model.update_momentum()
        optimizer.zero_grad()
        loss = model(**questions, **answers, distillation_alpha=0.0).loss
        loss.backward()
        optimizer.step()
    expected = ["red", "circle", "small cup"]
    written = model.generate(**questions, max_new_tokens=6)
    assert tiny_processor.batch_decode(written, skip_special_tokens=True) == expected
    candidates = [*LIST, "small cup"]
    ranking = model.rank_answers(**questions, **tiny_processor.encode_candidates(candidates))
    assert [candidates[index] for index in ranking.candidate_index[:, 0]] == expected
    assert candidates[ranking.candidate_index[0, 1]] == "the blue dog"
    assert_close(ranking.probabilities[0, :2], torch.tensor([0.75, 0.25]), atol=0.15)


# Loading, data types, attention


@torch.no_grad()
def test_save_and_load(model, tmp_path):
    questions, answers = build_questions(model.config), build_answers()
    model.save_pretrained(tmp_path)
    loaded, information = AlbefForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    assert torch.equal(loaded(**questions, **answers).loss, model(**questions, **answers).loss)
    assert loaded.config.decoder_layers == 2
    for decoder in (loaded.answer_decoder, loaded.momentum_answer_decoder):
        assert decoder.lm_head.decoder.weight is decoder.word_embeddings.weight
    assert "answer_decoder.lm_head.decoder.weight" not in load_file(tmp_path / "model.safetensors")
    assert all(not own.requires_grad for own, _ in loaded.iterate_momentum_pairs())


def test_checkpoint_without_momentum_is_complete(model, tmp_path):
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("momentum_")}
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded, information = AlbefForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not information["missing_keys"]
    for own, online in loaded.iterate_momentum_pairs():
        assert torch.equal(own, online)
    decoder = loaded.momentum_answer_decoder
    assert decoder.lm_head.decoder.weight is decoder.word_embeddings.weight
    assert decoder.word_embeddings.weight is not loaded.answer_decoder.word_embeddings.weight


def test_bfloat16(model, tiny_processor, tmp_path):
    model.save_pretrained(tmp_path)
    half = AlbefForQuestionAnswering.from_pretrained(tmp_path, dtype=torch.bfloat16)
    questions, answers = build_questions(model.config), build_answers()
    expected, outputs = (one(**questions, **answers, output_heatmap=True) for one in (model, half))
    for name in ("loss", "answer_losses", "answer_logits", "heatmap", "normalized_heatmap"):
        value, reference = getattr(outputs, name), getattr(expected, name)
        assert value.dtype == torch.float32 and value.isfinite().all(), name
        assert (value - reference).abs().max() < 0.15 * reference.abs().max(), name
    assert {parameter.dtype for parameter in half.answer_decoder.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in half.momentum_answer_decoder.parameters()} == {torch.float32}
    ranking = half.rank_answers(**questions, **build_candidates(tiny_processor))
    assert ranking.probabilities.dtype == torch.float32
    assert half.generate(**questions, max_new_tokens=2).shape[0] == 3


def test_attention_backends_agree(model, tmp_path):
    model.save_pretrained(tmp_path)
    questions, answers = build_questions(model.config), build_answers()
    results = []
    for implementation in ("sdpa", "eager"):
        loaded = AlbefForQuestionAnswering.from_pretrained(tmp_path, attn_implementation=implementation)
        assert loaded.answer_decoder.config._attn_implementation == implementation
        results.append(loaded(**questions, **answers, output_heatmap=True))
    for name in ("loss", "answer_logits", "question_states", "heatmap"):
        assert_close(getattr(results[0], name), getattr(results[1], name))
    with pytest.raises(ValueError, match="does not support Flash Attention"):
        AlbefForQuestionAnswering.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


def test_image_size_is_changed_for_all_image_encoders(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AlbefForQuestionAnswering.from_pretrained(tmp_path, image_size=48)
    questions = build_questions(loaded.config)
    assert questions["pixel_values"].shape[-1] == 48
    assert loaded(**questions, **build_answers(), output_heatmap=True).heatmap.shape == (5, 6, 6)


def test_decoder_has_the_layers_that_the_configuration_says(model):
    assert AlbefConfig().decoder_layers == 6
    layers = model.answer_decoder.layers
    assert len(layers) == 2 and all(isinstance(layer, AlbefTextLayer) for layer in layers)
    assert all(layer.cross_attention is not None for layer in layers)
    with pytest.raises(ValueError, match="`decoder_layers` must be a whole number in"):
        build_tiny_config(decoder_layers=0)
    config = build_config()
    config.text_config.sep_token_id = None
    with pytest.raises(ValueError, match="sep_token_id` must be set"):
        AlbefForQuestionAnswering(config)


# Ranking


@torch.no_grad()
def score_alone(model, question: dict, answer: list[int]) -> float:
    """Log-probability of one answer to one question."""
    return -model(**question, answer_ids=torch.tensor([answer]), distillation_alpha=0.0).answer_losses.item()


def list_tokens(candidates: dict) -> list[list[int]]:
    pairs = zip(candidates["candidate_ids"], candidates["candidate_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


@pytest.mark.parametrize("first_token", ["once", "twice"])
def test_ranking_by_hand(model, tiny_processor, first_token):
    questions, candidates = build_questions(model.config), build_candidates(tiny_processor)
    ranking = model.rank_answers(**questions, **candidates, k=3, first_token=first_token)
    indices, probabilities = ranking
    assert indices.shape == probabilities.shape == (3, 3)
    answers = list_tokens(candidates)
    for row in range(3):
        question = pick(questions, row)
        with torch.no_grad():
            logits = model(**question, answer_ids=torch.tensor([[CLS, 5, SEP]])).answer_logits[0, 0]
        first = [logits.log_softmax(dim=-1)[answer[1]].item() for answer in answers]
        shortlist = sorted(range(len(answers)), key=lambda index: -first[index])[:3]
        extra = {"once": 0, "twice": 1}[first_token]
        scores = {index: score_alone(model, question, answers[index]) + extra * first[index] for index in shortlist}
        best_first = sorted(shortlist, key=lambda index: -scores[index])
        assert indices[row].tolist() == best_first
        expected = torch.tensor([scores[index] for index in best_first]).softmax(dim=0)
        assert_close(probabilities[row], expected, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_ranking_in_chunks_and_alone(model, tiny_processor, chunk):
    questions, candidates = build_questions(model.config), build_candidates(tiny_processor)
    expected = model.rank_answers(**questions, **candidates, k=5)
    ranking = model.rank_answers(**questions, **candidates, k=5, answers_per_chunk=chunk)
    assert torch.equal(ranking.candidate_index, expected.candidate_index)
    assert_close(ranking.probabilities, expected.probabilities)
    for row in range(3):
        alone = model.rank_answers(**pick(questions, row), **candidates, k=5, answers_per_chunk=chunk)
        assert torch.equal(alone.candidate_index[0], expected.candidate_index[row])
        assert_close(alone.probabilities[0], expected.probabilities[row])


def test_no_more_answers_are_decoded_together_than_allowed(model, tiny_processor):
    sizes = []
    model.answer_decoder.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    model.rank_answers(**build_questions(model.config), **build_candidates(tiny_processor), k=5, answers_per_chunk=4)
    assert max(sizes) <= 4 and sum(sizes) == 3 + 3 * 5


def test_shortlist_longer_than_the_list_gives_all_of_it(model, tiny_processor):
    questions, candidates = build_questions(model.config), build_candidates(tiny_processor)
    ranking = model.rank_answers(**questions, **candidates, k=len(LIST) + 5)
    assert ranking.candidate_index.sort(dim=1).values.tolist() == [list(range(len(LIST)))] * 3
    assert_close(ranking.probabilities.sum(dim=1), torch.ones(3))
    assert (ranking.probabilities.diff(dim=1) <= 0).all()


def candidates_of(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    ids, mask = pad_answers(rows)
    return dict(candidate_ids=ids, candidate_mask=mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (candidates_of([[7], [8]]) | {"k": 0}, "`k` must be at least 1, got 0"),
        (candidates_of([[7], [8]]) | {"answers_per_chunk": 0}, "`answers_per_chunk` must be at least 1"),
        (candidates_of([[7], [8]]) | {"first_token": "thrice"}, "`first_token` must be one of 'once', 'twice'"),
        ({}, "`candidate_ids` is needed"),
        ({"candidate_ids": torch.zeros(0, 3, dtype=torch.int64)}, "with at least one, got \\(0, 3\\)"),
        (candidates_of([[7], []]), "`candidate_ids` has empty candidates, in rows 1"),
        (candidates_of([[7], [8, 9], [7]]), "`candidate_ids` has the same answer in rows \\[0, 2\\]"),
        ({"candidate_ids": torch.tensor([[CLS, 7, 8]])}, "must begin with \\[CLS\\] and end with \\[SEP\\]; rows 0"),
        (candidates_of([[7]]) | {"candidate_mask": torch.ones(1, 2)}, "`candidate_mask` has shape \\(1, 2\\)"),
    ],
)
def test_candidates_that_do_not_fit(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.rank_answers(**build_questions(model.config), **options)


@pytest.mark.parametrize("method", ["forward", "rank_answers", "generate"])
def test_question_without_words(model, method):
    questions = build_questions(model.config)
    questions["attention_mask"][1, 1:] = 0
    options = candidates_of([[7]]) if method == "rank_answers" else {}
    with pytest.raises(ValueError, match="questions without words, in rows 1"):
        getattr(model, method)(**questions, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_index": None}, "`answer_index` is needed for 5 answers to 3 questions"),
        ({"answer_index": torch.tensor([0, 0, 2, 2, 3])}, "rows of questions between 0 and 2"),
        ({"answer_weights": torch.ones(3)}, "`answer_weights` has shape \\(3,\\) but there are 5"),
        ({"answer_mask": torch.ones(5, 2)}, "`answer_mask` has shape \\(5, 2\\)"),
        ({"answer_ids": torch.full((5, 5), 7)}, "`processor.encode_answers` makes them so"),
        ({"answer_ids": None, "answer_index": None}, "pass `answer_ids`"),
    ],
)
def test_answers_that_do_not_fit(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model(**build_questions(model.config), **build_answers(**changes), output_heatmap=True)


# Generation


@torch.no_grad()
def write_greedily(model, question: dict, longest: int) -> list[int]:
    """The most probable next token, again and again."""
    answer = [CLS]
    states = model(**question).question_states
    while len(answer) <= longest and answer[-1] != SEP:
        logits = model.answer_decoder(
            torch.tensor([answer]),
            encoder_hidden_states=states,
            encoder_attention_mask=question["attention_mask"],
        ).logits
        answer.append(int(logits[0, -1].argmax()))
    return answer


@pytest.fixture
def writer(model) -> AlbefForQuestionAnswering:
    """A model that ends some answers: [SEP] is likelier than with random weights."""
    model.answer_decoder.lm_head.decoder.bias.data[SEP] = 1.5
    return model


@pytest.mark.parametrize("use_cache", [False, True])
def test_greedy_answers_by_hand_and_alone(writer, use_cache):
    questions = build_questions(writer.config)
    written = writer.generate(**questions, max_new_tokens=6, use_cache=use_cache)
    expected = [write_greedily(writer, pick(questions, row), longest=6) for row in range(3)]
    assert len({len(answer) for answer in expected}) > 1  # some end sooner
    for row, answer in enumerate(expected):
        assert written[row].tolist() == answer + [PAD] * (written.shape[1] - len(answer))
        alone = writer.generate(**pick(questions, row), max_new_tokens=6)
        assert alone[0].tolist() == answer


@torch.no_grad()
def test_beams_that_hold_every_token_find_the_best_answer(writer):
    questions, vocab_size = build_questions(writer.config), writer.config.text_config.vocab_size
    written = writer.generate(**questions, num_beams=vocab_size, max_new_tokens=2, length_penalty=0.0)
    for row in range(3):
        question = pick(questions, row)
        answers = torch.tensor([[CLS, first, second] for first in range(vocab_size) for second in range(vocab_size)])
        states = writer(**question).question_states
        logits = writer.answer_decoder(
            answers,
            encoder_hidden_states=states,
            encoder_attention_mask=question["attention_mask"],
            answer_index=torch.zeros(len(answers), dtype=torch.int64),
        ).logits
        mask = torch.ones_like(answers)
        mask[answers[:, 1] == SEP, 2] = 0  # nothing follows the end
        best = answers[compute_answer_losses(logits, answers, mask).argmin()]
        length = 2 if best[1] == SEP else 3
        assert written[row, :length].tolist() == best[:length].tolist()


def test_options_of_generation(writer):
    questions = build_questions(writer.config)
    torch.manual_seed(0)
    sampled = writer.generate(**questions, do_sample=True, num_return_sequences=2, max_new_tokens=4)
    assert sampled.shape[0] == 6 and (sampled[:, 0] == CLS).all()
    scored = writer.generate(**questions, max_new_tokens=2, return_dict_in_generate=True, output_scores=True)
    assert len(scored.scores) == scored.sequences.shape[1] - 1
    with pytest.raises(ValueError, match="no_such_option"):
        writer.generate(**questions, no_such_option=1)


# Heatmaps


def explain_by_hand(model, question: dict, answer: torch.Tensor) -> torch.Tensor:
    """Mean over heads of attention times the positive part of the gradient of the answer's log-probability."""
    text_model, mask, explained = model.albef.text_model, question["attention_mask"], model.config.explanation_layer
    keys_values = text_model.project_image(model.albef.vision_model(question["pixel_values"]))
    layout, first = build_layout(mask, None, len(mask)), model.config.text_config.fusion_layer
    states = text_model.encode(question["input_ids"], layout)
    states = text_model.run_layers(states, layout, keys_values, first=first, last=explained)
    states, attention = text_model.run_explained_layer(explained, states, layout, keys_values)
    states = text_model.run_layers(states, layout, keys_values, first=explained + 1)
    logits = model.answer_decoder(answer, encoder_hidden_states=states, encoder_attention_mask=mask).logits
    steps = torch.arange(answer.shape[1] - 1)
    log_probability = logits[0].log_softmax(dim=-1)[steps, answer[0, 1:]].sum()
    (gradient,) = torch.autograd.grad(log_probability, attention)
    maps = (attention * gradient.clamp(min=0)).mean(dim=1)[0, :, 1:]
    return maps.mean(dim=0).unflatten(-1, model.config.vision_config.grid_size).detach()


def test_heatmap_by_hand(model):
    questions, answers = build_questions(model.config), build_answers()
    outputs = model(**questions, **answers, output_token_heatmap=True)
    maps = []
    for answer, row in enumerate(answers["answer_index"].tolist()):
        kept = answers["answer_mask"][answer].bool()
        maps.append(explain_by_hand(model, pick(questions, row), answers["answer_ids"][answer][kept][None]))
        assert_close(outputs.heatmap[answer].detach(), maps[-1], atol=1e-6)
    assert (maps[2] - maps[3]).abs().max() > 0.01 * maps[2].abs().max()  # answers to one question look elsewhere
    counts = questions["attention_mask"].sum(dim=1)[answers["answer_index"]]
    assert_close(outputs.token_heatmap.sum(dim=1) / counts[:, None, None], outputs.heatmap)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_heatmap_without_gradients(model, context):
    questions, answers = build_questions(model.config), build_answers()
    expected = model(**questions, **answers, output_heatmap=True)
    assert expected.heatmap.requires_grad
    with context():
        outputs = model(**questions, **answers, output_heatmap=True)
    for name in ("heatmap", "loss", "answer_logits"):
        assert not getattr(outputs, name).requires_grad
        assert_close(getattr(outputs, name), getattr(expected, name).detach())
    frozen = model.requires_grad_(False)
    assert_close(frozen(**questions, **answers, output_heatmap=True).heatmap.detach(), expected.heatmap.detach())


@pytest.mark.parametrize(
    "name",
    [
        "albef.vision_model.patch_embedding.weight",
        "albef.text_model.layers.2.cross_attention.q_proj.weight",
        "albef.text_model.layers.3.fc1.weight",
        "answer_decoder.layers.0.cross_attention.k_proj.weight",
        "answer_decoder.layers.1.attention.q_proj.weight",
        "answer_decoder.lm_head.dense.weight",
    ],
)
def test_gradient_of_the_heatmap_against_finite_differences(model, name):
    model = model.double()
    questions, answers = build_questions(model.config, torch.float64), build_answers()
    parameter = model.get_parameter(name)

    def measure() -> torch.Tensor:
        heatmap = model(**questions, **answers, output_heatmap=True, distillation_alpha=0.0).normalized_heatmap
        return heatmap[..., 2:].mean() - heatmap[..., :2].mean() + heatmap.square().mean()

    (gradient,) = torch.autograd.grad(measure(), parameter)
    index, step = int(gradient.abs().argmax()), 1e-6
    values = []
    for offset in (step, -2 * step):
        parameter.data.view(-1)[index] += offset
        values.append(measure().item())
    numeric, exact = (values[0] - values[1]) / (2 * step), gradient.view(-1)[index].item()
    assert exact != 0
    assert numeric == pytest.approx(exact, rel=1e-4)


# Answers as text


def test_answers_become_tokens(tiny_processor):
    encoded = tiny_processor.encode_answers(["red", "The blue DOG", "red"])
    assert encoded["answer_ids"][0].tolist() == tiny_processor.tokenizer("red [SEP]")["input_ids"] + [PAD, PAD]
    assert encoded["answer_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1, 1, 1, 0, 0]]
    decoded = tiny_processor.batch_decode(encoded["answer_ids"], skip_special_tokens=True)
    assert decoded == ["red", "the blue dog", "red"]
    candidates = tiny_processor.encode_candidates(LIST)
    assert set(candidates) == {"candidate_ids", "candidate_mask"} and len(candidates["candidate_ids"]) == len(LIST)


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ([], ValueError, "`answers` is empty"),
        (["red", " "], ValueError, "answer 1 is ' ', which has no words"),
        ("red", TypeError, "`answers` must be a list of strings"),
        (["red", 2], TypeError, "`answers` must be a list of strings"),
        (["red " * 30], ValueError, "answer 0 has 32 tokens.*24 text positions"),
    ],
)
def test_answers_that_are_not_answers(tiny_processor, answers, error, message):
    for encode in (tiny_processor.encode_answers, tiny_processor.encode_candidates):
        with pytest.raises(error, match=message):
            encode(answers)


def test_repeated_candidates_are_named(tiny_processor):
    with pytest.raises(ValueError, match=r"`answers` holds 'red dog' and 'Red  dog' \(entries 1 and 3\)"):
        tiny_processor.encode_candidates(["dog", "red dog", "cup", "Red  dog"])


def test_from_photograph_to_answer(model, tiny_processor):
    inputs = tiny_processor(images=[build_photo(), build_photo(seed=1)], text=[["the red?", "a dog?"], ["a cup"]])
    ranking = model.rank_answers(**inputs, **tiny_processor.encode_candidates(LIST), k=2)
    assert ranking.candidate_index.shape == (3, 2)
    written = tiny_processor.batch_decode(model.generate(**inputs, max_new_tokens=3), skip_special_tokens=True)
    assert len(written) == 3 and all(isinstance(answer, str) for answer in written)
    outputs = model(**inputs, **tiny_processor.encode_answers(["red", "dog", "cup"]), output_heatmap=True)
    assert outputs.heatmap.shape == (3, 4, 4)


# Auto class

LOAD = """
    import json, sys
    from PIL import Image
    from safetensors.torch import save_file
    from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

    checkpoint, photo, answers = sys.argv[1], Image.open(sys.argv[2]), json.loads(sys.argv[3])
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    model = AutoModelForVisualQuestionAnswering.from_pretrained(checkpoint, trust_remote_code=True)
    inputs = processor(images=photo, text=["a red dog", "the cup"], return_tensors="pt")
    ranking = model.rank_answers(**inputs, **processor.encode_candidates(answers), k=4)
    outputs = model(**inputs, **processor.encode_answers(answers[:2]), output_heatmap=True)
    found = dict(index=ranking.candidate_index, probabilities=ranking.probabilities, loss=outputs.loss.detach(),
                 heatmap=outputs.heatmap.detach(), written=model.generate(**inputs, num_beams=2, max_new_tokens=4))
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, sys.argv[4])
    model.save_pretrained(sys.argv[5])
    print(type(model).__name__, type(model).__module__.startswith("transformers_modules."))
"""


@pytest.mark.slow
def test_same_results_without_the_package(model, tiny_processor, tmp_path):
    model.save_pretrained(tmp_path / "checkpoint")
    tiny_processor.save_pretrained(tmp_path / "checkpoint")
    build_photo().save(tmp_path / "photo.png")
    names = ("checkpoint", "photo.png")
    arguments = [*(str(tmp_path / name) for name in names), json.dumps(LIST), "found.safetensors", "second"]
    printed = run_without_package(LOAD, *arguments, cwd=tmp_path)
    assert printed.splitlines()[-1] == "AlbefForQuestionAnswering True"

    found = load_file(tmp_path / "found.safetensors")
    inputs = tiny_processor(images=build_photo(), text=["a red dog", "the cup"])
    ranking = model.rank_answers(**inputs, **tiny_processor.encode_candidates(LIST), k=4)
    outputs = model(**inputs, **tiny_processor.encode_answers(LIST[:2]), output_heatmap=True)
    assert torch.equal(found["index"], ranking.candidate_index)
    assert torch.equal(found["written"], model.generate(**inputs, num_beams=2, max_new_tokens=4))
    assert_close(found["probabilities"], ranking.probabilities)
    assert_close(found["loss"], outputs.loss.detach())
    assert_close(found["heatmap"], outputs.heatmap.detach())
    again = AlbefForQuestionAnswering.from_pretrained(tmp_path / "second").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_auto_class_with_the_package_needs_no_trust(model, tmp_path):
    from transformers import AutoModelForVisualQuestionAnswering

    model.save_pretrained(tmp_path)
    assert type(AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path)) is AlbefForQuestionAnswering
