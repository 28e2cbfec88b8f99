"""Which of volta's architectures a checkpoint is: by its weights' names, and by volta's own configuration beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import chain
from typing import Any

import torch
import transformers

from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.gated import SubLayers
from vlprobe.encoders.gated_embeddings import EPSILON, WAVES
from vlprobe.encoders.originals import Original, Released, read_config, read_released, settle
from vlprobe.errors import CheckpointError

MARKS = {
    "vilbert": "v_embeddings.LayerNorm.weight",
    "lxmert": "v_embeddings.ImgLayerNorm.weight",
    "uniter": "embeddings.image_location_layer_norm.weight",
    "visualbert": "embeddings.projection.weight",
    "vl-bert": "embeddings.obj_downsample.1.weight",
}
"""Kind -> a weight that no other kind has."""
TITLES = {
    "vilbert": "ViLBERT",
    "lxmert": "LXMERT",
    "uniter": "UNITER",
    "visualbert": "VisualBERT",
    "vl-bert": "VL-BERT",
}
"""Kind -> its name in print."""
FEATURES = {
    "vilbert": ("v_embeddings.image_embeddings.weight", 1),
    "lxmert": ("v_embeddings.image_embeddings.weight", 1),
    "uniter": ("embeddings.image_embeddings.weight", 1),
    "visualbert": ("embeddings.projection.weight", 1),
    "vl-bert": ("embeddings.object_mask_visual_embedding.weight", 1),
}
"""Kind -> the weight, and its axis, that says how wide region features are."""


def numbers(first: int, end: int, step: int) -> frozenset[int]:
    """Return first, first + step, ..., below `end`."""
    return frozenset(range(first, end, step))


def one_stream(blocks: int) -> SubLayers:
    """Return the sub-layers of BERT over text and image in one: attention, feed-forward, attention, ..."""
    attend, feed = numbers(0, 2 * blocks, 2), numbers(1, 2 * blocks, 2)
    return SubLayers(attend, attend, attend, attend, feed, feed, attend | feed)


def lxmert(language: int, vision: int, cross: int) -> SubLayers:
    """Return LXMERT's: blocks of each stream alone, side by side, then cross blocks.

    A cross block lets both streams attend to each other with the same weights, then each to itself with its own.

    Args:
        language: blocks of the text alone, no fewer than those of the image alone.
        vision: blocks of the image alone.
        cross: blocks in which they meet.
    """
    start, end = 2 * language, 2 * language + 3 * cross
    meet, own, feed = numbers(start, end, 3), numbers(start + 1, end, 3), numbers(start + 2, end, 3)
    return SubLayers(
        tt=numbers(0, start, 2) | own,
        tv=meet,
        vt=meet,
        vv=numbers(0, 2 * vision, 2) | own,
        t_ff=numbers(1, start, 2) | feed,
        v_ff=numbers(1, 2 * vision, 2) | feed,
        shared=meet,
    )


def vilbert(language: int, meetings: int) -> SubLayers:
    """Return ViLBERT's: blocks of the text alone, then by turns blocks of each other and blocks of its own.

    Args:
        language: blocks of the text alone.
        meetings: pairs of a block in which each stream attends to the other, and one in which it attends to itself.
    """
    start, end = 2 * language, 2 * language + 4 * meetings
    meet, own, feed = numbers(start, end, 4), numbers(start + 2, end, 4), numbers(start + 1, end, 2)
    return SubLayers(numbers(0, start, 2) | own, meet, meet, own, numbers(1, end, 2), feed, frozenset())


CONTROLLED = {
    "vilbert": vilbert(6, 6),
    "lxmert": lxmert(9, 5, 5),
    "uniter": one_stream(12),
    "visualbert": one_stream(12),
    "vl-bert": one_stream(12),
}
"""Kind -> the sub-layers of the published models (e-bug/volta, config/ctrl_*.json)."""
LISTS = {
    "tt": "tt_attn_sublayers",
    "tv": "tv_attn_sublayers",
    "vt": "vt_attn_sublayers",
    "vv": "vv_attn_sublayers",
    "t_ff": "t_ff_sublayers",
    "v_ff": "v_ff_sublayers",
    "shared": "shared_sublayers",
}
"""Field of `SubLayers` -> volta's name for it."""
FIXED = {
    "bert_model": "bert-base-uncased",
    "model": "bert",
    "add_global_imgfeat": "first",
    "num_locs": 5,
    "norm_embeddings": False,
    "fusion_method": "mul",
    "hidden_act": "gelu",
    "v_hidden_act": "gelu",
    "layer_norm_eps": EPSILON,
    **dict.fromkeys(
        [
            "sublayer2attn_hidden_size",
            "sublayer2num_attention_heads",
            "sublayer2intermediate_size",
            "sublayer2v_attn_hidden_size",
            "sublayer2v_num_attention_heads",
            "sublayer2v_intermediate_size",
        ],
        {},
    ),
}
"""What volta's configuration may say in one way alone, if it says it at all: the way of the controlled models."""
TWINS = {
    "v_hidden_size": "hidden_size",
    "v_num_attention_heads": "num_attention_heads",
    "v_intermediate_size": "intermediate_size",
    "v_pooler_size": "pooler_size",
}
"""The image's size -> the text's, to which it has to be equal."""
BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pooler_size": 1024,
    "v_feature_size": 2048,
}
"""Sizes of the published models; VL-BERT has a third token type."""
OWN = re.compile(r"(encoder\.layer\.(\d+)\.\w+\.)v_(.+)")
"""A weight of the image's side of a sub-layer."""


