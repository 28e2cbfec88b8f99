"""volta's five architectures: the original's own numbers, referees that know nothing of volta, the published layouts.

`volta.npz` holds what volta's own code (e-bug/volta, volta/encoders.py and embeddings.py) makes of the weights of
`tiny_volta.network(kind, SMALL[kind])` and of `tiny_volta.inputs()`: by kind, `text` and `vision`, (sub-layer, row,
position, width) with the embeddings first and 0 in padding, and `poolers`: the text's, the image's, their product.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.models.bert.modeling_bert import BertEncoder

import tiny_volta
from tiny_volta import FEATURES, KINDS, ONE, SMALL, close
from vlprobe.encoders.checkpoint import quiet
from vlprobe.encoders.gated import SubLayers
from vlprobe.encoders.gated_layouts import CONTROLLED, LISTS, lxmert, one_stream, vilbert

# --- the original's numbers


@pytest.mark.parametrize("kind", KINDS)
def test_every_sub_layer_equals_the_originals(kind):
    with np.load(Path(__file__).parent / "volta.npz") as file:
        text, vision, poolers = (torch.from_numpy(file[f"{kind} {name}"]) for name in ("text", "vision", "poolers"))
    model, given = tiny_volta.network(kind, SMALL[kind]), tiny_volta.inputs()
    with torch.inference_mode():
        found = model(given)
        pooled = model.pooled(found[-1])
    assert len(found) == len(text) == SMALL[kind].count + 1
    close(torch.stack([state["text"] for state in found]) * given.text_mask[..., None], text)
    close(torch.stack([state["vision"] for state in found]), vision)
    close(torch.stack([pooled[f"{name}.pooler"] for name in ("language", "vision", "joint")]), poolers)
    assert (poolers == 0).float().mean() > 0.3  # a ReLU, and they are not all of the same sign
    assert text.abs().max() < 20


# --- referees that know nothing of volta


def renamed(state, names):
    """Return (new name -> weight) of `names`: new start -> old start."""
    return {
        new + name.removeprefix(old): value
        for new, old in names.items()
        for name, value in state.items()
        if name.startswith(old)
    }


def mixed(theirs, ours, side="", own="attention_self"):
    """New start -> old start of queries, keys and values."""
    return {f"{theirs}.{x}.": f"{ours}.{own}.{side}{x}." for x in ("query", "key", "value")}


def added(theirs, ours, part, side=""):
    """New start -> old start of what brings a product back into the stream."""
    return {f"{theirs}.{x}.": f"{ours}.{part}.{side}{x}." for x in ("dense", "LayerNorm")}


def bert_names(blocks, target="layer", side=""):
    """New start -> old start of the blocks of BERT, of a side of sub-layers that attend and feed forward by turns."""
    names = {}
    for k in range(blocks):
        attend, feed, block = f"encoder.layer.{2 * k}", f"encoder.layer.{2 * k + 1}", f"{target}.{k}"
        names |= mixed(f"{block}.attention.self", attend, side)
        names |= added(f"{block}.attention.output", attend, "attention_output", side)
        names[f"{block}.intermediate.dense."] = f"{feed}.intermediate.{side}dense."
        names |= added(f"{block}.output", feed, "output", side)
    return names


@pytest.mark.parametrize("kind", ONE)
def test_one_stream_is_berts_encoder_over_text_and_image(kind):
    model, given = tiny_volta.network(kind, one_stream(3)), tiny_volta.inputs()
    config = hf.BertConfig(
        **{"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
        layer_norm_eps=1e-12,
        attn_implementation="eager",
    )
    referee = BertEncoder(config).eval()
    referee.load_state_dict(renamed(model.state_dict(), bert_names(3)))
    mask = torch.cat([given.text_mask, given.image_mask], dim=1)
    with torch.inference_mode():
        found = [torch.cat([state["text"], state["vision"]], dim=1) for state in model(given)]
        stream = found[0]
        for block, ours in zip(referee.layer, found[2::2], strict=True):
            stream = block(stream, attention_mask=torch.where(mask, 0.0, -1e9)[:, None, None])
            stream = stream if isinstance(stream, torch.Tensor) else stream[0]
            close(ours[mask], stream[mask])


def test_visualbert_is_transformers_own_from_its_embeddings_on():
    model, given = tiny_volta.network("visualbert", one_stream(3)), tiny_volta.inputs()
    config = hf.VisualBertConfig(
        **{"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
        **{"vocab_size": 90, "max_position_embeddings": 24, "visual_embedding_dim": FEATURES, "layer_norm_eps": 1e-12},
    )
    state, own = model.state_dict(), {}
    for ours, theirs in {
        **{x: x for x in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")},
        "projection": "visual_projection",
        "token_type_embeddings_visual": "visual_token_type_embeddings",
        "position_embeddings_visual": "visual_position_embeddings",
    }.items():
        own[f"embeddings.{theirs}."] = f"embeddings.{ours}."
    with quiet():
        referee = hf.VisualBertModel(config, add_pooling_layer=False).eval()
    missing, foreign = referee.load_state_dict(
        renamed(state, own | bert_names(3, target="encoder.layer")), strict=False
    )
    assert not foreign
    assert all(name.endswith("position_ids") or name.startswith("pooler") for name in missing)
    kept = given.image_mask.shape
    with torch.inference_mode():
        output = referee(
            input_ids=given.ids,
            attention_mask=given.text_mask.long(),
            token_type_ids=torch.zeros_like(given.ids),
            visual_embeds=given.features,
            visual_attention_mask=torch.ones(kept),
            visual_token_type_ids=torch.ones(kept, dtype=torch.long),
            output_hidden_states=True,
        )
        found = model(given)
    mask = torch.cat([given.text_mask, given.image_mask], dim=1)
    for ours, theirs in zip(found[::2], output.hidden_states, strict=True):
        close(torch.cat([ours["text"], ours["vision"]], dim=1)[mask], theirs[mask])


def test_lxmert_is_transformers_own_from_its_embeddings_on():
    """Its cross attention has one set of weights for both directions, too; its boxes may have five numbers."""
    blocks, crossed, objects = 3, 2, 2
    sublayers = lxmert(blocks, objects, crossed)
    model, given = tiny_volta.network("lxmert", sublayers), tiny_volta.inputs()
    config = hf.LxmertConfig(
        **{"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 90},
        **{"max_position_embeddings": 24, "visual_feat_dim": FEATURES, "visual_pos_dim": 5},
        **{"l_layers": blocks, "x_layers": crossed, "r_layers": objects},
    )
    names = {f"embeddings.{x}": f"embeddings.{x}" for x in ("word", "position", "token_type", "LayerNorm")}
    names |= bert_names(blocks, target="encoder.layer") | bert_names(objects, target="encoder.r_layers", side="v_")
    for theirs, ours in {
        **{"visn_fc": "image_embeddings", "visn_layer_norm": "ImgLayerNorm"},
        **{"box_fc": "image_location_embeddings", "box_layer_norm": "LocLayerNorm"},
    }.items():
        names[f"encoder.visn_fc.{theirs}."] = f"v_embeddings.{ours}."
    for k in range(crossed):
        meet, own, feed = (f"encoder.layer.{2 * blocks + 3 * k + part}" for part in range(3))
        cross = f"encoder.x_layers.{k}"
        names |= mixed(f"{cross}.visual_attention.att", meet)
        names |= added(f"{cross}.visual_attention.output", meet, "attention_output")
        for start, side in (("lang", ""), ("visn", "v_")):
            names |= mixed(f"{cross}.{start}_self_att.self", own, side)
            names |= added(f"{cross}.{start}_self_att.output", own, "attention_output", side)
            names[f"{cross}.{start}_inter.dense."] = f"{feed}.intermediate.{side}dense."
            names |= added(f"{cross}.{start}_output", feed, "output", side)
    with quiet():
        referee = hf.LxmertModel(config).eval()
    missing, foreign = referee.load_state_dict(renamed(model.state_dict(), names), strict=False)
    assert not foreign
    assert all(name.startswith("pooler.") for name in missing)
    with torch.inference_mode():
        output = referee(
            input_ids=given.ids,
            attention_mask=given.text_mask.float(),
            visual_feats=given.features,
            visual_pos=given.places,
            output_hidden_states=True,
        )
        found = model(given)
    for side, states, mask in (
        ("text", output.language_hidden_states, given.text_mask),
        ("vision", output.vision_hidden_states, given.image_mask),
    ):
        ours = [found[number + 1][side] for number in sublayers.blocks(side)]
        assert len(ours) == len(states)
        for one, theirs in zip(ours, states, strict=True):
            close(one[mask], theirs[mask])


def norm(state, name, x):
    mean, spread = x.mean(), x.var()
    return (x - mean) / np.sqrt(spread + 1e-12) * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state, name, x):
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def attend(state, start, side, x, others, where):
    """One position looks at others, head by head: a definition, written out. `where`: the side of those looked at."""
    context, size = np.zeros(16), 8
    query = linear(state, f"{start}.attention_self.{side}query", x)
    keys = [linear(state, f"{start}.attention_self.{where}key", other) for other in others]
    values = [linear(state, f"{start}.attention_self.{where}value", other) for other in others]
    for head in range(2):
        part = slice(head * size, head * size + size)
        weights = np.exp([query[part] @ key[part] / np.sqrt(size) for key in keys])
        weights = weights / weights.sum()
        context[part] = sum(weight * value[part] for weight, value in zip(weights, values, strict=True))
    return norm(
        state,
        f"{start}.attention_output.{side}LayerNorm",
        x + linear(state, f"{start}.attention_output.{side}dense", context),
    )


def feed(state, start, side, x):
    inner = linear(state, f"{start}.intermediate.{side}dense", x)
    inner = np.array([number / 2 * (1 + math.erf(number / math.sqrt(2))) for number in inner])
    product = linear(state, f"{start}.output.{side}dense", inner)
    return norm(state, f"{start}.output.{side}LayerNorm", x + product)


def test_vilbert_is_its_definition_written_out():
    """Six sub-layers: the text alone, each looking at the other, each alone. Nothing is shared between the sides."""
    model, given = tiny_volta.network("vilbert", vilbert(1, 1)), tiny_volta.inputs(lengths=(6,))
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    ids, features, places = given.ids[0].tolist(), given.features[0].double().numpy(), given.places[0].double().numpy()
    table = {x: state[f"embeddings.{x}_embeddings.weight"] for x in ("word", "position", "token_type")}
    text = [table["word"][one] + table["position"][k] + table["token_type"][0] for k, one in enumerate(ids)]
    text = [norm(state, "embeddings.LayerNorm", x) for x in text]
    image = [
        norm(
            state,
            "v_embeddings.LayerNorm",
            linear(state, "v_embeddings.image_embeddings", seen)
            + linear(state, "v_embeddings.image_location_embeddings", place),
        )
        for seen, place in zip(features, places, strict=True)
    ]
    wanted = [(text, image)]
    for number, how in enumerate(("alone", "feed", "each other", "feed", "alone", "feed")):
        start = f"encoder.layer.{number}"
        before, seen = wanted[-1]
        if how == "feed":
            after = [feed(state, start, "", x) for x in before]
            beside = seen if number == 1 else [feed(state, start, "v_", x) for x in seen]
        elif how == "alone":
            after = [attend(state, start, "", x, before, "") for x in before]
            beside = seen if number == 0 else [attend(state, start, "v_", x, seen, "v_") for x in seen]
        else:
            after = [attend(state, start, "", x, seen, "v_") for x in before]
            beside = [attend(state, start, "v_", x, before, "") for x in seen]
        wanted.append((after, beside))
    with torch.inference_mode():
        found = model(given)
    for ours, (words, boxes) in zip(found, wanted, strict=True):
        close(ours["text"][0], torch.from_numpy(np.stack(words)).float())
        close(ours["vision"][0], torch.from_numpy(np.stack(boxes)).float())


# --- the published layouts


PUBLISHED = {
    "lxmert": {
        "tt": [0, 2, 4, 6, 8, 10, 12, 14, 16, 19, 22, 25, 28, 31],
        "tv": [18, 21, 24, 27, 30],
        "vt": [18, 21, 24, 27, 30],
        "vv": [0, 2, 4, 6, 8, 19, 22, 25, 28, 31],
        "t_ff": [1, 3, 5, 7, 9, 11, 13, 15, 17, 20, 23, 26, 29, 32],
        "v_ff": [1, 3, 5, 7, 9, 20, 23, 26, 29, 32],
        "shared": [18, 21, 24, 27, 30],
    },
    "vilbert": {
        "tt": [0, 2, 4, 6, 8, 10, 14, 18, 22, 26, 30, 34],
        "tv": [12, 16, 20, 24, 28, 32],
        "vt": [12, 16, 20, 24, 28, 32],
        "vv": [14, 18, 22, 26, 30, 34],
        "t_ff": list(range(1, 36, 2)),
        "v_ff": list(range(13, 36, 2)),
        "shared": [],
    },
    **{
        kind: dict.fromkeys(("tt", "tv", "vt", "vv"), list(range(0, 24, 2)))
        | {"t_ff": list(range(1, 24, 2)), "v_ff": list(range(1, 24, 2)), "shared": list(range(24))}
        for kind in ONE
    },
}
"""e-bug/volta, config/ctrl_*.json."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_controlled_layouts_are_those_published(kind):
    found = CONTROLLED[kind]
    assert {name: sorted(getattr(found, name)) for name in LISTS} == PUBLISHED[kind]
    assert found.one_stream == (kind in ONE)
    blocks = {"lxmert": (14, 10), "vilbert": (18, 12)}.get(kind, (12, 12))
    assert (len(found.blocks("text")), len(found.blocks("vision"))) == blocks


def test_streams_are_one_only_where_all_is_shared():
    plain = one_stream(2)
    assert plain.one_stream
    apart = SubLayers(**{name: getattr(plain, name) for name in LISTS if name != "shared"}, shared=frozenset({0, 1, 2}))
    assert not apart.one_stream
