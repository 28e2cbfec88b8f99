"""ViLT against the original's own numbers, and against transformers' class."""

from argparse import Namespace

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

import tiny_checkpoints as tiny
from parity_models import load, model_lines
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.errors import BadRow, CheckpointError
from vlprobe.types import ROLES

PATCH, WORD, CLS, NONE = (ROLES.index(role) for role in ("patch", "word", "cls", ""))


LINES = {
    "vilt_mlm_itm.ckpt": 17,  # 5 a row, of one and of two rows, and the poolers
    "vilt_vqa.ckpt": 4,
    "vilt_nlvr2.ckpt": 5,
}


@pytest.fixture(scope="module")
def compared():
    return list(model_lines(tiny.shared("reference", "vilt")))


@pytest.mark.parametrize("name", LINES)
def test_hidden_states_equal_the_originals(compared, name):
    lines = [line for line in compared if line[0].startswith(f"vilt/{name} ")]
    print(name, max(gap for _, gap, _ in lines))
    assert len(lines) == LINES[name]
    assert [line for line in lines if not line[1] < line[2]] == []


@pytest.mark.parametrize(
    ("name", "stage", "heads", "types"),
    [
        ("vilt_mlm_itm.ckpt", "pretrained", ["itm_score", "mlm_score"], 2),
        ("vilt_vqa.ckpt", "vqa", ["vqa_classifier"], 2),
        ("vilt_nlvr2.ckpt", "nlvr2", ["nlvr2_classifier"], 3),
    ],
)
def test_heads_of_the_originals_are_named_and_say_the_stage(name, stage, heads, types):
    model = load(tiny.shared("reference", "vilt"), name)
    assert model.stage == stage
    assert [line.split()[1].rstrip(":") for line in model.left_out] == heads
    assert len(model.model.embeddings.token_type_embeddings.weight) == types


def release(folder):
    """Write a folder's weights as the original code would: a Lightning file, queries, keys and values in one."""
    ours, original = load_file(folder / "model.safetensors"), {}
    undone = {
        "embeddings.text_embeddings.": "text_embeddings.",
        "embeddings.token_type_embeddings.": "token_type_embeddings.",
        "embeddings.cls_token": "transformer.cls_token",
        "embeddings.position_embeddings": "transformer.pos_embed",
        "embeddings.patch_embeddings.projection.": "transformer.patch_embed.proj.",
        "encoder.layer.": "transformer.blocks.",
        "layernorm.": "transformer.norm.",
        ".layernorm_before.": ".norm1.",
        ".layernorm_after.": ".norm2.",
        ".attention.output.dense.": ".attn.proj.",
        ".intermediate.dense.": ".mlp.fc1.",
        ".output.dense.": ".mlp.fc2.",
    }
    for name, value in ours.items():
        if ".attention.attention." in name:
            role, kind = name.split(".")[-2:]
            block = f"transformer.blocks.{name.split('.')[2]}.attn.qkv.{kind}"
            original[block] = torch.cat([ours[name.replace(role, each)] for each in ("query", "key", "value")])
            continue
        for new, old in undone.items():
            if name.startswith(new) or (new.startswith(".") and new in name):
                name = name.replace(new, old)
        original[name] = value
    original["text_embeddings.position_ids"] = torch.arange(24)[None]
    torch.save({"state_dict": original, "hyper_parameters": Namespace(rate=1)}, folder / "vilt.ckpt")
    (folder / "model.safetensors").unlink()


def test_a_lightning_file_and_a_folder_give_the_same_states(tmp_path, model):
    folder = tiny.make("vilt", tmp_path / "tiny")
    release(folder)
    (folder / "config.json").write_text('{"num_attention_heads": 2}')
    (folder / "tokenizer_config.json").unlink()
    for preprocessor in (True, False):  # of which the sizes in the file say all that is needed
        if not preprocessor:
            (folder / "preprocessor_config.json").unlink()
        for source in (folder, folder / "vilt.ckpt"):
            for one, other in zip(
                model.encode(PAIRS), load_model(f"vilt:{source}", device="cpu").encode(PAIRS), strict=True
            ):
                assert torch.equal(one.states, other.states)
                np.testing.assert_array_equal(one.box, other.box)


def test_random_weights_take_the_sizes_of_a_lightning_file(tmp_path, model):
    folder = tiny.make("vilt", tmp_path / "tiny")
    release(folder)
    (folder / "config.json").write_text('{"num_attention_heads": 2}')
    drawn = load_model({"model": f"vilt:{folder}", "weights": "random"}, device="cpu")
    assert (drawn.stage, drawn.layers) == ("random", model.layers)
    assert drawn.left_out == ()
    assert not torch.equal(drawn.encode(PAIRS)[1].states, model.encode(PAIRS)[1].states)


def test_a_lightning_file_needs_the_tokenizer_that_makes_capitals_small(tmp_path):
    folder = tiny.make("vilt", tmp_path / "tiny")
    release(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="attention heads cannot be known"):
        load_model(f"vilt:{folder}", device="cpu")
    (folder / "config.json").write_text('{"num_attention_heads": 2}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    with pytest.raises(CheckpointError, match="keeps capitals, and the model's is that of bert-base-uncased"):
        load_model(f"vilt:{folder}", device="cpu")
    (folder / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match="holds no tokenizer .* that of bert-base-uncased is the model's"):
        load_model(f"vilt:{folder}", device="cpu")


def test_epsilon_is_the_originals_not_the_configurations(model):
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
    with pytest.raises(BadRow, match="file, row 3: .*300 x 2 pixels is too elongated: .* crop it"):
        model.encode([tiny.example("3", "a", tiny.png(tiny.noise(2, 300)))])


def test_a_task_head_is_reported_and_its_base_read(tmp_path, model):
    folder = tiny.make("vilt", tmp_path, head="ViltForQuestionAnswering")
    loaded = load_model(f"vilt:{folder}", device="cpu")
    assert loaded.left_out == ("head classifier: its 6 weights are not used",)
    assert loaded.stage == "vqa"
    assert list(loaded.layers) == ["joint.0", "joint.1", "joint.2", "joint.3", "joint.norm", "joint.pooler"]


@pytest.mark.parametrize("size", [(48, 48), (60, 90), (90, 60), (40, 66), (40, 67), (40, 300), (200, 41)])
def test_lengths_are_the_positions_of_text_and_image(model, size):
    example = tiny.example("0", "two cats sit by the red chairs", tiny.png(tiny.noise(*size)))
    layer = next(one for one in model.encode([example]) if one.layer == "joint.1")
    assert model.lengths([example]) == [layer.states.shape[1]]
