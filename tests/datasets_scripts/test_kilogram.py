"""KiloGram: rows against the expected values of the raw files, pictures against polygons, splits, damaged files."""

import json
import shutil

import numpy as np
import pytest
from PIL import ImageColor
from testing_utils import DATA_FOLDER, FIXTURES_FOLDER

from albef_amc.datasets_scripts import GROUNDING_FEATURES, KiloGram, compute_statistics
from albef_amc.datasets_scripts.kilogram.drawings import COLORS, IMAGE_SIDE, rasterize, read_drawing
from albef_amc.datasets_scripts.kilogram.phrases import add_article, build_caption

RAW = FIXTURES_FOLDER / "kilogram"
KILOGRAM = DATA_FOLDER / "kilogram"
needs_kilogram = pytest.mark.skipif(not KILOGRAM.is_dir(), reason=f"no {KILOGRAM}: set ALBEF_AMC_DATA")
CENTERS = np.stack(np.meshgrid(np.arange(IMAGE_SIDE) + 0.5, np.arange(IMAGE_SIDE) + 0.5), axis=-1)


def build(cache, data_root=RAW, **options):
    builder = KiloGram(cache_dir=str(cache), data_root=str(data_root), **options)
    builder.download_and_prepare()
    assert builder.info.features == GROUNDING_FEATURES
    return builder


@pytest.fixture
def source(tmp_path):
    shutil.copytree(RAW, tmp_path / "raw")
    return tmp_path / "raw"


def edit(path, change):
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


def holds_centers(polygon):
    """Pixels whose centres lie on the inner side of every edge of a convex polygon."""
    corners = np.array(polygon).reshape(-1, 2)
    edges = np.roll(corners, -1, axis=0) - corners
    to_center = CENTERS[:, :, None] - corners  # (height, width, num_corners, 2)
    sides = edges[:, 0] * to_center[..., 1] - edges[:, 1] * to_center[..., 0]
    return (sides > 0).all(axis=-1) | (sides < 0).all(axis=-1), (np.abs(sides) < 1e-3).any(axis=-1)


def find_painted_color(row, polygon):
    """Pixels of the row's picture that have the colour in the middle of a polygon."""
    pixels = np.asarray(row["image"].convert("RGB"))
    x, y = np.array(polygon).reshape(-1, 2).mean(axis=0)
    return (pixels == pixels[int(y), int(x)]).all(axis=-1)


def test_rows_are_those_of_the_published_script(tmp_path):
    builder = build(tmp_path)
    rows = {row["image_id"]: (split, row) for split in builder.info.splits for row in builder.as_dataset(split=split)}
    expected = json.loads((RAW / "expected.json").read_text())["rows"]
    assert len(rows) == len(expected) == 6 and not builder.report.counts
    for wanted_row in expected:
        split, row = rows[wanted_row["image_id"]]
        assert (split, row["width"], row["height"]) == (wanted_row["split"], 224, 224)
        assert row["image"].size == (224, 224)
        *parts, whole = row["phrases"]
        for phrase, wanted in zip(parts, wanted_row["phrases"], strict=True):
            for name in ("phrase_id", "phrase", "types", "caption", "spans"):
                assert phrase[name] == wanted[name]
            assert phrase["boxes"] == [pytest.approx(box, abs=1e-4) for box in wanted["boxes"]]
            assert phrase["polygons"] == [pytest.approx(flat, abs=1e-4) for (flat,) in wanted["polygons"]]
        ((start, end),) = whole["spans"]
        assert whole["caption"][start:end] == whole["phrase"] and whole["types"] == ["whole"]
        assert whole["boxes"] is None and whole["polygons"] is None


def test_polygons_of_a_part_are_the_pixels_of_its_colour(tmp_path):
    for row in build(tmp_path).as_dataset(split="all"):
        for phrase in row["phrases"][:-1]:
            union = np.logical_or.reduce([rasterize(polygon) for polygon in phrase["polygons"]])
            assert (find_painted_color(row, phrase["polygons"][0]) == union).all()


