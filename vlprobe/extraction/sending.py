"""Pooled rows on their way from the device to the host: one copy a batch, for which nobody has to wait at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

CPU = torch.device("cpu")


class Sent:
    """Rows of many layers, sent off together.

    A GPU runs what it is given in its order, and the host, which goes on, waits for the copy alone when it looks at it.

    Args:
        rows: (row, width) float32 each, on any devices.
        kept: `float32`, or `float16` where that holds them.
    """

    def __init__(self, rows: Sequence[torch.Tensor], kept: str) -> None:
        self._rows, self._half = rows, kept == "float16"
        self._parts: list[tuple[list[int], torch.Tensor, torch.cuda.Event | None]] = []
        for device in dict.fromkeys(each.device for each in rows):
            places = [place for place, each in enumerate(rows) if each.device == device]
            flat = torch.cat([rows[place].reshape(-1) for place in places])
            flat = flat.half() if self._half else flat
            if device.type != "cuda":
                self._parts.append((places, flat.to(CPU), None))
                continue
            host = flat.to(CPU, non_blocking=True)  # pinned memory, which is filled while the host goes on
            self._parts.append((places, host, torch.cuda.current_stream(device).record_event()))

    def arrived(self) -> Iterator[np.ndarray]:
        """Yield the rows of each layer, float16 where that was asked for and holds them; infinite or NaN as they are.

        Waits for the copy.
        """
        found: dict[int, np.ndarray] = {}
        for places, host, event in self._parts:
            if event is not None:
                event.synchronize()
            flat, start = host.numpy(), 0
            flat = flat if event is None else flat.copy()  # pinned memory is scarce, and is used again
            for place in places:
                end = start + self._rows[place].numel()
                found[place] = flat[start:end].reshape(tuple(self._rows[place].shape))
                start = end
        for place in range(len(self._rows)):
            if self._half and not np.isfinite(found[place]).all():  # beyond 65504: kept as float32
                found[place] = self._rows[place].cpu().numpy()
            yield found[place]
