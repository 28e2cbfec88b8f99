"""Pieces and words: which position is which word, in three tokenizers' ways of cutting."""

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.encoders.text import replace_mask, word_of_piece
from vlprobe.errors import BadRow
from vlprobe.types import ROLES

PATCH, WORD, CLS, NONE = (ROLES.index(role) for role in ("patch", "word", "cls", ""))


def words_of(text, words):
    """Spans of the words as they come in the text."""
    spans, start = [], 0
    for word in words:
        start = text.index(word, start)
        spans.append((start, start + len(word)))
        start += len(word)
    return tuple(spans)


@pytest.fixture(scope="module", params=["bert", "roberta", "electra"])
def model(request, tmp_path_factory):
    return load_model(f"bert:{tiny.make(request.param, tmp_path_factory.mktemp('text') / 'x')}", device="cpu")


def pieces(model, text, words=()):
    """(token, role, word) of every position."""
    example = tiny.example("0", text, words=words)
    hidden = model.encode([example])[0]
    read = model.reader.read([example])
    tokens = model.reader.tokenizer.convert_ids_to_tokens(read.ids[0].tolist())
    return list(zip(tokens, hidden.role[0].tolist(), hidden.word[0].tolist(), strict=True))


def test_every_piece_knows_its_word(model):
    text = "A zebra sits  on it."
    got = pieces(model, text, words_of(text, ["A", "zebra", "sits", "on", "it", "."]))
    assert [got[0][1:], got[-1][1:]] == [(CLS, -1), (NONE, -1)]
    inner = [(token, word) for token, role, word in got[1:-1] if token != "Ġ"]
    assert all(role == WORD for _, role, _ in got[1:-1])
    assert [word for _, word in inner] == sorted(word for _, word in inner)
    assert {word for _, word in inner} == set(range(6))
    spelt = ["".join(token.strip("#Ġ") for token, w in inner if w == k).lower() for k in range(6)]
    assert spelt == ["a", "zebra", "sits", "on", "it", "."]


def test_without_words_the_pieces_are_words_of_no_number(model):
    assert {word for _, _, word in pieces(model, "a dog sits")} == {-1}


def test_words_may_leave_parts_of_the_text_out(model):
    text = "a dog sits"
    got = [word for token, _, word in pieces(model, text, words_of(text, ["sits"])) if token != "Ġ"]
    assert got[-2] == 0
    assert set(got[:-2]) <= {-1, 0}
    assert got[1] == -1


def test_a_masked_word_reaches_the_model_as_its_own_token(model):
    text = "a [MASK] sits on [MASK]."
    spans = words_of(text, ["a", "[MASK]", "sits", "on", "[MASK]", "."])
    got = pieces(model, text, spans)
    mask = model.reader.tokenizer.mask_token
    assert [(role, word) for token, role, word in got if token == mask] == [(WORD, 1), (WORD, 4)]
    assert "Ġ" not in [token for token, _, _ in got]  # RoBERTa's mask swallows the space before it
    letters = [(token.strip("#Ġ"), word) for token, _, word in got[1:-1] if token != mask]
    assert "".join(token for token, word in letters if word == 2) == "sits"
    assert letters[0] == ("a", 0)
    assert letters[-1] == (".", 5)


def test_no_mask_token_is_a_bad_row(model, monkeypatch):
    class Maskless:
        mask_token = None

    monkeypatch.setattr(model.reader, "tokenizer", Maskless())
    with pytest.raises(BadRow, match="file, row 4: .*example 4 has a masked word.*no mask token"):
        model.encode([tiny.example("4", "a [MASK]")])


def test_the_limit_counts_specials_and_nothing_is_cut(model):
    fits, over = " ".join(["dog"] * 22), " ".join(["dog"] * 23)
    count = len(model.reader.read([tiny.example("0", "dog")]).ids[0])
    assert count in (3, 4)  # RoBERTa's tiny vocabulary may cut a first "dog", without its space, in more pieces
    if count == 3:
        assert model.encode([tiny.example("0", fits)])[0].states.shape[1] == 24
    with pytest.raises(BadRow, match="the text of example 6 has 2[56] tokens .*at most 24"):
        model.encode([tiny.example("5", "dog"), tiny.example("6", over)])


def test_padding_is_no_word_and_changes_nothing(model):
    short, long = tiny.example("0", "a dog", words=((0, 1), (2, 5))), tiny.example("1", "two red cats sit on the mat")
    alone, both = model.encode([short]), model.encode([short, long])
    length = alone[0].states.shape[1]
    assert (both[0].role[0, length:] == NONE).all()
    assert (both[0].word[0, length:] == -1).all()
    for one, other in zip(alone[:4], both[:4], strict=True):
        torch.testing.assert_close(other.states[0, :length], one.states[0], atol=1e-5, rtol=0)


def test_a_piece_belongs_to_the_word_it_overlaps_most_the_first_of_equals():
    words = [(0, 2), (2, 6), (7, 9)]
    offsets = [(0, 0), (0, 1), (1, 5), (1, 3), (6, 7), (5, 9), (8, 20)]
    assert word_of_piece(offsets, words).tolist() == [-1, 0, 1, 0, -1, 2, 2]
    assert word_of_piece(offsets, []).tolist() == [-1] * 7


@pytest.mark.parametrize("token", ["<mask>", "[MASK]", "M", "<a long mask token>"])
@pytest.mark.parametrize(
    "text", ["[MASK]", "a [MASK] dog", "[MASK][MASK] x", "  [MASK]s, and [MASK] [MASK].", "two  words", ""]
)
def test_spans_move_with_the_text(text, token):
    """Every character outside the masks is found again at its moved place; the masks' spans are the tokens."""
    spans = [(k, k + 1) for k in range(len(text))]
    new, moved = replace_mask(text, spans, token)
    masks = [k for k in range(len(text)) if text.startswith("[MASK]", k)]
    inside = {k + step for k in masks for step in range(6)}
    for k, (start, end) in enumerate(moved):
        if k not in inside and not text[k].isspace():
            assert new[start:end] == text[k]
    _, whole = replace_mask(text, [(k, k + 6) for k in masks], token)
    assert [new[start:end] for start, end in whole] == [token] * len(masks)
    assert new.count(token) == len(masks)
    assert (np.diff([start for start, _ in moved]) >= 0).all()
