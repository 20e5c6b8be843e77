"""A small detector for other engines than torch, with a graph that is written by hand, since tracing takes seconds."""

import pytest
import torch
from torch import nn

from aigidetect import Calibration, Detector, Tiles, exporting

from .conftest import POINTS, array

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
PICTURES = [array(30 + 20 * i, 90 - 15 * i, seed=i) for i in range(4)]


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))

    def evidence(self, x):
        return self[0](x).mean(dim=1)


def small(seed=0, **options):
    torch.manual_seed(seed)
    calibration = Calibration(temperature=0.05, thresholds=POINTS)
    return Detector(Small(), Tiles(size=32, max_tiles=4), calibration, name="small@1", device="cpu", **options)


def graph_of(network):
    """The graph of `Small`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = [numpy_helper.from_array(value.numpy(), key) for key, value in network.state_dict().items()]
    nodes = [
        helper.make_node("Conv", ["views", "0.weight", "0.bias"], ["c"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "3.weight", "3.bias"], ["logits"], transB=1),
    ]
    views = helper.make_tensor_value_info("views", TensorProto.FLOAT, ["N", 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1])
    graph = helper.make_graph(nodes, "small", [views], [logits], tensors)
    return helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", exporting.OPSET)], ir_version=10)


def assert_like_torch(detector, torch_detector, pictures, tolerance=1e-5):
    for found, expected in zip(detector.predict(pictures), torch_detector.predict(pictures), strict=True):
        found, expected = found.to_dict(), expected.to_dict()
        for key in {"probability", "logit", "view_logits"} & expected.keys():
            assert found.pop(key) == pytest.approx(expected.pop(key), abs=tolerance, rel=tolerance)
        assert found == expected
