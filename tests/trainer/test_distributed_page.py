"""The table of combinations in docs/distributed-training.md: every row names tests, and they exist."""

import re

import pytest
from distributed_runs import FEATURES, LAUNCH_FILES
from testing_utils import PROJECT_FOLDER

PAGE = (PROJECT_FOLDER / "docs" / "distributed-training.md").read_text()
TABLE = PAGE.partition("| combination | what is shown | test |\n| --- | --- | --- |\n")[2].partition("\n\n")[0]
ROWS = TABLE.splitlines()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0].removeprefix("| ")[:40] for row in ROWS])
def test_a_row_names_tests_that_exist(row):
    combination, shown, tests = row.strip("| ").split(" | ")
    assert combination and shown and NAMED.findall(tests)
    for file, name in NAMED.findall(tests):
        assert f"def {name}(" in (PROJECT_FOLDER / file).read_text(), f"{file} has no {name}"


def test_the_page_names_every_wrapper_and_feature():
    words = {
        **{"ddp": "DDP", "fsdp2": "FSDP2", "zero1": "ZeRO-1", "zero2": "ZeRO-2"},
        **{"float32": "float32", "bf16": "bf16", "lora": "LoRA", "accumulation": "accumulation", "resume": "resume"},
        **{"checkpointing": "gradient checkpointing", "sheets": "heatmap sheets", "best": "`keep_best`"},
        **{"long": "20 steps", "compiled": "compiled encoders", "deterministic": "`full_determinism`"},
        **{"clipped": "clipped gradients", "poisoned": "not finite"},
    }
    assert {*LAUNCH_FILES, *FEATURES} - words.keys() <= {"buckets"}
    assert [word for word in words.values() if word not in TABLE] == []
