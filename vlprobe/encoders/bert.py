"""BERT and its kin (RoBERTa, ELECTRA): text only, one stream `language`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.loading import load_network, load_tokenizer
from vlprobe.encoders.taps import pooled, residual_blocks, tap
from vlprobe.encoders.text import TextReader
from vlprobe.errors import BadRow
from vlprobe.exact import as_asked
from vlprobe.types import Example, Hidden

CLASSES = {"bert": "BertModel", "roberta": "RobertaModel", "electra": "ElectraModel"}


class Bert(Encoder):
    """A post-norm text encoder: `language.0` to `language.n`, and `language.pooler` where it has one.

    There is no `language.norm`: every block ends with its own LayerNorm (Devlin et al. 2019).

    Raises:
        CheckpointError: the checkpoint is incomplete or has no fitting tokenizer.
    """

    modalities = ("text",)
    needs = ("text",)

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, CLASSES, device)
        self.model, self.device, self.pooler = loaded.model, device, loaded.pooler
        config = self.model.config
        self.blocks = residual_blocks(self.model, ("encoder.layer", "layers"), config.num_hidden_layers)
        # RoBERTa numbers its positions from pad_token_id + 1 on (fairseq), so 514 rows are 512 tokens.
        skipped = config.pad_token_id + 1 if checkpoint.model_type == "roberta" else 0
        tokenizer = load_tokenizer(checkpoint, config.vocab_size)
        self.reader = TextReader(tokenizer, config.max_position_embeddings - skipped)
        self.layers = {f"language.{index}": config.hidden_size for index in range(len(self.blocks) + 1)}
        self.left_out = loaded.left_out
        if self.pooler:
            self.layers["language.pooler"] = config.hidden_size
        elif checkpoint.model_type != "electra":  # which was never given one
            self.left_out += ("language.pooler is not offered: the checkpoint has no weights for it",)

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the residual stream over [CLS] text [SEP], then the pooler's output.

        Raises:
            BadRow: no text, more tokens than the model has positions, or a masked word and no mask token.
        """
        for example in batch:
            if example.text is None:
                raise BadRow(
                    example.place or example.id, f"example {example.id} has no text, and this model reads text"
                )
        pieces = self.reader.read(batch)
        with as_asked(self.device), tap(self.blocks) as states:
            output = self.model(input_ids=pieces.ids.to(self.device), attention_mask=pieces.mask.long().to(self.device))
        nowhere = np.full((*pieces.role.shape, 4), np.nan, dtype=np.float32)
        hidden = [
            Hidden(f"language.{index}", state, pieces.role, pieces.word, nowhere) for index, state in enumerate(states)
        ]
        return hidden + ([pooled("language.pooler", output.pooler_output)] if self.pooler else [])
