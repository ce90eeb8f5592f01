# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""How fast training batches are made of Parquet, beside the same rows from image files that are opened one by one.

    python benchmarks/loading.py             # 128 photographs of 640 x 480; under four minutes
    python benchmarks/loading.py --quick     # 16, to see that it runs

All sides make the same batches with the same collator. `image_files` reads a list of annotations, opens the file of
each image in a loop, and has no workers; `map_style` and `streamed` are what the trainer reads, with 0, 1 and 2
workers. `rows_only` only reads, without decoding and the collator. Without workers, the sides also make
batches of other image sizes and of other numbers of phrases. Sides take turns; medians are compared.

`per_core` compares, on one core, the plain way to make a batch (`benchmarks/plain_loading.py`, the same values) with
that of the package, and with `use_reduced_images`, whose pixels differ: `pixel_differences`, in levels of 255.
`gpu_need` sets these rates against a GPU. Its time of a step is estimated, not measured.
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
from plain_loading import PlainAugmentation, PlainImageProcessor, PlainProcessor
from plots import plot_curves
from torch.utils.data import DataLoader

from albef_amc import AlbefImageProcessor, AlbefProcessor
from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row, load_grounding_dataset
from albef_amc.datasets_scripts.row_images import guard_images
from albef_amc.image_processing_albef import load_image
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer import DataCollatorForGrounding, GroundingAugmentation
from albef_amc.trainer.data.epoch_dataset import EpochDataset
from albef_amc.trainer.data.reduced_images import load_reduced_image
from albef_amc.trainer.data.streaming import StreamedRows, StreamSource

COLOURS, SIZES, THINGS = ("red", "blue", "green"), ("large", "small", "old"), ("circle", "square", "triangle")
WORDS = ["a", "the", *COLOURS, *SIZES, *THINGS]
WIDTH, HEIGHT = 640, 480
LARGE_WIDTH, LARGE_HEIGHT = 1600, 1200
PORTRAIT_WIDTH, PORTRAIT_HEIGHT = 375, 500
LARGE_SHARE = 4  # photographs of the usual size per large one
# A step of AMC's recipe on one H200 in bfloat16: an estimate from its operations and launches.
STEP_IMAGES, STEP_SECONDS = 64, 0.07
NUM_SHARDS, BATCH_SIZE = 8, 16
WORKERS = (0, 1, 2)
IMAGE_SIZE, IMAGE_SIZES = 256, (256, 384)  # pixels; the first is that of all other measurements
PHRASES, PHRASES_PER_IMAGE = 5, (1, 5, 8)  # the same


def write_images(folder: Path, count: int, width: int = WIDTH, height: int = HEIGHT) -> list[Path]:
    """JPEG files of smooth pictures with some grain."""
    folder.mkdir()
    paths = [folder / f"{index:06d}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        generator = np.random.default_rng(index)
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
    return paths


def annotate(paths: list[Path], num_phrases: int) -> list[dict]:
    """Annotations of image files, with their paths and `num_phrases` phrases each; every other image has phrases that
    name colours, which augmentation then keeps."""
    return [
        {
            "path": str(path),
            "image_id": path.stem,
            "phrases": [
                {
                    "phrase_id": f"{path.stem}-{number}",
                    "phrase": f"the {(COLOURS, SIZES)[index % 2][number % 3]} {THINGS[number % 3]}",
                    "boxes": [[40.0 * number, 30.0, 40.0 * number + 200, 300.0]],
                }
                for number in range(num_phrases)
            ],
        }
        for index, path in enumerate(paths)
    ]


def write_parquet(folder: Path, records: list[dict]) -> None:
    """The same rows as Parquet, image bytes in them."""
    folder.mkdir()
    rows = [
        build_row(
            {"path": None, "bytes": Path(record["path"]).read_bytes()},
            record["image_id"],
            *Image.open(record["path"]).size,
            [build_phrase(**phrase) for phrase in record["phrases"]],
        )
        for record in records
    ]
    table = datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)
    for number in range(NUM_SHARDS):
        name = f"train-{number:05d}-of-{NUM_SHARDS:05d}.parquet"
        table.shard(NUM_SHARDS, number, contiguous=True).to_parquet(folder / name)


