"""The graph that other engines run: made once, kept, compared at every load, and never trusted."""

import logging
import os

import pytest

from aigidetect import exporting
from aigidetect.backends import use_backend

from .backend_case import PACKAGES, PICTURES, assert_like_torch, graph_of, small
from .test_concurrency import FORK, in_fork, status_of

# Python warns of every fork of a process with threads; what happens then is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def files(cache):
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_graph_is_made_once_for_both_engines_and_again_for_other_weights(traced_graphs, tmp_path):
    for backend, package in PACKAGES.items():
        pytest.importorskip(package, reason=f"the backend {backend} needs it")
        use_backend(small(), backend, cache_dir=tmp_path)
    assert len(traced_graphs) == 1 and len(files(tmp_path)) == 1
    use_backend(small(seed=1), "onnx", cache_dir=tmp_path)
    use_backend(small(), "onnx", cache_dir=tmp_path)
    assert len(traced_graphs) == 2 and len(files(tmp_path)) == 2


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_damaged_graph_is_made_anew(traced_graphs, tmp_path, content):
    use_backend(small(), "onnx", cache_dir=tmp_path)
    [path] = files(tmp_path)
    good = path.read_bytes()
    # None: one bit of the weights, which the comparison of logits might let pass.
    at = good.index(small().network[0].weight.detach().numpy().tobytes())
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] if content is None else content)
    detector = small()
    use_backend(detector, "onnx", cache_dir=tmp_path)
    assert len(traced_graphs) == 2 and [path.read_bytes() for path in files(tmp_path)] == [good]
    assert_like_torch(detector, small(), PICTURES)


@pytest.mark.parametrize("kind", ["another network", "no graph"])
def test_a_foreign_graph_under_the_right_name_is_replaced(traced_graphs, tmp_path, monkeypatch, kind):
    detector, other = small(), graph_of(small(seed=1).network).SerializeToString() if kind == "another network" else b"?"
    monkeypatch.setattr("aigidetect.backends._traced", lambda reference: other)
    monkeypatch.setattr("aigidetect.backends._checked", lambda *arguments: None)
    use_backend(detector, "onnx", cache_dir=tmp_path)
    assert [path.read_bytes() for path in files(tmp_path)] == [other]
    monkeypatch.undo()
    monkeypatch.setattr(exporting, "_graph", lambda detector, views, half: graph_of(detector.network))
    use_backend(detector, "onnx", cache_dir=tmp_path)
    assert_like_torch(detector, small(), PICTURES)
    assert [path.read_bytes() == other for path in files(tmp_path)] == [False]


def test_without_a_cache_that_can_be_written_the_graph_is_made_at_every_load(traced_graphs, tmp_path, caplog):
    taken = tmp_path / "file"
    taken.write_bytes(b"not a folder")
    with caplog.at_level(logging.WARNING, logger="aigidetect"):
        for _ in range(2):
            detector = small()
            use_backend(detector, "onnx", cache_dir=taken)
            assert_like_torch(detector, small(), PICTURES)
    assert len(traced_graphs) == 2 and caplog.text.count("cannot be written") == 2
    assert files(tmp_path) == [taken]


def test_a_failed_write_leaves_no_file_behind(traced_graphs, tmp_path, monkeypatch, caplog):
    def full(source, target):
        if str(tmp_path) in str(target):
            raise OSError(28, "No space left on device")
        return replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", full)
    use_backend(small(), "onnx", cache_dir=tmp_path)
    assert "No space left" in caplog.text and files(tmp_path) == []


@FORK
def test_two_processes_may_make_the_same_graph(traced_graphs, tmp_path):
    def load():
        detector = small()
        use_backend(detector, "onnx", cache_dir=tmp_path)
        return detector.predict(PICTURES[0]).logit == pytest.approx(small().predict(PICTURES[0]).logit, abs=1e-5)

    assert [status_of(pid) for pid in [in_fork(load), in_fork(load)]] == [0, 0]
    assert len(files(tmp_path)) == 1
    use_backend(small(), "onnx", cache_dir=tmp_path)
    assert traced_graphs == []
