"""Generative models: a decoder that reads an image as tokens among its words, and goes on writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from vlprobe.device import moved
from vlprobe.encoders.ahead import Ahead, readers
from vlprobe.encoders.boxes import nothing
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.distinct import distinct
from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import patch_roles
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.prompt import PromptReader, Prompts
from vlprobe.encoders.sight import Eye, Seen
from vlprobe.encoders.taps import outputs, residual_blocks, tap, tap_inputs
from vlprobe.encoders.text import need_text_or_image
from vlprobe.encoders.vlms import ROWS
from vlprobe.exact import as_asked
from vlprobe.images import image_size
from vlprobe.types import ROLES, Example, Hidden, Modality

SHAPES, DEEPER = "image_grid_thw", "deepstack_features"
"""What transformers calls the shapes of Qwen's images, and what Qwen3-VL adds behind its first blocks."""


class Generative(Encoder):
    """A vision tower, a connector, and a causal decoder: `vision.0-m`, `vision.connector`, `joint.0-n`, `joint.norm`.

    `joint.0` is what block 1 of the decoder reads: embeddings of words, with what the connector made of the image in
    place of the image tokens; `joint.k` is what block k + 1 reads: in Qwen3-VL, with the features of the tower's own
    blocks that are added to the image tokens behind the first ones (DeepStack, Meng et al. 2024). `joint.norm` is the
    final norm, from which the next word is chosen.

    The words of the example are asked as the model was trained to be asked, in its own template (`usage`). Role
    `word` is of the example's words alone, `patch` of image tokens, each with the part of the original image that it
    was made from, however it was resized, merged or cut into tiles. `cls` is the last position of the prompt, from
    which the model goes on writing: the one position that has seen all of image and text, as CLIP's end of text has.
    All else, template, newline tokens and padding, has role "". Given a text alone, the prompt has no image and the
    layers of `vision` no positions; given an image alone, the prompt has no words.

    In `vision`, `cls` is the tower's [CLS] where it has one (LLaVA's CLIP; of several tiles, that of the whole image).

    An image that several examples of a batch show is read once, and goes through tower and connector once.

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    modalities = ("text", "image")
    masks = False
    neighbours = True
    reads: Mapping[str, tuple[Modality, ...]] = MappingProxyType({"vision": ("image",)})

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.row = ROWS[checkpoint.model_type]
        loaded = load_network(checkpoint, {name: row.network for name, row in ROWS.items()}, device)
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        if checkpoint.random:
            _draw_zeros(self.model, checkpoint.seed)
        config, place = self.model.config, checkpoint.source
        text, vision = config.text_config, config.vision_config
        tokenizer = load_tokenizer(checkpoint, text.vocab_size)
        image = int(config.image_token_id)
        eye = Eye(config, load_processor(checkpoint), tokenizer.convert_ids_to_tokens(image), place)
        self.sight = self.row.sight(eye)
        self.images: Ahead[Seen] = Ahead(self.sight, readers(device))
        template = self.row.asked(text, tokenizer)
        self.reader = PromptReader(tokenizer, template, text.max_position_embeddings, image, place)
        self.usage = {"prompt": self.reader.template.seeing, "prompt without an image": self.reader.template.blind}
        depth = vision.to_dict().get("depth") or vision.num_hidden_layers
        self.tower = residual_blocks(self.model, (self.row.tower,), depth)
        self.blocks = residual_blocks(self.model, (f"{self.row.decoder}.layers",), text.num_hidden_layers)
        modules = dict(self.model.named_modules())
        self.connector, self.norm = modules[self.row.connector], modules[f"{self.row.decoder}.norm"]
        width = vision.to_dict().get("embed_dim") or vision.hidden_size
        self.layers = dict.fromkeys((f"vision.{index}" for index in range(depth + 1)), width)
        self.layers["vision.connector"] = text.hidden_size
        names = [*(str(index) for index in range(len(self.blocks) + 1)), "norm"]
        self.layers |= dict.fromkeys((f"joint.{name}" for name in names), text.hidden_size)

    @property
    def reading(self) -> Ahead[Seen]:
        """Return what reads images ahead."""
        return self.images

    def lengths(self, batch: Sequence[Example]) -> list[float]:
        """Return about how many positions each example takes: those of the decoder."""
        found = []
        for text, example in zip(self.reader.lengths(batch), batch, strict=True):
            image = 0.0
            if example.image is not None:
                wide, high = image_size(example.image, example.place)
                image = self.sight.length((high, wide))
            found.append(text + image)
        return found

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the layers of the vision tower, the connector's, those of the decoder and its final norm.

        Raises:
            BadRow: neither text nor image; an image that cannot be decoded; a prompt of more tokens than the model
                has positions; a text with a masked word, or with what the model reads as a control token.
            CheckpointError: preprocessor, tokenizer and configuration do not belong together.
        """
        need_text_or_image(batch)
        seen, shown = self._seen(batch)
        prompts = self.reader.read(batch, [seen[image] for image in shown])
        with (
            as_asked(self.device),
            tap(self.tower) as tower,
            outputs([(self.connector, 0)]) as connected,
            tap_inputs(self.blocks) as stream,
            outputs([(self.norm, 0)]) as normed,
        ):
            self.model(**self._words(prompts), **self._looked(seen, shown), use_cache=False)
        joint = dict(zip((layer for layer in self.layers if layer.startswith("joint.")), stream + normed, strict=True))
        hidden = self._vision(seen, shown, tower, connected) if seen else self._no_vision(len(batch))
        return hidden + [
            Hidden(layer, states, prompts.role, prompts.word, prompts.box) for layer, states in joint.items()
        ]

    def _seen(self, batch: Sequence[Example]) -> tuple[list[Seen], list[int]]:
        """Return the images of a batch, each once, and of each example with an image which of them it shows."""
        pictured = [example for example in batch if example.image is not None]
        images = distinct(example.image for example in pictured)
        return [self.images.take(pictured[place]) for place in images.first], list(images.shown)

    def _words(self, prompts: Prompts) -> dict[str, torch.Tensor]:
        """Return the arguments of the network that are of the prompts."""
        inputs = {"input_ids": prompts.ids, "attention_mask": prompts.mask.long()}
        if self.row.types:
            name, value = self.row.types
            inputs[name] = prompts.image.long() * value
        return {name: moved(tensor, self.device) for name, tensor in inputs.items()}

    def _looked(self, seen: Sequence[Seen], shown: Sequence[int]) -> dict[str, Any]:
        """Run tower and connector on every image once; return the network's arguments that are of each example's."""
        if not seen:
            return {}
        joined = self.sight.join(seen).items()
        # The sizes of LLaVA-NeXT's images are looked at one by one, and not on the device.
        inputs = {name: tensor if name == "image_sizes" else moved(tensor, self.device) for name, tensor in joined}
        found = self.model.get_image_features(**inputs, return_dict=True)
        given: dict[str, Any] = {"mm_encoder_outputs": {"image": found}}
        if SHAPES in inputs:  # by which positions in the prompt are numbered
            given[SHAPES] = inputs[SHAPES][list(shown)]
        if len(shown) > len(seen):
            counts = [len(image.tokens) for image in seen]
            found.pooler_output = _each(found.pooler_output, counts, shown)
            if found.get(DEEPER) is not None:
                found[DEEPER] = [_each(features, counts, shown) for features in found[DEEPER]]
        return given

    def _vision(
        self,
        seen: Sequence[Seen],
        shown: Sequence[int],
        tower: Sequence[torch.Tensor],
        connected: Sequence[torch.Tensor],
    ) -> list[Hidden]:
        """Return the layers before the decoder, image by image as the examples show them, padded to the longest."""
        layers = [layer for layer in self.layers if layer.startswith("vision.")]
        boxes = [image.tower for image in seen]
        box = _padded(boxes)[list(shown)]
        role = patch_roles(box)
        if self.sight.before:
            role[:, 0] = ROLES.index("cls")
        word = np.full(role.shape, -1, dtype=np.int32)
        hidden = [
            Hidden(layer, _unpacked(states, boxes, shown), role, word, box)
            for layer, states in zip(layers, tower, strict=False)
        ]
        boxes = [image.connector for image in seen]
        box = _padded(boxes)[list(shown)]
        word = np.full(box.shape[:2], -1, dtype=np.int32)
        return [*hidden, Hidden(layers[-1], _unpacked(connected[0], boxes, shown), patch_roles(box), word, box)]

    def _no_vision(self, batch: int) -> list[Hidden]:
        """Return the layers before the decoder of examples without an image."""
        layers = {layer: width for layer, width in self.layers.items() if layer.startswith("vision.")}
        return [nothing(layer, batch, width, self.device) for layer, width in layers.items()]


