"""Generative models: transformers' own processors and networks as referees; where image tokens look; what is asked."""

import pickle

import numpy as np
import pytest
import torch
import transformers as hf

import tiny_checkpoints as tiny
import tiny_generative as generative
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.encoders.vlms import ROWS
from vlprobe.errors import BadRow, CheckpointError
from vlprobe.exact import precision
from vlprobe.extraction import ImageDigests, request
from vlprobe.images import open_image
from vlprobe.types import ROLES

CLS, WORD, PATCH, NONE = (ROLES.index(role) for role in ("cls", "word", "patch", ""))
TEXTS = ["A dog sits on the mat.", "two red chairs, a dog and a cat!"]
IMAGES = [tiny.png(tiny.noise(60, 90)), tiny.png(tiny.noise(100, 60, 1))]
CHAT = "{}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER = "<|im_start|>user\n"
QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
GEMMA = "{}<end_of_turn>\n<start_of_turn>model\n"
PROMPTS = {
    "llava": ("USER: <image>\n{} ASSISTANT:", "USER: {} ASSISTANT:"),
    "llava_next": ("[INST] <image>\n{} [/INST]", "[INST] {} [/INST]"),
    "llava_onevision": (
        "<|im_start|>user <image>\n{}<|im_end|><|im_start|>assistant\n",
        "<|im_start|>user \n{}<|im_end|><|im_start|>assistant\n",
    ),
    "qwen2_vl": (SYSTEM + USER + QWEN + CHAT, SYSTEM + USER + CHAT),
    "qwen2_5_vl": (SYSTEM + USER + QWEN + CHAT, SYSTEM + USER + CHAT),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe"), (USER + QWEN + CHAT, USER + CHAT)),
    "internvl": (USER + "<img><IMG_CONTEXT></img>\n" + CHAT, USER + CHAT),
    "paligemma": ("<image><bos>{}\n", "<bos>{}\n"),
    "gemma3": ("<bos><start_of_turn>user\n<start_of_image>" + GEMMA, "<bos><start_of_turn>user\n" + GEMMA),
    "idefics3": (
        "<|begin_of_text|>User:<image>{}<end_of_utterance>\nAssistant:",
        "<|begin_of_text|>User: {}<end_of_utterance>\nAssistant:",
    ),
    "smolvlm": (
        "<|im_start|>User:<image>{}<end_of_utterance>\nAssistant:",
        "<|im_start|>User: {}<end_of_utterance>\nAssistant:",
    ),
}
"""Model type -> what its publishers say a user's turn looks like, with an image and without one."""
PLACES = {
    "gemma3": ("<start_of_image>", "\n\n<start_of_image>{image}<end_of_image>\n\n"),
    **dict.fromkeys(generative.QWENS, ("<|image_pad|>", "{image}")),
    "internvl": ("<IMG_CONTEXT>", "{image}"),
}
"""Model type -> how they write an image there, and how it reaches the tokenizer; others write <image>."""


def llava_inputs(images, words, image, prompt, network):
    settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    kind = hf.LlavaProcessor if type(images).__name__.startswith("CLIP") else hf.LlavaNextProcessor
    return kind(images, words, **settings)(images=[image], text=[prompt], return_tensors="pt")


def counted_inputs(images, words, image, prompt, network):
    """Of models whose processor cannot be made without torchvision: as many tokens as the network has features."""
    tiled = {"crop_to_patches": True} if network.config.model_type == "internvl" else {}  # as InternVLProcessor says
    made = images([image], return_tensors="pt", **tiled)
    count = len(features(network.model.get_image_features(**eyes(made))))
    token = words.convert_ids_to_tokens(network.config.image_token_id)
    inputs = words(prompt.replace(token, token * count), return_tensors="pt")
    types = (inputs["input_ids"] == network.config.image_token_id).long()
    return {**inputs, **eyes(made), **({"mm_token_type_ids": types} if token == "<|image_pad|>" else {})}


def paligemma_inputs(images, words, image, prompt, network):
    images.image_seq_length = 16
    inputs = hf.PaliGemmaProcessor(images, words)(
        images=[image], text=[prompt.replace("<bos>", "").removesuffix("\n")], return_tensors="pt"
    )
    return {name: inputs[name] for name in inputs if name != "labels"}


