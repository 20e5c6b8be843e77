"""The weights of CLIP's tower from an ONNX export."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from aigidetect.layers.quantised import dequantise
from aigidetect.training.clip_tower import compact, from_huggingface, main, read_onnx

from .clip_case import huggingface, quantised, tiny


def exported(path, network, zero_point=None):
    """Writes the tower's linear layers as a dynamically quantised ONNX graph; returns the quantised state."""
    onnx = pytest.importorskip("onnx", reason="onnx is needed to write and read an export")
    node, initialisers, nodes, state = onnx.helper.make_node, {}, [], huggingface(network)
    for name, value in huggingface(network).items():
        if not name.endswith((".weight", ".bias")) or value.ndim != 2 or "embedding" in name:
            initialisers[name] = value
            continue
        layer = name.removesuffix(".weight")
        state[name], state[f"{name}_scale"] = quantised(value)
        zeros = torch.full((len(value),), zero_point or 0, dtype=torch.int8)
        if zero_point:
            state[f"{name}_zero_point"] = zeros
        integers, scales = state[name].T.contiguous(), state[f"{name}_scale"]
        initialisers |= {f"{layer}.q": integers, f"{layer}.s_scale": scales, f"{layer}.z": zeros}
        nodes += [
            node("DynamicQuantizeLinear", [f"{layer}.x"], [f"{layer}.xq", f"{layer}.xs", f"{layer}.xz"]),
            node("Mul", [f"{layer}.xs", f"{layer}.s_scale"], [f"{layer}.factor"]),
            node("MatMulInteger", [f"{layer}.xq", f"{layer}.q", f"{layer}.xz", f"{layer}.z"], [f"{layer}.i"]),
            node("Cast", [f"{layer}.i"], [f"{layer}.f"], to=1),
            node("Mul", [f"{layer}.f", f"{layer}.factor"], [f"{layer}.m"]),
            node("Add", [f"{layer}.bias", f"{layer}.m"], [f"{layer}.y"]),
        ]
    tensors = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in initialisers.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "tower", [], [], tensors)), str(path))
    return state


@pytest.mark.parametrize("zero_point", [None, 4])
def test_an_export_is_read_as_it_was_quantised(tmp_path, zero_point):
    state = exported(tmp_path / "tower.onnx", tiny(), zero_point)
    expected = from_huggingface(state, 3)
    found = from_huggingface(read_onnx(tmp_path / "tower.onnx"), 3)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype for key in expected)


def test_the_command_writes_a_file_that_fits_the_network(tmp_path, capsys):
    exported(tmp_path / "tower.onnx", tiny())
    out = tmp_path / "new" / "tower.safetensors"
    assert main([str(tmp_path / "tower.onnx"), str(out), "--blocks", "2", "--licence", "X"]) == 0
    network = tiny(blocks=2, taps=(2,))
    network.load_state_dict({**network.state_dict(), **dequantise(load_file(out))})
    with safe_open(out, "pt") as file:
        assert file.metadata().keys() == {"source", "licence", "sha256"} and file.metadata()["licence"] == "X"
    assert main([str(tmp_path / "tower.onnx"), str(out), "--blocks", "9"]) == 2
    assert "missing" in capsys.readouterr().err


def test_half_precision_is_used_only_where_it_loses_nothing():
    exact, inexact = torch.tensor([[0.5, 2.0]]), torch.tensor([[0.1]])
    stored = compact({"exact": exact, "inexact": inexact, "vector": exact[0], "integers": exact.char()})
    assert [value.dtype for value in stored.values()] == [torch.float16, torch.float32, torch.float32, torch.int8]
