"""The Visual Genome detector as a source of regions: image -> boxes, features, objects, attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from vlprobe.device import pick_device
from vlprobe.digest import digest, file_digest
from vlprobe.errors import BadRow, StudyError
from vlprobe.exact import exact
from vlprobe.images import image_name, open_image
from vlprobe.regions.configuration import configured
from vlprobe.regions.conventions import Conventions, conventions_named
from vlprobe.regions.network import POOLED, Heads, Sizes
from vlprobe.regions.preprocessing import Prepared, prepare
from vlprobe.regions.proposals import clip, propose
from vlprobe.regions.selection import Place, Selection, attribute_probabilities, select
from vlprobe.regions.source import RegionSource
from vlprobe.regions.weights import Loaded, load_network
from vlprobe.types import Example, ImageData, Regions

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Looked for in a folder, in this order, as the encoders do."""
IMAGES_AT_ONCE = 4
"""Images of one size that share a pass through the backbone."""
CHUNK_MEMORY = 256 * 2**20
"""Bytes that the states of one chunk of regions may take on a CPU; larger ones leave its caches."""
SNAP = 1024
"""Parts of a pixel to which given boxes are rounded: a box written as float32 fractions and read back must not fall
on the other side of a cell's edge."""
SMALLEST_INPUT = 3
"""Pixels per side from which the stem has an output."""
METHOD = 2
"""Part of `revision`: counts up when the same weights and conventions come to give other regions."""


class Detector(RegionSource):
    """Faster R-CNN on ResNet C4 with attributes (Anderson et al., 2018), run as one of `CONVENTIONS`.

    Images never share padding, so that no image's regions depend on its neighbours. Regions come in the order of
    the conventions: most confident first, but for `caffe`, which keeps the order of the proposals where the number
    above the threshold is within the limits.
    """

    def __init__(
        self, loaded: Loaded, conventions: Conventions, device: torch.device, threshold: float, revision: str
    ) -> None:
        """Take a loaded network; `Detector.open` is the usual way."""
        self.network = loaded.network.to(device)
        self.conventions = conventions
        self.device = device
        self.threshold = threshold
        self.regression = loaded.regression
        self.left_out = loaded.left_out
        self.width = loaded.network.sizes.outer[3]
        settings = [asdict(conventions), threshold, list(loaded.regression), METHOD]
        self.revision = digest("detector", revision, *settings)

    @classmethod
    def open(
        cls,
        path: Path,
        conventions: str | Conventions = "caffe",
        boxes: tuple[int, int] | None = None,
        device: str = "auto",
        threshold: float = 0.2,
    ) -> Detector:
        """Read a detector's weights.

        Args:
            path: a .caffemodel, .pkl, .pth, .bin or .safetensors file, or a folder that holds model.safetensors or
                pytorch_model.bin. Beside the last two, a config.yaml or config.json sets what it says of the `hf`
                conventions.
            conventions: one of `CONVENTIONS`, or your own.
            boxes: fewest and most regions of an image: (36, 36) for LXMERT, (10, 100) for UNITER; else those of the
                conventions.
            device: auto, cpu, cuda, cuda:N or mps.
            threshold: score from which a region is kept; only `caffe` looks at it.

        Raises:
            CheckpointError: the weights cannot be read, or are not all there.
            StudyError: unknown conventions or device, or impossible numbers.
        """
        place = pick_device(device)
        chosen = conventions_named(conventions) if isinstance(conventions, str) else conventions
        if path.is_dir():
            path = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), path / WEIGHT_FILES[-1])
        regression = None
        if conventions == "hf" and path.suffix in (".bin", ".safetensors"):
            chosen, regression = configured(chosen, path.parent)
        if boxes is not None:
            chosen = replace(chosen, boxes=boxes)
        fewest, most = chosen.boxes
        if not 1 <= fewest <= most <= chosen.after:
            raise StudyError(
                f"boxes ({fewest}, {most}): give the fewest and the most regions of an image, at least 1 and at most "
                f"the {chosen.after} proposals there are"
            )
        if not 0 <= threshold <= 1:
            raise StudyError(f"threshold {threshold} is no score; give one in 0 to 1")
        loaded = load_network(path)
        if regression is not None:
            loaded = replace(loaded, regression=regression)
        return cls(loaded, chosen, place, threshold, file_digest(path))

    def regions(self, batch: Sequence[Example]) -> list[Regions]:
        """Return the regions of each example's image.

        Raises:
            BadRow: an example has no image, it cannot be opened, or there is no region in it.
        """
        found: dict[int, Regions] = {}
        images = [self._open(example) for example in batch]
        with exact():
            for group in _of_one_shape(images):
                states = self.network.map(torch.stack([images[index].pixels for index in group]).to(self.device))
                objectness, deltas = self.network.objectness_and_deltas(states)
                for row, index in enumerate(group):
                    image = images[index]
                    rois, _ = propose(
                        objectness[row],
                        deltas[row],
                        self.network.cell_anchors,
                        image.shape,
                        image.scale[0],
                        self.conventions,
                    )
                    if not len(rois):
                        raise BadRow(
                            batch[index].place or batch[index].id,
                            f"the detector proposes no region in an image of {image.size[0]} x {image.size[1]} pixels",
                        )
                    found[index] = self._look(states[row], rois, image).regions()
        return [found[index] for index in range(len(batch))]

    def features_of(self, image: ImageData, boxes: np.ndarray, place: str = "") -> Regions:
        """Return what the detector makes of given boxes, such as those of a data set: one region each, in their order.

        Args:
            image: a file, the bytes of one, or where they lie.
            boxes: (region, 4): x1, y1, x2, y2 as fractions of the image, as in `Regions.boxes`.
            place: the file and row they are from, for messages.

        Raises:
            BadRow: the image cannot be opened, or a box is not inside it.
        """
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        wrong = ~((corners >= 0) & (corners <= 1)).all(axis=1) | (corners[:, :2] > corners[:, 2:]).any(axis=1)
        if wrong.any():
            raise BadRow(
                place or image_name(image),
                f"box {int(wrong.argmax())} is {corners[wrong][0].tolist()}; give x1, y1, x2, y2 as fractions of the "
                "image's width and height, x1 <= x2 and y1 <= y2",
            )
        prepared = self._prepare(image, place)
        pixels = corners * np.tile(np.array(prepared.size) * np.array(prepared.scale), 2)
        rois = torch.from_numpy((np.round(pixels * SNAP) / SNAP).astype(np.float32)).to(self.device)
        with exact():
            states = self.network.map(prepared.pixels[None].to(self.device))
            looked = self._look(states[0], clip(rois, prepared.shape, self.conventions), prepared)
            given = replace(looked, selection=Selection(torch.arange(len(rois), device=self.device), rois))
            return replace(given.regions(), boxes=corners.astype(np.float32))

    def _open(self, example: Example) -> Prepared:
        if example.image is None:
            raise BadRow(example.place or example.id, "there is no image, and the detector needs one")
        return self._prepare(example.image, example.place or example.id)

    def _prepare(self, image: ImageData, place: str) -> Prepared:
        prepared = prepare(open_image(image, place), self.conventions)
        if min(prepared.shape) < SMALLEST_INPUT:
            width, height = prepared.size
            raise BadRow(
                place or image_name(image),
                f"an image of {width} x {height} pixels is too narrow: scaled down, {min(prepared.shape)} are left of "
                "its shorter side",
            )
        return prepared

    def _look(self, states: torch.Tensor, rois: torch.Tensor, image: Prepared) -> Looked:
        """Run the second stage on proposals of one image and choose among them."""
        features = self.network.describe(states, rois, chunk_size(self.network.sizes, self.device))
        heads = self.network.heads(features)
        probabilities = heads.classes.softmax(dim=1)
        place = Place(image.shape, image.scale, self.threshold, self.regression)
        selection = select(rois, probabilities, heads, place, self.conventions)
        return Looked(features, heads, probabilities, selection, image.size, self.conventions)


