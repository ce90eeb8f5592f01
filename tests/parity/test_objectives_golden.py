# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The AMC objective against the reference outputs in `golden/tiny_pretrain`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from albef_amc.trainer import AttentionMaskConsistencyLoss
from albef_amc.trainer.objectives.heatmap_objective import resize_to_mask

GOLDEN = Path(__file__).parent / "golden" / "tiny_pretrain"


@pytest.fixture(scope="module")
def golden():
    inputs, outputs = load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "outputs.safetensors")
    selected = inputs["gt_mask_indicator"][:, 0].bool()
    heatmap = torch.zeros(len(selected), *outputs["train_heatmap_grid_selected"].shape[1:])
    heatmap[selected] = outputs["train_heatmap_grid_selected"]
    return heatmap, inputs["region_mask"], selected, outputs


def check(name: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    conditioning = json.loads((GOLDEN / "conditioning.json").read_text())[name]
    tolerance = max(50 * conditioning["max_abs_diff_vs_float64"], 1e-6 * conditioning["max_abs_value"])
    difference = (actual.double().reshape(expected.shape) - expected.double()).abs().max().item()
    assert difference <= tolerance, f"{name}: {difference} > {tolerance}"


def test_released_reduction(golden):
    heatmap, region_mask, has_region, outputs = golden
    losses = AttentionMaskConsistencyLoss(mean_reduction="batch")(heatmap, region_mask, has_region)
    check("loss_mean_term", losses["amc_mean_loss"], outputs["loss_mean_term"])
    check("loss_max_term", losses["amc_max_loss"], outputs["loss_max_term"])
    check("amc_loss", losses["amc_loss"], outputs["amc_loss"])


def test_paper_reduction(golden):
    heatmap, region_mask, has_region, outputs = golden
    loss = AttentionMaskConsistencyLoss()
    name = "loss_mean_term_paper_eq1_per_sample"
    check(name, loss(heatmap, region_mask, has_region)["amc_mean_loss"], outputs[name])
    rows = has_region.nonzero()[:, 0].tolist()
    alone = [loss(heatmap[[row]], region_mask[[row]], has_region[[row]])["amc_mean_loss"] for row in rows]
    check("per_sample_mean_term", torch.stack(alone), outputs["per_sample_mean_term"])


def test_resized_heatmap(golden):
    heatmap, region_mask, has_region, outputs = golden
    resized = resize_to_mask(heatmap[has_region], *region_mask.shape[1:])
    check("train_heatmap_selected", resized, outputs["train_heatmap_selected"])
