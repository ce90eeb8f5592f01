"""Pre-training models of a vision transformer (timm) and a BERT (transformers): equal numbers, reports, bad input."""

import copy
import json
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
from encoder_cases import POSITIONS, SMALL, build_bert_config, check, save_bert
from hub_server import OWNER
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from testing_utils import (
    GOLDEN_FOLDER,
    PROJECT_FOLDER,
    VOCABULARY,
    build_batch,
    build_photo,
    build_rows,
    run_without_package,
)
from transformers import BertForMaskedLM, BertForPreTraining, BertModel, BertTokenizer

from albef_amc import AlbefForPreTraining, AlbefProcessor
from albef_amc.conversion.from_encoders import build_processor
from albef_amc.encoders_albef import resize_position_embeddings
from albef_amc.layout_albef import build_layout
from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.training_recipes import ModelRecipe, build_model_and_processor

TIMM_FOLDER = GOLDEN_FOLDER / "timm_vision_transformer"
HEADS = {"vision_config": {"num_attention_heads": 3}}
SPECIAL = {f"{name}_token_id": VOCABULARY.index(f"[{name.upper()}]") for name in ("pad", "cls", "sep", "mask")}


@pytest.fixture
def bert(tmp_path) -> Path:
    return save_bert(tmp_path / "bert")


@pytest.fixture(scope="module")
def vision_state() -> dict[str, torch.Tensor]:
    """Weights that timm saved."""
    return load_file(TIMM_FOLDER / "model.safetensors")


@pytest.fixture
def built(bert):
    torch.manual_seed(1)
    return AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL, output_loading_info=True)


# The same numbers as the encoders


def test_the_image_tower_is_that_of_timm(built):
    reference = load_file(TIMM_FOLDER / "outputs.safetensors")
    with torch.no_grad():
        check(built[0].double().albef.vision_model(reference["pixel_values"]), reference["forward_features"])


def test_the_text_layers_are_those_of_transformers(built, bert):
    model, reference = built[0].double(), BertModel.from_pretrained(bert, dtype=torch.float64)
    inputs = build_batch(model.config, (2, 2), length=7)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        states = reference(**inputs, output_hidden_states=True).hidden_states
        check(model.get_submodule("albef.text_model")(**inputs), states[model.config.text_config.fusion_layer])


def test_without_cross_attention_all_layers_and_the_word_head_are_those_of_transformers(built, bert):
    """The fusion layers hold BERT's weights too: with their cross-attention taken out they are BERT's."""
    model, reference = copy.deepcopy(built[0]).double(), BertForPreTraining.from_pretrained(bert, dtype=torch.float64)
    inputs = build_batch(model.config, (2, 2), length=7)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    text_model = model.albef.text_model
    for layer in text_model.layers:
        layer.cross_attention = None
    with torch.no_grad():
        expected = reference(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        states = text_model.run_layers(text_model.embed(ids), build_layout(mask, None, len(mask), keep_padding=True))
        check(states, expected.hidden_states[-1])
        check(model.mlm_head(states), expected.prediction_logits)


def test_positions_are_resized_to_the_image(vision_state, bert):
    options = {**SMALL, "image_size": (48, 64), "output_loading_info": True}
    model, report = AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **options)
    expected = resize_position_embeddings(vision_state["pos_embed"], (4, 4), (6, 8))
    assert torch.equal(model.albef.vision_model.position_embeddings, expected)
    assert torch.equal(expected[:, 0], vision_state["pos_embed"][:, 0])
    assert report.resized == {"albef.vision_model.position_embeddings": "(1, 17, 24) to (1, 49, 24)"}
    assert model.config.vision_config.grid_size == (6, 8)
    assert AlbefForPreTraining.from_encoders(
        TIMM_FOLDER, bert, queue_size=16
    ).config.vision_config.image_height_width == (256, 256)


def test_a_file_of_weights_is_enough(built, bert):
    model = AlbefForPreTraining.from_encoders(TIMM_FOLDER / "model.safetensors", bert, **SMALL, **HEADS)
    for name, tensor in model.albef.vision_model.state_dict().items():
        assert torch.equal(tensor, built[0].albef.vision_model.state_dict()[name])
    assert model.config.vision_config.to_dict() == built[0].config.vision_config.to_dict()


