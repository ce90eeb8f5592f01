# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Fuzz test of checkpoint folders: configuration, weights, processor and tokenizer, as every command loads them."""

import functools
import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_frame import UNAFFECTED, Category, refused
from fuzz_inputs import Drawn, build_model, build_photo, build_processor, choose, get_folder
from safetensors.torch import load_file, save_file

from albef_amc import AlbefForImageTextMatching
from albef_amc.evaluation.checkpoints import load_model_and_processor

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
NAN, HUGE = float("nan"), 10**400
Change = Callable[[Path], None]
# Weights whose first axis the configuration states.
STATED_SIZES = {
    "vision_model.patch_embedding.weight": "vision_config.hidden_size",
    "vision_model.layers.0.fc1.weight": "vision_config.intermediate_size",
    "text_model.word_embeddings.weight": "text_config.vocab_size",
    "text_model.position_embeddings.weight": "text_config.max_position_embeddings",
    "text_model.token_type_embeddings.weight": "text_config.type_vocab_size",
    "text_model.layers.0.fc1.weight": "text_config.intermediate_size",
    "text_projection.weight": "projection_dim",
}


@dataclass
class Checkpoint:
    """Changes to the folder of a clean checkpoint."""

    changes: list[Change] = field(default_factory=list)


@functools.cache
def get_clean_folder() -> Path:
    """The clean checkpoint, saved once."""
    folder = get_folder() / "checkpoint"
    build_model().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


