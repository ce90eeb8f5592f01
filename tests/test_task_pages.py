# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pages of docs/tasks run: their Python blocks, in order, on a small checkpoint of the page's class, and pictures."""

import re
from pathlib import Path

import pytest
import torch
from testing_utils import PROJECT_FOLDER, build_photo, build_tiny_config, build_tiny_processor

import albef_amc

PAGES_FOLDER = PROJECT_FOLDER / "docs" / "tasks"
PAGES = sorted(path.stem for path in PAGES_FOLDER.glob("*.md"))
# class of the page's checkpoint, and what its configuration has beyond the small one
CHECKPOINTS = {
    "question_answering": ("AlbefForQuestionAnswering", {"decoder_layers": 2}),
    "retrieval": ("AlbefForImageTextRetrieval", {}),
    "visual_entailment": ("AlbefForVisualEntailment", {"num_labels": 3}),
    "visual_reasoning": ("AlbefForVisualReasoning", {"num_labels": 2, "images_per_text": 2}),
}


def prepare(page: str, folder: Path) -> None:
    """Puts into `folder` what a reader of the page has: `checkpoint/`, with its processor, and two pictures."""
    class_name, changes = CHECKPOINTS[page]
    torch.manual_seed(0)
    getattr(albef_amc, class_name)(build_tiny_config(**changes)).save_pretrained(folder / "checkpoint")
    build_tiny_processor().save_pretrained(folder / "checkpoint")
    build_photo(seed=0).save(folder / "photo.jpg")
    build_photo(seed=1, width=30, height=40).save(folder / "photo_2.jpg")


def read_blocks(page: str) -> list[str]:
    """Python blocks of a page, each at its line so that a traceback names it."""
    text = (PAGES_FOLDER / f"{page}.md").read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in found]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    blocks = read_blocks(page)
    assert blocks, f"{page}: no Python block"
    prepare(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, f"docs/tasks/{page}.md", "exec"), names)
