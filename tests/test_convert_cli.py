"""`aigidetect convert`: every foreign format to a file that `load_detector` takes, with outputs of the original networks."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models.resnet import Bottleneck, ResNet

from aigidetect import Calibration, SquashCrop, Whole, checkpoint, load_detector
from aigidetect.cli import main
from aigidetect.convert_file import convert_file
from aigidetect.errors import WeightsMismatch
from aigidetect.models import cvt, resnet, spai, swin, vit
from aigidetect.training.recipe import RECIPES

from . import test_npr_parity as npr_case
from . import test_spai_parity as spai_case
from . import test_vit_parity as vit_case
from .foreign_case import assert_equal, config_node, npr_state, read_here

RUN_READER = checkpoint._run_reader
HALF = (0.5, 0.5, 0.5)
NPR_FILES = [  # detector, fixture
    ("npr", "upstream"),
    ("npr", "baseline"),
    ("npr-ms", "multi_scale"),
    ("npr-ca", "channel_attention"),
    ("npr-sa", "spatial_attention"),
    ("npr-ms-ca", "final"),
    ("npr-ms-ca", "report_final_original_forward"),
]
TRANSFORMERS = {
    "vit": "vit_tiny_cfg",
    "vit-cnn": "vit_cnn_tiny_cfg",
    "swin-t": "swin_tiny_cfg",
    "swin-b": "swin_tiny_cfg",
    "cvt-13": "cvt_tiny_cfg",
}


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "_run_reader", read_here)


@pytest.fixture
def small(monkeypatch):
    """The networks of the reduced fixtures under the names of the real ones."""
    sizes = spai_case.sizes_of(spai_case.REDUCED)
    swin_sizes, cvt_sizes = {"depths": (2, 2), "heads": (2, 4)}, {"heads": (1, 3, 4), "depths": (1, 2, 3)}
    monkeypatch.setattr(vit, "build", lambda **options: vit.ViT(**vit_case.TINY_VIT, **options))
    monkeypatch.setattr(swin, "build", lambda size="tiny", **options: swin.Swin(width=12, **swin_sizes, **options))
    monkeypatch.setattr(cvt, "build", lambda **options: cvt.CvT(widths=(16, 24, 32), **cvt_sizes, **options))
    monkeypatch.setattr(spai, "build", lambda: spai.SPAI(**sizes))
    monkeypatch.setattr(resnet, "resnet50", lambda weights, num_classes: thin_resnet(num_classes))


def thin_resnet(num_classes: int) -> ResNet:
    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=num_classes, width_per_group=1)


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def loaded(line: str):
    """What the last line of the command makes."""
    return eval(line, {"load_detector": lambda *args, **options: load_detector(*args, **options, device="cpu")})


def converted(capsys, content: object, name: str, *arguments: str):
    """Saves, converts, and loads by the line that the command prints last."""
    torch.save(content, "theirs.pth")
    status, out, err = run(capsys, "theirs.pth", "--as", name, "-o", "ours.safetensors", *arguments)
    assert status == 0, err
    assert out == f"load_detector({name!r}, weights='ours.safetensors')\n"
    return loaded(out)


# --- detectors ---


@pytest.mark.parametrize(("name", "fixture"), NPR_FILES)
@torch.inference_mode()
def test_npr_files_give_the_logits_of_the_original(capsys, name, fixture):
    detector = converted(capsys, npr_state(fixture), name)
    case = next(case for case in npr_case.FIXTURES[fixture]["cases"] if case["input"] == "npr_b")
    x = npr_case.inputs_of(npr_case.FIXTURES[fixture], case)
    torch.testing.assert_close(detector.network(x), torch.tensor(case["logit"]), atol=2e-5, rtol=0)
    assert detector.preprocess == SquashCrop()
    assert (detector.name, detector.calibration) == (f"{name}@1+custom", Calibration())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", resnet.VARIANTS)
def test_resnet_files_are_read_with_their_loss_and_optimiser(capsys, name):
    torch.manual_seed(0)
    ours = resnet.build(**resnet.VARIANTS[name]).state_dict()
    bayesian = "classifier.weight_mu" if "bnn" in name else None
    theirs = {as_the_report_named(key) if bayesian else key: value for key, value in ours.items()}
    assert bayesian is None or {bayesian, "resnet.7.0.bn3.weight"} <= theirs.keys()
    beside = {"optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "epoch": 10}
    loss = {"loss": torch.nn.CrossEntropyLoss()} if name == "resnet50" else {}
    detector = converted(capsys, {"model_state_dict": theirs, **beside, **loss}, name)
    assert_equal(detector.network.state_dict(), ours)
    assert detector.preprocess == SquashCrop(resize=224, crop=224)


def as_the_report_named(key: str) -> str:
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    first, _, rest = key.partition(".")
    return f"resnet.{places[first]}.{rest}" if first in places else key.replace("fc.", "classifier.")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.inference_mode()
def test_transformer_files_give_the_logits_of_the_original(capsys, name):
    variant = TRANSFORMERS[name]
    detector = converted(capsys, vit_case.original_state(variant), name)
    [case] = vit_case.FIXTURES[variant]["cases"]
    two = torch.tensor(case["logits"])
    logits = detector.network(vit_case.inputs_of(variant))
    torch.testing.assert_close(logits, two[:, 1:] - two[:, :1], atol=2e-5, rtol=0)
    assert detector.preprocess == SquashCrop(resize=224, crop=224, mean=HALF, std=HALF)


@pytest.mark.usefixtures("small")
def test_spai_is_read_with_its_pickled_configuration(capsys):
    state = spai_case.original_state(spai_case.REDUCED)
    config = config_node({"MODEL": config_node({"TYPE": "vit", "RESOLUTIONS": [(224, None)]}), "TRAIN": True})
    beside = {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "lr_scheduler": {}, "max_accuracy": 0.9, "epoch": 8}
    detector = converted(capsys, {"model": state, "config": config, **beside}, "spai")
    expected = spai_case.convert_spai(state, spai.SPAI(**spai_case.sizes_of(spai_case.REDUCED)))
    assert_equal(detector.network.state_dict(), expected)
    assert detector.preprocess == Whole()


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_wrapping_gives_the_same_file(wrapper, prefix):
    state = {prefix + key: value for key, value in npr_state("final").items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, "theirs.pth")
    convert_file("theirs.pth", "npr-ms-ca", "ours.safetensors")
    assert_equal(load_file("ours.safetensors"), npr_case.convert_npr(state, "npr-ms-ca"))


def test_safetensors_and_pickles_of_the_same_tensors_give_the_same_detector(monkeypatch):
    state = npr_state("upstream")
    torch.save(state, "a.pth")
    save_file(state, "b.safetensors")
    convert_file("a.pth", "npr", "from-pickle.safetensors")
    monkeypatch.setattr(checkpoint, "_run_reader", None)
    convert_file("b.safetensors", "npr", "from-safetensors.safetensors")
    assert_equal(load_file("from-pickle.safetensors"), load_file("from-safetensors.safetensors"))


def test_the_whole_way_through_a_process_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "_run_reader", RUN_READER)
    state = npr_state("final")
    content = {"model": {f"module.{key}": value for key, value in state.items()}, "config": config_node({"A": [1, None]})}
    detector = converted(capsys, content, "npr-ms-ca")
    assert_equal(detector.network.state_dict(), npr_case.convert_npr(state, "npr-ms-ca"))


# --- backbones ---


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("release", ["version 4", "version 5", "torchvision"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_published_backbones_become_files_for_a_training(capsys, name, release):
    variant = TRANSFORMERS[name]
    state = {k: v for k, v in vit_case.original_state(variant).items() if re.match(r"(vit|swin|cvt)\.", k)}
    expected = vit_case.convert_backbone(state, vit_case.NETWORKS[variant]())
    published = {
        "version 4": state,
        "version 5": vit_case.version_5(state),
        "torchvision": {key.removeprefix("backbone."): value for key, value in expected.items()},
    }[release]
    torch.save(published | {"classifier.weight": torch.zeros(1000, 8), "classifier.bias": torch.zeros(1000)}, "theirs.bin")
    status, out, _ = run(capsys, "theirs.bin", "--as", name, "--backbone", "-o", "b.safetensors")
    recipe = name if name in RECIPES else "RECIPE.json"
    command = f"python -m aigidetect.training fit --recipe {recipe} --backbone b.safetensors --data DATA --out runs/{name}\n"
    assert (status, out) == (0, command)
    assert_equal(load_file("b.safetensors"), expected)
    with pytest.raises(WeightsMismatch, match="backbone alone"):
        load_detector(name, weights="b.safetensors")


def test_the_encoder_of_a_pre_training_becomes_the_backbone_of_spai(capsys, monkeypatch):
    facts = spai_case.MFM["config"]
    sizes = {"width": facts["embed_dim"], "blocks": facts["depth"], "heads": facts["num_heads"], "projection": 32}
    monkeypatch.setattr(spai, "build", lambda: spai.SPAI(**sizes))
    state = spai_case.original_state(spai_case.MFM)
    torch.save({"model": state, "config": config_node({})}, "mfm.pth")
    status, out, err = run(capsys, "mfm.pth", "--as", "spai", "--backbone", "-o", "mfm.safetensors")
    assert status == 0, err
    assert shlex.split(out)[3:8] == ["fit", "--recipe", "spai", "--backbone", "mfm.safetensors"]
    assert_equal(load_file("mfm.safetensors"), spai_case.convert_mfm({"model": state}, spai.build()))


@pytest.mark.usefixtures("small")
def test_a_backbone_given_as_a_detector_is_answered_with_the_option(capsys):
    state = {k: v for k, v in vit_case.original_state("vit_tiny_cfg").items() if k.startswith("vit.")}
    torch.save(state, "theirs.pth")
    status, _, err = run(capsys, "theirs.pth", "--as", "vit")
    assert status == 2 and "--backbone" in err
    assert run(capsys, "theirs.pth", "--as", "npr", "--backbone")[0] == 2


@pytest.mark.usefixtures("small")
@torch.inference_mode()
def test_the_activation_can_be_chosen_and_is_remembered(capsys):
    state, x = vit_case.original_state("vit_tiny_cfg"), vit_case.inputs_of("vit_tiny_cfg")
    gelu = converted(capsys, state, "vit").network
    relu = converted(capsys, state, "vit", "--activation", "relu", "--force").network
    assert isinstance(relu.head.activation, torch.nn.ReLU)
    assert not torch.allclose(relu(x), gelu(x), atol=1e-3)
    status, _, err = run(capsys, "theirs.pth", "--as", "npr", "--activation", "relu")
    assert status == 2 and "activation" in err
