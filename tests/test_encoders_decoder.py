"""Decoders: layer k before any norm, words that see those before them, padding on either side, BOS or none."""

import json
from dataclasses import replace

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import tiny_checkpoints as tiny
from tiny_texts import STARTS
from vlprobe.encoders import load_model
from vlprobe.encoders.checkpoint import quiet
from vlprobe.encoders.families import FAMILIES
from vlprobe.errors import BadRow, CheckpointError
from vlprobe.pooling import pool
from vlprobe.types import ROLES

WORD, NONE = ROLES.index("word"), ROLES.index("")
TYPES = FAMILIES["decoder"].types
TEXTS = ["two cats sit on a mat, dog", "cats"]
NORMS = {
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "bloom", "falcon"), "ln_f"),
    **{"gpt_neox": "final_layer_norm", "phi": "final_layernorm", "opt": "decoder.final_layer_norm"},
}
"""Model type -> name of the last norm, where it is not `norm`."""


@pytest.fixture(scope="module", params=TYPES)
def folder(request, tmp_path_factory):
    return tiny.make(request.param, tmp_path_factory.mktemp("decoders") / request.param)


def load(folder):
    return load_model(f"decoder:{folder}", device="cpu")


@pytest.mark.parametrize("side", ["left", "right"])
def test_states_are_transformers_own_padded_on_either_side(folder, side):
    hidden = {one.layer: one for one in load(folder).encode([tiny.example(str(k), x) for k, x in enumerate(TEXTS)])}
    with quiet(), torch.inference_mode():
        tokenizer = hf.AutoTokenizer.from_pretrained(folder, padding_side=side)
        tokenizer.pad_token = tokenizer.eos_token
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
        places = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        referee = hf.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        output = referee(**inputs, position_ids=places, output_hidden_states=True)
        normed = referee.get_submodule(NORMS.get(folder.name, "norm"))(hidden["language.3"].states)
    layers = ["language.0", "language.1", "language.2", "language.norm"]  # transformers' last one is normed
    for layer, states in zip(layers, output.hidden_states, strict=True):
        for row, mask in enumerate(inputs["attention_mask"].bool()):
            ours = hidden[layer].states[row, : int(mask.sum())]
            torch.testing.assert_close(ours, states[row, mask], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(hidden["language.norm"].states, normed, atol=1e-6, rtol=1e-5)
    assert (hidden["language.3"].states - hidden["language.norm"].states).abs().max() > 0.1


def test_a_word_knows_those_before_it_and_none_after_it(folder):
    model = load(folder)
    one, other = (model.encode([tiny.example("0", x)])[3] for x in ("a dog sits on mat", "a dog sits by mat"))
    tokens = [model.reader.tokenizer.tokenize(x) for x in ("a dog sits", "a dog sits ")]
    before = int(one.role[0, 0] == NONE) + len(tokens[0])
    assert one.states.shape[1] > before + 1
    shared = min(one.states.shape[1], other.states.shape[1])
    moved = (one.states[0, :shared] - other.states[0, :shared]).abs().amax(1) > 1e-4
    assert not moved[:before].any()
    assert moved[before + 1 :].any()


def test_the_start_token_is_no_word_and_the_first_piece_is_one(folder):
    text, words = "a dog, zebra", ((0, 1), (2, 5), (5, 6), (7, 12))
    model = load(folder)
    example = tiny.example("0", text, words=words)
    hidden = model.encode([example])[0]
    start = int(folder.name in STARTS)
    assert hidden.role[0].tolist() == [NONE] * start + [WORD] * (hidden.role.shape[1] - start)
    assert hidden.word[0, :start].tolist() == [-1] * start
    pieces = model.reader.read([example])
    tokens = model.reader.tokenizer.convert_ids_to_tokens(pieces.ids[0].tolist())
    spelt = ["".join(x.strip("Ġ▁") for x, w in zip(tokens, pieces.word[0], strict=True) if w == k) for k in range(4)]
    assert spelt == ["a", "dog", ",", "zebra"]


def test_a_text_is_pooled_over_words_or_at_its_last(folder):
    batch = [replace(tiny.example(str(k), x), target=("y",)) for k, x in enumerate(TEXTS)]
    hidden = load(folder).encode(batch)[2:3]
    mean, last = (pool(hidden, batch, "input", how)[0] for how in ("auto", "last"))
    assert mean.how == "words"
    for row in range(2):
        words = hidden[0].states[row, hidden[0].role[row] == WORD]
        torch.testing.assert_close(mean.rows[row], words.mean(0))
        assert torch.equal(last.rows[row], words[-1])
    assert pool(hidden, batch, "input", "cls") == []


def test_masked_words_and_empty_texts_are_refused(folder):
    model = load(folder)
    with pytest.raises(BadRow, match="has a masked word.*no mask token; probe it with a task that masks nothing"):
        model.encode([tiny.example("0", "a [MASK] dog")])
    if folder.name not in STARTS:
        with pytest.raises(BadRow, match="file, row 1: the text of example 1 is empty: no tokens"):
            model.encode([tiny.example("0", "a dog"), tiny.example("1", "")])


def test_a_checkpoint_with_a_head_and_one_that_lacks_a_block(tmp_path):
    folder = tiny.make("llama", tmp_path, head="LlamaForCausalLM")
    assert load(folder).left_out == ("head lm_head: its 1 weights are not used",)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match="lacks 9 weights that the probed layers use: layers.3"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(CheckpointError, match="has 9 weights inside the encoder that its configuration"):
        load(folder)


def test_buffers_of_old_files_are_no_weights(tmp_path):
    """Causal masks and frequencies that transformers once wrote into checkpoints."""
    for kind, extra in (("gpt2", "h.0.attn.bias"), ("gpt_neox", "layers.0.attention.rotary_emb.inv_freq")):
        folder = tiny.make(kind, tmp_path / kind)
        state = load_file(folder / "model.safetensors")
        save_file(state | {extra: torch.ones(1, 4)}, folder / "model.safetensors", metadata={"format": "pt"})
        assert load(folder).left_out == ()
