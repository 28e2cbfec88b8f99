"""Files of weights: all of them or an error, and nothing that a file says is run."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_detector import blob, caffe_layers, field, layer, tensors, varint, write_bin, write_caffe, write_pkl

from vlprobe.errors import CheckpointError
from vlprobe.regions.caffe import read_caffemodel
from vlprobe.regions.pickled import read_arrays
from vlprobe.regions.proposals import CAFFE_ANCHORS, centred_anchors
from vlprobe.regions.weights import load_network

ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
HEADS = "roi_heads.box_predictor"

pytestmark = pytest.mark.usefixtures("one_thread")


def test_caffe_norms_are_divided_by_their_factor(tmp_path):
    plain = tensors(milvlg=True)
    for factor in (1.0, 999.9825):
        file = write_caffe(tmp_path / "a.caffemodel", caffe_layers(plain, factor=factor))
        loaded = load_network(file)
        norm = loaded.network.stem.norm
        np.testing.assert_allclose(norm.running_mean, plain["backbone.stem.conv1.norm.running_mean"], rtol=1e-5)
        np.testing.assert_allclose(norm.running_var, plain["backbone.stem.conv1.norm.running_var"], rtol=1e-5)
        assert loaded.regression == (1.0, 1.0, 1.0, 1.0)
        np.testing.assert_array_equal(loaded.network.cell_anchors, np.array(CAFFE_ANCHORS, np.float32))


def test_caffe_logits_become_one_per_anchor(tmp_path):
    plain = tensors(milvlg=True)
    loaded = load_network(write_caffe(tmp_path / "a.caffemodel", caffe_layers(plain)))
    both = plain["proposal_generator.rpn_head.objectness_logits.weight"]
    np.testing.assert_allclose(loaded.network.objectness.weight, both[12:] - both[:12], rtol=1e-6)
    np.testing.assert_array_equal(loaded.network.bbox_pred.weight, plain[f"{HEADS}.bbox_pred.weight"][4:])


def test_caffe_layers_of_training_are_ignored_and_named(tmp_path):
    extra = [layer("heatmap_data", "Python", np.ones(3)), layer("fc_rel1", "InnerProduct", np.ones((2, 2)))]
    extra += [layer("res4b22_relu", "ReLU"), field(8, b"state")]
    plain = load_network(write_caffe(tmp_path / "a.caffemodel"))
    more = load_network(write_caffe(tmp_path / "b.caffemodel", extra + caffe_layers(tensors(milvlg=True))))
    assert more.left_out == ("layers of training: fc_rel1, heatmap_data",)
    assert plain.left_out == ()
    for one, other in zip(plain.network.state_dict().values(), more.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_caffe_shapes_of_four_numbers(tmp_path):
    new = load_network(write_caffe(tmp_path / "a.caffemodel"))
    old = load_network(write_caffe(tmp_path / "b.caffemodel", old_shape=True))
    assert torch.equal(new.network.bbox_pred.weight, old.network.bbox_pred.weight)
    assert torch.equal(new.network.objectness.bias, old.network.objectness.bias)


def test_a_caffemodel_cut_anywhere_is_refused(tmp_path):
    whole = write_caffe(tmp_path / "whole.caffemodel").read_bytes()
    cut = tmp_path / "cut.caffemodel"
    draw = np.random.default_rng(0)
    for length in [0, 1, 2, 11, len(whole) - 1, *draw.integers(12, len(whole), 25)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.caffemodel"):
            load_network(cut)


def test_every_caffe_layer_is_missed(tmp_path):
    layers = caffe_layers(tensors(milvlg=True))
    for index in [1, 2, 3, 4, 30, 90, len(layers) - 8, len(layers) - 1]:
        file = write_caffe(tmp_path / "a.caffemodel", layers[:index] + layers[index + 1 :])
        with pytest.raises(CheckpointError, match="lacks"):
            load_network(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff" * 40, "longer than ten bytes"),
        (b"not a caffemodel at all", "cannot be read"),
        (varint(100 << 3 | 0) + varint(7), "a layer is a number"),
        (varint(100 << 3 | 3), "wire type 3"),
        (field(2, b"old layer"), "before 2015"),
        (field(100, field(1, b"a") + field(7, field(7, field(1, varint(5))) + field(5, bytes(8)))), "shape says"),
        (field(100, field(1, b"a") + field(7, field(5, bytes(7)))), "inside a number"),
        (field(100, field(1, b"conv1") + field(2, b"Convolution")), "no layer with weights"),
    ],
)
def test_bytes_that_are_no_caffemodel(tmp_path, content, reason):
    (tmp_path / "a.caffemodel").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_caffemodel(tmp_path / "a.caffemodel")


def test_blobs_come_back_as_they_were(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    (tmp_path / "a.caffemodel").write_bytes(field(100, field(1, b"x") + field(7, blob(values))))
    (found,) = read_caffemodel(tmp_path / "a.caffemodel")["x"]
    np.testing.assert_array_equal(found, values)
    doubles = field(7, field(1, varint(2) + varint(2))) + field(8, np.arange(4, dtype="<f8").tobytes())
    (tmp_path / "b.caffemodel").write_bytes(field(100, field(1, b"x") + field(7, doubles)))
    np.testing.assert_array_equal(read_caffemodel(tmp_path / "b.caffemodel")["x"][0], [[0, 1], [2, 3]])


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(tmp_path, protocol):
    loaded = load_network(write_pkl(tmp_path / "a.pkl", protocol=protocol))
    plain = tensors()
    np.testing.assert_array_equal(loaded.network.attr_score.weight[1:], plain[f"{HEADS}.attr_score.weight"][:-1])
    np.testing.assert_array_equal(loaded.network.cell_anchors, plain[ANCHORS])
    assert loaded.regression == (10.0, 10.0, 5.0, 5.0)


def test_arrays_of_other_orders_and_kinds(tmp_path):
    values = {
        "big": np.arange(6, dtype=">f4").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "scalar": np.float32(2),
        "empty": np.zeros((0, 4), np.float32),
        "whole": np.array(3),
    }
    for protocol in (2, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(values, protocol=protocol))
        found = read_arrays(tmp_path / "a.pkl")
        for name in ("big", "columns", "empty", "whole"):
            np.testing.assert_array_equal(found[name], values[name])


def test_text_that_python_2_wrote(tmp_path):
    """Python 2 wrote an array's bytes as a string, which is no text."""
    numbers = np.array([1.5, -2.25], dtype="<f4")
    written = (
        b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85"
        b"U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x08" + numbers.tobytes() + b"tbs."
    )
    (tmp_path / "a.pkl").write_bytes(written)
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.pkl")["a"], numbers)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (Path(self.path), "run"))


