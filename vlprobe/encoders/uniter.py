"""UNITER (Chen et al. 2020): text and image regions in one stream `joint`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers.models.bert.modeling_bert import BertEmbeddings, BertEncoder, BertPooler

from vlprobe.device import moved
from vlprobe.digest import digest
from vlprobe.encoders.boxes import LAYER, RegionBatch, RegionReader
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.one_stream import OneStream
from vlprobe.encoders.originals import Original, read_config, read_released, settle
from vlprobe.encoders.processors import load_tokenizer
from vlprobe.encoders.taps import padding_bias, tap
from vlprobe.encoders.text import Pieces, TextReader
from vlprobe.errors import CheckpointError
from vlprobe.exact import as_asked
from vlprobe.regions.source import RegionSource

REGION = 1
"""Row of the table of token types; 0 is text. Row 2, in checkpoints tuned on NLVR2, is a pair's second image."""
LOCATION = 7
"""Numbers that say where a region is: x1, y1, x2, y2, width, height, area."""
BASE = {
    "vocab_size": 28996,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "img_dim": 2048,
}
"""Sizes of UNITER-base; 2048 is the width of bottom-up attention's features."""
PADDING = 8
"""One position in so many of a group may be padding."""
EPSILON = 1e-12
"""Of all LayerNorms (ChenRocks/UNITER, model/model.py)."""
ENTAILMENT = 3
"""Classes of SNLI-VE, whose head is otherwise that of VQA."""
UNTRAINED_POOLER = (
    "joint.pooler: its weights are those of pretraining; the NLVR2 head of this checkpoint pools by attention and did "
    "not train them"
)


@dataclass(frozen=True)
class RegionTensors:
    """Regions as the network takes them."""

    features: torch.Tensor
    """(batch, region, img_dim) float32."""
    locations: torch.Tensor
    """(batch, region, 7) float32: x1, y1, x2, y2, width, height as fractions of the image, and their area."""
    mask: torch.Tensor
    """(batch, region), 0 is padding."""
    types: torch.Tensor | None = None
    """(batch, region) rows of the table of token types; None: all 1."""
    hidden: torch.Tensor | None = None
    """(batch, region), 1 where pretraining hides a region: its features become the mask embedding."""


@dataclass(frozen=True)
class JointStates:
    """What the model makes of a batch: positions are text with its padding, then regions with theirs."""

    layers: dict[str, torch.Tensor]
    """Address -> (batch, position, width); of `joint.pooler`: (batch, width)."""
    mask: torch.Tensor
    """(batch, position) bool, of the host: False is padding."""


