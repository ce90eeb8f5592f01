"""One process against two: gradients, queues, evaluation; DDP through the Trainer, FSDP2 and ZeRO without it."""

import importlib.util
from pathlib import Path

import pytest
import torch
from parallel_cases import CASES, build_model, build_uneven_rows, run_case, run_evaluation
from sharded_cases import FSDP_CASES, ZERO_CASES, build_inputs, build_unstarted_trainer, run_reference
from testing_utils import launch_two_processes

from albef_amc.evaluation.grounding_evaluation import choose_rows
from albef_amc.layout_albef import pad_tokens
from albef_amc.parallel_albef import JointRows, gather_rows
from albef_amc.pretraining_losses_albef import JointBatch
from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.sharding import build_full_model, keeping_parameters

RELATIVE_TOLERANCE = 1e-6
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")


def assert_close(actual: dict, expected: dict, tolerance: float) -> None:
    """Tensor by tensor, within `tolerance` of the largest entry: of the tensor or, if that is more, 1 % of the median
    tensor's (gradients of key biases are zero but for rounding)."""
    assert actual.keys() == expected.keys()
    floor = 0.01 * torch.stack([value.abs().max().float() for value in expected.values()]).median().item()
    for name, value in expected.items():
        difference, largest = (actual[name] - value).abs().max().item(), value.abs().max().item()
        assert difference <= tolerance * max(largest, floor), f"{name}: {difference:.3g} against {largest:.3g}"


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """Folder with what two processes left of every case."""
    folder = tmp_path_factory.mktemp("two")
    launch_two_processes("parallel_cases.py", str(folder), *CASES)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "local"])
def test_two_processes_have_the_gradients_of_one(two_processes, tmp_path, case):
    one = run_case(case, tmp_path)
    parts = [torch.load(two_processes / f"{case}-2-{rank}.pt") for rank in (0, 1)]
    for two in parts:
        assert (one["wrapper"], two["wrapper"]) == ("AlbefForPreTraining", "DistributedDataParallel")
        assert_close(two["gradients"], one["gradients"], RELATIVE_TOLERANCE)
        assert_close(two["weights"], one["weights"], 1e-4)  # after AdamW, which divides by the gradient's size
        assert two["logged"].keys() == one["logged"].keys()
        for name, value in one["logged"].items():
            # the mean over processes of the loss of a constant answer, to which pairs are unevenly divided
            is_divided = (case, name) == ("false_on_one", "constant_itm_loss")
            assert two["logged"][name] == pytest.approx(value, rel=0.01 if is_divided else 1e-5), name
    if case != "accumulated":  # queues are written micro-batch by micro-batch
        assert_close(parts[0]["queues"], one["queues"], 1e-6)
    for name, queue in parts[0]["queues"].items():
        assert torch.equal(queue, parts[1]["queues"][name]), name


@pytest.mark.slow
def test_regions_and_masked_words_are_on_one_process_alone(two_processes, tmp_path):
    """Guards the cases above: without global counts they would differ."""
    one = run_case("zero_on_one", tmp_path)
    assert one["logged"]["amc_loss"] > 0.1 and one["logged"]["mlm_loss"] > 0.1


@pytest.mark.slow
def test_local_candidates_are_those_of_each_process(two_processes, tmp_path):
    one = run_case("local", tmp_path)
    two = [torch.load(two_processes / f"local-2-{rank}.pt") for rank in (0, 1)]
    name = "albef.vision_projection.weight"
    assert (one["gradients"][name] - two[0]["gradients"][name]).abs().max() > 1e-3 * one["gradients"][name].abs().max()
    assert all(torch.equal(queue, two[1]["queues"][key]) for key, queue in two[0]["queues"].items())


