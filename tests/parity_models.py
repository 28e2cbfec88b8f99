"""UNITER, LXMERT and ViLT against the original implementations' own numbers, at whatever sizes a folder has.

A folder `uniter`, `lxmert` or `vilt` holds checkpoints in the original layouts, `config.json` with their sizes, and
npz files with inputs and what the original code computed from them. `model_lines` loads every checkpoint with the
loading code that a study uses and compares hidden states and pooler outputs on all positions that are not padding.
Logits of heads are not compared: vlprobe runs no head; what a head reads is.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlprobe.encoders import FAMILIES, ModelSettings
from vlprobe.encoders.checkpoint import open_checkpoint
from vlprobe.encoders.lxmert import Lxmert
from vlprobe.encoders.uniter import RegionTensors, Uniter
from vlprobe.encoders.vilt import Vilt
from vlprobe.regions.source import RegionSource

Arrays = dict[str, np.ndarray]
Line = tuple[str, float]

FILES = {
    "uniter": {
        "pretrain": ("pretrain.pt", "pretrain_wrapped.pt"),
        "vqa": ("vqa.pt",),
        "nlvr2_paired": ("nlvr2_paired.pt",),
        "nlvr2_paired_attn": ("nlvr2_paired_attn.pt",),
    },
    "lxmert": {
        "pretrain": ("model_LXRT.pth", "model_LXRT_legacy.pth"),
        "vqa_BEST": ("vqa_BEST.pth", "vqa_BEST_multigpu.pth"),
        "nlvr2_BEST": ("nlvr2_BEST.pth", "nlvr2_BEST_multigpu.pth"),
    },
    "vilt": {"mlm_itm": ("vilt_mlm_itm.ckpt",), "vqa": ("vilt_vqa.ckpt",), "nlvr2": ("vilt_nlvr2.ckpt",)},
}
"""Family -> npz file -> the checkpoints whose outputs it holds. Half precision is left out: its weights differ."""
TINY, LARGE = 1e-5, 5e-5
"""Tolerances in float32, below and from hidden size 512 on."""


class NoRegions(RegionSource):
    """Stands in for a source of regions: the inputs are tensors."""

    revision = "none"

    def __init__(self, width: int) -> None:
        self.width = width

    def regions(self, batch):
        raise NotImplementedError


def load(folder: Path, name: str) -> Any:
    """Return the encoder of a checkpoint of a reference folder, loaded as a study would."""
    sizes = json.loads((folder / "config.json").read_text())
    stated = sizes.get("config", sizes)
    family = folder.name
    config = {"num_attention_heads": stated.get("num_attention_heads", stated.get("num_heads"))}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / name).symlink_to((folder / name).resolve())
        (place / "config.json").write_text(json.dumps(config))
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        vocabulary += [f"x{k}" for k in range(stated["vocab_size"] - 5)]
        (place / "vocab.txt").write_text("\n".join(vocabulary))
        checkpoint = open_checkpoint(
            str(place / name),
            None,
            family=family,
            families=FAMILIES,
            wanted=ModelSettings(model=f"{family}:{place / name}"),
            folder=place,
        )
        device = torch.device("cpu")
        if family == "vilt":
            return Vilt(checkpoint, device)
        kind = {"uniter": Uniter, "lxmert": Lxmert}[family]
        return kind(checkpoint, device, NoRegions(sizes.get("img_dim", sizes.get("visual_feat_dim"))))


def model_lines(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield (name of an array, largest difference, tolerance) for every checkpoint of a reference folder.

    Args:
        folder: named `uniter`, `lxmert` or `vilt`.

    Raises:
        FileNotFoundError: it holds no pair of npz file and checkpoint.
    """
    compare: Callable[[Any, Arrays], Iterator[Line]]
    compare = {"uniter": uniter_gaps, "lxmert": lxmert_gaps, "vilt": vilt_gaps}[folder.name]
    found = False
    for outputs, names in FILES[folder.name].items():
        for name in names:
            if not (folder / name).is_file() or not (folder / f"{outputs}.npz").is_file():
                continue
            found = True
            encoder = load(folder, name)
            width = encoder.model.config.hidden_size
            with np.load(folder / f"{outputs}.npz") as file:
                arrays = {key: file[key] for key in file.files}
            for key, difference in compare(encoder, arrays):
                yield f"{folder.name}/{name} {key}", difference, TINY if width < 512 else LARGE
    if not found:
        raise FileNotFoundError(f"{folder} holds none of the checkpoints {FILES[folder.name]} with its outputs")


