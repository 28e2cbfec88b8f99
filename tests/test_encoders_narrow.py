"""`bits: 16`: half the memory, and to the bit the states of the network whose matrices were rounded by hand."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_checkpoints as tiny
from vlprobe.encoders import FAMILIES, load_model, untrained_spec
from vlprobe.errors import CheckpointError, StudyError
from vlprobe.exact import precision
from vlprobe.extraction import ImageDigests, request

LARGE = [model_type for family in FAMILIES.values() if family.large for model_type in family.types]
TEXTS = ["A dog sits on the mat.", "two red chairs, a dog and a cat!"]
IMAGES = [tiny.png(tiny.noise(60, 90)), tiny.png(tiny.noise(100, 60, 1))]
WIDE = 100e6
"""Parameters of the checkpoint that is weighed, about."""


def batch(model):
    return [tiny.example(str(k), TEXTS[k], IMAGES[k] if "image" in model.modalities else None) for k in range(2)]


def narrow(spec):
    return load_model({"model": spec, "bits": 16}, device="cpu")


def round_by_hand(folder):
    """Round what has two axes or more in a checkpoint to bfloat16, and leave it in float32."""
    file = folder / "model.safetensors"
    weights = {name: one.bfloat16().float() if one.dim() > 1 else one for name, one in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


def apart(one, other):
    return max(float((a.states - b.states).norm() / a.states.norm()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("model_type", LARGE)
def test_states_are_those_of_matrices_that_were_rounded_by_hand(model_type, tmp_path):
    spec = tiny.spec(model_type, tiny.make(model_type, tmp_path))
    whole, model = load_model(spec, device="cpu"), narrow(spec)
    found = model.encode(batch(model))
    assert 1e-4 < apart(whole.encode(batch(whole)), found) < 3e-2  # 2^-9 for a product, more of them for a block
    round_by_hand(tmp_path)
    rounded = load_model(spec, device="cpu")
    for one, other in zip(found, rounded.encode(batch(rounded)), strict=True):
        assert torch.equal(one.states, other.states)
    with precision("bfloat16"):
        for one, other in zip(model.encode(batch(model)), rounded.encode(batch(rounded)), strict=True):
            assert torch.equal(one.states, other.states)
    matrices = [one for one in model.model.parameters() if one.dim() > 1]
    assert matrices and all(one.isnan().all() and one.untyped_storage().nbytes() == 4 for one in matrices)


def test_it_is_said_and_part_of_the_address(tmp_path):
    spec = tiny.spec("qwen3", tiny.make("qwen3", tmp_path))
    models = [load_model(spec, device="cpu"), narrow(spec)]
    assert models[1].usage == {"weights": "bfloat16"}
    assert models[0].revision == models[1].revision
    homes = {request(one, [tiny.example("0", "dog")], "input", "auto", ImageDigests()).home for one in models}
    assert len(homes) == 2


def test_a_matrix_is_let_go_where_the_network_fails(tmp_path):
    model = narrow(tiny.spec("llama", tiny.make("llama", tmp_path)))

    def forward(states):
        raise RuntimeError("broken")

    model.blocks[1].mlp.down_proj.forward = forward
    with pytest.raises(RuntimeError, match="broken"):
        model.encode([tiny.example("0", "dog")])
    assert all(one.isnan().all() for one in model.model.parameters() if one.dim() > 1)


def test_a_matrix_that_is_read_from_outside_of_its_module_is_found_at_load(tmp_path, monkeypatch):
    import transformers

    forward = transformers.LlamaModel.forward

    def meddling(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.last_hidden_state = output.last_hidden_state @ self.layers[0].mlp.down_proj.weight[:, :16]
        self.norm.weight.data *= 1 + 0 * self.layers[0].mlp.down_proj.weight[0, 0]
        return output

    folder = tiny.make("llama", tmp_path)
    monkeypatch.setattr(transformers.LlamaModel, "forward", meddling)
    load_model(f"decoder:{folder}", device="cpu")
    with pytest.raises(CheckpointError, match=r"language.norm.* not finite|NaN"):
        narrow(f"decoder:{folder}")


def test_small_models_random_weights_and_other_numbers_are_refused():
    with pytest.raises(StudyError, match="family bert takes neither `bits` nor `spread`"):
        load_model({"model": "bert:./nowhere", "bits": 16})
    with pytest.raises(StudyError, match="bits: Input should be 4, 8 or 16"):
        load_model({"model": "llava:./nowhere", "bits": 32})
    assert untrained_spec({"model": "llava:./nowhere", "bits": 16})[0] == {}


def test_random_weights_are_refused(tmp_path):
    folder = tiny.make("llama", tmp_path)
    with pytest.raises(StudyError, match="`bits: 16` does not go with random weights, which are drawn in full"):
        load_model({"model": f"decoder:{folder}", "bits": 16, "weights": "random"}, device="cpu")


CHILD = """
import sys
from pathlib import Path
import torch, transformers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.loading import load_network

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

place, bits = Path(sys.argv[1]), int(sys.argv[2]) or None
small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, intermediate_size=8)
ids = torch.ones(1, 4, dtype=torch.long)
transformers.Qwen2Model(transformers.Qwen2Config(**small, vocab_size=8))(input_ids=ids)  # what the library itself takes
before = peak()
network = load_network(Checkpoint("it", place, place, "qwen2", "", bits=bits), {"qwen2": "Qwen2Model"}, ids.device)
with torch.inference_mode():
    network.model(input_ids=ids)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_and_running_takes_half_the_memory_at_its_highest(tmp_path):
    sizes = {"hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8}
    config = {"model_type": "qwen2", **sizes, "intermediate_size": 2816, "vocab_size": 1000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = {"embed_tokens.weight": (1000, 1024), "norm.weight": (1024,)}
    for k in range(8):
        block = {f"self_attn.{x}_proj.weight": (1024, 1024) for x in "qkvo"}
        block |= {f"self_attn.{x}_proj.bias": (1024,) for x in "qkv"}
        block |= {f"mlp.{x}_proj.weight": (2816, 1024) for x in ("gate", "up")} | {"mlp.down_proj.weight": (1024, 2816)}
        block |= {f"{x}_layernorm.weight": (1024,) for x in ("input", "post_attention")}
        shapes |= {f"layers.{k}.{name}": shape for name, shape in block.items()}
    weights = {name: torch.full(shape, 0.01, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    count = sum(one.numel() for one in weights.values())
    assert count > WIDE
    grown = {
        bits: int(
            subprocess.run(
                [sys.executable, "-c", CHILD, str(tmp_path), str(bits)], capture_output=True, text=True, check=True
            ).stdout
        )
        for bits in (0, 16)
    }
    assert grown[0] > 4 * count
    # Two bytes each, some modules in float32, what the allocator keeps; one float32 copy would be four bytes each.
    assert 2 * count < grown[16] < 3.5 * count