@pytest.mark.slow
def test_evaluation_on_two_processes_returns_every_phrase_once(two_processes, tmp_path):
    one = run_evaluation(tmp_path)
    expected = [phrase["phrase_id"] for row in build_uneven_rows()[:7] for phrase in row["phrases"]]
    assert one["phrase_ids"] == expected
    for rank in (0, 1):
        assert torch.load(two_processes / f"evaluation-2-{rank}.pt", weights_only=False) == one


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> dict:
    return run_reference(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """Folder with what two processes left of every way to split a model."""
    folder = tmp_path_factory.mktemp("sharded")
    launch_two_processes("sharded_cases.py", str(folder), *FSDP_CASES, *(ZERO_CASES if HAS_DEEPSPEED else ()))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", FSDP_CASES)
def test_fsdp2_has_the_gradients_of_one_process(reference, sharded, case):
    for rank in (0, 1):
        part = torch.load(sharded / f"{case}-{rank}.pt")
        assert (part["wrapper"], part["parameter"]) == ("FSDPAlbefForPreTraining", "DTensor")
        assert_close(part["gradients"], reference["gradients"], RELATIVE_TOLERANCE)
        assert_close(part["momentum"], reference["momentum"], RELATIVE_TOLERANCE)
        assert part["whole_type"] == "AlbefForImageTextMatching"
        assert all(type(value) is torch.Tensor for value in part["whole"].values())


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize(("case", "stage"), ZERO_CASES.items())
def test_zero_has_the_gradients_of_one_process(reference, sharded, case, stage):
    for rank in (0, 1):
        part = torch.load(sharded / f"{case}-{rank}.pt")
        assert (part["wrapper"], part["stage"]) == ("DeepSpeedEngine", stage)
        assert_close(part["gradients"], reference["gradients"], RELATIVE_TOLERANCE)
        assert_close(part["momentum"], reference["momentum"], RELATIVE_TOLERANCE)


def test_two_gpus_without_a_launcher_are_refused(tmp_path, tiny_pretraining_model, tiny_processor):
    arguments = AmcConfig(output_dir=str(tmp_path), use_cpu=True)
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match="accelerate launch"):
        AmcTrainer(tiny_pretraining_model, arguments, tiny_processor)


@pytest.mark.parametrize(("num_rows", "world_size"), [(7, 2), (3, 2), (1, 4), (0, 2), (10, 3)])
def test_blocks_of_evaluation_hold_every_row_once(num_rows, world_size):
    blocks = [choose_rows(num_rows, rank, world_size) for rank in range(world_size)]
    assert [row for block in blocks for row in block] == list(range(num_rows))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_a_single_process_is_its_own_joint_batch():
    rows = JointRows.of(3, torch.device("cpu"), "joint")
    values = torch.arange(3.0, requires_grad=True)
    assert not rows.is_joint and (rows.offset, rows.count) == (0, 3)
    collected, index = rows.collect(values, torch.tensor([2, 0]))
    assert collected is values and index.tolist() == [2, 0]
    assert gather_rows(values).tolist() == [0, 1, 2] and not gather_rows(values).requires_grad
    assert rows.share(torch.tensor(5)).item() == 5
    batch = JointBatch.gather(None, 2, torch.tensor([0, 1, 1]), "joint")
    assert batch.own_image_ids.tolist() == [-2, -3] and batch.own_phrase_ids.tolist() == [-2, -3, -3]


def test_padding_tokens_and_complete_models(tiny_pretraining_model):
    assert pad_tokens(torch.ones(2, 3, 4), 5).shape == (2, 5, 4) and pad_tokens(torch.ones(2, 3), 5).sum() == 6
    assert build_full_model(tiny_pretraining_model) is tiny_pretraining_model
    with keeping_parameters(tiny_pretraining_model):
        pass


def test_loss_without_global_counts_is_that_of_the_batch(tmp_path):
    """Called on its own, outside of the training loop, `compute_loss` takes means over its batch."""
    trainer = build_unstarted_trainer(build_model(torch.float32), tmp_path)
    inputs = build_inputs(trainer, 0, 1)
    (batch,), counts = trainer.get_batch_samples(iter([inputs]), 2, torch.device("cpu"))
    assert torch.equal(batch.pop("region_mask"), inputs["packed_regions"].unpack())
    assert batch == {name: value for name, value in inputs.items() if name != "packed_regions"}
    assert counts.tolist() == [(inputs["mlm_labels"] != -100).sum(), inputs["has_region"].sum()]
    assert trainer.get_batch_samples(iter([]), 1, torch.device("cpu")) == ([], None)
    trainer.model.eval()
    own = trainer.compute_loss(trainer.model, inputs)
    torch.testing.assert_close(own, trainer.compute_loss(trainer.model, inputs, num_items_in_batch=counts))
