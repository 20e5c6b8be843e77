"""Detectors as files for other runtimes: the same logits, and facts enough to make verdicts of them."""

import json

import numpy as np
import pytest
import torch

from aigidetect import Calibration, Detector, ImageError, Tiles, Whole, exporting
from aigidetect.calibration import sigmoid
from aigidetect.cli import main
from aigidetect.errors import ExportError
from aigidetect.exporting import KEY, export
from aigidetect.preprocess import from_dict

from .conftest import POINTS, Toy, array


def toy():
    calibration = Calibration(temperature=0.05, thresholds=POINTS)
    return Detector(Toy(), Tiles(size=32, max_tiles=4), calibration, name="toy@1", weights_sha256="ab", device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small detector as an ONNX file."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is needed to export")
    path = tmp_path_factory.mktemp("onnx") / "toy.onnx"
    return export(toy(), path, pictures=[array(seed=1), array(40, 33)])


@pytest.fixture
def graph(made, monkeypatch):
    """Takes the graph of `made` instead of tracing again, which takes seconds."""
    import onnx

    monkeypatch.setattr(exporting, "_graph", lambda detector, views, half: onnx.load(str(made.path)))


def scored(run, facts, picture):
    """Probability and verdict from the file's logits and what it says of itself."""
    calibration = Calibration.from_dict(facts["calibration"])
    logits = run(from_dict(facts["preprocess"])(torch.from_numpy(picture).permute(2, 0, 1)).numpy())
    probability = sigmoid(calibration.logit(logits[:, 0].tolist()))
    return probability, calibration.verdict(probability)


def assert_speaks_for_itself(run, facts):
    assert (facts["detector"], facts["weights_sha256"]) == ("toy@1", "ab")
    for seed, size in ((4, 20), (5, 70), (6, 150)):
        record = toy().predict(array(size, 64, seed=seed))
        probability, verdict = scored(run, facts, array(size, 64, seed=seed))
        assert probability == pytest.approx(record.probability, abs=1e-4)
        assert verdict == record.verdict


def test_an_onnx_file_needs_nothing_but_itself_for_a_verdict(made):
    import onnx
    import onnxruntime

    model = onnx.load(str(made.path))
    facts = json.loads({item.key: item.value for item in model.metadata_props}[KEY])
    assert [(item.domain, item.version) for item in model.opset_import] == [("", facts["opset"])]
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]
    assert_speaks_for_itself(lambda views: session.run(None, {"views": views})[0], facts)


def test_the_comparison_covers_every_view_of_every_picture(made):
    assert (made.pictures, made.views) == (3, 12)
    assert made.difference <= made.tolerance == exporting.TOLERANCE
    assert made.bytes == made.path.stat().st_size


def test_halved_matrices_are_stored_in_half_and_computed_in_float32(made, monkeypatch, tmp_path):
    import onnx
    import onnxruntime

    monkeypatch.setattr(exporting, "_HALF_FROM", 30)
    model = exporting._halved(onnx.load(str(made.path)))
    kinds = [(int(np.prod(item.dims)) > 30, item.data_type) for item in model.graph.initializer]
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert {kind for large, kind in kinds if large} == {half} and half not in {kind for large, kind in kinds if not large}
    assert single in {kind for _, kind in kinds}
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [logits], views = toy().view_logits([toy().transforms(array())]), toy().transforms(array()).numpy()
    found = session.run(None, {"views": views})[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], logits, atol=5e-3)


