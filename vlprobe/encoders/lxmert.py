"""LXMERT (Tan and Bansal 2019): text and image regions in two streams, `language` and `vision`, that meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers

from vlprobe.device import moved
from vlprobe.digest import digest
from vlprobe.encoders.boxes import LAYER, REGIONS, RegionEncoder, RegionReader, nothing
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.distinct import Distinct, distinct
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.originals import Original, read_released, settle
from vlprobe.encoders.processors import load_tokenizer
from vlprobe.encoders.taps import padding_bias, pooled, residual_blocks
from vlprobe.encoders.text import TextReader, need_text, need_text_or_image, of_text
from vlprobe.exact import as_asked
from vlprobe.regions.source import RegionSource
from vlprobe.types import Example, Hidden, Modality

CLASSES = {"lxmert": "LxmertModel"}
BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "l_layers": 9,
    "x_layers": 5,
    "r_layers": 5,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "visual_feat_dim": 2048,
    "visual_pos_dim": 4,
}
"""Sizes of the published model."""
GQA_ANSWERS = 1842
"""Answers of the checkpoints tuned on GQA; those tuned on VQA have 3129."""


@dataclass(frozen=True)
class StreamStates:
    """What the model makes of a batch."""

    language: tuple[torch.Tensor, ...]
    """(batch, text position, width) each: embeddings, language layers, cross layers; empty: there was no text."""
    vision: tuple[torch.Tensor, ...]
    """(batch, region, width) each: embeddings, object layers, cross layers; empty: there was no image."""
    pooler: torch.Tensor | None
    """(batch, width): of the last language state's [CLS], where it has met an image."""


