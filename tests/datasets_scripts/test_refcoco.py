"""The RefCOCO family: rows against the expected values of the raw files, detections, damaged files, evaluation."""

import json
import pickle
import shutil

import datasets
import numpy as np
import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, RefCoco, load_grounding_dataset
from albef_amc.regions_albef import build_region_mask, decode_rle

REFER = FIXTURES_FOLDER / "refer"
DATA_SETS = [
    ("refcoco", "unc"),
    ("refcoco", "google"),
    ("refcoco+", "unc"),
    ("refcocog", "umd"),
    ("refcocog", "google"),
    ("refclef", "unc"),
    ("refclef", "berkeley"),
]
DETECTIONS = {
    "albef": "detections/albef_refcoco+/dets.json",
    "mattnet": "detections/refcoco+_unc/res101_coco_minus_refer_notime_dets.json",
    "refer": "detections/refer_readme_form/dets.json",
}
TURNED = "524291"  # stored 150 x 110, shown 110 x 150


def build(cache, data_root=REFER, **options):
    """Builder of a prepared data set; every split has the schema."""
    builder = RefCoco(cache_dir=str(cache), data_root=str(data_root), **options)
    builder.download_and_prepare()
    assert builder.info.features == GROUNDING_FEATURES
    return builder


def read_expected(name: str) -> dict:
    return json.loads((REFER / "expected" / f"{name}.json").read_text())


@pytest.fixture
def source(tmp_path):
    """A copy of the raw files that a test spoils."""
    shutil.copytree(REFER, tmp_path / "refer")
    return tmp_path / "refer"


@pytest.mark.parametrize(("dataset", "split_by"), DATA_SETS)
def test_rows_are_those_of_the_published_reader(tmp_path, dataset, split_by):
    expected = read_expected(f"{dataset}_{split_by}")
    builder = build(tmp_path, dataset=dataset, split_by=split_by)
    assert sum(split.num_examples for split in builder.info.splits.values()) == expected["counts"]["rows"]
    rows = {(name, row["image_id"]): row for name in builder.info.splits for row in builder.as_dataset(split=name)}
    for expected_row in expected["rows"]:
        row = rows[expected_row["split"], str(expected_row["image_id"])]
        size = [expected_row["width"], expected_row["height"]]
        assert [row["width"], row["height"]] == expected_row.get("size_after_exif", size)
        assert row["proposals"] is None
        assert len(row["phrases"]) == len(expected_row["phrases"])
        for phrase, expected_phrase in zip(row["phrases"], expected_row["phrases"], strict=True):
            for name in ("phrase_id", "phrase", "types"):
                assert phrase[name] == expected_phrase[name]
            assert (phrase["paraphrases"] or []) == expected_phrase["paraphrases"]
            boxes = expected_phrase.get("boxes_after_exif", expected_phrase["boxes"])
            assert (phrase["boxes"] or []) == [pytest.approx(box, abs=1e-4) for box in boxes]
            assert bool(phrase["polygons"] or phrase["masks"]) == bool(boxes)


@pytest.mark.parametrize(("dataset", "split_by"), DATA_SETS)
def test_outlines_have_the_expected_area_and_fill_their_box(tmp_path, dataset, split_by):
    expected = {
        phrase["phrase_id"]: phrase
        for row in read_expected(f"{dataset}_{split_by}")["rows"]
        for phrase in row["phrases"]
    }
    for row in build(tmp_path, dataset=dataset, split_by=split_by).as_dataset(split="all"):
        for phrase in row["phrases"]:
            if not phrase["boxes"]:
                continue
            size = (row["height"], row["width"])
            outline = build_region_mask(*size, size, polygons=phrase["polygons"], masks=phrase["masks"]).numpy()
            box = build_region_mask(*size, size, boxes=phrase["boxes"]).numpy()
            area = expected[phrase["phrase_id"]]["mask_pixels"]
            assert outline.sum() == pytest.approx(area, rel=0.05)
            assert (outline * (box > 0)).sum() == pytest.approx(outline.sum(), rel=1e-3)


def test_masks_are_kept_as_run_lengths(tmp_path):
    expected = read_expected("refclef_unc")["rows"][0]["phrases"][0]
    row = build(tmp_path, dataset="refclef").as_dataset(split="train")[0]
    (mask,) = row["phrases"][0]["masks"]
    assert decode_rle(mask).sum() == expected["mask_pixels"]
    assert row["phrases"][0]["polygons"] is None


def test_what_is_skipped_is_counted(tmp_path):
    assert build(tmp_path).report.counts == {
        "sentence without words: sentence skipped": 1,
        "image file missing: image skipped": 1,
        "box extends beyond the image: box clipped": 1,
        "empty box: box dropped": 1,
        "ref without a usable box: ref kept without a region": 1,
        "image in several splits: image kept in each": 1,
        "image is rotated by its EXIF data: boxes rotated with it": 1,
    }
    report = build(tmp_path, dataset="refclef", split_by="berkeley").report
    assert report.counts == {"image not in instances.json: ref skipped": 1}
    assert report.first_places["image not in instances.json: ref skipped"] == "ref 1536 (image 31007)"