def test_the_heads_of_a_published_width_are_known(tmp_path, bert):
    """A vision transformer as wide as DeiT-tiny, with one block."""
    width = 192
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (8, width)}
    linear["mlp.fc2"] = (width, 8)
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 5, width), "patch_embed.proj.weight": (width, 3, 8, 8)}
    shapes |= {f"blocks.0.{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"blocks.0.{name}.bias": shape[:1] for name, shape in linear.items()}
    norms = ("blocks.0.norm1", "blocks.0.norm2", "norm")
    shapes |= {f"{name}.{kind}": (width,) for name in norms for kind in ("weight", "bias")}
    shapes["patch_embed.proj.bias"] = (width,)
    state = {name: torch.randn(shape).half() for name, shape in shapes.items()}
    save_file(state, tmp_path / "vision.safetensors")
    model, report = AlbefForPreTraining.from_encoders(
        str(tmp_path / "vision.safetensors"), bert, **SMALL, output_loading_info=True
    )
    assert model.config.vision_config.num_attention_heads == 3
    assert any("num_attention_heads = 3 is assumed" in note for note in report.notes)
    assert any("stored as float16" in note for note in report.notes)
    assert torch.equal(model.albef.vision_model.cls_token, state["cls_token"].float())


# The rest of the model


def test_what_was_read_what_is_new_and_what_was_ignored(built, vision_state):
    model, report = built
    num_bert = len(BertForPreTraining(build_bert_config()).state_dict())
    num_ignored = {reason: len(names) for reason, names in report.ignored.items()}
    assert num_ignored == {
        "classification head of the vision transformer": 2,
        "pooler of BERT": 2,
        "next-sentence head of BERT": 2,
    }
    # BERT's state dict names the tied decoder's weight and bias a second time
    assert report.num_read == len(vision_state) - 2 + num_bert - 4 - 2
    assert {part: len(names) for part, names in report.new.items()} == {
        "cross-attention of the fusion layers": 2 * (4 * 2 + 2),
        "contrastive projections and temperature": 5,
        "matching head": 2,
    }
    counted = report.num_read + sum(map(len, report.new.values()))
    others = [name for name in model.state_dict() if name.startswith("momentum_") or "_queue" in name]
    assert counted == len(model.state_dict()) - len(others) - 1  # the decoder is tied
    assert report.dimensions["text_config.fusion_layer"] == 2 and report.dimensions["vision_config.patch_size"] == 8
    described = "\n".join(report.describe())
    for words in ("NEW         20 entries: cross-attention", "ignored     2 entries: pooler", "IS A GUESS"):
        assert words in described
    assert report.to_dict()["num_read"] == report.num_read


def test_the_momentum_copies_equal_what_they_follow(built):
    model = built[0]
    pairs = list(model.iterate_momentum_pairs())
    assert len(pairs) > 100
    assert all(torch.equal(follower, parameter) for follower, parameter in pairs)
    assert not any(follower.requires_grad for follower, _ in pairs)
    assert model.mlm_head.decoder.weight is model.albef.text_model.word_embeddings.weight
    assert model.momentum_mlm_head.decoder.weight is model.momentum_text_model.word_embeddings.weight
    assert (model.image_queue_ids < 0).all()


def test_a_seed_settles_what_is_new(built, bert):
    torch.manual_seed(1)
    again = AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in built[0].state_dict().items())
    spread = again.albef.text_model.layers[2].cross_attention.q_proj.weight.std()
    assert 0.1 < spread < 0.3, "new weights have the spread that BERT's configuration gives"


