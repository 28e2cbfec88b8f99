"""Fusion encoders: transformers' own models as referees; which position of which stream is what."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.encoders.pixels import ImageReader
from vlprobe.errors import CheckpointError
from vlprobe.images import open_image
from vlprobe.types import ROLES

PATCH, REGION, WORD, CLS, NONE = (ROLES.index(role) for role in ("patch", "region", "word", "cls", ""))
TEXTS = ["two cats sit on a mat", "a dog"]
IMAGES = [tiny.png(tiny.noise(70, 50)), tiny.png(tiny.noise(48, 60, 1))]
BATCH = [tiny.example(str(k), text, image) for k, (text, image) in enumerate(zip(TEXTS, IMAGES, strict=True))]


def near(states, wanted):
    torch.testing.assert_close(states, wanted, atol=2e-6, rtol=1e-5)


@pytest.fixture
def load(monkeypatch):
    monkeypatch.setattr("vlprobe.regions.open_regions", lambda *_, **__: tiny.ColourRegions())

    def loaded(model_type, folder, **more):
        spec = tiny.spec(model_type, folder)
        return load_model((spec if isinstance(spec, dict) else {"model": spec}) | more, device="cpu")

    return loaded


def referee_of(folder, kind):
    with quiet():
        return getattr(hf, kind).from_pretrained(folder, attn_implementation="eager").eval()


# --- VisualBERT


def test_visual_bert(load, tmp_path):
    folder = tiny.make("visual_bert", tmp_path)
    hidden = load("visual_bert", folder).encode(BATCH)
    regions = tiny.ColourRegions().regions(BATCH)
    inputs = hf.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    count = [len(one.boxes) for one in regions]
    assert count[0] != count[1]
    features = torch.zeros(2, max(count), tiny.REGION_WIDTH)
    seen = torch.arange(max(count)) < torch.tensor(count)[:, None]
    for row, one in enumerate(regions):
        features[row, : count[row]] = torch.from_numpy(one.features)
    with torch.inference_mode():
        referee = referee_of(folder, "VisualBertModel")
        output = referee(**inputs, visual_embeds=features, visual_attention_mask=seen, output_hidden_states=True)
    valid = torch.cat([inputs["attention_mask"].bool(), seen], 1)
    assert (torch.from_numpy(hidden[1].role != NONE) <= valid).all()
    for block, states in enumerate(output.hidden_states):
        near(hidden[block + 1].states[valid], states[valid])
    near(hidden[-1].states[:, 0], output.pooler_output)
    near(hidden[0].states, features)
    texts = inputs["input_ids"].shape[1]
    assert (hidden[1].role[:, :texts] != REGION).all()
    np.testing.assert_array_equal(hidden[1].role[:, texts:] == REGION, seen)
    np.testing.assert_allclose(hidden[1].box[1, texts : texts + count[1]], regions[1].boxes)


def test_visual_bert_of_another_task_says_so(load, tmp_path):
    folder = tiny.make("visual_bert", tmp_path, head="VisualBertForQuestionAnswering")
    model = load("visual_bert", folder)
    assert model.stage == "vqa"
    assert model.left_out == ("head cls: its 2 weights are not used",)
    config = json.loads((folder / "config.json").read_text()) | {"bypass_transformer": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="leads its regions past all blocks"):
        load("visual_bert", folder, weights="random")


# --- two encoders, and layers in which they meet


def inputs_of(folder):
    """Texts padded and pixels, as transformers' own tokenizer and processor make them."""
    with quiet():
        texts = hf.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    return {"input_ids": texts["input_ids"], "attention_mask": texts["attention_mask"]}, pixels_of(folder)


def pixels_of(folder):
    with quiet():
        processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
        return processor([open_image(one) for one in IMAGES], return_tensors="pt")["pixel_values"]


def compare(hidden, layer, states, valid=None):
    ours = hidden[layer].states
    near(*((ours, states) if valid is None else (ours[valid], states[valid])))


def roles_of(texts, cls, image_first=False):
    """Role of every position of `joint`: the text's, with its padding, beside those of an image's [CLS] and patches."""
    text = torch.where(texts["attention_mask"].bool(), WORD, NONE)
    ends = texts["attention_mask"].sum(1) - 1
    text[:, 0] = CLS if cls == "text" else NONE
    text[torch.arange(len(text)), ends] = NONE
    image = torch.tensor([NONE, *[PATCH] * 16]).expand(len(text), -1)
    return torch.cat([image, text] if image_first else [text, image], 1).numpy()