def read_checkpoint(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """What the loaded model finds in a picture."""
    with tempfile.TemporaryDirectory(dir=get_folder()) as parent:
        folder = Path(parent) / "checkpoint"
        shutil.copytree(get_clean_folder(), folder)
        for change in checkpoint.changes:
            change(folder)
        model, processor = load_model_and_processor(AlbefForImageTextMatching, folder)
        batch = processor(images=build_photo(0), text=["the red circle", "a blue square"])
        (found,) = processor.post_process_grounding(model.eval().ground(**batch), return_heatmaps=False)
        return [{name: answer[name] for name in ("score", "point", "box")} for answer in found]


checkpoints = Category("checkpoints", lambda number: Checkpoint(), read_checkpoint)


def edit_json(name: str, edit: Callable[[dict], Any]) -> Change:
    """A change of a JSON file: `edit` changes its content, or returns another."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        other = edit(content)
        (folder / name).write_text(json.dumps(content if other is None else other))

    return change


def edit_weights(edit: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    """A change of the weights."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def rewrite(name: str, data: bytes | Callable[[bytes], bytes]) -> Change:
    """Other bytes for a file."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(data(path.read_bytes()) if callable(data) else data)

    return change


@checkpoints.mutation
def saved_otherwise(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    def save_shards(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        build_model().save_pretrained(folder, max_shard_size="20KB")

    def reverse(content: dict) -> dict:
        return dict(reversed(content.items()))

    ways = [
        save_shards,
        edit_json(CONFIG, reverse),
        edit_json(CONFIG, lambda content: content.update(my_note="kept")),
        edit_json(PROCESSOR, reverse),
        edit_json(TOKENIZER, reverse),
        lambda folder: (folder / "notes.txt").write_text("of no matter"),
        lambda folder: (folder / "optimizer.pt").write_bytes(b"no optimizer"),
        rewrite(CONFIG, lambda data: data.replace(b"\n", b"\r\n")),
        edit_weights(lambda tensors: tensors.update({"extra.weight": torch.zeros(3)})),
    ]
    checkpoint.changes.append(choose(generator, ways))
    return checkpoint, UNAFFECTED


@checkpoints.mutation
def json_of_another_kind(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    name = choose(generator, [CONFIG, PROCESSOR, TOKENIZER, TOKENIZER_CONFIG])
    data = choose(
        generator, [b"", b"null", b"[]", b"7", b'"text"', b"{", b"\xff\xfe{\0}\0", b"[" * 5000, b"\0" * 40, b"{} {}"]
    )
    checkpoint.changes.append(rewrite(name, data))
    return checkpoint, refused(name)


@checkpoints.mutation
def config_of_wrong_numbers(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    section = choose(generator, ["vision_config", "text_config"])
    name = choose(generator, ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"])
    value = choose(generator, [0, -1, 10**12, "many", None, True, NAN, 2.5, [2], {}, HUGE, 7])
    checkpoint.changes.append(edit_json(CONFIG, lambda content: content[section].update({name: value})))
    return checkpoint, refused(
        "config.json" if value in (None, True, "many", 2.5) or isinstance(value, list | dict) else name
    )


@checkpoints.mutation
def config_of_another_model(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    value = choose(generator, ["bert", "clip", "", 7, None, "ALBEF", ["albef"], {"albef": 1}, True, [], HUGE])
    checkpoint.changes.append(edit_json(CONFIG, lambda content: content.update(model_type=value)))
    return checkpoint, refused(CONFIG)


@checkpoints.mutation
def entries_of_another_kind(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    names = ["vision_config", "text_config", "architectures", "dtype", "explanation_layer", "projection_dim"]
    names += ["tie_word_embeddings", "id2label", "queue_size"]
    name, value = choose(generator, names), choose(generator, [7.5, "text", [["albef"]]])
    checkpoint.changes.append(edit_json(CONFIG, lambda content: content.update({name: value})))
    return checkpoint, refused(CONFIG)


@checkpoints.mutation
def encoder_of_another_model(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    section = choose(generator, ["vision_config", "text_config"])
    value = choose(generator, [["albef"], {"albef": 1}, 7, None, True])
    checkpoint.changes.append(edit_json(CONFIG, lambda content: content[section].update(model_type=value)))
    return checkpoint, refused(f"`{section}.model_type` in {CONFIG}")


@checkpoints.mutation
def file_missing(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    name = choose(generator, [CONFIG, WEIGHTS, TOKENIZER, PROCESSOR])
    checkpoint.changes.append(lambda folder: (folder / name).unlink())
    return checkpoint, refused(name)


@checkpoints.mutation
def weights_cut_off(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    share = float(generator.uniform(0, 0.99))
    checkpoint.changes.append(rewrite(WEIGHTS, lambda data: data[: int(len(data) * share)]))
    return checkpoint, refused("damaged")


@checkpoints.mutation
def weights_of_wrong_header(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    length = int(choose(generator, [0, 2**20, 2**40, 2**63]))
    forms = [struct.pack("<Q", length) + b"{}", b"PK\x03\x04" + generator.bytes(90), b"\0" * 64, generator.bytes(300)]
    checkpoint.changes.append(rewrite(WEIGHTS, choose(generator, forms)))
    return checkpoint, refused("model.safetensors")


@checkpoints.mutation
def weight_missing(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    place = int(generator.integers(1000))

    def remove(tensors: dict[str, torch.Tensor]) -> None:
        tensors.pop(sorted(tensors)[place % len(tensors)])

    checkpoint.changes.append(edit_weights(remove))
    return checkpoint, refused("lacks 1 weights")


@checkpoints.mutation
def weight_of_another_shape(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    name = choose(generator, sorted(load_file(get_clean_folder() / WEIGHTS)))

    def reshape(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.cat([tensors[name], tensors[name]]).contiguous()

    checkpoint.changes.append(edit_weights(reshape))
    setting = STATED_SIZES.get(name.removeprefix("albef."))
    return checkpoint, refused("lacks 1 weights" if setting is None else f"`{setting}` is ")


@checkpoints.mutation
def weight_not_finite(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    value = choose(generator, [NAN, float("inf")])
    place = int(generator.integers(1000))

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        read = [name for name in sorted(tensors) if "layers." in name or name.startswith("itm_head.")]
        tensors[read[place % len(read)]].view(-1)[-1] = value

    checkpoint.changes.append(edit_weights(spoil))
    return checkpoint, refused("finit")


@checkpoints.mutation
def weights_of_whole_numbers(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    kind = choose(generator, [torch.int8, torch.int32, torch.float8_e4m3fn])

    def convert(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(kind)

    checkpoint.changes.append(edit_weights(convert))
    return checkpoint, refused("weights of a type that no model of this package has")


@checkpoints.mutation
def separator_after_the_phrase(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    def add_separator(content: dict) -> None:
        part = {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
        content["post_processor"]["single"].append(part)
        content["post_processor"]["special_tokens"]["[SEP]"] = {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}

    def remove_template(content: dict) -> None:
        content["post_processor"] = None

    edit = choose(generator, [add_separator, remove_template])
    checkpoint.changes.append(edit_json(TOKENIZER, edit))
    return checkpoint, refused("must put [CLS] before a phrase and nothing after it")


@checkpoints.mutation
def words_exchanged(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    def repeat(content: dict) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["red"] = vocabulary["blue"]

    checkpoint.changes.append(edit_json(TOKENIZER, repeat))
    return checkpoint, refused("a token needs a unique id")


@checkpoints.mutation
def processor_without_a_step(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    name = choose(generator, ["do_normalize", "do_rescale", "do_resize"])
    checkpoint.changes.append(edit_json(PROCESSOR, lambda content: content["image_processor"].update({name: False})))
    return checkpoint, refused(name)


@checkpoints.mutation
def processor_of_wrong_values(checkpoint: Checkpoint, generator: np.random.Generator) -> Drawn:
    forms = [
        ("size", {"height": 48, "width": 48}),
        ("size", 0),
        ("size", None),
        ("size", "big"),
        ("image_std", [0, 0, 0]),
    ]
    forms += [("image_mean", [NAN] * 3), ("image_mean", "gray"), ("resample", 99), ("max_image_pixels", -1)]
    name, value = choose(generator, forms)
    checkpoint.changes.append(edit_json(PROCESSOR, lambda content: content["image_processor"].update({name: value})))
    return checkpoint, refused(name)