def test_values_of_the_configuration(bert):
    model, report = AlbefForPreTraining.from_encoders(
        TIMM_FOLDER,
        bert,
        image_size=64,
        fusion_layer=1,
        vision_config={"hidden_dropout_prob": 0.25},
        text_config={"attention_probs_dropout_prob": 0.0},
        queue_size=32,
        explanation_layer=3,
        momentum=0.9,
        output_loading_info=True,
    )
    config = model.config
    assert (config.text_config.fusion_layer, config.vision_config.image_size) == (1, 64)
    assert (config.vision_config.hidden_dropout_prob, config.text_config.attention_probs_dropout_prob) == (0.25, 0.0)
    assert (config.queue_size, config.momentum, config.explanation_layer) == (32, 0.9, 3)
    assert not any("explanation_layer" in note for note in report.notes)
    assert {name: getattr(config.text_config, name) for name in SPECIAL} == SPECIAL
    assert config.text_config.hidden_dropout_prob == 0.1 and config.text_config.vocab_size == len(VOCABULARY) + 2
    assert model.albef.text_model.layers[0].cross_attention is None
    assert all(layer.cross_attention is not None for layer in model.albef.text_model.layers[1:])


@pytest.mark.slow
def test_published_depths_have_the_published_layers(tmp_path):
    bert = save_bert(tmp_path / "bert", num_hidden_layers=12)
    model, report = AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL, output_loading_info=True)
    assert (model.config.text_config.fusion_layer, model.config.explanation_layer) == (6, 8)
    assert [note for note in report.notes if "GUESS" in note] == [
        "explanation_block = 1 IS A GUESS: the depth is not the published one. Set it if you know it."
    ]


@pytest.mark.parametrize(("model_class", "has_head"), [(BertForMaskedLM, True), (BertModel, False)])
def test_the_masked_word_head_is_read_where_there_is_one(tmp_path, model_class, has_head, caplog):
    bert = save_bert(tmp_path / "bert", model_class)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    model, report = AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL, output_loading_info=True)
    logger.removeHandler(caplog.handler)
    assert ("masked-word head (`text` has none)" in report.new) is not has_head
    assert ("has no masked-word head: a new one" in caplog.text) is not has_head
    assert ("pooler of BERT" in report.ignored) is (model_class is BertModel)
    if has_head:
        reference = model_class.from_pretrained(bert).cls.predictions
        assert torch.equal(model.mlm_head.dense.weight, reference.transform.dense.weight)
        assert torch.equal(model.mlm_head.decoder.bias, reference.bias)
    assert torch.equal(model.momentum_mlm_head.dense.weight, model.mlm_head.dense.weight)


def test_a_decoder_of_its_own_is_skipped(tmp_path):
    bert = save_bert(tmp_path / "bert", BertForMaskedLM, tie_word_embeddings=False)
    model, report = AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL, output_loading_info=True)
    assert report.ignored["ALBEF predicts words with the word embeddings"] == ["cls.predictions.decoder.weight"]
    state = load_file(bert / "model.safetensors")
    assert not torch.equal(model.mlm_head.decoder.weight, state["cls.predictions.decoder.weight"])
    assert torch.equal(model.mlm_head.decoder.weight, state["bert.embeddings.word_embeddings.weight"])


def test_names_of_old_checkpoints(bert, built):
    """BERT was published with `gamma` and `beta` for what is now called `weight` and `bias`."""
    state = load_file(bert / "model.safetensors")
    old = {re.sub("LayerNorm.bias", "LayerNorm.beta", name): tensor for name, tensor in state.items()}
    old = {re.sub("LayerNorm.weight", "LayerNorm.gamma", name): tensor for name, tensor in old.items()}
    assert old.keys() != state.keys()
    save_file(old, bert / "model.safetensors", metadata={"format": "pt"})
    model = AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL)
    for name, tensor in model.albef.text_model.state_dict().items():
        assert "cross_attention" in name or torch.equal(tensor, built[0].albef.text_model.state_dict()[name]), name


def test_a_step_of_training_reaches_every_weight(built):
    model = built[0].train()
    inputs = build_batch(model.config, (1, 1, 1), length=7)
    model.clamp_temperature()
    model.update_momentum()
    ids = inputs["input_ids"].clone()
    labels = torch.where(inputs["attention_mask"].bool(), ids, -100)
    labels[:, 0] = -100
    output = model(**inputs, mlm_input_ids=ids, mlm_labels=labels)
    assert output.loss.isfinite()
    output.loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in trained.values())
    zero = [name for name, parameter in trained.items() if not parameter.grad.any()]
    assert [name for name in zero if not name.endswith("k_proj.bias")] == []  # the softmax does not see these