@dataclass(frozen=True)
class Looked:
    """What the network says of one image's proposals, on its device."""

    features: torch.Tensor
    """(roi, width)."""
    heads: Heads
    """Logits and deltas of every roi."""
    probabilities: torch.Tensor
    """(roi, class), background first."""
    selection: Selection
    """Which rois are the image's regions."""
    size: tuple[int, int]
    """(width, height) of the image."""
    conventions: Conventions
    """How attributes are scored."""

    def regions(self) -> Regions:
        """Return the selected ones as arrays."""
        keep = self.selection.keep
        probabilities = self.probabilities[keep]
        confidence, objects = probabilities[:, 1:].max(dim=1)
        attributes = scores = None
        if self.heads.attributes is not None:
            scores, attributes = attribute_probabilities(self.heads.attributes[keep], self.conventions).max(dim=1)
        boxes = self.selection.boxes / self.selection.boxes.new_tensor([*self.size, *self.size])
        return Regions(
            boxes=boxes.clamp(0, 1).cpu().numpy(),
            features=self.features[keep].cpu().numpy(),
            size=self.size,
            confidence=confidence.cpu().numpy(),
            objects=objects.cpu().numpy(),
            attributes=None if attributes is None else attributes.cpu().numpy(),
            attribute_confidence=None if scores is None else scores.cpu().numpy(),
            probabilities=probabilities.cpu().numpy(),
        )


def chunk_size(sizes: Sizes, device: torch.device) -> int:
    """Return how many regions go through res5 at a time, by the memory that their states take."""
    # Alive at once in a block: its input, its output, the shortcut or the third convolution, and two inner states.
    channels = 3 * sizes.outer[3] + 2 * sizes.inner[3] + sizes.outer[2]
    memory = CHUNK_MEMORY
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[0] // 4  # as much again for what cuDNN works in, and room to spare
    return int(min(max(memory // (4 * POOLED**2 * channels), 1), 512))


def _of_one_shape(images: Sequence[Prepared]) -> Iterator[list[int]]:
    """Yield indices of images that can be stacked, `IMAGES_AT_ONCE` at most."""
    shapes: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        shapes.setdefault(image.shape, []).append(index)
    for indices in shapes.values():
        rest = iter(indices)
        while group := list(islice(rest, IMAGES_AT_ONCE)):
            yield group
