"""Flickr30k Entities: rows against the expected values of the raw files, both sources, damaged files, evaluation."""

import json
import re
import shutil

import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, Flickr30kEntities, load_grounding_dataset
from albef_amc.datasets_scripts.flickr30k_entities.author_files import (
    load_image_ids,
    load_unrelated_captions,
    parse_caption,
    read_captions,
    read_chain_boxes,
)
from albef_amc.datasets_scripts.flickr30k_entities.info_ground_files import parse_chain_boxes
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import clean_box

SOURCE = FIXTURES_FOLDER / "flickr30k_entities"
EXPECTED = json.loads((SOURCE / "expected.json").read_text())
INFO_GROUND = {"source": "info_ground", "data_root": SOURCE / "info_ground", "image_root": SOURCE / "flickr30k-images"}
MISSING = "image file missing: image skipped"
# Reasons for a phrase without a box by the name that the expected values give them.
REASONS = {
    "notvisual": "not visual",
    "scene": "a scene",
    "nobox": "flagged",
    "not_annotated": "not annotated",
    "empty_box": "its boxes cannot be used",
}


def build(cache, data_root=SOURCE, **options):
    """Builder of a prepared data set."""
    options = {name: str(value) if name == "image_root" else value for name, value in options.items()}
    builder = Flickr30kEntities(cache_dir=str(cache), data_root=str(data_root), **options)
    builder.download_and_prepare()
    assert builder.info.features == GROUNDING_FEATURES
    return builder


def list_rows(builder):
    return [(split, row) for split in builder.info.splits for row in builder.as_dataset(split=split)]


@pytest.fixture
def source(tmp_path):
    """A copy of the raw files that a test spoils."""
    shutil.copytree(SOURCE, tmp_path / "flickr30k_entities")
    return tmp_path / "flickr30k_entities"


@pytest.mark.parametrize("options", [{}, INFO_GROUND], ids=["xml", "info_ground"])
def test_rows_are_those_of_the_published_reader(tmp_path, options):
    rows = list_rows(build(tmp_path, **options))
    expected = {(row["split"], row["image_id"]): row for row in EXPECTED["rows"]}
    assert sorted((split, row["image_id"]) for split, row in rows) == sorted(expected)
    for split, row in rows:
        expected_row = expected[split, row["image_id"]]
        size = [expected_row["width"], expected_row["height"]]
        assert [row["width"], row["height"]] == expected_row.get("size_after_exif", size)
        for phrase, expected_phrase in zip(row["phrases"], expected_row["phrases"], strict=True):
            for name in ("phrase_id", "phrase", "types", "caption", "spans"):
                assert phrase[name] == expected_phrase[name]
            ((start, end),) = phrase["spans"]
            assert phrase["caption"][start:end] == phrase["phrase"]
            boxes = expected_phrase.get("boxes_after_exif", expected_phrase["boxes"])
            assert (phrase["boxes"] or []) == [pytest.approx(box, abs=1e-4) for box in boxes]


@pytest.mark.parametrize("options", [{}, INFO_GROUND], ids=["xml", "info_ground"])
def test_what_is_skipped_is_counted_with_its_reason(tmp_path, options):
    report = build(tmp_path, **options).report
    phrases = [phrase for row in EXPECTED["rows"] for phrase in row["phrases"]]
    expected = {
        f"phrase without a box, {words}: phrase kept without a region": sum(
            phrase["has_no_box"] == name for phrase in phrases
        )
        for name, words in REASONS.items()
    }
    expected |= {
        MISSING: 1,
        "box extends beyond the image: box clipped": 1,
        "empty box: box dropped": 1,
        "image is rotated by its EXIF data: boxes rotated with it": 1,
    }
    if not options:
        expected |= {
            "image listed twice in a split: later entry skipped": 1,
            "caption unrelated to its image: caption kept": 1,
        }
        assert report.first_places["image listed twice in a split: later entry skipped"].endswith(
            "train.txt, line 3 (2100045871)"
        )
    assert report.counts == expected
    assert report.first_places[MISSING].endswith("4310077720.jpg")


