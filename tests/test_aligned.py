"""Aligned fakes: the same content, and folders that are deterministic, resumable and on the original's side of a split."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from aigidetect.training import hub_autoencoder
from aigidetect.training.__main__ import _parser, main
from aigidetect.training.aligned import TAEF2, reconstruct
from aigidetect.training.aligned_set import AlignedSettings, choose_originals, make_aligned
from aigidetect.training.autoencoders import (
    CONFIGS,
    AutoencoderConfig,
    build,
    fit_autoencoder,
    load_autoencoder,
    reconstruction_loss,
    save_autoencoder,
)
from aigidetect.training.datasets import Sample, read_index, take_split
from aigidetect.training.fakers import FILTERS, Faker, blend, load_faker, resample_fake
from aigidetect.training.layouts import read_data

from .conftest import array

COLUMNS = ("file", "label", "source", "line", "split", "group", "style")


class Shrink:
    """An autoencoder whose code is the picture at half size."""

    factor = 2

    def encoder(self, x):
        return nn.functional.avg_pool2d(x, 2)

    def decoder(self, code):
        return nn.functional.interpolate(code, scale_factor=2)


def faker(**changes):
    def fake(pixels, noise, seed):
        return reconstruct(Shrink(), pixels, noise=noise, seed=seed)

    return Faker(**{"name": "shrink", "fingerprint": "1", "fake": fake, **changes})


@pytest.fixture
def data(tmp_path):
    """Photographs of a large and two small sources, one painting, one generated picture, one in val."""
    root = tmp_path / "data"
    root.mkdir()
    rows = [(f"{i}.png", "real", "large", "real", "train", f"g{i}", "photo") for i in range(6)]
    rows += [
        ("6.png", "real", "small", "real", "train", "g6", "face"),
        ("7.png", "real", "art", "real", "train", "g7", "art"),
        ("8.png", "ai", "sdxl", "sdxl", "train", "g8", "photo"),
        ("9.png", "real", "other", "real", "val", "g9", "photo"),
    ]
    for i, (name, *_) in enumerate(rows):
        Image.fromarray(array(31, 44, seed=i)).save(root / name)
    (root / "index.tsv").write_text("\n".join("\t".join(row) for row in [COLUMNS, *rows]) + "\n")
    return root


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_a_data_set_whose_fakes_keep_group_split_style_and_content(data, tmp_path):
    samples = read_data(data)
    assert make_aligned(faker(), samples, AlignedSettings(), tmp_path / "out") == []
    fakes = {sample.group: sample for sample in read_data(tmp_path / "out")}
    originals = {s.group: s for s in samples if s.label == 0 and s.style in ("photo", "face") and s.split == "train"}
    assert fakes.keys() == originals.keys()
    for group, fake in fakes.items():
        assert (fake.label, fake.source, fake.line) == (1, "aligned-shrink", "aligned-shrink")
        assert (fake.split, fake.style) == (originals[group].split, originals[group].style)
        expected = reconstruct(Shrink(), np.asarray(Image.open(originals[group].path)))
        assert np.array_equal(np.asarray(Image.open(fake.path)), expected) and expected.shape == (30, 44, 3)


def test_the_same_arguments_give_the_same_bytes_also_after_an_interruption(data, tmp_path):
    settings = AlignedSettings(noise=(0.0, 0.1, 0.3), partial=0.5, largest=64, seed=3)
    for name in ("a", "b"):
        make_aligned(faker(), read_data(data), settings, tmp_path / name)
    whole = content(tmp_path / "a")
    assert whole == content(tmp_path / "b")
    (tmp_path / "b" / "index.tsv").unlink()
    for path in sorted((tmp_path / "b" / "ai").iterdir())[::2]:
        path.unlink()
    make_aligned(faker(), read_data(data), settings, tmp_path / "b")
    assert whole == content(tmp_path / "b")
    make_aligned(faker(), read_data(data), AlignedSettings(**{**vars(settings), "seed": 4}), tmp_path / "c")
    assert whole["ai/" + next((tmp_path / "a" / "ai").iterdir()).name] not in content(tmp_path / "c").values()


def test_a_fake_that_is_there_is_not_made_again(data, tmp_path):
    make_aligned(faker(), read_data(data), AlignedSettings(), tmp_path / "out")

    def refuse(pixels, noise, seed):
        raise AssertionError("made again")

    make_aligned(faker(fake=refuse), read_data(data), AlignedSettings(), tmp_path / "out")


@pytest.mark.parametrize(
    ("made_by", "settings", "word"),
    [
        ({"fingerprint": "2"}, AlignedSettings(), "fingerprint"),
        ({}, AlignedSettings(noise=(0.1,)), "noise"),
        ({}, AlignedSettings(limit=2), "limit, originals"),
    ],
)
def test_a_folder_that_was_begun_with_other_arguments_is_refused_and_left_alone(data, tmp_path, made_by, settings, word):
    make_aligned(faker(), read_data(data), AlignedSettings(), tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match=word):
        make_aligned(faker(**made_by), read_data(data), settings, tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_originals_are_taken_from_all_sources_in_turn_and_a_smaller_limit_takes_a_part_of_them(data):
    samples = read_data(data)
    three = choose_originals(samples, AlignedSettings(limit=3))
    assert sorted(sample.source for sample in three) == ["large", "large", "small"]
    assert choose_originals(list(reversed(samples)), AlignedSettings(limit=2)) == three[:2]
    assert {s.style for s in choose_originals(samples, AlignedSettings(styles=()))} == {"photo", "face", "art"}
    with pytest.raises(ValueError, match=r"styles \['art', 'face', 'photo'\]"):
        choose_originals(samples, AlignedSettings(styles=("unknown",)))
    with pytest.raises(ValueError, match="share source, group and file name"):
        choose_originals([*samples, Sample(data / "x" / "0.png", 0, "large", "g0", "train", "", "photo")], AlignedSettings())


def test_originals_that_do_not_decode_or_are_too_small_are_listed(data, tmp_path):
    (data / "2.png").write_bytes((data / "2.png").read_bytes()[:-300])
    Image.fromarray(array(1, 9)).save(data / "3.png")
    failures = make_aligned(faker(), read_data(data), AlignedSettings(), tmp_path / "out")
    assert len(failures) == 2 and any("2.png" in line for line in failures) and any("9x1" in line for line in failures)
    assert (tmp_path / "out" / "undecodable.txt").read_text().splitlines() == failures
    assert len(read_index(tmp_path / "out")) == 5


def test_large_pictures_are_cut_and_not_resampled(data, tmp_path):
    Image.fromarray(array(80, 300)).save(data / "0.png")
    settings = AlignedSettings(largest=64)
    make_aligned(faker(fake=lambda pixels, noise, seed: pixels), read_data(data), settings, tmp_path / "out")
    fake = next(np.asarray(Image.open(s.path)) for s in read_index(tmp_path / "out") if s.group == "g0")
    assert fake.shape == (64, 64, 3)
    windows = np.lib.stride_tricks.sliding_window_view(array(80, 300), (64, 64), axis=(0, 1))
    assert (windows == fake.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()


def test_an_autoencoder_for_validation_makes_no_training_data(data, tmp_path):
    kept = faker(validation_only=True)
    with pytest.raises(ValueError, match="--split val"):
        make_aligned(kept, read_data(data), AlignedSettings(), tmp_path / "out")
    make_aligned(kept, read_data(data), AlignedSettings(split="val"), tmp_path / "out")
    assert [s.split for s in read_index(tmp_path / "out")] == ["val"]


def test_groups_are_compared_across_data_sets(data, tmp_path):
    make_aligned(faker(), read_data(data), AlignedSettings(split="val"), tmp_path / "out")
    index = tmp_path / "out" / "index.tsv"
    index.write_text(index.read_text().replace("\tg9\t", "\tg0\t"))
    both = read_data(data, tmp_path / "out")
    assert len(both) == 11
    assert "g0" in {s.group for s in take_split(read_data(data), "train")}
    assert "g0" not in {s.group for s in take_split(both, "train")}


@pytest.mark.parametrize("form", [["--data", "A", "B"], ["--data", "A", "--data", "B"]])
def test_commands_take_several_data_sets(data, tmp_path, form, capsys):
    command = ["aligned", "--autoencoder", "resample", "--seed", "1", "--limit", "2", "--data", str(data)]
    assert main([*command, "--out", str(tmp_path / "out"), "--partial", "1"]) == 0
    assert {s.source for s in read_index(tmp_path / "out")} == {"aligned-resample-partial"}
    places = {"A": str(data), "B": str(tmp_path / "out")}
    again = ["aligned", "--autoencoder", "resample", *(places.get(word, word) for word in form)]
    assert main([*again, "--out", str(tmp_path / "again"), "--styles"]) == 0
    assert len(read_index(tmp_path / "again")) == 8
    assert main([*again, "--out", str(tmp_path / "out")]) == 2 and "other arguments" in capsys.readouterr().err
    assert main([*again, "--out", str(tmp_path / "new"), "--noise", "0.1"]) == 2 and "no code" in capsys.readouterr().err


def test_an_audit_reads_all_its_data_sets(data, tmp_path, monkeypatch, capsys):
    make_aligned(faker(), read_data(data), AlignedSettings(), tmp_path / "out")

    def count(samples, **_):
        raise ValueError(f"{len(samples)} pictures")

    monkeypatch.setitem(sys.modules, "aigidetect.training.audit", SimpleNamespace(audit=count))
    assert main(["audit", str(data), str(tmp_path / "out")]) == 2 and "17 pictures" in capsys.readouterr().err
    assert main(["audit", str(data)]) == 2 and "10 pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["fit --recipe r --out o", "evaluate --run r --splits s", "export --run r --name n --version 1"]
)
def test_every_command_with_data_takes_one_set_or_several(command):
    for form in (["--data", "a", "b"], ["--data", "a", "--data", "b"]):
        assert _parser().parse_args([*command.split(), *form]).data == [Path("a"), Path("b")]
    assert _parser().parse_args([*command.split(), "--data", "a"]).data == [Path("a")]


@pytest.mark.parametrize("filter", FILTERS)
def test_a_resampled_fake_is_what_is_left_of_the_small_picture(filter):
    pixels = array(42, 63)
    fake = resample_fake(pixels, 4, filter)
    assert fake.shape == (40, 60, 3) and not np.array_equal(fake, pixels[:40, :60])
    flat = np.full((16, 16, 3), 77, np.uint8)
    assert np.array_equal(resample_fake(flat, 2, filter), flat)
    if filter == "nearest":
        assert np.array_equal(fake[::4, ::4].repeat(4, axis=0).repeat(4, axis=1), fake)


def test_a_resampled_fake_needs_a_known_filter_and_a_large_enough_picture():
    with pytest.raises(ValueError, match="bicubic"):
        resample_fake(array(), 2, "cubic")
    with pytest.raises(ValueError, match="40x3"):
        resample_fake(array(3, 40), 4, "box")


def test_a_blend_is_at_least_a_quarter_fake_with_soft_edges_and_keeps_the_rest():
    original, fake = np.zeros((70, 91, 3), np.uint8), np.full((64, 88, 3), 200, np.uint8)
    shares = []
    for seed in range(30):
        mixed = blend(original, fake, np.random.default_rng(seed))
        assert mixed.shape == fake.shape and mixed.max() == 200
        shares.append((mixed >= 100).mean())
        assert ((mixed > 0) & (mixed < 200)).any()
    assert min(shares) >= 0.25 and max(shares) < 1 and np.std(shares) > 0.05
    same = array(64, 88)
    assert np.array_equal(blend(same, same, np.random.default_rng(0)), same)


def test_noise_on_the_code_is_seeded_and_grows():
    pixels = array(32, 32)
    plain, weak, strong = (reconstruct(Shrink(), pixels, noise=noise, seed=1).astype(int) for noise in (0.0, 0.1, 0.5))
    assert 0 < abs(weak - plain).mean() < abs(strong - plain).mean()
    assert np.array_equal(weak, reconstruct(Shrink(), pixels, noise=0.1, seed=1))
    assert not np.array_equal(weak, reconstruct(Shrink(), pixels, noise=0.1, seed=2))


def test_taef2_is_read_from_its_two_files_and_its_weights_are_its_fingerprint(tmp_path):
    torch.manual_seed(0)
    network = TAEF2().half()
    for part in ("encoder", "decoder"):
        save_file(getattr(network, part).state_dict(), tmp_path / f"taef2_{part}.safetensors")
    loaded, pixels = load_faker(f"taef2:{tmp_path}"), array(17, 24)
    assert np.array_equal(loaded.fake(pixels, 0.0, 0), reconstruct(network.float(), pixels))
    assert loaded.fake(pixels, 0.0, 0).shape == (16, 24, 3)
    network.half().decoder[1].bias.data += 1
    save_file(network.decoder.state_dict(), tmp_path / "taef2_decoder.safetensors")
    assert load_faker(f"taef2:{tmp_path}").fingerprint != loaded.fingerprint


@pytest.mark.parametrize("spec", ["nope", "taef2", "own:", "resample:2", "hub"])
def test_an_unknown_autoencoder_is_answered_with_the_known_forms(spec):
    with pytest.raises(ValueError, match="taef2:FOLDER, own:FILE"):
        load_faker(spec)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_configuration_has_the_shapes_of_its_factor_and_trains_every_parameter(name, tmp_path):
    torch.manual_seed(0)
    network, x = build(name), torch.rand(2, 3, 16, 24)
    factor, channels = network.config.factor, network.config.channels
    assert network.encoder(x).shape == (2, channels, 16 // factor, 24 // factor)
    decoded, penalty = network(x)
    assert decoded.shape == x.shape and (penalty > 0) == (network.config.code == "kl")
    (reconstruction_loss(decoded, x, network.config.loss) + penalty).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    save_autoencoder(network, tmp_path / "a.safetensors")
    again = load_autoencoder(tmp_path / "a.safetensors")
    assert again.config == CONFIGS[name]
    assert torch.equal(again.decoder(again.encoder(x)), network.decoder(network.encoder(x)))


def test_the_family_has_every_up_sampler_factor_code_and_loss_and_keeps_three_for_validation():
    assert sum(config.validation_only for config in CONFIGS.values()) == 3 and len(CONFIGS) == 12
    taught = [config for config in CONFIGS.values() if not config.validation_only]
    for field, values in {"up": 4, "factor": 3, "code": 3, "loss": 2}.items():
        assert len({getattr(config, field) for config in taught}) == values
    traces = [(c.factor, c.width, c.depth, c.up, c.code, c.loss) for c in CONFIGS.values()]
    assert len(set(traces)) == len(traces)


def test_the_documentation_names_each_configuration_in_its_place():
    text = (Path(__file__).parent.parent / "docs" / "aligned.md").read_text()
    rows = {
        row.split("|")[2].strip().split(":")[0]: row
        for row in text.splitlines()
        if row.startswith("| `") and row.count("|") == 3
    }
    taught, kept = rows["training"], next(row for use, row in rows.items() if use.startswith("validation only"))
    for name, config in CONFIGS.items():
        assert f"`{name}`" in (kept if config.validation_only else taught)


def test_a_quantised_code_has_few_values_and_a_plain_one_many():
    code = torch.linspace(-3, 3, 200).reshape(1, 1, 1, 200)
    outputs = {}
    for kind in ("vq", "plain"):
        network = build(AutoencoderConfig("tiny", 2, width=4, channels=1, code=kind))
        with torch.inference_mode():
            outputs[kind] = len(torch.cat([network.decoder(code[..., i : i + 1]) for i in range(200)]).unique(dim=0))
    assert outputs["vq"] == 4 and outputs["plain"] > 100


def test_wrong_configurations_are_told():
    with pytest.raises(ValueError, match="pixelshuffle"):
        AutoencoderConfig("x", up="cubic")
    with pytest.raises(ValueError, match="2, 4, 8"):
        AutoencoderConfig("x", factor=3)
    with pytest.raises(KeyError, match="transposed-2"):
        build("nope")


def test_training_lowers_the_error_and_is_a_function_of_the_seed():
    config = AutoencoderConfig("tiny", 2, width=4, code="kl", channels=3)
    pixels = [array(30, 120, seed=i) for i in range(4)]
    state = torch.get_rng_state()
    short, again, other, trained = (
        fit_autoencoder(config, pixels, steps=steps, seed=seed, bf16=False)
        for steps, seed in ((1, 0), (1, 0), (1, 1), (8, 0))
    )
    assert torch.equal(torch.get_rng_state(), state)
    first, second, third = (torch.cat([p.flatten() for p in n.parameters()]) for n in (short, again, other))
    assert torch.equal(first, second) and not torch.equal(first, third)

    def error(network):
        return abs(reconstruct(network, pixels[0]).astype(float) - pixels[0]).mean()

    assert error(trained) < error(short)
    with pytest.raises(ValueError, match="either steps or minutes"):
        fit_autoencoder(config, pixels, steps=1, minutes=1)


def test_the_spectral_loss_adds_what_blurring_removes():
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    assert reconstruction_loss(blurred, x, "l1+spectral") > reconstruction_loss(blurred, x, "l1") > 0
    assert reconstruction_loss(x, x, "l1+spectral") == 0
    shifted = x.roll(5, dims=3)
    assert reconstruction_loss(shifted, x, "l1+spectral") == pytest.approx(
        float(reconstruction_loss(shifted, x, "l1")), abs=1e-5
    )


def test_an_own_autoencoder_goes_from_photographs_to_fakes_by_two_commands(data, tmp_path, capsys):
    file = tmp_path / "models" / "a.safetensors"
    train = ["autoencoder", "--config", "pixelshuffle-2-kl", "--data", str(data), "--steps", "1", "--out", str(file)]
    assert main(train) == 0
    fakes = ["aligned", "--data", str(data), "--autoencoder", f"own:{file}", "--noise", "0", "0.2", "--limit", "2"]
    assert main([*fakes, "--out", str(tmp_path / "out")]) == 0
    assert {s.source for s in read_index(tmp_path / "out")} == {"aligned-own-pixelshuffle-2-kl"}
    assert main([*train[:2], "nope", *train[3:]]) == 2 and "pixelshuffle-4" in capsys.readouterr().err
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="command `autoencoder`"):
        load_faker(f"own:{tmp_path / 'other.safetensors'}")


class StubModel:
    """What `hub_autoencoder` uses of an AutoencoderKL or AutoencoderTiny: pixels in [-1, 1], halved in size."""

    def __init__(self, tiny):
        self.tiny = tiny
        widths = {"encoder_block_out_channels" if tiny else "block_out_channels": (4, 4)}
        self.config = SimpleNamespace(**widths)

    def eval(self):
        return self

    def encode(self, x):
        assert x.min() >= -1 and x.min() < 0
        code = nn.functional.avg_pool2d(x, 2)
        return (
            SimpleNamespace(latents=code) if self.tiny else SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: code))
        )

    def decode(self, code):
        return SimpleNamespace(sample=nn.functional.interpolate(code, scale_factor=2))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cached repository, and a stub of diffusers that records how it was called."""
    calls, snapshot = [], tmp_path / "snapshots" / ("a" * 40)
    stub = ModuleType("diffusers")
    for name in ("AutoencoderKL", "AutoencoderTiny", "UNet2DModel"):

        def from_pretrained(repo_id, *, _name=name, **options):
            calls.append((_name, repo_id, options))
            return StubModel(_name == "AutoencoderTiny")

        setattr(stub, name, SimpleNamespace(from_pretrained=from_pretrained))

    def download(repo_id, filename, *, subfolder=None, revision=None):
        path = snapshot / (subfolder or "") / filename
        if not path.exists():
            raise hub_autoencoder.EntryNotFoundError(f"no {filename}")
        return str(path)

    monkeypatch.setitem(sys.modules, "diffusers", stub)
    monkeypatch.setattr(hub_autoencoder, "hf_hub_download", download)
    return calls, snapshot


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
@pytest.mark.parametrize("folder", ["", "vae"])
def test_an_autoencoder_of_the_hub_is_chosen_by_its_config_and_pinned_to_its_commit(hub, kind, folder):
    calls, snapshot = hub
    (snapshot / folder).mkdir(parents=True)
    (snapshot / folder / "config.json").write_text(json.dumps({"_class_name": kind}))
    loaded, pixels = load_faker("hub:someone/model@main"), array(20, 31)
    options = {"revision": "a" * 40, "use_safetensors": True} | ({"subfolder": "vae"} if folder else {})
    assert calls == [(kind, "someone/model", options)]
    assert (loaded.name, loaded.fingerprint) == ("hub-someone-model", "a" * 40)
    difference = loaded.fake(pixels, 0.0, 0).astype(int) - reconstruct(Shrink(), pixels)
    assert abs(difference).max() <= 1


def test_a_repository_that_holds_something_else_is_refused(hub):
    calls, snapshot = hub
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="UNet2DModel; expected one of"):
        load_faker("hub:someone/model")
    assert not calls


def test_without_diffusers_the_extra_is_named(monkeypatch, data, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    command = ["aligned", "--data", str(data), "--autoencoder", "hub:someone/model", "--out", str(tmp_path / "out")]
    assert main(command) == 2 and "aigidetect[aligned]" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_real_diffusers_models_of_a_local_folder_work(kind, tmp_path, monkeypatch):
    import diffusers

    options = {
        "AutoencoderKL": {
            "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4,
        },
        "AutoencoderTiny": {
            "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
    }  # fmt: skip
    model = getattr(diffusers, kind)(**options[kind]).eval()
    loaded = hub_autoencoder.HubAutoencoder(model, tiny=kind == "AutoencoderTiny", revision="0")
    assert loaded.factor == 2
    assert reconstruct(loaded, array(16, 24)).shape == (16, 24, 3)