class Uniter(OneStream):
    """BERT over words and regions, each region with seven numbers that say where it is.

    `encode` gives every image token type 1, also to checkpoints tuned on NLVR2, as Salin et al. (2022) did.

    Raises:
        CheckpointError: the checkpoint is incomplete, has no fitting tokenizer, or other regions.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, regions: RegionSource) -> None:
        released = read_original(checkpoint)
        loaded = load_network(checkpoint, {"uniter": UniterNetwork}, device, released)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        self.images = RegionReader(regions, config.img_dim, checkpoint.source)
        tokenizer = load_tokenizer(checkpoint, config.vocab_size, "bert-base-cased")
        self.text = TextReader(tokenizer, config.max_position_embeddings)
        self.revision = digest(checkpoint.revision, regions.revision)
        self.stage = stage(loaded.heads)
        self.left_out = loaded.left_out
        self.layers = {LAYER: config.img_dim}
        self.layers |= {f"joint.{index}": config.hidden_size for index in range(config.num_hidden_layers + 1)}
        if not self.pooler:
            self.left_out += ("joint.pooler is not offered: the checkpoint has no weights for it",)
            return
        self.layers["joint.pooler"] = config.hidden_size
        if any(name.startswith("attn_pool.") for name in loaded.heads):
            self.left_out += (UNTRAINED_POOLER,)

    def stream(self, pieces: Pieces | None, regions: RegionBatch | None) -> dict[str, torch.Tensor]:
        """Return the residual stream over text and regions, and the pooler's output where there is a text."""
        tensors = RegionTensors(regions.features, locations(regions.boxes), regions.mask) if regions else None
        return self.states((pieces.ids, pieces.mask) if pieces else None, tensors).layers

    def states(
        self, text: tuple[torch.Tensor, torch.Tensor] | None = None, regions: RegionTensors | None = None
    ) -> JointStates:
        """Run the model on tensors: BERT's blocks over [text embeddings | region embeddings].

        Args:
            text: (batch, text position) token ids with [CLS] first, and their mask, 0 is padding; None: regions alone.
            regions: None: text alone.
        """
        parts, masks = [], []
        with as_asked(self.device):
            table = self.model.embeddings.token_type_embeddings.weight
            if text is not None:
                ids = moved(text[0], self.device)
                order = torch.arange(ids.shape[1], device=self.device)[None]
                # Both given, as BertEmbeddings would else take them from buffers that no checkpoint holds.
                parts.append(self.model.embeddings(ids, token_type_ids=torch.zeros_like(ids), position_ids=order))
                masks.append(text[1].bool())
            if regions is not None:
                shape = regions.features.shape[:2]
                types = torch.full(shape, REGION) if regions.types is None else regions.types
                hidden = None if regions.hidden is None else moved(regions.hidden.bool(), self.device)
                features, places = moved(regions.features, self.device), moved(regions.locations, self.device)
                parts.append(self.model.img_embeddings(features, places, table[moved(types, self.device)], hidden))
                masks.append(regions.mask.bool())
            stream, mask = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
            layers = self._blocks(stream, mask)
            if self.pooler and text is not None:
                layers["joint.pooler"] = self.model.pooler(layers[f"joint.{len(layers) - 1}"])
        return JointStates(layers, mask)

    def _blocks(self, stream: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return address -> the residual stream (batch, position, width), 0 in padding.

        As in the original, each row's regions are moved up to its last word; without relative positions that changes
        no state. Rows of about one length then run together, for images differ in their number of boxes by ten times.

        Args:
            stream: (batch, position, width).
            mask: (batch, position) bool, of the host, which would else have to wait for it: False is padding.
        """
        layers = {f"joint.{index}": torch.zeros_like(stream) for index in range(len(self.model.encoder.layer) + 1)}
        order = torch.argsort(mask.int(), dim=1, descending=True, stable=True)
        lengths = mask.sum(dim=1).numpy()
        for rows in alike(lengths):
            place = torch.from_numpy(rows)[:, None]
            positions = order[place[:, 0], : int(lengths[rows].max())]
            seen = mask[place, positions]
            place, positions, seen = (moved(one, self.device) for one in (place, positions, seen))
            with tap(list(self.model.encoder.layer)) as states:
                self.model.encoder(stream[place, positions], attention_mask=padding_bias(seen))
            for state, layer in zip(states, layers.values(), strict=True):
                layer[place, positions] = state * seen[..., None]
        return layers


class UniterNetwork(transformers.BertPreTrainedModel):
    """The network, its weights named as in the released files.

    Text, blocks and pooler are BERT's; the original's own are copies of them.
    """

    config_class = transformers.BertConfig
    base_model_prefix = "uniter"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.img_embeddings = RegionEmbeddings(config.img_dim, config.hidden_size)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config)
        self.post_init()


class RegionEmbeddings(nn.Module):
    """LN(LN(W feature) + LN(V location) + token type): three LayerNorms (UNITER, model/model.py)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.img_linear = nn.Linear(features, width)
        self.img_layer_norm = nn.LayerNorm(width, eps=EPSILON)
        self.pos_linear = nn.Linear(LOCATION, width)
        self.pos_layer_norm = nn.LayerNorm(width, eps=EPSILON)
        self.mask_embedding = nn.Embedding(2, features)
        self.LayerNorm = nn.LayerNorm(width, eps=EPSILON)

    def forward(
        self, features: torch.Tensor, places: torch.Tensor, types: torch.Tensor, hidden: torch.Tensor | None
    ) -> torch.Tensor:
        """Return (batch, region, width) embeddings.

        Args:
            features: (batch, region, img_dim).
            places: (batch, region, 7).
            types: (batch, region, width) token type embeddings, of the text's table.
            hidden: (batch, region) bool: whose features become row 1 of the mask embedding; row 0 counts as zero.
        """
        if hidden is not None:
            features = torch.where(hidden[..., None], self.mask_embedding.weight[1], features)
        seen = self.img_layer_norm(self.img_linear(features))
        return self.LayerNorm(seen + self.pos_layer_norm(self.pos_linear(places)) + types)


def alike(lengths: np.ndarray) -> list[np.ndarray]:
    """Return the rows in groups of neighbours in length, of whose positions at most one in `PADDING` is padding.

    Args:
        lengths: (row,) positions that are no padding, at least one each.
    """
    groups: list[np.ndarray] = []
    order = np.argsort(lengths, kind="stable")
    start = held = 0
    for end, length in enumerate(lengths[order].tolist()):
        if (held + length) * PADDING < length * (end + 1 - start) * (PADDING - 1):
            groups.append(order[start:end])
            start, held = end, 0
        held += length
    return [*groups, order[start:]]


def locations(boxes: torch.Tensor) -> torch.Tensor:
    """Return [x1, y1, x2, y2, w, h, w * h] of boxes [x1, y1, x2, y2], all as fractions of the image.

    Args:
        boxes: (batch, region, 4).
    """
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes, size, size.prod(dim=-1, keepdim=True)], dim=-1)