def test_evaluated_phrases_are_those_of_amc(tmp_path):
    """AMC evaluates every mention whose chain has boxes; its reader does not clamp them and misses no picture."""
    builder = build(tmp_path)
    for split, phrases in EXPECTED["amc_evaluation"]["phrases"].items():
        sizes = {row["image_id"]: (row["width"], row["height"]) for row in EXPECTED["rows"]}
        turned = {row["image_id"] for row in EXPECTED["rows"] if "exif_orientation" in row}
        expected = []
        for image, phrase, boxes, _ in phrases:
            cleaned = [clean_box(box, *sizes[image], "", ReadingReport()) for box in boxes] if image in sizes else []
            if any(cleaned):
                expected.append((image, phrase.replace("orange green", "orange/green"), cleaned))
        found = []
        for row in builder.as_dataset(split=split):
            for phrase in row["phrases"]:
                if phrase["boxes"]:
                    found.append((row["image_id"], phrase["phrase"].lower(), phrase["boxes"]))
        assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
        assert [entry for entry in found if entry[0] not in turned] == [
            entry for entry in expected if entry[0] not in turned
        ]


def test_boxes_hold_the_colour_that_the_phrase_names(tmp_path):
    rows = {row["image_id"]: row for _, row in list_rows(build(tmp_path))}
    (phrase,) = (phrase for phrase in rows["2100045871"]["phrases"] if phrase["phrase"] == "a blue coat")
    pixels = rows["2100045871"]["image"].crop(phrase["boxes"][0]).resize((1, 1))
    red, green, blue = pixels.getpixel((0, 0))
    assert blue > max(red, green)


def test_one_split_alone(tmp_path, source):
    (source / "train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"No `train.txt` in .* drop its split from `splits`"):
        build(tmp_path / "cache", source)
    assert list(build(tmp_path / "cache", source, splits=["test"]).info.splits) == ["test"]
    assert list(build(tmp_path / "cache", source, splits="val").info.splits) == ["val"]


def test_an_image_in_two_splits_is_kept_in_each(tmp_path, source):
    (source / "val.txt").write_text("310022957\n77100264\n")
    builder = build(tmp_path / "cache", source)
    assert builder.as_dataset(split="val")["image_id"][:] == ["310022957", "77100264"]
    assert builder.report.counts["image in several splits: image kept in each"] == 1


@pytest.mark.parametrize("line", ["../../secret", "/etc/passwd", "12a", "１２"])
def test_an_id_that_could_leave_the_folder_is_refused(tmp_path, source, line):
    (source / "test.txt").write_text(f"660418277\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"test\.txt, line 3: .* is not an image id"):
        build(tmp_path / "cache", source)


DAMAGED = "annotation damaged: image skipped"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Annotations/77100264.xml", None, r"77100264\.xml is not a complete annotation in XML.*no element found"),
        ("Annotations/77100264.xml", b"", r"77100264\.xml is not a complete annotation in XML"),
        ("Annotations/77100264.xml", b"<a>" * 400_000, r"77100264\.xml is not a complete annotation.*1,200,000 bytes"),
        ("Annotations/77100264.xml", b"<!DOCTYPE x><annotation/>", r"77100264\.xml .*document type"),
        ("Sentences/77100264.txt", b"A caf\xe9 .\n", r"77100264\.txt, line 1 \(byte 5\): the byte 0xe9 is not UTF-8"),
        ("Sentences/77100264.txt", "A dog .".encode("utf-16"), r"77100264\.txt is UTF-16 text"),
        ("Sentences/77100264.txt", b"A dog\0 .\n", r"77100264\.txt, line 1 .*NUL byte"),
    ],
)
def test_a_damaged_file_of_one_image_is_counted_and_the_others_are_built(tmp_path, source, name, content, message):
    expected = [row for row in list_rows(build(tmp_path / "clean", source)) if row[1]["image_id"] != "77100264"]
    broken = (source / "edge" / "Annotations" / "broken.xml").read_bytes()
    (source / name).write_bytes(broken if content is None else content)
    builder = build(tmp_path / "cache", source)
    assert list_rows(builder) == expected
    assert builder.report.counts[DAMAGED] == 1
    assert re.search(message, builder.report.first_places[DAMAGED])


def test_where_all_annotations_are_damaged_the_first_is_named(tmp_path, source):
    for path in (source / "Annotations").glob("*.xml"):
        path.write_text("<annotation>")
    with pytest.raises(ValueError, match=r"No image of .* can be used\. .* x annotation damaged.*first: .*\.xml"):
        build(tmp_path / "cache", source)


@pytest.mark.parametrize("folder", ["Annotations", "Sentences"])
def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path, source, folder):
    (path,) = (source / folder).glob("77100264.*")
    path.unlink()
    path.symlink_to("nowhere")
    builder = build(tmp_path / "cache", source)
    assert builder.report.counts["annotation file missing: image skipped"] == 1


def test_xml_with_a_document_type_is_refused(tmp_path):
    path = tmp_path / "1.xml"
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 9))
    path.write_text(f'<!DOCTYPE x [<!ENTITY a0 "ha">{entities}]><annotation>&a8;</annotation>')
    with pytest.raises(ValueError, match=r"1\.xml .*a document type `x` is declared"):
        read_chain_boxes(path, ReadingReport())


