"""The page of a report: whole, escaped, closed to the network, and the same numbers as the records."""

import base64
import hashlib
import html
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aigidetect import Calibration, Detector, Tiles, registry
from aigidetect.cli import main
from aigidetect.errors import ExplanationError, OutputError
from aigidetect.report import write_report
from aigidetect.report.rows import HEATMAP, THUMBNAIL

from .conftest import POINTS, array, encoded
from .test_explain import Red

HOSTILE = ["<script>alert(1);.png", "\"onerror='alert(1)'.png", "&lt;b&gt;.png", "a\u202egnp.png", "new\nline.png"]


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, and the text in each table cell."""

    VOID = ("meta", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.cells = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data

    def all(self, wanted):
        return [attributes for tag, attributes in self.elements if tag == wanted]


def write(tmp_path, detector, source, **options):
    summary = write_report(tmp_path / "page.html", detector, source, **options)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    return summary, text, page


def picture(uri):
    assert uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_page_has_the_numbers_of_the_records(tmp_path, detector, folder):
    records = list(detector.stream(folder))
    summary, text, page = write(tmp_path, detector, folder)
    assert (summary.scored, summary.failed) == (3, 1) == (sum(summary.verdicts.values()), text.count("ImageTruncated"))
    for record in records:
        assert html.escape(record.source) in text
        shown = [f"{record.probability:.3f}", record.verdict] if record.ok else [record.message]
        assert all(any(value in cell for cell in page.cells) for value in shown)
    assert "toy@1" in text and "0.7000" in text and "0.2000" in text and "0.05" in text
    assert "data-map" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)


def test_every_row_has_a_thumbnail_and_on_request_a_heat_map_of_bounded_size(tmp_path):
    detector = Detector(Red(), Tiles(size=16, max_tiles=4), Calibration(thresholds=POINTS), name="red@1", device="cpu")
    _, _, page = write(
        tmp_path, detector, _saved(tmp_path, {"a.png": array(30, 40), "b.png": array(700, 350)}), heatmaps=True
    )
    thumbnails = [element for element in page.all("img") if "src" in element]
    assert [picture(element["src"]).size for element in thumbnails] == [(40, 30), (THUMBNAIL // 2, THUMBNAIL)]
    assert [(int(element["width"]), int(element["height"])) for element in thumbnails] == [(40, 30), (48, 96)]
    assert all(element["alt"].startswith("Thumbnail of ") for element in thumbnails)
    maps = [element["data-map"] for element in page.all("button") if "data-map" in element]
    assert [picture(uri).size for uri in maps] == [(40, 30), (HEATMAP // 2, HEATMAP)]


def _saved(tmp_path, pictures):
    root = tmp_path / "pictures"
    root.mkdir()
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(root / name, "PNG")
    return root


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not allow")
def test_names_of_strangers_are_text_and_nothing_else(tmp_path, detector):
    root = os.fsencode(_saved(tmp_path, {name: array(20, 20) for name in HOSTILE}))
    for name, content in (
        (b"half-\xff.png", encoded(array(20, 20), "png")),
        (b"<img src=x onerror=alert(1)>.png", b"broken"),
    ):
        with open(os.path.join(root, name), "wb") as file:
            file.write(content)
    summary, _, page = write(tmp_path, detector, os.fsdecode(root))
    assert (summary.scored, summary.failed) == (6, 1)
    assert len(page.all("script")) == 1 and len([e for e in page.all("img") if "src" in e]) == 6
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    # As they were, but for what would not show.
    names = " ".join(page.cells)
    assert all(name in names for name in HOSTILE[:3]) and "<img src=x onerror=alert(1)>" in names
    assert r"a\u202egnp" in names and r"new\nline" in names and r"half-\udcff" in names


def test_the_page_may_only_run_its_own_script_and_asks_for_nothing(tmp_path, detector, folder):
    _, text, page = write(tmp_path, detector, folder)
    [policy] = [element["content"] for element in page.all("meta") if element.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag in ("script", "style"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    addresses = [a for _, attributes in page.elements for key, a in attributes.items() if key in ("src", "href", "action")]
    assert addresses and all(address.startswith("data:") for address in addresses)
    # Where the policy was not known, these would work.
    assert not [attributes for _, attributes in page.elements if "style" in attributes]
    assert "http:" not in text and "https:" not in text


def test_what_sorts_is_a_button_and_every_field_and_picture_has_a_name(tmp_path, detector, folder):
    _, text, page = write(tmp_path, detector, folder)
    sortable = [element for element in page.all("th") if "aria-sort" in element]
    assert len(sortable) == 5 == text.count('<button type="button">')
    assert [element["aria-sort"] for element in sortable].count("ascending") == 1
    assert page.all("html") == [{"lang": "en"}] and all("scope" in element for element in page.all("th"))
    assert text.count("<label>") == len(page.all("input")) + len(page.all("select"))
    assert all("alt" in element for element in page.all("img"))
    assert [element.get("role") for element in page.all("svg")] == ["img"] and page.all("svg")[0]["aria-label"]


def test_the_histogram_counts_every_picture_once(tmp_path, detector, folder):
    summary, text, page = write(tmp_path, detector, folder)
    expected = np.histogram([r.probability for r in detector.stream(folder) if r.ok], bins=20, range=(0, 1))[0]
    assert summary.bins == expected.tolist()
    assert [int(n) for n in re.findall(r"<rect .*?<title>.*?: (\d+)</title>", text)] == summary.bins
    heights = [float(element["height"]) for element in page.all("rect")]
    assert [height > 0 for height in heights] == [number > 0 for number in summary.bins]


def test_a_network_with_random_weights_has_a_column_for_its_interval(tmp_path):
    class Random(Red):
        def features(self, x):
            return self.evidence(x).mean(dim=(1, 2))[:, None]

        def classify(self, features):
            return features

        def sample_logits(self, features, n, generator=None):
            return features + torch.randn(n, generator=generator)

    detector = Detector(Random(), Tiles(size=16, max_tiles=4), Calibration(), device="cpu")
    root = _saved(tmp_path, {"a.png": array(30, 40)})
    _, text, page = write(tmp_path, detector, root)
    spread = detector.predict(root / "a.png").uncertainty
    assert f"{spread.low:.3f}–{spread.high:.3f}" in page.cells and "95 % of draws" in page.cells
    assert "never measured" in text


def test_workers_and_batches_make_no_difference(tmp_path, detector, folder):
    _, first, _ = write(tmp_path, detector, folder)
    _, second, _ = write(tmp_path, detector, folder, workers=4, batch_size=1)
    assert first == second


@pytest.mark.slow
def test_files_opened_in_processes_give_the_same_page(tmp_path, detector, folder):
    _, here, _ = write(tmp_path, detector, folder)
    _, isolated, _ = write(tmp_path, detector, folder, isolate=60)
    assert here == isolated


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path, detector, folder, monkeypatch):
    write(tmp_path, detector, folder / "a.jpg")
    before = (tmp_path / "page.html").read_bytes()
    with pytest.raises(OutputError, match="another folder"):
        write_report(tmp_path / "no" / "page.html", detector, folder)
    (tmp_path / "is a folder").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_report(tmp_path / "is a folder", detector, folder)
    with pytest.raises(ExplanationError):
        write_report(tmp_path / "page.html", detector, folder, heatmaps=True)
    monkeypatch.setattr("aigidetect.report.after_rows", lambda summary: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path / "page.html", detector, folder)
    assert (tmp_path / "page.html").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["folder", "is a folder", "page.html"]


def test_a_picture_that_vanishes_after_its_score_keeps_its_row(tmp_path, folder, detector, monkeypatch):
    monkeypatch.setattr("aigidetect.report.load_image", _vanished)
    summary, text, page = write(tmp_path, detector, folder)
    assert summary.scored == 3 and text.count("There is no file") == 3
    assert not [element for element in page.all("img") if "src" in element]


def _vanished(source):
    from aigidetect import ImageError

    raise ImageError("There is no file.")


def test_the_command_has_the_exit_statuses_of_predict(tmp_path, folder, detector, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load_detector", lambda name=None, **options: detector)
    page = tmp_path / "page.html"
    assert main(["report", str(folder), "-o", str(page)]) == 1
    assert main(["report", str(folder / "a.jpg"), "-o", str(page), "--fpr", "0.01"]) == 0
    assert "0.9000" in page.read_text()
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty"), "-o", str(page)]) == 2
    assert main(["report", str(folder), "-o", str(page), "--fpr", "0.3"]) == 2
    assert main(["report", str(folder), "-o", str(page), "--heatmaps"]) == 2
    assert main(["report", str(folder), "-o", str(tmp_path / "no" / "page.html")]) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and "1 scored, 0 failed; " in captured.err


def test_styles_and_script_are_in_the_package():
    import aigidetect

    folder = Path(aigidetect.__file__).parent / "report"
    script = (folder / "page.js").read_text()
    assert "innerHTML" not in script and "eval" not in script and "fetch" not in script
    assert "</" not in script and "@import" not in (folder / "page.css").read_text()
