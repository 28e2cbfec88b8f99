"""The detector's operators against slow definitions of the same."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vlprobe.regions import operators
from vlprobe.regions.conventions import CONVENTIONS
from vlprobe.regions.network import Heads
from vlprobe.regions.operators import edges, overlaps, roi_pool, suppress, suppresses, survivors
from vlprobe.regions.preprocessing import prepare, resize_bilinear
from vlprobe.regions.proposals import CAFFE_ANCHORS, anchor_grid, centred_anchors, clip, propose, regress
from vlprobe.regions.selection import Place, select


def slow_overlap(a, b, border):
    """In float32, as both originals hold it: 7 / 10 is then less than 0.7."""
    a, b, border = np.asarray(a, np.float32), np.asarray(b, np.float32), np.float32(border)
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + border, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + border, 0)
    area = [(c[2] - c[0] + border) * (c[3] - c[1] + border) for c in (a, b)]
    return float(width * height / (area[0] + area[1] - width * height))


def slow_suppress(boxes, threshold, border, inclusive):
    kept = []
    for index, box in enumerate(boxes):
        near = [slow_overlap(boxes[other], box, border) for other in kept]
        if not any(overlap >= threshold if inclusive else overlap > threshold for overlap in near):
            kept.append(index)
    return kept


def whole_boxes(count, seed, extent=60):
    draw = np.random.default_rng(seed)
    first = draw.integers(0, extent, (count, 2))
    return np.hstack([first, first + draw.integers(1, extent, (count, 2))]).astype(np.float32)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("border", [0.0, 1.0])
def test_suppression_is_the_slow_one(border, inclusive):
    for seed, threshold in enumerate((0.25, 0.5, 0.7)):
        boxes = whole_boxes(600, seed)  # more than two blocks; whole numbers, so that overlaps tie with thresholds
        expected = slow_suppress(boxes.astype(float).tolist(), threshold, border, inclusive)
        found = suppress(torch.from_numpy(boxes), threshold, border=border, inclusive=inclusive)
        assert found.tolist() == expected
        few = suppress(torch.from_numpy(boxes), threshold, border=border, inclusive=inclusive, limit=7)
        assert few.tolist() == expected[:7]


def test_an_overlap_of_the_threshold_suppresses_in_caffe_only():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 29, 9], [20, 0, 29, 4]], dtype=torch.float32)
    assert suppress(boxes[:2], 0.5, border=0.0, inclusive=False).tolist() == [0, 1]
    assert suppress(boxes[:2], 0.5, border=0.0, inclusive=True).tolist() == [0]
    assert suppress(boxes[2:], 0.5, border=1.0, inclusive=True).tolist() == [0]
    assert suppress(boxes[2:], 0.5, border=1.0, inclusive=False).tolist() == [0, 1]


def test_the_threshold_is_a_double():
    overlap = np.array([0.1], dtype=np.float32)  # a little more than 0.1
    assert suppresses(overlap, 0.1, inclusive=False).all()
    assert not suppresses(np.array([0.7], dtype=np.float32), 0.7, inclusive=True).any()  # a little less than 0.7


def test_suppression_of_nothing():
    assert suppress(torch.zeros(0, 4), 0.5, border=1.0, inclusive=True).tolist() == []


def test_survivors_are_those_of_each_class_alone():
    draw = np.random.default_rng(0)
    boxes = whole_boxes(70, 3, extent=30)
    scores = draw.random((70, 23)).astype(np.float32).round(1)  # ties: the first of equals wins
    close = suppresses(overlaps(boxes, boxes, 1.0), 0.3, inclusive=True)
    found = survivors(scores, close)
    for column in range(scores.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        kept = order[slow_suppress(boxes[order].astype(float).tolist(), 0.3, 1.0, True)]
        assert np.flatnonzero(found[:, column]).tolist() == sorted(kept.tolist())


def slow_roi_pool(states, roi, stride, bins):
    """RoI max pooling as caffe's roi_pooling_layer.cpp words it, in float32."""
    channels, height, width = states.shape
    x1, y1, x2, y2 = (math.floor(float(side) / stride + 0.5) for side in roi)
    out = np.zeros((channels, bins, bins), dtype=np.float32)
    rows, columns = (np.float32(max(side, 1)) / np.float32(bins) for side in (y2 - y1 + 1, x2 - x1 + 1))
    for i in range(bins):
        for j in range(bins):
            top = min(max(math.floor(np.float32(i) * rows) + y1, 0), height)
            bottom = min(max(math.ceil(np.float32(i + 1) * rows) + y1, 0), height)
            left = min(max(math.floor(np.float32(j) * columns) + x1, 0), width)
            right = min(max(math.ceil(np.float32(j + 1) * columns) + x1, 0), width)
            if bottom > top and right > left:
                out[:, i, j] = states[:, top:bottom, left:right].max(axis=(1, 2))
    return out