def test_odd_boxes_are_skipped(tmp_path, source):
    shutil.copy(source / "edge" / "Annotations" / "edge0.xml", source / "Annotations" / "77100264.xml")
    text = (source / "Annotations" / "77100264.xml").read_text().replace(">60<", ">96<").replace(">40<", ">128<")
    (source / "Annotations" / "77100264.xml").write_text(text.replace("<xmin>70<", "<xmin>seventy<"))
    mentions = " ".join(f"[/EN#{chain}/other thing {chain}]" for chain in (1, 2, 3))
    (source / "Sentences" / "77100264.txt").write_text(mentions)
    builder = build(tmp_path / "cache", source, splits="test")
    (row,) = (row for _, row in list_rows(builder) if row["image_id"] == "77100264")
    assert [phrase["boxes"] for phrase in row["phrases"]] == [[[0, 0, 29, 19]], None, None]
    counts = builder.report.counts
    assert counts["coordinate below 1 in a file that counts from 1"] == 1
    assert counts["reversed box: box dropped"] == counts["box is not four finite numbers: box dropped"] == 1


@pytest.mark.parametrize("number", ["1e400", "9" * 400, "nan", "", "seventy"])
def test_a_damaged_box_of_a_chain_is_dropped_alone_and_its_phrases_are_marked(tmp_path, source, number):
    path = source / "Annotations" / "77100264.xml"
    box = "<xmin>{}</xmin><ymin>1</ymin><xmax>30</xmax><ymax>20</ymax>"
    objects = "".join(f"<object><name>1</name><bndbox>{box.format(x)}</bndbox></object>" for x in (1, number))
    path.write_text(f"<annotation><size><width>96</width><height>128</height></size>{objects}</annotation>")
    (source / "Sentences" / "77100264.txt").write_text("[/EN#1/people A man] and [/EN#2/other it]")
    builder = build(tmp_path / "cache", source, splits="test")
    (row,) = (row for _, row in list_rows(builder) if row["image_id"] == "77100264")
    man, other = row["phrases"]
    assert (man["boxes"], man["types"]) == ([[0, 0, 29, 19]], ["people", "incomplete_boxes"])
    assert (other["boxes"], other["types"]) == (None, ["other"])
    assert builder.report.counts["box is not four finite numbers: box dropped"] == 1


