"""Any model of transformers that is not in the table, as far as it can be understood: `auto:SOURCE`.

What is not known is assumed, and said in `usage`; the check at load tries it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from vlprobe.device import moved
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import ImageReader, pair
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.taps import tap
from vlprobe.encoders.text import Positions, TextReader, need_text, of_text
from vlprobe.encoders.towers import of_image
from vlprobe.errors import CheckpointError
from vlprobe.exact import as_asked
from vlprobe.types import Example, Hidden

CURE = "write an encoder for it in some thirty lines: docs/add-a-model.md"


class Auto(Encoder):
    """A text encoder, a decoder, or a vision transformer over patches, of a type that the table does not name.

    Layers: `language.0` to `.n` or `vision.0` to `.n`, and `.norm` where its last hidden state is not block n's.

    Raises:
        CheckpointError: the checkpoint is incomplete, or the model is not of a form that is understood here.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, {checkpoint.model_type: _class(checkpoint)}, device)
        self.model, self.device, self.source = loaded.model, device, checkpoint.source
        self.stream = self._stream()
        self.modalities = ("image",) if self.stream == "vision" else ("text",)
        self.needs = self.modalities
        path, self.blocks = self._blocks()
        config = self.model.config
        if self.stream == "vision":
            self.images = ImageReader(load_processor(checkpoint), checkpoint.source)
        else:
            tokenizer = load_tokenizer(checkpoint, config.vocab_size)
            self.masks = tokenizer.mask_token is not None
            # Some models number their positions from an offset on, and take fewer tokens than they have rows.
            limit = min(
                tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length)
            )
            self.text = TextReader(tokenizer, limit)
        states, last = self._look()
        width = {f"{self.stream}.{index}": state.shape[2] for index, state in enumerate(states)}
        self.normed = last.shape != states[-1].shape or not torch.equal(last, states[-1])
        self.layers = width | ({f"{self.stream}.norm": last.shape[2]} if self.normed else {})
        self.left_out = loaded.left_out
        self.usage = {"assumed": "; ".join(self._assumptions(path, type(self.blocks[0]).__name__))}

    def lengths(self, batch: Sequence[Example]) -> list[float]:
        """Return the tokens of each text; images all count alike."""
        return super().lengths(batch) if self.stream == "vision" else list(self.text.lengths(batch))

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the residual stream, and the last hidden state where it is another.

        Raises:
            BadRow: no text, or no image, or one that the model cannot take.
        """
        inputs, positions = self._read(batch)
        states, last = self._run(inputs)
        return [
            Hidden(layer, state, *positions)
            for layer, state in zip(self.layers, [*states, *[last] * self.normed], strict=True)
        ]

    def _read(self, batch: Sequence[Example]) -> tuple[dict[str, torch.Tensor], Positions]:
        """Return the inputs of the network, and what its positions are."""
        if self.stream == "vision":
            grid = self.images.grid(batch, pair(self.model.config.patch_size), None, self.before)
            return {"pixel_values": grid.pixels}, of_image(grid)
        need_text(batch)
        pieces = self.text.read(batch)
        return {"input_ids": pieces.ids, "attention_mask": pieces.mask.long()}, of_text(pieces)

    def _run(self, inputs: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the residual stream and the last hidden state."""
        with as_asked(self.device), tap(self.blocks) as states:
            output = self.model(**{name: moved(tensor, self.device) for name, tensor in inputs.items()})
        return states, output.last_hidden_state

    def _stream(self) -> str:
        """Return `language` or `vision`, by what the network takes.

        Raises:
            CheckpointError: it takes both, or has a second half that writes.
        """
        takes = inspect.signature(self.model.forward).parameters
        reads = [name for name in ("input_ids", "pixel_values") if name in takes]
        if len(reads) != 1 or self.model.config.is_encoder_decoder:
            what = (
                "encodes and decodes"
                if self.model.config.is_encoder_decoder
                else f"takes {' and '.join(reads) or 'neither'}"
            )
            raise self._not_understood(
                f"{what}, where auto understands what takes input_ids or pixel_values alone: which of its "
                "positions are words and which are patches cannot be guessed"
            )
        return "language" if reads == ["input_ids"] else "vision"

    def _blocks(self) -> tuple[str, list[nn.Module]]:
        """Return where the residual blocks are, and the blocks: the outermost list as long as the configuration says.

        Raises:
            CheckpointError: there is none, or there are several.
        """
        count = getattr(self.model.config, "num_hidden_layers", None)
        lists = {
            name: list(module)
            for name, module in self.model.named_modules()
            if isinstance(module, nn.ModuleList)
            and len(module) == count
            and len({type(block) for block in module}) == 1
        }
        depth = min((name.count(".") for name in lists), default=0)
        outermost = [name for name in lists if name.count(".") == depth]
        if len(outermost) != 1:
            found = f"several: {', '.join(outermost)}" if outermost else "none"
            raise self._not_understood(f"should have one list of {count} blocks of one kind, and has {found}")
        return outermost[0], lists[outermost[0]]

    def _look(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Run one drawn input, to see how many positions there are and whether the last state is normed."""
        from vlprobe.encoders.self_check import drawn

        example = drawn(self.modalities)
        if self.stream == "language":
            return self._run(self._read([example])[0])
        pixels, _ = self.images.stack([example])
        states, last = self._run({"pixel_values": pixels})
        patch = pair(self.model.config.patch_size)
        patches = (pixels.shape[2] // patch[0]) * (pixels.shape[3] // patch[1])
        self.before = states[0].shape[1] - patches if states[0].ndim == 3 else -1
        if self.before < 0:
            raise self._not_understood(
                f"makes states of shape {tuple(states[0].shape)} of an image with {patches} patches of "
                f"{patch[0]} x {patch[1]} pixels: where each position lies is not known"
            )
        return states, last

    def _assumptions(self, path: str, kind: str) -> list[str]:
        """Return what is taken for granted, in words."""
        said = [f"the residual stream is what the {len(self.blocks)} {kind} in {path} pass on"]
        if self.normed:
            said.append(f"{self.stream}.norm is the last hidden state, which is not that of block {len(self.blocks)}")
        if self.stream == "language":
            return [*said, "texts are padded on the right, and padding is masked by attention_mask"]
        leading = {0: "every position is a patch", 1: "the first position is the [CLS]"}.get(
            self.before, f"the first {self.before} positions are no patches, the first of them the [CLS]"
        )
        return [*said, leading, "patches stand row by row"]

    def _not_understood(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {type(self.model).__name__} {problem}; {CURE}")


def _class(checkpoint: Checkpoint) -> str:
    """Return the class of transformers without a head.

    Raises:
        CheckpointError: it has none.
    """
    kind: Any = MODEL_MAPPING_NAMES.get(checkpoint.model_type)
    if not isinstance(kind, str) or not hasattr(transformers, kind):
        raise CheckpointError(
            f"{checkpoint.source}: transformers {transformers.__version__} has no model without a head of type "
            f"'{checkpoint.model_type}'; {CURE}"
        )
    return kind
