"""The plain way to make training batches, which the benchmark compares with, gives the same values."""

import io

import loading
from testing_utils import build_photo


def test_both_ways_give_the_same_batch():
    buffer = io.BytesIO()
    build_photo().resize((90, 60)).save(buffer, "jpeg")
    phrases = [{"phrase": f"the {word} circle", "boxes": [[3.5, 4.0, 60.0, 50.5]]} for word in ("large", "old")]
    rows = [{"image": buffer.getvalue(), "image_id": str(number), "phrases": phrases} for number in range(6)]
    sizes = loading.check_same_values(rows)
    assert (
        sizes["region_mask"] == 2 * 4 * loading.IMAGE_SIZE**2 and 10 * sizes["packed_regions"] < sizes["region_mask"]
    )
    per_core = {"plain": {"images_per_second": 100.0}, "exact": {"images_per_second": 200.0}}
    need = loading.compare_with_gpu(per_core)
    assert need["cores"]["plain"] == 2 * need["cores"]["exact"] == need["images_per_second"] / 100
