"""Small models of volta's five architectures, written as volta writes real ones: a state_dict and its configuration."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vlprobe.encoders.checkpoint import quiet
from vlprobe.encoders.gated import GatedNetwork
from vlprobe.encoders.gated_embeddings import Inputs
from vlprobe.encoders.gated_layouts import LISTS, lxmert, one_stream, vilbert

KINDS = ("vilbert", "lxmert", "uniter", "visualbert", "vl-bert")
ONE = ("uniter", "visualbert", "vl-bert")
"""Those of one stream."""
SMALL = {"vilbert": vilbert(1, 1), "lxmert": lxmert(2, 1, 1), **dict.fromkeys(ONE, one_stream(2))}
"""Kind -> sub-layers of a tiny model."""
STATES = {
    "vilbert": {"language": 4, "vision": 3},
    "lxmert": {"language": 4, "vision": 3},
    **dict.fromkeys(ONE, {"joint": 3}),
}
"""Kind -> stream -> its states, one more than its blocks."""
WIDTH, HEADS, INNER, POOLER = 16, 2, 24, 12
VOCABULARY = 90
FEATURES = 24
"""Width of region features: of VL-BERT, eight times the number of its waves."""


def stated(kind, sublayers, vocabulary=VOCABULARY, features=FEATURES, positions=24):
    """Return what volta's configuration says of a tiny model."""
    values = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": positions,
        "num_attention_heads": HEADS,
        "pooler_size": POOLER,
        "type_vocab_size": 3 if kind == "vl-bert" else 2,
        "vocab_size": vocabulary,
        "bert_model": "bert-base-uncased",
        "num_locs": 5,
        "add_global_imgfeat": "first",
        "image_embeddings": kind,
        "v_attention_probs_dropout_prob": 0.1,
        "v_hidden_act": "gelu",
        "v_hidden_dropout_prob": 0.1,
        "v_feature_size": features,
        "v_hidden_size": WIDTH,
        "v_pooler_size": POOLER,
        "v_num_attention_heads": HEADS,
        "v_intermediate_size": INNER,
        "fusion_method": "mul",
    }
    if kind == "vl-bert":
        values["v_coordinate_embeddings_dim"] = features // 8
    lists = {name: sorted(getattr(sublayers, field)) for field, name in LISTS.items()}
    single = lists["shared_sublayers"] if sublayers.one_stream else []
    sizes = ("attn_hidden_size", "num_attention_heads", "intermediate_size")
    empty = {f"sublayer2{side}{size}": {} for side in ("", "v_") for size in sizes}
    return values | lists | {"single_ln_sublayers": single} | empty


def network(kind, sublayers, seed=5, **more):
    """Return a network of plain random weights, biases and norms among them, which are usually 0 and 1.

    They are those of numpy's `RandomState`, whose numbers never change: `volta.npz` holds what they come to.
    """
    held = {field: sorted(getattr(sublayers, field)) for field in LISTS}
    values = {name: value for name, value in stated(kind, sublayers, **more).items() if name not in LISTS.values()}
    with quiet(), torch.random.fork_rng(devices=[]):
        model = GatedNetwork(GatedNetwork.config_class(**values, sublayers=held)).eval()
    draw = np.random.RandomState(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            drawn = draw.standard_normal(tuple(parameter.shape)) * 0.3 + name.endswith(("Norm.weight", "norm.weight"))
            parameter.copy_(torch.from_numpy(drawn))
    return model


def inputs(lengths=(6, 3), boxes=3, seed=0):
    """Return drawn inputs: texts of these lengths, padded with 0, and as many boxes of each image behind their mean.

    The second box of the last image has no features at all, as one that pretraining hides.
    """
    draw, count = np.random.RandomState(seed), len(lengths)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    ids = draw.randint(1, VOCABULARY, mask.shape) * mask
    corners = np.sort(draw.random_sample((count, boxes, 2, 2)), axis=2).reshape(count, boxes, 4)
    features = np.abs(draw.standard_normal((count, boxes, FEATURES)))
    features[-1, 1] = 0
    areas = (corners[..., 2:] - corners[..., :2]).prod(-1, keepdims=True)
    whole = np.broadcast_to([0, 0, 1, 1, 1], (count, 1, 5))
    places = np.concatenate([whole, np.concatenate([corners, areas], -1)], 1)
    features = np.concatenate([features.mean(1, keepdims=True), features], 1)
    floats = (torch.from_numpy(array.astype(np.float32)) for array in (features, places))
    return Inputs(torch.from_numpy(ids), torch.from_numpy(mask), *floats, torch.ones(count, boxes + 1).bool())


def doubled(model):
    """Return a network's weights as volta's state_dict has them: those that are shared under both names."""
    state = dict(model.state_dict())
    for number in model.sublayers.shared:
        start = f"encoder.layer.{number}."
        for name in [name for name in state if name.startswith(start)]:
            part, own = name.removeprefix(start).split(".", 1)
            state[f"{start}{part}.v_{own}"] = state[name]
    return state


def make(kind, folder: Path, sublayers=None, prefix="bert.", config=True, seed=5, heads=(), **sizes):
    """Write `pytorch_model_9.bin` and volta's configuration into `folder`.

    Args:
        kind, folder, sublayers, seed, sizes: which, where, and of what.
        prefix: what stands before the names.
        config: whether the configuration is written.
        heads: names of weights that are not the encoder's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sublayers = sublayers or SMALL[kind]
    model = network(kind, sublayers, seed, **sizes)
    state = {prefix + name: value.clone() for name, value in doubled(model).items()}
    torch.save(state | {name: torch.zeros(3) for name in heads}, folder / "pytorch_model_9.bin")
    if config:
        (folder / "config.json").write_text(json.dumps(stated(kind, sublayers, **sizes)))
    return folder


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


@pytest.fixture
def regions(monkeypatch):
    """What `open_regions` gives: a test file has this fixture by a line of its own, `regions = tiny_volta.regions`."""
    from tiny_checkpoints import ColourRegions

    held = {"source": ColourRegions(FEATURES)}
    monkeypatch.setattr("vlprobe.regions.open_regions", lambda *_, **__: held["source"], raising=False)
    return held


@pytest.fixture(scope="module")
def prototypes(tmp_path_factory):
    """Kind -> the folder of a tiny model, which nobody changes."""
    from tiny_checkpoints import make as made

    root = tmp_path_factory.mktemp("volta")
    return {kind: made(f"volta-{kind}", root / kind) for kind in KINDS}
