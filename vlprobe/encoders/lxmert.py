"""LXMERT (Tan and Bansal 2019): text and image regions in two streams, `language` and `vision`, that meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers

from vlprobe.device import moved
from vlprobe.digest import digest
from vlprobe.encoders.boxes import LAYER, RegionEncoder, RegionReader
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.originals import Original, read_released, settle
from vlprobe.encoders.processors import load_tokenizer
from vlprobe.encoders.taps import outputs, pooled
from vlprobe.encoders.text import TextReader, need_text, of_text
from vlprobe.exact import as_asked
from vlprobe.regions.source import RegionSource
from vlprobe.types import Example, Hidden

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
    """(batch, text position, width) each: embeddings, language layers, cross layers."""
    vision: tuple[torch.Tensor, ...]
    """(batch, region, width) each: embeddings, object layers, cross layers."""
    pooler: torch.Tensor
    """(batch, width): of the last language state's [CLS]."""


class Lxmert(RegionEncoder):
    """A two-stream transformer: `regions.0`, `language.0` to `.n`, `vision.0` to `.m`, `language.pooler`.

    The last layers of both streams are the cross layers: with 9 language, 5 object and 5 cross layers, cross layer k
    gives `language.(9+k)` and `vision.(5+k)`. The code cannot run one stream alone, so both inputs are needed.
    Any number of regions is taken (trained with 36), and texts up to the 512 positions (the original's fine-tuning
    cuts them to 20 tokens; here none is cut).

    Raises:
        CheckpointError: the checkpoint is incomplete, has no fitting tokenizer, or other regions.
    """

    needs = ("text", "image")

    def __init__(self, checkpoint: Checkpoint, device: torch.device, regions: RegionSource) -> None:
        released = read_original(checkpoint) if checkpoint.file else None
        loaded = load_network(checkpoint, CLASSES, device, released)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config, encoder = self.model.config, self.model.encoder
        self.images = RegionReader(regions, config.visual_feat_dim, checkpoint.source)
        tokenizer = load_tokenizer(checkpoint, config.vocab_size, "bert-base-uncased")
        self.text = TextReader(tokenizer, config.max_position_embeddings)
        # transformers gives no embedding outputs among its hidden states; a cross layer gives (language, vision).
        cross = list(encoder.x_layers)
        self.language = [(self.model.embeddings, 0), *((block, 0) for block in (*encoder.layer, *cross))]
        self.vision = [(encoder.visn_fc, 0), *((block, 0) for block in encoder.r_layers), *((x, 1) for x in cross)]
        self.revision = digest(checkpoint.revision, regions.revision)
        self.stage = stage(loaded.heads, config.hidden_size, config.num_qa_labels)
        self.left_out = loaded.left_out
        names = [*(f"language.{k}" for k in range(len(self.language)))]
        names += [*(f"vision.{k}" for k in range(len(self.vision)))]
        if self.pooler:
            names.append("language.pooler")
        else:
            self.left_out += ("language.pooler is not offered: the checkpoint has no weights for it",)
        self.layers = {LAYER: config.visual_feat_dim} | dict.fromkeys(names, config.hidden_size)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the region features, the states of both streams, the pooler's output.

        Raises:
            BadRow: no text or no image; an image without regions; a text of more tokens than the model has positions.
        """
        need_text(batch)
        regions, pieces = self.images.read(batch).on(self.device), self.text.read(batch)
        found = self.states(pieces.ids, pieces.mask, regions.features, regions.boxes, regions.mask)
        positions = of_text(pieces)
        wordless = np.full(regions.role.shape, -1, dtype=np.int32)
        hidden = [regions.hidden()]
        for k, state in enumerate(found.language):
            hidden.append(Hidden(f"language.{k}", state, *positions))
        for k, state in enumerate(found.vision):
            hidden.append(Hidden(f"vision.{k}", state, regions.role, wordless, regions.box))
        return hidden + ([pooled("language.pooler", found.pooler)] if self.pooler else [])

    def states(
        self,
        ids: torch.Tensor,
        text_mask: torch.Tensor,
        features: torch.Tensor,
        boxes: torch.Tensor,
        region_mask: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
    ) -> StreamStates:
        """Run the model on tensors.

        Args:
            ids: (batch, text position) token ids, [CLS] first.
            text_mask: (batch, text position), 0 is padding.
            features: (batch, region, width of the region features).
            boxes: (batch, region, 4): x1, y1, x2, y2 as fractions of the image.
            region_mask: (batch, region), 0 is padding; None: all are regions.
            segments: (batch, text position) rows of the table of token types; None: all 0.
        """
        with as_asked(self.device), outputs(self.language) as language, outputs(self.vision) as vision:
            output = self.model(
                input_ids=moved(ids, self.device),
                attention_mask=moved(text_mask.float(), self.device),
                visual_feats=moved(features, self.device),
                visual_pos=moved(boxes, self.device),
                visual_attention_mask=None if region_mask is None else moved(region_mask.float(), self.device),
                token_type_ids=None if segments is None else moved(segments, self.device),
            )
        return StreamStates(tuple(language), tuple(vision), output.pooled_output)


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
