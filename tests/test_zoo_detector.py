"""The zoo's detector: what it is asked, that it learns, that training goes on where it stopped, and its files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_detector import picture, tensors

from vlprobe.errors import CheckpointError
from vlprobe.regions import open_regions
from vlprobe.regions.configuration import configured
from vlprobe.regions.conventions import CONVENTIONS
from vlprobe.regions.detector import Detector
from vlprobe.regions.network import Sizes
from vlprobe.regions.proposals import regress
from vlprobe.regions.weights import load_network
from vlprobe.scenes.scene import COLOURS, SHAPES
from vlprobe.scenes.scene import sample as scene_of
from vlprobe.types import Example, Regions
from vlprobe.zoo import detector as zoo
from vlprobe.zoo.detector import CONFIG, INPUT, RECIPE, REGRESSION, anchors, batch_of, rate, train_detector
from vlprobe.zoo.detector_files import PIXEL, training_network, write_config, write_weights
from vlprobe.zoo.detector_losses import losses
from vlprobe.zoo.detector_scores import Seen, average_precision, look
from vlprobe.zoo.detector_targets import IGNORED, NOTHING, Things, deltas, match, sample, things_of

TINY = Sizes(8, (3, 4, 6, 3), (4, 4, 4, 4), (8, 8, 8, 8), 8, 2, len(SHAPES) + 1, 4, 8, len(COLOURS) + 1)
SHORT = replace(RECIPE, sizes=TINY, steps=6, batch=2, save=2, test=12)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def conventions_in(folder):
    write_config(folder / "config.yaml", CONFIG)
    return configured(CONVENTIONS["hf"], folder)[0]


@pytest.fixture
def conventions(tmp_path):
    return conventions_in(tmp_path)


def random_boxes(rng, count):
    corner = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 60, (count, 2))], axis=1).astype(np.float32)


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("nearest", [False, True])
def test_matching_is_that_of_the_definition(nearest):
    rng = np.random.default_rng(0)
    for _ in range(20):
        boxes, things = random_boxes(rng, 40), random_boxes(rng, 4)
        table = [[iou(box, thing) for thing in things] for box in boxes]
        expected = []
        for row in table:
            best = max(row)
            expected.append(row.index(best) if best >= 0.6 else NOTHING if best < 0.3 else IGNORED)
        if nearest:
            for thing in range(len(things)):
                column = [row[thing] for row in table]
                expected[column.index(max(column))] = thing
        assert match(boxes, things, 0.3, 0.6, nearest=nearest).tolist() == expected


def test_a_thing_that_no_box_touches_takes_none():
    found = match(np.array([[0, 0, 5, 5]], "f4"), np.array([[50, 50, 60, 60]], "f4"), 0.3, 0.7, nearest=True)
    assert found.tolist() == [NOTHING]


def test_a_sample_holds_no_more_things_than_its_share():
    found = np.array([0] * 10 + [NOTHING] * 30 + [IGNORED] * 20)
    drawn = sample(found, 16, 0.25, np.random.default_rng(0))
    assert (drawn.things >= 0).sum() == 4 and (drawn.things == NOTHING).sum() == 12
    assert len(set(drawn.boxes.tolist())) == 16 and (found[drawn.boxes] == drawn.things).all()
    few = sample(np.array([0, NOTHING, IGNORED]), 16, 0.5, np.random.default_rng(0))
    assert sorted(few.boxes.tolist()) == [0, 1]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), REGRESSION])
def test_deltas_are_what_regress_undoes(weights):
    rng = np.random.default_rng(1)
    boxes, targets = (torch.from_numpy(random_boxes(rng, 30)) for _ in range(2))
    moved = regress(boxes, deltas(boxes, targets, weights), CONVENTIONS["hf"], weights)
    torch.testing.assert_close(moved, targets, rtol=1e-4, atol=1e-3)


def test_every_thing_has_an_anchor_that_fits():
    """Of every size and place, an anchor overlaps it by a third: what the deltas have to make up for is small."""
    from vlprobe.regions.proposals import anchor_grid

    cells = INPUT // 16
    grid = anchor_grid(anchors(), cells, cells).numpy()
    things = np.concatenate([things_of(scene_of(0, "fit", number), INPUT).boxes for number in range(20)])
    assert min(max(iou(anchor, thing) for anchor in grid) for thing in things) > 1 / 3


def test_things_are_in_pixels_of_the_input():
    scene = scene_of(0, "fit", 0)
    things = things_of(scene, INPUT)
    assert [SHAPES[index] for index in things.shapes] == [thing.shape for thing in scene.things]
    assert [COLOURS[index] for index in things.colours] == [thing.colour for thing in scene.things]
    np.testing.assert_allclose(things.boxes, np.array([thing.box for thing in scene.things]) * INPUT, rtol=1e-6)


def test_every_weight_has_a_gradient(conventions):
    network = training_network(RECIPE.sizes, anchors(), 0)
    for norm in network.modules():  # where the last norm of a block is 0, what is before it waits a step
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(norm.weight)
    parts = losses(network, batch_of(0, 0, conventions, replace(RECIPE, batch=2)), conventions, REGRESSION, rng_of(0))
    assert sorted(parts) == ["anchors", "attributes", "boxes", "classes", "objectness"]
    assert float(parts["classes"].detach()) == pytest.approx(np.log(8), abs=0.1)  # no class is likelier than another
    assert float(parts["attributes"].detach()) == pytest.approx(np.log(9), abs=0.1)
    sum(parts.values()).backward()
    still = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


def rng_of(step):
    return np.random.default_rng(step)


def test_it_learns_two_scenes_by_heart(tmp_path, monkeypatch):
    recipe = replace(RECIPE, steps=70, batch=2, save=10, rate=6e-3, frozen=0.2)
    always = batch_of(0, 0, conventions_in(tmp_path), recipe)
    monkeypatch.setattr(zoo, "batch_of", lambda *arguments: always)
    monkeypatch.setattr(zoo, "scores", lambda detector, scenes: {})
    said = []
    reached = train_detector(tmp_path, 0, said.append, recipe)
    assert len(said) == 7 and sum(value for name, value in reached.items() if name.startswith("loss: ")) < 0.4
    detector = Detector.open(tmp_path, conventions="hf", device="cpu")
    for one in look(detector, [scene_of(0, "zoo-train", number) for number in range(2)]):
        best = one.overlap.argmax(axis=0)
        assert (one.overlap.max(axis=0) > 0.5).all()
        assert (one.regions.objects[best] == one.things.shapes).all()
        assert (one.regions.attributes[best] == one.things.colours).all()


def test_the_files_network_is_the_one_that_was_trained(conventions, tmp_path):
    network = training_network(TINY, anchors(), 0)
    parts = losses(network, batch_of(0, 0, conventions, SHORT), conventions, REGRESSION, rng_of(0))
    sum(parts.values()).backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    network.eval()
    write_weights(network, tmp_path / "model.safetensors")
    read = load_network(tmp_path / "model.safetensors")
    assert read.left_out == () and read.regression == REGRESSION
    pixels = torch.rand(1, 3, INPUT, INPUT) * 200 - 100
    features = torch.rand(5, TINY.outer[3])
    with torch.no_grad():
        for ours, theirs in [
            (network.map(pixels / PIXEL), read.network.map(pixels)),
            (network.heads(features).classes, read.network.heads(features).classes),
            (network.heads(features).deltas, read.network.heads(features).deltas),
            (network.heads(features).attributes, read.network.heads(features).attributes),
        ]:
            torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
    assert torch.equal(read.network.cell_anchors, anchors())


def test_training_goes_on_bit_for_bit(tmp_path):
    class Stopped(Exception):
        pass

    def stop(line):
        if "step 4 " in line:
            raise Stopped

    whole = train_detector(tmp_path / "whole", 0, lambda line: None, SHORT)
    with pytest.raises(Stopped):
        train_detector(tmp_path / "parts", 0, stop, SHORT)
    said = []
    resumed = train_detector(tmp_path / "parts", 0, said.append, SHORT)
    assert said[0] == "detector: goes on from step 4"
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert first == second
    timeless = [{key: value for key, value in made.items() if key != "seconds"} for made in (whole, resumed)]
    assert timeless[0] == timeless[1]
    assert {"recall", "mean_ap", "shape", "colour", "loss: classes"} <= set(whole)


def test_a_state_of_another_seed_or_a_damaged_one_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "scores", lambda detector, scenes: {})
    short = replace(SHORT, steps=2)
    said = []
    train_detector(tmp_path, 0, said.append, short)
    weights = (tmp_path / "model.safetensors").read_bytes()
    train_detector(tmp_path, 1, said.append, short)
    assert (tmp_path / "model.safetensors").read_bytes() != weights
    state = tmp_path / "training" / "detector.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    train_detector(tmp_path, 0, said.append, short)
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert not any("goes on" in line for line in said)
    train_detector(tmp_path, 0, said.append, short)
    assert said[-1] == "detector: goes on from step 2"


def test_the_rate_rises_and_falls():
    rates = [rate(step, RECIPE) for step in range(RECIPE.steps)]
    top = int(np.argmax(rates))
    assert 0 < rates[0] < rates[top] <= RECIPE.rate and rates[-1] < 1e-4 * RECIPE.rate
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) < 0).all()


def made(boxes, objects, confidence):
    return Regions(
        np.array(boxes, "f4"), np.zeros((len(boxes), 2), "f4"), (1, 1), np.array(confidence), np.array(objects)
    )


def test_average_precision_by_hand():
    """Right, wrong, right of two things: precision 1 at half the recall, 2/3 at the whole."""
    things = Things(np.array([[0, 0, 1, 1], [2, 2, 3, 3]], "f4"), np.array([0, 0]), np.array([0, 0]))
    overlap = np.array([[0.9, 0], [0.8, 0], [0, 0.6], [0, 0]])
    regions = made(np.zeros((4, 4)), [0, 0, 0, 1], [0.9, 0.8, 0.7, 0.6])
    seen = [Seen(things, regions, regions, overlap)]
    assert average_precision(seen, 0) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(seen, 1) == 0


# --- reading .safetensors


def test_a_safetensors_file_is_what_the_bin_is(tmp_path):
    weights = tensors()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, tmp_path / "model.safetensors")
    first, second = (load_network(tmp_path / name).network for name in ("pytorch_model.bin", "model.safetensors"))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    (tmp_path / "config.yaml").write_text("input: {min_size_test: 64, max_size_test: 80}\nmin_detections: 2\n")
    opened = Detector.open(tmp_path, conventions="hf", device="cpu")
    assert (opened.conventions.short, opened.conventions.long, opened.conventions.boxes) == (64, 80, (2, 36))
    spec = {"detector": str(tmp_path), "conventions": "hf"}
    source = open_regions(spec, folder=tmp_path, device="cpu", cache=tmp_path / "cache")
    image = picture(tmp_path / "image.png")
    (regions,) = source.regions([Example("a", "a", None, image, ())])
    (same,) = opened.regions([Example("a", "a", None, image, ())])
    assert np.array_equal(regions.features, same.features)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not looked at")
    assert Detector.open(tmp_path, conventions="hf", device="cpu").revision == opened.revision


def test_half_precision_becomes_whole(tmp_path):
    halves = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in tensors().items()}
    save_file(halves, tmp_path / "a.safetensors")
    network = load_network(tmp_path / "a.safetensors").network
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    key = "backbone.res2.0.conv1.weight"
    assert torch.equal(network.state_dict()["backbone.res2.0.conv1.weight"], halves[key].float())


def test_damaged_and_foreign_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(tensors(), path)
    whole = path.read_bytes()
    for content in (whole[:-5], whole[:40], b"", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read as a \.safetensors file.*fetch it again"):
            load_network(path)
    save_file({"bert.embeddings.weight": torch.zeros(2, 3)}, path)
    with pytest.raises(CheckpointError, match="lacks"):
        load_network(path)
    weights = tensors()
    weights["backbone.stem.conv1.weight"][0] = float("nan")
    save_file(weights, path)
    with pytest.raises(CheckpointError, match="not finite"):
        load_network(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="do not exist"):
        Detector.open(tmp_path / "empty", device="cpu")