def read_gated(checkpoint: Checkpoint) -> Original:
    """Read a checkpoint of volta; without one, for random weights, the configuration alone.

    Raises:
        CheckpointError: it cannot be read, is of another model, of none of the five kinds or of a layout that cannot
            be known, holds two values of a weight that both sides share, or contradicts the configuration beside it.
    """
    stated = read_config(checkpoint)
    _check_stated(checkpoint, stated)
    released = read_released(checkpoint, "volta") if checkpoint.file else Released({}, {})
    kind = _kind(checkpoint, released, stated)
    sublayers = _sublayers(checkpoint, kind, stated)
    weights = dict(released.encoder)
    if checkpoint.file:
        weights = _once(checkpoint, kind, sublayers, weights)
    name, axis = FEATURES[kind]
    features = released.size(name, axis)
    found = {
        "vocab_size": released.size("embeddings.word_embeddings.weight", 0),
        "hidden_size": released.size("embeddings.LayerNorm.weight", 0),
        "intermediate_size": released.size(f"encoder.layer.{min(sublayers.t_ff)}.intermediate.dense.weight", 0),
        "max_position_embeddings": released.size("embeddings.position_embeddings.weight", 0),
        "type_vocab_size": released.size("embeddings.token_type_embeddings.weight", 0),
        "pooler_size": released.size("t_pooler.dense.weight", 0),
        "v_feature_size": features,
    }
    standard = dict(BASE)
    if kind == "vl-bert":
        standard |= {"type_vocab_size": 3, "v_coordinate_embeddings_dim": BASE["v_feature_size"] // WAVES}
        found["v_coordinate_embeddings_dim"] = None if features is None else features // WAVES
    values, notes = settle(checkpoint, found, standard)
    _check_sizes(checkpoint, kind, values, standard)
    lists = {name: sorted(held) for name, held in asdict(sublayers).items()}
    config = transformers.BertConfig(**{**values, "image_embeddings": kind, "sublayers": lists})
    return Original(config, weights, released.heads, notes)


def _check_stated(checkpoint: Checkpoint, stated: Mapping[str, Any]) -> None:
    """Refuse a configuration of a model of volta's that is read in another way than the controlled ones."""
    if checkpoint.file is None and not {"image_embeddings", "num_attention_heads"} <= set(stated):
        raise CheckpointError(
            f"{checkpoint.source}: {checkpoint.folder} holds neither a .bin file nor volta's configuration "
            "(ctrl_*.json) as config.json; random weights need one of them to know their architecture"
        )
    for name in (*BASE, "v_coordinate_embeddings_dim", "num_attention_heads"):
        if not isinstance(stated.get(name, 1), int) or stated.get(name, 1) < 1:
            raise CheckpointError(f"{checkpoint.source}: {checkpoint.config} says {name} {stated[name]!r}; not a size")
    wanted = FIXED | {name: stated[other] for name, other in TWINS.items() if other in stated}
    for name, value in wanted.items():
        if name in stated and stated[name] != value:
            raise CheckpointError(
                f"{checkpoint.source}: {checkpoint.config} says {name} {stated[name]!r}; of volta's models, vlprobe "
                f"reads those for which it is {value!r}: the controlled ones (ctrl_*.json)"
            )


def _check_sizes(checkpoint: Checkpoint, kind: str, values: Mapping[str, Any], standard: Mapping[str, int]) -> None:
    """Refuse sizes with which the network could be built and not run."""
    rows, features = values["type_vocab_size"], values["v_feature_size"]
    if rows < standard["type_vocab_size"]:
        raise CheckpointError(
            f"{checkpoint.source} has {rows} token types, and {TITLES[kind]} has {standard['type_vocab_size']}"
        )
    if kind == "vl-bert" and values["v_coordinate_embeddings_dim"] * WAVES != features:
        raise CheckpointError(
            f"{checkpoint.source} reads region features of width {features}; in VL-BERT that is {WAVES} times "
            f"v_coordinate_embeddings_dim, which is {values['v_coordinate_embeddings_dim']}"
        )


def _kind(checkpoint: Checkpoint, released: Released, stated: Mapping[str, Any]) -> str:
    said = stated.get("image_embeddings")
    found = [kind for kind, mark in MARKS.items() if mark in released.encoder]
    if checkpoint.file is None:
        found = [kind for kind in MARKS if kind == said]
    if len(found) != 1:
        held = ", ".join(found) or "none"
        raise CheckpointError(
            f"{checkpoint.source}: which of volta's architectures it is cannot be told: of {', '.join(MARKS)} it has "
            f"the image embeddings of {held}" + (f", and config.json says {said!r}" if said else "")
        )
    if said not in (None, found[0]):
        raise CheckpointError(
            f"{checkpoint.source}: {checkpoint.config} says image_embeddings '{said}', and the weights are those of "
            f"{TITLES[found[0]]}; put the configuration that belongs to them beside them"
        )
    return found[0]


def _sublayers(checkpoint: Checkpoint, kind: str, stated: Mapping[str, Any]) -> SubLayers:
    """Return what the configuration says of sub-layers; the published model's, where it says nothing.

    Raises:
        CheckpointError: what it says is no network.
    """
    if not set(LISTS.values()) & set(stated):
        return CONTROLLED[kind]
    place = f"{checkpoint.source}: {checkpoint.config}"
    single = stated.get("single_ln_sublayers", [])
    for name, held in [*((name, stated.get(name)) for name in LISTS.values()), ("single_ln_sublayers", single)]:
        if not isinstance(held, list) or not all(isinstance(number, int) and number >= 0 for number in held):
            raise CheckpointError(f"{place}: {name} is {held!r}; expected a list of numbers of sub-layers")
    found = SubLayers(**{field.name: frozenset(stated[LISTS[field.name]]) for field in fields(SubLayers)})
    attend, feed, last = found.tt | found.tv | found.vt | found.vv, found.t_ff | found.v_ff, found.count - 1
    idle = next((number for number in range(found.count) if number not in attend | feed), None)
    mute = {number for number in attend if not {*chain(*found.reads(number).values())} <= set(found.reads(number))}
    for wrong, why in (
        (attend & feed, "attend and feed forward at once"),
        ({idle} - {None}, "do nothing"),
        (mute, "let a side be looked at that does not attend itself, which volta cannot"),
        (set(single) - found.shared, "have one LayerNorm, but two sets of weights"),
        ({last} - (found.t_ff & found.v_ff), "end the network, and do not feed both sides forward"),
    ):
        if wrong:
            listed = ", ".join(map(str, sorted(wrong)[:3]))
            raise CheckpointError(f"{place}: sub-layers {listed} {why}; it is no configuration of volta's")
    return found


def _once(
    checkpoint: Checkpoint, kind: str, sublayers: SubLayers, weights: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the weights with those that stand under two names under the first alone.

    Raises:
        CheckpointError: the two differ.
    """
    doubles = {"embeddings.image_token_type_embeddings.weight": "embeddings.token_type_embeddings.weight"}
    for name in weights:
        match = OWN.fullmatch(name)
        if match and list(sublayers.prefixes(int(match.group(2))).values()) == ["", ""]:
            doubles[name] = match.group(1) + match.group(3)
    for name, first in doubles.items():
        if name in weights and first in weights:
            if not torch.equal(weights[name], weights[first]):
                raise CheckpointError(
                    f"{checkpoint.source}: {checkpoint.file}: {name} and {first} are one weight in this "
                    f"{TITLES[kind]}, and hold different values; if its sides were trained apart, put the "
                    "configuration that says so (shared_sublayers) beside the file as config.json"
                )
            del weights[name]
    return weights
