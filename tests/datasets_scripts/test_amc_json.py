"""AMC's training lists: rows against the expected values of the raw files, damaged files, and training on them."""

import json

import pytest
from PIL import Image
from testing_utils import FIXTURES_FOLDER

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, AmcJson, load_grounding_dataset

LISTS = FIXTURES_FOLDER / "amc_json"
IMAGES = FIXTURES_FOLDER / "visual_genome"
FILES = ["vg_descriptions.json", "vg_attributes.json", "vg_attributes_spatial.json"]


def build(cache, data_root=LISTS, image_root=IMAGES, **options):
    """Rows and the report of their reading."""
    builder = AmcJson(cache_dir=str(cache), data_root=data_root, image_root=str(image_root), **options)
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")
    assert rows.features == GROUNDING_FEATURES
    return rows, builder.report


def write_list(folder, entries, name="list.json"):
    (folder / name).write_text(json.dumps(entries))
    return {"data_root": folder, "annotation_files": [name]}


def test_every_expected_phrase_is_there(tmp_path):
    rows, _ = build(tmp_path)
    expected = json.loads((LISTS / "expected.json").read_text())
    found = {phrase["phrase_id"]: (row, phrase) for row in rows for phrase in row["phrases"]}
    others = set(found)
    for expected_row in expected["rows"]:
        (expected_phrase,) = expected_row["phrases"]
        row, phrase = found[expected_phrase["phrase_id"]]
        others.remove(expected_phrase["phrase_id"])
        assert row["image_id"] == expected_row["image_id"]
        assert phrase["phrase"] == expected_phrase["phrase"]
        assert (phrase["paraphrases"] or []) == expected_phrase["paraphrases"]
        turned = {"VG_100K_2/2327771.jpg": [[96 - 42, 6, 96 - 9, 34]]}  # a quarter turn of a picture 96 pixels high
        boxes = turned.get(row["image_id"], expected_phrase["boxes"])
        assert (phrase["boxes"] or []) == [pytest.approx(box, abs=1e-4) for box in boxes]
    assert others == {"vg_descriptions.json#1.1", "vg_attributes_spatial.json#0.1"}
    assert found["vg_descriptions.json#1.1"][1]["phrase"] == "Green, the shade!"
    assert found["vg_descriptions.json#1.1"][1]["boxes"] == found["vg_descriptions.json#1"][1]["boxes"]


def test_one_row_per_image_and_everything_skipped_is_counted(tmp_path):
    rows, report = build(tmp_path)
    names = ["VG_100K_2/1.jpg", "VG_100K/150301.jpg", "VG_100K/2315410.jpg", "VG_100K_2/2327771.jpg"]
    assert rows["image_id"][:] == names
    assert report.counts == {
        "absolute path: entry skipped; the option `path_prefixes` replaces its prefix": 1,
        "path leaves the image folder: entry skipped": 1,
        "image file missing: image skipped": 1,
        "caption without words or with broken characters: caption skipped": 1,
        "box outside the image: box dropped": 1,
        "empty box: box dropped": 2,
        "reversed box: box dropped": 1,
        "box extends beyond the image: box clipped": 2,
        "phrase without a usable box: phrase kept without a region": 4,
        "entry repeats an earlier one: entry kept": 1,
        "image is rotated by its EXIF data: boxes rotated with it": 1,
    }
    assert "713042.jpg" in report.first_places["image file missing: image skipped"]
    assert report.first_places["caption without words or with broken characters: caption skipped"] == FILES[0] + "#12"


@pytest.mark.parametrize(("phrase", "channel"), [("the red clock", 0), ("green shade", 1), ("blue clock", 2)])
def test_boxes_hold_the_colour_that_the_phrase_names(tmp_path, phrase, channel):
    rows, _ = build(tmp_path)
    for row in rows:
        for entry in row["phrases"]:
            if entry["phrase"] == phrase:
                pixel = row["image"].crop(entry["boxes"][0]).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
                assert max(pixel) == pixel[channel]


def test_some_files_of_a_folder(tmp_path):
    rows, _ = build(tmp_path, annotation_files=FILES[1])
    assert [len(row["phrases"]) for row in rows] == [2, 2]
    rows, _ = build(tmp_path, annotation_files=[FILES[1], str(LISTS / FILES[2])])
    assert rows[0]["phrases"][2]["phrase_id"] == "vg_attributes_spatial.json#0"


def test_images_may_stay_where_they_are(tmp_path):
    embedded, _ = build(tmp_path)
    linked, _ = build(tmp_path, embed_images=False)
    assert [row["image"].tobytes() for row in linked] == [row["image"].tobytes() for row in embedded]
    stored = linked.with_format("arrow")[0]["image"][0].as_py()
    assert stored == {"bytes": None, "path": str(IMAGES / "VG_100K_2" / "1.jpg")}


