"""The zoo's table: every model, what it starts from, what it learns, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Teaching = Literal["boxes", "words", "kinds", "pairs", "shuffled pairs", "questions", "statements"]
"""What a model is taught: `boxes` (a detector's), masked `words`, `kinds` of things in a picture, matched `pairs` of
captions and images, `shuffled pairs`, `questions` about images, `statements` about pairs of images."""


@dataclass(frozen=True)
class Recipe:
    """How one model of the zoo is made."""

    family: str
    """As `vlprobe list models` has it; `detector` for what gives UNITER and LXMERT their regions."""
    teaching: Teaching
    """What it learns."""
    stage: str
    """As in `Result.stage`."""
    steps: int
    """Batches of 64."""
    start: str = ""
    """The model whose weights it starts from; empty: random weights."""
    rate: float = 2e-3
    """Height of the learning rate."""
    masked: float = 0.5
    """Share of a batch of pairs whose words are masked; the rest is matched."""


RECIPES: dict[str, Recipe] = {
    "detector": Recipe("detector", "boxes", "pretrained", 1500),
    "bert": Recipe("bert", "words", "pretrained", 2000),
    "vit": Recipe("vit", "kinds", "pretrained", 2500),
    "resnet": Recipe("resnet", "kinds", "pretrained", 1500),
    "uniter": Recipe("uniter", "pairs", "pretrained", 5000),
    "uniter-shuffled": Recipe("uniter", "shuffled pairs", "shuffled-pairs", 2000),
    "uniter-vqa": Recipe("uniter", "questions", "vqa", 800, "uniter", 1e-3),
    "uniter-nlvr2": Recipe("uniter", "statements", "nlvr2", 600, "uniter", 1e-3),
    "lxmert": Recipe("lxmert", "pairs", "pretrained", 4000),
    "lxmert-shuffled": Recipe("lxmert", "shuffled pairs", "shuffled-pairs", 2000),
    "lxmert-vqa": Recipe("lxmert", "questions", "vqa", 800, "lxmert", 1e-3),
    "lxmert-nlvr2": Recipe("lxmert", "statements", "nlvr2", 600, "lxmert", 1e-3),
    "vilt": Recipe("vilt", "pairs", "pretrained", 5000, "vit", masked=0.75),
    "vilt-shuffled": Recipe("vilt", "shuffled pairs", "shuffled-pairs", 1500, "vit", masked=0.75),
    "vilt-vqa": Recipe("vilt", "questions", "vqa", 800, "vilt", 1e-3),
    "vilt-nlvr2": Recipe("vilt", "statements", "nlvr2", 600, "vilt", 1e-3),
}
"""In an order in which each comes after what it needs. UNITER, LXMERT and their kin also need the detector."""
