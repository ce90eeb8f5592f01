"""Visual Genome: rows against the expected values of the raw files, wording of places, damaged files, memory."""

import json
import shutil
import tracemalloc

import pytest
from PIL import Image
from testing_utils import FIXTURES_FOLDER

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, VisualGenome, load_grounding_dataset
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import iterate_records
from albef_amc.datasets_scripts.visual_genome.annotation_files import (
    group_phrases,
    load_image_data,
)
from albef_amc.datasets_scripts.visual_genome.phrases import ANNOTATION_KINDS, describe_position
from albef_amc.trainer.data.augmentation import may_be_mirrored

SOURCE = FIXTURES_FOLDER / "visual_genome"
KINDS = ("regions", "objects", "attributes", "relationships")
MISSING = "image file missing: image skipped"
TURNED = {
    "image is rotated by its EXIF data: boxes rotated with it": 1,
    "image is rotated by its EXIF data: boxes belong to the upright image": 1,
}
WITHOUT_PHRASE = "image without a phrase: image skipped"


def build(cache, data_root=SOURCE, **options):
    """Rows and the report of their reading."""
    builder = VisualGenome(cache_dir=str(cache), data_root=str(data_root), **options)
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")
    assert rows.features == GROUNDING_FEATURES
    return rows, builder.report


@pytest.fixture
def source(tmp_path):
    """A copy of the raw files that a test spoils."""
    shutil.copytree(SOURCE, tmp_path / "visual_genome")
    return tmp_path / "visual_genome"


def change(source, file_name, edit):
    path = source / file_name
    contents = json.loads(path.read_text())
    edit(contents)
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize("annotations", KINDS)
def test_rows_are_those_of_the_published_reader(tmp_path, annotations):
    rows, _ = build(tmp_path, annotations=annotations)
    expected = json.loads((SOURCE / f"expected_{annotations}.json").read_text())
    expected_rows = [row for row in expected["rows"] if row["phrases"]]
    assert rows["image_id"][:] == [str(row["image_id"]) for row in expected_rows]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        size = [expected_row["width"], expected_row["height"]]
        is_turned = expected_row.get("annotation_frame") == "stored"
        assert [row["width"], row["height"]] == (size[::-1] if is_turned else size)
        assert row["image"].getexif().get(0x0112, 1) == 1 or "exif_orientation" in expected_row
        for phrase, expected_phrase in zip(row["phrases"], expected_row["phrases"], strict=True):
            assert phrase["phrase_id"] == str(expected_phrase["phrase_id"])
            assert phrase["phrase"] == expected_phrase["phrase"]
            assert (phrase["types"] or []) == expected_phrase["types"]
            assert (phrase["paraphrases"] or []) == expected_phrase.get("names", [""])[1:]
            boxes = expected_phrase.get("boxes_after_exif", expected_phrase["boxes"])
            assert (phrase["boxes"] or []) == [pytest.approx(box, abs=1e-4) for box in boxes]


@pytest.mark.parametrize(
    ("annotations", "reasons"),
    [
        (
            "regions",
            {
                "id occurs twice with the same content: record skipped": 1,
                "phrase without words or with broken characters: phrase skipped": 1,
                "box extends beyond the image: box clipped": 2,
                "empty box: box dropped": 2,
                "reversed box: box dropped": 1,
                "box outside the image: box dropped": 1,
                "phrase without a usable box: phrase kept without a region": 4,
            },
        ),
        (
            "objects",
            {
                "box extends beyond the image: box clipped": 1,
                "empty box: box dropped": 1,
                "phrase without a usable box: phrase kept without a region": 1,
                WITHOUT_PHRASE: 1,
            },
        ),
        (
            "attributes",
            {
                "attribute repeats one of its object: attribute skipped": 2,
                "phrase without words or with broken characters: phrase skipped": 1,
                "object without attributes: no phrase": 6,
                WITHOUT_PHRASE: 1,
            },
        ),
        ("relationships", {WITHOUT_PHRASE: 1}),
    ],
)
def test_what_is_skipped_is_counted(tmp_path, annotations, reasons):
    _, report = build(tmp_path, annotations=annotations)
    assert report.counts == {MISSING: 1, **TURNED, **reasons}
    assert report.first_places[MISSING].endswith("VG_100K/713042.jpg")