@pytest.mark.parametrize("width", ["1e400", "-1e400", "9" * 400, "97", "96.5", "-96"])
def test_an_image_whose_annotation_states_another_or_no_possible_size_is_skipped(tmp_path, source, width):
    path = source / "Annotations" / "77100264.xml"
    path.write_text(re.sub("<width>[0-9]+<", f"<width>{width}<", path.read_text()))
    builder = build(tmp_path / "cache", source, splits="test")
    assert "77100264" not in [row["image_id"] for _, row in list_rows(builder)]
    assert builder.report.counts["image size differs from the annotation: image skipped"] == 1


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1.5", "1e400", "\u0663"])
def test_numbers_of_unrelated_captions_are_checked(tmp_path, number):
    (tmp_path / "UNRELATED_CAPTIONS").write_text(f"77100264 {number}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="UNRELATED_CAPTIONS, line 1"):
        load_unrelated_captions(tmp_path / "UNRELATED_CAPTIONS")


def test_ids_that_are_too_long_for_a_file_name_are_refused(tmp_path):
    (tmp_path / "test.txt").write_text("1" * 400)
    with pytest.raises(ValueError, match=r"test\.txt, line 1: .*100 at most"):
        load_image_ids(tmp_path / "test.txt", ReadingReport())


def test_a_box_outside_is_skipped(tmp_path, source):
    path = source / "Annotations" / "77100264.xml"
    text = path.read_text().replace("<xmin>10<", "<xmin>100<").replace("<xmax>48<", "<xmax>120<")
    path.write_text(text)
    builder = build(tmp_path / "cache", source, splits="test")
    assert builder.report.counts["box outside the image: box dropped"] == 1


@pytest.mark.parametrize(
    "size", ["", "<size><width>96</width></size>", "<size><width>a</width><height>b</height></size>"]
)
def test_xml_without_a_size_takes_that_of_the_image(tmp_path, source, size):
    path = source / "Annotations" / "77100264.xml"
    text = path.read_text()
    path.write_text(text[: text.index("<size>")] + size + text[text.index("</size>") + 7 :])
    builder = build(tmp_path / "cache", source, splits="test")
    assert builder.report.counts["annotation without a size: size of the image used"] == 1
    (row,) = (row for _, row in list_rows(builder) if row["image_id"] == "77100264")
    assert (row["width"], row["height"]) == (96, 128) and row["phrases"][0]["boxes"] == [[9, 12, 47, 63]]


def test_an_image_of_another_size_is_skipped(tmp_path, source):
    path = source / "Annotations" / "77100264.xml"
    path.write_text(path.read_text().replace(">96<", ">97<"))
    builder = build(tmp_path / "cache", source, splits="test")
    assert builder.report.counts["image size differs from the annotation: image skipped"] == 1


@pytest.mark.parametrize("folder", ["Annotations", "Sentences"])
def test_half_an_archive_is_counted(tmp_path, source, folder):
    next((source / folder).glob("77100264.*")).unlink()
    builder = build(tmp_path / "cache", source, splits="test")
    assert builder.report.counts["annotation file missing: image skipped"] == 1
    assert "77100264" in builder.report.first_places["annotation file missing: image skipped"]


def test_damaged_images_are_skipped(tmp_path, source):
    (source / "flickr30k-images" / "77100264.jpg").write_bytes(b"\xff\xd8\xff half")
    builder = build(tmp_path / "cache", source, splits="test")
    assert builder.report.counts["image file damaged or not an image: image skipped"] == 1


def test_captions_with_broken_brackets_are_skipped_by_line():
    report = ReadingReport()
    assert read_captions(SOURCE / "edge" / "Sentences" / "glued_bracket.txt", report) == {}
    ((reason, count),) = report.counts.items()
    assert (reason, count) == ("caption with broken brackets: caption skipped", 2)
    assert "glued_bracket.txt, line 1 (`man],` is out of place)" in report.first_places[reason]


def test_blank_lines_are_not_captions():
    captions = read_captions(SOURCE / "edge" / "Sentences" / "two_captions_and_a_blank_line.txt", ReadingReport())
    assert [(number, caption) for number, (caption, _) in captions.items()] == [
        (0, "A man smiles ."),
        (1, "A man nods ."),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "[/EN#1/people A man",
        "[/EN#1/people A [/EN#2/other man] ]",
        "[/EN#1/people ] smiles",
        "[/EN#1 A man] smiles",
        "[/EN#x/people A man] smiles",
        "a[/EN#1/people A man] smiles",
    ],
)
def test_broken_brackets_are_found(line):
    with pytest.raises(ValueError, match="out of place|not closed|no words"):
        parse_caption(line)


def test_a_list_of_unrelated_captions_of_another_form_is_refused(tmp_path, source):
    (source / "UNRELATED_CAPTIONS").write_text("# ids\n5500912036\n")
    with pytest.raises(ValueError, match="UNRELATED_CAPTIONS, line 2: an image id and the number"):
        build(tmp_path / "cache", source)


def change_json(source, name, edit):
    path = source / "info_ground" / name
    contents = json.loads(path.read_text())
    edit(contents)
    path.write_text(json.dumps(contents))
    return {**INFO_GROUND, "data_root": source / "info_ground", "splits": ["test"]}


