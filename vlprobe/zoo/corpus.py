"""Scenes to train on, with what a network reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vlprobe.aside import aside
from vlprobe.digest import digest, file_digest
from vlprobe.regions.detector import Detector
from vlprobe.scenes.drawing import draw, encoded
from vlprobe.scenes.scene import Scene
from vlprobe.types import Example
from vlprobe.zoo.networks import SIDE, Images

TRAIN, HELD_OUT = "zoo-train", "zoo-test"
"""Worlds of the zoo; tasks have another, so that no probe is asked about a scene that a model was trained on."""
MEAN, DEVIATION = 0.75, 0.22
"""Of the scenes' pixels, in [0, 1]: what is subtracted and divided by, so that paper is near zero and things stand out.
With the usual 0.5, the paper's brightness dominates every patch, and the transformers over patches learn slowly."""
KEPT = ("features", "boxes", "mask", "labels")
"""Tensors of a file that keeps regions, as in `Corpus`."""
DETECTED_AT_ONCE = 32
"""Images that go through the detector in one call."""


@dataclass(frozen=True)
class Corpus:
    """Scenes and their images."""

    scenes: Sequence[Scene]
    """In order."""
    pixels: np.ndarray | None = None
    """(scene, side, side, 3) uint8."""
    features: torch.Tensor | None = None
    """(scene, region, width): the detector's."""
    boxes: torch.Tensor | None = None
    """(scene, region, 4)."""
    mask: torch.Tensor | None = None
    """(scene, region)."""
    labels: torch.Tensor | None = None
    """(scene, region, 2) int64: the shape and the colour that the detector sees in a region."""

    def images(self, chosen: np.ndarray, hidden: torch.Tensor | None = None) -> Images:
        """Return some scenes' images as a network takes them.

        Args:
            chosen: (image,) numbers of scenes.
            hidden: (image, region) bool, see `Images`.
        """
        if self.pixels is not None:
            pixels = torch.from_numpy(self.pixels[chosen]).permute(0, 3, 1, 2).float() / 255
            return Images((pixels - MEAN) / DEVIATION)
        assert self.features is not None and self.boxes is not None and self.mask is not None  # noqa: S101
        return Images(None, self.features[chosen].float(), self.boxes[chosen], self.mask[chosen], hidden)


def drawn(scenes: Sequence[Scene]) -> Corpus:
    """Return scenes with their pixels."""
    pixels = np.empty((len(scenes), SIDE, SIDE, 3), dtype=np.uint8)
    for number, scene in enumerate(scenes):
        pixels[number] = draw(scene, SIDE)
    return Corpus(scenes, pixels)


def detected(scenes: Sequence[Scene], detector: Path, kept: Path) -> Corpus:
    """Return scenes with the regions that a detector finds, by the path that a study's images take.

    Args:
        scenes: what is looked at.
        detector: its folder.
        kept: a file that keeps the regions of these scenes for other models of the same zoo.
    """
    made_for = digest(file_digest(detector / "model.safetensors"), [scene.name for scene in scenes])
    if kept.exists():
        with safe_open(kept, framework="pt") as file:
            if (file.metadata() or {}).get("made_for") == made_for:
                return Corpus(scenes, None, *(file.get_tensor(name) for name in KEPT))
    source = Detector.open(detector, "hf", device="cpu")
    found = []
    for start in range(0, len(scenes), DETECTED_AT_ONCE):
        part = scenes[start : start + DETECTED_AT_ONCE]
        found += source.regions([Example(scene.name, scene.name, None, encoded(scene), ()) for scene in part])
    most = max(len(regions.boxes) for regions in found)
    features = torch.zeros(len(found), most, source.width, dtype=torch.float16)
    boxes, mask = torch.zeros(len(found), most, 4), torch.zeros(len(found), most, dtype=torch.bool)
    labels = torch.zeros(len(found), most, 2, dtype=torch.int64)
    for row, regions in enumerate(found):
        count = len(regions.boxes)
        features[row, :count] = torch.from_numpy(regions.features).half()
        boxes[row, :count], mask[row, :count] = torch.from_numpy(regions.boxes), True
        if regions.objects is None or regions.attributes is None:
            raise ValueError(f"{detector} names no shapes and colours")
        labels[row, :count] = torch.from_numpy(np.stack([regions.objects, regions.attributes], axis=1))
    tensors = dict(zip(KEPT, (features, boxes, mask, labels), strict=True))
    with aside(kept) as temporary:
        save_file(tensors, temporary, metadata={"made_for": made_for})
    return Corpus(scenes, None, features, boxes, mask, labels)
