# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Original checkpoints and pickles from untrusted sources: bombs, false lengths, entries that are not weights."""

import pickle
import re
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from testing_utils import check_refusal, limit_work
from tiny_originals import TINY, VOCABULARY, assert_nothing_written, convert, save

from albef_amc.conversion.pickle_files import PickleLimits, find_pickle_end
from albef_amc.conversion.weight_files import load_original_state_dict
from albef_amc.datasets_scripts.refcoco.restricted_pickle import load_plain_pickle


@pytest.fixture
def state():
    return {name: tensor.clone() for name, tensor in load_original_state_dict(TINY).items()}


def check_refused(path, folder, words: str) -> None:
    with limit_work(), pytest.raises(ValueError, match=words):
        convert(path, folder / "out")
    assert_nothing_written(folder)


# Entries


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (5, "of the type int"),
        ("text", "of the type str"),
        (None, "of the type NoneType"),
        ([1.0], "of the type list"),
        ({"weight": torch.ones(2)}, "of the type dict"),
        (OrderedDict(a=torch.ones(1)), "of the type OrderedDict"),
        (torch.eye(3).to_sparse(), "is a tensor of torch.float32, torch.sparse_coo"),
        (torch.ones(3, dtype=torch.int8), "is a tensor of torch.int8"),
        (torch.ones(3, dtype=torch.bool), "is a tensor of torch.bool"),
        (torch.ones(3, dtype=torch.complex64), "is a tensor of torch.complex64"),
        (torch.ones(3).to(torch.float8_e4m3fn), "is a tensor of torch.float8_e4m3fn"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "is a tensor of torch.qint8"),
        (torch.empty(3, device="meta"), "is a tensor without values"),
    ],
    ids=range(13),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_entry_that_is_not_a_weight_is_named(state, tmp_path, entry, words):
    state["itm_head.bias"] = entry
    check_refused(save(state, tmp_path / "a.pth"), tmp_path, f"a.pth: the entry `itm_head.bias` .*{re.escape(words)}")


def test_a_name_that_is_not_text_is_named(state, tmp_path):
    state[5] = torch.ones(1)
    check_refused(
        save(state, tmp_path / "a.pth"), tmp_path, "the entry '5' of the state dict has a name that is not text"
    )


def test_whole_numbers_in_place_of_weights_are_named(state, tmp_path):
    state["itm_head.bias"] = torch.ones(2, dtype=torch.int64)
    check_refused(save(state, tmp_path / "a.pth"), tmp_path, r"wrong type of number: `itm_head.bias \(torch.int64\)`")


@pytest.mark.parametrize("shape", [(10**5, 10**5), (10**9, 48), (2, 10**12)])
def test_values_that_a_file_only_states(state, tmp_path, shape):
    state["itm_head.weight"] = torch.zeros(()).expand(shape)
    check_refused(save(state, tmp_path / "a.pth"), tmp_path, "bytes of values that it does not hold")


def test_entries_that_share_one_storage(state, tmp_path):
    shared = torch.zeros(2**20)
    state |= {f"visual_encoder.blocks.{index}.mlp.fc1.weight": shared.view(2**10, 2**10) for index in range(600)}
    check_refused(save(state, tmp_path / "a.pth"), tmp_path, "bytes of values that it does not hold")


# Archives


def rewrite(source, target, change) -> None:
    """Rewrites the archive with what `change(name, content)` makes of every part: content and its compression."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as written:
        for part in archive.infolist():
            content, compression = change(part.filename, archive.read(part))
            written.writestr(part.filename, content, compression)


def test_a_compressed_archive(tmp_path):
    rewrite(TINY, tmp_path / "bomb.pth", lambda name, content: (content, zipfile.ZIP_DEFLATED))
    check_refused(tmp_path / "bomb.pth", tmp_path, "is compressed, which torch never writes")


def test_a_part_that_grows(tmp_path):
    def blow_up(name: str, content: bytes) -> tuple[bytes, int]:
        return (bytes(2**26), zipfile.ZIP_DEFLATED) if name.endswith("/data/0") else (content, zipfile.ZIP_STORED)

    rewrite(TINY, tmp_path / "bomb.pth", blow_up)
    assert (tmp_path / "bomb.pth").stat().st_size < 2**23
    check_refused(tmp_path / "bomb.pth", tmp_path, "data/0 is compressed")


def test_parts_that_lie_on_each_other(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", bytes(2**16))
        first = archive.getinfo("archive/data/0")
        for index in range(1, 2000):
            again = zipfile.ZipInfo(f"archive/data/{index}")
            again.file_size = again.compress_size = first.file_size
            again.header_offset, again.CRC = first.header_offset, first.CRC
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    check_refused(path, tmp_path, "its parts are larger than the file")


LONG = struct.pack("<Q", 2**40)
PICKLES = {
    "frame": b"\x80\x04\x95" + LONG + b"N.",
    "text": b"\x80\x04\x8d" + LONG + b"a.",
    "bytes": b"\x80\x04\x8e" + LONG + b"a.",
    "bytearray": b"\x80\x05\x96" + LONG + b"a.",
    "string": b"T" + struct.pack("<I", 2**31 - 1) + b"a.",
    "whole number": b"\x8b" + struct.pack("<I", 2**31 - 1) + b"a.",
    "memo": b"]r" + struct.pack("<I", 2**32 - 1) + b".",
    "memo in text": b"]p4000000000\n.",
    "negative memo": b"]p-5\n.",
    "no end": b"(lp0\n",
    "no line": b"V" + b"a" * 1000,
    "no operation": b"\xff\xff\xff.",
    "empty": b"",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_lies_is_refused(kind, tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(PICKLES[kind])
    with limit_work(), pytest.raises(ValueError, match="refs.p is not a complete pickle .*fetch it again"):
        load_plain_pickle(path)
    rewrite(
        TINY,
        tmp_path / "a.pth",
        lambda name, content: (PICKLES[kind] if name.endswith("data.pkl") else content, zipfile.ZIP_STORED),
    )
    check_refused(tmp_path / "a.pth", tmp_path, "a.pth is not a checkpoint that torch can read")
    (tmp_path / "old.pth").write_bytes(PICKLES[kind] or b"\x00")
    check_refused(tmp_path / "old.pth", tmp_path, "old.pth is not a checkpoint that torch can read")


def test_a_pickle_of_containers_alone():
    with pytest.raises(ValueError, match="more than 50000000 operations or 1000 containers"):
        find_pickle_end(b"}" * 1001 + b".", limits=PickleLimits(most_containers=1000))
    with pytest.raises(ValueError, match="more than 10 operations"):
        find_pickle_end(b"N" * 20 + b".", limits=PickleLimits(most_operations=10))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read_to_its_end(protocol):
    content = [{"a": (1, 2.5, None, True, "text é", b"bytes", 10**50, {1, 2}, bytearray(b"x"))}] * 3 + list(range(300))
    written = pickle.dumps(content, protocol=protocol)
    assert find_pickle_end(written + b"after") == len(written)


def test_one_line_from_the_command(tmp_path, capsys):
    rewrite(TINY, tmp_path / "bomb.pth", lambda name, content: (content, zipfile.ZIP_DEFLATED))
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    words = ["convert", str(tmp_path / "bomb.pth"), "--vocab", str(tmp_path / "vocab.txt")]
    words += ["--output-dir", str(tmp_path / "out")]
    check_refusal(words, "bomb.pth is not a checkpoint that torch can read: its part", capsys)