@pytest.mark.slow
def test_parts_differ_in_colour_and_the_lot_is_the_same_every_time(tmp_path):
    first, again = (build(tmp_path / name).as_dataset(split="all") for name in "ab")
    palette = {ImageColor.getrgb(color) for color in COLORS}
    used = []
    for row, other in zip(first, again, strict=True):
        pixels = np.asarray(row["image"])
        assert (pixels == np.asarray(other["image"])).all()
        colors = {tuple(color) for color in pixels.reshape(-1, 3).tolist()} - {(255, 255, 255)}
        assert colors <= palette and len(colors) >= len(row["phrases"]) - 1
        used.append(colors)
    assert len(set(map(frozenset, used))) > 1


def test_validation_is_held_out_on_request(tmp_path):
    builder = build(tmp_path, hold_out_validation=True)
    splits = {name: builder.as_dataset(split=name)["image_id"][:] for name in ("train", "validation")}
    assert splits == {"train": ["page1-900_1"], "validation": ["page1-900_0"]}


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("eye", "an eye"),
        ("a eye", "an eye"),
        ("an dinosaur", "a dinosaur"),
        ("hour glass", "an hour glass"),
        ("unicorn horn", "a unicorn horn"),
        ("umbrella", "an umbrella"),
        ("l shape", "an l shape"),
        ("left legs", "left legs"),
        ("three men", "three men"),
        ("dress", "a dress"),
        ("cactus", "a cactus"),
        ("one leg", "a one leg"),
        ("oncoming train", "an oncoming train"),
    ],
)
def test_articles(phrase, expected):
    assert add_article(phrase) == expected


def test_caption_without_parts():
    assert build_caption("swan", []) == ("This looks like a swan.", [("a swan", [16, 22])])


SVG = '<svg viewBox="{box}" xmlns="http://www.w3.org/2000/svg">{shapes}</svg>'


def write_pieces(count):
    return "".join(f'<polygon id="{number}" points="0 0 5 0 5 5"/>' for number in range(count))


def write_svg(folder, shapes, box="0 0 100 50", prefix=""):
    path = folder / "drawing.svg"
    path.write_text(prefix + SVG.format(box=box, shapes=shapes))
    read_drawing.cache_clear()
    return path


def test_a_drawing_is_centred_transformed_and_painted_in_order(tmp_path):
    first = '<polygon id="a" points="0 0 50 0 50 50 0 50"/>'
    second = '<polygon id="b" points="0,0 10,0 10,10 0,10" transform="matrix(0, 2, -2, 0, 60, 10)"/>'
    drawing = read_drawing(write_svg(tmp_path, first + second))
    scale = 224 / 100
    assert drawing.list_boxes(["a"]) == [pytest.approx([0, 25 * scale, 50 * scale, 75 * scale])]
    assert drawing.list_boxes(["b"]) == [pytest.approx([40 * scale, 35 * scale, 60 * scale, 55 * scale])]
    assert (drawing.pieces == 2).sum() == rasterize(drawing.polygons["b"]).sum() > 0
    assert not (rasterize(drawing.polygons["a"]) & (drawing.pieces == 0)).any()


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ('<polygon id="a" points="0 0 5 0"/>', {}, "piece a has 4 coordinates"),
        ('<polygon id="a" points="0 0 5 x 4 4"/>', {}, "`points` is .* numbers are expected"),
        ('<polygon id="a" points="0 0 5 nan 4 4"/>', {}, "finite numbers"),
        ('<polygon points="0 0 5 0 5 5"/>', {}, "a piece has no id"),
        ('<polygon id="a" points="0 0 5 0 5 5"/>' * 2, {}, "two pieces share the id a"),
        ('<polygon id="a" points="0 0 5 0 5 5" transform="rotate(5)"/>', {}, "only `matrix` is"),
        ('<g transform="matrix(1 0 0 1 0 0)"/>', {}, "only polygons may be"),
        ("", {"box": "0 0 0 5"}, "has no area"),
        ("", {"box": "0 0 5"}, "4 numbers are expected"),
        ("", {"prefix": '<!DOCTYPE svg [<!ENTITY a "b">]>'}, "document type"),
        ("<polygon", {}, "well-formed XML"),
        (write_pieces(8), {}, "more than 7 pieces"),
        (write_pieces(256), {}, "more than 7 pieces"),
        (f'<polygon id="a" points="{"0 0 5 0 5 5 " * 34}"/>', {}, "piece a has 204 coordinates; .* at most 100"),
        ('<polygon id="a" points="0 0 1e400 0 5 5"/>', {}, "finite numbers"),
        (f'<polygon id="a" points="0 0 {"9" * 400} 0 5 5"/>', {}, "finite numbers"),
        (
            '<polygon id="a" points="0 0 1e300 0 5 5" transform="matrix(1e300 0 0 1 0 0)"/>',
            {},
            "corner of piece a lies outside",
        ),
        ('<polygon id="a" points="0 0 5 0 5 5"/>', {"box": "0 0 1e-320 1e-320"}, "corner of piece a lies outside"),
        ('<polygon id="a" points="0 0 5 0 5 5"/>', {"box": "0 0 1e400 5"}, "4 numbers are expected"),
        ('<polygon id="a" points="0 0 -1e300 0 5 5"/>', {}, "corner of piece a lies outside"),
        ('<polygon id="a" points="0 0 100.1 0 5 5"/>', {}, "corner of piece a lies outside"),
        ("<g>" * 20_000 + "</g>" * 20_000 + "<!---->" * 150_000, {}, "more than 1,048,576"),
    ],
)
def test_damaged_drawings_say_what_is_wrong(tmp_path, shapes, options, message):
    with pytest.raises(ValueError, match=message):
        read_drawing(write_svg(tmp_path, shapes, **options))


