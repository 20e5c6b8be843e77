"""One detector in many threads, after a fork, and one cache for many processes."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from aigidetect import AigidetectError, Calibration, Detector, Whole
from aigidetect import weights as weights_module
from aigidetect.weights import load_state_dict

from .conftest import array, encoded
from .hub_server import Handler, HubServer
from .weights_case import CONTENT, REPO, SHA256, entry

FORK = pytest.mark.skipif(sys.platform != "linux", reason="forks are tested on Linux")
# Python warns of every fork of a process with threads; what happens then is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def in_fork(function):
    """Id of a forked process that ends with status 0 if the function returned True."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        status = 0 if function() else 2
    finally:
        os._exit(status)


def status_of(pid, seconds=60):
    """Exit status of a process, negative if a signal ended it; one that hangs is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it hung"


def test_eight_threads_get_the_results_of_one(detector):
    files = [encoded(array(30 + 5 * i, 40, seed=i), "jpg") for i in range(8)]
    alone = [detector.predict(data) for data in files]
    start = threading.Barrier(8)

    def work(first):
        start.wait()
        order = [*range(first, 8), *range(first)]
        singles = [detector.predict(files[i]) for i in order]
        streamed = list(detector.stream([files[i] for i in order], batch_size=3, workers=2))
        return order, singles, streamed

    with ThreadPoolExecutor(8) as pool:
        for order, singles, streamed in pool.map(work, range(8)):
            for i, single, record in zip(order, singles, streamed, strict=True):
                assert single == alone[i]
                assert record.view_logits == pytest.approx(alone[i].view_logits, abs=1e-5)


@pytest.fixture
def busy():
    """A detector in whose process the threads of OpenMP are running, and a picture that is large enough for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))
    yield Detector(network, Whole(), Calibration(), device="cpu"), array(300, 400)
    torch.set_num_threads(threads)


@FORK
def test_a_detector_works_in_a_fork_of_the_process_that_has_used_it(busy):
    detector, picture = busy
    before = detector.predict(picture).logit

    def child():
        after = [detector.predict(picture), *detector.stream([picture] * 3), *detector.predict([picture])]
        [(logit,)] = detector.view_logits([detector.preprocess(torch.from_numpy(picture).permute(2, 0, 1))])
        return all(abs(value - before) < 1e-5 for value in [logit, *(record.logit for record in after)])

    assert status_of(in_fork(child)) == 0
    assert detector.predict(picture).logit == before and torch.get_num_threads() == 2


@FORK
def test_what_does_not_survive_a_fork_says_why(busy):
    detector, picture = busy
    stream = detector.stream([picture] * 50, batch_size=1, workers=1)
    next(stream)

    def child():
        with pytest.raises(AigidetectError, match="cannot go on in a fork"):
            list(stream)
        detector.device = torch.device("cuda")
        with pytest.raises(AigidetectError, match="load the detector in the new process"):
            detector.predict(picture)
        return True

    assert status_of(in_fork(child)) == 0
    assert len(list(stream)) == 49


class Halting(Handler):
    """Sends the half of a file, and the rest once `go` is set."""

    go: threading.Event

    def _answer(self, status, headers, body, length):
        half = len(body) // 2
        super()._answer(status, headers, body[:half], length)
        if body:
            self.wfile.flush()
            self.go.wait(60)
            self.wfile.write(body[half:])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(weights_module, "_BUNDLED", tmp_path / "package")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIGIDETECT_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Halting, "go", threading.Event(), raising=False)
    with HubServer(REPO, {"model.safetensors": CONTENT}, Halting) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
        Halting.go.set()


def loads():
    return load_state_dict(entry())[1] == SHA256


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def asked(hub, method):
    return sum(request.startswith(f"{method} ") and "/resolve/" in request for request in hub.requests)


@FORK
def test_two_processes_that_download_the_same_weights_both_get_them_whole(hub, tmp_path):
    first = in_fork(loads)
    wait_for(lambda: asked(hub, "GET") == 1)  # and has half of the file
    second = in_fork(loads)
    wait_for(lambda: asked(hub, "HEAD") == 2)  # and comes to the same file
    hub.requests.clear()
    Halting.go.set()
    assert status_of(first) == 0
    assert status_of(second) == 0
    hub.mode = "error"
    assert loads()
    [blob] = (tmp_path / "cache").rglob("blobs/*")
    assert blob.read_bytes() == CONTENT


@FORK
def test_a_download_that_is_killed_leaves_nothing_that_is_taken_for_weights(hub):
    first = in_fork(loads)
    wait_for(lambda: asked(hub, "GET") == 1)
    os.kill(first, signal.SIGKILL)
    assert status_of(first) == -signal.SIGKILL
    Halting.go.set()
    assert loads()