@pytest.mark.parametrize("bins", [7, 14])
@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_roi_pooling_is_the_slow_one(bins, device, monkeypatch):
    if device == "mps":  # the way taken there, gone here
        monkeypatch.setattr(operators, "ADAPTIVE", ())
        monkeypatch.setattr(torch.nn.functional, "adaptive_max_pool2d", None)
    draw = np.random.default_rng(1)
    states = draw.standard_normal((3, 63, 65)).astype(np.float32) - 3  # negative: an empty part's 0 shows
    first = draw.uniform(0, 800, (30, 2))
    rois = np.hstack([first, first + draw.uniform(0, 500, (30, 2))])  # some end beyond the map
    rois[:6] = [
        [0, 0, 56 * 16, 61 * 16],  # 57 and 62 cells, where float32 rounds
        [16, 16, 57 * 16, 62 * 16],
        [8, 24, 40, 56],  # halves round away from zero
        [100, 100, 100, 100],
        [0, 0, 1040, 1008],  # one past the last cell, as detectron2 clips
        [-40, -40, 30, 30],
    ]
    rois = rois.astype(np.float32)
    expected = np.stack([slow_roi_pool(states, roi, 16, bins) for roi in rois])
    found = roi_pool(torch.from_numpy(states), torch.from_numpy(rois), 16, bins)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_roi_pooling_leaves_the_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        roi_pool(torch.rand(2, 5, 5), torch.tensor([[0.0, 0.0, 30.0, 30.0]]), 16, 14)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_parts_cover_a_box():
    for extent in range(1, 90):
        parts = edges(extent, 14)
        assert parts[0][0] == 0 and parts[-1][1] >= extent and len(parts) == 14
        assert all(last > first for first, last in parts)


def slow_resize(pixels, height, width, scale):
    """Bilinear interpolation between the four neighbours of every pixel's centre, in double."""
    rows, columns = pixels.shape[:2]
    out = np.zeros((height, width, pixels.shape[2]))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) / scale - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) / scale - 0.5, 0), columns - 1)
            top, left = min(int(y), rows - 2), min(int(x), columns - 2)
            down, across = y - top, x - left
            out[i, j] = (
                pixels[top, left] * (1 - down) * (1 - across)
                + pixels[top, left + 1] * (1 - down) * across
                + pixels[top + 1, left] * down * (1 - across)
                + pixels[top + 1, left + 1] * down * across
            )
    return out


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.28, 2.37])
def test_resizing_is_the_slow_one(scale):
    pixels = np.random.default_rng(2).uniform(-120, 150, (21, 34, 3)).astype(np.float32)
    height, width = round(21 * scale), round(34 * scale)
    found = resize_bilinear(pixels, height, width, scale)
    # cv2 holds places in float32, which at pixel 80 is good to 4e-6 of the 270 between two neighbours.
    np.testing.assert_allclose(found, slow_resize(pixels.astype(float), height, width, scale), atol=1e-3)


