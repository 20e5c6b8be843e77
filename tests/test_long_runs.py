"""Long runs: a file of whole lines whatever ends the run, nothing lost or doubled when it goes on, and exit statuses."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aigidetect import registry
from aigidetect.cli import main
from aigidetect.errors import OutputError
from aigidetect.output import RecordFile

from .conftest import array, encoded
from .toy_cli import toy

ROOT = Path(__file__).parent.parent
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals, forks and devices of POSIX")


@pytest.fixture
def pictures(tmp_path):
    """Twelve files, of which the fourth is broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(12):
        data = encoded(array(20, 24, seed=i), "png")
        (folder / f"{i:02}.png").write_bytes(data[:100] if i == 3 else data)
    return folder


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(registry, "load_detector", toy)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"


def predict(folder, out, *more):
    return main(["predict", str(folder), "--output", str(out), *more])


def records(out):
    text = out.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def stopped_run(folder, out, after):
    """A process that has written what it could and waits in the middle of the run."""
    command = [sys.executable, "-m", "tests.toy_cli", "predict", str(folder), "--output", str(out), "--batch-size", "1"]
    environment = {**os.environ, "TOY_STOP_AFTER": str(after)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            written = after + (after >= 3)  # the broken picture has a line, but never reaches the network
            while not (out.exists() and out.read_bytes().count(b"\n") >= written):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def assert_same(got, expected):
    """Equal but for the batches: a resumed run puts other pictures together, and a sum may round otherwise."""
    assert [record["source"] for record in got] == [record["source"] for record in expected]
    for a, b in zip(got, expected, strict=True):
        assert a["ok"] == b["ok"]
        if a["ok"]:
            assert a["view_logits"] == pytest.approx(b["view_logits"], abs=1e-5)
        else:
            assert a == b


@POSIX
def test_a_killed_run_is_resumed_with_nothing_lost_or_doubled(pictures, out, tmp_path, capsys):
    with stopped_run(pictures, out, after=6) as process:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert len(records(out)) == 7
    with out.open("r+b") as file:  # as if the kill had come in the middle of a line
        file.truncate(out.stat().st_size - 40)
    assert predict(pictures, out, "--resume") == 1
    assert "11 scored, 1 failed, 6 of them earlier" in capsys.readouterr().err
    assert predict(pictures, tmp_path / "whole.jsonl") == 1
    assert_same(records(out), records(tmp_path / "whole.jsonl"))
    finished = out.read_bytes()
    assert predict(pictures, out, "--resume") == 1
    assert out.read_bytes() == finished


@POSIX
def test_an_interrupted_run_leaves_whole_lines_and_status_130(pictures, out):
    with stopped_run(pictures, out, after=5) as process:
        process.send_signal(signal.SIGINT)
        _, message = process.communicate()
        assert process.returncode == 130
    assert "interrupted" in message and str(out) in message and "Traceback" not in message
    assert [Path(record["source"]).stem for record in records(out)] == ["00", "01", "02", "03", "04", "05"]


@pytest.mark.parametrize("cut", [1, 30, "all of the last line but its first byte", "only its newline"])
def test_a_torn_last_line_is_written_anew_wherever_it_was_torn(pictures, out, cut):
    predict(pictures, out)
    whole = records(out)
    content = out.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    out.write_bytes(content[: -{"all of the last line but its first byte": last - 1, "only its newline": 1}.get(cut, cut)])
    predict(pictures, out, "--resume")
    assert_same(records(out), whole)


def test_zeros_after_a_power_cut_are_a_torn_line(pictures, out):
    predict(pictures, out)
    whole = records(out)
    content = out.read_bytes()
    out.write_bytes(content[: len(content) // 2].rpartition(b"\n")[0] + b"\n" + bytes(500))
    predict(pictures, out, "--resume")
    assert_same(records(out), whole)


def test_a_run_that_never_began_is_resumed_from_the_start(pictures, out):
    assert predict(pictures, out, "--resume") == 1
    assert len(records(out)) == 12


def refused(capsys, folder, out, *more):
    """The message of a run that refuses to go on and changes nothing."""
    before = out.read_bytes()
    assert predict(folder, out, "--resume", *more) == 2
    assert out.read_bytes() == before
    return capsys.readouterr().err


def test_other_weights_settings_or_inputs_are_refused_and_the_file_is_left(pictures, out, capsys, monkeypatch):
    predict(pictures, out)
    with out.open("ab") as file:
        file.write(b'{"source": "torn')  # not even this is cut away
    assert "made with threshold 0.7, but this run has 0.9" in refused(capsys, pictures, out, "--fpr", "0.01")
    (pictures / "00a.png").write_bytes(encoded(array(seed=5), "png"))
    assert "line 2: about" in refused(capsys, pictures, out)
    (pictures / "00a.png").unlink()
    (pictures / "11.png").unlink()
    assert "line 12: this run has no more inputs" in refused(capsys, pictures, out)
    monkeypatch.setenv("TOY_SHA256", "b" * 64)
    assert f"line 1: made with weights_sha256 {'a' * 64}, but this run has {'b' * 64}" in refused(capsys, pictures, out)


def test_other_weights_are_refused_even_if_all_lines_are_failures(tmp_path, out, capsys, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"no picture")
    predict(tmp_path / "x.png", out)
    monkeypatch.setenv("TOY_SHA256", "b" * 64)
    assert "made with weights_sha256" in refused(capsys, tmp_path / "x.png", out)


@pytest.mark.parametrize(
    "content", [b"my letters\n", b"my letters", b"\xff\xd8\xff\xe0 a picture", b'{"a": 1}\n', b"[" * 10**5]
)
def test_a_file_of_something_else_is_never_resumed_into(pictures, out, capsys, content):
    out.write_bytes(content)
    assert "not a record of aigidetect" in refused(capsys, pictures, out)


def test_resuming_needs_a_file_of_json_lines(pictures, out, capsys):
    assert main(["predict", str(pictures), "--resume"]) == 2
    assert predict(pictures, out, "--resume", "--format", "csv") == 2
    assert capsys.readouterr().err.count("--resume needs --output FILE and the format jsonl") == 2
    assert not out.exists()


@POSIX
def test_two_runs_never_write_to_one_file(pictures, out, capsys):
    with RecordFile(out) as file:
        file.write("kept\n")
        for more in ([], ["--resume"]):
            assert predict(pictures, out, *more) == 3
            assert "Another run is writing" in capsys.readouterr().err
    assert out.read_text() == "kept\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("format", ["jsonl", "csv", "table"])
def test_a_full_disk_is_a_clear_error_and_status_3(pictures, capsys, monkeypatch, format):
    assert predict(pictures, "/dev/full", "--format", format) == 3
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["predict", str(pictures), "--format", format]) == 3
    monkeypatch.undo()
    assert capsys.readouterr().err.count("No space left on device. Free some space") == 2


def test_a_disk_that_fills_up_leaves_whole_lines(out, monkeypatch):
    real = os.write

    def half(file, data):
        if len(data) > 10:
            return real(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="No space left"), RecordFile(out) as file:
        file.write("a whole line\n")
        monkeypatch.setattr(os, "write", half)
        file.write("a line that does not fit\n")
    assert out.read_text() == "a whole line\n"


@pytest.mark.parametrize("nowhere", ["missing/out.jsonl", "."])
def test_an_output_that_cannot_be_opened_is_status_3(pictures, tmp_path, capsys, nowhere):
    assert predict(pictures, tmp_path / nowhere) == 3
    assert "Cannot write to" in capsys.readouterr().err


def test_what_was_written_is_forced_to_the_disk_at_times_and_at_the_end(out, monkeypatch):
    now, synced = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((now[0], os.fstat(file).st_size)))
    with RecordFile(out) as file:
        for now[0] in (1.0, 9.0, 10.5, 12.0, 20.4, 20.6):
            file.write("12345\n")
    assert synced == [(10.5, 18), (20.6, 36), (20.6, 36)]


def test_a_read_error_in_the_middle_is_a_record(pictures, out, monkeypatch):
    class Failing(io.FileIO):
        def read(self, size=-1):
            raise OSError(errno.EIO, "Input/output error")

    real = open

    def opened(path, *more, **options):
        return (Failing if str(path).endswith("05.png") else real)(path, *more, **options)

    monkeypatch.setattr("builtins.open", opened)
    assert predict(pictures, out) == 1
    bad = records(out)[5]
    assert not bad["ok"] and bad["error"] == "ImageError" and "Input/output error" in bad["message"]
    assert len(records(out)) == 12


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads memory figures of Linux")
def test_memory_does_not_grow_with_the_number_of_pictures():
    command = [sys.executable, str(ROOT / "benchmarks" / "long_run.py"), "--entries", "10000"]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert figures["entries"] == 10000
    assert figures["ratio"] < 1.1
