"""`fit`: what a step does, runs that are interrupted, and what a run shows."""

import dataclasses
import io
import logging
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from aigidetect.models import load_architecture
from aigidetect.training.__main__ import main
from aigidetect.training.batches import Batches
from aigidetect.training.datasets import load_pixels
from aigidetect.training.fit import fit, read_log, read_recipe
from aigidetect.training.losses import elbo, hard_negatives, smoothed_bce
from aigidetect.training.recipe import Recipe
from aigidetect.training.run import Run

from .fit_case import SMALL, audited, older

NPR = Recipe(name="npr", architecture="npr_resnet", steps=40, batch_size=2, sizes=((1.0, 8),))
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_models")


@pytest.fixture(scope="module")
def loaded(samples):
    return load_pixels(samples)[:2]


def same(a, b):
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def gradients(recipe, loaded):
    run = Run(recipe, CPU)
    run.update(*Batches(recipe, *loaded).batch(0))
    return torch.cat([p.grad.flatten() for p in run.network.parameters() if p.grad is not None])


# --- what a step does ---


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimisers_step_as_those_of_torch(name, loaded):
    recipe = dataclasses.replace(SMALL, optimiser=name, schedule="constant", warmup=0.0, consistency=0.0, weight_decay=0.3)
    run, batches = Run(recipe, CPU), Batches(recipe, *loaded)
    torch.manual_seed(recipe.seed)
    network = load_architecture("small").build()
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=1e-3)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None]
    for step in range(3):
        views, labels = batches.batch(step)
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network((views / 255 - mean) / std), labels).backward()
        optimiser.step()
        run.update(views, labels)
    for mine, theirs in zip(run.network.parameters(), network.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_micro_batches_have_the_gradient_of_the_whole_batch_but_for_batch_norm(loaded):
    for recipe, equal in ((SMALL, True), (dataclasses.replace(NPR, batch_size=8, consistency=0.5), False)):
        whole, split = (gradients(dataclasses.replace(recipe, accumulate=k), loaded) for k in (1, 2))
        assert torch.allclose(whole, split, rtol=1e-3, atol=1e-6) == equal


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ValueError, match="bf16"):
        Run(dataclasses.replace(SMALL, precision="fp16"), CPU)


def test_a_scaled_loss_changes_no_step_and_its_scale_is_restored(loaded, tmp_path):
    # The scaler that fp16 uses on GPUs; a power of two changes no digit of a gradient.
    plain, scaled, resumed = (Run(SMALL, CPU) for _ in range(3))
    scaled._scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    resumed._scaler = torch.amp.GradScaler("cpu")
    for step in range(3):
        batch = Batches(SMALL, *loaded).batch(step)
        assert scaled.update(*batch) == plain.update(*batch)
    assert all(torch.equal(a, b) for a, b in zip(plain.network.parameters(), scaled.network.parameters()))
    scaled.save(tmp_path / "state.safetensors")
    resumed.restore(tmp_path / "state.safetensors")
    assert resumed._scaler.state_dict() == scaled._scaler.state_dict()
    assert resumed._scaler.state_dict()["scale"] == 16.0


def test_the_elbo_is_cross_entropy_plus_the_divergence_of_one_picture():
    logits, labels, kl = torch.randn(8, 1), torch.ones(8, 1), torch.tensor(30.0)
    assert elbo(logits, labels, kl, 10) == pytest.approx(float(smoothed_bce(logits, labels)) + 3.0)
    with pytest.raises(ValueError, match="at least 1"):
        elbo(logits, labels, kl, 0)


def test_a_bayesian_run_minimises_the_elbo_of_its_pictures(samples, loaded, tmp_path):
    losses = {}
    for name in ("bce", "elbo"):
        recipe = dataclasses.replace(SMALL, config={"bayesian": True}, loss=name, steps=1)
        fit(recipe, samples, tmp_path / name, log_every=1)
        [row] = read_log(tmp_path / name)
        losses[name] = row["loss"]
    kl = Run(recipe, CPU).network.kl_divergence().item()
    assert losses["elbo"] - losses["bce"] == pytest.approx(kl / len(samples), abs=2e-5)


def test_the_elbo_needs_a_network_with_a_divergence():
    with pytest.raises(ValueError, match="kl_divergence"):
        Run(dataclasses.replace(SMALL, loss="elbo"), CPU)


