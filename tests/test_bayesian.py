"""Random weights: their divergence, their draws, and what a prediction says of them."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributions import Normal, kl_divergence

from aigidetect import Calibration, Detector, Draws, Tiles, registry
from aigidetect.cli import main
from aigidetect.layers.bayesian import BayesianLinear
from aigidetect.models import load_architecture
from aigidetect.models.resnet import VARIANTS, build
from aigidetect.training.datasets import read_index
from aigidetect.training.fit import fit, read_log
from aigidetect.training.recipe import RECIPES

from .conftest import array, encoded
from .fit_case import write_data
from .small_models.bayesian import build as build_small

PICTURES = [array(30 + 20 * i, 90 - 15 * i, seed=i) for i in range(4)]


def layer(inputs=7, outputs=3, seed=0):
    torch.manual_seed(seed)
    return BayesianLinear(inputs, outputs)


def small_bayesian():
    torch.manual_seed(3)
    return build_small()


def toy_detector(**options):
    preprocess = Tiles(size=32, max_tiles=4)
    return Detector(
        small_bayesian(), preprocess, Calibration(temperature=0.5, bias=0.1), name="toy@1", device="cpu", **options
    )


def with_sigma(module, rho):
    with torch.no_grad():
        module.weight_rho.fill_(rho)
        module.bias_rho.fill_(rho)
    return module


# --- the divergence ---


def test_the_divergence_is_that_of_normal_distributions():
    module = layer().double()
    pairs = ((module.weight_mu, module.weight_rho), (module.bias_mu, module.bias_rho))
    expected = sum(kl_divergence(Normal(mu, torch.log1p(rho.exp())), Normal(0.0, 1.0)).sum() for mu, rho in pairs)
    torch.testing.assert_close(module.kl_divergence(), expected)


def test_the_divergence_is_the_integral_that_defines_it():
    module = with_sigma(layer(1, 1).double(), 0.2)
    w = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    total = 0.0
    for mu in (module.weight_mu, module.bias_mu):
        posterior, prior = Normal(mu.item(), np.log1p(np.exp(0.2))), Normal(0.0, 1.0)
        density = posterior.log_prob(w)
        total += torch.trapezoid(density.exp() * (density - prior.log_prob(w)), w).item()
    assert module.kl_divergence().item() == pytest.approx(total, rel=1e-6)


def test_the_divergence_is_least_and_zero_at_the_prior():
    module = with_sigma(layer().double(), float(np.log(np.e - 1)))
    with torch.no_grad():
        module.weight_mu.zero_()
        module.bias_mu.zero_()
    module.kl_divergence().backward()
    assert module.kl_divergence().item() == pytest.approx(0.0, abs=1e-12)
    assert max(p.grad.abs().max() for p in module.parameters()) < 1e-12
    assert with_sigma(module, -3.0).kl_divergence().item() > 1


# --- the draws ---


def test_training_draws_anew_and_evaluation_uses_the_means():
    module, x = layer(), torch.randn(5, 7)
    assert not torch.equal(module(x), module(x))
    module.eval()
    torch.testing.assert_close(module(x), x @ module.weight_mu.T + module.bias_mu)
    assert torch.equal(module(x), module(x))


def test_a_batch_shares_one_draw_in_training():
    module, x = layer(), torch.randn(1, 7)
    rows = module(x.expand(6, -1))
    torch.testing.assert_close(rows, rows[:1].expand(6, -1))


def test_the_gradient_reaches_means_and_spreads_as_the_chain_rule_says():
    module, x = layer().double(), torch.randn(5, 7, dtype=torch.float64)
    state = torch.get_rng_state()
    module(x).sum().backward()
    torch.set_rng_state(state)
    noise = torch.randn(3, 7).double()
    slope = x.sum(dim=0).expand(3, -1)  # of the output's sum in each weight
    torch.testing.assert_close(module.weight_mu.grad, slope)
    torch.testing.assert_close(module.weight_rho.grad, slope * noise * torch.sigmoid(module.weight_rho.detach()))
    torch.testing.assert_close(module.bias_mu.grad, torch.full((3,), 5.0, dtype=torch.float64))


def test_a_seed_gives_the_same_draws_whatever_the_batch_and_the_number():
    module, x = layer(), torch.randn(4, 7)
    sampled = module.sample(x, 20, torch.Generator().manual_seed(5))
    assert sampled.shape == (4, 20, 3)
    assert torch.equal(sampled, module.sample(x, 20, torch.Generator().manual_seed(5)))
    torch.testing.assert_close(module.sample(x[2:3], 9, torch.Generator().manual_seed(5)), sampled[2:3, :9])
    assert not torch.allclose(sampled, module.sample(x, 20, torch.Generator().manual_seed(6)))
    with pytest.raises(ValueError, match="at least 1"):
        module.sample(x, 0)


@torch.inference_mode()
def test_draws_have_the_mean_and_the_variance_of_the_layer():
    module, x = with_sigma(layer(), -1.0).eval(), torch.randn(2, 7)
    sampled = module.sample(x, 4000, torch.Generator().manual_seed(0))
    deviation = np.log1p(np.exp(-1.0)) * (x.square().sum(dim=1, keepdim=True) + 1).sqrt()
    torch.testing.assert_close(sampled.mean(dim=1), module(x), atol=0.1, rtol=0)
    torch.testing.assert_close(sampled.std(dim=1), deviation.expand(-1, 3), atol=0, rtol=0.06)


# --- what a prediction says ---


def test_the_spread_is_that_of_networks_with_drawn_weights():
    detector = toy_detector(draws=Draws(samples=7, seed=4))
    record = detector.predict(PICTURES[3])
    network, generator = detector.network, torch.Generator().manual_seed(4)
    probabilities = []
    for _ in range(7):
        with torch.inference_mode():
            logits = network.sample_logits(network.features(detector.preprocess(pixels(PICTURES[3]))), 1, generator)
        probabilities.append(torch.sigmoid(logits.mean() / 0.5 + 0.1).item())
    found = record.uncertainty
    assert len(record.view_logits) > 1 and (found.samples, found.seed) == (7, 4)
    assert found.mean == pytest.approx(np.mean(probabilities), abs=1e-6)
    assert found.std == pytest.approx(np.std(probabilities, ddof=1), abs=1e-6)
    assert [found.low, found.high] == pytest.approx(np.quantile(probabilities, [0.025, 0.975]), abs=1e-6)


def pixels(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)


def test_the_score_itself_is_that_of_the_mean_weights():
    detector = toy_detector()
    record = detector.predict(PICTURES[0])
    with torch.inference_mode():
        own = detector.network(detector.preprocess(pixels(PICTURES[0])))
    assert record.view_logits == pytest.approx(own.flatten().tolist(), abs=1e-6)
    assert record.view_logits == pytest.approx(detector.view_logits([detector.preprocess(pixels(PICTURES[0]))])[0])
    assert record == dataclasses.replace(
        toy_detector(draws=Draws(seed=1)).predict(PICTURES[0]), uncertainty=record.uncertainty
    )


def spread(record):
    found = record.uncertainty
    return [found.mean, found.std, found.low, found.high]


@pytest.mark.parametrize(("order", "batch_size"), [((0, 1, 2, 3), 16), ((3, 1, 0, 2), 16), ((2, 3, 1, 0), 1)])
def test_the_spread_does_not_depend_on_the_pictures_beside_it(order, batch_size):
    detector = toy_detector()
    alone = [spread(detector.predict(picture)) for picture in PICTURES]
    records = detector.stream([PICTURES[i] for i in order], batch_size=batch_size)
    for i, record in zip(order, records, strict=True):
        assert spread(record) == pytest.approx(alone[i], abs=1e-6)


def test_another_seed_gives_other_draws_and_the_same_one_the_same():
    first, again, other = (spread(toy_detector(draws=Draws(seed=s)).predict(PICTURES[0])) for s in (0, 0, 1))
    assert first == again and first != other


def test_the_spread_shrinks_with_the_weights_own():
    found = []
    for rho in (-1.0, -3.0, -6.0, -40.0):
        detector = toy_detector()
        with_sigma(detector.network.fc, rho)
        found.append(detector.predict(PICTURES[0]))
    widths = [record.uncertainty.high - record.uncertainty.low for record in found]
    stds = [record.uncertainty.std for record in found]
    assert stds == sorted(stds, reverse=True) and widths == sorted(widths, reverse=True)
    assert stds[0] > 0.05 and stds[-1] < 1e-6
    assert found[-1].uncertainty.mean == pytest.approx(found[-1].probability, abs=1e-6)


def test_half_precision_has_about_the_same_spread():
    high, low = (spread(toy_detector(dtype=dtype).predict(PICTURES[0])) for dtype in (None, torch.bfloat16))
    assert low == pytest.approx(high, abs=0.02)


def test_networks_without_random_weights_have_no_spread(detector):
    record = detector.predict(PICTURES[0])
    assert record.uncertainty is None and record.to_dict()["uncertainty"] is None


def test_a_draw_that_is_not_finite_is_an_error_and_not_a_score():
    detector = toy_detector()
    with_sigma(detector.network.fc, float("inf"))
    with pytest.raises(OSError, match="not finite"):
        detector.predict(PICTURES[0])


def test_one_draw_is_refused_since_it_has_no_spread():
    with pytest.raises(ValueError, match="at least 2"):
        Draws(samples=1)


def test_the_record_is_json_and_its_spread_has_columns(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(registry, "load_detector", lambda name, **options: toy_detector())
    (tmp_path / "a.png").write_bytes(encoded(PICTURES[0], "png"))
    (tmp_path / "b.png").write_bytes(b"")
    main(["predict", str(tmp_path), "--format", "csv"])
    scored, failed = csv.DictReader(io.StringIO(capsys.readouterr().out))
    record = toy_detector().predict(tmp_path / "a.png")
    assert json.loads(json.dumps(record.to_dict()))["uncertainty"]["samples"] == 50
    names = ("mean", "std", "low", "high")
    assert [float(scored[f"probability_{name}"]) for name in names] == pytest.approx(spread(record))
    assert {failed[f"probability_{name}"] for name in names} == {""}


# --- the ResNet-50s ---


def trained(recipe, folder):
    """Two steps on the ELBO of twelve pictures; the network, and the share of spreads of weights that have moved."""
    samples = read_index(write_data(folder))
    torch.manual_seed(recipe.seed)
    network = load_architecture(recipe.architecture).build(**recipe.config)
    rho, kl = network.fc.weight_rho.detach().clone(), network.kl_divergence().item()
    model = fit(recipe, samples, folder / "run", log_every=1)
    rows = read_log(folder / "run")
    assert len(rows) == 2
    assert all(np.isfinite(row["loss"]) and row["loss"] > 0.9 * kl / len(samples) for row in rows)
    network.load_state_dict(load_file(model))
    return network, (network.fc.weight_rho != rho).float().mean()


@pytest.mark.usefixtures("small_models")
def test_a_bayesian_network_trains_two_steps_and_predicts_with_its_spread(tmp_path):
    recipe = dataclasses.replace(RECIPES["resnet50-bnn"], architecture="bayesian", config={}, steps=2, batch_size=4)
    network, moved = trained(dataclasses.replace(recipe, sizes=((1.0, 16),)), tmp_path)
    record = Detector(network, Tiles(size=32), Calibration(), device="cpu").predict(PICTURES[0])
    assert moved == 1 and record.uncertainty.std > 0


@pytest.mark.slow
def test_a_resnet_trains_two_steps_and_predicts_with_its_spread(tmp_path):
    recipe = dataclasses.replace(RECIPES["resnet50-sa-bnn"], steps=2, batch_size=2, sizes=((1.0, 32),))
    network, moved = trained(recipe, tmp_path)
    record = Detector(network, Tiles(size=32, max_tiles=2), Calibration(), device="cpu").predict(PICTURES[0])
    assert moved > 0.9 and record.uncertainty.std > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_every_detector_of_the_family_has_a_recipe_that_fits_it(name):
    recipe = RECIPES[name]
    assert recipe.architecture == "resnet" and recipe.config == VARIANTS[name]
    assert (recipe.loss == "elbo") == recipe.config.get("bayesian", False) and recipe.augment.equalises
    with torch.device("meta"):
        assert hasattr(build(**recipe.config), "sample_logits") == (recipe.loss == "elbo")
