"""What every encoder must keep to, tried on drawn inputs when it is loaded."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from vlprobe.digest import generator
from vlprobe.encoders.encoder import Encoder, side_of, sides_of
from vlprobe.types import ROLES, Example, Hidden, Modality

NONE, WORD, PATCH = (ROLES.index(role) for role in ("", "word", "patch"))

TEXTS = ("a red dog by the mat", "two red cats", "dogs")
"""Of three lengths, so that there is padding."""
OTHER = ("two red cats", "two blue cats", 1)
"""A text, the same with another word, and which word that is."""
SIZES = ((96, 64), (64, 64), (64, 80))
"""(width, height) in pixels of the images that go with `TEXTS`; the second is the one that is marked."""
MARK = (0.125, 0.55, 0.45, 0.875)
"""Part of the image that is painted over: x1, y1, x2, y2 as fractions; off the diagonals, so that rows are told from
columns and up from down."""
NEAR = 0.1
"""So far from the mark, as a fraction of the image, the resampling of a resized image and a patch's stem may reach."""
ROUNDING = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 1e-1}
"""Type of the states -> how far an example's states may move with its company, as a share of the largest of the layer:
well above the order of a sum, well below what a leak through padding does."""


def faults(encoder: Encoder) -> list[str]:
    """Return what is wrong with how an encoder reads its model, in words; nothing where all is well.

    Two batches are run: three examples of unlike lengths, then the second of them beside its twin, in which one word
    and one square of the image are others; where a layer is said to read one side alone (`Encoder.reads`), both with
    the other's image, too. So it is seen that

    * layers come in the promised order, width and shape, finite, no two of them the same;
    * no layer is constant over inputs;
    * neither company nor padding changes an example;
    * every word has its positions, and the word that is another moves those and not the ones before it, which an image
      that is another may (VL-BERT's words hold a part of it);
    * the square that is another moves the patches that lie in it, and none that lie apart;
    * a layer that reads the text alone is the same with another image, one of the image alone with another text.

    Args:
        encoder: one that encodes any text and image: inside `Encoder.rehearsal`.

    Raises:
        BadRow: it does not take the drawn inputs.
    """
    examples = [drawn(encoder.modalities, number) for number in range(3)]
    together = encoder.encode(examples)
    found = _of_shape(encoder, together, len(examples))
    if found:
        return found  # the rest would only say it again
    pair = [examples[1], _twin(encoder, examples[1])]
    if any(len(sides) < len(encoder.modalities) for sides in encoder.reads.values()):
        pair += [replace(one, image=other.image) for one, other in zip(pair, pair[::-1], strict=True)]
    twins = encoder.encode(pair)
    found = _of_shape(encoder, twins, len(pair))
    # Of 8 or 4 bits, products are rounded too; weights of 16 bits are multiplied in float32.
    coarse = "rounded" in encoder.usage.get("weights", "")
    for layer, beside in zip(together, twins, strict=True):
        found += [*_constant(layer), *_moved_by_company(layer, beside, coarse)]
        found += _moved_by_the_other_side(encoder, beside, coarse)
    return found + _repeated(together) + _words_astray(encoder, twins) + _patches_astray(encoder, twins)


def drawn(modalities: Sequence[Modality], number: int = 1) -> Example:
    """Return one of three drawn inputs.

    Args:
        modalities: what it is to have.
        number: 0 to 2.
    """
    text = TEXTS[number] if "text" in modalities else None
    image = _png(_drawn(number)) if "image" in modalities else None
    return _of(f"self-check {number}", text, image)


def _twin(encoder: Encoder, example: Example) -> Example:
    """Return the example with another word and a square painted over."""
    image = None
    if example.image is not None:
        pixels = _drawn(1)
        x1, y1, x2, y2 = (round(share * size) for share, size in zip(MARK, SIZES[1] * 2, strict=True))
        pixels[y1:y2, x1:x2] = 255 - pixels[y1:y2, x1:x2]
        image = _png(pixels)
    return _of("self-check twin", OTHER[1] if example.text is not None else None, image)


def _of(name: str, text: str | None, image: bytes | None) -> Example:
    words = tuple(found.span() for found in re.finditer(r"\w+", text or ""))
    return Example(name, name, text, image, ("",), words=words, place=name)


