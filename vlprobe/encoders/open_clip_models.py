"""open_clip's CLIPs and CoCa, by their names there: a causal text transformer, and a vision transformer or ResNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from vlprobe.device import moved
from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.elsewhere import RESAMPLES, make, revision_of
from vlprobe.encoders.pixels import Grid, ImageReader, pair
from vlprobe.encoders.stages import cells
from vlprobe.encoders.taps import residual_blocks, tap
from vlprobe.encoders.text import Pieces, Positions, TextReader
from vlprobe.encoders.towers import FEATURE_MAP, Towers
from vlprobe.errors import CheckpointError
from vlprobe.types import ROLES, Example

PROOF = ("a photo of two cats", "It's 3 o'clock: THE dog's   ball, (red & blue)!", "zebra's café", "")
"""Texts that both tokenizers must cut alike."""


class OpenClip(Towers):
    """CLIP as open_clip has it: layers and positions are those of `Clip`.

    Every text is padded to the length that the model was given positions for; no word sees the padding.

    The image tower of RN50 and its kin is a ResNet (Radford et al. 2021): `vision.0` is its stem, then a layer for
    every block, each cell with its even share of the image; `vision.projection` is what attention pools of the last.

    CoCa (Yu et al. 2022) has its [CLS] behind the text; of its image tower `vision.pooler` is the first of what queries
    pool of the last state, and there is no `vision.norm`. Its decoder, which writes captions, is not read.

    Raises:
        CheckpointError: open_clip has no such model, or one whose towers are not of these kinds.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.device = device
        name, _, weights = checkpoint.source.rpartition("/")
        if checkpoint.random:
            name, weights = (name or checkpoint.source), ""
        elif not name or not weights:
            raise CheckpointError(
                f"open_clip:{checkpoint.source} names no weights; give NAME/WEIGHTS, e.g. ViT-B-32/laion2b_s34b_b79k"
            )
        place = f"open_clip's {checkpoint.source}"
        model = make(checkpoint, lambda library: library.create_model(name, pretrained=weights or None))
        cut, settings = _beside(checkpoint, name, model)
        self.tower = getattr(model, "text", model)  # of texts
        _check_towers(model, self.tower, place)
        self.words = residual_blocks(self.tower, ("transformer.resblocks",), len(self.tower.transformer.resblocks))
        self.blocks = _stages(model.visual)
        self.convolutional = bool(self.blocks)
        if not self.convolutional:
            of_blocks = model.visual.transformer.resblocks
            self.blocks = residual_blocks(model, ("visual.transformer.resblocks",), len(of_blocks))
        self.model = model.to(device)
        behind = getattr(self.tower, "cls_emb", None) is not None
        reader = Behind if behind else TextReader
        self.text = reader(fast_tokenizer(cut, place), self.tower.context_length, self.pooled, fill=True)
        self.extra = int(behind)
        self.images = ImageReader(processor_of(settings, place), place, readers(device))
        self.size, self.before = pair(model.visual.image_size), int(not self.convolutional)
        self.patch = (1, 1) if self.convolutional else pair(model.visual.patch_size)
        self.seen = 0.0 if self.convolutional else self.before + math.prod(self.size) / math.prod(self.patch)
        self.revision = revision_of(checkpoint, model, sorted((k, str(v)) for k, v in settings.items()))
        # One text and one blank image say how wide the layers are.
        ids = torch.zeros(1, self.tower.context_length, dtype=torch.long, device=device)
        blank = torch.zeros(1, 3, *self.size)
        none = np.zeros((1, 0))
        with torch.inference_mode():
            layers = self.language(ids, ids) | self.vision(Grid(blank, none, none, none))
        self.layers = {
            layer: state.shape[1] if state.ndim == FEATURE_MAP else state.shape[-1] for layer, state in layers.items()
        }

    def grid(self, batch: Sequence[Example]) -> Grid:
        """Read the images of a batch.

        Raises:
            BadRow, CheckpointError: see `ImageReader.grid`.
        """
        return self.images.framed(batch) if self.convolutional else super().grid(batch)

    def placed(self, states: torch.Tensor, grid: Grid) -> Positions:
        """Return what the positions of a layer of the image tower are."""
        if not self.convolutional:
            return super().placed(states, grid)
        rows, columns = states.shape[2:]
        return cells((rows, columns), grid.frames, None)

    def pooled(self, ids: np.ndarray) -> int:
        """Return the position that the model pools of (position,) token ids: that of the largest, the end token."""
        return int(np.argmax(ids))

    def language(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the layers of the text tower; `mask` is not used, as the padding stands behind all words."""
        with tap(self.words) as states:
            projected = self.model.encode_text(ids, normalize=False)
        count = ids.shape[1] + self.extra
        layers = {f"language.{index}": self._in_front(state, count) for index, state in enumerate(states)}
        last = self.tower.ln_final(layers[f"language.{len(states) - 1}"])
        layers["language.norm"] = last
        end = torch.full((len(ids),), count - 1, device=last.device) if self.extra else ids.argmax(dim=-1)
        layers["language.pooler"] = last[torch.arange(len(last), device=last.device), end]
        return layers | {"language.projection": projected}

    def vision(self, grid: Grid) -> dict[str, torch.Tensor]:
        """Return the layers of the image tower; of a ResNet, (batch, channel, row, column) each."""
        visual = self.model.visual
        with tap(self.blocks) as states:
            projected = self.model.encode_image(moved(grid.pixels, self.device), normalize=False)
        if self.convolutional:
            layers = {f"vision.{index}": state for index, state in enumerate(states)}
            return layers | {"vision.projection": projected}
        count = self.before + math.prod(self.size or (0,)) // math.prod(self.patch)
        layers = {f"vision.{index}": self._in_front(state, count) for index, state in enumerate(states)}
        last = layers[f"vision.{len(states) - 1}"]
        if visual.attn_pool is None:
            layers["vision.norm"] = last = visual.ln_post(last)
        else:
            last = visual.ln_post(visual.attn_pool(last))
        return layers | {"vision.pooler": last[:, 0], "vision.projection": projected}

    def _in_front(self, state: torch.Tensor, positions: int) -> torch.Tensor:
        """Return (batch, position, width); until version 2.24, open_clip ran (position, batch, width)."""
        first = getattr(self.tower.transformer, "batch_first", False)
        state = state if first else state.transpose(0, 1)
        if state.shape[1] != positions:
            raise CheckpointError(f"open_clip's states have {state.shape[1]} positions, expected are {positions}")
        return state


class Behind(TextReader):
    """Texts whose model sets a [CLS] of its own behind their padding: one position more than there are tokens."""

    def read(self, batch: Sequence[Example]) -> Pieces:
        """Cut the texts of a batch into pieces, see `TextReader.read`.

        Raises:
            BadRow: as there.
        """
        pieces = super().read(batch)
        role = np.where(pieces.role == ROLES.index("cls"), ROLES.index(""), pieces.role).astype(np.int8)
        role = np.pad(role, ((0, 0), (0, 1)), constant_values=ROLES.index("cls"))
        return Pieces(pieces.ids, pieces.mask, role, np.pad(pieces.word, ((0, 0), (0, 1)), constant_values=-1))


def _stages(visual: Any) -> list[torch.nn.Module]:
    """Return the blocks of a ResNet that attention pools; none of another tower."""
    if not hasattr(visual, "attnpool"):
        return []
    return [block for stage in range(1, 5) for block in getattr(visual, f"layer{stage}")]


def _beside(checkpoint: Checkpoint, name: str, model: Any) -> tuple[Any, dict[str, Any]]:
    """Return the tokenizer and the image settings that open_clip has for a model."""
    found: list[Any] = []

    def ask(library: Any) -> Any:
        found.append(library.get_tokenizer(name))
        found.append(dict(model.visual.preprocess_cfg))
        return model

    make(checkpoint, ask)
    return found[0], found[1]


def _check_towers(model: Any, text: Any, place: str) -> None:
    """Refuse towers that are not known.

    Args:
        model: the model.
        text: its text tower.
        place: what it is, for messages.

    Raises:
        CheckpointError: they are not.
    """
    visual = model.visual
    ours = hasattr(visual, "transformer") and hasattr(visual, "ln_post")
    way = getattr(text, "pool_type", getattr(text, "text_pool_type", "argmax"))
    for known, what in (
        (hasattr(text, "transformer") and hasattr(text, "ln_final"), "a text tower of its own kind"),
        (ours or hasattr(visual, "attnpool"), "an image tower that is neither ViT nor ResNet of open_clip"),
        (way == "argmax", "texts that are pooled otherwise than at their end"),
        (getattr(visual, "pool_type", "tok") == "tok", "images that are pooled otherwise than at [CLS]"),
        (getattr(visual, "attn_pool_contrastive", None) is None, "images that two attentions pool"),
        (not getattr(visual, "final_ln_after_pool", False), "images that are normed behind their pooling"),
    ):
        if not known:
            raise CheckpointError(
                f"{place} has {what}, which is not known here; where it stands on the hub in transformers' layout, "
                "name it as clip:... or siglip:..."
            )


def fast_tokenizer(simple: Any, place: str) -> Any:
    """Return open_clip's tokenizer as a fast one of transformers, which knows where in a text its pieces are.

    Raises:
        CheckpointError: it is of another kind, or the two do not cut texts alike.
    """
    ranks = getattr(simple, "bpe_ranks", None)
    if ranks is None:
        raise CheckpointError(f"{place} cuts texts by {type(simple).__name__}, whose pieces are not known here")
    merges = [pair for pair, _ in sorted(ranks.items(), key=lambda item: item[1])]
    start, end = (simple.decoder[number] for number in (simple.sot_token_id, simple.eot_token_id))
    names = {"bos_token": start, "eos_token": end, "unk_token": end}
    made = transformers.CLIPTokenizer(vocab=dict(simple.encoder), merges=merges, **names)
    made.pad_token = made.convert_ids_to_tokens(0)  # with which open_clip pads
    for text in PROOF:
        ids, theirs = made(text)["input_ids"], simple([text])[0].tolist()
        if ids != theirs[: len(ids)] or any(theirs[len(ids) :]):
            raise CheckpointError(
                f"{place}: the text {text!r} becomes {ids} here and {theirs[: len(ids) + 1]} in open_clip; this "
                "version of its tokenizer is not known here"
            )
    return made


def processor_of(settings: dict[str, Any], place: str) -> Any:
    """Return an image processor of the PIL kind that does what open_clip does.

    Raises:
        CheckpointError: it reads images in a way that is not known here.
    """
    mode, way = settings.get("resize_mode", "shortest"), settings.get("interpolation", "bicubic")
    height, width = pair(settings["size"])
    if mode not in ("shortest", "squash") or way not in RESAMPLES or (mode == "shortest" and height != width):
        raise CheckpointError(
            f"{place} resizes images to {width} x {height} by '{mode}', '{way}'; known are shortest, of squares, and "
            f"squash, and {', '.join(RESAMPLES)}"
        )
    size = {"shortest_edge": height} if mode == "shortest" else {"height": height, "width": width}
    return transformers.CLIPImageProcessorPil(
        size=size,
        crop_size={"height": height, "width": width},
        do_center_crop=True,
        resample=RESAMPLES[way],
        image_mean=list(settings["mean"]),
        image_std=list(settings["std"]),
    )