def rgb(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_caffe_takes_the_mean_of_blue_green_red_before_scaling():
    image = rgb(40, 50)
    made = prepare(image, CONVENTIONS["caffe"])
    assert made.shape == (600, 750) and made.scale == (15.0, 15.0) and made.size == (50, 40)
    centred = np.asarray(image)[:, :, ::-1].astype(float) - [102.9801, 115.9465, 122.7717]
    np.testing.assert_allclose(made.pixels[:, 0, 0], centred[0, 0], atol=1e-4)
    np.testing.assert_allclose(made.pixels[:, -1, -1], centred[-1, -1], atol=1e-4)


def test_the_long_side_sets_the_scale_where_it_binds():
    caffe = prepare(rgb(30, 70), CONVENTIONS["caffe"])
    assert caffe.scale[0] == 1000 / 70 and caffe.shape == (round(30 * 1000 / 70), 1000)
    at_the_limit = prepare(rgb(600, 1000), CONVENTIONS["caffe"])
    assert at_the_limit.shape == (600, 1000) and at_the_limit.scale == (1.0, 1.0)
    hf = prepare(rgb(30, 70), CONVENTIONS["hf"])
    assert hf.shape == (int(30 * 1333 / 70 + 0.5), 1333)
    assert hf.scale == (hf.shape[1] / 70, hf.shape[0] / 30)


def test_detectron2_scales_bytes_and_hf_floats_with_the_means_exchanged():
    image = rgb(800, 900)  # no scaling: only order and means
    mean = np.array([102.9801, 115.9465, 122.7717])
    flat = np.asarray(image).astype(float)
    for name, expected in (("detectron2", flat[:, :, ::-1] - mean), ("hf", flat - mean)):
        found = prepare(image, CONVENTIONS[name]).pixels.permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
    smaller = rgb(1600, 1800, seed=4)
    bytes_scaled = np.asarray(smaller.resize((900, 800), Image.Resampling.BILINEAR)).astype(float)[:, :, ::-1] - mean
    found = prepare(smaller, CONVENTIONS["detectron2"]).pixels.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, bytes_scaled, atol=1e-4)
    # Without antialiasing, halving takes the mean of the four pixels around a centre.
    quarters = np.asarray(smaller).astype(float).reshape(800, 2, 900, 2, 3).mean(axis=(1, 3)) - mean
    np.testing.assert_allclose(prepare(smaller, CONVENTIONS["hf"]).pixels.permute(1, 2, 0), quarters, atol=1e-3)


def test_anchors_run_fastest_then_columns_then_rows():
    cell = torch.tensor(CAFFE_ANCHORS, dtype=torch.float32)
    grid = anchor_grid(cell, 3, 5)
    assert grid.shape == (3 * 5 * 12, 4)
    assert grid[(2 * 5 + 4) * 12 + 7].tolist() == [-248 + 64, -248 + 32, 263 + 64, 263 + 32]


def test_caffe_anchors_are_generated_as_the_original_words_it():
    anchors = []
    for ratio in (0.5, 1, 2):
        width = np.round(np.sqrt(256 / ratio))
        height = np.round(width * ratio)
        for scale in (4, 8, 16, 32):
            half = (np.array([width, height]) * scale - 1) / 2
            anchors.append([*(7.5 - half), *(7.5 + half)])
    np.testing.assert_array_equal(np.array(anchors), np.array(CAFFE_ANCHORS))


def test_centred_anchors_keep_area_and_ratio():
    boxes = np.array(centred_anchors())
    sides = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(sides.prod(axis=1), np.repeat([64.0**2, 128.0**2, 256.0**2, 512.0**2], 3))
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], [0.5, 1, 2] * 4)


