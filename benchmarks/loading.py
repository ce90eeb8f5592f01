# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""How fast training batches are made of Parquet, beside the same rows from image files that are opened one by one.

    python benchmarks/loading.py             # 512 photographs of 640 x 480; a few minutes
    python benchmarks/loading.py --quick     # 48, to see that it runs

All sides make the same batches with the same collator. `image_files` reads a list of annotations, opens the file of
each image in a loop, and has no workers; `map_style` and `streamed` are what the trainer reads, without workers and
with two. `rows_only` is the reading alone, without decoding and the collator. Sides take turns; medians are compared.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from machine import write_result
from PIL import Image
from torch.utils.data import DataLoader

from albef_amc import AlbefImageProcessor, AlbefProcessor
from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row, load_grounding_dataset
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer import DataCollatorForGrounding, GroundingAugmentation
from albef_amc.trainer.epoch_dataset import EpochDataset
from albef_amc.trainer.streaming import StreamedRows, StreamSource

WORDS = "a the red blue green circle square triangle".split()
WIDTH, HEIGHT = 640, 480
NUM_SHARDS, NUM_WORKERS, BATCH_SIZE, PHRASES = 8, 2, 16, 5


def write_images(folder: Path, count: int) -> list[dict]:
    """JPEG files of smooth pictures with some grain, and their annotations with the paths."""
    records = []
    for index in range(count):
        generator = np.random.default_rng(index)
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        path = folder / f"{index:06d}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        phrases = [
            {"phrase_id": f"{index}-{number}", "phrase": f"the {WORDS[2 + number % 3]} {WORDS[5 + number % 3]}",
             "boxes": [[40.0 * number, 30.0, 40.0 * number + 200, 300.0]]}
            for number in range(PHRASES)
        ]  # fmt: skip
        records.append({"path": str(path), "image_id": str(index), "phrases": phrases})
    return records


def write_parquet(folder: Path, records: list[dict]) -> None:
    """The same rows as Parquet, image bytes in them."""
    rows = [
        build_row(
            {"path": None, "bytes": Path(record["path"]).read_bytes()},
            record["image_id"],
            WIDTH,
            HEIGHT,
            [build_phrase(**phrase) for phrase in record["phrases"]],
        )
        for record in records
    ]
    table = datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)
    for number in range(NUM_SHARDS):
        name = f"train-{number:05d}-of-{NUM_SHARDS:05d}.parquet"
        table.shard(NUM_SHARDS, number, contiguous=True).to_parquet(folder / name)


def build_collator() -> DataCollatorForGrounding:
    """That of training at 256 pixels, with augmentation and masked pieces."""
    tokenizer = build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    processor = AlbefProcessor(AlbefImageProcessor(), tokenizer)
    return DataCollatorForGrounding(processor, augmentation=GroundingAugmentation(), mlm_probability=0.15)


def read_image_files(annotations: Path) -> Iterator[dict]:
    """Rows of an annotation list, each image file opened when its turn comes."""
    for record in json.loads(annotations.read_text()):
        yield {"image": Image.open(record["path"]), "image_id": record["image_id"], "phrases": record["phrases"]}


def read_bytes_of_files(annotations: Path) -> Iterator[bytes]:
    """As [`read_image_files`], without decoding."""
    for record in json.loads(annotations.read_text()):
        yield Path(record["path"]).read_bytes()


def build_batches(rows: Iterator[dict], collator: Any) -> Iterator[dict]:
    """Batches of rows in a loop."""
    while batch := list(islice(rows, BATCH_SIZE)):
        yield collator(batch)


