"""The `regions` of a model in a study file."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from vlprobe.settings import Settings


class RegionSettings(Settings):
    """The `regions` of a model in a study."""

    features: str | None = None
    """Feature file: LXMERT's or bottom-up attention's TSV, a folder of UNITER's npz files or its LMDB, volta's h5."""
    detector: str | None = None
    """Weights of the Visual Genome detector, or the folder that they are in."""
    conventions: str | None = None
    """How the detector is run: `caffe`, `detectron2` or `hf`; its own default if absent."""
    boxes: int | tuple[int, int] | None = None
    """Boxes of an image: 36, or [10, 100] for UNITER's adaptive number, the most confident where a file holds more; all
    that the file holds, or as the detector's conventions say, if absent."""

    @field_validator("boxes")
    @classmethod
    def _ordered(cls, boxes: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        least, most = (boxes, boxes) if isinstance(boxes, int) else boxes or (1, 1)
        if not 1 <= least <= most:
            raise ValueError("boxes must be a number from 1 up, or [least, most]")
        return boxes

    @model_validator(mode="after")
    def _one_source(self) -> RegionSettings:
        if (self.features is None) == (self.detector is None):
            raise ValueError("give one of `features: FILE` and `detector: WEIGHTS`")
        if self.features is not None and self.conventions is not None:
            raise ValueError("`conventions` say how a detector is run; a feature file has none")
        return self