def _drawn(number: int) -> np.ndarray:
    """Return (height, width, 3) uint8: squares of 8 pixels, each of a colour of its own."""
    width, height = SIZES[number]
    coarse = generator(0, "self-check", str(number)).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def _png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def _of_shape(encoder: Encoder, hidden: Sequence[Hidden], count: int) -> list[str]:
    """Say where layers are not those promised, or not of one form, or not finite."""
    named, promised = [layer.layer for layer in hidden], list(encoder.layers)
    if named != promised:
        return [f"`layers` promises {', '.join(promised)}; `encode` brings {', '.join(named)}"]
    found = []
    for layer in hidden:
        wanted = (count, layer.role.shape[-1], encoder.layers[layer.layer])
        shapes = {"states": tuple(layer.states.shape), "role": layer.role.shape, "word": layer.word.shape}
        forms = {"states": wanted, "role": wanted[:2], "word": wanted[:2], "box": (*wanted[:2], 4)}
        for name, shape in (shapes | {"box": layer.box.shape}).items():
            if shape != forms[name]:
                found.append(f"{layer.layer}: `{name}` has the shape {shape}, not {forms[name]}")
        if not found and not bool(layer.states.isfinite().all()):
            found.append(f"{layer.layer} holds NaN or infinite states")
    return found


def _constant(layer: Hidden) -> list[str]:
    """Say that a layer is the same for unlike inputs: a mean over what is known of each, up to rounding."""
    known = layer.role != NONE
    if not known.any(axis=1).all():
        return []  # a layer that these inputs do not reach
    placed = layer.box[layer.role != NONE]
    nowhere = np.array_equal(placed, placed[:1].repeat(len(placed), axis=0), equal_nan=True)
    if layer.layer.endswith(".0") and nowhere and not (layer.role == WORD).any():
        return []  # a [CLS] or learnt queries, which are of no place and have seen nothing yet
    means = np.stack([_values(layer.states[row])[known[row]].mean(axis=0) for row in (0, 2)])
    far = np.abs(means[0] - means[1]).max() > 1e-6 * max(1e-6, float(np.abs(means).max()))
    return [] if far else [f"{layer.layer} is the same for '{TEXTS[0]}' and '{TEXTS[2]}', and for two unlike images"]


def _moved_by_company(layer: Hidden, beside: Hidden, coarse: bool) -> list[str]:
    """Say that the second example's states are others beside a longer example than beside its twin."""
    mine, other = layer.role[1] != NONE, beside.role[0] != NONE
    if mine.sum() != other.sum():
        return [
            f"{layer.layer}: an example has {mine.sum()} positions beside longer ones, {other.sum()} beside its like"
        ]
    far = _far(_values(layer.states[1])[mine], _values(beside.states[0])[other])
    if far <= _allowed(layer, coarse):
        return []
    return [f"{layer.layer}: an example's states change by {far:.0e} of the largest with the others in its batch"]


def _moved_by_the_other_side(encoder: Encoder, twins: Hidden, coarse: bool) -> list[str]:
    """Say that a layer that is said to read one side is not the same with the twin's other side."""
    sides = sides_of(encoder)[side_of(encoder, twins.layer)]
    if len(sides) != 1 or len(encoder.modalities) == 1:
        return []
    partner = {"text": 2, "image": 3}[sides[0]]  # the example with its twin's image, the twin with the example's
    mine, other = twins.role[0] != NONE, twins.role[partner] != NONE
    far = math.inf
    if mine.sum() == other.sum():
        far = _far(_values(twins.states[0])[mine], _values(twins.states[partner])[other])
    if far <= _allowed(twins, coarse):
        return []
    moved = {"text": "image", "image": "text"}[sides[0]]
    return [f"{twins.layer}, said to read the {sides[0]} alone, changes by {far:.0e} of the largest with the {moved}"]


def _far(here: np.ndarray, there: np.ndarray) -> float:
    """Return the largest difference of states, as a share of the largest of them."""
    return float(np.abs(here - there).max() / max(1e-12, np.abs(here).max())) if len(here) else 0.0


def _allowed(layer: Hidden, coarse: bool) -> float:
    kind = "bfloat16" if coarse else str(layer.states.dtype).removeprefix("torch.")
    return ROUNDING.get(kind, ROUNDING["float32"])


def _repeated(hidden: Sequence[Hidden]) -> list[str]:
    """Say that two layers of a residual stream hold the same numbers: one of them was read at the wrong place."""
    found = []
    for one, next_one in zip(hidden, hidden[1:], strict=False):
        numbered = all(layer.layer.rpartition(".")[2].isdigit() for layer in (one, next_one))
        alike = one.states.shape == next_one.states.shape and one.states.shape[1] > 0
        if numbered and alike and bool((one.states == next_one.states).all()):
            found.append(f"{next_one.layer} is the same as {one.layer}")
    return found


