"""The README and the pages of docs/: code that runs, links that lead somewhere, generated parts that are up to date."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from aigidetect.manifest import load_manifest

from .documentation import blocks, parse

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {page: blocks(page) for page in PAGES}
RUN = {
    page: [block for block in found if block.reason is None and block.language != "text"] for page, found in BLOCKS.items()
}


def name(page):
    return page.stem


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with what the pages speak of: the examples, a folder of pictures, a photograph, a PNG, scores."""
    pictures = ROOT / "examples" / "images"
    shutil.copytree(pictures, tmp_path / "examples" / "images")
    for folder in ("holiday", "archive", "uploads"):
        (tmp_path / folder).mkdir()
        for kind in ("photo", "decoded"):
            shutil.copy(pictures / f"coffee-{kind}.jpg", tmp_path / folder)
    shutil.copy(pictures / "coffee-photo.jpg", tmp_path / "photo.jpg")
    with Image.open(pictures / "coffee-photo.jpg") as image:
        image.save(tmp_path / "picture.png")
    shutil.copytree(ROOT / "docs" / "scores" / "npr-ms-ca-1", tmp_path / "tiny-genimage-scores" / "npr-ms-ca")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", [page for page in PAGES if any(not block.slow for block in RUN[page])], ids=name)
def test_the_code_of_a_page_runs_in_order(page, here, capsys):
    names = {"__name__": "page"}
    for block in RUN[page]:
        if not block.slow:
            block.run(names)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.slow for block in RUN[page])], ids=name)
def test_the_slow_code_of_a_page_runs_after_the_rest(page, here, capsys):
    names = {"__name__": "page"}
    for block in RUN[page]:
        block.run(names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is_and_what_is_not_run_says_why(page):
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(BLOCKS[page]), "a block is indented, or its mark is not on the line before it"
    for block in BLOCKS[page]:
        assert block.language in ("python", "sh", "text"), f"{page.name}:{block.line}"
        assert block.reason is None or len(block.reason.split()) >= 2, f"{page.name}:{block.line}"


@pytest.mark.parametrize("page", [page for page in PAGES if set(BLOCKS[page]) - set(RUN[page])], ids=name)
def test_commands_that_are_not_run_are_at_least_ours(page, capsys):
    for block in set(BLOCKS[page]) - set(RUN[page]):
        for words in block.commands() if block.language == "sh" else ():
            assert parse(words), f"{page.name}:{block.line}: {' '.join(words)}\n{capsys.readouterr().err}"


def test_an_option_that_does_not_exist_is_found():
    assert parse(["python", "-m", "aigidetect.training", "fit", "--recipe", "npr", "--data", "DATA", "--out", "runs/a"])
    assert not parse(["python", "-m", "aigidetect.training", "fit", "--recipes", "npr", "--data", "DATA", "--out", "runs/a"])
    assert not parse([".venv/bin/aigidetect", "predict"])


def test_marks_are_read_from_the_line_before_a_block(tmp_path):
    page = tmp_path / "page.md"
    parts = (
        "a\n\n```python\nx = 1\n```\n",
        "<!-- not run: no such GPU -->\n```sh\na \\\n  b && c # d\n```",
        "<!-- slow -->\n```sh\ne\n```\n",
    )
    page.write_text("\n".join(parts))
    first, second, third = blocks(page)
    assert (first.line, first.reason, first.slow) == (4, None, False)
    assert second.reason == "no such GPU" and list(second.commands()) == [["a", "b"], ["c"]]
    assert third.slow and third.reason is None
    names = {}
    first.run(names)
    assert names["x"] == 1
    with pytest.raises(AssertionError, match="say why"):
        third.run({})


def test_the_page_of_detectors_is_that_of_the_manifest():
    from aigidetect.training.detectors_page import detectors_page

    made, page = detectors_page(load_manifest()), (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    assert made == page, "run: python -m aigidetect.training detectors --out docs/detectors.md"


def test_every_page_and_figure_has_its_place():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert sorted(re.findall(r"\S+\.md", navigation)) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for figure in (ROOT / "docs" / "figures").iterdir():
        assert figure.stat().st_size < 150_000, figure.name
        assert re.search(rf"!\[[^]]{{40,}}\]\((docs/)?figures/{figure.name}\)", text), (
            f"{figure.name} has no place with a text"
        )


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_asks_no_other_host(tmp_path, monkeypatch):
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="needs the site's generator: pip install 'aigidetect[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))
    for page in pages:
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8"))
        assert tags and not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)], page
    assert "load_detector" in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")


def test_the_notebook_stores_no_outputs():
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs what runs notebooks: pip install 'aigidetect[docs]'")
    client = pytest.importorskip("nbclient", reason="needs what runs notebooks: pip install 'aigidetect[docs]'")
    pytest.importorskip("ipykernel", reason="needs what runs notebooks: pip install 'aigidetect[docs]'")
    pytest.importorskip("pandas", reason="pandas is needed for frames")
    shutil.copytree(ROOT / "examples" / "images", tmp_path / "images")
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = {output.output_type for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs}
    assert "error" not in said and {"stream", "execute_result"} <= said
    table, picture = (
        cell.outputs[-1]["data"] for cell in notebook.cells if "frame" in cell.source or "overlay" in cell.source
    )
    assert "ImageTruncated" in table["text/plain"] or "Truncated" in table["text/html"]
    assert "image/png" in picture