def test_flava(load, tmp_path):
    folder = tiny.make("flava", tmp_path)
    hidden = {one.layer: one for one in load("flava", folder).encode(BATCH)}
    texts, pixels = inputs_of(folder)
    with torch.inference_mode():
        referee = referee_of(folder, "FlavaModel")
        output = referee(**texts, pixel_values=pixels, output_hidden_states=True)
        # transformers gives no hidden states of the third encoder: run it by hand.
        parts = [output.image_output.hidden_states[-1], output.text_output.hidden_states[-1]]
        projected = [referee.image_to_mm_projection(parts[0]), referee.text_to_mm_projection(parts[1])]
        mask = torch.cat([torch.ones(2, 18), texts["attention_mask"]], 1)
        joint = referee.multimodal_model(torch.cat(projected, 1), attention_mask=mask, output_hidden_states=True)
    words = texts["attention_mask"].bool()
    for block in range(4):
        compare(hidden, f"language.{block}", output.text_output.hidden_states[block], words)
        compare(hidden, f"vision.{block}", output.image_output.hidden_states[block])
        compare(hidden, f"joint.{block}", joint.hidden_states[block], mask.bool())
    compare(hidden, "language.norm", output.text_embeddings, words)
    compare(hidden, "vision.norm", output.image_embeddings)
    compare(hidden, "joint.norm", output.multimodal_embeddings, mask.bool())
    compare(hidden, "joint.pooler", output.multimodal_output.pooler_output[:, None])
    with torch.inference_mode():
        compare(hidden, "language.projection", referee.get_text_features(**texts).pooler_output[:, :1])
        compare(hidden, "vision.projection", referee.get_image_features(pixels).pooler_output[:, :1])
    assert (hidden["joint.0"].role[:, 0] == CLS).all()
    np.testing.assert_array_equal(hidden["joint.0"].role[:, 1:], roles_of(texts, "", image_first=True))
    np.testing.assert_array_equal(hidden["joint.0"].box[:, 2:18], hidden["vision.0"].box[:, 1:])


def test_bridgetower(load, tmp_path):
    folder = tiny.make("bridgetower", tmp_path)
    hidden = {one.layer: one for one in load("bridgetower", folder).encode(BATCH)}
    texts, pixels = inputs_of(folder)
    with torch.inference_mode():
        referee = referee_of(folder, "BridgeTowerModel")
        output = referee(**texts, pixel_values=pixels, output_hidden_states=True)
    language, vision, cross = output.hidden_states
    words = texts["attention_mask"].bool()
    both = torch.cat([words, torch.ones(2, 17).bool()], 1)
    for block in range(4):
        compare(hidden, f"language.{block}", language[block], words)
        compare(hidden, f"vision.{block}", vision[block].transpose(0, 1))
    for block in range(3):  # transformers does not give what the first cross layer reads
        compare(hidden, f"joint.{block + 1}", torch.cat(cross[block], 1), both)
    with torch.inference_mode():
        first = referee.cross_modal_text_transform(language[1])
        first = referee.cross_modal_text_layernorm(first + referee.token_type_embeddings.weight[0])
        seen = referee.cross_modal_image_transform(referee.vision_model.visual.forward_post(vision[1]))
        seen = referee.cross_modal_image_layernorm(seen + referee.token_type_embeddings.weight[1])
        compare(hidden, "joint.0", torch.cat([first, seen], 1), both)
        compare(hidden, "vision.norm", referee.vision_model.visual.forward_post(vision[3]))
    compare(hidden, "joint.pooler", output.pooler_output[:, None])
    np.testing.assert_array_equal(hidden["joint.0"].role, roles_of(texts, "text"))
    np.testing.assert_array_equal(hidden["joint.0"].box[:, -16:], hidden["vision.0"].box[:, 1:])


def test_qformer(load, tmp_path):
    folder = tiny.make("blip-2", tmp_path)
    hidden = {one.layer: one for one in load("blip-2", folder).encode(BATCH)}
    texts, pixels = inputs_of(folder)
    with torch.inference_mode():
        referee = referee_of(folder, "Blip2ForImageTextRetrieval")
        vision = referee.vision_model(pixel_values=pixels, output_hidden_states=True)
        whole = referee(**texts, pixel_values=pixels, use_image_text_matching_head=True, output_hidden_states=True)
        near(referee.itm_head(hidden["joint.3"].states[:, -5:]).mean(1), whole.logits_per_image)
        queries = referee.query_tokens.expand(2, -1, -1)
        mask = torch.cat([torch.ones(2, 5).long(), texts["attention_mask"]], 1)
        output = referee.qformer(
            query_embeds=referee.embeddings(input_ids=texts["input_ids"], query_embeds=queries),
            query_length=5,
            attention_mask=mask,
            encoder_hidden_states=vision.last_hidden_state,
            output_hidden_states=True,
        )
    for block in range(4):
        compare(hidden, f"vision.{block}", vision.hidden_states[block])
    compare(hidden, "vision.norm", vision.last_hidden_state)
    assert len(output.hidden_states) == 4
    for block, state in enumerate(output.hidden_states):
        turned, valid = torch.cat([state[:, 5:], state[:, :5]], 1), torch.cat([mask[:, 5:], mask[:, :5]], 1)
        compare(hidden, f"joint.{block}", turned, valid.bool())
    role = roles_of(texts, "text")[:, :-17]
    np.testing.assert_array_equal(hidden["joint.0"].role[:, :-5], role)
    assert (hidden["joint.0"].role[:, -5:] == PATCH).all()
    np.testing.assert_allclose(hidden["joint.0"].box[:, -5:], np.broadcast_to([0, 0, 1, 1], (2, 5, 4)))