def _first(encoder: Encoder, stream: str, twins: Sequence[Hidden]) -> Hidden | None:
    """Return the layer in which positions of `stream` have not yet spoken to one another; None: there is none."""
    name = f"{stream if f'{stream}.0' in encoder.layers else 'joint'}.0"
    return next((layer for layer in twins if layer.layer == name), None)


def _words_astray(encoder: Encoder, twins: Sequence[Hidden]) -> list[str]:
    first = _first(encoder, "language", twins)
    if "text" not in encoder.modalities or first is None:
        return []
    if not (first.role[0] == WORD).any():
        return []  # it has a state for the whole text alone; a task that asks about words cannot be put to it
    missing = [k for k in range(len(OTHER[0].split())) if not (first.word[0] == k).any()]
    if missing:
        words = ", ".join(f"'{OTHER[0].split()[k]}'" for k in missing)
        return [f"{first.layer}: no position is said to be the word {words} of '{OTHER[0]}'"]
    found = []
    before, after = (_values(first.states[row]) for row in (0, 1))
    if _alike(before[first.role[0] == WORD], after[first.role[1] == WORD]):
        return []  # a small vocabulary that knows neither word: `_constant` has seen that texts are told apart
    if _alike(before[first.word[0] == OTHER[2]], after[first.word[1] == OTHER[2]]):
        found.append(
            f"{first.layer}: the states said to be word {OTHER[2]} are the same in '{OTHER[0]}' and '{OTHER[1]}'"
        )
    if not _alike(before[first.word[0] == 0], after[first.word[1] == 0]) and not _of_the_image(encoder, first.layer):
        found.append(f"{first.layer}: the states said to be word 0 differ between '{OTHER[0]}' and '{OTHER[1]}'")
    return found


def _of_the_image(encoder: Encoder, layer: str) -> bool:
    """Say whether it was the image alone that moved word 0 of a layer: beside the same one, another word does not."""
    if "image" not in encoder.modalities:
        return False
    image = _png(_drawn(1))
    pair = [_of(f"self-check, {text}", text, image) for text in (OTHER[0], OTHER[1])]
    first = next(one for one in encoder.encode(pair) if one.layer == layer)
    one, other = (_values(first.states[row])[first.word[row] == 0] for row in (0, 1))
    return _alike(one, other)


def _patches_astray(encoder: Encoder, twins: Sequence[Hidden]) -> list[str]:
    first = _first(encoder, "vision", twins)
    if "image" not in encoder.modalities or first is None or not (first.role[0] == PATCH).any():
        return []
    rows = first.role[0] == PATCH
    boxes = first.box[0][rows]
    if not _alike(boxes, first.box[1][first.role[1] == PATCH]):
        return [f"{first.layer}: two images of one size have patches at different places"]
    moved = np.abs(_values(first.states[0])[rows] - _values(first.states[1])[rows]).max(axis=1)
    moved = moved > 1e-4 * np.abs(_values(first.states[0])[rows]).max()
    mark = np.array(MARK)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centre > mark[:2]) & (centre < mark[2:])).all(axis=1)
    inside |= ((boxes[:, :2] < mark[:2]) & (boxes[:, 2:] > mark[2:])).all(axis=1)
    if not inside.any():
        return [f"{first.layer}: no patch is said to lie where the image was changed, {MARK}"]
    apart = ((boxes[:, :2] > mark[2:] + NEAR) | (boxes[:, 2:] < mark[:2] - NEAR)).any(axis=1)
    found = []
    for what, wrong in (
        ("inside the square that changed did not move", inside & ~moved),
        ("apart from the square that changed moved", apart & moved),
    ):
        if wrong.any():
            box = ", ".join(f"{edge:.2f}" for edge in boxes[np.flatnonzero(wrong)[0]])
            found.append(
                f"{first.layer}: {wrong.sum()} of {len(boxes)} patches {what}, e.g. the one said to be at {box}"
            )
    return found


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() <= 1e-5 * max(1e-6, float(np.abs(one).max())))


def _values(states: Any) -> np.ndarray:
    """Return a tensor's values on the host, as float32."""
    values: np.ndarray = states.float().cpu().numpy()
    return values
