"""Streamed rows: each to one reader, grouped by image, and found again by a resumed run."""

import json
import sys
from collections import Counter
from itertools import islice, zip_longest

import fault_tolerance
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from testing_utils import (
    PATIENCE,
    TESTS_FOLDER,
    build_recording_trainer,
    build_rows,
    build_table,
    build_tiny_processor,
    list_changes,
    write_parquet,
)
from torch.utils.data import DataLoader

from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.trainer import AmcConfig, DataCollatorForGrounding
from albef_amc.trainer.data.epoch_dataset import EpochDataset
from albef_amc.trainer.data.mixtures import Mixture, build_training_dataset
from albef_amc.trainer.data.streaming import STATE_KEY, Place, StreamedRows, StreamSource

NUM_ROWS, NUM_SHARDS = 23, 3


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("streaming") / "rows", build_table(NUM_ROWS))


@pytest.fixture(scope="module")
def phrase_parquet(tmp_path_factory):
    """One row per phrase, the rows of an image after each other and in one file."""
    return write_parquet(tmp_path_factory.mktemp("streaming") / "phrases", build_table(12, phrases_per_row=1), 4)


@pytest.fixture
def stream(parquet):
    return load_grounding_dataset(parquet, "train", streaming=True)


def leave_alone(row):
    return row


def read_passes(rows: StreamedRows, num_workers: int, num_passes: int = 1) -> list[list[str]]:
    """Ids of the images of each pass on one process, in the order they come."""
    ids: list[list[str]] = [[] for _ in range(num_passes)]
    ended: set[int] = set()
    for row in DataLoader(rows, batch_size=None, collate_fn=leave_alone, num_workers=num_workers):
        if row["draw"] < num_passes:
            ids[row["draw"]].append(row["image_id"])
        else:
            ended.add(row[STATE_KEY]["worker"])
        if len(ended) == max(1, num_workers):
            return ids
    raise AssertionError("a stream of rows ended")


def build_streams(source: StreamSource, world_size: int) -> list[StreamedRows]:
    return [StreamedRows([source], 0, rank=rank, world_size=world_size) for rank in range(world_size)]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"shuffle_buffer": 3}])
def test_every_image_comes_once_in_a_pass_over_processes_and_workers(stream, world_size, num_workers, options):
    source = StreamSource(stream, 0, True, **options)
    passes = [read_passes(rows, num_workers, 2) for rows in build_streams(source, world_size)]
    for number in range(2):
        counts = Counter(image_id for ids in passes for image_id in ids[number])
        assert sorted(counts, key=int) == [str(index) for index in range(NUM_ROWS)]
        assert set(counts.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("num_shards", [1, 2, 4, 5, 8, 9])
def test_readers_get_equal_shares(num_shards):
    stream = build_table(40).to_iterable_dataset(num_shards=num_shards)
    shares = [len(read_passes(rows, 0)[0]) for rows in build_streams(StreamSource(stream, 0, True), 4)]
    assert sum(shares) == 40
    assert max(shares) - min(shares) <= 1 + (num_shards == 9)  # nine shards are not of one size


@pytest.mark.slow
def test_the_order_is_of_the_seed_and_the_pass(stream):
    def read(seed: int, shuffle: bool = True, **options) -> list[list[str]]:
        return read_passes(StreamedRows([StreamSource(stream, seed, shuffle, **options)], seed), 0, 4)

    assert read(1) == read(1)
    assert read(1) != read(2)
    assert len({tuple(ids) for ids in read(1)}) > 1
    assert read(1, shuffle=False) == [[str(index) for index in range(NUM_ROWS)]] * 4
    mixed = read(1, shuffle=False, shuffle_buffer=4)[0]
    assert mixed != sorted(mixed, key=int)
    assert sorted(map(int, mixed[:8])) == list(range(8))  # the buffer mixes within a shard


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"shuffle_buffer": 3}, {"group_by_image": True}])
@pytest.mark.parametrize(("reader", "num_readers"), [(0, 1), (1, 2), (3, 5)])
def test_reading_continues_after_any_row(phrase_parquet, options, reader, num_readers):
    source = StreamSource(load_grounding_dataset(phrase_parquet, "train", streaming=True), 0, True, **options)
    whole = list(islice(source.read(reader, num_readers, Place()), 40))
    assert whole[-1][1].passes > 0
    for number in (0, 4, 11, 35, 36):
        rest = [row for row, _ in islice(source.read(reader, num_readers, whole[number][1]), 39 - number)]
        assert rest == [row for row, _ in whole[number + 1 :]]


