# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Rows carry bytes: nothing outside the folder of a data set is opened, and nothing is fetched by a row."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from testing_utils import FIXTURES_FOLDER, build_photo, build_rows

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row, load_grounding_dataset
from albef_amc.datasets_scripts.row_images import RowImage, guard_images, locate_image
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding
from albef_amc.image_processing_albef import UnusableImageError
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.data.data_collator import DataCollatorForGrounding
from albef_amc.trainer.data.mixtures import Mixture, build_training_dataset

BOX = [4.0, 4.0, 24.0, 20.0]


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def server():
    """Web server on this machine that serves one photograph and keeps what was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encode(build_photo()))

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    own = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=own.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{own.server_port}", asked
    own.shutdown()
    own.server_close()


@pytest.fixture
def write(tmp_path):
    """Writes a data set of two rows: the first has bytes, the second the image that a test gives."""
    folder = tmp_path / "data set"
    (folder / "data").mkdir(parents=True)
    build_photo().save(folder / "inside.png")
    build_photo().save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "inner_link.png").symlink_to(folder / "inside.png")

    def write_rows(image, column=None):
        rows = []
        good = {"bytes": encode(build_photo()), "path": "good.png"}
        for number, picture in enumerate([good, image]):
            phrases = [build_phrase(number, "the red dog", boxes=[BOX])]
            rows.append(build_row(picture, str(number), 40, 30, phrases))
        schema = GROUNDING_FEATURES.arrow_schema
        if column is not None:
            rows[0]["image"] = image
            index = schema.get_field_index("image")
            schema = schema.remove_metadata().set(index, pa.field("image", column))
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "data" / "train-00000.parquet")
        return folder

    write_rows.outside = tmp_path / "outside.png"
    return write_rows


def spell(word: str, write, server) -> str:
    address = server[0]
    return {
        "absolute": str(write.outside),
        "parent": "../outside.png",
        "link": "link.png",
        "password": "/etc/passwd",
        "home": "~/outside.png",
        "null": "a\0.png",
        "http": f"{address}/a.png",
        "upper": f"{address.upper()}/a.png",
        "https": "https://127.0.0.1:1/a.png",
        "file": f"file://{write.outside}",
        "zip": f"zip://a.png::{address}/a.zip",
        "simplecache": f"simplecache::{address}/a.png",
        "hub": "hf://datasets/user/name/a.png",
        "s3": "s3://bucket/a.png",
        "memory": "memory:a.png",
        "space": f" {address}/a.png",
    }[word]


LOCAL = ["absolute", "parent", "link", "password", "home", "null"]
REMOTE = ["http", "upper", "https", "file", "zip", "simplecache", "hub", "s3", "memory", "space"]
MESSAGES = {
    **dict.fromkeys(LOCAL, "outside the folder of its data set|No image file at"),
    **dict.fromkeys(REMOTE, "nothing is fetched"),
}
KINDS = [None, pa.string(), pa.large_string(), pa.struct({"path": pa.string(), "bytes": pa.binary()})]


@pytest.mark.parametrize(
    ("word", "streaming"),
    [(word, False) for word in LOCAL + REMOTE] + [(word, True) for word in ("absolute", "link", "http", "zip")],
)
def test_rows_that_name_other_places_are_refused(write, server, word, streaming):
    folder = write({"bytes": None, "path": spell(word, write, server)})
    rows = load_grounding_dataset(folder, "train", streaming=streaming)
    first, *_ = iter(rows.take(1)) if streaming else [rows[0]]
    assert first["image"].size == (40, 30)
    with pytest.raises((ValueError, FileNotFoundError), match=MESSAGES[word]):
        list(rows)
    assert server[1] == []


@pytest.mark.parametrize("column", KINDS[1:])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("word", ["absolute", "http"])
def test_columns_of_another_type_are_not_a_way_around(write, server, column, streaming, word):
    place = spell(word, write, server)
    folder = write({"bytes": None, "path": place} if pa.types.is_struct(column) else place, column)
    rows = load_grounding_dataset(folder, "train", streaming=streaming)
    with pytest.raises(ValueError, match=MESSAGES[word]):
        list(rows)
    assert server[1] == []


@pytest.mark.parametrize("column", [pa.binary(), pa.large_binary()])
def test_columns_of_bytes_are_pictures(write, column):
    rows = load_grounding_dataset(write(encode(build_photo()), column), "train")
    assert rows[1]["image"].size == (40, 30)


def test_columns_of_numbers_are_refused(write):
    with pytest.raises(ValueError, match="column `image` holds .*, not images"):
        load_grounding_dataset(write(5, pa.int64()), "train")


@pytest.mark.parametrize("path", ["inside.png", "data/../inside.png", "inner_link.png", "absolute"])
@pytest.mark.parametrize("streaming", [False, True])
def test_files_of_the_folder_are_read(write, path, streaming, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a relative path is one of the data set, not of where the command runs
    folder = tmp_path / "data set"
    write({"bytes": None, "path": str(folder / "inside.png") if path == "absolute" else path})
    rows = list(load_grounding_dataset(folder, "train", streaming=streaming))
    assert rows[1]["image"].tobytes() == build_photo().tobytes()


def train_on(rows, processor, **changes):
    arguments = AmcConfig(output_dir="unused", use_cpu=True, per_device_train_batch_size=1, **changes)
    dataset = build_training_dataset(rows, arguments)
    collator = DataCollatorForGrounding(processor, max_length=None)
    source = iter(dataset) if isinstance(dataset, datasets.IterableDataset) or not hasattr(dataset, "read") else None
    read = [next(source) for _ in range(2)] if source is not None else [dataset[index] for index in range(2)]
    return collator(read)


@pytest.mark.parametrize("word", ["parent", "http"])
@pytest.mark.parametrize("way", ["table", "stream", "grouped", "mixture"])
def test_training_opens_nothing_else(write, server, tiny_processor, word, way):
    folder = write({"bytes": None, "path": spell(word, write, server)})
    rows = load_grounding_dataset(folder, "train", streaming=way == "stream")
    if way == "grouped":
        rows = datasets.concatenate_datasets([rows, rows])
    if way == "mixture":
        rows = Mixture([rows, rows], [1, 1], ["a", "b"])
    with pytest.raises(ValueError, match=MESSAGES[word]):
        for _ in range(4):
            train_on(rows, tiny_processor, group_by_image=way == "grouped")
    assert server[1] == []


@pytest.mark.parametrize("word", ["http", "zip"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_rows_of_ones_own_fetch_nothing(write, server, tiny_processor, tiny_model, word, is_stream):
    place = {"bytes": None, "path": spell(word, write, server)}
    rows = datasets.Dataset.from_list(
        [build_row(place, "7", 40, 30, [build_phrase(1, "the red dog", boxes=[BOX])])] * 2, features=GROUNDING_FEATURES
    )
    with pytest.raises(ValueError, match="nothing is fetched"):
        train_on(rows.to_iterable_dataset() if is_stream else rows, tiny_processor)
    if not is_stream:
        with pytest.raises(ValueError, match="nothing is fetched"):
            evaluate_grounding(tiny_model, tiny_processor, rows)
    assert server[1] == []


def test_rows_of_ones_own_name_any_local_file(write, tiny_processor, tiny_model):
    """Rows that were made in Python have the paths of the person who made them."""
    rows = [build_row(str(write.outside), "7", 40, 30, [build_phrase(1, "the red dog", boxes=[BOX])])] * 2
    table = datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)
    for own in (rows, table, table.map(lambda row: {"note": "mine"})):
        assert train_on(own, tiny_processor)["pixel_values"].shape[0] == 2
        assert evaluate_grounding(tiny_model, tiny_processor, own).metrics["num_phrases"] == 2


@pytest.mark.parametrize("word", ["absolute", "http"])
@pytest.mark.parametrize("command", ["evaluate", "inspect-dataset"])
def test_commands_say_it_in_one_line(write, server, checkpoint, tmp_path, capsys, word, command):
    folder = str(write({"bytes": None, "path": spell(word, write, server)}))
    arguments = {
        "evaluate": ["evaluate", str(checkpoint), folder, "train", "--device", "cpu"],
        "inspect-dataset": ["inspect-dataset", folder, "-o", str(tmp_path / "sheet.png")],
    }[command]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and "a row names the image" in captured.err.splitlines()[-1]
    assert server[1] == []


def test_statistics_open_no_image(write, server, capsys):
    folder = write({"bytes": None, "path": f"{server[0]}/a.png"})
    assert main(["inspect-dataset", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 2 and server[1] == []


def test_the_guard_holds_whatever_people_do_with_rows(write, server):
    folder = write({"bytes": None, "path": f"{server[0]}/a.png"})
    rows = load_grounding_dataset(folder, "train")
    changed = [
        rows.select([1]),
        rows.shuffle(seed=0),
        rows.with_format("torch"),
        rows.select_columns(["image", "image_id", "phrases"]),
        datasets.concatenate_datasets([rows, rows]),
        rows.to_iterable_dataset(num_shards=2),
    ]
    for own in changed:
        assert isinstance(own.features["image"], RowImage)
        with pytest.raises(ValueError, match="nothing is fetched"):
            list(own)
    assert server[1] == []


def test_pairs_of_pictures_are_guarded(tmp_path, server):
    features = datasets.Features({"images": datasets.List(datasets.Image()), "id": datasets.Value("string")})
    row = {"images": [{"bytes": None, "path": f"{server[0]}/a.png"}] * 2, "id": "1"}
    rows = guard_images(datasets.Dataset.from_list([row], features=features), [tmp_path])
    with pytest.raises(ValueError, match="nothing is fetched"):
        rows[0]
    assert server[1] == []


def test_columns_of_sound_are_not_decoded(server):
    features = datasets.Features({"image": datasets.Image(), "voice": datasets.Audio()})
    row = {"image": {"bytes": encode(build_photo())}, "voice": {"bytes": None, "path": f"{server[0]}/a.wav"}}
    table = pa.Table.from_pylist([row], schema=features.arrow_schema)
    assert guard_images(datasets.Dataset(table))[0]["voice"]["path"].endswith("a.wav") and server[1] == []


def test_pictures_of_rows_are_opened_by_the_package(tmp_path):
    content = (FIXTURES_FOLDER / "pictures" / "postscript.jpg").read_bytes()
    rows = guard_images(
        datasets.Dataset.from_list([{"image": content}]).cast_column("image", datasets.Image()), [tmp_path]
    )
    with pytest.raises(UnusableImageError, match="is not an image that Pillow"):
        rows[0]
    assert guard_images(rows, is_decoded=False)[0]["image"] == content


def test_decoded_pictures_are_those_of_datasets(tmp_path):
    """Mode, format and turn are as `datasets` gives them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    build_photo().save(tmp_path / "turned.jpg", exif=exif)
    build_photo().convert("P").save(tmp_path / "palette.png")
    rows = datasets.Dataset.from_list([{"image": str(tmp_path / name)} for name in ("turned.jpg", "palette.png")])
    rows = rows.cast_column("image", datasets.Image())
    for own, expected in zip(guard_images(rows, [tmp_path]), rows, strict=True):
        own, expected = own["image"], expected["image"]
        assert (own.mode, own.size, own.tobytes()) == (expected.mode, expected.size, expected.tobytes())
    assert rows.features == guard_images(rows).features and guard_images(rows).features == rows.features


def test_files_that_are_written_hold_the_plain_feature(tmp_path, write):
    rows = load_grounding_dataset(write({"bytes": encode(build_photo()), "path": None}), "train")
    rows.to_parquet(tmp_path / "copy.parquet")
    again = datasets.Dataset.from_parquet(str(tmp_path / "copy.parquet"), cache_dir=str(tmp_path / "cache"))
    assert type(again.features["image"]) is datasets.Image


@pytest.mark.parametrize("value", [None, {"bytes": None, "path": None}])
def test_a_row_without_an_image_is_named(value):
    with pytest.raises(UnusableImageError, match="neither bytes nor a path") as caught:
        locate_image(value)
    assert caught.value.reason == "row without an image"


def test_other_rows_come_back_as_they_are():
    rows = build_rows(1)
    assert guard_images(rows) is rows and locate_image(rows[0]["image"]) is rows[0]["image"]
