"""Three ways in which the same detector was run: every choice that changes boxes or features, side by side.

`caffe` is the original (peteanderson80/bottom-up-attention), whose features LXMERT and UNITER were trained on;
`detectron2` is airsplay/py-bottom-up-attention; `hf` is huggingface/transformers, examples/research_projects/lxmert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vlprobe.errors import StudyError, did_you_mean

STRIDE = 16
"""Pixels of the network's input per cell of its feature map."""
MEAN = (102.9801, 115.9465, 122.7717)
"""Of blue, green and red: subtracted from the pixels by all three."""


@dataclass(frozen=True)
class Conventions:
    """What is done to an image before the network, and to its outputs after it."""

    name: str
    """As `CONVENTIONS` lists it."""
    channels: Literal["BGR", "RGB"]
    """Order of the channels that `mean` is subtracted from."""
    resize: Literal["cv2", "pil", "torch"]
    """`cv2`: bilinear on float32, after the mean; `pil`: bilinear with antialiasing on uint8, before it; `torch`:
    bilinear on float32, before it."""
    short: int
    """Length that the shorter side is brought to, pixels."""
    long: int
    """Limit on the longer side, pixels; where it binds, it sets the scale."""
    border: float
    """1: a box from x1 to x2 is x2 - x1 + 1 wide and ends at width - 1; 0: x2 - x1, and ends at width."""
    clamp: float
    """Upper limit on the log of a box's growth; infinity: none."""
    smallest: float
    """Proposals with a side below this, in pixels of the original image, are dropped; 0: only empty ones are."""
    small_first: bool
    """Whether small proposals go before the `before` best are taken, or after."""
    inclusive: bool
    """Whether an overlap equal to the threshold suppresses."""
    before: int
    """Proposals that enter suppression."""
    after: int
    """Proposals that leave it."""
    overlap: float
    """Above which a proposal suppresses a worse one."""
    select: Literal["proposals", "regressed"]
    """`proposals`: suppression per class, the box is the proposal; `regressed`: suppression over the best class of
    each box, the box is the regressed one. Features are always those of the proposal."""
    class_overlaps: tuple[float, ...]
    """Thresholds of that suppression, tried in turn until enough boxes are left."""
    softmax_none: bool
    """Whether "no attribute" takes its share of the attribute probabilities."""
    boxes: tuple[int, int]
    """Fewest and most boxes of an image."""
    mean: tuple[float, float, float] = MEAN
    """Subtracted from the channels, in their order."""


CONVENTIONS = {
    "caffe": Conventions(
        # lib/fast_rcnn/test.py, lib/rpn/proposal_layer.py, tools/generate_tsv.py
        name="caffe",
        channels="BGR",
        resize="cv2",
        short=600,
        long=1000,
        border=1.0,
        clamp=math.inf,
        smallest=16.0,
        small_first=True,
        inclusive=True,
        before=6000,
        after=300,
        overlap=0.7,
        select="proposals",
        class_overlaps=(0.3,),
        softmax_none=True,
        boxes=(10, 100),
    ),
    "detectron2": Conventions(
        # demo/detectron2_mscoco_proposal_maxnms.py and the defaults of its configuration
        name="detectron2",
        channels="BGR",
        resize="pil",
        short=800,
        long=1333,
        border=0.0,
        clamp=math.log(1000 / 16),
        smallest=0.0,
        small_first=False,
        inclusive=False,
        before=6000,
        after=300,
        overlap=0.7,
        select="regressed",
        class_overlaps=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        softmax_none=False,
        boxes=(36, 36),
    ),
    "hf": Conventions(
        # processing_image.py, modeling_frcnn.py. Files are read as RGB and have the means of BGR taken from them
        # (utils.py `img_tensorize` turns BGR into RGB, `Preprocess` subtracts PIXEL_MEAN as it stands); kept, because
        # published features were made so.
        name="hf",
        channels="RGB",
        resize="torch",
        short=800,
        long=1333,
        border=0.0,
        clamp=math.log(1000 / 16),
        smallest=0.0,
        small_first=False,
        inclusive=False,
        before=6000,
        after=300,
        overlap=0.7,
        select="regressed",
        class_overlaps=(0.5, 0.6, 0.7, 0.8, 0.9),
        softmax_none=False,
        boxes=(36, 36),
    ),
}


def conventions_named(name: str) -> Conventions:
    """Return the conventions of that name.

    Raises:
        StudyError: there are none.
    """
    if name not in CONVENTIONS:
        raise StudyError(f"detector conventions '{name}' are unknown{did_you_mean(name, CONVENTIONS)}")
    return CONVENTIONS[name]
