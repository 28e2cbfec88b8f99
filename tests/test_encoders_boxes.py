"""A patch's box is where its pixels come from: repaint that part of the image, and that patch moves."""

import json

import numpy as np
import pytest

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.frames import Frame
from vlprobe.errors import CheckpointError
from vlprobe.types import ROLES

PATCH = ROLES.index("patch")
SIZES = [(64, 64), (60, 150), (200, 80)]


@pytest.fixture(scope="module", params=["vit", "deit", "dinov2", "dinov2_with_registers", "vilt", "resnet"])
def model(request, tmp_path_factory):
    folder = tiny.make(request.param, tmp_path_factory.mktemp("boxes") / request.param)
    return load_model(tiny.spec(request.param, folder), device="cpu")


def moved(model, image, changed):
    """(patch,) how far each patch of layer 0 moves, and their boxes."""
    text = "a dog" if "text" in model.modalities else None
    batch = [tiny.example(str(k), text, tiny.png(array)) for k, array in enumerate((image, changed))]
    hidden = model.encode(batch)[0]
    patches = hidden.role[0] == PATCH
    np.testing.assert_array_equal(hidden.box[0], hidden.box[1])
    gap = (hidden.states[0] - hidden.states[1]).norm(dim=1).numpy()
    assert gap[~patches].max(initial=0) == 0  # text, [CLS], registers
    return gap[patches], hidden.box[0][patches]


def distance(box, x, y):
    """Of a point from a box, in fractions of the image."""
    return np.maximum(np.maximum(box[:, 0] - x, x - box[:, 2]), np.maximum(box[:, 1] - y, y - box[:, 3]))


@pytest.mark.parametrize("size", SIZES)
def test_the_patch_that_moves_is_the_one_whose_box_is_repainted(model, size):
    height, width = size
    image = tiny.noise(height, width) // 2 + 60
    _, boxes = moved(model, image, image)
    assert len({tuple(box) for box in boxes}) == len(boxes)
    for index in np.linspace(0, len(boxes) - 1, 7).astype(int):
        x1, y1, x2, y2 = boxes[index]
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        row, column = int(y * height), int(x * width)
        reach = max(1, int(min((x2 - x1) * width, (y2 - y1) * height) / 8))
        changed = image.copy()
        changed[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach] = 255
        gap, _ = moved(model, image, changed)
        if type(model).__name__ == "ResNet":  # its stem sees 11 pixels around: the most moved one is near
            near = distance(boxes[[gap.argmax()]], x, y)[0]
            assert near <= max(x2 - x1, y2 - y1)
        else:
            assert gap.argmax() == index
            far = distance(boxes, x, y) > 0.6 * max(x2 - x1, y2 - y1)
            assert gap[far].max(initial=0) == 0


@pytest.mark.parametrize("size", SIZES)
def test_what_is_cropped_away_moves_nothing(model, size):
    """The boxes cover exactly what the model sees: a centre crop loses two sides of an oblong image."""
    height, width = size
    image = tiny.noise(height, width)
    _, boxes = moved(model, image, image)
    left, top, right, bottom = boxes[:, 0].min(), boxes[:, 1].min(), boxes[:, 2].max(), boxes[:, 3].max()
    assert left + right == pytest.approx(1, abs=0.03)
    assert top + bottom == pytest.approx(1, abs=0.03)
    kind = type(model).__name__
    warps = kind == "Vilt" or (kind == "ViT" and model.reader.processor.size.height == 32)
    if warps:
        assert (left, top, right, bottom) == (0, 0, 1, 1)
    changed = image.copy()
    hidden = np.ones((height, width), dtype=bool)
    margin = 2.5 / 40  # bicubic resampling reaches two pixels of the resized image (40 and more) over the edge
    rows = slice(int(max(0, top - margin) * height), int(np.ceil(min(1, bottom + margin) * height)))
    columns = slice(int(max(0, left - margin) * width), int(np.ceil(min(1, right + margin) * width)))
    hidden[rows, columns] = False
    changed[hidden] = 255 - changed[hidden]
    gap, _ = moved(model, image, changed)
    assert gap.max() == 0
    assert hidden.any() == (not warps)


