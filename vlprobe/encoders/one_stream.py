"""Models of one stream over words and regions: text with its padding first, then regions with theirs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vlprobe.encoders.boxes import LAYER, RegionBatch, RegionEncoder, nothing
from vlprobe.encoders.taps import pooled
from vlprobe.encoders.text import Pieces, need_text_or_image
from vlprobe.errors import BadRow
from vlprobe.types import Example, Hidden


class OneStream(RegionEncoder):
    """A one-stream transformer over words and regions: `regions.0`, `joint.0` to `joint.n`, `joint.pooler`.

    Given a text alone it has no regions; given an image alone, no text, and so no [CLS]: what its input does not
    reach (`regions.0`; the pooler, which would read the first region) then has no positions, and pooling leaves it
    out. A family states how it is run; what it reads with, it sets up in its constructor.
    """

    device: torch.device
    """Where it runs."""

    @abstractmethod
    def stream(self, pieces: Pieces | None, regions: RegionBatch | None) -> Mapping[str, torch.Tensor]:
        """Return layer address -> (batch, position, width), or (batch, width) of `joint.pooler`, if there is one.

        Args:
            pieces: None: regions alone.
            regions: None: text alone.
        """

    def encode(self, batch: Sequence[Example]) -> list[Hidden]:
        """Return the region features, the residual stream over text and regions, the pooler's output.

        Raises:
            BadRow: neither text nor image, or not the same of both throughout; an image without regions; a text of
                more tokens than the model has positions.
        """
        pieces, regions = self._read(batch)
        states = self.stream(pieces, regions)
        parts = [part for part in (pieces, regions) if part is not None]
        role = np.concatenate([part.role for part in parts], axis=1)
        word = np.full(role.shape, -1, dtype=np.int32)
        box = np.full((*role.shape, 4), np.nan, dtype=np.float32)
        texts = pieces.role.shape[1] if pieces else 0
        if pieces:
            word[:, :texts] = pieces.word
        if regions:
            box[:, texts:] = regions.box
        hidden = [regions.hidden() if regions else self._nothing(LAYER, batch)]
        for layer in list(self.layers)[1:]:
            if layer not in states:
                hidden.append(self._nothing(layer, batch))
            elif layer == "joint.pooler":
                hidden.append(pooled(layer, states[layer]))
            else:
                hidden.append(Hidden(layer, states[layer], role, word, box))
        return hidden

    def _read(self, batch: Sequence[Example]) -> tuple[Pieces | None, RegionBatch | None]:
        """Return the batch's texts and regions, None for what none of its examples has."""
        need_text_or_image(batch)
        texts = [example for example in batch if example.text is not None]
        if texts and len(texts) < len(batch):
            lone = next(example for example in batch if example.text is None)
            raise BadRow(lone.place or lone.id, f"example {lone.id} has no text, and others of its batch have one")
        pictured = any(example.image is not None for example in batch)
        regions = self.images.read(batch).on(self.device) if pictured else None
        return self.text.read(batch) if texts else None, regions

    def _nothing(self, layer: str, batch: Sequence[Example]) -> Hidden:
        return nothing(layer, len(batch), self.layers[layer], self.device)