class Sides:
    """Every way to make the batches of an epoch.

    Args:
        annotations (`Path`): list of annotations with paths of image files.
        parquet (`Path`): folder of the same rows as Parquet.
        cache (`Path`): folder for the copy that map-style reading keeps.
        num_rows (`int`): images.
    """

    def __init__(self, annotations: Path, parquet: Path, cache: Path, num_rows: int):
        self.annotations = annotations
        self.num_rows = num_rows
        self.collator = build_collator()
        self.stream = load_grounding_dataset(parquet, "train", streaming=True)
        self.table = load_grounding_dataset(parquet, "train", cache_dir=str(cache))

    def list_batches(self) -> dict[str, Callable[[], Iterator[Any]]]:
        """Name of a side -> what begins an epoch; all of them give the same number of images."""
        sides: dict[str, Callable[[], Iterator[Any]]] = {
            "image_files": lambda: build_batches(read_image_files(self.annotations), self.collator)
        }
        for workers in (0, NUM_WORKERS):
            sides[f"map_style_{workers}_workers"] = lambda workers=workers: iter(self._load_table(workers))
            sides[f"streamed_{workers}_workers"] = lambda workers=workers: self._load_stream(workers)
        return sides

    def list_rows(self) -> dict[str, Callable[[], Iterator[Any]]]:
        """The same for rows whose images stay encoded."""
        table = self.table.cast_column("image", datasets.Image(decode=False))
        return {
            "image_files": lambda: read_bytes_of_files(self.annotations),
            "map_style": lambda: (table[index] for index in torch.randperm(self.num_rows).tolist()),
            "streamed": lambda: islice(self._build_rows(), self.num_rows),
        }

    def _load_table(self, workers: int) -> DataLoader:
        options: dict[str, Any] = dict(batch_size=BATCH_SIZE, collate_fn=self.collator, num_workers=workers)
        return DataLoader(EpochDataset(self.table), shuffle=True, **options)

    def _load_stream(self, workers: int) -> Iterator[dict]:
        loader = DataLoader(self._build_rows(), batch_size=BATCH_SIZE, collate_fn=self.collator, num_workers=workers)
        return islice(loader, self.num_rows // BATCH_SIZE)

    def _build_rows(self) -> StreamedRows:
        return StreamedRows([StreamSource(self.stream, 0, shuffle_shards=True)], 0)


def measure(sides: dict[str, Callable[[], Iterator[Any]]], num_rows: int, repetitions: int) -> dict[str, Any]:
    """Images per second of every side; they take turns, and the first round is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, begin in sides.items():
            began = time.perf_counter()
            for _ in begin():
                pass
            if repetition > 0:
                seconds[name].append(time.perf_counter() - began)
    baseline = statistics.median(seconds["image_files"])
    return {
        name: {
            "images_per_second": num_rows / statistics.median(taken),
            "times_as_fast_as_image_files": baseline / statistics.median(taken),
            "seconds": taken,
        }
        for name, taken in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="48 images and one repetition, to see that it runs")
    parser.add_argument("--images", type=int, default=512, help=f"a multiple of {BATCH_SIZE}")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/loading[_quick].json)")
    arguments = parser.parse_args()
    num_rows, repetitions = (48, 1) if arguments.quick else (arguments.images, arguments.repetitions)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        (folder / "parquet").mkdir()
        records = write_images(folder / "images", num_rows)
        annotations = folder / "annotations.json"
        annotations.write_text(json.dumps(records))
        write_parquet(folder / "parquet", records)
        sides = Sides(annotations, folder / "parquet", folder / "cache", num_rows)
        image_bytes = sum(Path(record["path"]).stat().st_size for record in records)
        measured = {
            "data": f"{num_rows} images of {WIDTH} x {HEIGHT} (JPEG), {PHRASES} phrases each, {NUM_SHARDS} files",
            "bytes_per_image": round(image_bytes / num_rows),
            "batch_size": BATCH_SIZE,
            "batches": measure(sides.list_batches(), num_rows, repetitions),
            "rows_only": measure(sides.list_rows(), num_rows, repetitions),
        }
    write_result("loading", measured, arguments.output, arguments.quick)


if __name__ == "__main__":
    main()
