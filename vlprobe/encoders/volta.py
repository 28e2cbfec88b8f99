"""volta's controlled models (Bugliarello et al. 2021): ViLBERT, LXMERT, VL-BERT, VisualBERT, UNITER, trained alike."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from vlprobe.device import moved
from vlprobe.digest import digest
from vlprobe.encoders.boxes import LAYER, REGIONS, RegionBatch, RegionEncoder, RegionReader, nothing
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.distinct import Distinct, distinct
from vlprobe.encoders.gated import GatedNetwork
from vlprobe.encoders.gated_embeddings import IMAGE_EMBEDDINGS, Inputs, Side
from vlprobe.encoders.gated_layouts import TITLES, read_gated
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.processors import load_tokenizer
from vlprobe.encoders.taps import pooled
from vlprobe.encoders.text import Pieces, Positions, TextReader, need_text_or_image, of_text
from vlprobe.errors import BadRow
from vlprobe.exact import as_asked
from vlprobe.regions.source import RegionSource
from vlprobe.types import ROLES, Example, Hidden, Modality

POOLERS = ("language.pooler", "vision.pooler", "joint.pooler")
ALONE = ("uniter", "visualbert")
"""Kinds that read a text without an image, and an image without a text."""
STAGES = {
    "TASK1": "vqa",
    **dict.fromkeys(["TASK5", "TASK6"], "vcr"),
    **dict.fromkeys(["TASK7", "TASK8", "TASK20"], "retrieval"),
    "TASK9": "refcoco",
    "TASK10": "refcoco+",
    "TASK11": "refcocog",
    "TASK12": "nlvr2",
    "TASK13": "visual-entailment",
    "TASK15": "gqa",
}
"""Name of a head -> what it was tuned for (e-bug/volta, config_tasks/all_trainval_tasks.yml)."""


class Volta(RegionEncoder):
    """One of five architectures: `regions.0`, its blocks, and what its heads read.

    UNITER, VisualBERT and VL-BERT have one stream, `joint.0` to `joint.12`: the text, the image's global feature, the
    boxes. LXMERT and ViLBERT have two, `language.0` to `.14` or `.18`, and `vision.0` to `.10` or `.12`: block k of a
    stream ends where it was fed forward for the k-th time. All have `language.pooler`, of [CLS], `vision.pooler`, of
    the global feature, and `joint.pooler`, their product. What a stream of two does before it looks at the other is
    done once for a text, or an image, that several examples of a batch hold.

    The global feature is no region: `regions.0` has none, and no pooling over regions takes it. In a stream of the
    image alone it is what stands for the image, of role `cls`; in `joint`, where [CLS] is, it has no role.

    UNITER and VisualBERT read a text or an image alone. The others do not: where a stream looks at nothing but the
    other, softmax would make a mean of padding, and the words of VL-BERT hold a part of the image.

    Raises:
        CheckpointError: the checkpoint is incomplete, has no fitting tokenizer, or other regions.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, regions: RegionSource) -> None:
        loaded = load_network(checkpoint, {"volta": GatedNetwork}, device, read_gated(checkpoint))
        self.model, self.device = loaded.model, device
        config, sublayers = self.model.config, self.model.sublayers
        self.kind, self.one_stream = config.image_embeddings, sublayers.one_stream
        self.apart = self.kind in IMAGE_EMBEDDINGS and not self.one_stream
        self.neighbours = self.apart and any(number < sublayers.alone for number in sublayers.vv)
        self.needs = () if self.one_stream and self.kind in ALONE else ("text", "image")
        self.images = RegionReader(regions, config.v_feature_size, checkpoint.source)
        tokenizer = load_tokenizer(checkpoint, config.vocab_size, "bert-base-uncased")
        # In VL-BERT the two positions behind the text are those of boxes.
        behind = 2 if self.kind == "vl-bert" else 0
        self.text = TextReader(tokenizer, config.max_position_embeddings - behind)
        self.revision = digest(checkpoint.revision, regions.revision)
        self.stage = stage(loaded.heads)
        self.left_out = (f"architecture: {TITLES[self.kind]}", *loaded.left_out)
        # What the embeddings put out is 0, what sub-layer n puts out is n + 1.
        self.blocks = {
            stream: [0, *(number + 1 for number in sublayers.blocks(side))]
            for stream, side in (("language", "text"), ("vision", "vision"))
        }
        if self.one_stream:
            self.blocks = {"joint": self.blocks["language"]}
        self.reads = dict(REGIONS)
        if self.apart:
            sides: dict[str, tuple[Modality, ...]] = {"language": ("text",), "vision": ("image",)}
            self.reads |= {
                f"{stream}.{k}": sides[stream]
                for stream, ends in self.blocks.items()
                for k, end in enumerate(ends)
                if end <= sublayers.alone
            }
            self.reads |= dict.fromkeys((*sides, "joint"), self.needs)
        names = [f"{stream}.{k}" for stream, ends in self.blocks.items() for k in range(len(ends))]
        self.layers = {LAYER: config.v_feature_size} | dict.fromkeys(names, config.hidden_size)
        self.layers |= dict.fromkeys(POOLERS, config.pooler_size)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the region features, the states of every stream, the poolers' output.

        Given one side alone, the layers that need the other have no positions.

        Raises:
            BadRow: neither text nor image, a text alone where no layer reads just that, or not the same of both
                throughout; an image without regions; a text of more tokens than the model has positions.
        """
        pairs = self._pairs(batch)
        pieces, seen = self._read(batch, pairs["vision"])
        states: dict[str, torch.Tensor] = {}
        if self.apart or not self.needs or (pieces and seen):
            states = self.states(inputs(pieces and pieces.once(pairs["text"]), seen), pairs)
        regions = seen and seen.on(self.device).each(pairs["vision"])
        known = self._positions(pieces, regions)
        hidden = [regions.hidden() if regions else self._nothing(LAYER, batch)]
        for layer in list(self.layers)[1:]:
            if layer not in states:
                hidden.append(self._nothing(layer, batch))
            elif layer in POOLERS:
                hidden.append(pooled(layer, states[layer]))
            else:
                hidden.append(Hidden(layer, states[layer], *known[layer.partition(".")[0]]))
        return hidden

    def states(self, given: Inputs, pairs: Mapping[Side, Distinct] = MappingProxyType({})) -> dict[str, torch.Tensor]:
        """Run the model on tensors.

        Args:
            given: a batch; of a side that is in `pairs`, each text or image once.
            pairs: of each side, which of them meet in the batch.

        Returns:
            Address -> (batch, position, width), in `joint` the text with its padding first; of a pooler (batch, width).
        """
        on = Inputs(*(None if one is None else moved(one, self.device) for one in vars(given).values()))
        with as_asked(self.device):
            found = self.model(on, pairs)
            whole = len(found) > self.model.sublayers.count
            layers: dict[str, torch.Tensor] = dict(self.model.pooled(found[-1])) if whole else {}
            for stream, ends in self.blocks.items():
                sides = {"language": ("text",), "vision": ("vision",), "joint": ("text", "vision")}[stream]
                if there := [side for side in sides if side in found[0]]:
                    for k, end in enumerate(ends[: bisect(ends, len(found) - 1)]):
                        layers[f"{stream}.{k}"] = torch.cat([found[end][side] for side in there], dim=1)
        return layers

    def _pairs(self, batch: Sequence[Example]) -> dict[Side, Distinct]:
        """Return which texts and which images meet in a batch: where both are embedded as one, each is its own."""
        if self.apart:
            return {"text": distinct(one.text for one in batch), "vision": distinct(one.image for one in batch)}
        own = distinct(range(len(batch)))
        return {"text": own, "vision": own}

    def _read(self, batch: Sequence[Example], images: Distinct) -> tuple[Pieces | None, RegionBatch | None]:
        """Return the batch's texts, and the regions of its images, None for what none of its examples has."""
        need_text_or_image(batch)
        texts = [example for example in batch if example.text is not None]
        if texts and len(texts) < len(batch):
            lone = next(example for example in batch if example.text is None)
            raise BadRow(lone.place or lone.id, f"example {lone.id} has no text, and others of its batch have one")
        pictured = any(example.image is not None for example in batch)
        if self.needs and not self.apart and not pictured:  # no layer reads the text alone
            lone = batch[0]
            why = f"example {lone.id} has no image, and controlled {TITLES[self.kind]} needs one"
            raise BadRow(lone.place or lone.id, why)
        regions = self.images.read([batch[place] for place in images.first]) if pictured else None
        return self.text.read(batch) if texts else None, regions

    def _positions(self, pieces: Pieces | None, regions: RegionBatch | None) -> dict[str, Positions]:
        """Return stream -> what its positions are."""
        words = of_text(pieces) if pieces else None
        boxes = of_image(regions, "" if self.one_stream else "cls") if regions else None
        if self.one_stream:
            return {"joint": beside(part for part in (words, boxes) if part)}
        return {stream: part for stream, part in (("language", words), ("vision", boxes)) if part}

    def _nothing(self, layer: str, batch: Sequence[Example]) -> Hidden:
        return nothing(layer, len(batch), self.layers[layer], self.device)


