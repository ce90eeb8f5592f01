"""Intervals of accuracies: images are drawn, not phrases; the same seed gives the same ends."""

import math

import pytest

from albef_amc.trainer.bootstrap import bootstrap_accuracy


def build_images(count: int) -> tuple[list[bool], list[str]]:
    """As many images with one phrase each, every other one a hit."""
    return [index % 2 == 0 for index in range(count)], [str(index) for index in range(count)]


def test_one_phrase_an_image_gives_the_binomial_interval():
    low, high = bootstrap_accuracy(*build_images(400), num_resamples=4000).overall
    half = 1.96 * math.sqrt(0.25 / 400)
    assert low == pytest.approx(0.5 - half, abs=0.006)
    assert high == pytest.approx(0.5 + half, abs=0.006)


def test_more_phrases_of_the_same_images_do_not_narrow_it():
    hits, images = build_images(50)
    assert bootstrap_accuracy(hits * 9, images * 9).overall == pytest.approx(bootstrap_accuracy(hits, images).overall)


def test_an_image_weighs_as_much_as_its_phrases():
    """Draws of two images, one hit against three misses: both, the first twice, the second twice."""
    hits, images = [True, False, False, False], ["a", "b", "b", "b"]
    drawn = {bootstrap_accuracy(hits, images, num_resamples=1, seed=seed).overall for seed in range(40)}
    assert drawn == {(0.25, 0.25), (1.0, 1.0), (0.0, 0.0)}


def test_the_seed_decides_the_ends():
    hits, images = build_images(30)
    first, again, other = (bootstrap_accuracy(hits, images, num_resamples=5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_types_have_intervals_of_their_own():
    hits, images = build_images(60)
    types = [["even"] if hit else ["odd", "rare"] if index == 1 else ["odd"] for index, hit in enumerate(hits)]
    intervals = bootstrap_accuracy(hits, images, types)
    assert intervals.by_type == {"even": (1.0, 1.0), "odd": (0.0, 0.0), "rare": None}
    assert intervals.overall == bootstrap_accuracy(hits, images).overall


def test_one_image_has_no_interval():
    assert bootstrap_accuracy([True, False], ["a", "a"], [["x"], ["x"]]).overall is None


@pytest.mark.parametrize(
    ("hits", "images", "draws", "message"),
    [
        ([], [], 10, "one phrase at least"),
        ([True], ["a", "b"], 10, "1 `hits`, 2 `image_ids`"),
        ([True], ["a"], 0, "`num_resamples` must be 1 or more, got 0"),
    ],
)
def test_bad_input_is_named(hits, images, draws, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_accuracy(hits, images, num_resamples=draws)
