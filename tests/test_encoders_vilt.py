"""ViLT against the original's own numbers, and against transformers' class."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.errors import BadRow
from vlprobe.types import ROLES

PATCH, WORD, CLS, NONE = (ROLES.index(role) for role in ("patch", "word", "cls", ""))


def convert(original):
    """The table of keys, original -> transformers."""
    renamed = {}
    for key, value in original.items():
        if key.endswith("position_ids") or key.startswith(("mlm_score", "itm_score", "rank_output")):
            continue
        if ".attn.qkv." in key:
            block, kind = key.split(".")[2], key.split(".")[-1]
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"encoder.layer.{block}.attention.attention.{name}.{kind}"] = part.contiguous()
            continue
        for old, new in (
            ("text_embeddings.", "embeddings.text_embeddings."),
            ("token_type_embeddings.", "embeddings.token_type_embeddings."),
            ("transformer.cls_token", "embeddings.cls_token"),
            ("transformer.pos_embed", "embeddings.position_embeddings"),
            ("transformer.patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("transformer.blocks.", "encoder.layer."),
            ("transformer.norm.", "layernorm."),
        ):
            if key.startswith(old):
                key = new + key.removeprefix(old)
                break
        for old, new in (
            (".norm1.", ".layernorm_before."),
            (".norm2.", ".layernorm_after."),
            (".attn.proj.", ".attention.output.dense."),
            (".mlp.fc1.", ".intermediate.dense."),
            (".mlp.fc2.", ".output.dense."),
        ):
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The reference checkpoint in transformers' layout, loaded by vlprobe, and the original's outputs."""
    source = tiny.shared("reference", "vilt")
    folder = tmp_path_factory.mktemp("vilt") / "reference"
    sizes = json.loads((source / "config.json").read_text())
    state = torch.load(source / "vilt_mlm_itm.ckpt", weights_only=True)["state_dict"]
    config = hf.ViltConfig(
        hidden_size=sizes["hidden_size"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        intermediate_size=len(state["transformer.blocks.0.mlp.fc1.bias"]),
        vocab_size=sizes["vocab_size"],
        max_position_embeddings=sizes["max_text_len"],
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
    )
    tiny.make("vilt", folder)
    config.save_pretrained(folder)
    save_file(convert(state), folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary = [*tiny.VOCABULARY, *(f"x{k}" for k in range(100))][: sizes["vocab_size"]]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return load_model(f"vilt:{folder}", device="cpu"), np.load(source / "mlm_itm.npz")


@pytest.mark.parametrize("prefix", ["b1", "b2"])
def test_hidden_states_equal_the_originals(original, prefix):
    model, wanted = original
    batch = int(prefix[1])
    masks = torch.from_numpy(wanted["text_masks"][:batch])
    joint = model.states(
        torch.from_numpy(wanted["text_ids"][:batch]),
        masks,
        torch.from_numpy(wanted["image"][:batch]),
        torch.from_numpy(wanted["pixel_mask"][:batch]),
    )
    texts, gaps = masks.shape[1], {}
    for row in range(batch):
        valid = np.flatnonzero(wanted[f"{prefix}_image_masks"][row, 1:])
        place = wanted[f"{prefix}_patch_index"][row][valid]  # the original's order is random: sort it row by row
        assert joint.grids[row] == tuple(place.max(0) + 1)
        sorted_patches = texts + 1 + valid[np.argsort(place[:, 0] * joint.grids[row][1] + place[:, 1])]
        words = np.flatnonzero(wanted["text_masks"][row])
        theirs = np.concatenate([words, [texts], sorted_patches])
        ours = joint.mask[row].numpy()
        assert ours.sum() == len(theirs)
        feats = np.concatenate([wanted[f"{prefix}_text_feats"][row], wanted[f"{prefix}_image_feats"][row]])
        for name, reference in (
            ("joint.0", wanted[f"{prefix}_emb"][row]),
            ("joint.1", wanted[f"{prefix}_h01"][row]),
            ("joint.2", wanted[f"{prefix}_h02"][row]),
            ("joint.3", wanted[f"{prefix}_h03"][row]),
            ("joint.norm", feats),
        ):
            gaps[name, row] = np.abs(joint.layers[name][row].numpy()[ours] - reference[theirs]).max()
        gaps["joint.pooler", row] = np.abs(
            joint.layers["joint.pooler"][row].numpy() - wanted[f"{prefix}_cls_feats"][row]
        ).max()
    print(prefix, {key: float(gap) for key, gap in gaps.items()})
    assert np.max(list(gaps.values())) < 1e-5, gaps  # np.max, unlike max, does not lose a NaN


def test_epsilon_is_the_originals_not_the_configurations(original):
    model, _ = original
    norms = {name: module.eps for name, module in model.model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert norms.pop("embeddings.text_embeddings.LayerNorm") == 1e-12
    assert set(norms.values()) == {1e-6}
    assert len(norms) == 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make("vilt", tmp_path_factory.mktemp("vilt") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(f"vilt:{folder}", device="cpu")


PAIRS = [
    tiny.example("0", "a dog", tiny.png(tiny.noise(64, 96))),
    tiny.example("1", "two cats sit by the red chairs", tiny.png(tiny.noise(100, 60, 1))),
    tiny.example("2", "", tiny.png(tiny.noise(48, 48, 2))),
]


def test_encode_equals_transformers_after_unshuffling(folder, model):
    """The referee draws patches at random; its order is read back from its own visual_embed."""
    with quiet():
        referee = hf.ViltModel.from_pretrained(folder).eval()
        tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        processor = hf.ViltImageProcessorPil.from_pretrained(folder)
    for module in referee.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    referee.embeddings.text_embeddings.LayerNorm.eps = 1e-12
    kept, draw = {}, referee.embeddings.visual_embed

    def remember(*args, **options):
        kept["out"] = draw(*args, **options)
        return kept["out"]

    referee.embeddings.visual_embed = remember
    from vlprobe.images import open_image

    for pair in PAIRS:
        inputs = dict(tokenizer([pair.text], return_tensors="pt"))
        inputs |= dict(processor([open_image(pair.image)], return_tensors="pt"))
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            output = referee(**inputs, output_hidden_states=True)
        index, (_, columns) = kept["out"][2]
        order = (index[0, :, 0] * columns + index[0, :, 1]).argsort()
        texts = inputs["input_ids"].shape[1]
        order = torch.cat([torch.arange(texts + 1), texts + 1 + order])
        hidden = {one.layer: one.states[0] for one in model.encode([pair])}
        for block, state in enumerate(output.hidden_states):
            torch.testing.assert_close(hidden[f"joint.{block}"], state[0][order], atol=1e-5, rtol=0)
        torch.testing.assert_close(hidden["joint.norm"], output.last_hidden_state[0][order], atol=1e-5, rtol=0)
        torch.testing.assert_close(hidden["joint.pooler"][0], output.pooler_output[0], atol=1e-5, rtol=0)


def test_padding_of_text_and_image_changes_nothing(model):
    together = model.encode(PAIRS)
    texts = int((together[0].role == WORD).sum(1).max()) + 2
    for row, pair in enumerate(PAIRS):
        for whole, alone in zip(together, model.encode([pair]), strict=True):
            if whole.layer == "joint.pooler":
                torch.testing.assert_close(whole.states[row], alone.states[0], atol=1e-5, rtol=0)
                continue
            length = len(model.text.tokenizer(pair.text)["input_ids"])
            rest = alone.states.shape[1] - length
            places = [*range(length), *range(texts, texts + rest)]
            torch.testing.assert_close(whole.states[row, places], alone.states[0], atol=1e-5, rtol=0)
            assert (whole.role[row, places] == alone.role[0]).all()
            np.testing.assert_array_equal(whole.box[row, places], alone.box[0])
            others = np.setdiff1d(np.arange(whole.role.shape[1]), places)
            assert (whole.role[row, others] == NONE).all()
            assert np.isnan(whole.box[row, others]).all()


def test_text_alone_has_no_image_positions_and_ignores_images(model):
    alone = model.encode([tiny.example("0", "a dog sits")])
    assert alone[0].states.shape[1] == 5
    assert alone[0].role[0].tolist() == [CLS, WORD, WORD, WORD, NONE]
    paired = model.encode([tiny.example("0", "a dog sits", PAIRS[0].image)])
    torch.testing.assert_close(paired[0].states[:, :5], alone[0].states, atol=1e-6, rtol=0)
    assert (paired[2].states[:, :5] - alone[2].states).abs().max() > 1e-3  # the image is seen from block 1 on


def test_image_alone_is_the_empty_text(model):
    image = PAIRS[0].image
    alone = model.encode([tiny.example("0", None, image)])
    empty = model.encode([tiny.example("0", "", image)])
    assert alone[0].role[0, :3].tolist() == [CLS, NONE, NONE]  # [CLS] [SEP], then the image's own [CLS]
    assert (alone[0].role[0, 3:] == PATCH).all()
    for one, other in zip(alone, empty, strict=True):
        torch.testing.assert_close(one.states, other.states, atol=0, rtol=0)


def test_what_is_not_there_is_a_bad_row_and_not_an_empty_one(model):
    with pytest.raises(BadRow, match="file, row 8: example 8 has neither text nor image"):
        model.encode([tiny.example("8")])
    with pytest.raises(BadRow, match="file, row 8: example 8 has no image"):
        model.encode([tiny.example("8", "a dog"), PAIRS[0]])


def test_text_beyond_the_positions_is_refused_with_its_count(model):
    text = " ".join(["dog"] * 22)  # and [CLS], [SEP]: exactly as many as there are positions
    assert model.encode([tiny.example("0", text)])[0].states.shape[1] == 24
    with pytest.raises(BadRow, match=r"file, row 7: the text of example 7 has 25 tokens .* at most 24"):
        model.encode([tiny.example("7", text + " dog")])


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((500, 333), (384, 576)),
        ((640, 480), (384, 512)),
        ((1000, 200), (128, 608)),  # the longer side would be int(1333 / 800 * 384) = 639: down to 608
        ((300, 400), (512, 384)),
        ((33, 33), (384, 384)),
    ],
)
def test_image_sizes_are_the_originals(size, wanted):
    from PIL import Image

    pixels = hf.ViltImageProcessorPil()([Image.new("RGB", size)], return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape[2:]) == wanted


def test_an_image_of_which_nothing_remains_is_a_bad_row(model):
    with pytest.raises(BadRow, match="file, row 3: .*300 x 2 pixels"):
        model.encode([tiny.example("3", "a", tiny.png(tiny.noise(2, 300)))])


def test_a_task_head_is_reported_and_its_base_read(tmp_path, model):
    folder = tiny.make("vilt", tmp_path, head="ViltForQuestionAnswering")
    loaded = load_model(f"vilt:{folder}", device="cpu")
    assert loaded.left_out == ("head classifier: its 6 weights are not used",)
    assert list(loaded.layers) == ["joint.0", "joint.1", "joint.2", "joint.3", "joint.norm", "joint.pooler"]
