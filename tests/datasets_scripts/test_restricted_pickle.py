"""Pickles of plain values: read like `pickle` reads them, and never run."""

import collections
import pickle
from pathlib import Path

import pytest

from albef_amc.datasets_scripts.refcoco.restricted_pickle import load_plain_pickle

VALUES = [{"ref_id": 7, "split": "testA", "sizes": (1, 2.5, -3, 10**30), "flags": [True, None], "text": "niño"}]


class Attack:
    """Would write a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read(tmp_path, protocol):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(VALUES, protocol))
    assert load_plain_pickle(path) == VALUES


def test_byte_strings_of_python_2_become_text(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"(lp0\nS'ni\xf1o'\np1\na.")
    assert load_plain_pickle(path) == ["niño"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_refused_and_not_run(tmp_path, protocol):
    path, victim = tmp_path / "refs.p", tmp_path / "victim"
    path.write_bytes(pickle.dumps([1, Attack(victim)], protocol))
    with pytest.raises(ValueError, match=r"refs\.p refers to `.*`: loading it could run code, so it is refused"):
        load_plain_pickle(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())
    assert victim.exists(), "the pickle would have run nothing: the test proves nothing"


@pytest.mark.parametrize("value", [collections.OrderedDict(a=1), collections.Counter("a"), Path("a"), print, int])
def test_any_other_class_is_refused(tmp_path, value):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match="it is refused"):
        load_plain_pickle(path)


def test_persistent_references_are_refused(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"Pplace\n.")
    with pytest.raises(ValueError, match=r"refs\.p is not a complete pickle"):
        load_plain_pickle(path)


@pytest.mark.parametrize("length", [0, 1, 20, -1])
def test_cut_off_pickles_are_named(tmp_path, length):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(VALUES)[:length])
    with pytest.raises(ValueError, match=r"refs\.p is not a complete pickle .*fetch it again"):
        load_plain_pickle(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\x00\x00\x00\x20.",
        b"\x80\x02X\x02\x00\x00\x00caq\x00]r\xff\xff\xff\xff.",
        b"]p400000000\n.",
        b"(lp99999999999\n.",
        b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02hi\x94r\x00\x00\x00\x7f.",
        b"S'ni\xf1o'\np0\n]p99999999\n.",
        b"S'text'\np400000000\n",
    ],
)
def test_a_table_that_is_larger_than_the_file_is_refused(tmp_path, content):
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"refs\.p is not a complete pickle \("):
        load_plain_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", ["r" * 300, "p400000000\n" * 30, "\u00f1\n" * 200, 10**700, -1.5])
def test_texts_and_numbers_are_not_instructions(tmp_path, protocol, value):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"a": value}] * 50, protocol))
    assert load_plain_pickle(path) == [{"a": value}] * 50
