"""Representations on disk: one folder for a list of inputs and a model, one safetensors file a shard.

A shard is written to a temporary name, flushed and renamed, so that a file that is there is whole; a run that was
killed goes on at the first shard that is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


class Store:
    """Shards of pooled rows, addressed by content.

    Args:
        folder: created when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str, shard: int) -> Path:
        """Return the file of one shard of one feature set."""
        return self.folder / key[:2] / key / f"{shard:05d}.safetensors"

    def has(self, key: str, shard: int) -> bool:
        """Say whether a shard is there."""
        return self.path(key, shard).exists()

    def write(self, key: str, shard: int, tensors: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
        """Write one shard: all of it, or nothing.

        Args:
            key: content address of the feature set.
            shard: its number.
            tensors: name -> array.
            notes: short texts kept in the file's header.
        """
        path = self.path(key, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        # numpy.save-like layouts only: safetensors would write a view's buffer, not the view.
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary, dict(notes))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(path)

    def names(self, key: str, shard: int) -> list[str]:
        """Return the names of a shard's tensors."""
        with safe_open(self.path(key, shard), framework="numpy") as file:
            return list(file.keys())

    def read(self, key: str, shard: int, name: str) -> np.ndarray:
        """Return one tensor of one shard."""
        with safe_open(self.path(key, shard), framework="numpy") as file:
            return file.get_tensor(name)

    def notes(self, key: str, shard: int) -> dict[str, str]:
        """Return the texts kept in a shard's header; of a damaged file, remove it and return nothing."""
        try:
            with safe_open(self.path(key, shard), framework="numpy") as file:
                return file.metadata() or {}
        except (SafetensorError, json.JSONDecodeError, OSError):
            self.path(key, shard).unlink(missing_ok=True)
            return {}