def test_saved_and_loaded(built, tmp_path):
    model = built[0]
    inputs = build_batch(model.config, (2, 1))
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = AlbefForPreTraining.from_pretrained(tmp_path / "checkpoint")
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        expected, found = (one(**inputs, objectives=("itc",)) for one in (model, loaded))
    assert torch.equal(expected.itc_loss, found.itc_loss) and torch.equal(expected.itm_logits, found.itm_logits)
    shipped = {file.stem for file in (tmp_path / "checkpoint").glob("*.py")}
    assert "pretraining_albef" in shipped and not shipped & {"from_encoders_albef", "timm_encoder_albef"}


@pytest.mark.slow
def test_the_code_of_a_checkpoint_says_that_it_lacks_this(built, tmp_path):
    built[0].save_pretrained(tmp_path / "checkpoint")
    code = """
        import sys
        from transformers import AutoModelForPreTraining

        model = AutoModelForPreTraining.from_pretrained(sys.argv[1], trust_remote_code=True)
        try:
            type(model).from_encoders("vision", "text")
        except ImportError as error:
            print(error)
    """
    printed = run_without_package(code, str(tmp_path / "checkpoint"), cwd=tmp_path)
    assert "Install the package `albef-amc`" in printed


# Processors


def test_the_processor_reads_with_the_tokens_of_the_bert(built, bert, tmp_path):
    processor = build_processor(bert, built[0].config)
    processor.save_pretrained(tmp_path / "checkpoint")
    for one in (processor, AlbefProcessor.from_pretrained(tmp_path / "checkpoint")):
        inputs = one(images=build_photo(), text=["A red, big Dog.", "unheard"])
        expected = [["[CLS]", "a", "red", "big", "dog"], ["[CLS]", "[UNK]", "[PAD]", "[PAD]", "[PAD]"]]
        assert [[VOCABULARY[index] for index in row] for row in inputs["input_ids"]] == expected
        assert inputs["pixel_values"].shape == (1, 3, 32, 32)
        assert one.tokenizer.model_max_length == POSITIONS


def test_another_language_keeps_its_letters_and_special_tokens(tmp_path):
    tokens = ["<leer>", "grün", "grun", "<anfang>", "<ende>", "<lücke>", "<fremd>", "ball", "##e"]
    names = {"pad_token": "<leer>", "cls_token": "<anfang>", "sep_token": "<ende>", "mask_token": "<lücke>"}
    folder = save_bert(tmp_path / "bert", with_tokenizer=False, vocab_size=len(tokens))
    tokenizer = BertTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        strip_accents=False,
        unk_token="<fremd>",
        **names,
    )
    tokenizer.save_pretrained(folder)
    model = AlbefForPreTraining.from_encoders(TIMM_FOLDER, folder, **SMALL)
    text = model.config.text_config
    assert (text.pad_token_id, text.cls_token_id, text.sep_token_id, text.mask_token_id) == (0, 3, 4, 5)
    inputs = build_processor(folder, model.config)(text=["Grüner", "grün Balle"])
    assert inputs["input_ids"].tolist() == [[3, 6, 0, 0], [3, 1, 7, 8]]


def test_without_a_tokenizer(tmp_path):
    bert = save_bert(tmp_path / "bert", with_tokenizer=False)
    with pytest.raises(ValueError, match=r"`text_config.cls_token_id` is 101.*Save its tokenizer with it"):
        AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL)
    options = {**SMALL, "text_config": SPECIAL, "output_loading_info": True}
    model, report = AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **options)
    assert model.config.text_config.mask_token_id == SPECIAL["mask_token_id"]
    assert any("`text` has no tokenizer" in note for note in report.notes)
    with pytest.raises(FileNotFoundError, match="has no tokenizer"):
        build_processor(bert, model.config)


