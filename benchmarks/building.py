# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Building a data set of Visual Genome's size: peak memory, time, and how often the raw files are read.

    python benchmarks/building.py            # 108,077 images with 50 regions each (about half an hour on two cores)
    python benchmarks/building.py --quick    # a hundredth of it, to see that it runs

The list of region descriptions is generated in AMC's form; the photographs are small drawn ones, so that the figure is
about the annotations: the memory that images need does not grow with their number. The build runs in a process of its
own, interpreter and libraries included; its peak is `VmHWM`. Bytes read are those that the system counted (`rchar`)
while it built: raw files once, and the finished shards for their checksums and statistics.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import describe_machine
from PIL import Image

RESULTS_FOLDER = Path(__file__).parent / "results"
NUM_IMAGES, REGIONS_PER_IMAGE, QUICK_SHARE = 108_077, 50, 100
WIDTH, HEIGHT = 500, 375
NUM_PICTURES = 1000  # different files; an image is a copy of one of them
WORDS = (
    "a the red white black small tall wooden man woman dog street tree window sign shirt on of in behind with".split()
)
LIST_FILE, IMAGE_FOLDER = "vg_descriptions.json", "VG_100K"


def generate(folder: Path, num_images: int) -> dict[str, int]:
    """Raw files in AMC's form; returns their bytes."""
    generator = random.Random(0)
    (folder / IMAGE_FOLDER).mkdir(parents=True)
    pictures = []
    for number in range(min(NUM_PICTURES, num_images)):
        color = tuple(generator.randrange(256) for _ in range(3))
        path = folder / IMAGE_FOLDER / f"{number + 1}.jpg"
        Image.new("RGB", (WIDTH, HEIGHT), color).save(path, quality=50)
        pictures.append(path.read_bytes())
    for number in range(len(pictures), num_images):
        (folder / IMAGE_FOLDER / f"{number + 1}.jpg").write_bytes(pictures[number % len(pictures)])
    with (folder / LIST_FILE).open("w") as file:
        separator = "["
        for number in range(num_images):
            for _ in range(REGIONS_PER_IMAGE):
                file.write(separator + json.dumps(generate_region(generator, number + 1)))
                separator = ", "
        file.write("]")
    images = sum(path.stat().st_size for path in (folder / IMAGE_FOLDER).iterdir())
    return {"list_bytes": (folder / LIST_FILE).stat().st_size, "image_bytes": images}


def generate_region(generator: random.Random, image: int) -> dict:
    """An entry with a phrase of five words on average."""
    x, y = generator.randrange(WIDTH - 20), generator.randrange(HEIGHT - 20)
    box = [x, y, generator.randrange(x + 10, WIDTH + 1), generator.randrange(y + 10, HEIGHT + 1)]
    words = " ".join(generator.choices(WORDS, k=generator.randrange(3, 8)))
    return {"image": f"{IMAGE_FOLDER}/{image}.jpg", "caption": words, "bbox": [box]}


def build(folder: Path, num_workers: int) -> dict:
    """Builds in this process; returns what the system counted of it."""
    from albef_amc.trainer.dataset_building import build_dataset

    options = {"data_root": str(folder), "annotation_files": [LIST_FILE]}
    began, read_before = time.perf_counter(), count_bytes_read()
    built = build_dataset("amc_json", folder / "built", options, num_workers=num_workers, shard_size="100MB")
    statistics = built["statistics"]["all"]
    status = Path("/proc/self/status").read_text()
    return {
        "seconds": time.perf_counter() - began,
        "peak_memory_gb": int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024 / 1e9,
        "bytes_read": count_bytes_read() - read_before,
        **{name: statistics[name] for name in ("num_images", "num_phrases", "num_boxes")},
        "num_shards": sum(name.endswith(".parquet") for name in built["files"]),
        "parquet_bytes": sum(size for name, size in built["files"].items() if name.endswith(".parquet")),
    }


def count_bytes_read() -> int:
    """Bytes that this process has read from files."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text()).group(1))


def measure(arguments: argparse.Namespace) -> dict:
    """Generates the raw files and builds them in a process of its own."""
    num_images = NUM_IMAGES // (QUICK_SHARE if arguments.quick else 1)
    with TemporaryDirectory(dir=arguments.folder) as name:
        raw = generate(Path(name), num_images)
        command = [sys.executable, __file__, "--only", name, "--workers", str(arguments.workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    built = json.loads(done.stdout)
    expected = {"num_images": num_images, "num_phrases": num_images * REGIONS_PER_IMAGE}
    if any(built[name] != count for name, count in expected.items()):
        raise RuntimeError(f"{expected} went in, {built} came out.")
    return {**raw, **built}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth, to see that it runs")
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--folder", type=Path, help="where to generate (2 GB; the system's temporary folder)")
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)  # the process that is measured
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/building[_quick].json)")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(build(arguments.only, arguments.workers)))
        return
    command = " ".join(["python", "benchmarks/building.py", *sys.argv[1:]])
    result = {"command": command, "machine": describe_machine(), "builder": "amc_json", **measure(arguments)}
    output = arguments.output or RESULTS_FOLDER / f"building{'_quick' * arguments.quick}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