def test_expected_boxes_of_a_central_crop():
    """An image of 80 x 40, resized to 64 x 32, cropped to 32 x 32: the middle half of its width."""
    boxes = Frame(resized=(32, 64), origin=(0, 16), canvas=(32, 32)).boxes(2, 2, (16, 16))
    np.testing.assert_allclose(
        boxes, [[0.25, 0, 0.5, 0.5], [0.5, 0, 0.75, 0.5], [0.25, 0.5, 0.5, 1], [0.5, 0.5, 0.75, 1]]
    )


def test_patches_in_the_padding_of_a_small_image_are_no_patches():
    """An image of 16 x 16 in a crop of 32 x 32: 8 pixels of padding on every side."""
    boxes = Frame(resized=(16, 16), origin=(-8, -8), canvas=(32, 32)).boxes(4, 4, (8, 8)).reshape(4, 4, 4)
    assert np.isnan(boxes[0]).all()
    assert np.isnan(boxes[:, 3]).all()
    np.testing.assert_allclose(boxes[1, 1], [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(boxes[2, 2], [0.5, 0.5, 1, 1])


def test_preprocessor_and_model_of_different_sizes(tmp_path):
    import transformers as hf

    folder = tiny.make("vit", tmp_path)
    hf.ViTImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="makes images of 48 x 48 pixels, its model takes 32 x 32"):
        load_model(f"vit:{folder}", device="cpu")


def test_a_preprocessor_without_one_size(tmp_path, monkeypatch):
    import transformers as hf

    folder = tiny.make("dinov2", tmp_path)
    hf.BitImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="images of different sizes"):
        load_model(f"vit:{folder}", device="cpu")
    monkeypatch.setattr("vlprobe.encoders.self_check.SIZES", ((64, 64),) * 3)
    model = load_model(f"vit:{folder}", device="cpu")
    images = [tiny.example(str(k), image=tiny.png(tiny.noise(40, 40 + 16 * k))) for k in range(2)]
    oblong = model.encode(images[1:])[0]
    assert oblong.states.shape[1] == oblong.box.shape[1] == 1 + 4 * 5
    np.testing.assert_allclose(
        oblong.box[0, [1, 5, 20]],
        [[0, 0, 8, 8], [32, 0, 40, 8], [32, 24, 40, 32]] / np.array([44, 32, 44, 32]),
        rtol=1e-6,
    )
    with pytest.raises(CheckpointError, match="images of different sizes"):
        model.encode(images)


OLD = {"do_resize": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize(
    ("kind", "written", "canvas", "resized"),
    [
        ("vit", {"size": 32}, (32, 32), (32, 32)),
        ("vit", {"size": 32, "feature_extractor_type": "ViTFeatureExtractor"}, (32, 32), (32, 32)),
        (
            "deit",
            {"size": 40, "crop_size": 32, "do_center_crop": True, "feature_extractor_type": "DeiTFeatureExtractor"},
            (32, 32),
            (40, 40),
        ),
        (
            "resnet",
            {"size": 56, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor"},
            (56, 56),
            (64, 96),
        ),
        (
            "vilt",
            {"size": 96, "size_divisor": 32, "feature_extractor_type": "ViltFeatureExtractor"},
            (96, 128),
            (96, 128),
        ),
    ],
)
def test_preprocessor_files_of_older_checkpoints(tmp_path, kind, written, canvas, resized):
    """As google/vit-*, facebook/deit-*, microsoft/resnet-* and dandelin/vilt-* publish them: sizes as one number."""
    folder = tiny.make(kind, tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps(OLD | written))
    model = load_model(tiny.spec(kind, folder), device="cpu")
    reader = model.images if kind == "vilt" else model.reader
    frame = reader.read([tiny.example("0", image=tiny.png(tiny.noise(60, 90)))])[0].frame
    assert (frame.canvas, frame.resized) == (canvas, resized)


def test_a_preprocessor_of_unknown_geometry(tmp_path):
    import transformers as hf

    folder = tiny.make("vit", tmp_path)
    hf.LevitImageProcessorPil().save_pretrained(folder)
    with pytest.raises(CheckpointError, match="LevitImageProcessorPil, whose cropping is not known"):
        load_model(f"vit:{folder}", device="cpu")
