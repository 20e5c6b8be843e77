"""`aigidetect fetch npr-ms-ca:report`: public checkpoints, from a loopback server to a detector."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aigidetect import Calibration, SquashCrop, Whole, checkpoint, fetch_foreign, foreign, load_detector
from aigidetect.cli import main
from aigidetect.errors import CheckpointRefused, UnknownDetectorError, WeightsMismatch, WeightsNotAvailable

from . import test_npr_parity as npr_case
from .foreign_case import assert_equal, attacks, facts_of, git_blob, npr_state, read_here

# Which fixture stands for which file. All are bare state dicts; those of the report hold groups that they do not use.
FIXTURES = {
    "npr-ms-ca:report": "final",
    "npr:report": "baseline",
    "npr-ca:report": "channel_attention",
    "npr-ms:report": "multi_scale",
    "npr-sa:report": "spatial_attention",
    "npr:cvpr2024": "upstream",
    "npr:cvpr2024-3090": "upstream",
}
FINAL = "npr-ms-ca:report"
RUN_READER = checkpoint._run_reader


class Server(ThreadingHTTPServer):
    """Answers with the files it was given; `mode` is how it (mis)behaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.mode = "ok"

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of clients that hang up, which is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path)
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write((content or b"")[: 1000 if self.server.mode == "dropped" else None])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def server(monkeypatch, tmp_path):
    """A server in the place of GitHub's, a cache of its own, and no process for each pickle."""
    for name in ("AIGIDETECT_WEIGHTS_DIR", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoint, "_run_reader", read_here)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("AIGIDETECT_RAW_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.shutdown()


@pytest.fixture
def publish(server, monkeypatch):
    """Puts content where the named file lies, and pins it: the true files are not here, only their blob ids."""

    def put(name: str, content: object, *, pinned: bool = True) -> bytes:
        if not isinstance(content, bytes):
            torch.save(content, buffer := io.BytesIO())
            content = buffer.getvalue()
        one = foreign.get_foreign(name)
        server.files[f"/{one.repository}/{one.commit}/{one.path}"] = content
        if pinned:
            other = dataclasses.replace(one, blob=git_blob(content))
            monkeypatch.setattr(foreign, "FOREIGN", tuple(other if f == one else f for f in foreign.FOREIGN))
        return content

    return put


@functools.cache
def state_of(name: str) -> dict[str, torch.Tensor]:
    state = npr_state(FIXTURES[name])
    # The two files of the paper are different ones.
    return {key: value + 1 if name.endswith("3090") and key == "fc1.bias" else value for key, value in state.items()}


def cache() -> list[str]:
    return sorted(path.name for path in foreign.cache_folder().glob("*"))


def test_every_public_checkpoint_has_a_fixture_a_commit_and_a_blob():
    assert {one.name for one in foreign.FOREIGN} == set(FIXTURES)
    for one in foreign.FOREIGN:
        assert {len(one.commit), len(one.blob)} == {40}
        assert set(one.commit + one.blob) <= set("0123456789abcdef")
    assert len({one.blob for one in foreign.FOREIGN}) == len({one.file for one in foreign.FOREIGN}) == len(foreign.FOREIGN)


@pytest.mark.parametrize("name", FIXTURES)
def test_every_public_checkpoint_is_fetched_converted_and_loaded(server, publish, name, capsys):
    content = publish(name, state_of(name))
    assert main(["fetch", name]) == 0
    one = foreign.get_foreign(name)
    path = foreign.cache_folder() / one.file
    assert capsys.readouterr().out == f"{name}: {path}\n"
    assert server.requests == [f"/{one.repository}/{one.commit}/{one.path}"]
    assert cache() == sorted([one.file, one.file.replace(".safetensors", ".json")])
    assert facts_of(path)["source"]["git_blob"] == one.blob == git_blob(content)
    detector = load_detector(name, device="cpu", local_files_only=True)
    # That these tensors give the logits of the original is shown in test_convert_cli.py.
    assert_equal(detector.network.state_dict(), npr_case.convert_npr(state_of(name), one.detector))
    assert (detector.name, detector.calibration) == (name, Calibration())
    native = Whole(min_size=4, mean=SquashCrop().mean, std=SquashCrop().std)
    assert detector.preprocess == (SquashCrop() if name.endswith(":report") else native)


@pytest.mark.slow  # test_convert_cli.py goes the same way from the file on
def test_the_whole_way_through_a_process_of_its_own(publish, monkeypatch):
    monkeypatch.setattr(checkpoint, "_run_reader", RUN_READER)
    publish(FINAL, state_of(FINAL))
    assert_equal(load_file(fetch_foreign.fetch_foreign(FINAL)), npr_case.convert_npr(state_of(FINAL), "npr-ms-ca"))


def test_a_wrapped_and_prefixed_file_is_fetched_as_well(publish):
    publish(FINAL, {"model": {f"module.{key}": value for key, value in state_of(FINAL).items()}, "total_steps": 3})
    assert "npr.weights" in load_file(fetch_foreign.fetch_foreign(FINAL))


def test_without_the_file_the_command_that_gets_it_is_named(server):
    with pytest.raises(WeightsNotAvailable, match=r"`aigidetect fetch npr-ms-ca:report`"):
        load_detector(FINAL)
    assert not server.requests


def test_what_is_here_is_not_fetched_again_unless_forced(server, publish):
    publish(FINAL, state_of(FINAL))
    for force, count in ((False, 1), (False, 1), (True, 2)):
        fetch_foreign.fetch_foreign(FINAL, force=force)
        assert len(server.requests) == count


@pytest.mark.parametrize(("content", "error"), [(b"<html>Sign in</html>", WeightsMismatch), (None, WeightsNotAvailable)])
def test_what_is_not_the_pinned_file_is_neither_read_nor_kept(publish, monkeypatch, content, error):
    monkeypatch.setattr(checkpoint, "_run_reader", None)
    if content is not None:
        publish(FINAL, content, pinned=False)
    with pytest.raises(error, match=r"Git blob ff024dee|404"):
        fetch_foreign.fetch_foreign(FINAL)
    assert not cache()


def test_another_public_checkpoint_in_its_place_is_refused(publish):
    publish(FINAL, state_of(FINAL), pinned=False)
    with pytest.raises(WeightsMismatch, match="expected the Git blob"):
        fetch_foreign.fetch_foreign(FINAL)


def test_a_connection_that_breaks_off_is_an_error_and_leaves_nothing(server, publish):
    publish(FINAL, state_of(FINAL))
    server.mode = "dropped"
    with pytest.raises(WeightsNotAvailable, match=r"broke off|IncompleteRead"):
        fetch_foreign.fetch_foreign(FINAL)
    assert not cache()


def test_even_a_pinned_file_is_not_trusted(publish, tmp_path):
    publish(FINAL, {**state_of(FINAL), "fc1.bias": attacks(tmp_path / "ran")["os.system"]})
    with pytest.raises(CheckpointRefused, match="system"):
        fetch_foreign.fetch_foreign(FINAL)
    assert not cache() and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HF_HUB_OFFLINE", "1", "switched off"),
        ("AIGIDETECT_RAW_ENDPOINT", "file:///etc", "https://"),
        ("AIGIDETECT_RAW_ENDPOINT", "http://127.0.0.1:9", "Check network and proxy"),
    ],
)
def test_a_download_that_may_not_or_cannot_be_says_what_to_do(monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(WeightsNotAvailable, match=rf"{words}.*aigidetect convert FILE --as npr-ms-ca:report"):
        fetch_foreign.fetch_foreign(FINAL)


def test_an_answer_without_end_is_cut_off(publish, monkeypatch):
    publish(FINAL, state_of(FINAL))
    monkeypatch.setattr(fetch_foreign, "_MOST_BYTES", 100_000)
    with pytest.raises(WeightsNotAvailable, match="more than 100,000 bytes"):
        fetch_foreign.fetch_foreign(FINAL)


def test_a_changed_file_in_the_cache_is_not_loaded_and_force_repairs_it(publish, capsys):
    publish(FINAL, state_of(FINAL))
    path = fetch_foreign.fetch_foreign(FINAL)
    good = path.read_bytes()
    save_file({**load_file(path), "fc1.bias": torch.ones(1)}, path)
    for call in (load_detector, fetch_foreign.fetch_foreign):
        with pytest.raises(WeightsMismatch, match=r"has changed.*--force"):
            call(FINAL)
    assert main(["verify", FINAL]) == 1
    assert main(["fetch", FINAL, "--force"]) == 0
    assert path.read_bytes() == good
    assert main(["verify", FINAL]) == 0
    assert "ok  sha256" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": NaN}'])
def test_a_damaged_record_is_an_error_that_says_so(publish, content):
    publish(FINAL, state_of(FINAL))
    record = fetch_foreign.fetch_foreign(FINAL).with_suffix(".json")
    record.write_text(content)
    with pytest.raises(WeightsMismatch, match="is damaged"):
        load_detector(FINAL)


def test_a_machine_without_network_takes_the_two_files_from_a_folder(publish, monkeypatch, tmp_path):
    publish(FINAL, state_of(FINAL))
    fetch_foreign.fetch_foreign(FINAL)
    shutil.move(foreign.cache_folder(), tmp_path / "mine")
    with pytest.raises(WeightsNotAvailable):
        load_detector(FINAL)
    monkeypatch.setenv("AIGIDETECT_WEIGHTS_DIR", str(tmp_path / "mine"))
    detector = load_detector(FINAL)
    assert detector.weights_sha256 == json.loads((tmp_path / "mine" / "npr-ms-ca-report.json").read_text())["sha256"]


def test_a_folder_of_choice_can_be_the_cache(publish, tmp_path):
    publish(FINAL, state_of(FINAL))
    path = fetch_foreign.fetch_foreign(FINAL, cache_dir=tmp_path / "other")
    assert path.parent == tmp_path / "other"
    assert load_detector(FINAL, cache_dir=tmp_path / "other").name == FINAL


def test_unknown_names_are_answered_with_the_known_ones():
    for call in (load_detector, fetch_foreign.fetch_foreign):
        with pytest.raises(UnknownDetectorError, match=r"npr:cvpr2024.*Did you mean 'npr-ms-ca:report'"):
            call("npr-ms-ca:reports")


def test_one_particular_file_takes_no_other_weights():
    for options in ({"weights": "x.safetensors"}, {"revision": "main"}):
        with pytest.raises(ValueError, match="leave weights and revision out"):
            load_detector(FINAL, **options)


def test_the_list_shows_how_to_get_them(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"aigidetect fetch {name}`" in out for name in FIXTURES)


def test_a_cache_that_cannot_be_written_is_an_error_of_ours(publish, tmp_path):
    publish(FINAL, state_of(FINAL))
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsNotAvailable, match="Cannot write into the cache"):
        fetch_foreign.fetch_foreign(FINAL, cache_dir=tmp_path / "file" / "folder")


def test_the_record_is_a_file_of_its_own(publish):
    publish(FINAL, state_of(FINAL))
    path = Path(fetch_foreign.fetch_foreign(FINAL))
    record = json.loads(path.with_suffix(".json").read_text())
    assert record == {key: foreign.digests(path)[key] for key in record}
