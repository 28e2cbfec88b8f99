"""The nouns of the straight line: Example, Task, Hidden, Features, Result.

`Task -load-> Example -pair-> Example -encode-> Hidden -pool-> Features -probe-> Result`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlprobe.stored import StoredImage

if TYPE_CHECKING:
    import numpy as np
    import torch

Level = Literal["language", "vision", "multimodal"]
Unit = Literal["input", "word", "region"]
Modality = Literal["text", "image"]
Target = str | float | None
"""A class name, a number to be regressed, or None: this unit is not asked about."""
ImageData = Path | bytes | StoredImage
"""A file, the encoded bytes of one (JPEG, PNG, ...), or where such bytes lie in a file."""

MASK = "[MASK]"
"""How a text writes a masked word, whatever a model's tokenizer calls it."""

SPLITS = ("train", "validation", "test")

ROLES = ("", "cls", "word", "patch", "region")
"""What a position of a hidden state can be; `Hidden.role` holds indices into this tuple. "" is everything
else: separators, padding, register tokens, template text."""


@dataclass(frozen=True, slots=True)
class Example:
    """One input of a model, with the answers that a probe is to find in its representation."""

    id: str
    """Unique inside its task, over all splits."""
    group: str
    """Examples that are not independent share it (captions of one image, rewrites of one caption): a split
    never cuts a group, intervals and tests count groups."""
    text: str | None
    """The caption, sentence or question; a masked word is written `[MASK]`. None: no text."""
    image: ImageData | None
    """None: no image."""
    target: tuple[Target, ...]
    """One value per unit: one for unit `input`, `len(words)` for `word`, `len(boxes)` for `region`."""
    words: tuple[tuple[int, int], ...] = ()
    """Character span (start, end) in `text` of every word; filled for unit `word`."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """(x1, y1, x2, y2) as fractions of image width and height, in [0, 1]; filled for unit `region`."""
    place: str = ""
    """The file and row it came from, for messages."""
    ties: tuple[tuple[str, str], ...] = ()
    """(kind, name) of what made its group: (`image`, a name or digest), (`caption`, the caption before it was altered),
    (`text`, ...), (`group`, the cell of a group column). Empty where the group came otherwise."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that a task was read from."""

    path: str
    """As the user named it, resolved."""
    sha256: str
    """Of its bytes."""


@dataclass(frozen=True)
class Facts:
    """What is true of a task's examples, all splits together."""

    text: bool
    """Whether any has a text."""
    image: bool
    """Whether any has an image."""
    one_target: bool
    """Whether every one is asked one thing only, as about its `[MASK]`: a question on the whole input, too."""
    masked: bool
    """Whether every text has a masked word."""


@dataclass(frozen=True)
class Task:
    """A question to put to representations: labelled examples in splits."""

    name: str
    """As the study calls it."""
    level: Level
    """Which side carries the target; a pairing may move only the other one."""
    unit: Unit
    """What one target belongs to: the whole input, a word of the text, a region of the image."""
    classes: tuple[str, ...]
    """Class names, sorted; empty: the targets are numbers and the task is a regression."""
    splits: Mapping[str, Sequence[Example]]
    """Examples by split: `train`, `test` and, where the data bring one, `validation`; read from files, they are kept on
    disk, and made when they are looked at."""
    source: tuple[Source, ...] = ()
    """The files it was read from."""
    revision: str = ""
    """Revision of the data set where it has one (a hub commit), else empty."""
    licence: str = ""
    """Licence of the data, as its publisher states it; empty: not stated."""
    citation: str = ""
    """The paper to cite."""
    images: str = ""
    """Why `Example.image` is None where the data have images, and the cure (e.g. "set FLICKR30K ...")."""
    skipped: tuple[str, ...] = ()
    """One line for every row that was left out, with file, row and reason."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What the study said about it, resolved."""

    @cached_property
    def facts(self) -> Facts:
        """What is true of its examples, each looked at once."""
        text = image = False
        one_target = masked = True
        for examples in self.splits.values():
            for example in examples:
                text, image = text or example.text is not None, image or example.image is not None
                one_target = one_target and sum(target is not None for target in example.target) == 1
                masked = masked and (example.text is None or MASK in example.text)
        return Facts(text, image, one_target, masked)

    def load(self, split: str) -> Sequence[Example]:
        """Return the examples of one split.

        Raises:
            DataError: the task has no such split.
        """
        from vlprobe.errors import DataError, did_you_mean

        if split not in self.splits:
            raise DataError(f"task {self.name} has no split '{split}'{did_you_mean(split, self.splits)}")
        return self.splits[split]


@dataclass(frozen=True)
class Hidden:
    """One layer of one batch, and for every position what it is."""

    layer: str
    """Address `stream.index`, e.g. `language.0`, `vision.7`, `joint.12`, or a named extra: `joint.pooler`."""
    states: torch.Tensor
    """(batch, position, width), on the model's device."""
    role: np.ndarray
    """(batch, position) int8: index into `ROLES`."""
    word: np.ndarray
    """(batch, position) int32: which of `Example.words` the piece belongs to, or -1."""
    box: np.ndarray
    """(batch, position, 4) float32: x1, y1, x2, y2 as fractions of the image, or NaN."""