def build_collators(image_size: int) -> dict[str, DataCollatorForGrounding]:
    """Those of training, with augmentation and masked tokens: the plain one, the package's, that of reduced images."""
    tokenizer = build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    processor = AlbefProcessor(AlbefImageProcessor(size=image_size), tokenizer)
    plain = PlainProcessor(PlainImageProcessor(size=image_size), tokenizer)
    options: dict[str, Any] = {"augmentation": GroundingAugmentation(), "mlm_probability": 0.15}
    packed = {**options, "use_packed_regions": True}
    return {
        "plain": DataCollatorForGrounding(plain, **{**options, "augmentation": PlainAugmentation()}),
        "exact": DataCollatorForGrounding(processor, **packed),
        "reduced": DataCollatorForGrounding(processor, **packed, use_reduced_images=True),
    }


def read_image_files(annotations: Path) -> Iterator[dict]:
    """Rows of an annotation list, each image file opened when its turn comes."""
    for record in json.loads(annotations.read_text()):
        yield {"image": record["path"], "image_id": record["image_id"], "phrases": record["phrases"]}


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
        folder (`Path`): where annotations, Parquet files and the copy that map-style reading keeps are written.
        paths (`list` of `Path`): image files.
        num_phrases (`int`): phrases of each image.
    """

    def __init__(self, folder: Path, paths: list[Path], num_phrases: int):
        folder.mkdir()
        records = annotate(paths, num_phrases)
        self.num_rows = len(records)
        self.annotations = folder / "annotations.json"
        self.annotations.write_text(json.dumps(records))
        write_parquet(folder / "parquet", records)
        self.stream = load_grounding_dataset(folder / "parquet", "train", streaming=True)
        table = load_grounding_dataset(folder / "parquet", "train", cache_dir=str(folder / "cache"))
        self.table = guard_images(table, is_decoded=False)  # as the trainer reads it

    def list_batches(
        self, image_size: int = IMAGE_SIZE, workers: tuple[int, ...] = WORKERS
    ) -> dict[str, Callable[[], Iterator[Any]]]:
        """Name of a side -> what begins an epoch; all of them give the same number of images."""
        collator = build_collators(image_size)["exact"]
        sides: dict[str, Callable[[], Iterator[Any]]] = {
            "image_files": lambda: build_batches(read_image_files(self.annotations), collator)
        }
        for count in workers:
            options: dict[str, Any] = {"batch_size": BATCH_SIZE, "collate_fn": collator, "num_workers": count}
            sides[f"map_style_{count}_workers"] = lambda options=options: self._load_table(options)
            sides[f"streamed_{count}_workers"] = lambda options=options: self._load_stream(options)
        return sides

    def list_collators(self) -> dict[str, Callable[[], Iterator[Any]]]:
        """The same for the ways to make a batch, in this process."""
        return {
            name: lambda collator=collator: self._load_table({"batch_size": BATCH_SIZE, "collate_fn": collator})
            for name, collator in build_collators(IMAGE_SIZE).items()
        }

    def list_rows(self) -> dict[str, Callable[[], Iterator[Any]]]:
        """The same for rows whose images stay encoded."""
        table = self.table.cast_column("image", datasets.Image(decode=False))
        return {
            "image_files": lambda: read_bytes_of_files(self.annotations),
            "map_style": lambda: (table[index] for index in torch.randperm(self.num_rows).tolist()),
            "streamed": lambda: islice(self._build_rows(), self.num_rows),
        }

    def _load_table(self, options: dict[str, Any]) -> Iterator[dict]:
        return iter(DataLoader(EpochDataset(self.table), shuffle=True, **options))

    def _load_stream(self, options: dict[str, Any]) -> Iterator[dict]:
        return islice(DataLoader(self._build_rows(), **options), self.num_rows // BATCH_SIZE)

    def _build_rows(self) -> StreamedRows:
        return StreamedRows([StreamSource(self.stream, 0, shuffle_shards=True)], 0)


def measure(
    sides: dict[str, Callable[[], Iterator[Any]]], num_rows: int, rounds: int, baseline_side: str = "image_files"
) -> dict[str, Any]:
    """Images per second of every side; they take turns, and the first of several rounds is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, begin in sides.items():
            began = time.perf_counter()
            for _ in begin():
                pass
            seconds[name].append(time.perf_counter() - began)
    if rounds > 1:
        seconds = {name: taken[1:] for name, taken in seconds.items()}
    baseline = statistics.median(seconds[baseline_side])
    return {
        name: {
            "images_per_second": num_rows / statistics.median(taken),
            f"times_as_fast_as_{baseline_side}": baseline / statistics.median(taken),
            "seconds": taken,
        }
        for name, taken in seconds.items()
    }