def test_changed_files_are_read_again(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    entry = {"image": "a.png", "caption": "a dog", "bbox": [[1, 1, 5, 5]]}
    options = write_list(tmp_path, [entry, {**entry, "image": "b.png"}])
    assert len(build(tmp_path / "cache", image_root=tmp_path, **options)[0]) == 1
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    assert len(build(tmp_path / "cache", image_root=tmp_path, **options)[0]) == 2
    write_list(tmp_path, [{**entry, "caption": "a small dog"}])
    assert build(tmp_path / "cache", image_root=tmp_path, **options)[0][0]["phrases"][0]["phrase"] == "a small dog"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"caption": "a dog", "bbox": []}, "entry 1 has no `image`"),
        ({"image": 5, "caption": "a dog", "bbox": []}, "entry 1: `image` must be a path"),
        ({"image": "a.jpg", "bbox": []}, "entry 1 has no `caption`"),
        ({"image": "a.jpg", "caption": ["a", None], "bbox": []}, "entry 1: `caption` must be a text or a list"),
        ({"image": "a.jpg", "caption": "a dog"}, "entry 1 has no list `bbox`.*`albef_json`"),
        ({"image": "a.jpg", "caption": "a dog", "bbox": "1 2 3 4"}, "entry 1 has no list `bbox`"),
        (["a.jpg"], "cannot be read at entry 1"),
    ],
)
def test_entries_of_another_form_are_refused(tmp_path, entry, message):
    options = write_list(tmp_path, [{"image": "a.jpg", "caption": "a", "bbox": []}, entry])
    with pytest.raises(ValueError, match=rf"list\.json.*{message}"):
        build(tmp_path / "cache", **options)


def test_half_a_download_is_refused(tmp_path):
    whole = (LISTS / FILES[0]).read_text()
    (tmp_path / "list.json").write_text(whole[:-40])
    with pytest.raises(ValueError, match=r"list\.json cannot be read at entry 14.*fetch it again"):
        build(tmp_path / "cache", data_root=tmp_path, annotation_files="list.json")


def test_broken_characters_are_skipped(tmp_path):
    entry = {"image": "VG_100K_2/1.jpg", "caption": ["half a \ud83d", "a dog"], "bbox": [[1, 1, 5, 5]]}
    rows, report = build(tmp_path / "cache", **write_list(tmp_path, [entry]))
    assert [phrase["phrase"] for phrase in rows[0]["phrases"]] == ["a dog"]
    assert report.counts == {"caption without words or with broken characters: caption skipped": 1}


@pytest.mark.parametrize("box", [[1, 2, 3], [float("nan"), 1, 5, 5], ["1", 1, 5, 5], None, [10**400, 1, 5, 5]])
def test_boxes_that_are_not_numbers_are_skipped(tmp_path, box):
    entry = {"image": "VG_100K_2/1.jpg", "caption": "a dog", "bbox": [box, [1, 1, 5, 5]]}
    rows, report = build(tmp_path / "cache", **write_list(tmp_path, [entry]))
    assert rows[0]["phrases"][0]["boxes"] == [[1, 1, 5, 5]]
    assert rows[0]["phrases"][0]["types"] == ["incomplete_boxes"]
    assert report.counts == {"box is not four finite numbers: box dropped": 1}


def test_nothing_usable_is_refused_with_the_reasons(tmp_path):
    entry = {"image": "/data/a.jpg", "caption": "a dog", "bbox": []}
    with pytest.raises(ValueError, match=r"No image of .* has a phrase\. 1 x absolute path.*list\.json#0"):
        build(tmp_path / "cache", **write_list(tmp_path, [entry]))
    with pytest.raises(ValueError, match=r"No image of .* can be used\. 1 x image file missing.*a\.jpg"):
        build(tmp_path / "cache", **write_list(tmp_path, [{**entry, "image": "a.jpg"}]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"annotation_files": ["no.json"]}, FileNotFoundError, "No `no.json` in .*check .*`annotation_files`"),
        ({"annotation_files": []}, ValueError, "No list is named: pass `annotation_files`"),
        ({"annotation_files": [5]}, TypeError, "`annotation_files` must be a list of texts"),
        ({"annotation_files": [FILES[0], FILES[0]]}, ValueError, "two files of one name"),
        ({"image_root": "nowhere"}, FileNotFoundError, "No image folder nowhere"),
        ({"data_root": "nowhere"}, FileNotFoundError, "No folder nowhere"),
        ({"data_root": ""}, ValueError, "`data_root` is missing"),
    ],
)
def test_wrong_places_are_named(options, error, message):
    with pytest.raises(error, match=message):
        AmcJson(**{"data_root": str(LISTS), "image_root": str(IMAGES), **options})


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="`amc_json` has no split 'val' here; it has train, all"):
        load_grounding_dataset("amc_json", "val", data_root=LISTS, image_root=str(IMAGES), cache_dir=str(tmp_path))


@pytest.mark.slow
def test_a_recipe_trains_on_it(checkpoint, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "model": {"checkpoint": str(checkpoint)},
                "train_data": {
                    "name": "amc_json",
                    "split": "train",
                    "data_root": str(LISTS),
                    "image_root": str(IMAGES),
                    "annotation_files": FILES,
                    "cache_dir": str(tmp_path / "cache"),
                },
                "training": {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True},
            }
        )
    )
    assert main(["train", str(recipe), "--output-dir", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