def gap(key: str, ours: Any, theirs: np.ndarray) -> Line:
    """Return the largest difference; another shape or a NaN counts as infinite."""
    ours = np.asarray(ours)
    if ours.shape != theirs.shape or not theirs.size:
        return key, float("inf")
    largest = float(np.abs(ours - theirs).max())
    return key, largest if np.isfinite(largest) else float("inf")


def tensors(arrays: Arrays, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(arrays[name]) for name in names]


def uniter_gaps(encoder: Uniter, arrays: Arrays) -> Iterator[Line]:
    """Compare all runs of one UNITER npz: joint, regions masked, text alone, regions alone, image types."""
    ids, features, places = tensors(arrays, "input_ids", "img_feat", "img_pos_feat")
    texts, regions = arrays["txt_lens"], arrays["num_bbs"]
    text_mask = torch.arange(ids.shape[1]) < torch.from_numpy(texts)[:, None]
    region_mask = torch.arange(features.shape[1]) < torch.from_numpy(regions)[:, None]
    if not np.array_equal(arrays["position_ids"][0], np.arange(ids.shape[1])):
        yield "position_ids", float("inf")

    def joint(prefix: str, names: dict[str, str], **options: torch.Tensor) -> Iterator[Line]:
        found = encoder.states((ids, text_mask), RegionTensors(features, places, region_mask, **options))
        ours = found.mask.numpy()  # row by row, this picks the words, then the regions
        theirs = np.arange(arrays["emb"].shape[1]) < (texts + regions)[:, None]
        for key, layer in names.items():
            if prefix + key in arrays:
                yield gap(prefix + key, found.layers[layer].numpy()[ours], arrays[prefix + key][theirs])
        if prefix + "pooled" in arrays:
            yield gap(prefix + "pooled", found.layers["joint.pooler"], arrays[prefix + "pooled"])

    blocks = encoder.model.config.num_hidden_layers
    names = {"emb": "joint.0"} | {f"h{k:02d}": f"joint.{k}" for k in range(1, blocks + 1)}
    names["last"] = f"joint.{blocks}"
    types = {"types": torch.from_numpy(arrays["img_type_ids"])} if "img_type_ids" in arrays else {}
    yield from joint("", names, **types)
    yield from joint("t1_", names)
    if "masked_emb" in arrays:
        yield from joint("masked_", names, hidden=torch.from_numpy(arrays["img_masks"]))
    for prefix, mask, run in (
        ("txt_", "txt_only_mask", lambda seen: encoder.states((ids, seen))),
        ("img_", "img_only_mask", lambda seen: encoder.states(None, RegionTensors(features, places, seen))),
    ):
        if mask in arrays:
            found, valid = run(torch.from_numpy(arrays[mask])), arrays[mask].astype(bool)
            for key, layer in names.items():
                if prefix + key in arrays:
                    yield gap(prefix + key, found.layers[layer].numpy()[valid], arrays[prefix + key][valid])


