"""The keys of a study file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vlprobe.errors import StudyError, did_you_mean
from vlprobe.pairing import read_condition
from vlprobe.probes import ASKED_FOR, CONTROLS, PROBES
from vlprobe.settings import Settings
from vlprobe.types import Numbers


class Pooling(Settings):
    """How each unit is pooled; see `vlprobe.pooling.POOLINGS`."""

    input: str = "auto"
    word: str = "first"
    region: str = "box"


class StudyFile(Settings):
    """The keys of a study file."""

    name: str = Field(pattern=r"^[\w.-]*[\w-][\w.-]*$")
    """Names the results folder: letters, digits, '.', '_', '-'."""
    models: list[str | dict[str, Any]] = Field(min_length=1)
    """`FAMILY:SOURCE`, or a mapping with more to say; see `load_model`."""
    tasks: list[str | dict[str, Any]] = Field(min_length=1)
    """Names of known tasks, or mappings that describe the user's own; see `load_task`."""
    conditions: list[str] = ["matched"]
    """See `vlprobe.pairing.CONDITIONS`; `A>B` trains on A and tests on B."""
    layers: Literal["all"] | Annotated[list[str], Field(min_length=1)] = "all"
    """Layer addresses to probe."""
    pooling: Pooling = Pooling()
    """How each unit is pooled."""
    probes: list[str] = ["linear"]
    """How to listen; see `vlprobe list probes`. `linear` is always there, and is the answer; others stand beside it."""
    controls: Literal["all"] | list[str] = [name for name in CONTROLS if name not in ASKED_FOR]
    """What stands beside every number; see `vlprobe.probes.CONTROLS`. `majority` is always there."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """Each draws a split (where none is given), a derangement, a validation part and controls of its own."""
    data: dict[str, str] = {}
    """Places of the data of known tasks: salin2022, flickr30k, coco, flowers102."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do with rows that cannot be used: stop, or leave them out and count them."""
    limit: int | None = Field(default=None, ge=2)
    """Use at most so many examples of each split."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What models compute in: bfloat16 is faster where hardware has it, and moves scores: benchmarks/precision.md."""
    dtype: Literal["float32", "float16"] = "float32"
    """The number format that representations are kept in: half the disk in float16, each number good to 5 in 10,000."""
    store: str | None = None
    """Folder of representations, shared by all studies that name it; `~/.cache/vlprobe/features` if absent."""
    output: str | None = None
    """Results folder; `results/NAME` in the current folder if absent."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the GPU if there is one."""
    batch_size: int | None = Field(default=None, ge=1)
    """Inputs at a time through a model, at most. If absent: as many as make it fastest, on a GPU found by trial."""

    @property
    def numbers(self) -> Numbers:
        """How models are run and their representations are kept."""
        return Numbers(self.precision, self.dtype)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different numbers from 0 up")
        return seeds

    @field_validator("probes")
    @classmethod
    def _beside_linear(cls, probes: list[str]) -> list[str]:
        for probe in probes:
            if probe not in PROBES:
                raise ValueError(f"unknown probe '{probe}'{did_you_mean(probe, PROBES)}")
        if len(set(probes)) != len(probes):
            raise ValueError("probes must be different")
        return ["linear", *(probe for probe in probes if probe != "linear")]

    @field_validator("controls")
    @classmethod
    def _of_the_table(cls, controls: Literal["all"] | list[str]) -> list[str]:
        named = list(CONTROLS) if controls == "all" else controls
        for control in named:
            if control not in CONTROLS:
                raise ValueError(f"unknown control '{control}'{did_you_mean(control, CONTROLS)}")
        return [name for name in CONTROLS if name == "majority" or name in named]

    @field_validator("conditions")
    @classmethod
    def _known(cls, conditions: list[str]) -> list[str]:
        for condition in conditions:
            try:
                read_condition(condition)
            except StudyError as error:
                raise ValueError(str(error)) from None
        if len(set(conditions)) != len(conditions) or not conditions:
            raise ValueError("conditions must be different, and at least one")
        return conditions