@pytest.mark.parametrize("world_size", [1, 3])
def test_rows_of_an_image_that_follow_each_other_become_one(phrase_parquet, world_size):
    stream = load_grounding_dataset(phrase_parquet, "train", streaming=True)
    source = StreamSource(stream, 0, True, group_by_image=True)
    phrases = {}
    for rows in build_streams(source, world_size):
        for row in rows:
            if row["draw"] > 0:
                break
            assert row["image_id"] not in phrases
            phrases[row["image_id"]] = [phrase["phrase_id"] for phrase in row["phrases"]]
    assert phrases == {str(index): [f"{index}-{number}" for number in range(3)] for index in range(12)}


def test_a_batch_of_a_stream_is_that_of_the_same_rows_read_by_number(parquet, stream):
    collator = DataCollatorForGrounding(build_tiny_processor(), mlm_probability=0.3, mask_size=8, max_length=24)
    rows = EpochDataset(load_grounding_dataset(parquet, "train"))
    rows.set_epoch(1)
    streamed = StreamSource(stream, 0, shuffle_shards=False).read(0, 1, Place(passes=1))
    expected = collator([rows[index] for index in range(4)])
    batch = collator([row for row, _ in islice(streamed, 4)])
    assert batch.keys() == expected.keys()
    layout, expected_layout = batch.pop("layout"), expected.pop("layout")
    assert torch.equal(layout.attention_mask, expected_layout.attention_mask)
    assert torch.equal(layout.image_index, expected_layout.image_index)
    for name, value in expected.items():
        assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value


def test_a_stream_knows_its_size_where_its_files_say_it(parquet, tmp_path):
    def count(*arguments, **options) -> int | None:
        return StreamSource(load_grounding_dataset(*arguments, streaming=True, **options), 0, True).num_rows

    assert count(parquet, "train") == NUM_ROWS
    scenes = dict(num_train_scenes=6, num_validation_scenes=2, num_test_scenes=2, cache_dir=str(tmp_path))
    assert count("synthetic", "train", **scenes) == 6
    assert count("synthetic", "train[:4]", **scenes) == 4
    (tmp_path / "lines").mkdir()
    row = {**build_table(1).remove_columns("image")[0], "image": None}
    (tmp_path / "lines" / "train.jsonl").write_text(json.dumps(row))
    assert count(tmp_path / "lines", "train") is None


def test_streams_that_cannot_be_divided_are_refused(stream):
    node = split_dataset_by_node(stream, 0, 2)
    with pytest.raises(ValueError, match="split by process already"):
        StreamSource(node, 0, True)
    with pytest.raises(ValueError, match="a stream needs `features`"):
        StreamSource(stream.map(leave_alone), 0, True)
    small = StreamSource(build_table(2).to_iterable_dataset(), 0, True)
    with pytest.raises(ValueError, match=r"no image for reader \d of 3 .* too small"):
        [next(iter(rows)) for rows in build_streams(small, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"shuffle_buffer": 3, "max_steps": 8, "dataloader_num_workers": 2}])
