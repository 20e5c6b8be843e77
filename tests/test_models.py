"""The contract of every architecture and every detector, collected from the folder and the manifest."""

import importlib
import inspect

import pytest
import torch
from safetensors.torch import load, save

import aigidetect
from aigidetect.layers.folding import fold_batch_norms
from aigidetect.manifest import load_manifest
from aigidetect.models import list_architectures, load_architecture
from aigidetect.registry import build_network, entry_preprocess

ENTRIES = {name: load_manifest().get(name) for name in load_manifest().versions()}
SIZES = {"npr_resnet": 64, "resnet": 64, "swin": 64, "cvt": 64}
# Entries with more parameters take seconds each; their architectures are also tested reduced, in files of their own.
LARGE = 80_000_000


def inputs(entry, n=2):
    size = SIZES.get(entry.architecture, 224)
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def marked(name):
    return pytest.param(name, marks=pytest.mark.slow) if ENTRIES[name].parameters > LARGE else name


def is_new(name):
    """Whether no entry before it has the network; versions that differ in their weights alone share one."""
    networks = [(entry.architecture, entry.config, entry.preprocess) for entry in ENTRIES.values()]
    place = list(ENTRIES).index(name)
    return networks[place] not in networks[:place]


@pytest.fixture(params=[marked(name) for name in ENTRIES if is_new(name)], scope="module")
def entry(request):
    return ENTRIES[request.param]


@pytest.fixture(scope="module")
def network(entry):
    torch.manual_seed(0)
    return build_network(entry)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_names_an_architecture_of_the_folder(name):
    assert ENTRIES[name].architecture in list_architectures()


def test_gradient_reaches_every_trainable_parameter(entry, network):
    network.train()
    network.zero_grad()
    # Only a batch norm has to see several views.
    normed = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())
    network(inputs(entry, 4 if normed else 1)).square().sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_views_become_one_finite_logit_each_that_does_not_depend_on_its_neighbours(entry, network):
    network.eval()
    x = inputs(entry)
    with torch.inference_mode():
        together = network(x)
        alone = torch.cat([network(view[None]) for view in x])
        reversed_ = network(x.flip(0)).flip(0)
    assert together.shape == (2, 1) and together.isfinite().all()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, reversed_, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_folding_its_batch_norms_leaves_none_and_changes_no_logit(entry, network):
    folded, x = fold_batch_norms(network.eval()), inputs(entry)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    if folded is not network:
        torch.testing.assert_close(folded(x), network(x), atol=1e-4, rtol=1e-4)


def test_the_state_dict_survives_safetensors(network):
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    again = load(save(state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_manifest_counts_the_parameters_right(name):
    with torch.device("meta"):
        network = build_network(ENTRIES[name])
    assert ENTRIES[name].parameters == sum(p.numel() for p in network.parameters())


def test_preprocessing_gives_normalised_float_views(entry):
    views = entry_preprocess(entry)(torch.zeros(3, 90, 70, dtype=torch.uint8))
    assert views.dtype == torch.float32 and views.shape[1] == 3 and views.shape[2] == views.shape[3]


@pytest.mark.parametrize("name", list_architectures())
def test_an_unknown_option_is_a_type_error(name):
    with pytest.raises(TypeError):
        load_architecture(name).build(no_such_option=1)


@pytest.mark.parametrize("name", list_architectures())
def test_the_module_docstring_names_original_and_references(name):
    text = inspect.getdoc(importlib.import_module(f"aigidetect.models.{name}"))
    assert "Original:" in text and "References:" in text


def test_an_unknown_architecture_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="npr_resnet"):
        load_architecture("resnet9000")


def test_the_reports_variants_are_all_listed():
    assert {"npr", "npr-ms", "npr-ca", "npr-sa", "npr-ms-ca"} <= set(aigidetect.list_detectors())