def check_same_values(rows: list[dict]) -> dict[str, int]:
    """Check that the plain way gives the values of the package, and return the bytes of images and regions of a row.

    Raises:
        ValueError: a value differs.
    """
    collators = build_collators(IMAGE_SIZE)
    plain, exact = collators["plain"](rows), collators["exact"](rows)
    regions = exact["packed_regions"]
    for name, values in {**exact, "region_mask": regions.unpack()}.items():
        if isinstance(values, torch.Tensor) and not torch.equal(values, plain[name]):
            raise ValueError(f"`{name}` differs between both ways to make a batch.")
    packed = (regions.bits, regions.partial_index, regions.partial_shares)
    sizes = {
        "pixel_values": plain["pixel_values"].nbytes,
        "region_mask": plain["region_mask"].nbytes,
        "packed_regions": sum(part.nbytes for part in packed),
    }
    return {name: size // len(rows) for name, size in sizes.items()}


def measure_differences(images: list[Path] | list[Image.Image]) -> dict[str, float]:
    """Levels of 255 by which reduced images differ from those that Pillow resizes, over all channels and pixels."""
    differences = []
    for image in images:
        reduced, _ = load_reduced_image(image, IMAGE_SIZE, IMAGE_SIZE, LARGE_WIDTH * LARGE_HEIGHT, "an image")
        expected = load_image(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        differences.append(np.abs(np.asarray(reduced).astype(np.int16) - np.asarray(expected)))
    levels = np.stack(differences)
    return {"mean": float(levels.mean()), "percentile_99": float(np.percentile(levels, 99)), "max": int(levels.max())}


def turn(path: Path) -> Image.Image:
    """A picture in portrait format, for which Pillow and torch resize in different order."""
    return load_image(path).transpose(Image.Transpose.ROTATE_90).resize((PORTRAIT_WIDTH, PORTRAIT_HEIGHT))


def compare_with_gpu(per_core: dict[str, Any]) -> dict[str, Any]:
    """Cores that must load images so that a GPU never waits, for each way to make a batch."""
    needed = STEP_IMAGES / STEP_SECONDS
    cores = {name: needed / side["images_per_second"] for name, side in per_core.items()}
    return {
        "images_per_step": STEP_IMAGES,
        "estimated_milliseconds_per_step": 1e3 * STEP_SECONDS,
        "images_per_second": needed,
        "cores": cores,
    }


def measure_all(folder: Path, num_rows: int, rounds: int) -> dict[str, Any]:
    """Every side; those without workers also for other image sizes and numbers of phrases."""
    paths = write_images(folder / "images", num_rows)
    num_large = max(NUM_SHARDS, num_rows // LARGE_SHARE)
    large_paths = write_images(folder / "large_images", num_large, LARGE_WIDTH, LARGE_HEIGHT)
    sides = {count: Sides(folder / f"phrases_{count}", paths, count) for count in PHRASES_PER_IMAGE}
    usual = sides[PHRASES]
    batches = measure(usual.list_batches(), num_rows, rounds)
    of_size = {name: batches[name] for name in usual.list_batches(workers=(0,))}
    against_size, against_phrases = {IMAGE_SIZE: of_size}, {PHRASES: of_size}
    for size in set(IMAGE_SIZES) - {IMAGE_SIZE}:
        against_size[size] = measure(usual.list_batches(size, workers=(0,)), num_rows, rounds)
    for count in set(PHRASES_PER_IMAGE) - {PHRASES}:
        against_phrases[count] = measure(sides[count].list_batches(workers=(0,)), num_rows, rounds)
    per_core = {
        f"{WIDTH}x{HEIGHT}_{count}_phrases": measure(sides[count].list_collators(), num_rows, rounds, "plain")
        for count in (1, PHRASES)
    }
    large = Sides(folder / "large", large_paths, 1)
    per_core[f"{LARGE_WIDTH}x{LARGE_HEIGHT}_1_phrases"] = measure(large.list_collators(), num_large, rounds, "plain")
    return {
        "data": f"{num_rows} images of {WIDTH} x {HEIGHT} (JPEG), {PHRASES} phrases each, {NUM_SHARDS} files",
        "bytes_per_image": round(sum(path.stat().st_size for path in paths) / num_rows),
        "batch_size": BATCH_SIZE,
        "per_core": per_core,
        "gpu_need": compare_with_gpu(per_core[f"{WIDTH}x{HEIGHT}_1_phrases"]),
        "pixel_differences": {
            f"{WIDTH}x{HEIGHT}": measure_differences(paths),
            f"{PORTRAIT_WIDTH}x{PORTRAIT_HEIGHT}": measure_differences([turn(path) for path in paths[:BATCH_SIZE]]),
            f"{LARGE_WIDTH}x{LARGE_HEIGHT}": measure_differences(large_paths),
        },
        "bytes_per_image_in_batch": check_same_values([usual.table[index] for index in range(BATCH_SIZE)]),
        "batches": batches,
        "rows_only": measure(usual.list_rows(), num_rows, rounds),
        "against_image_size": dict(sorted(against_size.items())),
        "against_phrases_per_image": dict(sorted(against_phrases.items())),
    }


def plot_rates(measured: dict[str, Any], output: Path) -> None:
    """Pictures beside `output`: images per second against workers, image size and phrases per image."""
    batches = measured["batches"]
    against_workers = {
        count: {name: batches[f"{name}_{count}_workers"] for name in ("map_style", "streamed")} for count in WORKERS
    }
    sweeps = {
        "against_workers": ("workers", against_workers),
        "against_image_size": ("pixels a side", measured["against_image_size"]),
        "against_phrases_per_image": ("phrases per image", measured["against_phrases_per_image"]),
    }
    for sweep, (x_label, points) in sweeps.items():
        sides = next(iter(points.values()))
        curves = {side: [(x, of_x[side]["images_per_second"]) for x, of_x in points.items()] for side in sides}
        path = output.with_name(f"{output.stem}_{sweep}.png")
        plot_curves(path, "Training batches", x_label, "images per second", curves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="16 images and no warm-up, to see that it runs")
    parser.add_argument("--images", type=int, default=128, help=f"a multiple of {BATCH_SIZE}")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/loading[_quick].json)")
    arguments = parser.parse_args()
    num_rows, rounds = (BATCH_SIZE, 1) if arguments.quick else (arguments.images, 1 + arguments.repetitions)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        measured = measure_all(Path(name), num_rows, rounds)
    plot_rates(measured, write_result("loading", measured, arguments.output, arguments.quick))


if __name__ == "__main__":
    main()
