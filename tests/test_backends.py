"""The network in another engine than torch: the same records, and clear refusals."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from aigidetect import AigidetectError, Calibration, Detector, Tiles, Whole, exporting, load_detector, registry
from aigidetect.backends import check_backend, use_backend
from aigidetect.cli import main
from aigidetect.engine import Engine
from aigidetect.errors import ExportError
from aigidetect.manifest import load_manifest
from aigidetect.registry import build_network, entry_preprocess

from .backend_case import PACKAGES, PICTURES, assert_like_torch, small
from .conftest import Toy, encoded
from .small_models.bayesian import build as build_bayesian
from .test_concurrency import FORK, in_fork, status_of

ARCHITECTURES = ("npr-ms-ca", "npr-sa", "resnet50", "cvt-13", "swin-t", "vit@1", "vit-clip")
# Python warns of every fork of a process with threads; what happens then is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(params=PACKAGES)
def backend(request, traced_graphs):
    pytest.importorskip(PACKAGES[request.param], reason=f"the backend {request.param} needs it")
    return request.param


def test_records_are_those_of_torch_whatever_the_batch(backend, tmp_path):
    detector = small()
    use_backend(detector, backend, cache_dir=tmp_path)
    assert detector.engine is not None and f"backend={backend!r}" in repr(detector)
    assert_like_torch(detector, small(), [*PICTURES, b"no picture"])
    streamed = [record.logit for record in detector.stream(PICTURES, batch_size=3)]
    assert streamed == pytest.approx([record.logit for record in small().predict(PICTURES)], abs=1e-5)
    use_backend(detector, "torch")
    assert detector.predict(PICTURES) == small().predict(PICTURES)


def test_the_engine_and_not_torch_computes_the_logits(backend, tmp_path, monkeypatch):
    detector = small()
    use_backend(detector, backend, cache_dir=tmp_path)
    expected = small().predict(PICTURES[0]).logit
    monkeypatch.setattr(detector, "_logits", lambda inputs: pytest.fail("torch was asked"))
    assert detector.predict(PICTURES[0]).logit == pytest.approx(expected, abs=1e-5)


def test_heat_maps_and_saved_weights_stay_those_of_torch(backend, tmp_path):
    detector = small()
    use_backend(detector, backend, cache_dir=tmp_path)
    np.testing.assert_array_equal(detector.explain(PICTURES[0]).map, small().explain(PICTURES[0]).map)
    assert all(torch.equal(a, b) for a, b in zip(detector.network.parameters(), small().network.parameters(), strict=True))


def test_threads_share_an_engine(backend, tmp_path):
    detector = small()
    use_backend(detector, backend, cache_dir=tmp_path)
    alone = [record.logit for record in map(detector.predict, PICTURES)]
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(lambda _: [detector.predict(picture).logit for picture in PICTURES], range(12)):
            assert logits == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_gets_the_threads_of_torch(backend, tmp_path, monkeypatch, threads):
    seen = []
    run = {"onnx": "run_onnx", "openvino": "run_openvino"}[backend]
    real = getattr(exporting, run)
    before = torch.get_num_threads()

    def noted(graph, threads, **options):
        seen.append(threads)
        return real(graph, threads, **options)

    monkeypatch.setattr(f"aigidetect.backends.{run}", noted)
    torch.set_num_threads(threads)
    try:
        use_backend(small(), backend, cache_dir=tmp_path)
    finally:
        torch.set_num_threads(before)
    assert seen == [threads]


def test_bfloat16_is_a_hint_to_openvino_and_refused_by_onnx_runtime(traced_graphs, tmp_path):
    openvino = pytest.importorskip("openvino", reason="only openvino has this")
    detector = small(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"'onnx' does not compute in torch.bfloat16; .* 'openvino'"):
        use_backend(detector, "onnx", cache_dir=tmp_path)
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ExportError, match="no instructions for bfloat16"):
            use_backend(detector, "openvino", cache_dir=tmp_path)
        return
    use_backend(detector, "openvino", cache_dir=tmp_path)
    [found], [expected] = ([r.view_logits for r in d.predict(PICTURES[:1])] for d in (detector, small()))
    assert found == pytest.approx(expected, abs=0.05)


# --- what cannot work ---


@FORK
def test_a_fork_is_refused_instead_of_hanging(backend, tmp_path):
    detector = small()
    use_backend(detector, backend, cache_dir=tmp_path)
    before = detector.predict(PICTURES[0])

    def child():
        with pytest.raises(AigidetectError, match="load the detector in the new process"):
            detector.predict(PICTURES[0])
        with pytest.raises(AigidetectError, match="does not survive that"):
            list(detector.stream(PICTURES))
        return True

    assert status_of(in_fork(child)) == 0
    assert detector.predict(PICTURES[0]) == before


def test_a_detector_with_an_engine_is_neither_pickled_nor_copied(traced_graphs, tmp_path):
    detector = small()
    use_backend(detector, "onnx", cache_dir=tmp_path)
    for send in (pickle.dumps, copy.deepcopy):
        with pytest.raises(AigidetectError, match=r"load_detector\(name, backend='onnx'\)"):
            send(detector)


def test_views_of_another_size_are_refused(traced_graphs, tmp_path):
    detector = small()
    use_backend(detector, "onnx", cache_dir=tmp_path)
    detector.preprocess = Tiles(size=16)
    with pytest.raises(ValueError, match=r"made for views \(3, 32, 32\), but got \(3, 16, 16\)"):
        detector.predict(PICTURES[0])


def test_an_engine_with_other_numbers_is_not_used(backend, tmp_path, monkeypatch):
    detector = small()
    for wrong in (lambda views: np.full((len(views), 1), 7, np.float32), lambda views: np.full((1, 1), np.nan, np.float32)):
        monkeypatch.setattr(f"aigidetect.backends.run_{backend}", lambda graph, threads, low=False, run=wrong: run)
        with pytest.raises(ExportError, match="leave backend out"):
            use_backend(detector, backend, cache_dir=tmp_path)
        assert detector.engine is None


def test_networks_that_only_torch_runs_are_refused(traced_graphs, tmp_path):
    bayesian = Detector(build_bayesian(), Tiles(size=32), Calibration(), name="bnn@1", device="cpu")
    with pytest.raises(ExportError, match=r"bnn@1 draws its weights at random .* leave backend out"):
        use_backend(bayesian, "onnx", cache_dir=tmp_path)
    whole = Detector(Toy(), Whole(), Calibration(), name="whole@1", device="cpu")
    with pytest.raises(ExportError, match=r"whole@1 sees whole pictures .* leave backend out"):
        use_backend(whole, "onnx", cache_dir=tmp_path)
    assert traced_graphs == []


def test_what_does_not_go_together_is_refused_before_weights_are_read(monkeypatch):
    pytest.importorskip("onnxruntime", reason="it is looked for first")
    monkeypatch.setattr(registry, "_load", lambda *arguments: pytest.fail("weights were read"))
    for options, message in [
        ({"backend": "tflite"}, "available: torch, onnx, openvino"),
        ({"backend": "onnx", "device": "cuda"}, "on the CPU alone, not on 'cuda'"),
        ({"backend": "onnx", "dtype": torch.float16}, "does not compute in torch.float16"),
        ({"backend": "openvino", "dtype": torch.float64}, "does not compute in torch.float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_detector("npr-ms-ca", **options)
    assert check_backend("onnx", "auto", None) == "cpu" and check_backend(None, "auto", torch.float64) == "auto"


@pytest.mark.parametrize("backend", PACKAGES)
def test_a_missing_package_says_what_to_install(monkeypatch, capsys, tmp_path, backend):
    monkeypatch.setitem(__import__("sys").modules, PACKAGES[backend], None)
    with pytest.raises(ExportError, match=rf"pip install 'aigidetect\[{backend}\]'"):
        load_detector("npr-ms-ca", backend=backend)
    (tmp_path / "a.png").write_bytes(encoded(PICTURES[0], "png"))
    assert main(["predict", "--backend", backend, str(tmp_path)]) == 2
    assert f"pip install 'aigidetect[{backend}]'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["predict"], ["report", "-o", "page.html"]])
def test_the_commands_pass_the_backend_on(monkeypatch, capsys, tmp_path, command, detector):
    asked = []
    monkeypatch.setattr(registry, "load_detector", lambda name=None, **options: asked.append(options) or detector)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(encoded(PICTURES[0], "png"))
    assert main([*command, "a.png"]) == 0 and main([*command, "a.png", "--backend", "openvino"]) == 0
    assert [options["backend"] for options in asked] == [None, "openvino"]


# --- published networks ---


@pytest.mark.slow
@pytest.mark.parametrize("backend", PACKAGES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_the_same_records(tmp_path_factory, name, backend):
    for package in ("onnxscript", "onnxruntime", PACKAGES[backend]):
        pytest.importorskip(package, reason=f"{package} is needed")
    entry = load_manifest().get(name)
    torch.manual_seed(0)
    plain, other = (
        Detector(build_network(entry), entry_preprocess(entry), Calibration(), name=name, device="cpu") for _ in range(2)
    )
    other.network.load_state_dict(plain.network.state_dict())
    other = Detector(other.network, other.preprocess, other.calibration, name=name, device="cpu")
    use_backend(other, backend, cache_dir=tmp_path_factory.getbasetemp() / "cache")
    assert isinstance(other.engine, Engine)
    assert_like_torch(other, plain, PICTURES)


@pytest.mark.slow
@pytest.mark.parametrize("backend", PACKAGES)
def test_a_published_detector_loads_with_a_backend(tmp_path_factory, monkeypatch, backend):
    for package in ("onnxscript", "onnxruntime", PACKAGES[backend]):
        pytest.importorskip(package, reason=f"{package} is needed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "published"))
    plain = load_detector("npr-ms-ca", device="cpu")
    assert_like_torch(load_detector("npr-ms-ca", backend=backend), plain, PICTURES)