def test_hard_negatives_are_the_real_views_that_look_most_generated():
    logits = torch.tensor([0.3, -2.0, 1.5, -0.1, 5.0, -5.0])[:, None]
    labels = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0])[:, None]
    assert hard_negatives(logits, labels, 0.5).flatten().tolist() == [2, 0, 2, 0, 1, 1]
    assert hard_negatives(logits, labels, 0.1).flatten().tolist() == [0, 0, 4, 0, 1, 1]
    assert hard_negatives(logits, labels, 1.0).flatten().tolist() == [1] * 6


def test_a_recipe_with_hard_negatives_sees_a_greater_loss(samples, loaded):
    views, labels = Batches(SMALL, samples, loaded[1]).batch(0)
    plain, hard = (Run(dataclasses.replace(SMALL, hard_negatives=share), CPU) for share in (1.0, 0.5))
    assert hard.update(views, labels) > plain.update(views, labels)


# --- runs that are interrupted ---


def test_a_state_of_an_older_version_continues_and_ends_bit_equal(samples, tmp_path):
    recipe = dataclasses.replace(SMALL, config={"dropout": 0.0})
    whole = fit(recipe, samples, tmp_path / "whole")
    state = fit(recipe, samples, tmp_path / "old", max_steps=2)
    tensors = load_file(state)
    save_file(tensors, state, metadata={"step": "2", "recipe": older(recipe)})
    assert same(fit(recipe, samples, tmp_path / "old"), whole)


def test_a_refused_recipe_leaves_the_folder_of_a_run_as_it_is(samples, tmp_path):
    fit(SMALL, samples, tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="another recipe"):
        fit(dataclasses.replace(SMALL, optimiser="adam"), samples, tmp_path)
    assert read_recipe(tmp_path) == SMALL


@pytest.mark.parametrize("config", [{"dropout": 0.5}, {"bayesian": True}])
def test_networks_that_draw_numbers_are_resumed_bit_equal(config, samples, tmp_path):
    recipe = dataclasses.replace(SMALL, config=config)
    whole = fit(recipe, samples, tmp_path / "whole")
    fit(recipe, samples, tmp_path / "resumed", max_steps=3)
    torch.rand(5)
    assert same(fit(recipe, samples, tmp_path / "resumed"), whole)


def steps_in(state):
    with safe_open(state, framework="pt") as file:
        return int(file.metadata()["step"])


def test_a_run_that_is_killed_ends_bit_equal_to_one_that_is_not(data, samples, tmp_path, capfd):
    recipe, out = tmp_path / "recipe.json", audited(tmp_path / "killed")
    recipe.write_text(NPR.to_json())
    command = ["--threads", "1", "fit", "--recipe", str(recipe), "--data", str(data), "--out", str(out), "--save-every", "1"]
    # Saving at every step makes this process several times slower than the whole run below.
    process = subprocess.Popen([sys.executable, "-m", "aigidetect.training", *command], stderr=subprocess.DEVNULL)
    state = out / "state.safetensors"
    try:
        while not (state.exists() and steps_in(state) >= 2):
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= steps_in(state) < NPR.steps and not (out / "model.safetensors").exists()
    assert main(command) == 0
    assert same(out / "model.safetensors", fit(NPR, samples, tmp_path / "whole"))
    assert not list(out.glob("*.tmp"))
    assert capfd.readouterr().out.strip() == str(out / "model.safetensors")


def test_steps_between_states_and_rows_have_to_be_at_least_one(samples, tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        fit(SMALL, samples, tmp_path, save_every=0)


# --- what a run shows ---


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(samples, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="aigidetect.training")
    fit(SMALL, samples, tmp_path / "file", log_every=3)
    assert [line for line in caplog.messages if line.startswith("step")][-1].startswith("step 6/6  loss 0.")
    caplog.clear()
    monkeypatch.setattr(sys, "stderr", Terminal())
    fit(SMALL, samples, tmp_path / "terminal", log_every=3)
    assert "6/6" in sys.stderr.getvalue() and "loss 0." in sys.stderr.getvalue()
    assert not [line for line in caplog.messages if line.startswith("step")]
    rows = [[(row["step"], row["loss"]) for row in read_log(tmp_path / name)] for name in ("file", "terminal")]
    assert rows[0] == rows[1] and [step for step, _ in rows[0]] == [3, 6]


def test_tensorboard_gets_the_scalars(samples, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    fit(SMALL, samples, tmp_path, tensorboard=True)
    [events] = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content and b"learning_rate" in content


def test_without_tensorboard_the_extra_is_named(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"aigidetect\[tensorboard\]"):
        fit(SMALL, samples, tmp_path, tensorboard=True)
