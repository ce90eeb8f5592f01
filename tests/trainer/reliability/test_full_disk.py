# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A disk that is full while rows are written: one line, status 1, nothing half-written, and the same files later."""

import os
import resource
import subprocess
import sys

import pytest

from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.publishing.dataset_building import build_dataset

SCENES = {"num_train_scenes": 200, "num_validation_scenes": 0, "num_test_scenes": 0}
WORDS = [word for name, value in SCENES.items() for word in ("--data", f"{name}={value}")]
# In a process of its own: a Parquet writer that meets a full disk by itself ends its process.
RUN = """
    import resource, sys
    from albef_amc.cli.main import main

    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # bytes that fit into a file
    sys.exit(main(sys.argv[2:]))
"""


def run(limit: int, *words: str, **environment: str) -> subprocess.CompletedProcess:
    code = "\n".join(line.strip() for line in RUN.splitlines())
    command = [sys.executable, "-c", code, str(limit), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def hash_files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def limit_files():
    """Sets the bytes that fit into a file of this process; taken back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_build_ends_in_one_line_and_continues_to_the_same_files(tmp_path):
    folder = tmp_path / "built"
    done = run(40_000, "build-dataset", "synthetic", "-o", str(folder), *WORDS)  # one shard of about 70 kB
    assert done.returncode == 1, done.stderr[-2000:]
    line = done.stderr.splitlines()[-1]
    assert line.startswith("albef-amc: error: OSError: [Errno 27] File too large:") and "Traceback" not in done.stderr
    assert "data/train-00000.parquet" in line and line.endswith("make room and continue with `--resume`.")
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["manifest.json"]
    build_dataset("synthetic", folder, SCENES, resume=True)
    build_dataset("synthetic", tmp_path / "whole", SCENES)
    assert hash_files(folder) == hash_files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_complete_shards_are_kept(num_workers, tmp_path, limit_files):
    options, read = dict(shard_size="30KB", num_workers=num_workers), []

    def fill_the_disk(split, count, total):
        read.append(count)
        if sum(read) > 100:
            limit_files(10_000)

    with pytest.raises(OSError, match="no room for data/train-.*It is removed, and complete shards are kept"):
        build_dataset("synthetic", tmp_path / "built", SCENES, progress=fill_the_disk, **options)
    limit_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    left = hash_files(tmp_path / "built")
    build_dataset("synthetic", tmp_path / "whole", SCENES, **options)
    whole = hash_files(tmp_path / "whole")
    assert len(left) > 2 and all(content == whole[name] for name, content in left.items() if "parquet" in name)
    build_dataset("synthetic", tmp_path / "built", SCENES, resume=True, **options)
    assert hash_files(tmp_path / "built") == whole


def test_a_cache_without_room_is_named(tmp_path, limit_files):
    limit_files(20_000)
    with pytest.raises(OSError, match="File too large: the cache has no room for the rows of synthetic. Make room"):
        load_grounding_dataset("synthetic", "train", cache_dir=str(tmp_path / "cache"), **SCENES)
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_damaged_parquet_file_is_named(tmp_path):
    build_dataset("synthetic", tmp_path / "built", SCENES)
    path = tmp_path / "built" / "data" / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="built cannot be read: "):
        load_grounding_dataset(tmp_path / "built", "train", cache_dir=str(tmp_path / "cache"))
