"""Image encoders that transformers saved (DINOv2, ViT, SigLIP): equal numbers, normalisation, bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_cases import SMALL, check, save_bert
from PIL import Image
from safetensors.torch import load_file, save_file
from testing_utils import GOLDEN_FOLDER, PROJECT_FOLDER, build_batch, build_rows, copy_state, list_changes
from transformers import (
    BitImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from albef_amc import AlbefForPreTraining, AlbefProcessor
from albef_amc.conversion.from_encoders import build_processor
from albef_amc.trainer import AmcTrainer
from albef_amc.trainer.freezing import freeze_parameters
from albef_amc.trainer.training_recipes import build_arguments, build_model_and_processor, load_recipe

NUM_REGISTERS = 3
SIZES = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=32, patch_size=8)
CASES = {
    "dinov2": (Dinov2Model, Dinov2Config, {"mlp_ratio": 2}),
    "registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig,
        {"mlp_ratio": 2, "num_register_tokens": NUM_REGISTERS},
    ),
    "vit": (ViTModel, ViTConfig, {"intermediate_size": 40}),
    "siglip": (SiglipVisionModel, SiglipVisionConfig, {"intermediate_size": 40}),
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def draw_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Weights large enough that every one of them matters; scales of normalisations and layers around 1."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        is_scale = "norm" in name and name.endswith("weight") or "lambda1" in name
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator) + float(is_scale)
    return model.eval()


def build_encoder(case: str, **changes) -> PreTrainedModel:
    model_class, config_class, settings = CASES[case]
    return draw_weights(model_class(config_class(**{**SIZES, **settings, **changes})))


def save_encoder(folder: Path, case: str, **changes) -> Path:
    build_encoder(case, **changes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoders") / "bert")


def build(vision: Path, bert: Path, **options):
    torch.manual_seed(1)
    return AlbefForPreTraining.from_encoders(vision, bert, **{**SMALL, **options}, output_loading_info=True)


def keep_class_and_patches(case: str, states: torch.Tensor) -> torch.Tensor:
    return torch.cat([states[:, :1], states[:, 1 + NUM_REGISTERS :]], dim=1) if case == "registers" else states


# The same numbers as the encoders


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (64, 64)], ids=["its_own", "not_square", "larger"])
@pytest.mark.parametrize("case", CASES)
def test_the_image_encoder_is_that_of_transformers(tmp_path, bert, case, size):
    model, report = build(save_encoder(tmp_path / "vision", case), bert, image_size=size)
    pixels = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    options = {} if case in ("dinov2", "registers") else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        expected = build_encoder(case).double()(pixels, **options).last_hidden_state
        states = model.double().albef.vision_model(pixels)
    check(states[:, 1:] if case == "siglip" else states, keep_class_and_patches(case, expected))
    assert bool(report.resized) is (size != (32, 32))
    assert model.config.vision_config.grid_size == (size[0] // 8, size[1] // 8)
    assert all(torch.equal(follower, parameter) for follower, parameter in model.iterate_momentum_pairs())


@pytest.mark.parametrize("case", ["dinov2", "registers", "vit"])
def test_old_and_new_names_of_attention_weights(tmp_path, bert, case):
    folder = save_encoder(tmp_path / "vision", case)
    old, (expected, _) = load_file(folder / "model.safetensors"), build(folder, bert)
    new = build_encoder(case).state_dict()
    assert any(".attention.query." in name for name in old) and any(".q_proj." in name for name in new)
    save_file(new, folder / "model.safetensors", metadata={"format": "pt"})
    state = build(folder, bert)[0].albef.vision_model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.albef.vision_model.state_dict().items())


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (Dinov2ForImageClassification, Dinov2Config(**SIZES, mlp_ratio=2, num_labels=5)),
        (ViTForImageClassification, ViTConfig(**SIZES, intermediate_size=40, num_labels=5)),
    ],
)
def test_a_classifier_is_read_without_its_head(tmp_path, bert, model_class, config):
    classifier = draw_weights(model_class(config))
    classifier.save_pretrained(tmp_path / "vision")
    model, report = build(tmp_path / "vision", bert)
    assert report.ignored["head of the vision transformer"] == ["classifier.bias", "classifier.weight"]
    pixels = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = classifier.double().base_model(pixels).last_hidden_state
        check(model.double().albef.vision_model(pixels), expected)


def test_the_vision_part_of_siglip(tmp_path, bert):
    """Its patches are SigLIP's; its class token is new, reads them, and is not read by them."""
    text = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    vision = dict(SIZES, intermediate_size=40)
    whole = draw_weights(SiglipModel(SiglipConfig(vision_config=vision, text_config={**text, "eos_token_id": 1})))
    whole.save_pretrained(tmp_path / "siglip")
    model, report = build(tmp_path / "siglip", bert)
    assert report.new["class token of the image encoder (`vision` has none)"] == ["albef.vision_model.cls_token"]
    assert len(report.ignored["pooling of the vision transformer"]) == 11
    assert "logit_scale" in report.ignored["text encoder and scale of SigLIP"]
    assert any("has no class token: a new one reads the patches" in note for note in report.notes)
    encoder = model.double().albef.vision_model
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        states = encoder(pixels)
        check(states[:, 1:], whole.vision_model.double()(pixels).last_hidden_state)
        encoder.cls_token += torch.randn(24)
        changed = encoder(pixels)
    assert torch.equal(changed[:, 1:], states[:, 1:]) and not torch.allclose(changed[:, 0], states[:, 0])


