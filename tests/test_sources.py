"""Streams of inputs: order, laziness, loops, and nothing dropped."""

import io
import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aigidetect.sources import iter_sources


@pytest.fixture
def tree(tmp_path):
    for name in ("b.jpg", "a.PNG", "z/c.webp", "z/y/d.tiff", "notes.txt", ".hidden.jpg", ".git/e.jpg", "Ünï.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(items, root):
    return [os.path.relpath(item, root) for item in items]


def test_a_folder_gives_its_pictures_sorted_and_leaves_hidden_ones_out(tree):
    assert names(iter_sources(tree), tree) == ["a.PNG", "b.jpg", "Ünï.jpeg", "z/c.webp", "z/y/d.tiff"]
    assert names(iter_sources(str(tree), recursive=False), tree) == ["a.PNG", "b.jpg", "Ünï.jpeg"]


def test_an_explicit_file_is_passed_on_whatever_its_name(tree):
    assert list(iter_sources(tree / "notes.txt")) == [tree / "notes.txt"]


def test_globs_are_expanded_in_order_and_one_without_a_match_is_passed_on(tree):
    assert names(iter_sources(str(tree / "*.[jP]*")), tree) == ["a.PNG", "b.jpg", "Ünï.jpeg"]
    assert names(iter_sources(str(tree / "**" / "*.webp")), tree) == ["z/c.webp"]
    assert list(iter_sources(str(tree / "*.nothing"))) == [str(tree / "*.nothing")]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tree):
    odd = tree / "photo[1].jpg"
    odd.write_bytes(b"x")
    assert list(iter_sources(str(odd))) == [str(odd)]


def test_a_missing_path_is_passed_on_so_that_it_can_fail(tmp_path):
    assert list(iter_sources(tmp_path / "nowhere")) == [tmp_path / "nowhere"]


def test_links_that_lead_back_are_walked_once(tree):
    (tree / "z" / "loop").symlink_to(tree)
    (tree / "z" / "self").symlink_to(tree / "z")
    assert len(list(iter_sources(tree))) == 5


def test_a_folder_linked_from_elsewhere_is_walked(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "link").symlink_to(tree / "z")
    assert names(iter_sources(other), other) == ["link/c.webp", "link/y/d.tiff"]


def test_a_folder_that_cannot_be_listed_is_passed_on_so_that_it_can_fail(tree, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("z"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(iter_sources(tree), tree) == ["a.PNG", "b.jpg", "Ünï.jpeg", "z"]


def test_nested_mixes_keep_their_order(tree):
    array, tensor = np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4)
    file, image = io.BytesIO(b"x"), Image.new("RGB", (2, 2))
    mix = ["x.jpg", [array, (tensor, b"bytes")], iter([file, image]), tree / "z"]
    items = list(iter_sources(mix))
    for item, expected in zip(items, ["x.jpg", array, tensor, b"bytes", file, image]):
        assert item is expected
    assert names(items[6:], tree) == ["z/c.webp", "z/y/d.tiff"]


def test_batches_of_arrays_and_tensors_are_taken_apart():
    assert [item.shape for item in iter_sources(np.zeros((3, 4, 5, 3), np.uint8))] == [(4, 5, 3)] * 3
    assert [tuple(item.shape) for item in iter_sources(torch.zeros(2, 3, 4, 5))] == [(3, 4, 5)] * 2


def test_endless_iterables_are_walked_lazily():
    stream = iter_sources(Path(f"{i}.jpg") for i in itertools.count())
    assert [str(item) for item in itertools.islice(stream, 3)] == ["0.jpg", "1.jpg", "2.jpg"]


def test_things_that_are_no_input_are_passed_on_so_that_they_can_fail():
    assert list(iter_sources([3, None])) == [3, None]


def test_names_in_odd_encodings_survive(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    try:
        with open(path, "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    [item] = iter_sources(tmp_path)
    assert os.fsencode(item) == path


def test_a_double_star_gives_every_file_once_also_with_links_that_lead_back(tmp_path):
    (tmp_path / "s").mkdir()
    for name in ("a.jpg", "s/b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "s" / "loop").symlink_to(tmp_path)
    for pattern in ("**", "**/*.jpg"):
        assert names(iter_sources(str(tmp_path / pattern)), tmp_path) == ["a.jpg", "s/b.jpg"]


def test_nesting_may_be_deeper_than_pythons_stack():
    source = b"x"
    for _ in range(2000):
        source = [source]
    assert list(iter_sources(source)) == [b"x"]


def test_folders_may_be_deeper_than_pythons_stack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        os.mkdir("d")
        os.chdir("d")
    Path("x.jpg").touch()
    os.chdir(tmp_path)
    try:
        assert [os.path.basename(item) for item in iter_sources(".")] == ["x.jpg"]
    finally:
        subprocess.run(["rm", "-rf", "d"], check=True)


def test_a_list_that_contains_itself_is_refused_and_one_given_twice_is_not():
    source, twice = ["a.jpg"], ["b.jpg"]
    source.append(source)
    with pytest.raises(ValueError, match="itself"):
        list(iter_sources(source))
    assert list(iter_sources([twice, twice])) == ["b.jpg", "b.jpg"]


def test_a_mapping_is_passed_on_so_that_it_can_fail():
    assert list(iter_sources({"a.jpg": 1})) == [{"a.jpg": 1}]


def test_a_link_to_itself_does_not_hide_its_neighbours(tree):
    (tree / "self.jpg").symlink_to("self.jpg")
    assert names(iter_sources(tree), tree)[:3] == ["a.PNG", "b.jpg", "self.jpg"]


@pytest.mark.parametrize("pattern", ["", "**/*.jpg", "**", "**/**/last.jpg"])
def test_links_across_and_back_do_not_multiply(tmp_path, pattern):
    # Two links a level: 2**25 ways to the last picture, and without end where they lead back.
    levels = [tmp_path / f"{level:02d}" for level in range(25)]
    for level in levels:
        level.mkdir()
    for level, following in zip(levels, [*levels[1:], levels[0]]):
        (level / "left").symlink_to(following)
        (level / "right").symlink_to(following)
    (levels[-1] / "last.jpg").touch()
    [found] = iter_sources(str(tmp_path / pattern))
    assert os.path.basename(found) == "last.jpg"


def test_a_double_star_in_the_middle_reaches_every_folder(tree, monkeypatch):
    (tree / "z" / "y" / "x").mkdir()
    (tree / "z" / "y" / "x" / "d.tiff").touch()
    assert names(iter_sources(str(tree / "z" / "**" / "d.*")), tree) == ["z/y/d.tiff", "z/y/x/d.tiff"]
    assert names(iter_sources(str(tree / "**" / "y" / "**" / "*.tiff")), tree) == ["z/y/d.tiff", "z/y/x/d.tiff"]
    monkeypatch.chdir(tree)
    assert list(iter_sources("**/*.webp")) == ["z/c.webp"]