def inputs(pieces: Pieces | None, regions: RegionBatch | None) -> Inputs:
    """Return what the network reads: the text, and the image's regions behind the mean of their features.

    The fifth number of a place is its area; the mean's place is the whole image.
    """
    ids, mask = (pieces.ids, pieces.mask) if pieces else (None, None)
    if regions is None:
        return Inputs(ids, mask)
    whole = regions.features.sum(dim=1, keepdim=True) / regions.mask.sum(dim=1)[:, None, None]
    area = (regions.boxes[..., 2:] - regions.boxes[..., :2]).prod(dim=-1, keepdim=True)
    everywhere = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]).expand(len(whole), 1, -1)
    return Inputs(
        ids,
        mask,
        features=torch.cat([whole, regions.features], dim=1),
        places=torch.cat([everywhere, torch.cat([regions.boxes, area], dim=-1)], dim=1),
        image_mask=torch.cat([torch.ones(len(whole), 1, dtype=torch.bool), regions.mask], dim=1),
    )


def of_image(regions: RegionBatch, first: str) -> Positions:
    """Return what the positions of an image are, the global feature, of role `first`, before its regions."""
    shape = (len(regions.role), 1)
    role = np.concatenate([np.full(shape, ROLES.index(first), dtype=np.int8), regions.role], axis=1)
    box = np.concatenate([np.full((*shape, 4), np.nan, dtype=np.float32), regions.box], axis=1)
    return role, np.full(role.shape, -1, dtype=np.int32), box


def beside(parts: Iterable[Positions]) -> Positions:
    """Return what positions are that stand one behind the other."""
    role, word, box = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    return role, word, box


def stage(heads: Iterable[str]) -> str:
    """Return what a checkpoint was trained for, as its heads show it.

    Args:
        heads: names of the weights that are not the encoder's.
    """
    tuned = [name.split(".")[1] for name in heads if name.startswith("clfs_dict.")]
    return STAGES.get(tuned[0], tuned[0].lower()) if tuned else "pretrained"
