# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Building a data set of Visual Genome's size: peak memory, time, and how often the raw files are read.

    python benchmarks/building.py            # 108,077 images with 50 regions each (about half an hour on two cores)
    python benchmarks/building.py --quick    # a hundredth of it, to see that it runs

Region descriptions are generated in Visual Genome's own form and in AMC's; the photographs are small drawn ones, so
that the figure is about the annotations: the memory that images need does not grow with their number. Each build runs
in a process of its own, interpreter and libraries included; its peak is `VmHWM`. Bytes read are those that the system
counted (`rchar`) while it built: raw files once, and the finished shards for their checksums and statistics.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import read_peak_memory, write_result
from PIL import Image

NUM_IMAGES, REGIONS_PER_IMAGE, QUICK_SHARE = 108_077, 50, 100
WIDTH, HEIGHT = 500, 375
NUM_PICTURES = 1000  # different files; an image is a copy of one of them
WORDS = (
    "a the red white black small tall wooden man woman dog street tree window sign shirt on of in behind with".split()
)
IMAGE_FOLDER = "VG_100K"
URL = "https://cs.stanford.edu/people/rak248/VG_100K/{}.jpg"
AMC_FILE, VG_FILE, VG_IMAGE_FILE = "vg_descriptions.json", "region_descriptions.json", "image_data.json"
# Files of annotations and options of each builder.
BUILDS: dict[str, tuple[list[str], dict]] = {
    "visual_genome": ([VG_FILE, VG_IMAGE_FILE], {}),
    "amc_json": ([AMC_FILE], {"annotation_files": [AMC_FILE]}),
}


def generate_images(folder: Path, num_images: int) -> None:
    """Drawn photographs, `NUM_PICTURES` different ones."""
    generator = random.Random(0)
    folder.mkdir(parents=True)
    pictures: list[bytes] = []
    for number in range(num_images):
        path = folder / f"{number + 1}.jpg"
        if number < NUM_PICTURES:
            color = tuple(generator.randrange(256) for _ in range(3))
            Image.new("RGB", (WIDTH, HEIGHT), color).save(path, quality=50)
            pictures.append(path.read_bytes())
        else:
            path.write_bytes(pictures[number % NUM_PICTURES])


def generate_annotations(folder: Path, num_images: int) -> None:
    """The same regions in both forms, phrases of five words on average."""
    generator = random.Random(1)
    paths = (folder / name for name in (AMC_FILE, VG_FILE, VG_IMAGE_FILE))
    with ExitStack() as stack:
        amc, regions, images = (stack.enter_context(path.open("w")) for path in paths)
        for image in range(1, num_images + 1):
            entries = [generate_region(generator, image, number) for number in range(REGIONS_PER_IMAGE)]
            start = "[" if image == 1 else ", "
            regions.write(start + json.dumps({"id": image, "regions": entries}))
            facts = {"image_id": image, "url": URL.format(image), "width": WIDTH, "height": HEIGHT}
            images.write(start + json.dumps({**facts, "coco_id": None, "flickr_id": None}))
            amc.write(start + ", ".join(json.dumps(to_amc(entry)) for entry in entries))
        for file in (amc, regions, images):
            file.write("]")


def generate_region(generator: random.Random, image: int, number: int) -> dict:
    """An entry of Visual Genome."""
    x, y = generator.randrange(WIDTH - 20), generator.randrange(HEIGHT - 20)
    return {
        "region_id": image * REGIONS_PER_IMAGE + number,
        "width": generator.randrange(10, WIDTH + 1 - x),
        "height": generator.randrange(10, HEIGHT + 1 - y),
        "image_id": image,
        "phrase": " ".join(generator.choices(WORDS, k=generator.randrange(3, 8))),
        "y": y,
        "x": x,
    }


def to_amc(region: dict) -> dict:
    """The same region as an entry of AMC's lists."""
    x, y = region["x"], region["y"]
    box = [x, y, x + region["width"], y + region["height"]]
    return {"image": f"{IMAGE_FOLDER}/{region['image_id']}.jpg", "caption": region["phrase"], "bbox": [box]}


def build(folder: Path, name: str, num_workers: int) -> dict:
    """Builds in this process; returns what the system counted of it."""
    from albef_amc.publishing.dataset_building import build_dataset

    files, options = BUILDS[name]
    options = {**options, "data_root": str(folder)}
    began, read_before = time.perf_counter(), count_bytes_read()
    with TemporaryDirectory(dir=folder) as output:
        built = build_dataset(name, output, options, num_workers=num_workers, shard_size="100MB")
    statistics = built["statistics"]["all"]
    shards = [size for name, size in built["files"].items() if name.endswith(".parquet")]
    return {
        "peak_memory_gb": read_peak_memory(),
        "seconds": time.perf_counter() - began,
        "annotation_bytes": sum((folder / name).stat().st_size for name in files),
        "image_bytes": sum(path.stat().st_size for path in (folder / IMAGE_FOLDER).iterdir()),
        "parquet_bytes": sum(shards),
        "bytes_read": count_bytes_read() - read_before,
        "num_shards": len(shards),
        **{name: statistics[name] for name in ("num_images", "num_phrases", "num_boxes")},
    }


def count_bytes_read() -> int:
    """Bytes that this process has read from files."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text()).group(1))


def measure(arguments: argparse.Namespace) -> dict:
    """Generates the raw files and builds them, each time in a process of its own."""
    num_images = NUM_IMAGES // (QUICK_SHARE if arguments.quick else 1)
    results = {}
    with TemporaryDirectory(dir=arguments.folder) as folder:
        generate_images(Path(folder) / IMAGE_FOLDER, num_images)
        generate_annotations(Path(folder), num_images)
        for name in BUILDS:
            command = [sys.executable, __file__, "--only", folder, name, "--workers", str(arguments.workers)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[name] = json.loads(done.stdout)
            expected = {"num_images": num_images, "num_phrases": num_images * REGIONS_PER_IMAGE}
            if any(results[name][what] != count for what, count in expected.items()):
                raise RuntimeError(f"{expected} went in, {results[name]} came out.")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth, to see that it runs")
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--folder", type=Path, help="where to generate (3 GB; the system's temporary folder)")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)  # the process that is measured
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/building[_quick].json)")
    arguments = parser.parse_args()
    if arguments.only:
        folder, name = arguments.only
        print(json.dumps(build(Path(folder), name, arguments.workers)))
        return
    write_result("building", measure(arguments), arguments.output, arguments.quick)


if __name__ == "__main__":
    main()
