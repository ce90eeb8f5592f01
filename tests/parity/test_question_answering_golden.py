"""The small question-answering model against the published code: states, losses, gradients, one update, ranking."""

import pytest
import torch
from testing_utils import Golden

from albef_amc import AlbefConfig, AlbefForQuestionAnswering, AlbefTextConfig
from albef_amc.conversion.original_checkpoints import rename_original_key

GOLDEN = Golden("tiny_vqa")
QUESTIONS = {
    "pixel_values": GOLDEN.inputs["pixel_values"],
    "input_ids": GOLDEN.inputs["question_ids"],
    "attention_mask": GOLDEN.inputs["question_mask"],
}
ANSWERS = {
    "answer_ids": GOLDEN.inputs["answer_ids"],
    "answer_mask": GOLDEN.inputs["answer_mask"],
    "answer_index": torch.arange(3).repeat_interleave(GOLDEN.inputs["answers_per_question"]),
    "answer_weights": GOLDEN.inputs["answer_weights"],
}
# A gradient made of terms that cancel: the reference itself is 7e-6 of its maximum away from float64.
CANCELLING = "grad/text_decoder.bert.encoder.layer.0.crossattention.self.key.weight"
CANCELLING_TOLERANCE = 50e-6  # of its maximum
CANDIDATES = {name: GOLDEN.inputs[name] for name in ("candidate_ids", "candidate_mask")}


def build_config() -> AlbefConfig:
    published = GOLDEN.config
    text = published["text_config"]
    return AlbefConfig(
        vision_config={
            "hidden_size": published["vision_width"],
            "intermediate_size": published["vision_width"] * published["vision_mlp_ratio"],
            "num_hidden_layers": published["vision_depth"],
            "num_attention_heads": published["vision_heads"],
            "image_size": published["image_res"],
            "patch_size": published["patch_size"],
            "layer_norm_eps": published["vision_layer_norm_eps"],
        },
        text_config={
            name: text[name]
            for name in AlbefTextConfig.__annotations__
            if name in text and name not in ("model_type", "encoder_width")
        },
        decoder_layers=published["decoder_layers"],
        momentum=published["momentum"],
        distillation_alpha=published["alpha"],
        explanation_layer=text["fusion_layer"],
        explanation_block=0,
    )


@pytest.fixture
def model() -> AlbefForQuestionAnswering:
    original = torch.load(GOLDEN.folder / "checkpoint.pth", weights_only=True)["model"]
    model = AlbefForQuestionAnswering(build_config()).eval()
    renamed = {rename_original_key(name): value for name, value in original.items()}
    report = model.load_state_dict({name: value for name, value in renamed.items() if name}, strict=False)
    assert not report.missing_keys and not report.unexpected_keys
    return model


def test_states_scores_and_losses_without_distillation(model):
    with torch.no_grad():
        outputs = model(**QUESTIONS, **ANSWERS, distillation_alpha=0.0)
    GOLDEN.check("question_states", outputs.question_states)
    GOLDEN.check("answer_logits", outputs.answer_logits)
    GOLDEN.check("answer_loss_per_answer", outputs.answer_losses)
    GOLDEN.check("loss_no_distill", outputs.loss)


@pytest.mark.parametrize("output_heatmap", [False, True])
def test_distilled_loss_its_gradients_and_the_update(model, output_heatmap):
    model.update_momentum()
    outputs = model(**QUESTIONS, **ANSWERS, output_heatmap=output_heatmap)
    GOLDEN.check("answer_logits", outputs.answer_logits)
    GOLDEN.check("loss_distill", outputs.loss)
    outputs.loss.backward()
    parameters, state = dict(model.named_parameters()), model.state_dict()
    for name in GOLDEN.outputs:
        folder, _, original = name.partition("/")
        if name == CANCELLING:
            expected, found = GOLDEN.outputs[name], parameters[rename_original_key(original)].grad
            assert (found - expected).abs().max() <= CANCELLING_TOLERANCE * expected.abs().max()
        elif folder == "grad":
            GOLDEN.check(name, parameters[rename_original_key(original)].grad)
        elif folder == "after":
            GOLDEN.check(name, state[rename_original_key(original)])
    assert any(name.startswith("grad/text_decoder.") for name in GOLDEN.outputs)
    assert any(name.startswith("after/") for name in GOLDEN.outputs)


@pytest.mark.parametrize("chunk", [1, 5, 256])
def test_ranking_as_released(model, chunk):
    ranking = model.rank_answers(
        **QUESTIONS, **CANDIDATES, k=GOLDEN.config["k_test"], first_token="twice", answers_per_chunk=chunk
    )
    GOLDEN.check("topk_ids", ranking.candidate_index)
    GOLDEN.check("topk_probs", ranking.probabilities)
