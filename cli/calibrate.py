# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc calibrate`: a matching score that is the probability that the thing is there."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from albef_amc.checkpoints import BASE_MODEL
from albef_amc.cli.checkpoint_loading import load_checkpoint
from albef_amc.cli.options import DataOption, DeviceOption, JsonOption, OutputFolderOption, read_data
from albef_amc.cli.reporting import print_result, report, track
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.evaluation.checkpoints import resolve_checkpoint
from albef_amc.evaluation.match_calibration import calibrate_model, describe_origin, list_calibration_pairs
from albef_amc.lora.adapter_files import CONFIG_FILE
from albef_amc.saving_albef import write_json
from albef_amc.trainer.reliability.run_checkpoints import MANIFEST_FILE
from albef_amc.visualization.drawing import draw_reliability

RESULT_FILE, DIAGRAM_FILE = "calibration.json", "reliability.png"


def calibrate(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder; its config.json gets scale and bias.")],
    dataset: Annotated[str, typer.Argument(help="Builder, folder that build-dataset wrote, or Hub repository.")],
    split: Annotated[str, typer.Option(help="Split of images that the model was not trained on.")] = "validation",
    options: DataOption = None,
    output_dir: OutputFolderOption = Path("runs/calibrate"),
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Decides the two halves and the pairs that do not match.")] = 0,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes the matching score a probability: fitted on half of the images, measured on the other half."""
    folder = check_checkpoint(checkpoint)
    data = read_data(options)
    rows = load_grounding_dataset(dataset, split, **data)
    pairs = list_calibration_pairs(rows, seed)
    report(f"{len(rows)} images: {len(pairs.fitted)} pairs to fit, {len(pairs.measured)} to measure")
    model, processor = load_checkpoint(str(folder), None, device)
    found = calibrate_model(model, processor, rows, pairs, batch_size, lambda batches: track(batches, "scoring"))
    origin = describe_origin(model, pairs, dataset, split, data)
    bins = {name: list(map(dataclasses.asdict, of_name)) for name, of_name in found.bins.items()}
    curves = {name: [(one["probability"], one["share"]) for one in of_name] for name, of_name in bins.items()}
    result: dict[str, Any] = {"scale": found.calibration.scale, "bias": found.calibration.bias, **found.figures}
    result["reliability"] = str(draw_reliability(curves, output_dir / DIAGRAM_FILE, f"{folder.name}: {dataset}"))
    write_json(output_dir / RESULT_FILE, {**result, "fitted": origin, "bins": bins})
    store_calibration(folder, found.calibration.scale, found.calibration.bias, origin)
    print_result({**result, "json": str(output_dir / RESULT_FILE)}, as_json)


def check_checkpoint(name: str) -> Path:
    """The folder of a checkpoint; refuses one without a configuration, or with one that must not change.

    Raises:
        FileNotFoundError: no checkpoint folder.
        ValueError: a checkpoint that a run resumes from; its manifest holds the hash of its configuration. Or the base
            model that ships, whose files have hashes.
    """
    checkpoint = Path(resolve_checkpoint(name))
    if checkpoint.resolve() == Path(BASE_MODEL).resolve():
        raise ValueError(
            f"{name} is the base model that ships: it is calibrated, and its files must stay as they are. Calibrate a "
            f"copy: `cp -r {BASE_MODEL} my_base`, then `albef-amc calibrate my_base DATASET`."
        )
    if not (checkpoint / CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"{checkpoint} has no {CONFIG_FILE}. `calibrate` changes the configuration of a local checkpoint folder: "
            "download a repository (`hf download REPOSITORY --local-dir FOLDER`), or merge an adapter, first."
        )
    if (checkpoint / MANIFEST_FILE).is_file():
        raise ValueError(
            f"{checkpoint} is a checkpoint to resume from, which must stay as it is. Calibrate the folder of the run, "
            "which holds the model at its end, or a copy without " + MANIFEST_FILE + "."
        )
    return checkpoint


def store_calibration(checkpoint: Path, scale: float, bias: float, origin: dict[str, Any]) -> None:
    """Enters a calibration into the configuration of a checkpoint folder; all other values stay."""
    path = checkpoint / CONFIG_FILE
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**settings, "match_scale": scale, "match_bias": bias, "match_calibration": origin})