class Call:
    def __init__(self, function, *values):
        self.call = (function, values)

    def __reduce__(self):
        return self.call


def test_a_pickle_runs_nothing(tmp_path):
    mark = tmp_path / "mark"
    for protocol in (0, 2, 5):
        for name in ("a.pkl", "a.pth", "a.bin"):
            content = {"model": {**{key: value.numpy() for key, value in tensors().items()}, "extra": Evil(mark)}}
            (tmp_path / name).write_bytes(pickle.dumps(content, protocol=protocol))
            with pytest.raises(CheckpointError, match="refused"):
                load_network(tmp_path / name)
    torch.save({"model": tensors(), "extra": Evil(mark)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="never run"):
        load_network(tmp_path / "b.pth")
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        Call(eval, "1"),
        Call(getattr, {}, "keys"),
        Call(np.load, "x"),
        Call(np.array, [1]),
        Call(bytearray, 8),
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]),
        np.array(["text"]),
        np.zeros(2, dtype="M8[s]"),
        np.zeros(2, dtype=np.complex64),
        {1, 2},
        torch.float32,
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_arrays_of_numbers_are_read(tmp_path, value):
    for protocol in (2, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": value}, protocol=protocol))
        if isinstance(value, set) and protocol == 5:  # plain data of the format itself: no name, no call
            continue
        with pytest.raises(CheckpointError, match=r"refused|cannot be read"):
            read_arrays(tmp_path / "a.pkl")


def test_an_array_whose_shape_lies(tmp_path):
    content = pickle.dumps({"a": np.arange(7, dtype=np.float32)}, protocol=2)
    for wrong in (b"K\x08\x85", b"K\x06\x85"):
        assert b"K\x07\x85" in content
        (tmp_path / "a.pkl").write_bytes(content.replace(b"K\x07\x85", wrong, 1))
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_arrays(tmp_path / "a.pkl")


def test_pickles_and_torch_files_cut_anywhere_are_refused(tmp_path):
    draw = np.random.default_rng(0)
    for whole in (write_pkl(tmp_path / "whole.pkl"), write_bin(tmp_path / "whole.bin")):
        content = whole.read_bytes()
        cut = tmp_path / f"cut{whole.suffix}"
        for length in [0, 1, 10, len(content) - 1, *draw.integers(2, len(content), 8)]:
            cut.write_bytes(content[:length])
            with pytest.raises(CheckpointError, match=cut.name):
                load_network(cut)


def test_what_is_no_dict(tmp_path):
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1, 2]))
    for name in ("a.pth", "a.pkl"):
        with pytest.raises(CheckpointError, match="list, not a dict"):
            load_network(tmp_path / name)


