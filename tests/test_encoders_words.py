"""Words of any script, in every way of cutting: a word's pieces spell that word, and no piece is a mere space."""

import re
import unicodedata

import pytest
import transformers as hf
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import tiny_checkpoints as tiny
from vlprobe.encoders.prompt import PromptReader, Template
from vlprobe.encoders.text import TextReader
from vlprobe.errors import BadRow
from vlprobe.types import ROLES

WORD = ROLES.index("word")
TEXTS = (
    "a red dog by the mat",
    "İstanbul is İnce, big",
    "ﬁne ﬁsh ½ cup",
    "naïve café cafe\u0301 noe\u0308l",
    "dog😀 😀 👩\u200d👩\u200d👧 x",
    "\tdog\tcat  two",
    "שלום עולם dog",
    "ａｂｃ ＤＯＧ",
    "ẞ straße ǅ",
    "dog\nmat\r\ncat",
    "中文字 dog",
)
CORPUS = [*TEXTS] * 20 + ["the quick brown fox jumps over the lazy dog two cats sit on a red mat"] * 30
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
ENDS = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]


def trained(model, trainer, normalizer=None, cut=None, **more):
    """A tokenizer that has learnt `CORPUS`, with a token in front of a text and one behind it."""
    backend = Tokenizer(model)
    if normalizer is not None:
        backend.normalizer = normalizer
    if cut is not None:
        backend.pre_tokenizer = cut
    backend.train_from_iterator(CORPUS, trainer)
    ends = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    named = {**ENDS, "unk_token": "<unk>", "mask_token": "<mask>", **more}
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def word_pieces(lower):
    learnt = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIALS, show_progress=False)
    small = normalizers.BertNormalizer(lowercase=lower, strip_accents=None)
    return trained(models.WordPiece(unk_token="<unk>"), learnt, small, pre_tokenizers.BertPreTokenizer())


def byte_pairs(prefix):
    learnt = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=BYTES, show_progress=False)
    return trained(models.BPE(), learnt, None, pre_tokenizers.ByteLevel(add_prefix_space=prefix))


def sentence_pieces(scheme):
    learnt = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    norm = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return trained(models.Unigram(), learnt, norm, pre_tokenizers.Metaspace(prepend_scheme=scheme))


def llama(prefix):
    """Llama's and Gemma's: the space is a letter, and a letter that is none of the vocabulary is its bytes."""
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"adeghmorst", "do", "dog", "▁dog", "▁a"]
    merges = [("d", "o"), ("do", "g"), ("▁", "dog"), ("▁", "a")]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    backend.add_special_tokens(SPECIALS)
    steps = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, **ENDS, unk_token="<unk>", mask_token="<mask>")


def clip():
    learnt = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIALS,
        end_of_word_suffix="</w>",
        initial_alphabet=BYTES,
        show_progress=False,
    )
    norm = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
    cut = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return trained(models.BPE(end_of_word_suffix="</w>"), learnt, norm, cut, unk_token="</s>")


KINDS = {
    "wordpiece": lambda: word_pieces(True),
    "wordpiece, cased": lambda: word_pieces(False),
    "byte pairs": lambda: byte_pairs(False),
    "byte pairs with a space in front": lambda: byte_pairs(True),
    "sentencepiece with a mark in front": lambda: sentence_pieces("always"),
    "sentencepiece": lambda: sentence_pieces("never"),
    "llama": lambda: llama(True),
    "gemma": lambda: llama(False),
    "clip": clip,
}


def bytes_of_gpt2():
    """Letter -> byte of vocabularies of bytes: printable ones stand for themselves, the others follow from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


TO_BYTE = bytes_of_gpt2()


def spelt(pieces, in_bytes):
    """What pieces spell: marks and signs of continuation taken away, bytes put together."""
    joined = "".join(piece.removeprefix("##").removesuffix("</w>") for piece in pieces)
    if in_bytes:
        return bytes(TO_BYTE[letter] for letter in joined).decode().strip()
    parts = re.split(r"(<0x..>)", joined)
    data = b"".join(bytes([int(part[3:5], 16)]) if part.startswith("<0x") else part.encode() for part in parts)
    return data.decode().strip("▁")


def folded(text):
    """Text without what tokenizers may change: case, accents, compatibility forms, joiners."""
    letters = unicodedata.normalize("NFKD", text).lower()
    return "".join(x for x in unicodedata.normalize("NFKD", letters) if not unicodedata.combining(x) and x != "\u200d")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


def words_of(text):
    return tuple(found.span() for found in re.finditer(r"\S+", text))


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_word_spell_it(tokenizer, text):
    words = words_of(text)
    read = TextReader(tokenizer, 200).read([tiny.example("0", text, words=words)])
    tokens = tokenizer.convert_ids_to_tokens(read.ids[0].tolist())
    for k, (start, end) in enumerate(words):
        mine = [token for token, word in zip(tokens, read.word[0], strict=True) if word == k]
        assert folded(spelt(mine, in_bytes="Ġ" in tokenizer.get_vocab())) == folded(text[start:end])
        assert mine[0] not in ("▁", "Ġ")


def test_a_word_without_a_letter_has_no_piece():
    text = "x \u200b y"
    read = TextReader(word_pieces(True), 200).read([tiny.example("0", text, words=words_of(text))])
    assert sorted(set(read.word[0].tolist())) == [-1, 0, 2]  # pooling says so: a bad row


def test_a_mark_that_stands_in_the_text_is_a_word():
    text = "▁ dog"
    tokenizer = sentence_pieces("never")
    read = TextReader(tokenizer, 200).read([tiny.example("0", text, words=words_of(text))])
    tokens = tokenizer.convert_ids_to_tokens(read.ids[0].tolist())
    assert "▁" in [token for token, word in zip(tokens, read.word[0], strict=True) if word == 0]


def test_marks_in_a_prompt_are_no_part_of_words():
    reader = PromptReader(llama(True), Template("{image}{text}", "{text}"), 99, 10**6, "x")
    text = "xyz dog"
    prompts = reader.read([tiny.example("0", text, words=words_of(text))], [])
    tokens = reader.tokenizer.convert_ids_to_tokens(prompts.ids[0].tolist())
    assert [token for token, word in zip(tokens, prompts.word[0], strict=True) if word == 0] == [
        "<0x78>",
        "<0x79>",
        "<0x7A>",
    ]


@pytest.mark.parametrize("control", ["<s>", "</s>", "<pad>"])
def test_a_text_with_a_control_token_is_a_bad_row(tokenizer, control):
    with pytest.raises(BadRow, match=f"the text of example 0 holds '{control}', which this model reads as a control"):
        TextReader(tokenizer, 200).read([tiny.example("0", f"a dog {control} sits")])


def test_a_word_that_is_not_known_is_one_unless_it_is_an_end(tokenizer):
    reader, example = TextReader(tokenizer, 200), tiny.example("0", f"a {tokenizer.unk_token} dog")
    if tokenizer.unk_token == "</s>":  # CLIP's
        with pytest.raises(BadRow, match="control token"):
            reader.read([example])
        return
    read = reader.read([example])
    assert read.role[0, read.ids[0].tolist().index(tokenizer.unk_token_id)] == WORD