def read_original(checkpoint: Checkpoint) -> Original:
    """Read a released checkpoint; without one, for random weights, the sizes that config.json states.

    Raises:
        CheckpointError: it cannot be read, is of another model, or of sizes that cannot be known.
    """
    if checkpoint.file is None:
        _check_stated(checkpoint)
        values, notes = settle(checkpoint, {}, BASE)
        return Original(_config(values), {}, {}, notes)
    released = read_released(checkpoint, "uniter")
    if not any(name.startswith("img_embeddings.") for name in released.encoder):
        raise CheckpointError(
            f"{checkpoint.source}: {checkpoint.file} lacks all weights of img_embeddings: it is BERT, from which "
            "UNITER's pretraining starts (a uniter-*-init.pt); name a pretrained or fine-tuned file"
        )
    sizes = {
        "vocab_size": released.size("embeddings.word_embeddings.weight", 0),
        "hidden_size": released.size("embeddings.LayerNorm.weight", 0),
        "num_hidden_layers": released.count("encoder.layer."),
        "intermediate_size": released.size("encoder.layer.0.intermediate.dense.weight", 0),
        "max_position_embeddings": released.size("embeddings.position_embeddings.weight", 0),
        "type_vocab_size": released.size("embeddings.token_type_embeddings.weight", 0),
        "img_dim": released.size("img_embeddings.img_linear.weight", 1),
    }
    values, notes = settle(checkpoint, sizes, BASE)
    return Original(_config(values), released.encoder, released.heads, notes)


def stage(heads: Mapping[str, Sequence[int]]) -> str:
    """Return what a checkpoint was trained for, as its heads show it.

    Args:
        heads: names of the weights that are not the encoder's -> shape.
    """
    first = {name.split(".")[0] for name in heads}
    if "vqa_output" in first:
        answers = heads.get("vqa_output.3.bias", (0,))[0]
        return "visual-entailment" if answers == ENTAILMENT else "vqa"
    if "nlvr2_output" in first:
        return "nlvr2"
    return "retrieval" if "rank_output" in first else "pretrained"


def _check_stated(checkpoint: Checkpoint) -> None:
    """Refuse a config.json that does not state the sizes of a network of random weights."""
    stated = read_config(checkpoint)
    stated = {"img_dim": BASE["img_dim"]} | stated  # which the original never writes
    missing = [name for name in BASE if not isinstance(stated.get(name), int)]
    if missing:
        raise CheckpointError(
            f"{checkpoint.source}: {checkpoint.folder} holds neither a .pt or .safetensors file nor a config.json with "
            f"{', '.join(missing)}; random weights need one of them to know their sizes"
        )


def _config(values: Mapping[str, Any]) -> transformers.BertConfig:
    # Scores are computed in plain matrix products, as the original does.
    config = transformers.BertConfig(**values, layer_norm_eps=EPSILON)
    config._attn_implementation = "eager"
    return config