def test_a_deep_drawing_is_read(tmp_path):
    with pytest.raises(ValueError, match="a piece has no id"):
        read_drawing(write_svg(tmp_path, "<g>" * 30_000 + '<polygon points="0 0 1 0 1 1"/>' + "</g>" * 30_000))


@pytest.mark.parametrize(
    ("spoil", "reason", "num_rows"),
    [
        (lambda f: (f / "tangrams-svg/page1-900.svg").unlink(), "drawing missing: annotation skipped", 4),
        (
            lambda f: (f / "tangrams-svg/page1-900.svg").write_text("<svg"),
            "drawing damaged: annotation skipped",
            4,
        ),
        (
            lambda f: (f / "tangrams-svg/page1-900.svg").write_text(
                SVG.format(box="0 0 9 9", shapes=write_pieces(256))
            ),
            "drawing damaged: annotation skipped",
            4,
        ),
        (
            lambda f: edit(f / "full_v0.json", lambda c: c["page1-900"][0].update(whole=" ")),
            "annotation without `whole` or `piece`: annotation skipped",
            5,
        ),
        (
            lambda f: edit(f / "full_v0.json", lambda c: c["page1-900"][0]["piece"].pop("7")),
            "pieces differ from those of the drawing: annotation skipped",
            5,
        ),
        (
            lambda f: edit(f / "full_v0.json", lambda c: c.pop("page3-902")),
            "tangram without annotations: tangram skipped",
            4,
        ),
        (
            lambda f: edit(f / "data_split.json", lambda c: c["heldout"].clear()),
            "tangram in no split: tangram skipped",
            4,
        ),
    ],
)
def test_what_is_skipped_is_counted(tmp_path, source, spoil, reason, num_rows):
    spoil(source)
    builder = build(tmp_path / "cache", source)
    assert set(builder.report.counts) == {reason}
    assert len(builder.as_dataset(split="all")) == num_rows


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: edit(f / "data_split.json", lambda c: c["train"].append("../x")), "is not the name of a tangram"),
        (lambda f: edit(f / "data_split.json", lambda c: c["train"].append("page2-901")), "'page2-901' occurs twice"),
        (lambda f: edit(f / "data_split.json", lambda c: c.update({"a b": []})), "'a b' is not the name of a split"),
        (lambda f: (f / "data_split.json").write_text("[]"), "lists of tangrams"),
        (lambda f: (f / "full_v0.json").write_text('{"page1-900": [], "page1-900": []}'), "'page1-900' occurs twice"),
        (lambda f: (f / "full_v0.json").write_text('{"page1-900": [{"whole": "b'), "cut off"),
        (lambda f: (f / "human_baseline_val/part+color_stimuli.json").write_text("{}"), "a list of games"),
    ],
)
def test_ambiguous_files_are_refused(tmp_path, source, spoil, message):
    spoil(source)
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "cache", source, hold_out_validation=True)


@pytest.mark.parametrize("name", ["full_v0.json", "data_split.json", "human_baseline_val/part+color_stimuli.json"])
def test_a_missing_file_is_named(tmp_path, source, name):
    (source / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.rpartition("/")[2].replace("+", r"\+")):
        build(tmp_path / "cache", source, hold_out_validation=True)


