"""The page of a report in a real browser: sorting, filtering, heat maps, and silence on the console and the network."""

import json
import shutil

import pytest
from PIL import Image

from aigidetect import Calibration, Detector, Tiles
from aigidetect.report import write_report

from .conftest import POINTS, array
from .test_explain import Red, red_at

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PICTURES = {
    "b2.png": red_at(8, 8),
    "b10.png": red_at(0, 0, side=64),
    "<i>c&d.png": array(40, 30, seed=1),
    "a.png": red_at(0, 0, side=1),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'aigidetect[browser]'")
    chromium, driver = (shutil.which("chromium") or shutil.which("chromium-browser")), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={profile}", "window-size=1200,900",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    started.get("about:blank")
    started.get_log("performance")  # so that what the page of a new tab asked for is not taken for ours
    yield started
    started.quit()


@pytest.fixture
def page(browser, tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for name, pixels in PICTURES.items():
        Image.fromarray(pixels).save(root / name)
    (root / "broken.png").write_bytes(b"not a picture")
    detector = Detector(Red(), Tiles(size=16, max_tiles=9), Calibration(thresholds=POINTS), name="red@1", device="cpu")
    write_report(tmp_path / "page.html", detector, root, heatmaps=True)
    browser.get((tmp_path / "page.html").as_uri())
    yield browser
    # Whatever the test did, the page has complained of nothing and asked for nothing but itself.
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked and not [url for url in asked if not url.startswith(("data:", (tmp_path / "page.html").as_uri()))]


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def names(browser):
    cells = find(browser, "#pictures tbody tr:not([hidden]) th")
    return [cell.text.rpartition("/")[2] for cell in cells]


def head(browser, name):
    [found] = [cell for cell in find(browser, "#pictures thead th") if cell.text.startswith(name)]
    return found


def numbers(browser, column):
    cells = find(browser, f"#pictures tbody tr td:nth-child({column})")
    return [float(cell.text) for cell in cells]


def test_columns_sort_by_the_keyboard_both_ways_and_say_how(page):
    assert names(page) == ["<i>c&d.png", "a.png", "b10.png", "b2.png"]
    assert head(page, "#").get_attribute("aria-sort") == "ascending"
    button = head(page, "File").find_element("tag name", "button")
    button.send_keys("\ue007")  # Enter
    assert names(page) == ["<i>c&d.png", "a.png", "b2.png", "b10.png"]
    assert (head(page, "File").get_attribute("aria-sort"), head(page, "#").get_attribute("aria-sort")) == (
        "ascending",
        "none",
    )
    button.send_keys(" ")
    assert names(page) == ["b10.png", "b2.png", "a.png", "<i>c&d.png"]
    assert head(page, "File").get_attribute("aria-sort") == "descending"
    head(page, "Probability").find_element("tag name", "button").click()
    assert numbers(page, 5) == sorted(numbers(page, 5)) and len(set(numbers(page, 5))) > 2


def test_the_filters_hide_rows_and_say_how_many_are_left(page):
    field, [verdict], [shown] = find(page, "#name")[0], find(page, "#verdict"), find(page, "#shown")
    assert shown.text == "4 of 4 shown"
    field.send_keys("B1")
    assert names(page) == ["b10.png"] and shown.text == "1 of 4 shown"
    field.clear()
    field.send_keys("<i>")
    assert names(page) == ["<i>c&d.png"]
    field.send_keys("\ue003" * 3)  # Backspace
    verdict.send_keys("ai")
    assert names(page) == ["b10.png"] and {cell.text for cell in find(page, "#pictures tr:not([hidden]) .ai")} == {"ai"}


def test_a_heat_map_opens_says_of_what_it_is_and_closes_by_the_keyboard(page):
    [viewer], [image] = find(page, "#viewer"), find(page, "#viewer-map")
    assert not viewer.is_displayed()
    button = find(page, "button.map")[0]
    button.send_keys("\ue007")
    assert viewer.is_displayed() and find(page, "#viewer-name")[0].text.endswith("<i>c&d.png")
    assert image.get_attribute("alt").endswith("<i>c&d.png")
    assert page.execute_script(
        "const i = arguments[0]; return i.decode().then(() => [i.naturalWidth, i.naturalHeight])", image
    ) == [30, 40]
    page.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not viewer.is_displayed() and page.switch_to.active_element == button
    find(page, "button.map")[1].click()
    find(page, "#viewer-close")[0].click()
    assert not viewer.is_displayed()


def test_texts_stand_out_in_light_and_in_dark(page):
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        ratios = page.execute_script(CONTRAST)
        assert len(ratios) > 20 and min(ratios) >= 4.5  # level AA of WCAG 2.2


CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = rgb(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const written = (e) => [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
const texts = [...document.querySelectorAll("main *:not(title)")].filter(written);
return texts.map((e) => {
  const style = getComputedStyle(e);
  const [a, b] = [light(rgb(e instanceof SVGElement ? style.fill : style.color)), light(behind(e))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
});
"""
