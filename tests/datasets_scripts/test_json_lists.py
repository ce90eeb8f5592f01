"""Long JSON lists: the same entries for every chunk length, and one clear error for each kind of damage."""

import json
import tracemalloc

import pytest

from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list, iterate_json_object

ENTRIES = [
    {"image": "a.jpg", "caption": 'a "quoted" \\ caption, with ] and }', "bbox": [[1.5, -2e3, 3, 4]]},
    {},
    {"image": "café.jpg", "caption": ["\ud83d\udc36 dog".encode("utf-16", "surrogatepass").decode("utf-16"), ""]},
    {"nested": {"list": [{"a": [1, 2, {"b": None}]}], "flag": True}},
]


@pytest.mark.parametrize("chunk_length", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_entries_do_not_depend_on_chunks(tmp_path, chunk_length, style):
    path = tmp_path / "list.json"
    path.write_text("\n " + json.dumps(ENTRIES, **style) + " \n", encoding="utf-8")
    assert list(iterate_json_list(path, chunk_length)) == ENTRIES


@pytest.mark.parametrize("text", ["[]", " [ \n] ", "\ufeff[]"])
def test_an_empty_list_has_no_entries(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text, encoding="utf-8")
    assert list(iterate_json_list(path)) == []


@pytest.mark.parametrize(
    ("text", "entry", "reason"),
    [
        ("", 0, "the end of the file"),
        ('{"image": "a.jpg"}', 0, "a list of entries is expected"),
        ("[1, 2]", 0, "`1` where an object in braces"),
        ('[{"a": 1}, "b"]', 1, '`"` where an object'),
        ('[{"a": 1}, ]', 1, "`]` where an object"),
        ('[{"a": 1} {"a": 2}]', 1, "`,` is expected here, found {"),
        ('[{"a": 1}, {"a": 2}', 2, "`,` is expected here, found the end of the file"),
        ('[{"a": 1},', 1, "Expecting value"),
        ('[{"a": 1}, {"a": "cut of', 1, "Unterminated string"),
        ('[{"a": 1}, {"a": 2, }]', 1, "double quotes|trailing comma"),
        ('[{"a": 1}] [', 1, "after the end of a list"),
        ('[{"a": ' + "[" * 100_000, 0, "recursion"),
    ],
)
@pytest.mark.parametrize("chunk_length", [4, 1 << 20])
def test_damage_names_file_and_entry(tmp_path, text, entry, reason, chunk_length):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"list.json cannot be read at entry {entry} \(.*({reason})"):
        list(iterate_json_list(path, chunk_length))


@pytest.mark.parametrize("digits", [4_301, 400_000])
def test_a_number_of_too_many_digits_is_refused_at_its_entry_and_before_the_rest_is_read(tmp_path, digits):
    path = tmp_path / "list.json"
    rest = b', {"caption": "' + b"a" * 60_000_000 + b'"}]'
    path.write_bytes(b'[{"a": 1}, {"a": ' + b"9" * digits + b"}" + rest)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"list\.json cannot be read at entry 1 \(.*digits"):
            list(iterate_json_list(path))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("chunk_length", [1, 3, 1 << 20])
def test_members_of_an_object_do_not_depend_on_chunks(tmp_path, chunk_length):
    path = tmp_path / "object.json"
    contents = {str(number): entry for number, entry in enumerate(ENTRIES)} | {"list": [1, 2], 'a "b"': []}
    path.write_text(json.dumps(contents, indent=1), encoding="utf-8")
    assert dict(iterate_json_object(path, chunk_length)) == contents
    path.write_text("{ }")
    assert list(iterate_json_object(path, chunk_length)) == []


@pytest.mark.parametrize(
    ("text", "entry", "reason"),
    [
        ("", 0, "the end of the file"),
        ("[]", 0, "an object with keys is expected"),
        ("{1: []}", 0, "`1` where a key in quotes"),
        ('{"a": 1}', 0, "`1` where a list or an object"),
        ('{"a": []} []', 1, "after the end of an object"),
        ('{"a": [], "b": {"c', 1, "Unterminated string"),
        ('{"a": [], "b"', 1, "`:` is expected here, found the end of the file"),
    ],
)
def test_damage_of_an_object_names_file_and_entry(tmp_path, text, entry, reason):
    path = tmp_path / "object.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"object.json cannot be read at entry {entry} \(.*({reason})"):
        list(iterate_json_object(path))


def test_bytes_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "list.json"
    path.write_bytes(b'[{"image": "\xff\xfe"}]')
    with pytest.raises(ValueError, match="list.json, line 1 .byte 12.: the byte 0xff is not UTF-8"):
        list(iterate_json_list(path))


@pytest.mark.slow
def test_a_long_list_is_not_held_in_memory(tmp_path):
    path = tmp_path / "list.json"
    entry = {"image": "VG_100K/1.jpg", "caption": "x" * 200, "bbox": [[1, 2, 3, 4]]}
    path.write_text("[" + ", ".join([json.dumps(entry)] * 20_000) + "]")
    tracemalloc.start()
    count = sum(1 for _ in iterate_json_list(path, chunk_length=1 << 14))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < path.stat().st_size / 10