def test_the_page_freezes_siglip_but_for_its_class_token(tmp_path, bert):
    model, _ = build(save_encoder(tmp_path / "vision", "siglip"), bert)
    page = (PROJECT_FOLDER / "docs" / "from-scratch.md").read_text()
    (parts,) = re.findall(r"freeze=\[(albef.*)\]", page)
    freeze_parameters(model, parts.split(", "))
    trained = [name for name, parameter in model.albef.named_parameters() if parameter.requires_grad]
    assert [name for name in trained if name.startswith("vision_model.")] == ["vision_model.cls_token"]
    assert not any("embedding" in name for name in trained)


def test_patches_that_do_not_cover_the_image(tmp_path, bert):
    """As of so400m-patch14-384: 27 patches of 14 pixels cover 378 of 384."""
    model, report = build(save_encoder(tmp_path / "vision", "siglip", image_size=30), bert, image_size=None)
    assert model.config.vision_config.image_size == 24
    assert "`vision` has images of 30 x 30 pixels, of which its patches cover [24, 24]." in report.notes
    pixels = torch.randn(1, 3, 30, 30, dtype=torch.float64)
    with torch.no_grad():
        expected = build_encoder("siglip", image_size=30).double()(pixels).last_hidden_state
        check(model.double().albef.vision_model(pixels[..., :24, :24])[:, 1:], expected)


def test_layer_scale_of_timm_is_folded(tmp_path, bert):
    """What the projections are divided by, layer scale multiplies them with: the outputs stay those of timm."""
    folder = GOLDEN_FOLDER / "timm_vision_transformer"
    state, reference = load_file(folder / "model.safetensors"), load_file(folder / "outputs.safetensors")
    for block in range(3):
        for scale, projection in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            factors = torch.rand(24) + 0.5
            state[f"blocks.{block}.{scale}.gamma"] = factors
            state[f"blocks.{block}.{projection}.weight"] /= factors[:, None]
            state[f"blocks.{block}.{projection}.bias"] /= factors
    save_file(state, tmp_path / "vision.safetensors")
    model, report = build(tmp_path / "vision.safetensors", bert, vision_config={"num_attention_heads": 3})
    assert not any("gamma" in name for names in report.ignored.values() for name in names)
    with torch.no_grad():
        check(model.double().albef.vision_model(reference["pixel_values"]), reference["forward_features"])


# The rest of the model


def test_sizes_come_from_the_configuration(tmp_path, bert):
    folder = save_encoder(tmp_path / "vision", "registers", image_size=[24, 40], num_attention_heads=4)
    model, report = build(folder, bert, image_size=None)
    config = model.config.vision_config
    assert (config.image_height_width, config.patch_size, config.num_attention_heads) == ((24, 40), 8, 4)
    assert (config.intermediate_size, config.num_register_tokens, config.layer_norm_eps) == (48, NUM_REGISTERS, 1e-6)
    assert not report.resized and report.dimensions["vision_config.num_register_tokens"] == NUM_REGISTERS
    assert report.ignored["mask token of the vision transformer"] == ["embeddings.mask_token"]


