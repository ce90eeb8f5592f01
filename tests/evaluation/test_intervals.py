"""Intervals of accuracies: images are drawn, not phrases; few images and no variance get the exact interval."""

import math

import pytest

from albef_amc.evaluation.intervals import Interval, bootstrap_accuracy, bootstrap_gain, compute_binomial_interval


def get_ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def build_images(count: int) -> tuple[list[bool], list[str]]:
    """As many images with one phrase each, every other one a hit."""
    return [index % 2 == 0 for index in range(count)], [str(index) for index in range(count)]


def test_one_phrase_an_image_gives_the_binomial_interval():
    interval = bootstrap_accuracy(*build_images(400), num_resamples=4000).overall
    low, high = get_ends(interval)
    half = 1.96 * math.sqrt(0.25 / 400)
    assert low == pytest.approx(0.5 - half, abs=0.006)
    assert high == pytest.approx(0.5 + half, abs=0.006)
    assert interval.describe() == "bootstrap over 400 images"


@pytest.mark.parametrize("count", [12, 50])
def test_more_phrases_of_the_same_images_do_not_narrow_it(count):
    hits, images = build_images(count)
    assert bootstrap_accuracy(hits * 9, images * 9).overall == bootstrap_accuracy(hits, images).overall


def test_an_image_weighs_as_much_as_its_phrases():
    """29 images with one hit and 11 with three misses: a draw with n of the latter gives (40 - n) / (40 + 2 n)."""
    hits, images = [True] * 29, [str(index) for index in range(29)]
    for index in range(29, 40):
        hits, images = [*hits, False, False, False], [*images, *[str(index)] * 3]
    possible = {(40 - number) / (40 + 2 * number) for number in range(41)}
    found = [bootstrap_accuracy(hits, images, num_resamples=2, seed=seed).overall for seed in range(6)]
    of_draws = [interval for interval in found if interval.kind == "bootstrap"]  # in the others both draws were equal
    assert len(of_draws) > 3
    for interval in of_draws:  # the percentiles lie 2.5 % of the way between the two draws
        margin = 0.025 / 0.95 * (interval.high - interval.low)
        for drawn in (interval.low - margin, interval.high + margin):
            assert any(drawn == pytest.approx(value) for value in possible)


def test_the_seed_decides_the_ends():
    hits, images = build_images(31)
    first, again, other = (bootstrap_accuracy(hits, images, num_resamples=5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_types_have_intervals_of_their_own():
    hits, images = build_images(60)
    types = [["even"] if hit else ["odd", "rare"] if index == 1 else ["odd"] for index, hit in enumerate(hits)]
    intervals = bootstrap_accuracy(hits, images, types)
    low, high = compute_binomial_interval(30, 30)
    assert intervals.by_type == {
        "even": Interval(low, 1.0, "exact binomial", 30),
        "odd": Interval(0.0, pytest.approx(1 - low), "exact binomial", 30),
        "rare": None,
    }
    assert intervals.overall == bootstrap_accuracy(hits, images).overall


def test_one_image_has_no_interval():
    assert bootstrap_accuracy([True, False], ["a", "a"], [["x"], ["x"]]).overall is None


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (0, 1, 0, 0.975),
        (1, 1, 0.025, 1),
        (2, 2, 0.158114, 1),
        (1, 2, 0.012579, 0.987421),
        (0, 10, 0, 0.308497),
        (5, 10, 0.187086, 0.812914),
        (8, 20, 0.191190, 0.639457),
        (29, 29, 0.025 ** (1 / 29), 1),
    ],
)
def test_exact_intervals_of_the_literature(hits, trials, low, high):
    assert compute_binomial_interval(hits, trials) == pytest.approx((low, high), abs=2e-6)


