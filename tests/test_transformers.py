"""Properties of the transformer detectors and their head, on reduced networks."""

import pytest
import torch

from aigidetect.layers.head import MLPHead, one_logit
from aigidetect.models.vit import ViT

from .test_vit_parity import NETWORKS, TINY, TINY_VIT, inputs_of, loaded


@pytest.mark.parametrize("ai", [0, 1])
def test_one_logit_is_the_log_odds_of_two(ai):
    two = torch.nn.Linear(256, 2)
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    logit = torch.nn.functional.linear(x, one_logit(two.weight, ai=ai), one_logit(two.bias, ai=ai))
    torch.testing.assert_close(logit.sigmoid()[:, 0], two(x).softmax(dim=1)[:, ai], atol=1e-6, rtol=0)


def test_the_activation_of_the_head_is_a_choice_that_matters():
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    gelu, relu = MLPHead(16).eval(), MLPHead(16, activation="relu").eval()
    relu.load_state_dict(gelu.state_dict())
    assert not torch.allclose(gelu(x), relu(x), atol=1e-3)
    with pytest.raises(ValueError, match="gelu, relu"):
        MLPHead(16, activation="tanh")


def test_the_heads_batch_norms_have_parameters_only_if_asked():
    keys = {affine: set(MLPHead(16, affine=affine).state_dict()) for affine in (False, True)}
    assert keys[True] - keys[False] == {f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}


@pytest.mark.parametrize("variant", TINY)
def test_a_reduced_network_keeps_the_contract_of_detectors(variant):
    """The contract tests, on networks that take no time: batch neighbours, and a gradient for every parameter."""
    torch.manual_seed(0)
    network = NETWORKS[variant]().eval()
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), torch.cat([network(view[None]) for view in x]), atol=1e-5, rtol=0)
    network.train()(x).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_the_branch_is_the_same_whether_it_averages_before_or_after_its_last_layer():
    network = ViT(**TINY_VIT, local=True).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        after = network.local[7](network.local[:6](x)).mean(dim=(2, 3))
        torch.testing.assert_close(network.local(x), after, atol=1e-6, rtol=0)


def test_the_branch_only_counts_by_its_weight():
    plain, with_branch = loaded("vit_tiny_cfg"), NETWORKS["vit_cnn_tiny_cfg"]().eval()
    with_branch.load_state_dict(plain.state_dict(), strict=False)
    x = inputs_of("vit_tiny_cfg")
    with torch.inference_mode():
        assert not torch.allclose(with_branch(x), plain(x))
        with_branch.local_weight.zero_()
        torch.testing.assert_close(with_branch(x), plain(x))


@pytest.mark.parametrize("variant", ["swin_tiny_cfg", "cvt_tiny_cfg"])
def test_networks_without_a_position_embedding_take_other_sizes(variant):
    network = loaded(variant)
    with torch.inference_mode():
        for side in (4, 33, 70):
            assert network(torch.zeros(1, 3, side, side + 5)).isfinite().all()


def test_a_vit_answers_another_size_with_its_own():
    with pytest.raises(ValueError, match="64 x 64"):
        ViT(**TINY_VIT)(torch.zeros(1, 3, 64, 48))


def test_the_layer_norms_have_the_epsilon_of_their_weights():
    def epsilons(network):
        return {module.eps for module in network.modules() if isinstance(module, torch.nn.LayerNorm)}

    assert epsilons(ViT(**TINY_VIT)) == {1e-12}
    assert epsilons(NETWORKS["swin_tiny_cfg"]()) == epsilons(NETWORKS["cvt_tiny_cfg"]()) == {1e-5}


def test_cvt_reads_every_pixel_and_its_map_halves_twice_after_the_first_quarter():
    network = loaded("cvt_tiny_cfg")
    x = torch.zeros(1, 3, 64, 48, requires_grad=True)
    grid = network.backbone(x)
    assert grid.shape == (1, 32, 4, 3)
    network(x).sum().backward()
    assert (x.grad.abs().sum(dim=1) > 0).all()
