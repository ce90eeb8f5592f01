# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Methods beside Grad-CAM: every family against an independent computation, gradients, what is refused and saved."""

import json

import pytest
import torch
from grounder_cases import BY_NAME, NAMES, build_tiny_grounder
from test_grounder import (
    PHOTOS,
    PHRASES,
    check_gradient_against_a_finite_difference,
    check_heatmaps_against_each_phrase_alone,
    describe_state,
)

from albef_amc.grounders import AutoGrounder
from albef_amc.grounders.methods import METHODS, list_methods

CASES = [(name, method) for name in NAMES for method in list_methods(BY_NAME[name]) if method != "grad_cam"]
LACKING = [(name, method) for name in NAMES for method in METHODS if method not in list_methods(BY_NAME[name])]


@pytest.fixture(params=CASES, ids="-".join, scope="module")
def grounder(request):
    name, method = request.param
    return build_tiny_grounder(name, method=method)


def test_heatmaps_equal_those_of_each_phrase_alone(grounder):
    check_heatmaps_against_each_phrase_alone(grounder)


def test_the_gradient_of_a_loss_on_heatmaps_equals_a_finite_difference(grounder):
    check_gradient_against_a_finite_difference(grounder)


def test_results_have_the_heatmaps_of_forward_and_nothing_stays_behind(grounder):
    outputs = grounder(grounder.prepare(PHOTOS, PHRASES))
    before = describe_state(grounder)
    results = grounder(images=PHOTOS, phrases=PHRASES, phrases_per_chunk=1)
    assert describe_state(grounder) == before
    layout = grounder.prepare(PHOTOS, PHRASES)["layouts"][1]
    shown = layout.to_image(outputs.heatmap[2:, : layout.num_cells].detach())[0].clamp(min=0)
    torch.testing.assert_close(results[1][0]["heatmap"], (shown / shown.max()).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "method"), LACKING)
def test_a_method_that_a_family_lacks_is_refused_by_name(name, method):
    with pytest.raises(ValueError, match=f"{BY_NAME[name].class_name}.*Methods that it has: grad_cam, attention"):
        build_tiny_grounder(name, method=method)


def test_layers_of_methods():
    with pytest.raises(ValueError, match=r'`layer` is 1, but `method="similarity"` explains no layer'):
        build_tiny_grounder("clip-itc", layer=1, method="similarity")
    with pytest.raises(ValueError, match=r"`layer` is 3, but relevancy can begin at layers 0 to 2 of `vision_model"):
        build_tiny_grounder("clip-itc", layer=3, method="relevancy")
    assert build_tiny_grounder("albef-itm", method="relevancy").layer == 2
    assert build_tiny_grounder("vilt-itm", layer=2, method="relevancy").num_layers == 3


def test_relevancy_from_the_last_block_of_clip_is_grad_cam_of_it():
    batch = build_tiny_grounder("clip-itc").prepare(PHOTOS, PHRASES)
    heatmaps = [build_tiny_grounder("clip-itc", 2, method)(batch).heatmap for method in ("grad_cam", "relevancy")]
    torch.testing.assert_close(*heatmaps, rtol=0, atol=1e-12)


def test_a_saved_grounder_keeps_its_method_and_its_layer_only_for_it(tmp_path):
    build_tiny_grounder("clip-itc", layer=1, method="relevancy").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "grounder.json").read_text())["method"] == "relevancy"
    loaded = AutoGrounder.from_pretrained(tmp_path)
    assert (loaded.method, loaded.layer, len(loaded.module_names)) == ("relevancy", 1, 2)
    assert AutoGrounder.from_pretrained(tmp_path, method="attention").layer == 2
    assert AutoGrounder.from_pretrained(tmp_path, method="similarity").layer is None
    build_tiny_grounder("clip-itc", method="similarity").save_pretrained(tmp_path)
    assert AutoGrounder.from_pretrained(tmp_path).layer is None
    assert AutoGrounder.from_pretrained(tmp_path, method="grad_cam").layer == 2
