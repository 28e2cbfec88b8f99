"""Where patches and tokens lie, at the sizes of published models: an image that says of every pixel where it is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

import tiny_checkpoints as tiny
from vlprobe.encoders.checkpoint import quiet
from vlprobe.encoders.sight import Eye
from vlprobe.encoders.vlms import ROWS

SIGLIP = {"image_size": 384, "patch_size": 14, "num_hidden_layers": 1, "vision_use_head": False}
SIZES = [(480, 640), (375, 1000), (1200, 500), (90, 60)]
MODELS = {
    "llava-1.5-7b": ("llava", hf.LlavaConfig, hf.CLIPImageProcessorPil, {"edge": 336}),
    "llava-v1.6": ("llava_next", hf.LlavaNextConfig, hf.LlavaNextImageProcessorPil, {"edge": 336}),
    "llava-onevision": (
        "llava_onevision",
        lambda: hf.LlavaOnevisionConfig(vision_config=hf.SiglipVisionConfig(**SIGLIP)),
        hf.LlavaOnevisionImageProcessorPil,
        {},
    ),
    "qwen2-vl": ("qwen2_vl", hf.Qwen2VLConfig, hf.Qwen2VLImageProcessorPil, {}),
    "qwen2.5-vl": ("qwen2_5_vl", hf.Qwen2_5_VLConfig, hf.Qwen2VLImageProcessorPil, {}),
    "qwen3-vl": ("qwen3_vl", hf.Qwen3VLConfig, hf.Qwen2VLImageProcessorPil, {"patch_size": 16}),
    "paligemma-448": (
        "paligemma",
        lambda: hf.PaliGemmaConfig(vision_config=hf.SiglipVisionConfig(image_size=448, patch_size=14)),
        hf.SiglipImageProcessorPil,
        {"size": {"height": 448, "width": 448}},
    ),
    "gemma-3": (
        "gemma3",
        lambda: hf.Gemma3Config(vision_config=hf.SiglipVisionConfig(image_size=896, patch_size=14)),
        hf.Gemma3ImageProcessorPil,
        {"size": {"height": 896, "width": 896}},
    ),
    "idefics3-8b": (
        "idefics3",
        lambda: hf.Idefics3Config(vision_config={"image_size": 364, "patch_size": 14}, scale_factor=2),
        hf.Idefics3ImageProcessorPil,
        {},
    ),
    "smolvlm-2b": (  # 384 pixels are 27 patches of 14, and 6 that nothing sees
        "smolvlm",
        lambda: hf.SmolVLMConfig(vision_config={"image_size": 384, "patch_size": 14}, scale_factor=3),
        hf.SmolVLMImageProcessorPil,
        {"size": {"longest_edge": 4 * 384}, "max_image_size": {"longest_edge": 384}},
    ),
}
"""Of published checkpoints: model type, configuration, processor, what its processor is told."""


@pytest.fixture(params=list(MODELS))
def sight(request):
    kind, config, processor, told = MODELS[request.param]
    if "edge" in told:
        edge = told["edge"]
        told = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
    with quiet():
        made = processor(**told, do_normalize=False)
        return ROWS[kind].sight(Eye(config(), made, "<image>", request.param))


def told_where(height, width):
    """A PNG whose red says how far right a pixel lies, and whose green how far down: 255 is the whole way."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.round((np.arange(width) + 0.5) / width * 255)
    pixels[..., 1] = np.round((np.arange(height) + 0.5) / height * 255)[:, None]
    return tiny.png(pixels)


def look(sight, size):
    return sight(tiny.example("0", None, told_where(*size)))


