"""Templates of generative models: as their publishers write them; what is there only with an image."""

from types import SimpleNamespace

import pytest

from vlprobe.encoders.prompt import Template
from vlprobe.encoders.sight import tower_start
from vlprobe.encoders.templates import llava_next, told
from vlprobe.errors import CheckpointError

YI = (
    "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\n{?}<|im_end|><|im_start|>assistant\n"
)


def test_what_is_quoted_is_there_with_an_image_alone():
    assert told("A: «{image}\n\n»{text} B:") == Template("A: {image}\n\n{text} B:", "A: {text} B:")


def test_a_text_stands_where_it_is_said_to_stand():
    template = told("{bos}A «{image}\n»{text} {image} B").begun("<s>")
    for image in ("<i><i>", None):
        for text in ("a {text} of {image} and {bos}", "", "x"):
            prompt, start = template.write(text, image)
            assert prompt[start : start + len(text)] == text
            assert prompt.startswith("<s>A <i><i>\n" if image else "<s>A ")


def test_a_llava_next_is_asked_as_its_language_model_was():
    def asked(kind, *tokens):
        words = SimpleNamespace(get_vocab=lambda: dict.fromkeys(tokens, 0))
        return llava_next(SimpleNamespace(model_type=kind), words).write("{?}", "<image>")

    assert asked("mistral") == ("[INST] <image>\n{?} [/INST]", 15)
    assert asked("llama")[0].endswith("the human's questions. USER: <image>\n{?} ASSISTANT:")
    assert asked("llama", "<|im_start|>")[0] == YI
    assert asked("llama", "<|start_header_id|>")[0].startswith("<|start_header_id|>user<|end_header_id|>\n\n<image>\n{")
    assert asked("qwen2", "<|im_start|>")[0].startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")


def test_a_tower_that_is_not_known_is_named():
    with pytest.raises(CheckpointError, match="here: its vision tower is a pixtral, whose positions are not known"):
        tower_start(SimpleNamespace(model_type="pixtral"), "here")