@pytest.mark.parametrize("form", DETECTIONS)
def test_detections_become_proposals(tmp_path, form):
    builder = build(tmp_path, dataset="refcoco+", detections_file=DETECTIONS[form])
    expected = {str(row["image_id"]): row for row in read_expected("detections")["rows"]}
    rows = builder.as_dataset(split="all")
    assert len(rows) == 6
    for row in rows:
        boxes = np.array([proposal["box"] for proposal in row["proposals"]])
        if row["image_id"] == TURNED:
            x_min, y_min, x_max, y_max = np.array(expected[TURNED]["proposals"]).T
            assert np.allclose(boxes, np.stack([110 - y_max, x_min, 110 - y_min, x_max], axis=1))
        else:
            assert np.allclose(boxes, expected[row["image_id"]]["proposals"])
    first = rows[0]["proposals"][0]
    score = None if form == "albef" else pytest.approx(0.699768)
    assert (first["score"], first["label"]) == (score, "person" if form == "mattnet" else None)
    assert builder.report.counts["empty box: box dropped"] == 1


@pytest.mark.parametrize("score", [10**400, float("inf"), float("nan"), True, "0.5", 1e300])
def test_scores_of_detections_are_finite_numbers(tmp_path, source, score):
    path = source / DETECTIONS["mattnet"]
    detections = json.loads(path.read_text())
    detections[0]["score"] = score
    path.write_text(json.dumps(detections))
    with pytest.raises(ValueError, match=r"dets\.json: detection number 0 has score .{1,80} and label .*finite"):
        build(tmp_path / "cache", source, dataset="refcoco+", detections_file=DETECTIONS["mattnet"])


def test_images_without_detections_are_counted(tmp_path, source):
    path = source / DETECTIONS["albef"]
    detections = json.loads(path.read_text())
    del detections["28135"]
    path.write_text(json.dumps(detections))
    builder = build(tmp_path / "cache", source, dataset="refcoco+", detections_file=str(path))
    assert builder.as_dataset(split="train")[0]["proposals"] == []
    assert builder.report.counts["image without detections: no proposals"] == 1


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("text", "holds a str"),
        ([{"box": [1, 2, 3, 4]}], "number 0 has no `image_id`"),
        ([{"image_id": 1}], "number 0 has no `image_id` or no `box`"),
        ({"1": {"x": 1}}, "image 1 are not a list of boxes"),
        ({"1": [[1, 2, 3, 4, "high"]]}, "score 'high'"),
    ],
)
def test_detections_of_another_form_are_refused(tmp_path, source, contents, message):
    (source / "dets.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=rf"dets\.json.*{message}"):
        build(tmp_path / "cache", source, detections_file="dets.json")


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source / "bad", source, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p refers to `posix\.system`.*refused"):
        build(tmp_path / "cache", source)
    assert not (tmp_path / "refer_pickle_was_executed.txt").exists()


def test_half_a_pickle_is_refused(tmp_path, source):
    shutil.copytree(source / "bad", source, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"refs\(google\)\.p is not a complete pickle.*fetch it again"):
        build(tmp_path / "cache", source, split_by="google")


def test_a_ref_to_nowhere_is_skipped(tmp_path, source):
    shutil.copytree(source / "edge", source, dirs_exist_ok=True)
    builder = build(tmp_path / "cache", source, split_by="google")
    assert builder.report.counts["annotation not among those of the image: ref skipped"] == 1


def spoil(source, change):
    """Changes the refs of RefCOCO (unc)."""
    path = source / "refcoco" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(pickle.dumps(change(refs) or refs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda refs: refs[0].pop("ann_id"), "ref number 0 has no `ann_id` of type `int`"),
        (lambda refs: {"refs": refs}, "holds a dict; a list of refs is expected"),
        (lambda refs: [7], "ref number 0 has no `ref_id`"),
        (lambda refs: refs[1].update(ref_id=1500), "ref 1500 occurs twice"),
        (lambda refs: refs[0].update(split="../x"), "not the name of a split"),
        (
            lambda refs: refs[0].update(ref_id=10**400),
            "ref number 0 has a `ref_id` that is not a whole number of 64 bits",
        ),
        (lambda refs: refs[1].update(image_id=10**5000), "ref number 1 has a `image_id` that is not a whole number"),
        (lambda refs: refs[1].update(ann_id=True), "ref number 1 has a `ann_id` that is not a whole number"),
        (lambda refs: refs[0]["sentences"][0].update(sent_id=10**5000), "share a `sent_id`"),
        (lambda refs: refs[0]["sentences"][0].update(sent_id=[1]), "share a `sent_id`"),
        (lambda refs: refs[0]["sentences"][0].pop("sent"), "a sentence of ref 1500 has no text"),
        (lambda refs: refs[0]["sentences"][0].update(sent_id=4001), "share a `sent_id`"),
    ],
)
def test_refs_of_another_form_are_refused(tmp_path, source, change, message):
    def keep_form(refs):
        changed = change(refs)
        return changed if isinstance(changed, list | dict) else None

    spoil(source, keep_form)
    with pytest.raises(ValueError, match=rf"refs\(unc\)\.p.*{message}"):
        build(tmp_path / "cache", source)


