"""Runs that several processes share."""

import contextlib
import dataclasses
import datetime
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aigidetect.training import distributed
from aigidetect.training.__main__ import main
from aigidetect.training.datasets import read_index
from aigidetect.training.distributed import Processes
from aigidetect.training.fit import fit, read_log
from aigidetect.training.run import Run

from .fit_case import SMALL, SMALL_MODELS, audited, write_data

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_models")


@pytest.mark.parametrize(("consistency", "kinds"), [(0.0, 2), (0.5, 4)])
def test_parts_share_out_the_batch_and_are_balanced_as_the_whole(consistency, kinds):
    n, count, turns = 16, 2, 2
    rows = torch.arange(n)
    kind = rows // (n // kinds)  # a batch is ordered by class, and by view
    parts = [rows[Processes(rank, count).part(turn, turns)] for rank in range(count) for turn in range(turns)]
    assert torch.equal(torch.cat(parts).sort().values, rows)
    for part in parts:
        assert torch.equal(kind[part].bincount(), torch.full((kinds,), n // kinds // (count * turns)))
        first, second = part.chunk(2)
        assert not consistency or torch.equal(first + n // 2, second)


def test_a_batch_that_does_not_split_evenly_is_refused():
    with pytest.raises(ValueError, match="multiple of 12"):
        Run(SMALL, CPU, processes=Processes(0, 3))


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "two"}, {"RANK": "1"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_a_launcher_that_contradicts_itself_is_refused(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        Processes.from_environment()


def test_several_processes_do_not_share_a_numbered_device():
    with pytest.raises(ValueError, match="'cuda'"), Processes(0, 2).joined(torch.device("cuda:1")):
        pass


def place(rank, port):
    """What a launcher tells one of two processes."""
    host = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", **host}


def command_line(rank, port, arguments):
    """The command line as another process, with the small architecture."""
    code = (
        f"import sys; from aigidetect import models; models.__path__.append({SMALL_MODELS!r}); "
        "from aigidetect.training.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command, pipe = [sys.executable, "-c", code, *arguments], subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | place(rank, port), stdout=pipe, stderr=pipe, text=True)


def test_two_processes_have_the_loss_curve_and_weights_of_one(tmp_path, monkeypatch, capsys):
    data, one, two = write_data(tmp_path), tmp_path / "one", audited(tmp_path / "two")
    fit(SMALL, read_index(data), one, log_every=1)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(dataclasses.replace(SMALL, accumulate=2).to_json())
    monkeypatch.setattr(distributed, "_PATIENCE", datetime.timedelta(seconds=120))
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = ["--recipe", str(recipe), "--data", str(data), "--out", str(two)]
    arguments = ["--threads", "1", "fit", *files, "--log-every", "1"]
    other = command_line(1, port, arguments)
    for name, value in place(0, port).items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 0
    out, err = other.communicate(timeout=120)
    assert (other.returncode, out) == (0, ""), err
    assert capsys.readouterr().out.strip() == str(two / "model.safetensors")
    curves = [[(row["step"], row["loss"]) for row in read_log(folder)] for folder in (one, two)]
    assert len(curves[0]) == len(curves[1]) == SMALL.steps  # rows of the main process only
    assert np.allclose(*curves, rtol=0, atol=1e-4)
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert all(torch.allclose(first[key], second[key], atol=1e-5) for key in first)
    assert len({loss for _, loss in curves[0]}) == SMALL.steps