@pytest.mark.parametrize("case", CASES)
def test_trained_saved_and_loaded(tmp_path, bert, case):
    model, _ = build(save_encoder(tmp_path / "vision", case), bert)
    inputs = build_batch(model.config, (2, 1), length=7)
    model.train()(**inputs, objectives=("itc",)).loss.backward()
    assert all(parameter.grad.any() for parameter in model.albef.vision_model.parameters())
    model.eval().save_pretrained(tmp_path / "checkpoint")
    loaded = AlbefForPreTraining.from_pretrained(tmp_path / "checkpoint")
    for kind in ("itm", "itc"):
        expected, found = (one.ground(**inputs, explanation_kind=kind) for one in (model, loaded))
        assert found.heatmap.shape == (3, 4, 4) and torch.equal(found.heatmap, expected.heatmap)
    resized = AlbefForPreTraining.from_pretrained(tmp_path / "checkpoint", image_size=48)
    assert resized.ground(**build_batch(resized.config, (1,))).heatmap.shape == (1, 6, 6)


# Normalisation


@pytest.mark.parametrize(
    "settings",
    [
        IMAGENET,
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 0.9, 0.8], "image_std": [1.0, 0.5, 0.4]},
        {"do_rescale": False, "image_mean": [120.0, 115.0, 100.0], "image_std": [60.0, 57.0, 57.0]},
        {"do_normalize": False},
    ],
    ids=["imagenet", "other_range", "bytes", "none"],
)
def test_images_are_normalised_as_by_the_encoder(tmp_path, bert, settings):
    folder = save_encoder(tmp_path / "vision", "dinov2")
    theirs = BitImageProcessorPil(do_resize=False, do_center_crop=False, **settings)
    theirs.save_pretrained(folder)
    processor = build_processor(bert, build(folder, bert)[0].config, folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    expected = theirs(images=image, return_tensors="pt")["pixel_values"]
    processor.save_pretrained(tmp_path / "checkpoint")
    for one in (processor, AlbefProcessor.from_pretrained(tmp_path / "checkpoint")):
        assert torch.allclose(one(images=image, text="a")["pixel_values"], expected, atol=1e-5)


def test_encoders_of_timm_keep_the_normalisation_of_albef(bert):
    model, _ = build(GOLDEN_FOLDER / "timm_vision_transformer", bert)
    with_vision = build_processor(bert, model.config, GOLDEN_FOLDER / "timm_vision_transformer")
    assert with_vision.image_processor.image_mean == build_processor(bert, model.config).image_processor.image_mean


def test_a_normalisation_that_is_missing_or_out_of_range(tmp_path, bert):
    folder = save_encoder(tmp_path / "vision", "siglip")
    config = build(folder, bert)[0].config
    with pytest.raises(
        FileNotFoundError, match=r"`vision`: .* has no `preprocessor_config.json`.*Save its image proc"
    ):
        build_processor(bert, config, folder)
    SiglipImageProcessorPil(image_std=[0.0, 0.5, 0.5]).save_pretrained(folder)
    with pytest.raises(ValueError, match="`image_std` in image_processor of .*vision must be 3 numbers"):
        build_processor(bert, config, folder)


# A recipe


@pytest.mark.slow
def test_the_recipe_trains_what_the_encoders_do_not_have(tmp_path, bert):
    folder = save_encoder(tmp_path / "vision", "dinov2")
    BitImageProcessorPil(**IMAGENET).save_pretrained(folder)
    settings = [f"model.vision_encoder={folder}", f"model.text_encoder={bert}", "model.image_size=32", "use_cpu=true"]
    settings += [
        "per_device_train_batch_size=2",
        "max_steps=1",
        "warmup_steps=0",
        "eval_strategy=no",
        "save_strategy=no",
    ]
    recipe = load_recipe("coco_phrases_encoders", settings)
    model, processor = build_model_and_processor(recipe.model, (), seed=3)
    assert processor.image_processor.image_mean == tuple(IMAGENET["image_mean"])
    before = copy_state(model)
    trainer = AmcTrainer(model, build_arguments(recipe, tmp_path / "run"), processor, train_dataset=build_rows(2))
    assert trainer.train().metrics["train_loss"] > 0
    changed = list_changes(before, model, "albef.")
    fusion = model.config.text_config.fusion_layer
    assert changed and not any(name.startswith("albef.vision_model.") for name in changed)
    text = {name.split(".")[3] for name in changed if name.startswith("albef.text_model.layers.")}
    assert text == {str(layer) for layer in range(fusion, model.config.text_config.num_hidden_layers)}
    assert not any("embedding" in name for name in changed)


# Bad input


@pytest.mark.parametrize(
    ("case", "changes", "words"),
    [
        ("dinov2", {"use_swiglu_ffn": True}, "`use_swiglu_ffn` True; ALBEF's image encoder has only False"),
        ("vit", {"qkv_bias": False}, "`qkv_bias` False; ALBEF's image encoder has only True"),
        ("vit", {"hidden_act": "relu"}, "`hidden_act` 'relu'; .* has only 'gelu' or 'gelu_pytorch_tanh'"),
        (
            "registers",
            {"num_register_tokens": 5},
            "`vision`: the weights of .*have other shapes than its `config.json`",
        ),
        ("vit", {"hidden_size": 48}, "`vision`: the weights of .*have other shapes than its `config.json`"),
        ("vit", {"image_size": 64}, "`vision`: the weights of .*have other shapes than its `config.json`"),
        ("vit", {"num_hidden_layers": 4}, "has fewer weights than a ViTModel .*: `layers.3.attention.k_proj.bias`"),
        (
            "siglip",
            {"num_hidden_layers": 2},
            "has more weights than a SiglipVisionModel .*: `encoder.layers.2.layer_n",
        ),
        ("vit", {"model_type": "clip"}, "`model_type` 'clip'; .* one of dinov2, dinov2_with_registers, vit, siglip, "),
    ],
)
def test_configurations_that_do_not_fit(tmp_path, bert, case, changes, words):
    path = save_encoder(tmp_path / "vision", case) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=words):
        build(path.parent, bert)