@pytest.mark.parametrize(("name", "expected"), [("caffe", [-0.5, 0, 20.5, 20]), ("detectron2", [0, 0, 19, 19])])
def test_a_box_grows_around_its_centre(name, expected):
    box, deltas = torch.tensor([5.0, 5.0, 14.0, 14.0]), torch.zeros(4)
    conventions = CONVENTIONS[name]
    still = regress(box, deltas, conventions, (1.0, 1.0, 1.0, 1.0)).tolist()
    # With a border, widths are 10 around 10: from 5 to 15, the last corner not taken back.
    assert still == ([5, 5, 15, 15] if name == "caffe" else [5, 5, 14, 14])
    deltas = torch.tensor([0.0, 0.0, math.log(2), math.log(2)])
    grown = regress(box, deltas, conventions, (1.0, 1.0, 1.0, 1.0))
    assert grown[2] - grown[0] == pytest.approx(20 if name == "caffe" else 18)
    far = regress(box, torch.tensor([0.0, 0.0, 9.0, 9.0]), conventions, (1.0, 1.0, 1.0, 1.0))
    limit = math.exp(9) * 10 if name == "caffe" else 62.5 * 9
    assert float(far[2] - far[0]) == pytest.approx(limit, rel=1e-4)
    weighted = regress(box, torch.tensor([1.0, 0.0, 0.0, 0.0]), conventions, (10.0, 10.0, 5.0, 5.0))
    assert float(weighted[0]) == pytest.approx(5 + (1.0 if name == "caffe" else 0.9))


def test_boxes_end_at_the_last_pixel_or_at_the_edge():
    box = torch.tensor([[-5.0, -5.0, 500.0, 500.0]])
    assert clip(box, (60, 80), CONVENTIONS["caffe"]).tolist() == [[0, 0, 79, 59]]
    assert clip(box, (60, 80), CONVENTIONS["hf"]).tolist() == [[0, 0, 80, 60]]


def test_small_proposals_go_before_or_after_the_best_are_taken():
    cell = torch.tensor([[0.0, 0.0, 30.0, 30.0], [0.0, 0.0, 8.0, 8.0]])
    objectness = torch.tensor([1.0, 9.0]).reshape(2, 1, 1).repeat(1, 4, 4)
    deltas = torch.zeros(8, 4, 4)
    rois, logits = propose(objectness, deltas, cell, (64, 64), 1.0, CONVENTIONS["caffe"])
    assert (logits == 1).all()  # 9 pixels are fewer than 16
    _, logits = propose(objectness, deltas, cell, (64, 64), 0.5, CONVENTIONS["caffe"])
    assert logits[0] == 9  # but not than 16 of an image twice as large
    _, logits = propose(objectness, deltas, cell, (64, 64), 1.0, CONVENTIONS["hf"])
    assert logits[0] == 9  # only empty ones are dropped


def test_the_best_are_taken_among_the_large_in_caffe_and_among_all_in_detectron2():
    cell = torch.tensor([[0.0, 0.0, 30.0, 30.0], [0.0, 0.0, 8.0, 8.0]])
    objectness = torch.tensor([1.0, 9.0]).reshape(2, 1, 1).repeat(1, 4, 4)
    for first, expected in ((True, 8), (False, 0)):
        conventions = replace(CONVENTIONS["caffe"], before=8, small_first=first, overlap=0.99)
        rois, _ = propose(objectness, torch.zeros(8, 4, 4), cell, (200, 200), 1.0, conventions)
        assert len(rois) == expected


def test_the_smallest_proposal_of_caffe_has_sides_of_16():
    # The original's regression by nothing adds 1, and so does the width: sides of 16, and of 15.99.
    cell = torch.tensor([[0.0, 0.0, 14.0, 14.0], [0.0, 0.0, 13.99, 40.0]])
    rois, _ = propose(torch.zeros(2, 1, 1), torch.zeros(8, 1, 1), cell, (99, 99), 1.0, CONVENTIONS["caffe"])
    assert rois.tolist() == [[0, 0, 15, 15]]


