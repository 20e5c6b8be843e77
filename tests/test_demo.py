"""The page of `aigidetect demo`: what it answers, and how it behaves in a real browser."""

import contextlib
import json
import socket
import sys
import time
from pathlib import Path

import pytest

from aigidetect import Calibration, Detector, Tiles, demo
from aigidetect.cli import main
from aigidetect.images import load_image

from .conftest import POINTS, array, encoded
from .test_explain import Red, red_at
from .test_report_browser import browser, find  # noqa: F401

IMAGES = Path(__file__).parent.parent / "examples" / "images"


class Here:
    """Stands for `Isolation` where starting a process would take too long."""

    def __init__(self, children, seconds):
        self.load = load_image

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def judge(monkeypatch, detector):
    monkeypatch.setattr(demo, "Isolation", Here)
    return lambda explained=True: demo.Judge(
        Detector(Red(), Tiles(size=16, max_tiles=9), Calibration(thresholds=POINTS), name="red@1") if explained else detector
    )


def test_a_picture_gets_verdict_score_heat_map_and_what_its_file_says(judge, tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(encoded(red_at(0, 0, side=64), "png"))
    answer, record = judge()(str(path)), judge().detector.predict(str(path))
    assert record.verdict == "ai" and "Looks AI-generated" in answer.verdict
    assert f"{record.probability:.3f}" in answer.verdict and "about 5 of 100 photographs" in answer.verdict
    assert "not proof" in answer.verdict
    assert answer.picture.size == answer.heatmap.size == (record.image.width, record.image.height)
    assert "Nothing of its origin" in answer.provenance and "removed or forged" in answer.provenance


def test_a_large_picture_is_shown_smaller(judge, tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(encoded(array(30, 2048), "png"))
    answer = judge()(str(path))
    assert answer.picture.size == answer.heatmap.size == (1024, 15)


@pytest.mark.parametrize("content", [b"", b"<script>alert(1)</script>", encoded(array(), "png")[:-800]])
def test_a_file_that_is_no_whole_picture_gets_the_message_of_its_error(content, judge, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_image(path)
    answer = judge()(str(path))
    assert "No score" in answer.verdict and "script>" not in answer.verdict
    assert demo.html.escape(str(caught.value)) in answer.verdict
    assert answer[1:] == (None, None, "")


def test_what_a_file_says_is_shown_as_text_and_never_as_html(judge, tmp_path):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    notes = PngInfo()
    notes.add_text("Software", "<img src=x onerror=alert(1)>")
    Image.fromarray(array()).save(tmp_path / "a.png", pnginfo=notes)
    answer = judge()(str(tmp_path / "a.png"))
    assert "&lt;img src=x" in answer.provenance and "<img" not in answer.provenance


def test_a_detector_that_cannot_explain_itself_still_answers(judge, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(array(), "png"))
    answer = judge(explained=False)(str(tmp_path / "a.png"))
    assert answer.verdict and answer.picture and answer.heatmap is None


def test_the_page_is_empty_again_without_a_file(judge):
    assert judge()(None) == demo.Answer("")


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(demo, "Judge", None)
    assert main(["demo", "--detector", "npr-ms-ca"]) == 2
    assert "pip install 'aigidetect[demo]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def server():
    """The real page, detector and process for decoding."""
    pytest.importorskip("gradio", reason="needs Gradio: pip install 'aigidetect[demo]'")
    import aigidetect

    page = demo.launch(aigidetect.load_detector("npr-ms-ca", device="cpu"), examples=IMAGES, block=False)
    yield page
    page.close()


@pytest.fixture
def page(server, browser):  # noqa: F811
    browser.get_log("performance")
    browser.get(server.local_url)
    until(browser, "#upload input[type=file]")
    yield browser
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked and not [url for url in asked if not url.startswith(("data:", "blob:", server.local_url))]


def until(page, selector, text="", seconds=120):
    """The first element that has the text; it may take a while to appear."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # Elements are replaced while the page is drawn.
        with contextlib.suppress(Exception):
            for element in find(page, selector):
                if text in (element.text if text else text):
                    return element
        time.sleep(0.2)
    shown = find(page, "body")[0].text
    pytest.fail(f"no {selector!r} with {text!r} on the page: {shown}")


SIZE = "const i = arguments[0]; return i.decode().then(() => [i.naturalWidth, i.naturalHeight])"


@pytest.mark.browser
@pytest.mark.slow
def test_an_upload_gets_verdict_heat_map_and_provenance(page):
    page.execute_script("window.onerror = (text) => { document.title = text; }")
    until(page, "#upload input[type=file]").send_keys(str(IMAGES / "coffee-photo.jpg"))
    assert "Probability that it is AI-generated: 0." in until(page, "#verdict .verdict h2 ~ p:last-child", "0.").text
    sizes = [page.execute_script(SIZE, until(page, f"{place} img")) for place in ("#picture", "#heatmap")]
    assert sizes[0] == sizes[1] and min(sizes[0]) > 100
    assert "removed or forged" in until(page, "#provenance", "What the file says of itself").text
    assert page.title == "aigidetect"


@pytest.mark.browser
@pytest.mark.slow
def test_a_broken_file_gets_our_message_and_no_trace(page, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((IMAGES / "coffee-photo.jpg").read_bytes()[:4000])
    until(page, "#upload input[type=file]").send_keys(str(broken))
    text = until(page, "#verdict", "No score").text
    assert "damaged or ends early" in text or "ends" in text
    assert not find(page, "#heatmap img") and "Traceback" not in page.page_source


@pytest.mark.browser
@pytest.mark.slow
def test_an_example_is_scored_by_a_click(page):
    until(page, ".gallery-item").click()
    until(page, "#verdict .verdict h2")
    until(page, "#heatmap img")


@pytest.mark.slow
def test_a_port_that_is_taken_is_an_error_with_advice():
    pytest.importorskip("gradio", reason="needs Gradio: pip install 'aigidetect[demo]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["demo", "--detector", "npr-ms-ca", "--port", str(taken.getsockname()[1])]) == 2