@pytest.mark.slow
def test_an_openvino_file_needs_nothing_but_itself_for_a_verdict(graph, tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is needed for its format")
    found = export(toy(), tmp_path / "toy.xml", "openvino", pictures=[array()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.bin", "toy.xml"]
    assert found.difference <= found.tolerance
    model = openvino.Core().read_model(str(found.path))
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert_speaks_for_itself(lambda views: np.asarray(compiled(views)[0]), json.loads(model.get_rt_info(KEY).value))


def test_a_torchscript_file_needs_nothing_but_itself_for_a_verdict(tmp_path):
    found = export(toy(), tmp_path / "toy.pt", "torchscript", pictures=[array()])
    facts = {KEY: ""}
    network = torch.jit.load(str(found.path), _extra_files=facts)
    assert_speaks_for_itself(lambda views: network(torch.from_numpy(views)).detach().numpy(), json.loads(facts[KEY]))


@pytest.mark.parametrize("there", [False, True])
def test_a_file_that_computes_other_numbers_is_never_written(tmp_path, monkeypatch, there):
    path = tmp_path / "toy.onnx"
    if there:
        path.write_bytes(b"before")

    def wrong(detector, path, views, facts, half):
        path.write_bytes(b"wrong")
        return lambda inputs: np.array([[row + 0.01] for [row] in toy().network(torch.from_numpy(inputs)).tolist()])

    monkeypatch.setattr(exporting, "_onnx", wrong)
    with pytest.raises(ExportError, match=r"differs from torch by 0\.01 in a logit, more than 0\.001"):
        export(toy(), path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"] * there


def test_a_fixed_batch_is_noticed(tmp_path, monkeypatch):
    def fixed(detector, path, views, facts, half):
        return lambda inputs: toy().network(torch.from_numpy(inputs)).detach().numpy()[:1]

    monkeypatch.setattr(exporting, "_onnx", fixed)
    with pytest.raises(ExportError, match=r"For 4 views the exported toy@1 gave the shape \(1, 1\)"):
        export(toy(), tmp_path / "toy.onnx")


def test_a_file_that_does_not_run_is_an_error_of_ours(tmp_path, monkeypatch):
    def stubborn(detector, path, views, facts, half):
        def run(inputs):
            raise RuntimeError("Got: 1 Expected: 2")

        return run

    monkeypatch.setattr(exporting, "_onnx", stubborn)
    with pytest.raises(ExportError, match="toy@1 does not run on 1 views: Got: 1 Expected: 2"):
        export(toy(), tmp_path / "toy.onnx")


def test_what_does_not_fit_together_is_refused_before_any_work(tmp_path):
    detector = toy()
    for path, options, message in [
        ("a.onnx", {"format": "tflite"}, "available: onnx, torchscript, openvino"),
        ("a.pt", {}, "ends with .onnx"),
        ("a.pt", {"format": "torchscript", "half": True}, "leave half out"),
    ]:
        with pytest.raises(ValueError, match=message):
            export(detector, tmp_path / path, **options)
    with pytest.raises(ExportError, match="make it first"):
        export(detector, tmp_path / "gone" / "a.onnx")
    with pytest.raises(ImageError):
        export(detector, tmp_path / "a.onnx", pictures=[b"no picture"])
    double = Detector(Toy(), Tiles(size=32), Calibration(), device="cpu", dtype=torch.float64)
    with pytest.raises(ValueError, match="float32"):
        export(double, tmp_path / "a.onnx")
    detector.preprocess = Whole()
    with pytest.raises(ExportError, match="views of one size"):
        export(detector, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "format", "suffix"), [("onnx", "onnx", ".onnx"), ("openvino", "openvino", ".xml")])
def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch, package, format, suffix):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ExportError, match=rf"pip install 'aigidetect\[{package}\]'"):
        export(toy(), tmp_path / f"toy{suffix}", format)


def test_the_command_replaces_no_file_unasked(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    assert main(["export", "npr-ms-ca", "-o", str(path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert path.read_bytes() == b"before"


@pytest.mark.slow
@pytest.mark.parametrize("options", [["npr-ms-ca"], ["npr-ms-ca", "--half"], ["vit-clip", "--half"]])
def test_published_detectors_are_exported_and_compared_on_the_examples(tmp_path, capsys, options):
    pytest.importorskip("onnxscript", reason="onnxscript is needed to export")
    path = tmp_path / "net.onnx"
    assert main(["export", *options, "-o", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "opset 20" in printed and "8 pictures and the pattern" in printed
    assert path.stat().st_size > 3e6