def test_a_tokenizer_of_another_model(tmp_path):
    bert = save_bert(tmp_path / "bert", vocab_size=len(VOCABULARY) - 1)
    with pytest.raises(ValueError, match=rf"has {len(VOCABULARY)} tokens but the model {len(VOCABULARY) - 1} word"):
        AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL)


# Where encoders come from


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_from_the_hub(bert, built):
    for name, folder in (("vision", TIMM_FOLDER), ("bert", bert)):
        HfApi().create_repo(f"{OWNER}/{name}")
        HfApi().upload_folder(repo_id=f"{OWNER}/{name}", folder_path=folder, ignore_patterns="README.md")
    torch.manual_seed(1)
    model = AlbefForPreTraining.from_encoders(f"{OWNER}/vision", f"{OWNER}/bert", **SMALL)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in built[0].state_dict().items())
    assert build_processor(f"{OWNER}/bert", model.config).tokenizer.cls_token_id == SPECIAL["cls_token_id"]
    with pytest.raises(FileNotFoundError, match=r"`vision`: .*your-name/nothing.*`hf download your-name/nothing"):
        AlbefForPreTraining.from_encoders(f"{OWNER}/nothing", bert)


def test_a_repository_that_cannot_be_reached(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"`vision`: .*`hf download timm/deit.*and give the folder"):
        AlbefForPreTraining.from_encoders("timm/deit_base_patch16_224.fb_in1k", bert)
    with pytest.raises(FileNotFoundError, match=r"`text`: .*`hf download google-bert/bert.*and give the folder"):
        AlbefForPreTraining.from_encoders(TIMM_FOLDER, "google-bert/bert-base-uncased")


def test_names_of_timm_need_timm(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"`vision` is 'deit_tiny'.*pip install '\.\[timm\]'` in a clone"):
        AlbefForPreTraining.from_encoders("deit_tiny", bert)


def test_timm_itself(bert, tmp_path, built):
    timm = pytest.importorskip("timm", reason="timm is an optional package")
    model = AlbefForPreTraining.from_encoders(f"local-dir:{TIMM_FOLDER}", bert, **SMALL)
    for name, tensor in model.albef.vision_model.state_dict().items():
        assert torch.equal(tensor, built[0].albef.vision_model.state_dict()[name])
    arguments = json.loads((TIMM_FOLDER / "config.json").read_text())["model_args"]
    reference = timm.create_model("vit_tiny_patch16_224", **arguments).double().eval()
    reference.load_state_dict(load_file(TIMM_FOLDER / "model.safetensors"))
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        check(model.double().albef.vision_model(pixels), reference.forward_features(pixels))
    refused = {
        "deit_tiny_distilled_patch16_224": "VisionTransformerDistilled|second class token",
        "vit_base_patch16_clip_224": "pre-norm",
        "deit3_small_patch16_224": "positions, which are not those of a class token",
        "vit_small_patch14_reg4_dinov2": "register tokens",
        "vit_small_patch16_rope_224": "it lacks absolute positions",
    }
    small = {name: arguments[name] for name in ("img_size", "embed_dim", "depth", "num_heads", "mlp_ratio")}
    for name, words in refused.items():
        other = timm.create_model(name, **small)
        timm.models.save_for_hf(other, tmp_path / name, model_args=small, safe_serialization=True)
        with pytest.raises(ValueError, match=words):
            AlbefForPreTraining.from_encoders(tmp_path / name, bert, **SMALL, **HEADS)


# Bad input