@dataclass(frozen=True)
class Numbers:
    """The numbers that a model is run in, and those that its rows are kept in."""

    run: str = "float32"
    """`float32` or `bfloat16`."""
    kept: str = "float32"
    """`float32` or `float16`."""


FULL = Numbers()
"""Nothing is rounded but as float32 is."""


@dataclass(frozen=True)
class Regions:
    """What a detector makes of one image: boxes with a feature vector each, not always the most confident first."""

    boxes: np.ndarray
    """(region, 4) float32: x1, y1, x2, y2 as fractions of image width and height, in [0, 1]."""
    features: np.ndarray
    """(region, width) float32: the detector's pooled features, >= 0."""
    size: tuple[int, int]
    """(width, height) of the image in pixels; (0, 0) where a feature file does not say."""
    confidence: np.ndarray | None = None
    """(region,) float32: score of the best class that is not background."""
    objects: np.ndarray | None = None
    """(region,) int64: best object class, background not counted (0 is the first class)."""
    attributes: np.ndarray | None = None
    """(region,) int64: best attribute, "no attribute" not counted."""
    attribute_confidence: np.ndarray | None = None
    """(region,) float32: score of that attribute."""
    probabilities: np.ndarray | None = None
    """(region, class) float32: class probabilities, background first (UNITER's soft labels)."""


@dataclass(frozen=True)
class Features:
    """One layer's representation of every unit of a list of examples: what a probe is trained on."""

    layer: str
    """Layer address, as in `Hidden`."""
    X: np.ndarray
    """(row, width) float32."""
    y: np.ndarray
    """(row,): str for classification, float64 for regression."""
    group: np.ndarray
    """(row,) str: `Example.group` of the row."""
    id: np.ndarray
    """(row,) str: `Example.id` of the row."""
    index: np.ndarray
    """(row,) int32: which unit of its example the row is: index into `target`."""
    key: str
    """Content address: same model, same inputs, same pooling, same layer give the same key."""


@dataclass(frozen=True)
class Predictions:
    """What one probe answered on the test part, row by row: one file of `predictions/`.

    `salin2022` has every item once for each of its runs, run after run.
    """

    id: np.ndarray
    """(row,) str: `Example.id` of the row."""
    index: np.ndarray
    """(row,) int32: which unit of its example the row is."""
    group: np.ndarray
    """(row,) str: `Example.group` of the row."""
    target: np.ndarray
    """(row,): str for classification, float64 for regression."""
    predicted: np.ndarray
    """(row,): of the same kind as `target`."""


@dataclass(frozen=True)
class Sent(Predictions):
    """What `mdl` sent: the rows are those of train and validation, and `target` is what was sent, shuffled or not.

    `predicted` is the likeliest class before a row was sent.
    """

    bits: np.ndarray
    """(row,) float64: what sending its target took."""


@dataclass(frozen=True)
class Result:
    """One probe's score: one line of `results.jsonl`."""

    task: str
    """Task name."""
    level: str
    """Task level."""
    model: str
    """Model name, as the study calls it."""
    stage: str
    """What the checkpoint was trained for: `pretrained`, `vqa`, `nlvr2`, `random`, ..."""
    revision: str
    """Hub commit, or sha256 of the checkpoint's files; empty for a control that looks at no model."""
    condition: str
    """`matched`, `mismatched`, `text-only`, `image-only`, or `A>B`: trained on A, tested on B."""
    layer: str
    """Layer address; empty for a control that looks at no layer."""
    unit: str
    """What was pooled, and how: `input: cls`, `word: first`, `region: box`, ..."""
    probe: str
    """`logistic` or `ridge`, which a study calls `linear`; another probe's name; `streaming-lda` or `streaming-ridge`,
    where representations were not kept; empty for `majority`."""
    seed: int
    """Drew the split, the derangement, the validation part and the shuffled labels."""
    control: str
    """Empty for the probe itself; for a control beside it, its name in `vlprobe.probes.CONTROLS`."""
    metric: str
    """`accuracy`, `r2` (1 - residual / total sum of squares on the test part), or `compression` (bits of the uniform
    code / bits of the online code)."""
    score: float
    """On the test part; compression: of the labels of train and validation."""
    interval: tuple[float, float]
    """95 % interval of the score, over the groups of the rows that it was computed on."""
    validation: float
    """Score on the validation part, by which layers are compared; the L2 strength was chosen by the loss there. NaN for
    a probe that has no validation part."""
    l2: float | None
    """Chosen L2 strength: the objective is mean loss + l2/2 |W|^2. None where none was chosen."""
    n_train: int
    """Rows the final probe was fitted on."""
    n_test: int
    """Rows the score was computed on."""
    key: str
    """Content address of everything above that was an input."""
    warnings: Sequence[str] = ()
    """What the probe had to say: not converged, ..."""
