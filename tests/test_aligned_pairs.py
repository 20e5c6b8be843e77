"""Aligned fakes with their originals: pairs of one content, size and file format, to measure a detector on."""

import numpy as np
from PIL import Image

from aigidetect.training.__main__ import main
from aigidetect.training.aligned_set import AlignedSettings, make_aligned
from aigidetect.training.layouts import read_data

from .conftest import array
from .test_aligned import content, data, faker  # noqa: F401


def test_each_fake_has_its_original_beside_it(data, tmp_path):  # noqa: F811
    for i in range(7):
        Image.fromarray(array(80, 90, seed=i)).save(data / f"{i}.png")
    make_aligned(faker(), read_data(data), AlignedSettings(largest=64, pairs=True), tmp_path / "out")
    pairs = {}
    for sample in read_data(tmp_path / "out"):
        pairs.setdefault(sample.group, {})[sample.label] = sample
    assert len(pairs) == 7 and all(pair.keys() == {0, 1} for pair in pairs.values())
    sources = {s.group: s for s in read_data(data)}
    for group, pair in pairs.items():
        real, fake = (np.asarray(Image.open(pair[label].path)).astype(int) for label in (0, 1))
        assert real.shape == fake.shape == (64, 64, 3) and not np.array_equal(real, fake)
        assert pair[0].path.suffix == pair[1].path.suffix == ".png"
        assert (pair[0].source, pair[0].line, pair[0].style) == (sources[group].source, "real", sources[group].style)
        whole = np.asarray(Image.open(sources[group].path)).astype(int)
        windows = np.lib.stride_tricks.sliding_window_view(whole, (64, 64, 3))[:, :, 0]
        assert (windows == real).all(axis=(2, 3, 4)).any()


def test_an_original_is_cut_to_what_the_autoencoder_keeps(data, tmp_path):  # noqa: F811
    make_aligned(faker(), read_data(data), AlignedSettings(pairs=True), tmp_path / "out")
    assert {Image.open(s.path).size for s in read_data(tmp_path / "out")} == {(44, 30)}


def test_an_interrupted_folder_of_pairs_is_completed(data, tmp_path):  # noqa: F811
    settings = AlignedSettings(pairs=True)
    make_aligned(faker(), read_data(data), settings, tmp_path / "out")
    whole = content(tmp_path / "out")
    next((tmp_path / "out" / "real").iterdir()).unlink()
    make_aligned(faker(), read_data(data), settings, tmp_path / "out")
    assert content(tmp_path / "out") == whole


def test_the_command_makes_pairs(data, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    assert main(["aligned", "--data", str(data), "--autoencoder", "resample", "--pairs", "--out", str(out)]) == 0
    assert sorted(s.label for s in read_data(out)) == [0] * 7 + [1] * 7