def gemma_inputs(images, words, image, prompt, network):
    return hf.Gemma3Processor(images, words, image_seq_length=4)(
        images=[image], text=[prompt], return_tensors="pt", add_special_tokens=False
    )


def idefics_inputs(images, words, image, prompt, network):
    """SmolVLM's prompts are written as Idefics3's."""
    return hf.Idefics3Processor(images, words, image_seq_len=4)(
        images=[[image]], text=[prompt], return_tensors="pt", add_special_tokens=False
    )


INPUTS = {
    **dict.fromkeys(("llava", "llava_next"), llava_inputs),
    **dict.fromkeys(("llava_onevision", "internvl", *generative.QWENS), counted_inputs),
    "paligemma": paligemma_inputs,
    "gemma3": gemma_inputs,
    **dict.fromkeys(("idefics3", "smolvlm"), idefics_inputs),
}
"""Model type -> what transformers' own processor makes of an image and a prompt."""
NAMES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}


@pytest.fixture(scope="module", params=list(ROWS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return tiny.make(kind, tmp_path_factory.mktemp("generative") / kind)


@pytest.fixture(scope="module")
def model(kind, folder):
    return load_model(tiny.spec(kind, folder), device="cpu")


def near(states, wanted):
    torch.testing.assert_close(states, wanted, atol=2e-5, rtol=1e-4)


def referee(kind, folder, text, image):
    """transformers' own processor and network: (inputs, outputs, the image's outputs or None)."""
    with quiet(), torch.inference_mode():
        network = getattr(hf, generative.CLASSES[kind]).from_pretrained(folder).eval()
        extra = {"extra_special_tokens": NAMES} if kind == "gemma3" else {}
        words = hf.AutoTokenizer.from_pretrained(folder, **extra)
        seeing, blind = PROMPTS[kind]
        if image is None:
            begun = blind.startswith(("<bos>", "<|begin_of_text|>"))
            inputs = words(blind.format(text), return_tensors="pt", add_special_tokens=not begun)
            types = {"token_type_ids": torch.zeros_like(inputs["input_ids"])} if kind == "paligemma" else {}
            return inputs, network(**inputs, **types, output_hidden_states=True), None
        images = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
        inputs = INPUTS[kind](images, words, open_image(image), seeing.format(text), network)
        seen = network.model.get_image_features(**eyes(inputs), output_hidden_states=True)
        return inputs, network(**inputs, output_hidden_states=True), seen


def eyes(inputs):
    """What of a processor's inputs is of images."""
    return {name: inputs[name] for name in inputs if name.startswith(("pixel", "image"))}


@pytest.mark.parametrize("image", [*IMAGES, None], ids=["wide", "high", "no image"])
def test_states_are_those_of_transformers_own_network(kind, folder, model, image):
    compare(kind, folder, model, image)


def compare(kind, folder, model, image):
    """Hold every layer against transformers' own network on its own processor's inputs."""
    inputs, outputs, seen = referee(kind, folder, TEXTS[0], image)
    mine = {one.layer: one for one in model.encode([tiny.example("0", TEXTS[0], image)])}
    assert mine["joint.0"].states.shape[1] == inputs["input_ids"].shape[1]
    assert len(outputs.hidden_states) == 4
    for index, states in enumerate(outputs.hidden_states[:3]):  # of the last block, transformers gives the norm
        added = torch.zeros_like(states)
        if kind.startswith("qwen3_vl") and seen is not None and index > 0:
            # It gives what block k puts out, before it adds this.
            added[inputs["input_ids"] == model.reader.image] = seen.deepstack_features[index - 1][0]
            assert added.abs().max() > 0.01
        near(mine[f"joint.{index}"].states, states + added)
    near(mine["joint.norm"].states, outputs.hidden_states[3])
    near(model.norm(mine["joint.3"].states), outputs.hidden_states[3])
    if seen is not None:
        for index, states in enumerate(seen.hidden_states):
            near(mine[f"vision.{index}"].states[0], states.reshape(-1, states.shape[-1]))
        near(mine["joint.0"].states[inputs["input_ids"] == model.reader.image], features(seen))


def features(seen):
    """(image token, width) what transformers puts in place of the image tokens."""
    found = seen.pooler_output
    return torch.cat([one.reshape(-1, one.shape[-1]) for one in found])


def test_every_position_of_a_prompt_is_told_apart(model):
    example = tiny.example("0", TEXTS[1], IMAGES[0], words=((0, 3), (4, 7), (8, 14), (16, 17), (27, 31)))
    prompt, short = (model.encode(batch)[-1] for batch in ([example], [tiny.example("1", "", IMAGES[0])]))
    ids = model.reader.read([example], [model.images.take(example)]).ids[0]
    assert prompt.role[0, -1] == short.role[0, -1] == CLS
    assert (prompt.role == CLS).sum() == 1
    words = prompt.role[0] == WORD
    assert np.diff(np.flatnonzero(words)).max() == 1
    assert not (short.role == WORD).any()
    assert (prompt.role == NONE).sum() == (short.role == NONE).sum() > 0
    assert model.reader.tokenizer.decode(ids[torch.from_numpy(words)]) == TEXTS[1]
    assert set(prompt.word[0]) == {-1, 0, 1, 2, 3, 4}
    assert (prompt.word[0][~words] == -1).all()
    firsts = [int(np.flatnonzero(prompt.word[0] == word)[0]) for word in range(5)]
    assert firsts == sorted(firsts)
    assert (np.isnan(prompt.box).all(-1) == (prompt.role != PATCH)).all()


def still(model):
    """Make every block of the vision tower an identity: what leaves the connector is then what entered."""
    for block in model.tower:
        for parameter in block.parameters():
            torch.nn.init.zeros_(parameter)


REACH = {
    **dict.fromkeys(("paligemma", "gemma3", "llava_next", "internvl"), 5),
    **dict.fromkeys(("idefics3", "smolvlm"), 7),
    "llava_onevision": 20,
}
"""Model type -> how far resampling spreads a marked pixel, in pixels of an image of 64; default: 2."""


@pytest.mark.parametrize("size", [(64, 64), (64, 160), (160, 64)])
def test_a_marked_place_moves_the_tokens_that_cover_it_and_no_others(kind, folder, size):
    marked_places(load_model(tiny.spec(kind, folder), device="cpu"), size, REACH.get(kind, 2))


def test_an_image_padded_to_a_square_has_its_boxes_inside(tmp_path):
    """As LLaVA's own code does, and LlavaImageProcessor does where it says do_pad."""
    folder = tiny.make("llava", tmp_path)
    size = {"height": 32, "width": 32}
    hf.LlavaImageProcessorPil(do_pad=True, size=size, crop_size=size, resample=2).save_pretrained(folder)
    for size in ((64, 64), (64, 160), (150, 64)):
        model = load_model(f"llava:{folder}", device="cpu")
        marked_places(model, size, 6)  # 160 pixels become 32, five one
        box = model.encode([tiny.example("0", "dog", tiny.png(tiny.noise(*size)))])[0].box[0]
        assert np.isnan(box[1:]).any() == (size != (64, 64))  # a patch of padding alone has no box
        assert (np.nanmin(box[:, :2]), np.nanmax(box[:, 2:])) == (0, 1)


def marked_places(model, size, reach):
    """Mark places of a grey image of a size and look which positions move; resampling spreads by `reach` pixels."""
    still(model)
    height, width = size
    plain = np.full((height, width, 3), 90, dtype=np.uint8)
    generator = np.random.default_rng(0)
    checked = 0
    for _ in range(4):
        y, x = generator.integers(0, height - 12), generator.integers(0, width - 12)
        marked = plain.copy()
        marked[y : y + 12, x : x + 12] = (250, 30, 30)
        pair = [tiny.example(str(k), TEXTS[0], tiny.png(image)) for k, image in enumerate((plain, marked))]
        hidden = {one.layer: one for one in model.encode(pair)}
        for layer in ("vision.0", "vision.3", "vision.connector", "joint.0"):
            one = hidden[layer]
            box = one.box[0] * np.array([width, height, width, height])
            moved = (one.states[0] - one.states[1]).abs().amax(1).numpy() > 1e-4
            gap = np.maximum(box[:, :2] - (x + 12, y + 12), (x, y) - box[:, 2:]).max(1)  # of box and mark, in pixels
            assert (~moved[np.isnan(gap)]).all()
            assert moved[gap < -1].all(), layer
            assert not moved[gap > reach].any(), layer
            checked += (gap < -1).sum()
    assert checked > 16


def test_company_moves_no_position_of_a_prompt(model):
    """Template and padding included: those that have no role are compared by their place."""
    batch = [tiny.example(str(k), TEXTS[k], IMAGES[k]) for k in range(2)]
    together = model.encode(batch)
    for row, example in enumerate(batch):
        for one, alone in zip(together, model.encode([example]), strict=True):
            count = alone.states.shape[1]
            torch.testing.assert_close(one.states[row, :count], alone.states[0], atol=1e-5, rtol=1e-4)
            np.testing.assert_array_equal(one.role[row, :count], alone.role[0])
            assert (one.role[row, count:] == NONE).all()


def test_a_word_changes_what_stands_behind_it_and_its_image_what_follows(kind, model):
    """Causal: PaliGemma alone reads its whole prompt in both directions."""
    one, other = (model.encode([tiny.example("0", text, IMAGES[0])])[-2] for text in ("dog dog cat", "dog mat cat"))
    moved = (one.states[0] - other.states[0]).abs().amax(1).numpy() > 1e-5
    words = np.flatnonzero(one.role[0] == WORD)
    assert moved[-1]
    assert moved[words[-1]]
    assert moved[: words[0] + 1].any() == (kind == "paligemma")


def test_a_control_token_in_a_text_is_refused(kind, model):
    for token in generative.SPECIALS[kind][-1], model.sight.token:
        with pytest.raises(BadRow, match=r"row 7: the text of example 7 holds '.*', which this model reads as a con"):
            model.encode([tiny.example("7", f"a dog {token} sits", IMAGES[0])])


def test_masks_and_long_texts_are_refused(model):
    with pytest.raises(BadRow, match="trained without a mask token"):
        model.encode([tiny.example("7", "a [MASK] dog", IMAGES[0])])
    with pytest.raises(BadRow, match=r"has \d+ tokens .*the model takes at most 400"):
        model.encode([tiny.example("7", "dog " * 400, IMAGES[0])])
    with pytest.raises(BadRow, match="neither text nor image"):
        model.encode([tiny.example("7")])


def test_what_a_model_is_asked_with_is_part_of_the_address(kind, folder, model):
    seeing, blind = PROMPTS[kind]
    wanted = {"prompt": seeing.replace(*PLACES.get(kind, ("<image>", "{image}"))), "prompt without an image": blind}
    assert {name: text.replace("{text}", "{}") for name, text in model.usage.items()} == wanted
    other = load_model(tiny.spec(kind, folder), device="cpu")
    homes = []
    for usage in (model.usage, dict(model.usage), model.usage | {"prompt": "{image}{text}"}, {}):
        other.usage = usage
        homes.append(request(other, [tiny.example("0", "dog")], "input", "auto", ImageDigests()).home)
    assert homes[0] == homes[1]
    assert len(set(homes)) == 3


def test_another_process_sees_the_same(model):
    example = tiny.example("0", None, IMAGES[0])
    mine, theirs = model.sight(example), pickle.loads(pickle.dumps(model.sight))(example)
    for name, tensor in mine.inputs.items():
        assert torch.equal(tensor, theirs.inputs[name])
    np.testing.assert_array_equal(mine.tokens, theirs.tokens)
    tokens = len(mine.tokens)
    assert tokens / 2 <= model.sight.length((60, 90)) <= tokens * 2


def test_half_the_numbers_give_about_the_same_states(model):
    batch = [tiny.example(str(k), TEXTS[k], IMAGES[k]) for k in range(2)]
    whole = model.encode(batch)
    with precision("bfloat16"):
        half = model.encode(batch)
    for one, other in zip(whole, half, strict=True):
        apart = (one.states - other.states.float()).norm() / one.states.norm()
        assert apart < 0.1
    assert any(not torch.equal(one.states, other.states) for one, other in zip(whole, half, strict=True))


def test_a_tokenizer_that_cuts_an_image_otherwise_is_refused(model, monkeypatch):
    monkeypatch.setattr(model.reader, "image", 0)
    with pytest.raises(CheckpointError, match=r"makes \d image tokens of a prompt, where the model makes"):
        model.encode([tiny.example("0", "dog", IMAGES[0])])