VISION_CHANGES = {
    "distilled": ({"dist_token": (1, 1, 24), "head_dist.weight": (5, 24)}, (), "second class token.*`dist_token`"),
    "layer_scale": ({"blocks.0.ls1.gamma": (24,)}, (), "lacks weights that every block has: `blocks.0.ls2.gamma`"),
    "other_layer_scale": ({"blocks.0.gamma_1": (24,)}, (), "layer scale with the names of BEiT: `blocks.0.gamma_1`"),
    "pre_norm": ({"norm_pre.weight": (24,)}, (), r"pre-norm\): `norm_pre.weight`"),
    "registers": ({"reg_token": (1, 4, 24)}, (), "register tokens: `reg_token`"),
    "query_norm": ({"blocks.0.attn.q_norm.weight": (8,)}, (), "normalisations inside attention"),
    "relative": ({"blocks.0.attn.rel_pos.mlp.fc1.weight": (8, 2)}, (), "relative positions"),
    "hybrid": ({"patch_embed.backbone.stem.weight": (8, 3)}, (), "more than one convolution"),
    "unknown": ({"adapter.weight": (8,)}, (), "no place: `adapter.weight`"),
    "no_class_token": ({}, ("cls_token",), "it lacks a class token: `cls_token`"),
    "no_qkv_bias": ({}, (r".*qkv\.bias",), "it lacks biases of query, key and value: `blocks.0.attn.qkv.bias`"),
    "pooled": ({"fc_norm.weight": (24,)}, (r"norm\..*",), "lacks the normalisation after the last block"),
    "incomplete": ({}, (r"blocks\.1\.mlp\.fc1\.weight",), "lacks weights that every block has: `blocks.1.mlp.fc1"),
    "no_class_position": ({"pos_embed": (1, 16, 24)}, (), "16 positions, which are not those of a class token"),
    "pruned": ({"blocks.1.attn.qkv.weight": (48, 24)}, (), r"other shapes.*layers.1.attention.qkv.weight \(48, 24\)"),
}


@pytest.mark.parametrize("change", VISION_CHANGES)
def test_what_the_image_tower_cannot_represent(vision_state, bert, tmp_path, change):
    added, removed, words = VISION_CHANGES[change]
    state = {name: tensor for name, tensor in vision_state.items() if not any(re.fullmatch(p, name) for p in removed)}
    save_file({**state, **{name: torch.zeros(shape) for name, shape in added.items()}}, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=words):
        AlbefForPreTraining.from_encoders(tmp_path / "vit.safetensors", bert, **SMALL, **HEADS)


def test_vision_files_of_another_kind(vision_state, bert, tmp_path):
    file = tmp_path / "vit.safetensors"
    with pytest.raises(FileNotFoundError, match="`vision`: no file .*vit.safetensors"):
        AlbefForPreTraining.from_encoders(file, bert)
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="`vision`: .*cannot be read.*Give a safetensors file"):
        AlbefForPreTraining.from_encoders(file, bert)
    save_file({"vit.encoder.layer.0.weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"no `blocks\.\*`.*begin with `vit.encoder.layer.0.weight`"):
        AlbefForPreTraining.from_encoders(file, bert)
    save_file({**vision_state, "norm.bias": torch.full((24,), torch.nan)}, file)
    with pytest.raises(ValueError, match="NaN or infinity in 1 entries: `albef.vision_model.layer_norm.bias`"):
        AlbefForPreTraining.from_encoders(file, bert, **SMALL, **HEADS)
    with pytest.raises(FileNotFoundError, match="`vision`: no `model.safetensors` in"):
        AlbefForPreTraining.from_encoders(bert.parent, bert)
    with pytest.raises(FileNotFoundError, match="`vision`: no file or folder"):
        AlbefForPreTraining.from_encoders(tmp_path / "nothing" / "there", bert)


def test_arguments_of_timm_without_effect(bert, tmp_path):
    description = json.loads((TIMM_FOLDER / "config.json").read_text())
    description["model_args"]["act_layer"] = "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps(description))
    (tmp_path / "model.safetensors").write_bytes((TIMM_FOLDER / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"sets \{'act_layer': 'quick_gelu'\}.*exact GELU"):
        AlbefForPreTraining.from_encoders(tmp_path, bert, **SMALL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position_embedding_type": "relative_key"}, "`position_embedding_type` 'relative_key'"),
        ({"hidden_act": "relu"}, "`hidden_act` 'relu'"),
        ({"is_decoder": True}, "`is_decoder` True"),
        ({"model_type": "xlm-roberta"}, "`model_type` 'xlm-roberta'.*positions begin after the id of padding"),
        ({"model_type": "distilbert"}, "`model_type` 'distilbert'; ALBEF's text encoder is a BERT. Give"),
        ({"num_hidden_layers": 1}, "has 1 layer; ALBEF needs at least two"),
        ({"num_attention_heads": 5}, "width 24, which is not a multiple of its 5 attention heads"),
        ({"num_hidden_layers": 5}, r"lacks 16 weights of a BERT: `bert.encoder.layer.4"),
        ({"intermediate_size": 41}, "have other shapes than its `config.json` says"),
    ],
)
def test_what_the_text_encoder_cannot_represent(bert, changes, words):
    path = bert / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=words):
        AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **SMALL)