@pytest.mark.parametrize("model_type", ["flava", "bridgetower", "blip-2"])
def test_one_side_alone_is_what_it_is_beside_the_other(load, model_type, tmp_path):
    """And reaches no layer of the other; only the Q-Former's joint layers need not both."""
    model = load(model_type, tiny.make(model_type, tmp_path))
    together = {one.layer: one for one in model.encode(BATCH)}
    for side in ("language", "vision"):
        given = {"text" if side == "vision" else "image": None}
        for one in model.encode([replace(example, **given) for example in BATCH]):
            stream = one.layer.partition(".")[0]
            if stream == side:
                torch.testing.assert_close(one.states, together[one.layer].states, atol=1e-6, rtol=1e-5)
            elif stream != "joint" or model_type != "blip-2":
                assert one.states.shape == (2, 0, model.layers[one.layer])
            elif side == "language":
                assert one.states.shape[1] == together[one.layer].states.shape[1] - 5
            else:
                assert one.states.shape[1] == 5


def test_a_qformer_before_a_language_model_reads_images_alone(load, tmp_path):
    folder = tmp_path
    config = tiny.CONFIGS["blip-2"]()
    config.qformer_config.use_qformer_text_input = False
    with quiet():
        made = hf.Blip2ForConditionalGeneration(config)
        for weight in made.parameters():  # as transformers draws them, blocks of this size pass on what they are given
            torch.nn.init.normal_(weight, std=0.2)
        made.save_pretrained(folder)
    tiny.PROCESSORS["blip-2"]().save_pretrained(folder)
    model = load("blip-2", folder)
    assert (model.modalities, model.needs) == (("image",), ("image",))
    assert any(line.startswith("head language_model: its") for line in model.left_out)
    assert any("texts are not read" in line for line in model.left_out)
    hidden = model.encode(BATCH)
    assert [one.layer for one in hidden] == list(model.layers)
    assert hidden[-1].states.shape == (2, 5, 16)
    with torch.inference_mode():
        referee = referee_of(folder, "Blip2ForConditionalGeneration")
        pixels = pixels_of(folder)
        near(hidden[-1].states, referee.get_image_features(pixels).qformer_outputs.last_hidden_state)


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (64, 64), (30, 200), (33, 47)])
def test_bridgetowers_boxes_are_where_its_processor_crops(size, tmp_path):
    """The referee: an image whose red is its column and whose green is its row."""
    height, width = size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)[None]
    ramp[..., 1] = np.linspace(0, 255, height)[:, None]
    processor = hf.BridgeTowerImageProcessorPil(
        **{"size": {"shortest_edge": 32}, "crop_size": {"shortest_edge": 32}, "size_divisor": 8, "do_normalize": False}
    )
    reader = ImageReader(processor, "x")
    pixels, (frame,) = reader.stack([tiny.example("0", image=tiny.png(ramp))])
    box = frame.boxes(4, 4).reshape(4, 4, 4)
    means = pixels[0].reshape(3, 4, 8, 4, 8).mean((2, 4)).numpy()
    inside = ~np.isnan(box[..., 0])
    assert inside.any()
    whole = inside & (np.abs(box[..., 2] - box[..., 0]) * frame.resized[1] > 7.9)
    whole &= np.abs(box[..., 3] - box[..., 1]) * frame.resized[0] > 7.9
    np.testing.assert_allclose(means[0][whole], ((box[..., 0] + box[..., 2]) / 2)[whole], atol=0.03)
    np.testing.assert_allclose(means[1][whole], ((box[..., 1] + box[..., 3]) / 2)[whole], atol=0.03)
    assert (means[:, ~inside] == 0).all()