@pytest.mark.parametrize("milvlg", [False, True])
def test_every_missing_weight_is_named(tmp_path, milvlg):
    weights = tensors(milvlg=milvlg)
    idle = ("num_batches_tracked", ANCHORS)
    keys = [key for key in weights if not key.endswith(idle)]
    for key in [*keys[:3], *keys[10::37], *keys[-12:]]:
        less = {name: tensor for name, tensor in weights.items() if name != key}
        ours = key.replace("cls_embed.", "cls_embedding.")
        ours = ours.replace("attr_linear1", "fc_attr").replace("attr_linear2", "attr_score")
        with pytest.raises(CheckpointError, match="lacks") as error:
            load_network(write_bin(tmp_path / "a.pth", less))
        assert ours in str(error.value) and "a.pth" in str(error.value)


def test_a_last_block_that_is_missing_is_noticed(tmp_path):
    for stage in ("backbone.res4.5.", "roi_heads.res5.2."):
        less = {key: tensor for key, tensor in tensors().items() if not key.startswith(stage)}
        with pytest.raises(CheckpointError, match="Blocks are missing"):
            load_network(write_bin(tmp_path / "a.bin", less))
    less = {key: tensor for key, tensor in tensors().items() if not key.startswith("backbone.res4.2.")}
    with pytest.raises(CheckpointError, match=r"lacks 15 weights .* backbone\.res4\.2\.conv1\.weight"):
        load_network(write_bin(tmp_path / "a.bin", less))


def test_weights_of_another_network(tmp_path):
    weights = tensors()
    grouped = weights | {"backbone.res3.1.conv2.weight": torch.zeros(4, 2, 3, 3)}
    with pytest.raises(CheckpointError, match=r"res3\.1\.conv2\.weight is \(4, 2, 3, 3\), expected \(4, 4, 3, 3\)"):
        load_network(write_bin(tmp_path / "a.bin", grouped))
    with pytest.raises(CheckpointError, match="no place for"):
        load_network(write_bin(tmp_path / "a.bin", weights | {"backbone.fpn.lateral.weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="lacks"):
        load_network(write_bin(tmp_path / "a.bin", {"bert.embeddings.weight": torch.zeros(3, 2)}))
    with pytest.raises(CheckpointError, match="no kind of detector weights"):
        load_network(write_bin(tmp_path / "a.onnx"))
    with pytest.raises(CheckpointError, match="do not exist"):
        load_network(tmp_path / "none.bin")
    beside = load_network(write_bin(tmp_path / "a.bin", weights | {"iteration": torch.tensor(3)}))
    assert beside.left_out == ("iteration",)


def test_numbers_that_are_not_finite(tmp_path):
    weights = tensors()
    weights["backbone.res2.1.conv1.weight"][0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"res2\.1\.conv1\.weight holds numbers that are not finite"):
        load_network(write_bin(tmp_path / "a.bin", weights))
    weights = tensors() | {f"{HEADS}.cls_score.bias": torch.zeros(7, dtype=torch.int64)}
    with pytest.raises(CheckpointError, match="of torch.int64"):
        load_network(write_bin(tmp_path / "a.bin", weights))


def test_anchors_are_the_files_own_where_it_has_some(tmp_path):
    for milvlg, default in ((False, centred_anchors()), (True, CAFFE_ANCHORS)):
        weights = tensors(milvlg=milvlg)
        own = load_network(write_bin(tmp_path / "a.pth", weights)).network.cell_anchors
        assert torch.equal(own, weights[ANCHORS])
        del weights[ANCHORS]
        made = load_network(write_bin(tmp_path / "a.pth", weights)).network.cell_anchors
        np.testing.assert_allclose(made, np.array(default, dtype=np.float32))
    with pytest.raises(CheckpointError, match=r"cell_anchors\.0 is \(3, 4\)"):
        load_network(write_bin(tmp_path / "a.pth", weights | {ANCHORS: torch.zeros(3, 4)}))