def change_instances(source, change):
    path = source / "refcoco" / "instances.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, source, name):
    change_instances(source, lambda contents: contents["images"][0].update(file_name=name))
    with pytest.raises(ValueError, match=r"instances\.json.*(leaves the image folder|absolute path)"):
        build(tmp_path / "cache", source)


def test_an_image_of_another_size_is_skipped(tmp_path, source):
    change_instances(source, lambda contents: contents["images"][0].update(width=161))
    builder = build(tmp_path / "cache", source)
    assert builder.report.counts["image size differs from the annotation: image skipped"] == 1
    with pytest.raises(ValueError, match="no image of split 'train' of `refcoco` can be used"):
        load_grounding_dataset("refcoco", "train", data_root=source, cache_dir=str(tmp_path / "cache"))


def test_boxes_stay_where_the_published_size_is_that_of_the_upright_picture(tmp_path, source):
    def turn(contents):
        (image,) = (image for image in contents["images"] if str(image["id"]) == TURNED)
        image.update(width=110, height=150)

    change_instances(source, turn)
    row = build(tmp_path / "cache", source).as_dataset(split="testA")[1]
    assert (row["image_id"], row["width"], row["height"]) == (TURNED, 110, 150)
    assert row["phrases"][0]["boxes"] == [[12, 31, 57, 66]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dataset": "refcoco++"}, ValueError, "`dataset` must be one of 'refcoco', 'refcoco"),
        ({"dataset": "refcoco+", "split_by": "google"}, ValueError, "refcoco.: `split_by` must be one of 'unc"),
        ({"detections_file": "no.json"}, FileNotFoundError, "No `no.json` in .*`detections_file`"),
        ({"image_root": "nowhere"}, FileNotFoundError, "No image folder nowhere"),
        ({"data_root": str(REFER / "images")}, FileNotFoundError, "No (`instances.json`|image folder)"),
    ],
)
def test_wrong_choices_are_named(options, error, message):
    with pytest.raises(error, match=message):
        RefCoco(**{"data_root": str(REFER), **options})


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="`refcoco` has no split 'test' here; it has train, val, testA, testB, all"):
        load_grounding_dataset("refcoco", "test", data_root=REFER, cache_dir=str(tmp_path))


def test_a_checkpoint_is_evaluated_on_it(checkpoint, tmp_path, capsys):
    options = ["dataset=refcoco+", f"data_root={REFER}", f"cache_dir={tmp_path / 'cache'}"]
    words = [word for option in options for word in ("--data", option)]
    assert main(["evaluate", str(checkpoint), "refcoco", "--split", "testA", *words, "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = read_expected("refcoco+_unc")["rows"]
    assert result["num_phrases"] == sum(len(row["phrases"]) for row in expected if row["split"] == "testA")
    assert set(result["num_phrases_by_type"]) == {"person"}


def test_a_configuration_stands_for_its_options(tmp_path):
    named = load_grounding_dataset(
        "refcoco", "all", data_root=str(REFER), config_name="refcocog_google", cache_dir=str(tmp_path / "named")
    )
    given = load_grounding_dataset(
        "refcoco",
        "all",
        data_root=str(REFER),
        dataset="refcocog",
        split_by="google",
        cache_dir=str(tmp_path / "given"),
    )
    assert [row["phrases"] for row in named] == [row["phrases"] for row in given]
    assert list(RefCoco.CONFIGURATIONS) == [f"{dataset}_{split_by}" for dataset, split_by in DATA_SETS]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config_name": "refcoco_umd"}, "not a configuration of RefCoco: refcoco_unc, refcoco_google, refcoco.?_unc"),
        ({"config_name": "refcoco_unc", "dataset": "refclef"}, "stands for dataset='refcoco', but dataset='refclef'"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        RefCoco(cache_dir=str(tmp_path), data_root=str(REFER), **options)


def test_a_built_configuration_is_loaded_by_its_name(tmp_path):
    words = ["--data", f"data_root={REFER}", "--data", "config_name=refcoco+_unc"]
    words += ["--output-dir", str(tmp_path / "built")]
    assert main(["build-dataset", "refcoco", *words]) == 0
    assert datasets.get_dataset_config_names(str(tmp_path / "built")) == ["refcoco+_unc"]
    rows = datasets.load_dataset(str(tmp_path / "built"), "refcoco+_unc", split="testA", cache_dir=str(tmp_path / "c"))
    expected = load_grounding_dataset(
        "refcoco", "testA", data_root=str(REFER), dataset="refcoco+", cache_dir=str(tmp_path / "cache")
    )
    assert rows["image_id"] == expected["image_id"] and len(rows) > 0
    card = (tmp_path / "built" / "README.md").read_text()
    assert 'load_dataset("path/to/this/folder", "refcoco+_unc", split=' in card