@pytest.mark.parametrize("annotations", ["regions", "attributes"])
def test_boxes_hold_the_colour_that_the_phrase_names(tmp_path, annotations):
    rows, _ = build(tmp_path, annotations=annotations)
    named = {"red clock": 0, "green shade": 1, "blue clock": 2, "blue bench": 2}
    checked = 0
    for row in rows:
        if row["image"].mode != "RGB":
            continue
        for phrase in row["phrases"]:
            words = phrase["phrase"].lower().strip(".").removeprefix("the ").removeprefix("a ")
            if words in named and phrase["boxes"]:
                pixel = row["image"].crop(phrase["boxes"][0]).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
                assert max(pixel) == pixel[named[words]]
                checked += 1
    assert checked >= 3


def test_places_are_those_of_the_upright_picture(tmp_path):
    attributes, _ = build(tmp_path, annotations="attributes")
    rows, _ = build(tmp_path, annotations="attributes_spatial")
    found = {phrase["phrase_id"]: phrase for row in rows for phrase in row["phrases"]}
    assert found["1058498#0"]["phrase"] == "red clock at the top left"
    assert found["1058499#0"]["phrase"] == "green shade in the middle"
    assert found["1058509#0"]["phrase"] == "blue clock at the top right"  # at the top left of the stored pixels
    plain = {phrase["phrase_id"]: phrase for row in attributes for phrase in row["phrases"]}
    assert found.keys() == plain.keys()
    assert all(found[name]["boxes"] == plain[name]["boxes"] for name in plain)


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ([0, 40, 20, 60], "on the left"),
        ([80, 40, 100, 60], "on the right"),
        ([40, 0, 60, 20], "at the top"),
        ([40, 80, 60, 100], "at the bottom"),
        ([0, 0, 20, 20], "at the top left"),
        ([80, 0, 100, 20], "at the top right"),
        ([0, 80, 20, 100], "at the bottom left"),
        ([80, 80, 100, 100], "at the bottom right"),
        ([0, 0, 100, 100], "in the middle"),
    ],
)
def test_a_place_on_a_side_is_seen_by_the_flip(box, place):
    assert describe_position(box, 100, 100) == place
    assert may_be_mirrored(f"red clock {place}") == ("left" not in place and "right" not in place)


def test_a_phrase_without_a_box_has_no_place(tmp_path, source):
    change(source, "attributes.json", lambda entries: entries[0]["attributes"][0].update(w=0))
    rows, report = build(tmp_path / "cache", source, annotations="attributes_spatial")
    assert [phrase["phrase"] for phrase in rows[0]["phrases"]] == ["green shade in the middle"]
    assert report.counts["phrase without a usable box has no position: phrase skipped"] == 2


def test_the_folder_in_the_address_wins(tmp_path, source):
    Image.new("RGB", (200, 110), "white").save(source / "VG_100K_2" / "2315410.jpg")
    rows, _ = build(tmp_path / "cache", source)
    assert rows[2]["image_id"] == "2315410" and rows[2]["image"].getpixel((20, 60)) != (255, 255, 255)
    (source / "VG_100K" / "2315410.jpg").unlink()
    rows, _ = build(tmp_path / "cache", source)
    assert rows[2]["image_id"] == "2315410" and rows[2]["image"].getpixel((20, 60)) == (255, 255, 255)


def test_an_image_without_regions_is_not_a_row(tmp_path, source):
    shutil.copytree(source / "edge" / "empty_regions", source, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=rf"has a phrase\. 1 x {WITHOUT_PHRASE} \(first: image 1\)"):
        build(tmp_path / "cache", source)


def test_regions_of_an_unknown_image_are_skipped(tmp_path, source):
    shutil.copytree(source / "edge" / "unknown_image", source, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"has a phrase\. 1 x image not in image_data.json: entry skipped.*999999999"):
        build(tmp_path / "cache", source)


def test_the_spelling_of_release_1_is_read(tmp_path, source):
    shutil.copytree(source / "edge" / "version_1.0", source, dirs_exist_ok=True)
    rows, report = build(tmp_path / "cache", source)
    (phrase,) = rows[0]["phrases"]
    assert (phrase["phrase_id"], phrase["phrase"]) == ("77", "version 1.0 region with id and image")
    assert phrase["boxes"] == [[3, 4, 23, 34]] and not report.counts


