"""How good a detector is on scenes that it was not trained on, asked as everybody else would ask it: from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlprobe.probes.linear import Logistic, Split, probe
from vlprobe.regions.detector import Detector
from vlprobe.regions.operators import overlaps
from vlprobe.scenes.drawing import encoded
from vlprobe.scenes.scene import SHAPES, Scene
from vlprobe.types import Example, Regions
from vlprobe.zoo.detector_targets import Things, things_of

FOUND = 0.5
"""Overlap from which a region is a thing's."""
BATCH = 16
"""Scenes that the detector is given at a time."""


@dataclass(frozen=True)
class Seen:
    """One scene as the detector sees it."""

    things: Things
    """What there is; boxes as fractions of the picture."""
    regions: Regions
    """What it finds."""
    given: Regions
    """What it makes of the things' own boxes."""
    overlap: np.ndarray
    """(region, thing) intersection over union."""


def scores(detector: Detector, scenes: Sequence[Scene]) -> dict[str, float]:
    """Return shares of things, all of them in 0 to 1.

    `recall`: a region overlaps the thing by half. `mean_ap`: mean over shapes of the average precision (Everingham et
    al. 2010). `shape` and `colour`: those of the region that overlaps a found thing most. `readable_*`: what a linear
    probe reads from the features of regions, fitted on half of the scenes and asked on a quarter; `given` where the
    things' own boxes are given to the detector, `found` where it found them.
    """
    seen = look(detector, scenes)
    best = [one.overlap.argmax(axis=0) for one in seen]
    hit = [one.overlap.max(axis=0) >= FOUND for one in seen]
    shape, colour = [], []
    for one, index, found in zip(seen, best, hit, strict=True):
        objects, attributes = one.regions.objects, one.regions.attributes
        if objects is None or attributes is None:
            raise ValueError("a detector of the zoo says shapes and colours")
        shape.append((objects[index] == one.things.shapes)[found])
        colour.append((attributes[index] == one.things.colours)[found])
    result = {
        "recall": float(np.concatenate(hit).mean()),
        "mean_ap": float(np.mean([average_precision(seen, shape) for shape in range(len(SHAPES))])),
        "shape": float(np.concatenate(shape).mean()),
        "colour": float(np.concatenate(colour).mean()),
        "regions": float(np.mean([len(one.regions.boxes) for one in seen])),
    }
    given = [(one.given.features, np.arange(len(one.things.boxes)), one.things) for one in seen]
    found = [
        (one.regions.features[index[here]], np.flatnonzero(here), one.things)
        for one, index, here in zip(seen, best, hit, strict=True)
    ]
    for name, rows in (("given", given), ("found", found)):
        result[f"readable_shape_{name}"] = readable(rows, "shapes")
        result[f"readable_colour_{name}"] = readable(rows, "colours")
    return result


def look(detector: Detector, scenes: Sequence[Scene]) -> list[Seen]:
    """Return what the detector makes of scenes."""
    seen = []
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        pictures = [encoded(scene) for scene in part]
        examples = [
            Example(scene.name, scene.name, None, picture, ()) for scene, picture in zip(part, pictures, strict=True)
        ]
        for scene, picture, regions in zip(part, pictures, detector.regions(examples), strict=True):
            things = things_of(scene, 1)
            overlap = overlaps(regions.boxes, things.boxes, 0.0)
            seen.append(Seen(things, regions, detector.features_of(picture, things.boxes), overlap))
    return seen


def average_precision(seen: Sequence[Seen], shape: int) -> float:
    """Return the area under the precision that is reached at each recall or beyond, for one shape.

    Regions are asked from the most confident on; the first that overlaps a thing by half finds it, a second one of the
    same thing is wrong.
    """
    said: list[tuple[float, int, int]] = []  # confidence, scene, region
    total = 0
    for scene, one in enumerate(seen):
        if one.regions.objects is None or one.regions.confidence is None:
            raise ValueError("a detector of the zoo says shapes")
        total += int((one.things.shapes == shape).sum())
        regions = np.flatnonzero(one.regions.objects == shape)
        said += [(-float(one.regions.confidence[region]), scene, int(region)) for region in regions]
    right: list[bool] = []
    taken = set()
    for _, scene, region in sorted(said):
        overlap = np.where(seen[scene].things.shapes == shape, seen[scene].overlap[region], 0)
        thing = (scene, int(overlap.argmax()))
        right.append(float(overlap.max()) >= FOUND and thing not in taken)
        if right[-1]:
            taken.add(thing)
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    beyond = np.maximum.accumulate(precision[::-1])[::-1]
    return float(beyond[np.array(right, dtype=bool)].sum() / max(total, 1))


def readable(rows: Sequence[tuple[np.ndarray, np.ndarray, Things]], what: str) -> float:
    """Return the accuracy of a linear probe on regions' features.

    Args:
        rows: of every scene, features (region, width), the thing of each, and the things.
        what: field of `Things` that is read.
    """
    half, rest = len(rows) // 2, len(rows) * 3 // 4

    def split(part: Sequence[tuple[np.ndarray, np.ndarray, Things]]) -> Split:
        return Split(
            np.concatenate([features for features, _, _ in part]),
            np.concatenate([getattr(things, what)[index] for _, index, things in part]),
        )

    test = split(rows[rest:])
    probed = probe(Logistic, split(rows[:half]), split(rows[half:rest]), test)
    return float((probed.predicted == test.y).mean())
