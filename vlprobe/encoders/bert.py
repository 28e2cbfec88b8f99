"""BERT and its kin (RoBERTa, DistilBERT, ALBERT, DeBERTa, ...): text only, one stream `language`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from vlprobe.device import moved
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.processors import load_tokenizer
from vlprobe.encoders.taps import outputs, pooled, residual_blocks, tap
from vlprobe.encoders.text import TextReader, need_text, of_text
from vlprobe.exact import as_asked
from vlprobe.types import Example, Hidden

CLASSES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
    "distilbert": "DistilBertModel",
    "albert": "AlbertModel",
    "mpnet": "MPNetModel",
    "electra": "ElectraModel",
    "deberta": "DebertaModel",
    "deberta-v2": "DebertaV2Model",
    "modernbert": "ModernBertModel",
}
POOLING = ("bert", "roberta", "xlm-roberta", "camembert", "albert", "mpnet")
"""Model types that were given a pooler."""
OFFSET = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Model types that number positions from pad_token_id + 1 on (fairseq), so that 514 rows are 512 tokens."""


class Bert(Encoder):
    """A text encoder: `language.0` to `language.n`, `language.norm`, and `language.pooler` where it has one.

    Only ModernBERT has a `language.norm`: every block of the others ends with its own LayerNorm (Devlin et al. 2019).
    DeBERTa v2 of the larger sizes adds a convolution of the embeddings to what block 1 puts out; `language.1` holds it,
    as it is what block 2 reads. ALBERT runs one block many times: `language.k` is what it puts out the k-th time.

    Raises:
        CheckpointError: the checkpoint is incomplete or has no fitting tokenizer.
    """

    modalities = ("text",)
    needs = ("text",)
    classes: ClassVar[Mapping[str, str]] = CLASSES
    """Model type -> class of transformers."""
    places: ClassVar[tuple[str, ...]] = ("encoder.layer", "layers", "transformer.layer")
    """Where the blocks are."""
    norms: ClassVar[tuple[str, ...]] = ("final_norm",)
    """Where a norm behind the last block is, if there is one."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, self.classes, device)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        self.blocks = _shared(self.model) or residual_blocks(self.model, self.places, config.num_hidden_layers)
        convolution = getattr(getattr(self.model, "encoder", None), "conv", None)  # DeBERTa v2, of xlarge and xxlarge
        self.second = [] if convolution is None else [(convolution, 0)]
        self.normed = not set(self.norms).isdisjoint(dict(self.model.named_modules()))
        skipped = config.pad_token_id + 1 if checkpoint.model_type in OFFSET else 0
        tokenizer = load_tokenizer(checkpoint, config.vocab_size)
        if not self.masks:
            tokenizer.mask_token = None  # it was trained without one, whatever a tokenizer's file may name
        # BLOOM has no table of positions, and was trained with as many as its tokenizer says.
        limit = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
        self.reader = TextReader(tokenizer, limit - skipped)
        names = [*(f"language.{index}" for index in range(len(self.blocks) + 1))]
        names += ["language.norm"] * self.normed + ["language.pooler"] * self.pooler
        self.layers = dict.fromkeys(names, config.hidden_size)
        self.left_out = loaded.left_out
        if checkpoint.model_type in POOLING and not self.pooler:
            self.left_out += ("language.pooler is not offered: the checkpoint has no weights for it",)

    def lengths(self, batch: Sequence[Example]) -> list[float]:
        """Return the tokens of each text."""
        return list(self.reader.lengths(batch))

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the residual stream over the text and the tokens around it, what is normed, the pooler's output.

        Raises:
            BadRow: no text, more tokens than the model has positions, or a masked word and no mask token.
        """
        need_text(batch)
        pieces = self.reader.read(batch)
        with as_asked(self.device), tap(self.blocks, not self.second) as states, outputs(self.second) as second:
            output = self.run(moved(pieces.ids, self.device), moved(pieces.mask.long(), self.device))
        states[1:2] = second or states[1:2]
        positions = of_text(pieces)
        named = {f"language.{index}": state for index, state in enumerate(states)}
        if self.normed:
            named["language.norm"] = output.last_hidden_state
        hidden = [Hidden(layer, state, *positions) for layer, state in named.items()]
        return hidden + ([pooled("language.pooler", output.pooler_output)] if self.pooler else [])

    def run(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        """Run the model.

        Args:
            ids: (batch, position) token ids.
            mask: (batch, position) int64, 0 is padding.
        """
        return self.model(input_ids=ids, attention_mask=mask)


def _shared(model: Any) -> list[torch.nn.Module]:
    """Return ALBERT's blocks in the order in which they run, each as often as it does; of other models, none."""
    groups = getattr(getattr(model, "encoder", None), "albert_layer_groups", [])
    count = model.config.num_hidden_layers
    return [groups[index * len(groups) // count] for index in range(count)] if len(groups) else []
