"""ConvNeXt and Swin: transformers' own blocks as referees; what a cell is, and how far a block looks."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.encoders.families import FAMILIES
from vlprobe.encoders.frames import Frame
from vlprobe.errors import CheckpointError
from vlprobe.images import open_image

CONVNEXTS, SWINS = FAMILIES["convnext"].types, FAMILIES["swin"].types


def near(states, wanted):
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)


def load(model_type, folder):
    return load_model(f"{tiny.FAMILY[model_type]}:{folder}", device="cpu")


def rows_of(state):
    return state.flatten(2).transpose(1, 2)


def resize(folder, side):
    """Have a checkpoint take images of another size, whose sides are no whole number of cells."""
    for name, change in (("config.json", {"image_size": side}), ("preprocessor_config.json", {})):
        stated = json.loads((folder / name).read_text()) | change
        if "size" in stated:
            edge = "shortest_edge" if "shortest_edge" in stated["size"] else None
            stated["size"] = {edge: side} if edge else {"height": side, "width": side}
        (folder / name).write_text(json.dumps(stated))


@pytest.mark.parametrize("model_type", CONVNEXTS)
def test_convnext_blocks_and_stages(model_type, tmp_path):
    folder, image = tiny.make(model_type, tmp_path), tiny.png(tiny.noise(70, 50))
    model = load(model_type, folder)
    example = tiny.example("0", image=image)
    hidden = {one.layer: one.states for one in model.encode([example])}
    with quiet(), torch.inference_mode():
        referee = getattr(hf, tiny.CLASSES[model_type]).from_pretrained(folder).eval()
        output = referee(model.reader.stack([example])[0], output_hidden_states=True)
        stages = (referee.model if model_type == "dinov3_convnext" else referee.encoder).stages
        # Stage 1 begins without merging; DINOv3's holds the stem, and block 1 reads what that has made.
        if model_type == "dinov3_convnext":
            first = stages[0].downsample_layers[1](stages[0].downsample_layers[0](model.reader.stack([example])[0]))
        else:
            first = output.hidden_states[0]
        second = stages[0].layers[0](first)
    wanted = [first, second, *output.hidden_states[1:]]
    assert len(wanted) == 4
    for block, state in enumerate(wanted):
        near(hidden[f"vision.{block}"], rows_of(state))
    near(hidden["vision.pooler"][:, 0], output.pooler_output)
    if model_type == "dinov3_convnext":
        near(hidden["vision.norm"], output.last_hidden_state[:, 1:])
        with torch.inference_mode():
            near(hidden["vision.norm"], referee.layer_norm(hidden["vision.3"]))


@pytest.mark.parametrize("side", [32, 36, 30])
@pytest.mark.parametrize("model_type", SWINS)
def test_swin_blocks_and_stages(model_type, side, tmp_path):
    """Of 36 pixels, 9 x 9 patches merge into 5 x 5 cells; of 30, the eighth patch of a row is half there."""
    folder, example = tiny.make(model_type, tmp_path), tiny.example("0", image=tiny.png(tiny.noise(70, 50)))
    resize(folder, side)
    model = load(model_type, folder)
    hidden = {one.layer: one for one in model.encode([example])}
    with quiet(), torch.inference_mode():
        referee = getattr(hf, tiny.CLASSES[model_type]).from_pretrained(folder).eval()
        output = referee(model.reader.stack([example])[0], output_hidden_states=True)
        stage, count = referee.encoder.layers[0], -(-side // 4)
        second = stage.blocks[0](output.hidden_states[0], (count, count))[0]
        third = stage.blocks[1](second, (count, count))[0]
        merged = stage.downsample(third, (count, count))
    near(merged, output.hidden_states[1])
    for block, state in enumerate((output.hidden_states[0], second, third, output.hidden_states[-1])):
        near(hidden[f"vision.{block}"].states, state)
    near(hidden["vision.norm"].states, output.last_hidden_state)
    near(hidden["vision.pooler"].states[:, 0], output.pooler_output)
    edges = {32: [0, 8, 16, 24, 32], 36: [0, 8, 16, 24, 32, 36], 30: [0, 8, 16, 24, 30]}[side]
    box = hidden["vision.3"].box[0].reshape(len(edges) - 1, len(edges) - 1, 4)
    np.testing.assert_allclose(box[0, :, 0] * side, edges[:-1], atol=1e-4)
    np.testing.assert_allclose(box[0, :, 2] * side, edges[1:], atol=1e-4)
    np.testing.assert_allclose(box[:, 0, 1] * side, edges[:-1], atol=1e-4)
    np.testing.assert_allclose(box[:, 0, 3] * side, edges[1:], atol=1e-4)


def test_pixels_that_fill_no_cell_of_convnext_are_in_no_box(tmp_path):
    """Of 9 x 9 patches, 8 x 8 merge; the last row of patches is lost to stage 2."""
    folder = tiny.make("convnext", tmp_path)
    settings = {"size": {"height": 36, "width": 36}, "image_processor_type": "ViTImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    hidden = load("convnext", folder).encode([tiny.example("0", image=tiny.png(tiny.noise(70, 50)))])
    assert [one.states.shape[1] for one in hidden] == [81, 81, 81, 16, 1]
    np.testing.assert_allclose(hidden[2].box[0, -1], [32 / 36, 32 / 36, 1, 1], atol=1e-6)
    np.testing.assert_allclose(hidden[3].box[0, -1], [24 / 36, 24 / 36, 32 / 36, 32 / 36], atol=1e-6)


def marked(model, cell):
    """Which cells of each layer of stage 1 move, (row, column) bool, when one cell of 4 x 4 pixels is painted."""
    plain = np.full((32, 32, 3), 90, dtype=np.uint8)
    other = plain.copy()
    other[cell[0] * 4 : cell[0] * 4 + 4, cell[1] * 4 : cell[1] * 4 + 4] = (250, 30, 30)
    hidden = model.encode([tiny.example(str(k), image=tiny.png(one)) for k, one in enumerate((plain, other))])
    moved = [(one.states[0] - one.states[1]).abs().amax(1).numpy() > 1e-5 for one in hidden[:3]]
    return [one.reshape(8, 8) for one in moved]


def reach(rows, columns):
    wanted = np.zeros((8, 8), dtype=bool)
    wanted[rows, columns] = True
    return wanted


@pytest.mark.parametrize("model_type", SWINS)
def test_swin_sees_its_window_and_then_the_shifted_one(model_type, tmp_path):
    first, second, third = marked(load(model_type, tiny.make(model_type, tmp_path)), (1, 5))
    np.testing.assert_array_equal(first, reach(slice(1, 2), slice(5, 6)))
    np.testing.assert_array_equal(second, reach(slice(0, 4), slice(4, 8)))
    # Windows that begin at 2: rows 0-1 and 2-5, columns 2-5 and 6-7 hold what the first window reached.
    np.testing.assert_array_equal(third, reach(slice(0, 6), slice(2, 8)))


@pytest.mark.parametrize("model_type", ["convnext", "dinov3_convnext"])
def test_a_block_of_convnext_looks_three_cells_further(model_type, tmp_path):
    folder = tiny.make(model_type, tmp_path)
    if model_type == "convnext":
        settings = {"size": {"height": 32, "width": 32}, "image_processor_type": "ViTImageProcessor"}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    first, second, _ = marked(load(model_type, folder), (0, 5))
    np.testing.assert_array_equal(first, reach(slice(0, 1), slice(5, 6)))
    np.testing.assert_array_equal(second, reach(slice(0, 4), slice(2, 8)))


@pytest.mark.parametrize("model_type", SWINS)
def test_swin_takes_images_of_its_own_size(model_type, tmp_path):
    folder = tiny.make(model_type, tmp_path)
    stated = json.loads((folder / "preprocessor_config.json").read_text()) | {"size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match="makes images of 16 x 16 pixels, its model takes 32 x 32"):
        load(model_type, folder).encode([tiny.example("0", image=tiny.png(tiny.noise(40, 40)))])


@pytest.mark.parametrize("model_type", ["convnext", "swin"])
def test_a_checkpoint_without_its_last_norm_is_refused(model_type, tmp_path):
    folder = tiny.make(model_type, tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 weights that the probed layers use: layernorm.weight"):
        load(model_type, folder)


def test_dinov3s_preprocessor_runs_without_torchvision(tmp_path):
    folder, image = tiny.make("dinov3_vit", tmp_path), tiny.png(tiny.noise(70, 50))
    model = load("dinov3_vit", folder)
    pixels = model.reader.stack([tiny.example("0", image=image)])[0][0]
    plain = np.asarray(open_image(image).resize((32, 32), 2), dtype=np.float32) / 255  # 2: bilinear
    wanted = (plain - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), wanted, atol=1e-5)
    assert type(model.reader.processor).__name__ == "ViTImageProcessorPil"


def test_boxes_end_with_the_canvas():
    """A crop of 20 pixels out of 40, with a grid that reaches over its edge."""
    box = Frame((40, 40), (10, 10), (20, 20)).boxes(3, 3, (8, 8)).reshape(3, 3, 4)
    np.testing.assert_allclose(box[0, :, 2] * 40, [18, 26, 30])
    np.testing.assert_allclose(box[:, 0, 3] * 40, [18, 26, 30])
