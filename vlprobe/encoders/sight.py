"""Image -> what a decoder's vision tower takes, and where all that the model makes of it lies in the image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from vlprobe.encoders.frames import Reading, Size
from vlprobe.encoders.pixels import pair
from vlprobe.errors import CheckpointError
from vlprobe.types import Example

TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0, "internvl_vision": 1}
"""Model type of a vision tower -> its positions before the patches of an image: CLIP and InternViT have a [CLS]."""


@dataclass(frozen=True)
class Seen:
    """One image, ready for a decoder. Boxes are (position, 4) float32 as in `Hidden`, NaN where there is no patch."""

    inputs: Mapping[str, torch.Tensor]
    """Argument of the network -> its part of a batch, to be joined along the first axis."""
    tower: np.ndarray
    """Boxes of the vision tower's positions, in the order in which the tower keeps them."""
    connector: np.ndarray
    """Boxes of what the connector puts out."""
    tokens: np.ndarray
    """Boxes of the image tokens of the prompt, in their order."""
    block: str
    """What stands for the image in the prompt."""


@dataclass(frozen=True)
class Eye:
    """What a sight is made from."""

    config: Any
    """Of the whole network."""
    processor: Any
    """Image processor of transformers, of the PIL kind."""
    token: str
    """What the tokenizer calls the image token."""
    place: str
    """The checkpoint, for messages."""


class Sight(ABC):
    """Makes of an example's image what a model takes; another process can do it as well.

    Args:
        eye: the checkpoint's configuration, processor and image token.

    Raises:
        CheckpointError: a processor whose geometry is not known: patches would have no true boxes.
    """

    processors: ClassVar[tuple[str, ...]]
    """Names of the image processors whose arithmetic it follows."""
    before: int = 0
    """Positions of the vision tower before its patches; the first one is the [CLS]."""

    def __init__(self, eye: Eye) -> None:
        kind = type(eye.processor).__name__
        if kind not in self.processors:
            raise CheckpointError(
                f"{eye.place}: its preprocessor_config.json names {kind}, whose cropping is not known for this model, "
                f"so that its image tokens would have no boxes; known are {', '.join(self.processors)}"
            )
        self.config, self.processor, self.token, self.place = eye.config, eye.processor, eye.token, eye.place

    @abstractmethod
    def __call__(self, example: Example) -> Seen:
        """Return an example's image, processed.

        Raises:
            BadRow: an image that is missing, damaged, or so elongated that nothing remains of it.
        """

    @abstractmethod
    def length(self, size: Size) -> float:
        """Return about how many tokens an image of (height, width) pixels becomes."""

    def join(self, seen: Sequence[Seen]) -> dict[str, torch.Tensor]:
        """Return what the network is given for the images of a batch."""
        return {name: torch.cat([image.inputs[name] for image in seen]) for name in seen[0].inputs}


class Whole(Sight):
    """An image as one square of patches: LLaVA-1.5, PaliGemma.

    Raises:
        CheckpointError: another vision tower than CLIP's or SigLIP's, or an unknown processor.
    """

    processors: ClassVar[tuple[str, ...]] = (
        "CLIPImageProcessorPil",
        "SiglipImageProcessorPil",
        "LlavaImageProcessorPil",
    )

    def __init__(self, eye: Eye) -> None:
        super().__init__(eye)
        vision = eye.config.vision_config
        self.before = tower_start(vision, eye.place)
        self.size, self.patch = pair(vision.image_size), pair(vision.patch_size)
        self.reading = Reading(eye.processor, eye.place)
        # "default" is without the tower's first position, whatever that is; PaliGemma knows no such setting.
        strategy = eye.config.to_dict().get("vision_feature_select_strategy", "full")
        self.dropped = int(strategy == "default")
        self.merged = 1  # patches on a side of what one token is made of

    def __call__(self, example: Example) -> Seen:
        """Return an example's image, processed.

        Raises:
            BadRow: an image that is missing, damaged, or so elongated that nothing remains of it.
            CheckpointError: the processor makes images of a size that the model does not take.
        """
        picture = self.reading(example)
        canvas = picture.frame.canvas
        if canvas != self.size:
            raise CheckpointError(
                f"{self.place}: its preprocessor_config.json makes images of {canvas[1]} x {canvas[0]} pixels, "
                f"its model takes {self.size[1]} x {self.size[0]}; correct the size or crop_size there"
            )
        rows, columns = canvas[0] // self.patch[0], canvas[1] // self.patch[1]
        tower = np.concatenate([nowhere(self.before), picture.frame.boxes(rows, columns, self.patch)])
        side = self.merged
        cell = (self.patch[0] * side, self.patch[1] * side)
        tokens = tower[self.dropped :] if side == 1 else picture.frame.boxes(rows // side, columns // side, cell)
        return Seen({"pixel_values": picture.pixels[None]}, tower, tokens, tokens, self.token * len(tokens))

    def length(self, size: Size) -> float:
        """Return how many tokens an image becomes: always as many."""
        return float(np.prod(self.size) / np.prod(self.patch) / self.merged**2)


class Averaged(Whole):
    """An image as one square of patches, of which the connector averages each small square into a token: Gemma 3.

    Raises:
        CheckpointError: an unknown processor, or one that adds crops of the image (pan and scan).
    """

    processors = ("Gemma3ImageProcessorPil",)

    def __init__(self, eye: Eye) -> None:
        super().__init__(eye)
        self.merged = self.size[0] // self.patch[0] // math.isqrt(eye.config.mm_tokens_per_image)
        if eye.processor.do_pan_and_scan:
            raise CheckpointError(
                f"{eye.place}: its preprocessor_config.json says do_pan_and_scan, which adds crops of long images; "
                "their tokens have no boxes here: set it to false, as Gemma 3 is used by default"
            )


def nowhere(count: int) -> np.ndarray:
    """(count, 4) float32: boxes of positions that are no patches."""
    return np.full((count, 4), np.nan, dtype=np.float32)


def tower_start(vision: Any, place: str) -> int:
    """Return how many positions a vision tower has before its patches.

    Args:
        vision: its configuration.
        place: the checkpoint, for messages.

    Raises:
        CheckpointError: a tower that is not known here.
    """
    if vision.model_type not in TOWERS:
        raise CheckpointError(
            f"{place}: its vision tower is a {vision.model_type}, whose positions are not known here; "
            f"known are {', '.join(TOWERS)}"
        )
    return TOWERS[vision.model_type]
