"""The Trainer under the launch files that ship, on two processes: every run against the same one under DDP."""

import importlib.util
from pathlib import Path

import pytest
import torch
from distributed_runs import EVERYTHING, LAUNCH_FILES
from testing_utils import launch_two_processes

from albef_amc import AlbefForImageTextMatching
from albef_amc.lora.adapter_files import is_adapter

pytestmark = pytest.mark.slow

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
WRAPPERS = [wrapper for wrapper in LAUNCH_FILES if HAS_DEEPSPEED or not wrapper.startswith("zero")]
RELATIVE_TOLERANCE = 1e-6  # of losses and norms of the gradient
WEIGHT_TOLERANCE = 1e-6
AMPLIFIED = 1e-4
KEY_BIASES = ("k_proj.bias", "qkv.bias")
FLOAT32 = {"torch.float32"}
LEAST_MOVED = 0.9  # of the entries of momentum weights
TOGETHER = (EVERYTHING, f"{EVERYTHING}+lora")
TOGETHER_UNDER = ("ddp", "fsdp2", "zero2")
ALONE = (
    "float32",
    "bf16",
    *(f"bf16+{one}" for one in "lora accumulation checkpointing resume sheets best clipped".split()),
)
LONG, OTHER_BUCKETS = "bf16+long", "bf16+long+buckets"


def run_on_two_processes(folder: Path, *runs: str) -> Path:
    launch_two_processes("distributed_runs.py", str(folder), *runs)
    return folder


def read(folder: Path, run: str) -> list[dict]:
    """What each process saw of a run."""
    return [torch.load(folder / f"{run}-{rank}.pt") for rank in (0, 1)]


def find_largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of all weights but key biases, whose gradient is rounding error alone, and but for the share `AMPLIFIED` of the
    entries: AdamW turns the rounding error of a gradient into a full step, or where it is nearly 0 into a part of one.
    """
    assert one.keys() == other.keys()
    names = [name for name in one if not name.endswith(KEY_BIASES)]
    differences = torch.cat([(one[name].double() - other[name].double()).abs().flatten() for name in names])
    return differences.sort().values[-1 - int(AMPLIFIED * len(differences))].item()


def check_run(folder: Path, wrapper: str, features: str) -> None:
    """A run is wrapped as its name states, keeps float32 where required, has the losses, weights and files of DDP."""
    run, asked = f"{wrapper}-{features}", features.split("+")
    for own, expected in zip(read(folder, run), read(folder, f"ddp-{features}"), strict=True):
        assert own["wrapper"] == wrapper
        assert {"loss", "normalized_heatmap", "momentum_text_features"} <= set(own["types"])
        assert set(own["types"].values()) == FLOAT32
        assert {"image_queue", "text_queue"} <= {name.rpartition(".")[2] for name in own["state_types"]}
        assert set(own["state_types"].values()) == FLOAT32
        assert own["moved"] >= LEAST_MOVED
        assert own["first_loss"] == pytest.approx(expected["first_loss"], rel=RELATIVE_TOLERANCE)
        assert own["losses"] == pytest.approx(expected["losses"], rel=RELATIVE_TOLERANCE)
        assert own["grad_norms"] == pytest.approx(expected["grad_norms"], rel=RELATIVE_TOLERANCE)
        assert find_largest_difference(own["weights"], expected["weights"]) <= WEIGHT_TOLERANCE
        assert own["accuracies"] == expected["accuracies"]
        if "resume" in asked:
            resumed = own["resumed"]
            assert resumed["wrapper"] == wrapper and resumed["steps_taken"] == 1
            assert all(torch.equal(value, own["weights"][name]) for name, value in resumed["weights"].items())
            assert resumed["losses"] == own["losses"]
    is_lora = "lora" in asked
    checkpoint = folder / run / f"checkpoint-{len(own['losses'])}"
    assert is_adapter(checkpoint) == is_lora
    if not is_lora:
        saved = AlbefForImageTextMatching.from_pretrained(checkpoint).state_dict()
        assert all(torch.equal(value, own["weights"][name]) for name, value in saved.items())
    if "sheets" in asked:
        assert (folder / run / "heatmaps" / "step-2.png").is_file()
    if "best" in asked:
        assert is_adapter(folder / run / "best-eval") == is_lora


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """Folder of the runs in which everything comes together."""
    wrappers = [wrapper for wrapper in TOGETHER_UNDER if wrapper in WRAPPERS]
    runs = [f"{wrapper}-{features}" for features in TOGETHER for wrapper in wrappers]
    return run_on_two_processes(tmp_path_factory.mktemp("together"), *runs)


@pytest.mark.parametrize("features", TOGETHER)
@pytest.mark.parametrize("wrapper", TOGETHER_UNDER)
def test_everything_together(together, wrapper, features):
    if wrapper not in WRAPPERS:
        pytest.skip("deepspeed is not installed")
    check_run(together, wrapper, features)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """Folder of the runs with one feature each."""
    runs = [f"{wrapper}-{features}" for features in ALONE for wrapper in WRAPPERS]
    return run_on_two_processes(tmp_path_factory.mktemp("alone"), *runs)


@pytest.mark.exhaustive
@pytest.mark.parametrize("features", ALONE)
@pytest.mark.parametrize("wrapper", LAUNCH_FILES)
def test_each_combination_alone(alone, wrapper, features):
    if wrapper not in WRAPPERS:
        pytest.skip("deepspeed is not installed")
    check_run(alone, wrapper, features)


@pytest.mark.exhaustive
def test_twenty_steps_end_where_ddp_ends(tmp_path):
    """DDP itself with other buckets: the same bits, since a sum over two processes has no order."""
    runs = [f"{wrapper}-{LONG}" for wrapper in WRAPPERS]
    run_on_two_processes(tmp_path, *runs, f"ddp-{OTHER_BUCKETS}")
    expected = read(tmp_path, f"ddp-{LONG}")[0]
    with_other_buckets = read(tmp_path, f"ddp-{OTHER_BUCKETS}")[0]["weights"]
    assert all(torch.equal(value, expected["weights"][name]) for name, value in with_other_buckets.items())
    for run in runs:
        outcome = read(tmp_path, run)[0]
        assert find_largest_difference(outcome["weights"], expected["weights"]) <= WEIGHT_TOLERANCE, run
        assert outcome["losses"] == pytest.approx(expected["losses"], rel=RELATIVE_TOLERANCE), run


@pytest.mark.exhaustive
def test_a_step_that_is_not_finite_is_skipped_and_ends_a_run_of_deepspeed(tmp_path):
    wrappers = [wrapper for wrapper in TOGETHER_UNDER if wrapper in WRAPPERS]
    run_on_two_processes(tmp_path, *(f"{wrapper}-bf16+poisoned" for wrapper in wrappers))
    expected = read(tmp_path, "ddp-bf16+poisoned")[0]["weights"]
    for wrapper in wrappers:
        for outcome in read(tmp_path, f"{wrapper}-bf16+poisoned"):
            if wrapper == "zero2":
                assert "the loss is not finite; 1 steps" in outcome["error"]
                continue
            assert outcome["skipped_steps"] == 1
            assert all(value.isfinite().all() for value in outcome["weights"].values())
            assert find_largest_difference(outcome["weights"], expected) <= WEIGHT_TOLERANCE