@pytest.mark.parametrize(("hits", "trials"), [(1, 3), (7, 29), (500, 1000), (14480, 14481)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_ends_of_exact_intervals_have_the_tails_that_define_them(hits, trials, confidence):
    def log_probability(number: int, share: float) -> float:
        ways = math.lgamma(trials + 1) - math.lgamma(number + 1) - math.lgamma(trials - number + 1)
        return ways + number * math.log(share) + (trials - number) * math.log1p(-share)

    low, high = compute_binomial_interval(hits, trials, confidence)
    above = math.fsum(math.exp(log_probability(number, low)) for number in range(hits, trials + 1))
    below = math.fsum(math.exp(log_probability(number, high)) for number in range(hits + 1))
    assert (above, below) == pytest.approx(((1 - confidence) / 2, (1 - confidence) / 2), rel=1e-6)


@pytest.mark.parametrize("num_images", [2, 5, 29, 30, 400])
@pytest.mark.parametrize("phrases_per_image", [1, 7])
@pytest.mark.parametrize("is_hit", [True, False])
def test_no_interval_without_width(num_images, phrases_per_image, is_hit):
    images = [str(index) for index in range(num_images)] * phrases_per_image
    interval = bootstrap_accuracy([is_hit] * len(images), images).overall
    assert interval.describe() == f"exact binomial over {num_images} images"
    assert get_ends(interval) == compute_binomial_interval(num_images * is_hit, num_images)
    assert interval.high - interval.low > 1 / num_images


def test_images_of_equal_accuracy_have_no_variance_to_draw_from():
    images = [str(index) for index in range(100)]
    interval = bootstrap_accuracy([True] * 100 + [False] * 100, images * 2).overall
    assert interval == Interval(*compute_binomial_interval(50, 100), "exact binomial", 100)


def test_few_images_get_the_exact_interval_and_a_single_draw_no_point():
    few = bootstrap_accuracy(*build_images(29)).overall
    assert few.describe() == "exact binomial over 29 images"
    assert get_ends(few) == pytest.approx(compute_binomial_interval(15, 29))
    assert bootstrap_accuracy(*build_images(60), num_resamples=1).overall.kind == "exact binomial"


@pytest.mark.parametrize(
    ("hits", "images", "draws", "message"),
    [
        ([], [], 10, "one phrase at least"),
        ([True], ["a", "b"], 10, "1 `hits`, 2 `image_ids`"),
        ([True], ["a"], 0, "`num_resamples` must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_input_is_named(hits, images, draws, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_accuracy(hits, images, num_resamples=draws)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((3, 2), "num_hits"),
        ((-1, 2), "num_hits"),
        ((float("nan"), 2), "num_hits"),
        ((0, 0), "num_trials"),
        ((1, 2.5), "num_trials"),
        ((1, 3, 1.0), "confidence"),
        ((1, 3, 0), "confidence"),
        ((1, 3, float("nan")), "confidence"),
    ],
)
def test_numbers_that_no_binomial_interval_has_are_named(values, name):
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be a"):
        compute_binomial_interval(*values)


@pytest.mark.parametrize("confidence", [0, 1, 2, -0.5, float("nan"), "0.9", True])
def test_a_confidence_outside_0_and_1_is_named(confidence):
    with pytest.raises((TypeError, ValueError), match="`confidence` must be a number in"):
        bootstrap_accuracy([True, False], ["a", "b"], confidence=confidence)


def test_a_gain_is_paired():
    """One phrase per image: the difference of a draw is a mean of -1, 0 and 1, whatever both find easy or hard."""
    images = [str(index) for index in range(400)]
    hits = [index % 2 == 0 for index in range(400)]
    better = [hit or index % 20 == 1 for index, hit in enumerate(hits)]  # 20 images more
    interval = bootstrap_gain(better, hits, images, num_resamples=4000)
    half = 1.96 * math.sqrt(0.05 * 0.95 / 400)
    assert get_ends(interval) == pytest.approx((0.05 - half, 0.05 + half), abs=0.004)
    assert interval.describe() == "paired bootstrap over 400 images"
    lost = bootstrap_gain(hits, better, images, num_resamples=4000)
    assert get_ends(lost) == pytest.approx((-interval.high, -interval.low))


def test_a_gain_draws_images_with_all_their_phrases():
    images = [str(index) for index in range(50)]
    better, worse = [index % 3 > 0 for index in range(50)], [index % 5 == 0 for index in range(50)]
    once = bootstrap_gain(better, worse, images)
    assert bootstrap_gain(better * 9, worse * 9, images * 9) == once
    assert bootstrap_gain(better[:29], worse[:29], images[:29]) is None


def test_gains_need_an_answer_of_both_for_each_phrase():
    with pytest.raises(ValueError, match="there are 2 `hits`, 1 `compared_hits` and 2 `image_ids`"):
        bootstrap_gain([True, True], [True], ["a", "b"])
