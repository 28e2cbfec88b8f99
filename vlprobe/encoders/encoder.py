"""The one interface of every model that can be probed: `Encoder.encode(batch) -> list[Hidden]`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlprobe.types import Example, Hidden, Modality

if TYPE_CHECKING:
    from vlprobe.encoders.ahead import Ahead

LETTERS = 4
"""Of a word piece, about."""
LAUNCHED = 2048.0
"""Positions that a GPU runs in the time that a batch takes whatever is in it, as it waits for kernels to be launched: a
guess, where no trial has measured it."""


class Encoder(ABC):
    """A model that turns examples into hidden states whose every position is known.

    A subclass states `modalities` and `layers`, and writes `encode`. `load_model` fills in the rest.
    """

    modalities: tuple[Modality, ...]
    """What it reads: ("text",), ("image",) or ("text", "image")."""
    needs: tuple[Modality, ...] = ()
    """Modalities that it cannot do without. A joint model that also takes a text alone, or an image alone,
    leaves this empty; what it is not given is None in the example."""
    reads: Mapping[str, tuple[Modality, ...]] = MappingProxyType({})
    """Stream, or a layer of one that reads less than others of it -> what it depends on and cannot do without, whatever
    else the model is given: rows of one that reads the text alone are kept once, whatever the text is paired with. A
    stream that is not here may depend on all that the model reads, and do with a part of it."""
    masks: bool = True
    """Whether it was trained with a token for a masked word; a model that reads no text leaves this as it is."""
    neighbours: bool = False
    """Whether examples of one image are to be in one batch: `encode` then runs an encoder of images once for them."""
    layers: Mapping[str, int]
    """Layer address -> width of its states, in order of depth, as `encode` returns them."""

    name: str = ""
    """As the study calls it."""
    family: str = ""
    """Its row in the table of families; of an encoder of one's own, its class."""
    stage: str = "pretrained"
    """What the checkpoint was trained for."""
    revision: str = ""
    """Hub commit, or sha256 over the checkpoint's files: the same revision and usage give the same states."""
    usage: Mapping[str, str] = MappingProxyType({})
    """How the checkpoint is used where its files leave that open, as the `prompt` of a generative model: part of the
    address of its features."""
    left_out: tuple[str, ...] = ()
    """Weights of the checkpoint that are not used (heads), and layers that it does not bring (pooler)."""

    most: float = math.inf
    """Positions, padding counted, that a batch may have: on a processor, more of them leave its cache: it is slower; on
    a GPU, what a trial found."""
    fixed: float = LAUNCHED
    """Positions that a GPU runs in the time that a batch takes whatever is in it, as a trial has measured."""
    accelerator: str = ""
    """What kind of GPU it runs on; empty: none whose batches are found by trial."""

    @abstractmethod
    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return one `Hidden` per layer of `layers`, in that order.

        A model whose two towers never meet leaves out the layers of a tower that it is given nothing for. Given one
        side alone, it brings the states of the layers that read that side (`reads`).
        What an example's states are must not depend on the rest of the batch.

        Args:
            batch: examples that all have the same modalities present. Their `target` is not to be read.

        Raises:
            BadRow: an example cannot be encoded (undecodable image, text longer than the model takes).
        """

    @property
    def reading(self) -> Ahead[Any] | None:
        """Return what reads the images of later batches while the model is busy; None: nothing is read ahead."""
        return None

    def ahead(self, coming: Sequence[Example]) -> None:
        """Begin to read what examples, the next first, will need in `encode`, where that saves time."""
        if self.reading is not None:
            self.reading.begin(coming)

    def await_images(self) -> None:
        """Wait until all that was begun is read."""
        if self.reading is not None:
            self.reading.wait()

    def rehearsal(self) -> AbstractContextManager[None]:
        """Return a context in which any image can be encoded, also where a file of features knows only its own."""
        return nullcontext()

    def lengths(self, batch: Sequence[Example]) -> list[float]:
        """Return about how many positions each example takes: neighbours in length share a batch; here, by its text.

        What can be kept for a later `encode` of the examples may be.

        Raises:
            BadRow: an image cannot be opened.
        """
        return [len(example.text or "") / LETTERS for example in batch]


@dataclass(frozen=True)
class Profile:
    """What is known of an encoder once it was loaded: all that planning needs, and no weights."""

    name: str
    """As in `Encoder`."""
    stage: str
    """As in `Encoder`."""
    revision: str
    """As in `Encoder`."""
    family: str
    """As in `Encoder`."""
    usage: Mapping[str, str]
    """As in `Encoder`."""
    layers: Mapping[str, int]
    """As in `Encoder`."""
    left_out: tuple[str, ...]
    """As in `Encoder`."""
    modalities: tuple[Modality, ...]
    """As in `Encoder`."""
    needs: tuple[Modality, ...]
    """As in `Encoder`."""
    reads: Mapping[str, tuple[Modality, ...]]
    """As in `Encoder`."""
    masks: bool
    """As in `Encoder`."""


def profile(encoder: Encoder) -> Profile:
    """Return what is known of an encoder; nothing of it leads back to its network."""
    return Profile(
        name=encoder.name,
        stage=encoder.stage,
        revision=encoder.revision,
        family=encoder.family or type(encoder).__name__,
        usage=dict(encoder.usage),
        layers=dict(encoder.layers),
        left_out=tuple(encoder.left_out),
        modalities=tuple(encoder.modalities),
        needs=tuple(encoder.needs),
        reads=dict(encoder.reads),
        masks=encoder.masks,
    )


def side_of(known: Encoder | Profile, layer: str) -> str:
    """Return what is asked the same as a layer: its stream, or those of the stream that read less: `language:text`."""
    stream = layer.partition(".")[0]
    return f"{stream}:{'+'.join(known.reads[layer])}" if layer in known.reads else stream


def sides_of(known: Encoder | Profile) -> dict[str, tuple[Modality, ...]]:
    """Return side (`side_of`) -> what its layers read, empty for all that there is, in the order of the layers."""
    return {
        side_of(known, layer): known.reads.get(layer, known.reads.get(layer.partition(".")[0], ()))
        for layer in known.layers
    }
