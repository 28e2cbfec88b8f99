"""The detector as a source of regions: parity with the originals, full size, and what a caller relies on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_detector import BLOCKS, TINY, documented, picture, tensors, write_bin, write_caffe, write_pkl

from parity_detector import detector_lines
from vlprobe.device import pick_device
from vlprobe.errors import BadRow, CheckpointError, StudyError
from vlprobe.exact import exact
from vlprobe.regions.conventions import CONVENTIONS
from vlprobe.regions.detector import Detector, chunk_size
from vlprobe.regions.network import RESNET101, Network, Sizes
from vlprobe.regions.preprocessing import prepare
from vlprobe.regions.weights import assemble, expected_shapes
from vlprobe.types import Example

REFERENCE = Path(__file__).resolve().parents[1].parent / "shared" / "reference"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["caffe_butd", "frcnn", "frcnn_preprocessing"])
def test_parity_with_the_originals(name):
    folder = REFERENCE / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the originals' numbers of this part")
    lines = list(detector_lines(folder))
    far = [f"{array}: {found:.2e} > {limit:g}" for array, found, limit in lines if not found <= limit]
    assert not far
    assert len(lines) >= 6


FULL = {
    "stem": 64,
    "inner": (64, 128, 256, 512),
    "outer": (256, 512, 1024, 2048),
    "rpn": 512,
    "classes": 1601,
    "attributes": 401,
    "embedding": 256,
    "hidden": 512,
}


@pytest.mark.parametrize("milvlg", [False, True])
def test_the_published_sizes_load_with_no_key_missing_or_left_over(milvlg):
    shapes = documented((3, 4, 23, 3), milvlg=milvlg, **FULL)
    assert len(shapes) == (640 - 104 if milvlg else 640)
    heads = "roi_heads.box_predictor"
    assert shapes[f"{heads}.bbox_pred.weight"] == (6404 if milvlg else 6400, 2048)
    with torch.device("meta"):
        weights = {key: torch.zeros(shape) for key, shape in shapes.items()}
    loaded = assemble(weights, Path("full.pth"))
    assert loaded.network.sizes == RESNET101
    assert loaded.left_out == ()
    expected = expected_shapes(loaded.network, background_first=milvlg)
    idle = ("num_batches_tracked", "cell_anchors.0")
    renamed = {"cls_embed.": "cls_embedding.", "attr_linear1": "fc_attr", "attr_linear2": "attr_score"}
    theirs = {key: shape for key, shape in shapes.items() if not key.endswith(idle)}
    for old, new in renamed.items():
        theirs = {key.replace(old, new): shape for key, shape in theirs.items()}
    assert expected == theirs


def test_the_published_network_keeps_regions_of_14_by_14_cells():
    with torch.device("meta"):
        network = Network(RESNET101)
        assert network.map(torch.zeros(1, 3, 600, 1000)).shape == (1, 1024, 38, 63)
        assert network.res5(torch.zeros(5, 1024, 14, 14)).shape == (5, 2048, 14, 14)
        heads = network.heads(torch.zeros(5, 2048))
    assert heads.classes.shape == (5, 1601)
    assert heads.deltas.shape == (5, 1600, 4)
    assert heads.attributes.shape == (5, 401)


def test_three_hundred_proposals_fit_in_little_memory():
    states = 14 * 14 * (3 * 2048 + 2 * 512 + 1024) * 4
    assert chunk_size(RESNET101, torch.device("cpu")) * states < 0.5e9


def example(path: Path) -> Example:
    return Example(path.name, "g", None, path, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("detector")
    write_bin(place / "pytorch_model.bin")
    for number, (width, height) in enumerate([(150, 96), (150, 96), (90, 140), (150, 96)]):
        picture(place / f"{number}.png", width, height, seed=number)
    return place


def small(name: str = "caffe"):
    return replace(CONVENTIONS[name], short=96, long=160, after=40, boxes=(4, 9))


@pytest.mark.parametrize("name", sorted(CONVENTIONS))
def test_regions_are_whole_under_every_convention(folder, name):
    detector = Detector.open(folder, small(name), device="cpu", threshold=0.2)
    (found,) = detector.regions([example(folder / "0.png")])
    count = len(found.boxes)
    assert 4 <= count <= 9
    assert found.size == (150, 96)
    assert found.boxes.dtype == found.features.dtype == found.confidence.dtype == np.float32
    assert (found.boxes >= 0).all() and (found.boxes <= 1).all()
    assert (found.boxes[:, :2] <= found.boxes[:, 2:]).all()
    assert found.features.shape == (count, detector.width) == (count, TINY["outer"][3])
    assert (found.features >= 0).all() and found.features.std() > 0
    assert found.probabilities.shape == (count, TINY["classes"])
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.objects, found.probabilities[:, 1:].argmax(axis=1))
    np.testing.assert_array_equal(found.confidence, found.probabilities[:, 1:].max(axis=1))
    assert found.attributes.max() < TINY["attributes"] - 1
    assert ((found.attribute_confidence > 0) & (found.attribute_confidence <= 1)).all()
    if name != "caffe":
        assert (np.diff(found.confidence) <= 0).all()


def test_an_image_does_not_depend_on_its_neighbours(folder):
    detector = Detector.open(folder, small(), device="cpu")
    batch = [example(folder / f"{number}.png") for number in (0, 2, 1, 3)]
    together = detector.regions(batch)
    for one, found in zip(batch, together, strict=True):
        (alone,) = detector.regions([one])
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-5)
        np.testing.assert_allclose(found.features, alone.features, rtol=1e-4, atol=1e-5)
    assert together[1].size == (90, 140)
    assert not np.allclose(together[0].features[:4], together[2].features[:4])
    assert detector.regions([]) == []


def test_given_boxes_get_the_features_that_the_same_proposals_got(folder):
    for name in ("caffe", "detectron2"):
        detector = Detector.open(folder, replace(small(name), select="proposals"), device="cpu")
        (found,) = detector.regions([example(folder / "2.png")])
        again = detector.features_of(folder / "2.png", found.boxes)
        np.testing.assert_array_equal(again.boxes, found.boxes)
        np.testing.assert_allclose(again.features, found.features, atol=1e-5)
        np.testing.assert_array_equal(again.objects, found.objects)


def test_given_boxes_at_the_edge_of_a_cell_stay_there(folder, tmp_path):
    """Half a cell is where corners are rounded, and float32 fractions miss it by a millionth."""
    detector = Detector.open(folder, replace(small(), long=400), device="cpu")
    wide = picture(tmp_path / "wide.png", 388, 96)
    pixels = np.array([[0, 0, x, 90] for x in range(8, 388, 16)], dtype=np.float32)
    with exact():
        image = detector._open(example(wide))
        assert image.scale == (1.0, 1.0)
        states = detector.network.map(image.pixels[None])
        expected = detector.network.describe(states[0], torch.from_numpy(pixels), 50)
    shares = (pixels / np.array([388, 96, 388, 96])).astype(np.float32)
    assert ((shares[:, 2].astype(np.float64) * 388).astype(np.float32) < pixels[:, 2]).any()
    found = detector.features_of(wide, shares)
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)


def test_given_boxes_keep_their_order_and_number(folder):
    detector = Detector.open(folder, small(), device="cpu")
    boxes = np.array([[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], [0, 0, 0.4, 0.3], [0, 0, 0.4, 0.3]])
    found = detector.features_of((folder / "0.png").read_bytes(), boxes)
    assert len(found.features) == 4
    np.testing.assert_array_equal(found.features[2], found.features[3])
    assert len(detector.features_of(folder / "0.png", np.zeros((0, 4))).features) == 0
    for bad in ([0, 0, 1.2, 1], [0.5, 0, 0.4, 1], [0, 0, np.nan, 1]):
        with pytest.raises(BadRow, match="fractions"):
            detector.features_of(folder / "0.png", np.array([bad]))


def test_images_that_are_missing(folder, tmp_path):
    detector = Detector.open(folder, small(), device="cpu")
    with pytest.raises(BadRow, match="no image"):
        detector.regions([Example("a", "g", "text", None, ())])
    with pytest.raises(BadRow, match="does not exist"):
        detector.regions([example(tmp_path / "none.png")])


def test_images_too_narrow_for_regions(folder, tmp_path):
    detector = Detector.open(folder, small(), device="cpu")
    for height, message in ((3, "too narrow"), (9, "no region")):  # 160 pixels are left of 480
        narrow = picture(tmp_path / "narrow.png", 480, height)
        with pytest.raises(BadRow, match=message):
            detector.regions([example(narrow)])
    with pytest.raises(BadRow, match="too narrow"):
        detector.features_of(picture(tmp_path / "narrow.png", 480, 3), np.array([[0, 0, 1, 1]]))
    assert len(detector.features_of(picture(tmp_path / "narrow.png", 480, 9), np.array([[0, 0, 1, 1]])).boxes) == 1


def test_the_revision_names_weights_conventions_and_settings(folder, tmp_path):
    def revision(**options):
        return Detector.open(options.pop("path", folder), device="cpu", **options).revision

    other = write_bin(tmp_path / "other.bin", tensors(seed=1))
    revisions = [
        revision(),
        revision(path=other),
        revision(conventions="hf"),
        revision(boxes=(36, 36)),
        revision(threshold=0.3),
    ]
    assert len(set(revisions)) == len(revisions)
    assert revision() == revisions[0] == revision(path=folder / "pytorch_model.bin")


def test_the_numbers_of_boxes(folder):
    (few,) = Detector.open(folder, replace(small(), boxes=(1, 3)), device="cpu", threshold=0.0).regions(
        [example(folder / "0.png")]
    )
    assert len(few.boxes) == 3
    best = few.confidence
    (more,) = Detector.open(folder, small(), boxes=(12, 20), device="cpu", threshold=1.0).regions(
        [example(folder / "0.png")]
    )
    assert len(more.boxes) == 12  # none reaches 1: the fewest allowed, the best first
    assert more.confidence.max() >= best.min()
    for wrong in ((0, 3), (5, 4), (10, 400)):
        with pytest.raises(StudyError, match="proposals"):
            Detector.open(folder, boxes=wrong, device="cpu")
    with pytest.raises(StudyError, match="threshold"):
        Detector.open(folder, device="cpu", threshold=float("nan"))
    with pytest.raises(StudyError, match="did you mean 'caffe'"):
        Detector.open(folder, "cafe", device="cpu")


def test_every_file_of_one_network_gives_the_same_regions(tmp_path, folder):
    milvlg = tensors(milvlg=True)
    pairs = [
        (write_bin(tmp_path / "a.pth", {"model": milvlg}), write_caffe(tmp_path / "a.caffemodel")),
        (folder, write_pkl(tmp_path / "b.pkl")),
    ]
    # The files of Caffe cannot say which anchors: these are the ones it has.
    del milvlg["proposal_generator.anchor_generator.cell_anchors.0"]
    torch.save(milvlg, tmp_path / "a.pth")
    for first, second in pairs:
        found = [
            Detector.open(file, small(), device="cpu").regions([example(folder / "0.png")]) for file in (first, second)
        ]
        np.testing.assert_allclose(found[0][0].boxes, found[1][0].boxes, atol=1e-5)
        np.testing.assert_allclose(found[0][0].features, found[1][0].features, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[0][0].probabilities, found[1][0].probabilities, atol=1e-5)


def test_the_background_is_first_whatever_the_file(tmp_path, folder):
    heads = "roi_heads.box_predictor"
    for milvlg, row in ((False, -1), (True, 0)):
        weights = tensors(milvlg=milvlg)
        for name in ("cls_score", "attr_linear2" if milvlg else "attr_score"):
            weights[f"{heads}.{name}.weight"] *= 0
            weights[f"{heads}.{name}.bias"][row] += 50
        file = write_bin(tmp_path / f"{milvlg}.pth", weights)
        (found,) = Detector.open(file, small(), device="cpu").regions([example(folder / "0.png")])
        assert (found.probabilities[:, 0] > 0.99).all()
        assert (found.attribute_confidence < 0.01).all()  # "none" takes all of Caffe's softmax
        (apart,) = Detector.open(file, small("hf"), device="cpu").regions([example(folder / "0.png")])
        assert (apart.attribute_confidence > 0.05).all()  # and no part of huggingface's


def test_a_network_without_attributes(tmp_path, folder):
    names = ("cls_embedding", "fc_attr", "attr_score")
    weights = {key: tensor for key, tensor in tensors().items() if not any(name in key for name in names)}
    detector = Detector.open(write_bin(tmp_path / "a.bin", weights), small(), device="cpu")
    (found,) = detector.regions([example(folder / "0.png")])
    assert found.attributes is None and found.attribute_confidence is None
    assert "no attribute head" in detector.left_out[0]


def test_the_configuration_sets_the_hf_conventions(tmp_path):
    file = write_bin(tmp_path / "pytorch_model.bin")
    (tmp_path / "config.yaml").write_text(
        "INPUT: {MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 160}\nrpn: {post_nms_topk_test: 30}\nmin_detections: 3\n"
        "max_detections: 5\nroi_heads: {nms_thresh_test: [0.4]}\nroi_box_head: {bbox_reg_weights: [1, 1, 1, 2]}\n"
    )
    detector = Detector.open(file, "hf", device="cpu")
    assert detector.conventions.short == 96 and detector.conventions.after == 30
    assert detector.conventions.boxes == (3, 5) and detector.conventions.class_overlaps == (0.4,)
    assert detector.regression == (1.0, 1.0, 1.0, 2.0)
    assert Detector.open(file, "caffe", device="cpu").conventions == CONVENTIONS["caffe"]
    (tmp_path / "config.yaml").write_text("input: {min_size_test: small}")
    with pytest.raises(CheckpointError, match="min_size_test is 'small'"):
        Detector.open(file, "hf", device="cpu")
    (tmp_path / "config.yaml").write_text("input: {")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Detector.open(file, "hf", device="cpu")


def test_the_grid_of_the_stem_is_rounded_up():
    sizes = Sizes(4, BLOCKS, TINY["inner"], TINY["outer"], 6, 12, 7)
    network = Network(sizes).eval()
    with exact():
        assert network.start(torch.zeros(1, 3, 90, 94)).shape[2:] == (22, 23)  # 45 and 47 halved: (45 - 3) / 2 + 1
        assert network.start(torch.zeros(1, 3, 92, 96)).shape[2:] == (23, 24)  # 46: (46 - 3) / 2 + 1, rounded up
        assert network.map(torch.zeros(2, 3, 92, 96)).shape == (2, 16, 6, 6)


def test_random_numbers_are_left_alone(folder):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Detector.open(folder, small(), device="cpu").regions([example(folder / "0.png")])
    assert torch.equal(before, torch.get_rng_state())


def test_the_detector_runs_where_the_model_does(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(Network, "to", lambda network, device: network)  # there need not be such a device here
    assert Detector.open(folder, small(), device="auto").device == torch.device("mps")
    assert Detector.open(folder, small(), device=str(pick_device("auto"))).device == torch.device("mps")


def test_an_upside_down_photograph_is_turned_first(folder, tmp_path):
    from PIL import Image

    with Image.open(folder / "0.png") as image:
        exif = image.getexif()
        exif[0x0112] = 3
        image.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png", exif=exif)
    detector = Detector.open(folder, small(), device="cpu")
    upright, turned = detector.regions([example(folder / "0.png"), example(tmp_path / "turned.png")])
    np.testing.assert_allclose(upright.boxes, turned.boxes, atol=1e-5)
    assert prepare(Image.open(folder / "0.png"), small()).size == upright.size