def test_repeated_ids_stay_apart(tmp_path, source):
    def repeat(entries):
        entries[0]["regions"][1]["region_id"] = 1382
        entries[1]["regions"][0]["region_id"] = 1382
        entries[2]["regions"][0]["image_id"] = 1
        entries.append(entries[4])

    change(source, "region_descriptions.json", repeat)
    rows, report = build(tmp_path / "cache", source)
    names = [phrase["phrase_id"] for row in rows for phrase in row["phrases"]]
    assert len(set(names)) == len(names) and {"1382", "1382.1.1", "1382.150301.0"} < set(names)
    assert report.counts["id occurs twice with different content: record numbered"] == 2
    assert report.counts["record of another image: record skipped"] == 1
    assert report.counts["image listed twice: later entry skipped"] == 1


@pytest.mark.parametrize(
    ("file_name", "edit", "message"),
    [
        ("image_data.json", lambda data: data[0].update(image_id=10**400), "entry 0 has no whole number `image_id`"),
        (
            "region_descriptions.json",
            lambda data: data[0].update(id=10**400),
            "entry 0 has no whole number `image_id`",
        ),
        ("image_data.json", lambda data: data[0].update(image_id="../1"), "entry 0 has no whole number `image_id`"),
        ("image_data.json", lambda data: data[1].pop("width"), "entry 1 has no `width` and `height`"),
        ("image_data.json", lambda data: data[1].update(image_id=1), "image 1 occurs twice with different values"),
        ("region_descriptions.json", lambda data: data[0].pop("id"), "entry 0 has no whole number `image_id`"),
        ("region_descriptions.json", lambda data: data[0].update(regions={}), "entry 0: `regions` must be a list"),
        (
            "region_descriptions.json",
            lambda data: data[0]["regions"][1].pop("region_id"),
            "no whole number `region_id`",
        ),
        ("region_descriptions.json", lambda data: data[0]["regions"][1].pop("phrase"), "1383: a text is expected"),
        ("attributes.json", lambda data: data[0]["attributes"][0].update(attributes="red"), "`attributes` must be a"),
        (
            "attributes.json",
            lambda data: data[0]["attributes"][0].update(names=[5]),
            "`names` must be a list of texts",
        ),
        ("relationships.json", lambda data: data[0]["relationships"][0].pop("object"), "no `subject` and `object`"),
    ],
)
def test_records_of_another_form_are_refused(tmp_path, source, file_name, edit, message):
    change(source, file_name, edit)
    stem = file_name.removesuffix(".json")
    annotations = stem if stem in KINDS else "regions"
    with pytest.raises(ValueError, match=rf"{file_name}.*{message}"):
        build(tmp_path / "cache", source, annotations=annotations)


def test_words_and_boxes_that_cannot_be_used_are_skipped(tmp_path, source):
    def spoil(entries):
        entries[0]["regions"][0].update(phrase="half a \ud83d", region_id=1)
        entries[0]["regions"][1]["width"] = "35"
        del entries[0]["regions"][2]["y"]

    change(source, "region_descriptions.json", spoil)
    rows, report = build(tmp_path / "cache", source)
    assert [phrase["boxes"] for phrase in rows[0]["phrases"]][:2] == [None, None]
    assert report.counts["box is not four finite numbers: box dropped"] == 2
    change(source, "relationships.json", lambda entries: entries[0]["relationships"][0]["subject"].update(name=" "))
    _, report = build(tmp_path / "cache", source, annotations="relationships")
    assert report.counts["object without a name: object skipped"] == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 half"])
def test_damaged_images_are_skipped(tmp_path, source, content):
    (source / "VG_100K_2" / "1.jpg").write_bytes(content)
    rows, report = build(tmp_path / "cache", source)
    assert "1" not in rows["image_id"][:]
    assert report.counts["image file damaged or not an image: image skipped"] == 1


def test_half_a_download_is_refused(tmp_path, source):
    path = source / "region_descriptions.json"
    path.write_text(path.read_text()[:-200])
    with pytest.raises(ValueError, match=r"region_descriptions\.json cannot be read at entry 5.*fetch it again"):
        build(tmp_path / "cache", source)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"annotations": "questions"}, ValueError, "`annotations` must be one of 'regions', 'objects', 'attributes'"),
        ({"image_root": "nowhere"}, FileNotFoundError, "No image folder nowhere"),
        ({"data_root": str(SOURCE / "VG_100K")}, FileNotFoundError, "No `image_data.json` in .*docs/datasets.md"),
        ({"data_root": ""}, ValueError, "`data_root` is missing"),
    ],
)
def test_wrong_choices_are_named(options, error, message):
    with pytest.raises(error, match=message):
        VisualGenome(**{"data_root": str(SOURCE), **options})


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="`visual_genome` has no split 'val' here; it has train, all"):
        load_grounding_dataset("visual_genome", "val", data_root=SOURCE, cache_dir=str(tmp_path))


