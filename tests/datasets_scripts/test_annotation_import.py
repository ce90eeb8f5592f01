"""Import of annotations: every format of the same pictures gives the same rows; what cannot be used is named."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from testing_utils import build_photo

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.datasets_scripts.importing.annotation_import import import_annotations
from albef_amc.regions_albef import encode_rle

WIDTH, HEIGHT = 40, 30
NAMES = ["a.png", "sub/b.png", "c.png"]
# Picture -> phrase -> boxes x_min, y_min, x_max, y_max; all sides are whole per cents of the picture.
BOXES = {
    "a.png": {"red car": [[4.0, 6.0, 20.0, 24.0], [22.0, 3.0, 38.0, 15.0]], "dog": [[0.0, 0.0, 10.0, 30.0]]},
    "sub/b.png": {"dog": [[2.0, 3.0, 8.0, 27.0]]},
    "c.png": {"red car": [[10.0, 9.0, 30.0, 21.0]]},
}
CLASSES = ["dog", "red_car"]
EVERY = [(name, phrase, box) for name, phrases in BOXES.items() for phrase, boxes in phrases.items() for box in boxes]


def number_of(phrase: str) -> int:
    return CLASSES.index(phrase.replace(" ", "_"))


def save_pictures(folder: Path) -> None:
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(build_photo(WIDTH, HEIGHT)) + number
        Image.fromarray(pixels).save(folder / name)


def dump(folder: Path, name: str, value) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder / name


def build_coco() -> dict:
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(NAMES)]
    annotations = [
        {
            "id": i,
            "image_id": NAMES.index(name),
            "category_id": number_of(phrase) + 1,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "segmentation": [],
            "iscrowd": 0,
        }
        for i, (name, phrase, box) in enumerate(EVERY)
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path) -> Path:
    save_pictures(folder / "images")
    return dump(folder, "export.json", build_coco()).parent


def describe_yolo(box: list[float]) -> str:
    x_min, y_min, x_max, y_max = (value / side for value, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True))
    return f"{(x_min + x_max) / 2} {(y_min + y_max) / 2} {x_max - x_min} {y_max - y_min}"


def write_yolo(folder: Path) -> Path:
    save_pictures(folder / "images")
    for name in NAMES:
        lines = [f"{number_of(phrase)} {describe_yolo(box)}" for found, phrase, box in EVERY if found == name]
        path = (folder / "labels" / name).with_suffix(".txt")
        dump(path.parent, path.name, "\n".join(lines) + "\n")
    return dump(folder, "classes.txt", "\n".join(CLASSES) + "\n").parent


def build_region(box: list[float], label: str, number: int = 0, **value) -> dict:
    x_min, y_min, x_max, y_max = (100 * value / side for value, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True))
    sides = {"x": x_min, "y": y_min, "width": x_max - x_min, "height": y_max - y_min, "rotation": 0}
    return {
        "id": f"r{number}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {**sides, "rectanglelabels": [label], **value},
    }


def build_task(name: str, *results: dict, **changes) -> dict:
    task = {"id": NAMES.index(name), "data": {"image": f"/data/local-files/?d=photos/{name}"}}
    return {**task, "annotations": [{"result": list(results)}], **changes}


def write_label_studio(folder: Path) -> Path:
    save_pictures(folder)
    tasks = [
        build_task(
            name,
            *(build_region(box, phrase, number) for number, (found, phrase, box) in enumerate(EVERY) if found == name),
        )
        for name in NAMES
    ]
    return dump(folder, "project-1.json", tasks).parent


def write_jsonl(folder: Path) -> Path:
    save_pictures(folder)
    lines = [
        {"image": name, "phrase": phrase, "boxes": boxes}
        for name, phrases in BOXES.items()
        for phrase, boxes in phrases.items()
    ]
    return dump(folder, "boxes.jsonl", "\n".join(map(json.dumps, lines))).parent


def write_csv(folder: Path) -> Path:
    save_pictures(folder / "images")
    lines = ["image,phrase,x_min,y_min,x_max,y_max", *(f"{name},{p},{','.join(map(str, b))}" for name, p, b in EVERY)]
    return dump(folder, "boxes.csv", "\n".join(lines) + "\n").parent


WRITERS = {
    "coco": write_coco,
    "yolo": write_yolo,
    "label_studio": write_label_studio,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


def read_rows(folder: Path, tmp_path: Path, split: str = "train") -> dict[str, dict]:
    """Phrases with boxes by name of the picture, read by the builder."""
    rows = load_grounding_dataset("jsonl", split, data_root=str(folder), cache_dir=str(tmp_path / "cache"))
    return {
        row["image_id"].removeprefix("images/"): {phrase["phrase"]: phrase for phrase in row["phrases"]}
        for row in rows
    }


def boxes_of(rows: dict[str, dict]) -> dict[str, dict]:
    return {name: {text: phrase["boxes"] for text, phrase in phrases.items()} for name, phrases in rows.items()}


@pytest.mark.parametrize("annotation_format", WRITERS)
def test_every_format_gives_the_same_rows(annotation_format, tmp_path):
    source = WRITERS[annotation_format](tmp_path / "source")
    result = import_annotations(source, tmp_path / "mine", validation_share=0)
    assert (result["format"], result["left_out"]) == (annotation_format, {})
    assert result["splits"]["train"] == {
        "images": 3, "phrases": 4, "boxes": 5, "phrases_without_region": 0, "incomplete_phrases": 0,
    }  # fmt: skip
    found = boxes_of(read_rows(tmp_path / "mine", tmp_path))
    for name, phrases in BOXES.items():
        for text, boxes in phrases.items():
            np.testing.assert_allclose(sorted(found[name][text]), sorted(boxes), atol=1e-4)
    assert {name: set(phrases) for name, phrases in found.items()} == {name: set(BOXES[name]) for name in BOXES}
    assert json.loads((tmp_path / "mine" / "import.json").read_text()) == result


def count_reasons(result: dict) -> dict[str, int]:
    return {reason: found["count"] for reason, found in result["left_out"].items()}


def run_coco(tmp_path: Path, change, **options) -> tuple[dict, dict]:
    """Rows and what was left out of the COCO file after a change."""
    source = write_coco(tmp_path / "source")
    contents = build_coco()
    change(contents)
    dump(source, "export.json", contents)
    result = import_annotations(source, tmp_path / "mine", validation_share=0, **options)
    return read_rows(tmp_path / "mine", tmp_path), {
        reason: found["count"] for reason, found in result["left_out"].items()
    }


def test_coco_keeps_outlines_and_names_what_it_drops(tmp_path):
    mask = encode_rle(np.pad(np.ones((5, 6)), ((2, HEIGHT - 7), (3, WIDTH - 9))))

    def change(contents):
        first, second, dog, other_dog, _ = contents["annotations"]
        first["segmentation"] = [[4, 6, 20, 6, 20, 24]]
        second["segmentation"] = mask
        second["bbox"] = [30, 3, 100, 12]
        dog["iscrowd"] = 1
        other_dog["bbox"] = [5, 5, 0, 9]
        contents["annotations"][4]["category_id"] = 99
        contents["annotations"].append({**first, "id": 77, "image_id": 1234})
        contents["images"].append({"id": 9, "file_name": "gone.png"})
        contents["annotations"].append({**first, "id": 78, "image_id": 9})
        contents["images"].append({"id": 10, "file_name": "sub/../a.png"[7:], "width": WIDTH, "height": HEIGHT})
        contents["annotations"].append({"id": 79, "image_id": 10, "caption": "a car and a dog"})

    rows, left_out = run_coco(tmp_path, change)
    car = rows["a.png"]["red car"]
    assert car["boxes"] == [[4.0, 6.0, 20.0, 24.0], [30.0, 3.0, 40.0, 15.0]]
    assert (car["polygons"], car["masks"], car["types"]) == ([[4.0, 6.0, 20.0, 6.0, 20.0, 24.0]], [mask], None)
    assert rows["a.png"]["dog"]["boxes"] is None and rows["sub/b.png"]["dog"]["boxes"] is None
    assert left_out == {
        "crowd region: not imported, its class has no complete region in this picture": 1,
        "box extends beyond the image: box clipped": 1,
        "empty box: box dropped": 1,
        "phrase without a usable box: phrase kept without a region": 2,
        "annotation of an undeclared category: annotation skipped": 1,
        "annotation of an unknown image: annotation skipped": 1,
        "image file missing: image skipped": 1,
        "image without an annotation: image skipped": 2,
        "caption: not imported": 1,
    }


def test_a_phrase_that_lost_an_object_has_no_complete_region(tmp_path):
    def change(contents):
        contents["annotations"][1]["bbox"] = [90, 3, 10, 12]
        contents["annotations"][0]["segmentation"] = [[4, 6, 20, 6, 20, 24]]

    rows, left_out = run_coco(tmp_path, change)
    assert rows["a.png"]["red car"]["types"] == ["incomplete_boxes", "incomplete_outlines"]
    assert left_out == {"box outside the image: box dropped": 1}


def test_the_template_is_for_classes_alone(tmp_path):
    rows, _ = run_coco(tmp_path, lambda contents: None, template="a {label}")
    assert set(rows["a.png"]) == {"a red car", "a dog"}
    import_annotations(write_jsonl(tmp_path / "lines"), tmp_path / "other", validation_share=0, template="a {label}")
    assert set(read_rows(tmp_path / "other", tmp_path)["a.png"]) == {"red car", "dog"}


@pytest.mark.parametrize("is_upright", [False, True])
def test_coco_boxes_belong_to_the_stored_pixels_unless_the_size_says_otherwise(is_upright, tmp_path):
    def change(contents):
        exif = Image.Exif()
        exif[0x0112] = 6  # shown after a quarter turn clockwise
        build_photo(WIDTH, HEIGHT).save(tmp_path / "source" / "images" / "c.png", exif=exif)
        if is_upright:
            contents["images"][2] |= {"width": HEIGHT, "height": WIDTH}

    rows, _ = run_coco(tmp_path, change)
    assert rows["c.png"]["red car"]["boxes"] == [[10.0, 9.0, 30.0, 21.0] if is_upright else [9.0, 10.0, 21.0, 30.0]]


def test_yolo_reads_a_description_with_splits_and_polygons(tmp_path):
    source = tmp_path / "source"
    for split, name in (("train", "a.png"), ("valid", "b.png")):
        (source / split / "images").mkdir(parents=True)
        build_photo(WIDTH, HEIGHT).save(source / split / "images" / name)
    dump(source / "train" / "labels", "a.txt", "0 0.1 0.1 0.5 0.1 0.5 0.9\n7 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2\n0 x\n")
    dump(source / "valid" / "labels", "b.txt", "1 1.0 0.5 0.5 0.5\n")
    dump(source, "data.yaml", "train: ../train/images\nval: ../valid/images\ntest: ''\nnc: 2\nnames: [dog, car]\n")
    result = import_annotations(source, tmp_path / "mine")
    assert {split: found["images"] for split, found in result["splits"].items()} == {"train": 1, "validation": 1}
    (dog,) = read_rows(tmp_path / "mine", tmp_path)["train/images/a.png"].values()
    np.testing.assert_allclose(dog["boxes"], [[4, 3, 20, 27]], rtol=1e-5)
    np.testing.assert_allclose(dog["polygons"], [[4, 3, 20, 3, 20, 27]], rtol=1e-5)
    assert dog["types"] == ["incomplete_boxes", "incomplete_outlines"]
    (car,) = read_rows(tmp_path / "mine", tmp_path, "validation")["valid/images/b.png"].values()
    assert car["boxes"] == [[30.0, 7.5, 40.0, 22.5]]
    assert count_reasons(result) == {
        "class unknown: object skipped": 1,
        "label is neither a box (4 numbers) nor a polygon: object lost": 1,
        "line is not of numbers: line skipped": 1,
        "box extends beyond the image: box clipped": 1,
    }


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("names: [dog]\nkpt_shape: [17, 3]\n", "key points"),
        ("names: 3\n", "`names` must be a list"),
        ("names: [dog]\ntrain: a/../../b\n", "leaves the image folder"),
        ("names: [dog]\ntrain: /photos\n", "absolute path"),
        ("names: [dog]\ntrain: nowhere\n", "No folder"),
        ("names: [dog\n", "is not YAML"),
    ],
)
def test_yolo_refuses_a_description_that_it_cannot_follow(description, words, tmp_path):
    source = write_yolo(tmp_path / "source")
    dump(source, "data.yaml", description)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        import_annotations(source, tmp_path / "mine")
    assert not (tmp_path / "mine").exists() and os.listdir(tmp_path) == ["source"]


def test_yolo_skips_pictures_that_share_labels(tmp_path):
    source = write_yolo(tmp_path / "source")
    shutil.copy(source / "images" / "a.png", source / "images" / "a.bmp")
    result = import_annotations(source, tmp_path / "mine", validation_share=0)
    (reason,) = result["left_out"]
    assert reason.startswith("pictures that differ only in their ending") and result["splits"]["train"]["images"] == 2


def import_tasks(tmp_path: Path, *tasks: dict) -> tuple[dict, dict]:
    source = write_label_studio(tmp_path / "source")
    dump(source, "project-1.json", list(tasks))
    result = import_annotations(source, tmp_path / "mine", validation_share=0)
    return read_rows(tmp_path / "mine", tmp_path), {
        reason: found["count"] for reason, found in result["left_out"].items()
    }


def test_label_studio_texts_rotation_and_polygons(tmp_path):
    named = build_region([4, 6, 20, 24], "car", 1)
    text = {"id": "r1", "type": "textarea", "value": {"text": ["the red car"]}}
    # A quarter turn around the first corner: the width of 8 pixels points down.
    turned = build_region([20, 3, 28, 9], "dog", 2, rotation=90)
    outline = {**build_region([0, 0, 1, 1], "x", 3), "type": "polygonlabels"}
    outline["value"] = {"points": [[10, 10], [50, 10], [50, 90]], "polygonlabels": ["tree"]}
    rows, left_out = import_tasks(tmp_path, build_task("a.png", named, text, turned, outline))
    assert left_out == {} and set(rows["a.png"]) == {"the red car", "dog", "tree"}
    np.testing.assert_allclose(rows["a.png"]["dog"]["boxes"], [[14, 3, 20, 11]], atol=1e-4)
    np.testing.assert_allclose(rows["a.png"]["tree"]["polygons"], [[4, 3, 20, 3, 20, 27]], atol=1e-4)


def test_a_rotated_rectangle_is_an_outline_too(tmp_path):
    tilted = build_region([20, 10, 28, 16], "dog", rotation=30)
    rows, _ = import_tasks(tmp_path, build_task("a.png", tilted))
    (polygon,) = rows["a.png"]["dog"]["polygons"]
    x, y = 20 + 8 * np.cos(np.pi / 6), 10 + 8 * np.sin(np.pi / 6)
    np.testing.assert_allclose(polygon[:4], [20, 10, x, y], atol=1e-4)
    np.testing.assert_allclose(rows["a.png"]["dog"]["boxes"], [[17, 10, x, y + 6 * np.cos(np.pi / 6)]], atol=1e-4)


def test_label_studio_names_what_it_cannot_use(tmp_path):
    dog = build_region(BOXES["sub/b.png"]["dog"][0], "dog")
    brush = {
        **build_region([0, 0, 9, 9], "dog", 5),
        "type": "brushlabels",
        "value": {"brushlabels": ["dog"], "rle": [1]},
    }
    broken = build_region([0, 0, 9, 9], "dog", 6, x="ten")
    unnamed = build_region([0, 0, 9, 9], " ", 7)
    uploaded = {"image": "/data/upload/1/0a1b2c3d-c.png"}
    rows, left_out = import_tasks(
        tmp_path,
        build_task("sub/b.png", dog, brush, broken, unnamed, {"type": "choices", "value": {}}),
        build_task("c.png", dog, data=uploaded, annotations=[{"result": [dog]}, {"result": []}]),
        build_task("a.png", dog, data={"image": "https://example.org/photos/a.png?x=1"}),
        build_task("a.png", dog, data={"text": "no picture"}),
        build_task("a.png", annotations=[{"was_cancelled": True, "result": [dog]}]),
    )
    assert set(rows) == set(NAMES) and rows["sub/b.png"]["dog"]["types"] == ["incomplete_boxes"]
    assert left_out == {
        "brush, ellipse or key point: object lost; draw rectangles or polygons": 1,
        "region whose coordinates are not finite numbers: object lost": 1,
        "region without a label or a text: region skipped": 1,
        "result without a shape: result skipped": 1,
        "picture with several annotations: the first is kept": 1,
        "task without the path of a picture: task skipped": 1,
        "image without an annotation: image skipped": 1,
    }


LINE = {"image": "a.png", "phrase": "dog", "boxes": [[1, 2, 9, 9]]}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([LINE, "{"], "line 2 is not valid JSON"),
        ([LINE, "[1]"], "line 2: an object in braces"),
        ([{**LINE, "boxes": [1, 2, 9, 9]}], "line 1: `boxes` must be a list of lists"),
        ([{**LINE, "boxes": "x"}], "line 1: `boxes` must be a list"),
        ([{**LINE, "phrase": 3}], "line 1: `phrase` must be a text"),
        ([{**LINE, "box": []}], "unknown field `box`"),
        ([{**LINE, "image": "../a.png"}], "leaves the image folder"),
        ([{**LINE, "image": "/a.png"}], "absolute path"),
        ([{"image": "a.png", "phrases": []}], "nothing has to be imported"),
        ([{**LINE, "split": "mine"}], "`split` must be one of"),
        ([{**LINE, "boxes": [[0.1, 0.2, 0.5, 0.6]]}], "fractions of width and height"),
        ([{**LINE, "image": "none.png"}], "None of the pictures"),
    ],
)
def test_lines_that_cannot_be_read_are_errors_that_name_them(lines, words, tmp_path):
    source = write_jsonl(tmp_path / "source")
    dump(source, "boxes.jsonl", "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        import_annotations(source, tmp_path / "mine")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,phrase,x,y\na.png,dog,1,2\n", "no column `x_min`"),
        ("image,phrase,x_min,y_min,x_max,y_max\na.png,dog,1,2,x,4\n", "line 2: x_min, y_min, x_max, y_max must be"),
        ('image,phrase,x_min,y_min,x_max,y_max\na.png,"dog,1,2,3,4\n', "is not csv"),
        ("image,phrase,x_min,y_min,x_max,y_max\na.png,dog,0.1,0.2,0.3,0.4\n", "fractions of width and height"),
    ],
)
def test_csv_that_cannot_be_read_is_an_error_that_names_it(text, words, tmp_path):
    source = write_csv(tmp_path / "source")
    dump(source, "boxes.csv", text)
    with pytest.raises(ValueError, match=words):
        import_annotations(source, tmp_path / "mine")


def test_lines_without_boxes_and_with_splits(tmp_path):
    source = write_csv(tmp_path / "source")
    header = "image,phrase,x_min,y_min,x_max,y_max,split\n"
    dump(source, "boxes.csv", header + "a.png,dog,1,2,9,9,train\na.png,a dog,,,,,train\nc.png,dog,1,2,9,9,val\n")
    result = import_annotations(source, tmp_path / "mine")
    assert result["splits"]["train"]["phrases_without_region"] == 1
    assert set(read_rows(tmp_path / "mine", tmp_path, "validation")) == {"c.png"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("export.json", '{"images": [{"id": 1, "file_name": "a.png"}, {"id"', "cannot be read after"),
        ("export.json", '{"images": [{"id": 1, "file_name": "../a.png"}]}', "leaves the image folder"),
        ("export.json", '{"images": [{"id": 1, "file_name": 5}]}', "no `file_name`"),
        ("export.json", '{"images": [5]}', "an object in braces"),
        ("export.json", '[{"id": 1, "data": {"image": "a.png"}, "annotations": [', "cannot be read at entry 0"),
        ("export.json", '[{"id": 1, "image": "a.png", "label": []}]', "not as JSON-MIN"),
        ("export.json", '[{"data": {"image": "/etc/a.png"}}]', "absolute path"),
        ("export.json", '[{"data": {"image": "/data/local-files/?d=../a.png"}}]', "leaves the image folder"),
        ("export.json", '{"info": 3}', "No annotations of a known format"),
    ],
)
def test_damaged_exports_are_errors_that_name_the_file(name, text, words, tmp_path):
    source = dump(tmp_path / "source", name, text).parent
    save_pictures(source)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        import_annotations(source, tmp_path / "mine")
    assert os.listdir(tmp_path) == ["source"]


def test_mixed_formats_need_a_choice(tmp_path):
    source = write_csv(tmp_path / "source")
    write_coco(source)
    with pytest.raises(ValueError, match=r"several formats: csv \(boxes.csv\), coco \(export.json\)|coco .* csv"):
        import_annotations(source, tmp_path / "mine")
    assert import_annotations(source, tmp_path / "mine", annotation_format="csv")["format"] == "csv"
    assert import_annotations(source / "export.json", tmp_path / "mine")["format"] == "coco"
    with pytest.raises(FileNotFoundError, match="No annotations of label_studio"):
        import_annotations(source / "boxes.csv", tmp_path / "mine", annotation_format="label_studio")


def test_no_usable_picture_is_an_error_with_the_reasons(tmp_path):
    source = write_jsonl(tmp_path / "source")
    for name in NAMES:
        (source / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"No picture of .* can be used. 3 x "):
        import_annotations(source, tmp_path / "mine")
    assert os.listdir(tmp_path) == ["source"]


def test_an_import_is_replaced_and_nothing_else_is(tmp_path):
    source = write_jsonl(tmp_path / "source")
    import_annotations(source, tmp_path / "mine")
    dump(source, "boxes.jsonl", json.dumps(LINE))
    import_annotations(source, tmp_path / "mine", validation_share=0)
    assert sorted(os.listdir(tmp_path / "mine")) == ["images", "import.json", "train.jsonl"]
    assert os.listdir(tmp_path / "mine" / "images") == ["a.png"]
    assert sorted(os.listdir(tmp_path)) == ["mine", "source"]
    dump(tmp_path / "other", "thesis.txt", "mine")
    with pytest.raises(ValueError, match="holds files that no import made"):
        import_annotations(source, tmp_path / "other")
    for place in (source, source / "inside", tmp_path):
        with pytest.raises(ValueError, match="overlap"):
            import_annotations(source, place)


def test_a_failed_import_keeps_the_earlier_one(tmp_path):
    source = write_jsonl(tmp_path / "source")
    import_annotations(source, tmp_path / "mine")
    before = (tmp_path / "mine" / "train.jsonl").read_text()
    dump(source, "boxes.jsonl", json.dumps(LINE) + "\n{")
    with pytest.raises(ValueError, match="line 2"):
        import_annotations(source, tmp_path / "mine")
    assert (tmp_path / "mine" / "train.jsonl").read_text() == before and len(os.listdir(tmp_path)) == 2


def test_validation_is_a_share_of_different_pictures(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    pixels = np.asarray(build_photo(WIDTH, HEIGHT))
    for number in range(20):
        Image.fromarray(pixels + number // 2).save(source / f"{number}.png")
    lines = [json.dumps({**LINE, "image": f"{number}.png"}) for number in range(20)]
    dump(source, "boxes.jsonl", "\n".join(lines))
    chosen = []
    for seed in (0, 0, 1):
        result = import_annotations(source, tmp_path / "mine", validation_share=0.2, seed=seed)
        assert {split: found["images"] for split, found in result["splits"].items()} == {"train": 16, "validation": 4}
        chosen.append({int(name[:-4]) for name in read_rows(tmp_path / "mine", tmp_path, "validation")})
    assert chosen[0] == chosen[1] != chosen[2]
    assert all((number ^ 1) in numbers for numbers in chosen for number in numbers)  # copies stay together


def test_a_picture_of_two_files_has_the_phrases_of_both(tmp_path):
    source = write_jsonl(tmp_path / "source")
    more = [
        {"image": "a.png", "phrase": "dog", "boxes": [*BOXES["a.png"]["dog"], [1, 1, 5, 5]]},
        {**LINE, "phrase": "tree"},
    ]
    dump(source, "more.jsonl", "\n".join(map(json.dumps, more)))
    result = import_annotations(source, tmp_path / "mine", validation_share=0)
    rows = read_rows(tmp_path / "mine", tmp_path)
    assert rows["a.png"]["dog"]["boxes"] == [[0.0, 0.0, 10.0, 30.0], [1.0, 1.0, 5.0, 5.0]]
    assert set(rows["a.png"]) == {"red car", "dog", "tree"}
    assert result["left_out"]["image is listed twice: its annotations are joined"]["count"] == 1


def test_two_pictures_never_share_a_name(tmp_path):
    source = write_jsonl(tmp_path / "source")
    (source / "images").mkdir()
    shutil.copy(source / "c.png", source / "images" / "a.png")
    dump(source, "boxes.jsonl", "\n".join(json.dumps({**LINE, "image": name}) for name in ("a.png", "images/a.png")))
    with pytest.raises(ValueError, match="would both be written as images/a.png"):
        import_annotations(source, tmp_path / "mine")


def test_the_command_imports_and_names_a_missing_source(tmp_path, capsys):
    source = write_coco(tmp_path / "source")
    assert main(["import", str(source), "-o", str(tmp_path / "mine"), "--validation-share", "0.3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["splits"]["validation"]["images"] == 1 and result["left_out"] == {}
    assert main(["import", str(source / "gone"), "-o", str(tmp_path / "mine")]) == 2
    assert "No file or folder" in capsys.readouterr().err