def test_an_edited_drawing_is_read_again(tmp_path, source):
    build(tmp_path / "cache", source)
    path = source / "tangrams-svg/page1-900.svg"
    path.write_text(path.read_text().replace("10.0,12.0", "20.0,12.0"))
    read_drawing.cache_clear()
    row = build(tmp_path / "cache", source).as_dataset(split="train")[0]
    assert row["phrases"][0]["polygons"][0][0] == pytest.approx(20 * 224 / 144)


@pytest.mark.slow
@pytest.mark.data
@needs_kilogram
def test_pieces_of_the_published_drawings_are_their_polygons():
    """Half-planes give the same pixels, apart from centres on an edge; every seventh drawing."""
    for path in sorted((KILOGRAM / "tangrams-svg").glob("*.svg"))[::7]:
        drawing = read_drawing(path)
        assert sorted(drawing.polygons) == list("1234567")
        hidden = np.zeros_like(drawing.pieces, dtype=bool)
        for number, polygon in reversed(list(enumerate(drawing.polygons.values(), start=1))):
            inside, on_edge = holds_centers(polygon)
            painted = drawing.pieces == number
            assert (painted == inside)[~hidden & ~on_edge].all()
            assert (painted == rasterize(polygon) & ~hidden).all()
            hidden |= painted


@pytest.mark.data
@pytest.mark.slow
@needs_kilogram
def test_the_published_data_set_is_complete_and_every_part_has_the_pixels_of_its_colour(tmp_path):
    """All 10,173 annotations; where pieces overlap, a pixel of a part may show the piece drawn later."""
    builder = build(tmp_path, KILOGRAM, hold_out_validation=True)
    assert not builder.report.counts
    sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
    assert sizes == {"train": 6929 - 236, "validation": 236, "development": 1250, "heldout": 1253, "dense": 741}
    rows = builder.as_dataset(split="all")
    assert compute_statistics(rows)["num_annotated_phrases"] == 37677
    num_differing, num_pixels = 0, 0
    for row in rows.with_format(None).select(range(0, len(rows), 20)):
        pixels = np.asarray(row["image"])
        for phrase in row["phrases"][:-1]:
            union = np.logical_or.reduce([rasterize(polygon) for polygon in phrase["polygons"]])
            color = np.median(pixels[union], axis=0)
            num_differing += int(((pixels == color).all(axis=-1) != union).sum())
            num_pixels += int(union.sum())
    assert num_differing / num_pixels < 5e-4


@pytest.mark.parametrize("name", [7, None, True, 10**400, ["page1-900"], {"a": 1}])
def test_a_name_that_is_not_text_is_refused(tmp_path, source, name):
    edit(source / "data_split.json", lambda contents: contents["train"].append(name))
    with pytest.raises(ValueError, match=r"data_split\.json: .* is not the name of a tangram"):
        build(tmp_path / "cache", source)


def test_a_piece_without_a_pixel_is_a_damaged_drawing(source, tmp_path):
    path = source / "tangrams-svg" / "page1-900.svg"
    path.write_text(path.read_text().replace("144.0 144.0", "1e9 1e9"))
    report = build(tmp_path / "cache", source).report
    assert report.counts["drawing damaged: annotation skipped"] == 2


def test_names_by_other_annotators_are_true_of_a_drawing(tmp_path):
    rows = {row["image_id"]: row for row in build(tmp_path).as_dataset(split="all")}
    parts = [{"a head", "a body", "a left wing", "legs"}, {"a roof of a house", "a door"}]
    assert rows["page1-900_0"]["true_phrases"] == sorted({"an old house", *parts[1]})
    assert rows["page1-900_1"]["true_phrases"] == sorted({"a bird", *parts[0]})  # UNKNOWN is no name
    for row in rows.values():
        assert not {phrase["phrase"] for phrase in row["phrases"]} & {*row["true_phrases"]}
        assert row["false_phrases"] is None


def test_a_drawing_with_one_annotation_has_no_other_names(source, tmp_path):
    def spoil(annotations):
        del annotations["page1-900"][1:]
        annotations["page2-901"][1] = {"whole": "", "piece": {}}

    edit(source / "full_v0.json", spoil)
    rows = {row["image_id"]: row for row in build(tmp_path / "cache", source).as_dataset(split="all")}
    assert rows["page1-900_0"]["true_phrases"] is None and rows["page2-901_0"]["true_phrases"] is None