def test_models_of_another_kind(tmp_path, bert):
    CLIPVisionModel(CLIPVisionConfig(**SIZES, intermediate_size=40)).save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="`model_type` 'clip_vision_model'; ALBEF's image encoder can be one of"):
        build(tmp_path / "clip", bert)
    with pytest.raises(
        ValueError, match="`vision`: .*bert has the `model_type` 'bert'.*such as `facebook/dinov2-base`"
    ):
        build(bert, bert)


def test_weights_that_cannot_be_used(tmp_path, bert):
    folder = save_encoder(tmp_path / "vision", "dinov2")
    file = folder / "model.safetensors"
    state = load_file(file)
    scales = [name for name in state if "layer_scale2" in name]
    save_file({name: state[name] for name in state.keys() - set(scales)}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"fewer weights than a Dinov2Model .*`encoder.layer.0.layer_scale2.lambda1`"):
        build(folder, bert)
    save_file({**state, scales[1]: torch.full((24,), torch.inf)}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="NaN or infinity in 2 entries: `albef.vision_model.layers.1.fc2"):
        build(folder, bert)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="`vision`: the weights of .* cannot be read"):
        build(folder, bert)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="`vision`: .*vision cannot be read"):
        build(folder, bert)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"vision_config": {"hidden_size": 48}},
            "`vision_config.hidden_size` is 24 according to .*, and cannot be set",
        ),
        ({"vision_config": {"num_register_tokens": 4}}, "`vision_config.num_register_tokens` is 0 according to"),
        ({"image_size": 36}, "36, which is not a positive multiple of the patch height 8"),
    ],
)
def test_values_that_do_not_fit(tmp_path, bert, options, words):
    folder = save_encoder(tmp_path / "vision", "dinov2")
    with pytest.raises(ValueError, match=words):
        build(folder, bert, **options)