@pytest.mark.parametrize(
    ("name", "edit", "reason"),
    [
        (
            "sentences_test.json",
            lambda data: data["77100264"][0]["phrases"][0].update(first_word_index=40),
            "words are not at the stated position of the caption: span dropped",
        ),
        (
            "sentences_test.json",
            lambda data: data["77100264"][0]["phrases"][0].update(first_word_index=-3),
            "words are not at the stated position of the caption: span dropped",
        ),
        (
            "sentences_test.json",
            lambda data: data["77100264"][0].update(sentence="A \ud83d red hat ."),
            "caption with broken characters: caption skipped",
        ),
        (
            "sentences_test.json",
            lambda data: data["77100264"][0]["phrases"][0].update(phrase=" "),
            "phrase without words or with broken characters: phrase skipped",
        ),
        (
            "bounding_boxes_test.json",
            lambda data: data["77100264"].pop("width"),
            "annotation without a size: size of the image used",
        ),
        *(
            (
                "bounding_boxes_test.json",
                lambda data, width=width: data["77100264"].update(width=width),
                "image size differs from the annotation: image skipped",
            )
            for width in (float("inf"), float("nan"), 10**400, -96, "96")
        ),
        (
            "bounding_boxes_test.json",
            lambda data: data.pop("77100264"),
            "image in one of the two files of its split: image skipped",
        ),
        (
            "bounding_boxes_test.json",
            lambda data: data["77100264"]["boxes"].update({"283585": [[1, 2, 3]]}),
            "box is not four finite numbers: box dropped",
        ),
    ],
)
def test_odd_entries_of_info_ground_are_counted(tmp_path, source, name, edit, reason):
    builder = build(tmp_path / "cache", **change_json(source, name, edit))
    assert builder.report.counts[reason] == 1
    rows = [row for _, row in list_rows(builder)]
    spans = [phrase["spans"] for row in rows for phrase in row["phrases"]]
    assert spans.count(None) == ("span dropped" in reason)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("sentences_test.json", lambda data: data["77100264"][0].pop("sentence"), "sentence 0 has no text `sentence`"),
        ("sentences_test.json", lambda data: data["77100264"][0].pop("phrases"), "sentence 0 has no list `phrases`"),
        (
            "sentences_test.json",
            lambda data: data["77100264"][0]["phrases"][0].update(phrase_id=1),
            "a phrase has no `phrase_id` of type `str`",
        ),
        ("bounding_boxes_test.json", lambda data: data["77100264"].pop("boxes"), " has no `boxes`"),
        (
            "bounding_boxes_test.json",
            lambda data: data["77100264"].update(scene=3),
            "`scene` and `nobox` must be lists",
        ),
    ],
)
def test_entries_of_info_ground_of_another_form_are_counted(tmp_path, source, name, edit, message):
    builder = build(tmp_path / "cache", **change_json(source, name, edit))
    assert builder.report.counts[DAMAGED] == 1
    assert re.search(rf"{name}: image 77100264.*{message}", builder.report.first_places[DAMAGED])
    assert "77100264" not in builder.as_dataset(split="test")["image_id"]


def test_an_id_of_info_ground_that_could_leave_the_folder_is_refused(tmp_path, source):
    options = change_json(source, "sentences_test.json", lambda data: data.update({"../1": []}))
    with pytest.raises(ValueError, match="'../1' is not an image id"):
        build(tmp_path / "cache", **options)


def test_half_a_json_is_refused(tmp_path, source):
    path = source / "info_ground" / "sentences_test.json"
    path.write_text(path.read_text()[:-300])
    with pytest.raises(ValueError, match=r"sentences_test\.json cannot be read at entry 2.*fetch it again"):
        build(tmp_path / "cache", **{**INFO_GROUND, "data_root": source / "info_ground"})


def test_a_repeated_image_of_a_json_is_one_row(tmp_path, source):
    path = source / "info_ground" / "sentences_test.json"
    path.write_text(path.read_text().rstrip()[:-1] + ', "77100264": []}')
    builder = build(tmp_path / "cache", **{**INFO_GROUND, "data_root": source / "info_ground", "splits": "test"})
    assert builder.info.splits["test"].num_examples == 3
    assert builder.report.counts["image listed twice in a split: later entry skipped"] == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "mdetr"}, ValueError, "`source` must be one of 'xml', 'info_ground', got 'mdetr'"),
        ({"splits": ["dev"]}, ValueError, r"`splits` must name some of train, val, test; got \['dev'\]"),
        ({"splits": []}, ValueError, "`splits` must name some of train, val, test"),
        ({"image_root": "nowhere"}, FileNotFoundError, "No image folder nowhere"),
        ({"source": "info_ground"}, FileNotFoundError, "No `bounding_boxes_train.json` in .*`source`"),
    ],
)
def test_wrong_choices_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Flickr30kEntities(**{"data_root": str(SOURCE), **options})


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="`flickr30k_entities` has no split 'testA' here; it has train, val, test, all"
    ):
        load_grounding_dataset("flickr30k_entities", "testA", data_root=SOURCE, cache_dir=str(tmp_path))


def test_a_checkpoint_is_evaluated_on_it(checkpoint, tmp_path, capsys):
    options = [f"data_root={SOURCE}", f"cache_dir={tmp_path / 'cache'}"]
    words = [word for option in options for word in ("--data", option)]
    command = ["evaluate", str(checkpoint), "flickr30k_entities", "--split", "test", *words, "--json"]
    assert main([*command, "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_phrases"] == len(EXPECTED["amc_evaluation"]["phrases"]["test"])


@pytest.mark.parametrize("value", [{}, {"scene": None, "nobox": None}, {"scene": [], "nobox": []}])
def test_null_in_place_of_a_list_of_chains_is_an_empty_one(value):
    text = json.dumps({"boxes": {"3": [[1, 1, 5, 5]]}, "width": 9, "height": 9, **value}).encode()
    found = parse_chain_boxes(text, "1", ReadingReport())
    assert found.boxes == {"3": [[1, 1, 5, 5]]} and not found.scenes and not found.without_box