def test_a_resumed_run_reads_the_rows_that_were_left_and_ends_with_the_same_bits(stream, tmp_path, options):
    whole = build_recording_trainer(tmp_path, stream, save_steps=3, **options)
    whole.train()
    assert whole.state.global_step == options.get("max_steps", 12)  # 23 images: 12 batches, 6 steps in an epoch
    for step in (3, 6):  # in the first epoch, and at its end
        resumed = build_recording_trainer(tmp_path / "resumed", stream, save_strategy="no", **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.seen == whole.seen[2 * step :]
        assert resumed.state.epoch == whole.state.epoch
        assert list_changes(whole.model.state_dict(), resumed.model) == []


@pytest.mark.slow
def test_a_run_on_a_stream_of_unknown_size_needs_max_steps(phrase_parquet, tmp_path, caplog):
    rows = load_grounding_dataset(phrase_parquet, "train", streaming=True)
    with pytest.raises(ValueError, match="max_steps has to be specified"):
        build_recording_trainer(tmp_path, rows, group_by_image=True)
    options = dict(group_by_image=True, max_steps=5, save_steps=3)
    whole = build_recording_trainer(tmp_path, rows, **options)
    whole.train()
    assert Counter(image_id for ids in whole.seen[:6] for image_id in ids) == Counter(map(str, range(12)))
    assert "the whole run counts as one epoch" in caplog.text
    resumed = build_recording_trainer(tmp_path, rows, **{**options, "save_strategy": "no"})
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.seen == whole.seen[6:]
    assert list_changes(whole.model.state_dict(), resumed.model) == []
    again = build_recording_trainer(tmp_path, rows, **options)
    again.train(resume_from_checkpoint=True)
    assert again.seen == [] and list_changes(whole.model.state_dict(), again.model) == []


@pytest.mark.slow
def test_a_stream_that_was_divided_otherwise_is_not_resumed(stream, tmp_path):
    build_recording_trainer(tmp_path, stream, max_steps=1, save_steps=1).train()
    checkpoint = tmp_path / "checkpoint-1"
    with pytest.raises(ValueError, match=r"Resume with dataloader_num_workers 0 \(not 2\)"):
        build_recording_trainer(tmp_path, stream, max_steps=2, dataloader_num_workers=2).train(str(checkpoint))
    build_recording_trainer(tmp_path / "other", build_table(4), max_steps=1, save_steps=1).train()
    with pytest.raises(FileNotFoundError, match="No stream-0.json in .*checkpoint-1: its run did not stream"):
        build_recording_trainer(tmp_path, stream, max_steps=2).train(str(tmp_path / "other" / "checkpoint-1"))


def test_settings_that_do_not_fit_are_refused(stream, tmp_path):
    def build(rows, **changes):
        return build_training_dataset(rows, AmcConfig(output_dir=str(tmp_path), use_cpu=True, **changes))

    with pytest.raises(ValueError, match="`epoch_unit='phrase'` needs rows that can be counted before"):
        build(stream, epoch_unit="phrase")
    with pytest.raises(ValueError, match="`shuffle_buffer` is for streamed data"):
        build(build_rows(), shuffle_buffer=9)
    with pytest.raises(ValueError, match="`shuffle_buffer` must be a whole number of at least 0 .*, got -1"):
        build(stream, shuffle_buffer=-1)
    with pytest.raises(ValueError, match="set `streaming` for all of them, or for none"):
        build(Mixture([stream, build_rows()], [1, 1], ["a", "b"]))


def test_few_files_are_divided_by_row_groups(stream, phrase_parquet, tmp_path):
    def count_shards(rows, **changes) -> int:
        args = AmcConfig(output_dir=str(tmp_path), use_cpu=True, **changes)
        return build_training_dataset(rows, args).sources[0].stream.num_shards

    assert count_shards(stream, dataloader_num_workers=3) == NUM_SHARDS
    assert count_shards(stream, dataloader_num_workers=4) == 12  # row groups of two: 8, 8 and 7 rows
    phrases = load_grounding_dataset(phrase_parquet, "train", streaming=True)
    assert count_shards(phrases, dataloader_num_workers=5, group_by_image=True) == 4


KILLED = """
import json, os, signal, sys, time
import torch
from transformers import TrainerCallback
from testing_utils import build_recording_trainer, build_rows, end_process
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.trainer.data.mixtures import Mixture

class KillsAtStep(TrainerCallback):
    # Ends this process when the other one is as far: none waits for the other in a collective operation.

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 4:
            open(f"{sys.argv[1]}/reached-{args.process_index}", "w").close()
            while not os.path.exists(f"{sys.argv[1]}/reached-{1 - args.process_index}"):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

def train(folder, resume=False, callbacks=()):
    streams = [load_grounding_dataset(path, "train", streaming=True) for path in sys.argv[2:4]]
    mixture = Mixture(streams, [2, 1], ["rows", "phrases"])
    trainer = build_recording_trainer(folder, mixture, max_steps=6, save_steps=3, dataloader_num_workers=2)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    total = float(sum(tensor.double().sum() for tensor in trainer.model.state_dict().values()))
    print("RESULT " + json.dumps([trainer.seen, total]), flush=True)

folder = sys.argv[1]
if os.path.isdir(folder + "/killed"):
    options = dict(num_train_epochs=1, gradient_accumulation_steps=1)
    trainer = build_recording_trainer(folder + "/map", build_rows(6), **options)
    trainer.train()
    print("MAP " + json.dumps(trainer.seen), flush=True)
    train(folder + "/killed", resume=True)
else:
    train(folder + "/whole")
    train(folder + "/killed", callbacks=[KillsAtStep()])
end_process()
"""


@pytest.mark.slow
def test_two_processes_with_two_workers_each_are_killed_and_continue_with_the_rows_that_were_left(
    parquet, phrase_parquet, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(TESTS_FOLDER))
    program = [sys.executable, "-c", KILLED, str(tmp_path)]
    program += [str(parquet), str(phrase_parquet)]
    results = []
    for expected in (-9, 0):
        folder = tmp_path / f"log{expected}"
        for process in fault_tolerance.start(folder, 2, program):
            assert process.wait(timeout=PATIENCE) == expected, (folder / "log-0.txt").read_text()
        logs = [(folder / f"log-{rank}.txt").read_text() for rank in (0, 1)]
        results.append([json.loads(line[7:]) for log in logs for line in log.splitlines() if line[:7] == "RESULT "])
    whole, resumed = results
    assert whole[0][1] == whole[1][1] == resumed[0][1] == resumed[1][1]
    for (seen, _), (rest, _) in zip_longest(whole, resumed):
        assert rest == seen[6:]
    assert whole[0][0] != whole[1][0]
    seen = [json.loads(line[4:]) for log in logs for line in log.splitlines() if line[:4] == "MAP "]
    assert [[len(ids) for ids in batches] for batches in seen] == [[2, 1], [2, 1]]
    assert {image_id for batches in seen for ids in batches for image_id in ids} == set(map(str, range(6)))