COLUMNS = {
    # name: channels, resize, short, long, border, clamp, smallest, small first, >=, before, after, overlap
    "caffe": ("BGR", "cv2", 600, 1000, 1, math.inf, 16, True, True, 6000, 300, 0.7, "proposals", (0.3,), True),
    "detectron2": ("BGR", "pil", 800, 1333, 0, math.log(62.5), 0, False, False, 6000, 300, 0.7, "regressed")
    + ((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), False),
    "hf": ("RGB", "torch", 800, 1333, 0, math.log(62.5), 0, False, False, 6000, 300, 0.7, "regressed")
    + ((0.5, 0.6, 0.7, 0.8, 0.9), False),
}


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_the_conventions_are_those_of_the_originals(name):
    """What small images cannot tell apart, and so parity does not see."""
    known = CONVENTIONS[name]
    values = (known.channels, known.resize, known.short, known.long, known.border, known.clamp, known.smallest)
    values += (known.small_first, known.inclusive, known.before, known.after, known.overlap, known.select)
    assert (*values, known.class_overlaps, known.softmax_none) == COLUMNS[name]
    assert known.mean == (102.9801, 115.9465, 122.7717)


def decided(scores, deltas=None):
    """Return what heads say whose probabilities are the scores."""
    logits = torch.tensor(scores).log()
    moved = torch.zeros(len(logits), logits.shape[1] - 1, 4) if deltas is None else deltas
    return logits.softmax(dim=1), Heads(logits, moved, None)


def test_caffe_keeps_a_proposal_for_any_class_in_which_it_is_best():
    rois = torch.tensor([[0.0, 0, 99, 99], [0, 0, 99, 79], [0, 0, 99, 89]])
    probabilities, heads = decided([[0.1, 0.6, 0.3], [0.1, 0.25, 0.65], [0.1, 0.5, 0.4]])
    conventions = replace(CONVENTIONS["caffe"], boxes=(1, 3))
    found = select(rois, probabilities, heads, Place((100, 100), (2.0, 2.0)), conventions)
    assert found.keep.tolist() == [0, 1]  # the third is second in both classes
    assert found.boxes.tolist() == [[0, 0, 49.5, 49.5], [0, 0, 49.5, 39.5]]
    ordered = select(rois, probabilities, heads, Place((100, 100), (2.0, 2.0)), replace(conventions, boxes=(1, 1)))
    assert ordered.keep.tolist() == [1]  # too many: best first
    strict = select(rois, probabilities, heads, Place((100, 100), (2.0, 2.0), threshold=0.62), conventions)
    assert strict.keep.tolist() == [1]
    equal = Place((100, 100), (2.0, 2.0), threshold=float(probabilities[0, 1]))
    assert select(rois, probabilities, heads, equal, conventions).keep.tolist() == [0, 1]
    filled = select(
        rois, probabilities, heads, Place((100, 100), (2.0, 2.0), threshold=0.62), replace(conventions, boxes=(2, 3))
    )
    assert filled.keep.tolist() == [1, 0]  # too few: best first


def test_detectron2_loosens_the_threshold_until_there_are_enough():
    rois = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 55], [0, 0, 100, 85]])  # overlaps 0.55, 0.85, 0.65
    probabilities, heads = decided([[0.1, 0.6, 0.3], [0.1, 0.2, 0.7], [0.3, 0.5, 0.2]])
    for fewest, expected in ((1, [1]), (2, [1, 0]), (3, [1, 0, 2]), (9, [1, 0, 2])):
        conventions = replace(CONVENTIONS["detectron2"], boxes=(fewest, 9))
        found = select(rois, probabilities, heads, Place((100, 100), (1.0, 1.0)), conventions)
        assert found.keep.tolist() == expected
    deltas = torch.zeros(3, 2, 4)
    deltas[1, 1] = torch.tensor([0.0, 10.0, 0.0, 0.0])  # its best class moves it down by its height, cut at 100
    moved = select(
        rois, probabilities, decided([[1.0, 1, 1]] * 3, deltas)[1], Place((100, 100), (1.0, 2.0)), conventions
    )
    assert moved.boxes[0].tolist() == [0, 27.5, 100, 50]