class Lxmert(RegionEncoder):
    """A two-stream transformer: `regions.0`, `language.0` to `.n`, `vision.0` to `.m`, `language.pooler`.

    The last layers of both streams are the cross layers: with 9 language, 5 object and 5 cross layers, cross layer k
    gives `language.(9+k)` and `vision.(5+k)`. The cross layers cannot run one stream alone, so both inputs are needed.
    The layers below them read one side alone, and run once for a text, or an image, that several examples hold.
    Any number of regions is taken (trained with 36), and texts up to the 512 positions (the original's fine-tuning
    cuts them to 20 tokens; here none is cut).

    Raises:
        CheckpointError: the checkpoint is incomplete, has no fitting tokenizer, or other regions.
    """

    needs: tuple[Modality, ...] = ("text", "image")
    neighbours = True

    def __init__(self, checkpoint: Checkpoint, device: torch.device, regions: RegionSource) -> None:
        released = read_original(checkpoint) if checkpoint.file else None
        loaded = load_network(checkpoint, CLASSES, device, released)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        self.images = RegionReader(regions, config.visual_feat_dim, checkpoint.source)
        tokenizer = load_tokenizer(checkpoint, config.vocab_size, "bert-base-uncased")
        self.text = TextReader(tokenizer, config.max_position_embeddings)
        self.blocks = {
            part: residual_blocks(self.model, (f"encoder.{path}",), count)
            for part, path, count in (
                ("language", "layer", config.l_layers),
                ("vision", "r_layers", config.r_layers),
                ("cross", "x_layers", config.x_layers),
            )
        }
        self.reads = {
            **REGIONS,
            **{f"language.{k}": ("text",) for k in range(1 + len(self.blocks["language"]))},
            **{f"vision.{k}": ("image",) for k in range(1 + len(self.blocks["vision"]))},
            **dict.fromkeys(("language", "vision"), self.needs),
        }
        self.revision = digest(checkpoint.revision, regions.revision)
        self.stage = stage(loaded.heads, config.hidden_size, config.num_qa_labels)
        self.left_out = loaded.left_out
        names = [
            f"{stream}.{k}"
            for stream in ("language", "vision")
            for k in range(1 + len(self.blocks[stream]) + len(self.blocks["cross"]))
        ]
        if self.pooler:
            names.append("language.pooler")
        else:
            self.left_out += ("language.pooler is not offered: the checkpoint has no weights for it",)
        self.layers = {LAYER: config.visual_feat_dim} | dict.fromkeys(names, config.hidden_size)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the region features, the states of both streams, the pooler's output.

        Given one side alone, the layers that read the other have no positions.

        Raises:
            BadRow: neither text nor image, or not the same of both throughout; an image without regions; a text of more
                tokens than the model has positions.
        """
        need_text_or_image(batch)
        texts, images = distinct(one.text for one in batch), distinct(one.image for one in batch)
        pieces = regions = None
        given: dict[str, torch.Tensor] = {}
        if any(one.text is not None for one in batch):
            need_text(batch)
            pieces = self.text.read(batch)
            once = pieces.once(texts)
            given = {"ids": once.ids, "text_mask": once.mask}
        if any(one.image is not None for one in batch):
            seen = self.images.read([batch[place] for place in images.first]).on(self.device)
            given |= {"features": seen.features, "boxes": seen.boxes, "region_mask": seen.mask}
            regions = seen.each(images)
        found = self.states(**given, pairs=(texts, images))
        states = {f"language.{k}": state for k, state in enumerate(found.language)}
        states |= {f"vision.{k}": state for k, state in enumerate(found.vision)}
        what = {"language": of_text(pieces)} if pieces else {}
        hidden = []
        if regions:
            what["vision"] = regions.role, np.full(regions.role.shape, -1, dtype=np.int32), regions.box
            hidden.append(regions.hidden())
        for layer, width in list(self.layers.items())[len(hidden) :]:
            if layer == "language.pooler" and found.pooler is not None:
                hidden.append(pooled(layer, found.pooler))
            elif layer in states:
                hidden.append(Hidden(layer, states[layer], *what[layer.partition(".")[0]]))
            else:
                hidden.append(nothing(layer, len(batch), width, self.device))
        return hidden

    def states(
        self,
        ids: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
        pairs: tuple[Distinct, Distinct] | None = None,
    ) -> StreamStates:
        """Run the model on tensors, block by block: below the cross layers, each stream by itself.

        Args:
            ids: (text, text position) token ids, [CLS] first; None: there is no text.
            text_mask: (text, text position), 0 is padding.
            features: (image, region, width of the region features); None: there is no image.
            boxes: (image, region, 4): x1, y1, x2, y2 as fractions of the image.
            region_mask: (image, region), 0 is padding; None: all are regions.
            segments: (text, text position) rows of the table of token types; None: all 0.
            pairs: which texts and which images meet in the batch; None: each text the image of the same row.
        """
        network, language, vision = self.model, [], []
        words, seen = (
            None if mask is None else padding_bias(moved(mask, self.device).bool()) for mask in (text_mask, region_mask)
        )
        with as_asked(self.device):
            if ids is not None:
                ids = moved(ids, self.device)
                types = torch.zeros_like(ids) if segments is None else moved(segments, self.device)
                language = self._alone("language", network.embeddings(ids, types), words)
            if features is not None and boxes is not None:
                given = moved(features, self.device), moved(boxes, self.device)
                vision = self._alone("vision", network.encoder.visn_fc(*given), seen)
            if pairs is not None:
                texts, images = pairs
                language, vision = [texts.each(one) for one in language], [images.each(one) for one in vision]
                words, seen = words if words is None else texts.each(words), seen if seen is None else images.each(seen)
            if not (language and vision):
                return StreamStates(tuple(language), tuple(vision), None)
            for block in self.blocks["cross"]:
                met = block(language[-1], words, vision[-1], seen)
                language.append(met[0])
                vision.append(met[1])
            return StreamStates(tuple(language), tuple(vision), network.pooler(language[-1]))

    def _alone(self, stream: str, embedded: torch.Tensor, bias: torch.Tensor | None) -> list[torch.Tensor]:
        """Return what a stream has before it meets the other, and what each of its blocks below puts out."""
        found = [embedded]
        for block in self.blocks[stream]:
            found.append(block(found[-1], bias)[0])
        return found


def read_original(checkpoint: Checkpoint) -> Original:
    """Read a released checkpoint; transformers has taken over the names inside the encoder.

    Raises:
        CheckpointError: it cannot be read, is of another model, or of sizes that cannot be known.
    """
    released = read_released(checkpoint, "lxmert")
    sizes = {
        "vocab_size": released.size("embeddings.word_embeddings.weight", 0),
        "hidden_size": released.size("embeddings.LayerNorm.weight", 0),
        "l_layers": released.count("encoder.layer."),
        "x_layers": released.count("encoder.x_layers."),
        "r_layers": released.count("encoder.r_layers."),
        "intermediate_size": released.size("encoder.x_layers.0.lang_inter.dense.weight", 0),
        "max_position_embeddings": released.size("embeddings.position_embeddings.weight", 0),
        "type_vocab_size": released.size("embeddings.token_type_embeddings.weight", 0),
        "visual_feat_dim": released.size("encoder.visn_fc.visn_fc.weight", 1),
        "visual_pos_dim": released.size("encoder.visn_fc.box_fc.weight", 1),
    }
    values, notes = settle(checkpoint, sizes, BASE)
    return Original(transformers.LxmertConfig(**values), released.encoder, released.heads, notes)


def stage(heads: Mapping[str, Sequence[int]], width: int, answers: int) -> str:
    """Return what a checkpoint was trained for, as its heads show it.

    Args:
        heads: names of the weights that are not the encoder's -> shape, empty where it is not known.
        width: of the hidden states.
        answers: of the answer head, as the configuration says; a released file says it by shape.
    """
    first = {name.split(".")[0] for name in heads}
    if "logit_fc" in first:
        # lxmert/src/tasks/nlvr2_model.py: the head reads the poolers of two images, side by side.
        if heads.get("logit_fc.0.weight", (0, 0))[-1] == 2 * width:
            return "nlvr2"
        return "gqa" if heads.get("logit_fc.3.bias", (0,))[0] == GQA_ANSWERS else "vqa"
    if "answer_head" in first and not first & {"cls", "obj_predict_head"}:  # transformers' fine-tuned class
        return "gqa" if answers == GQA_ANSWERS else "vqa"
    return "pretrained"
