# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""docs/heatmap.md, and the functions that a heatmap really passes on its way from `forward` to the loss."""

import ast
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from testing_utils import PROJECT_FOLDER, build_batch, build_rows, build_tiny_config

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.explanation_albef import Explanation
from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.objectives.weighted_objectives import HeatmapObjectives, build_objective

PAGE = (PROJECT_FOLDER / "docs" / "heatmap.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::([\w.]+)`", PAGE)))
MAX_FRAMES = 8
MAX_LINES = 60


def find_function(path: str, name: str) -> ast.AST:
    """Node of a function, class or method by its dotted name; raises `KeyError` where there is none."""
    node: Any = ast.parse((PROJECT_FOLDER / path).read_text(encoding="utf-8"))
    for part in name.split("."):
        node = {child.name: child for child in node.body if hasattr(child, "name")}[part]
    return node


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[f"{path}::{name}" for path, name in NAMED])
def test_every_function_that_the_page_names_exists(path, name):
    assert isinstance(find_function(path, name), ast.FunctionDef)


def test_the_page_names_functions():
    assert len(NAMED) > 20 and {path.partition("/")[0] for path, _ in NAMED} >= {"trainer", "modeling_albef_amc"}
    with pytest.raises(KeyError):
        find_function("modeling_albef_amc/layout_albef.py", "no_such_function")


def trace_heatmap(run: Callable[[], Any]) -> list[tuple[str, str]]:
    """Functions of ours that are open when the heatmap is made, then those open when the loss is made of it."""
    made: list[tuple[str, str]] = []
    lost: list[tuple[str, str]] = []

    def list_open(frame: FrameType | None) -> list[tuple[str, str]]:
        names: list[tuple[str, str]] = []
        while frame is not None:
            path, name = frame.f_code.co_filename, frame.f_code.co_qualname.replace(".<locals>.run", "")
            is_ours = path.startswith(f"{PROJECT_FOLDER}/") and not re.search(
                r"/(tests|site-packages)/|<", path + name
            )
            if is_ours:
                names.insert(0, (path.removeprefix(f"{PROJECT_FOLDER}/"), name))
            frame = frame.f_back
        return names

    def trace(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and isinstance(value, Explanation) and not made:
            made.extend(list_open(frame))
        if event == "return" and isinstance(value, dict) and "amc_loss" in value and not lost:
            lost.extend(list_open(frame))

    sys.setprofile(trace)
    try:
        run()
    finally:
        sys.setprofile(None)
    assert made and lost
    return list(dict.fromkeys(made + lost))


@pytest.fixture
def passed(tiny_processor, tmp_path) -> list[tuple[str, str]]:
    """Those of a training step."""
    model = AlbefForPreTraining(build_tiny_config())
    arguments = AmcConfig(output_dir=str(tmp_path), use_cpu=True, mask_size=16, max_steps=1, save_strategy="no")
    trainer = AmcTrainer(model, arguments, tiny_processor, train_dataset=build_rows())
    batch = next(iter(trainer.get_train_dataloader()))
    return trace_heatmap(lambda: trainer.compute_loss(model.train(), batch))


def test_the_heatmap_passes_few_functions_in_training(passed):
    assert len(passed) <= MAX_FRAMES, passed
    listed = re.findall(r"^\d\. `([\w/]+\.py)::([\w.]+)`", PAGE, flags=re.MULTILINE)
    assert sorted(listed) == sorted(passed)  # the page lists them


def test_the_heatmap_passes_few_functions_in_matching():
    model = AlbefForImageTextMatching(build_tiny_config())
    batch, objectives = build_batch(model.config), HeatmapObjectives([build_objective("amc", 1.0)])
    regions = {"region_mask": torch.ones(3, 8, 8), "has_region": torch.ones(3, dtype=torch.bool)}
    passed = trace_heatmap(lambda: objectives(model(**batch, output_heatmap=True).normalized_heatmap, regions))
    assert (
        len(passed) <= MAX_FRAMES
        and ("modeling_albef_amc/matching_albef.py", "AlbefForImageTextMatching.forward") in passed
    )


def test_no_function_on_the_way_is_long(passed):
    for path, name in passed:
        node = find_function(path, name)
        assert isinstance(node, ast.FunctionDef)
        body = node.body[1:] if ast.get_docstring(node) else node.body
        assert body[-1].end_lineno - body[0].lineno < MAX_LINES, name