def patches(sight, seen):
    """(tile, patch, 2) where a tower's patches look, by what they see, and (tile, patch, 4) their boxes."""
    pixels = seen.inputs["pixel_values"]
    if pixels.dim() == 2:  # Qwen's: patch by patch
        by_token = seen.tower.reshape(len(seen.tokens), -1, 4)[row_by_row(seen)]  # the network makes windows of them
        return pixels.reshape(1, len(pixels), 3, -1).mean(-1)[..., :2].numpy(), by_token.reshape(1, -1, 4)
    side = sight.patch if isinstance(sight.patch, int) else sight.patch[0]
    cells = pixels.unfold(2, side, side).unfold(3, side, side).mean((-1, -2)).flatten(2).transpose(1, 2)
    return cells[..., :2].numpy(), seen.tower.reshape(len(pixels), -1, 4)[:, sight.before :]


def row_by_row(seen):
    return np.lexsort((seen.connector[:, 0], seen.connector[:, 1]))


def centres(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2


@pytest.mark.parametrize("size", SIZES)
def test_a_patch_sees_what_lies_in_its_box(sight, size):
    seeing, boxes = patches(sight, look(sight, size))
    assert seeing.shape[:2] == boxes.shape[:2]
    for tile, box in zip(seeing, boxes, strict=True):
        extent = box[:, 2:] - box[:, :2]
        full = (extent > 0.98 * np.nanmax(extent, axis=0)).all(1)  # others look at padding, too, or at nothing else
        assert full.sum() > 20
        np.testing.assert_allclose(tile[full], centres(box[full]), atol=0.01)
        assert (tile[np.isnan(box[:, 0])] < 0.02).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_token_lies_where_its_patches_do(sight, size):
    """By transformers' own arithmetic, put to centres of patches in place of their features."""
    seen = look(sight, size)
    points = torch.from_numpy(np.nan_to_num(centres(seen.tower), nan=-1.0))
    kind = type(sight).__name__
    if kind in ("Merged", "Windowed"):
        made = points.reshape(len(seen.connector), -1, 2).mean(1)
        np.testing.assert_array_equal(seen.connector[row_by_row(seen)], seen.tokens)
    elif kind == "Split":
        tiles = points.reshape(len(seen.inputs["pixel_values"]), -1, 2)
        made = Idefics3Connector.pixel_shuffle(None, tiles, sight.merge).reshape(len(seen.tokens), -1, 2).mean(1)
    elif kind == "AnyRes":
        return packed(sight, seen, size)
    else:
        side = int(len(points[sight.before :]) ** 0.5)
        square = points[sight.before :].T.reshape(1, 2, side, side)
        made = torch.nn.functional.avg_pool2d(square, sight.merged)[0].flatten(1).T
    np.testing.assert_allclose(made, centres(seen.connector), atol=1e-5)
    return None


def packed(sight, seen, size):
    """LLaVA-NeXT's and OneVision's prompts: tiles put together, padding taken out, newlines behind rows."""
    network = LlavaNextModel if sight.most == np.inf else LlavaOnevisionModel
    features = torch.from_numpy(centres(seen.connector)).reshape(len(seen.inputs["pixel_values"]), -1, 2)
    more = {"vision_feature_select_strategy": "default"} if sight.most == np.inf else {}
    newline = torch.full((2,), 7.0)
    made, _ = network.pack_image_features(
        SimpleNamespace(config=sight.config), [features], [size], image_newline=newline, **more
    )
    mine = centres(seen.tokens)
    assert len(made[0]) == len(mine) == sight.length(size)
    ends = (made[0] == newline).all(1).numpy()
    assert np.isnan(mine[ends]).all()
    known = ~ends & ~np.isnan(made[0].numpy()).any(1)
    cell = np.nanmax(seen.tokens[known, 2:] - seen.tokens[known, :2], axis=0)
    shrunk = sight.most < np.inf and not np.isin(mine[known], centres(seen.connector)).all()
    gap = np.abs(made[0].numpy()[known] - mine[known])
    assert (gap <= (0.5 * cell if shrunk else 1e-5)).all()
    assert np.isnan(mine[~ends & ~known]).all() or shrunk
