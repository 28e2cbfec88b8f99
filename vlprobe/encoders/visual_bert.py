"""VisualBERT (Li et al. 2019): text and image regions in one stream `joint`."""

from __future__ import annotations

import torch

from vlprobe.device import moved
from vlprobe.digest import digest
from vlprobe.encoders.boxes import LAYER, RegionBatch, RegionReader
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.one_stream import OneStream
from vlprobe.encoders.processors import load_tokenizer
from vlprobe.encoders.taps import residual_blocks, tap
from vlprobe.encoders.text import Pieces, TextReader
from vlprobe.errors import CheckpointError
from vlprobe.exact import as_asked
from vlprobe.regions.source import RegionSource

CLASSES = {"visual_bert": "VisualBertModel"}
STAGES = {
    "VisualBertForQuestionAnswering": "vqa",
    "VisualBertForVisualReasoning": "nlvr2",
    "VisualBertForMultipleChoice": "vcr",
    "VisualBertForRegionToPhraseAlignment": "flickr30k",
}
"""Class that a configuration names -> what its checkpoint was tuned for."""


class VisualBert(OneStream):
    """BERT over words and regions, none of which is told where in the image it lies.

    Every region has token type 1 and position 0 of the tables of its own. Published checkpoints read features of width
    2048 (VQA; the bottom-up detector), 1024 (NLVR2) or 512 (VCR), and were trained with BERT's uncased vocabulary.

    Raises:
        CheckpointError: the checkpoint is incomplete, has no fitting tokenizer, or other regions.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, regions: RegionSource) -> None:
        loaded = load_network(checkpoint, CLASSES, device)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        if config.bypass_transformer:
            raise CheckpointError(
                f"{checkpoint.source} leads its regions past all blocks but one more (bypass_transformer in its "
                "config.json), so that its layers have no regions; probe a checkpoint that does not"
            )
        self.blocks = residual_blocks(self.model, ("encoder.layer",), config.num_hidden_layers)
        self.images = RegionReader(regions, config.visual_embedding_dim, checkpoint.source)
        tokenizer = load_tokenizer(checkpoint, config.vocab_size, "bert-base-uncased")
        self.text = TextReader(tokenizer, config.max_position_embeddings)
        self.revision = digest(checkpoint.revision, regions.revision)
        self.stage = next((STAGES[name] for name in config.architectures or () if name in STAGES), self.stage)
        self.left_out = loaded.left_out
        names = [f"joint.{index}" for index in range(len(self.blocks) + 1)]
        if self.pooler:
            names.append("joint.pooler")
        else:
            self.left_out += ("joint.pooler is not offered: the checkpoint has no weights for it",)
        self.layers = {LAYER: config.visual_embedding_dim} | dict.fromkeys(names, config.hidden_size)

    def stream(self, pieces: Pieces | None, regions: RegionBatch | None) -> dict[str, torch.Tensor]:
        """Return the residual stream over text and regions, and the pooler's output where there is a text."""
        if pieces is not None:
            ids, mask = pieces.ids, pieces.mask.long()
        else:
            ids = mask = torch.zeros(len(regions.mask) if regions else 0, 0, dtype=torch.long)
        image = {}
        if regions is not None:
            image = {"visual_embeds": regions.features, "visual_attention_mask": regions.mask.long()}
        # Both given, as they would else come from buffers that no checkpoint holds.
        known = {"token_type_ids": torch.zeros_like(ids), "position_ids": torch.arange(ids.shape[1])[None]}
        inputs = {"input_ids": ids, "attention_mask": mask, **known, **image}
        with as_asked(self.device), tap(self.blocks) as states:
            output = self.model(**{name: moved(tensor, self.device) for name, tensor in inputs.items()})
        layers = {f"joint.{index}": state for index, state in enumerate(states)}
        if self.pooler and pieces is not None:
            layers["joint.pooler"] = output.pooler_output
        return layers