def lxmert_gaps(encoder: Lxmert, arrays: Arrays) -> Iterator[Line]:
    """Compare both streams and the pooler of one LXMERT npz, with and without a mask over regions."""
    ids, mask, features, boxes, segments = tensors(
        arrays, "input_ids", "input_mask", "visual_feats", "boxes", "segment_ids"
    )
    valid = arrays["input_mask"].astype(bool)
    found = encoder.states(ids, mask, features, boxes, None, segments)
    for stream, states in (("lang", found.language), ("visn", found.vision)):
        for k, state in enumerate(states):
            key = f"{stream}{k:02d}" if k else f"{stream}_emb"
            if key in arrays:
                chosen = valid if stream == "lang" else np.ones(state.shape[:2], dtype=bool)
                yield gap(key, state.numpy()[chosen], arrays[key][chosen])
        count = sum(key.startswith(stream) and key[4:].isdigit() for key in arrays)
        if count not in (0, len(states) - 1):
            yield f"{stream}: {count} layers in the file, {len(states) - 1} here", float("inf")
    yield gap("pooled", found.pooler, arrays["pooled"])
    if "vm_pooled" in arrays:
        seen = arrays["visual_mask"].astype(bool)
        found = encoder.states(ids, mask, features, boxes, torch.from_numpy(seen), segments)
        yield gap("vm_lang_last", found.language[-1].numpy()[valid], arrays["vm_lang_last"][valid])
        yield gap("vm_visn_last", found.vision[-1].numpy()[seen], arrays["vm_visn_last"][seen])
        yield gap("vm_pooled", found.pooler, arrays["vm_pooled"])


def vilt_gaps(encoder: Vilt, arrays: Arrays) -> Iterator[Line]:
    """Compare the runs of one ViLT npz. The original draws the order of patches at random; it is undone here."""
    runs = [prefix for prefix in ("b1", "b2") if f"{prefix}_emb" in arrays]
    for prefix in runs:
        yield from vilt_run(encoder, arrays, prefix)
    if not runs:
        ids, mask, image, seen = tensors(arrays, "text_ids", "text_masks", "image", "pixel_mask")
        found, words = encoder.states(ids, mask, image, seen), arrays["text_masks"].astype(bool)
        texts, last = words.shape[1], found.layers["joint.norm"].numpy()
        yield gap("text_feats", last[:, :texts][words], arrays["text_feats"][words])
        yield gap("cls_feats", found.layers["joint.pooler"], arrays["cls_feats"])
        for row, (rows, columns) in enumerate(found.grids):  # no order is kept here: each patch has its equal
            ours = last[row, texts : texts + 1 + rows * columns]
            distance = np.abs(ours[:, None] - arrays["image_feats"][row][None]).max(-1)
            nearest = distance.argmin(1)
            single = len(set(nearest)) == len(nearest) and nearest[0] == 0
            largest = float(distance.min(1).max()) if single else float("inf")
            yield f"image_feats[{row}]", largest
        if "cls_feats_type2" in arrays:
            second = encoder.states(ids, mask, image, seen, image_type=2)
            yield gap("cls_feats_type2", second.layers["joint.pooler"], arrays["cls_feats_type2"])


def vilt_run(encoder: Vilt, arrays: Arrays, prefix: str) -> Iterator[Line]:
    """Compare every layer of one run, patches put row by row through `patch_index`."""
    batch = int(prefix[1:])
    inputs = [array[:batch] for array in tensors(arrays, "text_ids", "text_masks", "image", "pixel_mask")]
    found = encoder.states(*inputs)
    texts = inputs[1].shape[1]
    names = {"emb": "joint.0"} | {f"h{k:02d}": f"joint.{k}" for k in range(1, len(encoder.blocks) + 1)}
    arrays = arrays | {
        f"{prefix}_feats": np.concatenate([arrays[f"{prefix}_text_feats"], arrays[f"{prefix}_image_feats"]], axis=1)
    }
    for row in range(batch):
        valid = np.flatnonzero(arrays[f"{prefix}_image_masks"][row, 1:])
        place = arrays[f"{prefix}_patch_index"][row][valid]
        patches = texts + 1 + valid[np.argsort(place[:, 0] * found.grids[row][1] + place[:, 1])]
        theirs = np.concatenate([np.flatnonzero(arrays["text_masks"][row]), [texts], patches])
        ours = found.mask[row].numpy()
        for key, layer in {**names, "feats": "joint.norm"}.items():
            reference = arrays[f"{prefix}_{key}"][row][theirs]
            yield gap(f"{prefix}_{key}[{row}]", found.layers[layer][row].numpy()[ours], reference)
    yield gap(f"{prefix}_cls_feats", found.layers["joint.pooler"], arrays[f"{prefix}_cls_feats"])
