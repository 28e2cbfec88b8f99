"""What is known of the zoo in its world, as statements that a measurement can contradict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Test = Literal["more", "same", "at least"]


@dataclass(frozen=True)
class Subject:
    """A model of the zoo as statements speak of it: its layers by the order in which they run."""

    stream: str
    """The stream that carries the words, or the only one."""
    depth: int
    """Index of its last layer."""
    trained: bool = True
    """False: its weights are random."""

    def layer(self, name: str) -> str:
        """Return the address of the layer that is called so in `Probe.layer`; an address stays, and so does `best`."""
        index = {"first": 0, "second": 1, "last but one": self.depth - 1, "last": self.depth}.get(name)
        return name if index is None else f"{self.stream}.{index}"


SUBJECTS: Mapping[str, Subject] = {
    "bert": Subject("language", 4),
    "vit": Subject("vision", 4),
    "resnet": Subject("vision", 3),
    "uniter": Subject("joint", 4),
    "uniter-shuffled": Subject("joint", 4),
    "uniter-random": Subject("joint", 4, trained=False),
    "lxmert": Subject("language", 4),
    "lxmert-shuffled": Subject("language", 4),
    "lxmert-random": Subject("language", 4, trained=False),
    "vilt": Subject("joint", 4),
    "vilt-shuffled": Subject("joint", 4),
    "vilt-random": Subject("joint", 4, trained=False),
}
"""Models by name. LXMERT's words meet the regions in `language.3`, its first crossing layer."""

LOOKING = ("uniter", "lxmert", "vilt")
"""They learnt captions with their pictures."""
SHUFFLED = tuple(f"{name}-shuffled" for name in LOOKING)
"""Their twins learnt the same captions, each with another scene's picture."""
RANDOM = tuple(f"{name}-random" for name in LOOKING)
"""Their untrained twins."""


@dataclass(frozen=True)
class Probe:
    """Which of a model's scores is meant."""

    condition: str = "matched"
    """As in a study."""
    layer: str = "best"
    """`best`, chosen on the validation part; `first`, `second`, `last but one`, `last` of the stream; or an address."""
    control: str = ""
    """A control beside the probe; empty: the probe itself."""
    twin: str = ""
    """Ending of another model's name: `-shuffled`; empty: the model itself."""

    @property
    def words(self) -> str:
        """Which score it is, in words."""
        return f"{self.condition}, {self._place}"

    @property
    def _place(self) -> str:
        return self.control or (self.layer if "." in self.layer else f"{self.layer} layer")

    def beside(self, other: Probe) -> str:
        """Return what it is where it differs from another, in words."""
        place = ("the " if "." not in self._place else "") + self._place
        pairs = [(self.twin, f"its {self.twin.strip('-')} twin"), (self._place != other._place, place)]
        pairs.append((self.condition != other.condition, self.condition))
        return ", ".join(words for differs, words in pairs if differs)


@dataclass(frozen=True)
class Statement:
    """One known answer, and the test that can contradict it."""

    name: str
    """Short, unique."""
    claim: str
    """What is known, in plain words."""
    models: tuple[str, ...]
    """Names from `SUBJECTS`; the claim is of each of them."""
    task: str
    """On drawn scenes."""
    of: Probe
    """Whose score is claimed something about."""
    than: Probe | None
    """What it is compared with, item by item; None: with the margin itself."""
    test: Test
    """`more`: the interval of the difference lies above the margin; `same`: within the margin to both sides of 0;
    `at least`: the interval of the score lies above the margin."""
    margin: float
    """Of accuracy, or of R² where the task is one of numbers."""
    tell: float = 0.0
    """The dial: the share of scenes whose text gives the answer away."""
    pooling: str = "auto"
    """How an input is pooled."""

    @property
    def expected(self) -> str:
        """The test in words."""
        if self.than is None:
            return f"{self.of.words}: over {self.margin:g}"
        other = self.than.beside(self.of)
        claim = f"the same as {other}, within" if self.test == "same" else f"more than {other}, by over"
        return f"{self.of.words}: {claim} {self.margin:g}"

    def holds(self, low: float, high: float) -> bool:
        """Say whether an interval (of the difference, or of the score) is what was claimed."""
        return -self.margin < low and high < self.margin if self.test == "same" else low > self.margin

    def probes(self) -> tuple[Probe, ...]:
        """Return what it speaks of."""
        return (self.of,) if self.than is None else (self.of, self.than)


BEST, FIRST, SECOND, LAST = (Probe(layer=name) for name in ("best", "first", "second", "last"))
WRONG = "mismatched"
MAJORITY = "majority"

STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "color-seen",
        "A model that learnt captions with their pictures knows the colour of a masked word; its twin that learnt "
        "shuffled pairs does not.",
        LOOKING, "color", BEST, replace(BEST, twin="-shuffled"), "more", 0.6,
    ),
    Statement(
        "color-lost",
        "Such a model loses the colour with another scene's picture: no more is left than the most frequent answer.",
        LOOKING, "color", replace(BEST, condition=WRONG), replace(BEST, condition=WRONG, control=MAJORITY),
        "same", 0.1,
    ),
    Statement(
        "color-last",
        "In the last layer of such a model, the masked word tells the colour.",
        LOOKING, "color", LAST, None, "at least", 0.9,
    ),
    Statement(
        "color-before-last",
        "In LXMERT and ViLT the masked word tells the colour in the last layer only.",
        ("lxmert", "vilt"), "color", LAST, Probe(layer="last but one"), "more", 0.6,
    ),
    Statement(
        "color-first",
        "In the first layer no word has met the picture, and the masked one does not tell the colour.",
        LOOKING, "color", FIRST, replace(FIRST, control=MAJORITY), "same", 0.1,
    ),
    Statement(
        "color-crossing",
        "LXMERT's language layers before the crossing give the same answers whatever the picture.",
        ("lxmert",), "color", Probe(layer="language.2"), Probe(WRONG, "language.2"), "same", 0.02,
    ),
    Statement(
        "color-twin",
        "To the twin that learnt shuffled pairs, the right picture is worth no more than a wrong one.",
        SHUFFLED, "color", BEST, replace(BEST, condition=WRONG), "same", 0.1,
    ),
    Statement(
        "color-text",
        "A model that never saw a picture gives the same answers under both conditions.",
        ("bert",), "color", BEST, replace(BEST, condition=WRONG), "same", 0.02,
    ),
    Statement(
        "color-untold",
        "Where the text does not tell the colour, a text model and the shuffled twins do not know it.",
        ("bert", *SHUFFLED), "color", BEST, replace(BEST, control=MAJORITY), "same", 0.1,
    ),
    Statement(
        "color-random",
        "A model of random weights does not know of which thing the colour is asked, and guesses.",
        RANDOM, "color", BEST, replace(BEST, control=MAJORITY), "same", 0.15,
    ),
    Statement(
        "color-shuffled-labels",
        "A probe trained on shuffled labels finds nothing, whatever the model knows.",
        ("bert", *LOOKING, *SHUFFLED), "color", replace(LAST, control="shuffled-labels"),
        replace(LAST, control=MAJORITY), "same", 0.15,
    ),
    Statement(
        "size-seen",
        "A model that learnt captions with their pictures knows whether a word of size is true; its twin does not.",
        LOOKING, "size", LAST, replace(LAST, twin="-shuffled"), "more", 0.15,
    ),
    Statement(
        "size-twin",
        "Nor is it worth more for a word of size.",
        SHUFFLED, "size", LAST, replace(LAST, condition=WRONG), "same", 0.15,
    ),
    Statement(
        "size-told",
        "Where the text says whether the caption is true, every model that reads text knows it.",
        ("bert", *LOOKING, *SHUFFLED), "size", SECOND, None, "at least", 0.9, tell=1.0, pooling="words",
    ),
    Statement(
        "size-told-wrong",
        "Such models know it beside a wrong picture, too, where the text says it.",
        ("bert", *LOOKING, *SHUFFLED), "size", replace(SECOND, condition=WRONG), None, "at least", 0.9,
        tell=1.0, pooling="words",
    ),
    Statement(
        "position-seen",
        "LXMERT has learnt whether a word of place is true; its twin has not.",
        ("lxmert",), "position", LAST, replace(LAST, twin="-shuffled"), "more", 0.3,
    ),
    Statement(
        "position-unlearnt",
        "UNITER and ViLT have not learnt words of place, and guess as their twins do.",
        ("uniter", "vilt"), "position", LAST, replace(LAST, twin="-shuffled"), "same", 0.15,
    ),
    Statement(
        "count-seen",
        "ViT and ResNet know how many things there are.",
        ("vit", "resnet"), "object-count", LAST, replace(LAST, control=MAJORITY), "more", 0.7,
    ),
    Statement(
        "count-text",
        "To ViT and ResNet, another scene's text is no other input.",
        ("vit", "resnet"), "object-count", LAST, replace(LAST, condition=WRONG), "same", 0.02,
    ),
    Statement(
        "count-unseen",
        "A text model does not know how many things there are.",
        ("bert",), "object-count", LAST, replace(LAST, control=MAJORITY), "same", 0.1,
    ),
    Statement(
        "count-told",
        "Where the text tells how many things there are, the words know it before they have met the picture; those of "
        "another scene's text do not.",
        ("bert", *LOOKING), "object-count", FIRST, replace(FIRST, condition=WRONG), "more", 0.7,
        tell=1.0, pooling="words",
    ),
    Statement(
        "tag-word",
        "A word alone, in the first layer, tells most parts of speech.",
        ("bert", *LOOKING), "pos-tagging", FIRST, None, "at least", 0.85,
    ),
    Statement(
        "tag-context",
        "One layer later, where it has met its neighbours, a word tells more of them.",
        ("bert", *LOOKING), "pos-tagging", SECOND, FIRST, "more", 0.04,
    ),
    Statement(
        "tag-selectivity",
        "A probe of random weights is not selective: random labels of word forms it learns by heart, better than parts "
        "of speech, for which some words need their neighbours.",
        RANDOM, "pos-tagging", replace(SECOND, control="control-task"), SECOND, "more", 0.03,
    ),
    Statement(
        "region-color",
        "Region features tell the colour of a thing as well as the detector knows it.",
        ("uniter",), "thing-color", Probe(layer="regions.0"), None, "at least", 0.95,
    ),
)  # fmt: skip
"""The declared list."""