def _padded(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """(batch, position, 4) float32 of (position, 4) for each image, NaN in padding."""
    box = np.full((len(boxes), max(len(one) for one in boxes), 4), np.nan, dtype=np.float32)
    for row, one in enumerate(boxes):
        box[row, : len(one)] = one
    return box


def _unpacked(states: torch.Tensor, boxes: Sequence[np.ndarray], shown: Sequence[int]) -> torch.Tensor:
    """(batch, position, width), 0 in padding, of states that are tile after tile or one row for all images."""
    flat = states.reshape(-1, states.shape[-1])
    parts = torch.split(flat, [len(one) for one in boxes])
    return torch.nn.utils.rnn.pad_sequence([parts[image] for image in shown], batch_first=True)


def _each(features: torch.Tensor | Sequence[torch.Tensor], counts: Sequence[int], shown: Sequence[int]) -> Any:
    """Return what a network puts in place of image tokens, image by image as the examples show them.

    Args:
        features: of every image, in one or several tensors (..., width).
        counts: tokens of every image.
        shown: of each example, its image.
    """
    several = [features] if isinstance(features, torch.Tensor) else features
    flat = torch.cat([one.reshape(-1, one.shape[-1]) for one in several])
    parts = torch.split(flat, list(counts))
    again = torch.cat([parts[image] for image in shown])
    return again if isinstance(features, torch.Tensor) else [again]


def _draw_zeros(model: Any, seed: int) -> None:
    """Draw the matrices of an untrained network that training starts at zero: else Gemma 3's sees no image at all."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                spread = model.config.text_config.initializer_range
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) * spread)