def test_text_folders_of_another_kind(bert, tmp_path):
    (bert / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="`text`: the weights of .*cannot be read"):
        AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert)
    (bert / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="`text`: .*bert cannot be read .*model.safetensors"):
        AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert)
    with pytest.raises(FileNotFoundError, match="`text`: no `config.json` in"):
        AlbefForPreTraining.from_encoders(TIMM_FOLDER, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue_sizes": 4}, "unknown value `queue_sizes`. Did you mean `queue_size`"),
        ({"text_config": {"layers": 4}}, "`text_config`: unknown value `layers`"),
        ({"text_config": {"vocab_size": 9}}, r"`text_config.vocab_size` is \d+ according to .*, and cannot be set"),
        ({"vision_config": {"num_attention_heads": 4}}, "`vision_config.num_attention_heads` is 3"),
        ({"fusion_layer": 4}, "`text_config.fusion_layer` must lie between 1 and 3"),
        ({"image_size": 30}, "30, which is not a positive multiple of the patch"),
        ({"explanation_layer": 1}, "`explanation_layer` must be a fusion layer"),
    ],
)
def test_values_that_do_not_fit(bert, options, words):
    with pytest.raises(ValueError, match=words):
        AlbefForPreTraining.from_encoders(TIMM_FOLDER, bert, **{**SMALL, **options})


def test_heads_that_nothing_specifies_or_that_do_not_fit(bert):
    file = TIMM_FOLDER / "model.safetensors"
    with pytest.raises(ValueError, match=r"width 24 is none of the published.*vision_config=\{'num_attention_heads'"):
        AlbefForPreTraining.from_encoders(file, bert, **SMALL)
    with pytest.raises(ValueError, match=r"`vision_config.hidden_size` \(24\) must be a multiple of .* \(5\)"):
        AlbefForPreTraining.from_encoders(file, bert, **SMALL, vision_config={"num_attention_heads": 5})


# Recipes and documentation


@pytest.mark.slow
def test_a_recipe_begins_with_encoders(bert, tmp_path):
    recipe = ModelRecipe(vision_encoder=str(TIMM_FOLDER), text_encoder=str(bert), image_size=32)
    model, processor = build_model_and_processor(recipe, (), seed=3)
    again, _ = build_model_and_processor(recipe, (), seed=3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.config.vision_config.image_size == processor.image_processor.size["height"] == 32
    assert model.config.queue_size == 65536
    arguments = AmcConfig(
        output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, report_to="none"
    )
    trainer = AmcTrainer(model, arguments, processor, train_dataset=build_rows(2))
    assert trainer.train().metrics["train_loss"] > 0


@pytest.mark.slow
def test_the_code_of_the_page_runs(bert, tmp_path, monkeypatch):
    text = (PROJECT_FOLDER / "docs" / "from-scratch.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    for written, folder in (
        ("timm/deit_base_patch16_224.fb_in1k", TIMM_FOLDER),
        ("google-bert/bert-base-uncased", bert),
    ):
        assert written in block
        block = block.replace(written, str(folder))
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    loaded = AlbefForPreTraining.from_pretrained(tmp_path / "checkpoints" / "start")
    assert loaded.config.vision_config.image_size == 256
    assert AlbefProcessor.from_pretrained(tmp_path / "checkpoints" / "start").tokenizer.cls_token_id == 2