def test_blip(load, tmp_path):
    folder = tiny.make("blip", tmp_path)
    model = load("blip", folder)
    assert model.stage == "retrieval"
    hidden = {one.layer: one for one in model.encode(BATCH)}
    texts, pixels = inputs_of(folder)
    words = texts["attention_mask"].bool()
    asked = {**texts, "input_ids": texts["input_ids"].clone()}
    asked["input_ids"][:, 0] = 89  # [ENC], behind [DEC], which is 88 here
    with torch.inference_mode():
        referee = referee_of(folder, "BlipForImageTextRetrieval")
        vision = referee.vision_model(pixel_values=pixels, output_hidden_states=True)
        alone = referee.text_encoder(**texts, output_hidden_states=True)
        image = {"encoder_hidden_states": vision.last_hidden_state, "encoder_attention_mask": torch.ones(2, 17).long()}
        both = referee.text_encoder(**asked, **image, output_hidden_states=True)
        matched = referee(**asked, pixel_values=pixels, use_itm_head=True).itm_score
        near(referee.itm_head(hidden["joint.3"].states[:, 0]), matched)
        sides = [hidden[f"{side}.projection"].states[:, 0] for side in ("vision", "language")]
        unit = [side / side.norm(dim=-1, keepdim=True) for side in sides]
        near(unit[0] @ unit[1].T, referee(**texts, pixel_values=pixels, use_itm_head=False).itm_score)
    for block in range(4):
        compare(hidden, f"vision.{block}", vision.hidden_states[block])
        compare(hidden, f"language.{block}", alone.hidden_states[block], words)
        compare(hidden, f"joint.{block}", both.hidden_states[block], words)
    compare(hidden, "vision.norm", vision.last_hidden_state)
    np.testing.assert_array_equal(hidden["joint.0"].role, hidden["language.0"].role)
    assert np.isnan(hidden["joint.0"].box).all()


@pytest.mark.parametrize(
    ("kind", "stage"), [("BlipForQuestionAnswering", "vqa"), ("BlipForConditionalGeneration", "captions")]
)
def test_blips_other_checkpoints(load, kind, stage, tmp_path):
    folder = tiny.make("blip", tmp_path, head=kind)
    model = load("blip", folder)
    assert model.stage == stage
    assert any(line.startswith("head text_decoder") for line in model.left_out)
    assert not any(layer.endswith(".projection") for layer in model.layers)
    hidden = model.encode(BATCH)
    assert [one.layer for one in hidden] == list(model.layers)
    streams = {layer.partition(".")[0] for layer in model.layers}
    assert streams == ({"vision"} if stage == "captions" else {"language", "vision", "joint"})
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BlipModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="names BlipModel in `architectures`; known are BlipFor"):
        load("blip", folder, weights="random")


def test_align(load, tmp_path):
    folder = tiny.make("align", tmp_path)
    hidden = {one.layer: one for one in load("align", folder).encode(BATCH)}
    texts, pixels = inputs_of(folder)
    with torch.inference_mode():
        referee = referee_of(folder, "AlignModel")
        language = referee.text_model(**texts, output_hidden_states=True)
        vision = referee.vision_model(pixel_values=pixels, output_hidden_states=True)
        compare(hidden, "language.projection", referee.get_text_features(**texts).pooler_output[:, None])
        stem = referee.vision_model.embeddings(pixels)
        blocks = [stem]
        for block in referee.vision_model.encoder.blocks:
            blocks.append(block(blocks[-1]))
    for block, state in enumerate(language.hidden_states):
        compare(hidden, f"language.{block}", state, texts["attention_mask"].bool())
    for block, state in enumerate(blocks):
        compare(hidden, f"vision.{block}", state.flatten(2).transpose(1, 2))
        assert hidden[f"vision.{block}"].role.shape[1] == state.shape[2] * state.shape[3]
    compare(hidden, "vision.3", vision.last_hidden_state.flatten(2).transpose(1, 2))
    compare(hidden, "vision.pooler", vision.pooler_output[:, None])
    assert hidden["vision.1"].role.shape[1] == 4 * hidden["vision.3"].role.shape[1] == 256
    # A crop of 32 of 40 pixels, in 8 cells of 4.
    np.testing.assert_allclose(hidden["vision.3"].box[0, 9], [0.2, 0.2, 0.3, 0.3], atol=1e-6)


def test_a_block_of_aligns_tower_moves_around_a_mark(load, tmp_path):
    """Squeezing looks at the whole image, so that only the stem is local."""
    model = load("align", tiny.make("align", tmp_path))
    plain = np.full((40, 40, 3), 90, dtype=np.uint8)
    other = plain.copy()
    other[20:24, 20:24] = (250, 30, 30)
    hidden = model.encode([tiny.example(str(k), image=tiny.png(one)) for k, one in enumerate((plain, other))])
    moved = (hidden[0].states[0] - hidden[0].states[1]).abs().amax(1).numpy() > 1e-5
    box = hidden[0].box[0]
    inside = ((box[:, :2] < 24.5 / 40) & (box[:, 2:] > 19.5 / 40)).all(1)
    near_by = ((box[:, :2] < 27.5 / 40) & (box[:, 2:] > 16.5 / 40)).all(1)
    assert moved[inside].any()
    assert not moved[~near_by].any()