@pytest.mark.slow
def test_little_more_than_the_phrases_is_in_memory(tmp_path):
    images = [{"image_id": number, "width": 800, "height": 600} for number in range(300)]
    regions = [
        {
            "id": number,
            "regions": [
                {"region_id": 1000 * number + k, "image_id": number, "phrase": "a red clock on the wall of a house"}
                | {"x": 12, "y": 40, "width": 310, "height": 205}
                for k in range(100)
            ],
        }
        for number in range(300)
    ]
    (tmp_path / "image_data.json").write_text(json.dumps(images))
    path = tmp_path / "region_descriptions.json"
    path.write_text(json.dumps(regions))
    del regions
    report = ReadingReport()
    tracemalloc.start()
    known = load_image_data(tmp_path / "image_data.json")
    groups = group_phrases(path, ANNOTATION_KINDS["regions"], known, report)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(len(list(iterate_records(group))) for group in groups.values()) == 30_000
    assert not report.counts and peak < 3 * path.stat().st_size


@pytest.mark.slow
def test_a_recipe_trains_on_it(checkpoint, tmp_path, capsys):
    data = {"name": "visual_genome", "split": "train", "data_root": str(SOURCE), "cache_dir": str(tmp_path / "cache")}
    training = {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True}
    recipe = {"model": {"checkpoint": str(checkpoint)}, "train_data": data, "training": training}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    assert main(["train", str(path), "--output-dir", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1


def write_release(folder, image, file_name, entry, image_id=7):
    """A release of one picture of 200 x 100 pixels, and one file of annotations with one entry."""
    (folder / "VG_100K").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save(folder / "VG_100K" / f"{image_id}.jpg")
    (folder / "image_data.json").write_text(json.dumps([{**image, "width": 200, "height": 100}]))
    (folder / file_name).write_text(json.dumps([entry]))
    return folder


PLACE = {"x": 5, "y": 5, "w": 50, "h": 50}
# Kind of the annotations and an entry as release 1.0 writes it; the phrases that it gives.
FIRST_RELEASE = [
    (
        "attributes",
        {"id": 7, "attributes": [{"id": 11, "object_names": ["wall"], "attributes": ["brick", "tall"], **PLACE}]},
        ["brick wall", "tall wall"],
    ),
    (
        "regions",
        {"id": 7, "regions": [{"id": 2, "image": 7, "phrase": "a wall", "x": 5, "y": 5, "width": 50, "height": 50}]},
        ["a wall"],
    ),
    ("objects", {"id": 7, "objects": [{"id": 11, "names": ["wall", "bricks"], **PLACE}]}, ["wall"]),
    (
        "relationships",
        {
            "id": 7,
            "relationships": [
                {
                    "id": 3,
                    "predicate": "ON",
                    "subject": {"id": 11, "name": "car", **PLACE},
                    "object": {"id": 12, "name": "road", **PLACE},
                }
            ],
        },
        ["car on road"],
    ),
]


@pytest.mark.parametrize(("kind", "entry", "phrases"), FIRST_RELEASE)
def test_the_first_release_is_read(kind, entry, phrases, tmp_path):
    folder = write_release(tmp_path / "vg", {"id": 7}, ANNOTATION_KINDS[kind].file_name, entry)
    rows, report = build(tmp_path / "cache", folder, annotations=kind)
    assert [phrase["phrase"] for phrase in rows[0]["phrases"]] == phrases
    assert all(phrase["boxes"] == [[5, 5, 55, 55]] for phrase in rows[0]["phrases"])
    assert not report.counts


ENDS = {"subject": {"object_id": 2, "name": "car", **PLACE}, "object": {"object_id": 1, "names": ["wall"], **PLACE}}
RED_CAR = {"object_id": 2, "names": ["car"], "attributes": ["red"], "synsets": [], **PLACE}
WITHOUT_NAME, WITHOUT_WORDS = (
    "object without a name: object skipped",
    "phrase without words or with broken characters: phrase skipped",
)


@pytest.mark.parametrize(
    ("kind", "records", "phrases", "reasons"),
    [
        (
            "attributes",
            [{"object_id": 1, "names": ["wall"], "attributes": None, "synsets": ["wall.n.01"], **PLACE}, RED_CAR],
            ["red car"],
            {"object without attributes: no phrase": 1},
        ),
        ("attributes", [{**RED_CAR, "names": None}, RED_CAR | {"object_id": 3}], ["red car"], {WITHOUT_NAME: 1}),
        (
            "attributes",
            [{**RED_CAR, "attributes": [None, "red"], "image_id": None}],
            ["red car"],
            {"null in a list of texts: null dropped": 1},
        ),
        ("objects", [{**RED_CAR, "synsets": None}, {"object_id": 5, "names": None}], ["car"], {WITHOUT_NAME: 1}),
        ("objects", [{**RED_CAR, "x": None}], ["car"], {"box is not four finite numbers: box dropped": 1}),
        (
            "relationships",
            [
                {"relationship_id": 1, "predicate": "ON", "synsets": None, **ENDS},
                {"relationship_id": 2, "predicate": None, **ENDS},
                {"relationship_id": 3, "predicate": "ON", **{**ENDS, "object": None}},
            ],
            ["car on wall"],
            {WITHOUT_WORDS: 1, "relationship without subject or object: relationship skipped": 1},
        ),
        (
            "regions",
            [
                {"region_id": 1, "phrase": "a cloud", "x": 179, "y": -904, "width": 55, "height": 25},
                {"region_id": 2, "phrase": "a window", "x": 180, "y": -2, "width": 10, "height": 35},
                {"region_id": 3, "phrase": None, "x": 0, "y": 0, "width": 9, "height": 9},
            ],
            ["a cloud", "a window"],
            {
                "box outside the image: box dropped": 1,
                "box extends beyond the image: box clipped": 1,
                WITHOUT_WORDS: 1,
            },
        ),
    ],
)
def test_null_in_place_of_a_value_is_counted(kind, records, phrases, reasons, tmp_path):
    entry = {"image_id": 7, ANNOTATION_KINDS[kind].list_name: records}
    folder = write_release(tmp_path / "vg", {"image_id": 7}, ANNOTATION_KINDS[kind].file_name, entry)
    rows, report = build(tmp_path / "cache", folder, annotations=kind)
    assert [phrase["phrase"] for phrase in rows[0]["phrases"]] == phrases
    counts = dict(report.counts)
    counts.pop("phrase without a usable box: phrase kept without a region", None)
    assert counts == reasons


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_is_null_is_empty(kind, tmp_path):
    entry = {"image_id": 7, "id": None, ANNOTATION_KINDS[kind].list_name: None}
    folder = write_release(tmp_path / "vg", {"image_id": None, "id": 7}, ANNOTATION_KINDS[kind].file_name, entry)
    with pytest.raises(ValueError, match=f"No image of .* 1 x {WITHOUT_PHRASE}"):
        build(tmp_path / "cache", folder, annotations=kind)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ("regions", None),
        ("objects", None),
        ("attributes", ["clock", "shade", "shade thing"]),  # the bench has no attribute, and no phrase
        ("attributes_spatial", ["clock", "green shade", "red clock", "shade", "shade thing", "tall clock"]),
        ("relationships", ["bench", "clock", "shade", "shade thing"]),
    ],
)
def test_names_of_objects_are_true_of_the_image(tmp_path, annotations, expected):
    rows, _ = build(tmp_path, annotations=annotations)
    assert rows[0]["image_id"] == "1" and rows[0]["true_phrases"] == expected
    assert all(row["false_phrases"] is None for row in rows)


def test_a_synset_is_named_by_its_words(source, tmp_path):
    def rename(images):
        images[0]["objects"][0]["synsets"] = ["street_light.n.01", "clock.n.02", "...n.01", None]

    change(source, "objects.json", rename)
    rows, _ = build(tmp_path / "cache", source, annotations="objects")
    assert rows[0]["true_phrases"] == ["street light"]  # its name is a phrase
    assert rows[0]["phrases"][0]["types"] == ["street_light.n.01", "clock.n.02", "...n.01"]
