"""Packed region masks are the masks to the last bit, wherever a batch goes, and small."""

import pytest
import torch
from testing_utils import build_rows, build_tiny_trainer
from torch.utils.data import DataLoader
from torch.utils.data._utils import pin_memory

from albef_amc.regions_albef import build_region_mask
from albef_amc.trainer import DataCollatorForGrounding
from albef_amc.trainer.data.packed_regions import pack_regions

STAR = [[30.0, 0.0, 45.0, 40.0, 5.0, 12.5, 55.0, 12.5, 15.0, 40.0]]


@pytest.mark.parametrize("width", [1, 7, 8, 9, 256])
def test_any_mask_is_packed_without_loss(width):
    shares = torch.rand(5, 4, width, generator=torch.Generator().manual_seed(0))
    masks = torch.where(shares < 0.3, 0, torch.where(shares > 0.6, 1, shares))
    masks[1], masks[2] = 0, 1
    regions = pack_regions(masks)
    assert torch.equal(regions.unpack(), masks) and regions.unpack().is_contiguous()
    assert regions.bits.shape == (5, 4, -(-width // 8)) and len(regions.partial_index) > 0


def test_annotated_regions_take_little_memory():
    boxes = [[[10.0, 20.0, 401.0, 300.0]], [[0.0, 0.0, 640.0, 480.0], [3.0, 3.0, 4.0, 4.0]]]
    masks = [build_region_mask(480, 640, (256, 256), boxes=some) for some in boxes]
    masks.append(build_region_mask(60, 60, (256, 256), polygons=STAR))
    regions = pack_regions(torch.stack(masks))
    assert torch.equal(regions.unpack(), torch.stack(masks))
    num_bytes = sum(part.nbytes for part in (regions.bits, regions.partial_index, regions.partial_shares))
    assert num_bytes * 15 < torch.stack(masks).nbytes


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_collator_packs_what_it_would_return(tiny_processor, num_workers):
    rows, batches = build_rows(), []
    for use_packed_regions in (False, True):
        options = dict(max_length=None, mask_size=20, use_packed_regions=use_packed_regions)
        collator = DataCollatorForGrounding(tiny_processor, **options)
        batches.append(next(iter(DataLoader(rows, len(rows), collate_fn=collator, num_workers=num_workers))))
    assert "region_mask" not in batches[1] and batches[0]["region_mask"].any()
    assert torch.equal(batches[1]["packed_regions"].unpack(), batches[0]["region_mask"])


def test_pinned_and_moved(monkeypatch):
    regions, pinned = pack_regions(torch.ones(1, 2, 2)), []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: pinned.append(values) or values)
    moved = pin_memory.pin_memory({"packed_regions": regions})["packed_regions"].to("meta", non_blocking=True)
    assert len(pinned) == 3 and moved.unpack().shape == (1, 2, 2) and moved.unpack().device.type == "meta"


def test_a_training_step_reads_packed_regions_as_masks(tiny_pretraining_model, tiny_processor, tmp_path):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path)
    batch = trainer.data_collator(build_rows())
    masks = {"region_mask": batch["packed_regions"].unpack()}
    dense = {name: value for name, value in batch.items() if name != "packed_regions"} | masks
    losses = []
    for inputs in (batch, dense):
        torch.manual_seed(0)
        losses.append(trainer.compute_loss(tiny_pretraining_model.eval(), inputs))
    assert "region_mask" not in batch and torch.equal(*losses)
