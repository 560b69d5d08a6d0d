"""static.html and the pictures as Jenkins serves them: no script, no style but the sheet."""

import functools
import http.server
import re
import threading
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from synthetic import SHOP, synthetic_measurement, synthetic_run
from test_report_browser import CHROMIUM
from test_report_text import OUTCOMES, check_golden
from verdicts import ALL, NAMES, failing, finding, hostile, passing, verdict

from ci_flame import report_folder
from ci_flame.baseline import folder
from ci_flame.diff import diff
from ci_flame.report import REPORTERS, static, svg
from ci_flame.verdict import Outcome

POLICY = "sandbox; default-src 'none'; img-src 'self'; style-src 'self'"
"""Jenkins' own, of what a build archived."""


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def page_of(given):
    text = static.render(given)
    text.encode("utf-8", "strict")
    return Page(text)


ALLOWED = frozenset({"html", "head", "meta", "title", "link", "body", "header", "h1", "h2", "span",
                     "p", "nav", "table", "thead", "tbody", "tr", "th", "td", "a", "section", "img",
                     "br", "code", "footer", "div"})  # fmt: skip


def check_plain(page):
    """Nothing that such a policy forbids, and nothing that a name has added."""
    assert {tag for tag, _ in page.tags} <= ALLOWED
    for tag, attributes in page.tags:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for key in {"href", "src"} & set(attributes):
            assert re.fullmatch(r"#b\d+|static\.css|[A-Za-z0-9._%~-]+\.svg", attributes[key])
        assert tag != "link" or attributes["href"] == static.STYLESHEET


@pytest.mark.parametrize("case", ALL)
def test_every_verdict_is_plain_html(case):
    page = page_of(ALL[case])

    check_plain(page)
    assert f"ci-flame: {ALL[case].outcome.value.upper()}" in "".join(page.text)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_golden(outcome):
    check_golden(f"{outcome}.static.html", static.render(ALL[outcome]))


@given(NAMES)
@settings(max_examples=30, deadline=None)
def test_whatever_names_are_they_are_only_text(name):
    page = page_of(hostile(name))

    check_plain(page)
    assert [tag for tag, _ in page.tags].count("img") == 1


def test_the_sentence_stands_with_its_place_and_picture():
    page = page_of(ALL["fail"])
    text = "".join(page.text)
    each = ALL["fail"].benchmarks[0]

    assert str(each.findings[0]) in text
    assert "src/shop/parser.py:88" in text
    assert ("img", svg.file_name(each)) in [(tag, a.get("src")) for tag, a in page.tags]


def test_the_worst_benchmarks_are_on_the_page(monkeypatch):
    monkeypatch.setattr(static, "BENCHMARKS", 2)
    monkeypatch.setattr(static, "FINDINGS", 1)
    two = replace(failing(), findings=(failing().findings[0], finding(failing().diff, "[total]")))
    text = "".join(page_of(verdict(passing("a"), passing("b"), two)).text)

    assert "1 benchmark left out here; all are in report.html" in text
    assert "tokenize grew by" in text
    assert "the benchmark itself" not in text


def test_a_mode_is_named():
    each = replace(failing(outcome=Outcome.WARN), mode="off-cpu")

    assert f"{each.benchmark} [off-cpu]" in "".join(page_of(verdict(each)).text)


def test_a_tree_that_differs_from_its_commit_is_called_changed(tmp_path):
    before, after = (
        replace(synthetic_run(synthetic_measurement(SHOP, seed=n)), commit="1a2b3c4d5e" * 4)
        for n in (1, 2)
    )
    for run, name in ((before, "before"), (replace(after, dirty=True), "after")):
        folder.save(run, tmp_path / name)
    found = diff(folder.load(tmp_path / "before"), folder.load(tmp_path / "after"))
    compared = replace(verdict(passing()), diff=found)
    clean = replace(verdict(passing()), diff=diff(before, after))

    for text in (static.render(compared), REPORTERS["html"](compared)):
        assert "after (changed)" in text
        assert "before (changed)" not in text
    assert "(changed)" not in static.render(clean) + REPORTERS["html"](clean)


def test_waiting_is_called_waiting_everywhere():
    each = replace(failing(), mode="off-cpu")
    told = "".join(page_of(verdict(each)).text)
    drawn = svg.render(each)

    assert "Of the waiting" in told
    assert "Of the benchmark" not in told
    assert re.search(r"waits [\d.]+ µs → [\d.]+ µs per iteration", told)
    assert "Differential flame graph of the waiting of " in drawn
    assert re.search(r">FAIL  \S+ \[off-cpu\]</text>", drawn)
    assert re.search(r">waits [\d.]+ µs → [\d.]+ µs per iteration", drawn)
    assert " of the benchmark\n" not in drawn
    assert "| of the waiting |" in REPORTERS["markdown"](verdict(each))
    assert "Of the waiting, after" in REPORTERS["html"](verdict(each))
    assert "Of the waiting" not in "".join(page_of(ALL["fail"]).text)
    assert ">waits " not in svg.render(failing())


# ---- in a browser ----


class _Archive(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(tmp_path):
    """Serve a folder under Jenkins' policy; return the folder and its address."""
    handler = functools.partial(_Archive, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture(scope="module")
def chromium():
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def write(folder, given, page="static.html", text=None):
    (folder / page).write_text(text or static.render(given), "utf-8")
    for name, data in report_folder.beside_static(given):
        (folder / name).write_text(data, "utf-8")


def opened(chromium, address, width=1280):
    """Return a page and what its console said."""
    said = []
    page = chromium.new_page(viewport={"width": width, "height": 1000})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    answer = page.goto(address, wait_until="load")
    assert answer.headers["content-security-policy"] == POLICY
    return page, said


# Counts pixels by colour of what is on screen: `evaluate` runs beside the page's policy.
def colours(chromium, png):
    import base64

    page = chromium.new_page()
    found = page.evaluate(
        """async (data) => {
          const image = new Image();
          image.src = "data:image/png;base64," + data;
          await image.decode();
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.width, image.height];
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const seen = {};
          const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
          for (let i = 0; i < pixels.length; i += 4) {
            const hex = (n) => pixels[i + n].toString(16).padStart(2, "0");
            const key = "#" + hex(0) + hex(1) + hex(2);
            seen[key] = (seen[key] || 0) + 1;
          }
          return seen;
        }""",
        base64.b64encode(png).decode(),
    )
    page.close()
    return found


@pytest.mark.browser
def test_jenkins_shows_the_page_with_its_colours_and_picture(archive, chromium):
    folder, address = archive
    write(folder, ALL["fail"])
    page, said = opened(chromium, f"{address}/static.html")
    badge = page.locator("h1 .outcome")
    picture = page.locator("section img").first

    assert said == []
    assert badge.inner_text() == "FAIL"
    assert badge.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(179, 38, 30)"
    assert "shop.parser:tokenize grew by 25 %" in page.locator(".finding").inner_text()
    assert picture.evaluate("e => e.naturalWidth") == svg.WIDTH
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    seen = colours(chromium, picture.screenshot())
    for fill in (svg.FILLS[3], svg.FILLS[0], svg.EDGE):
        assert seen.get(fill, 0) > 100, fill
    page.close()


@pytest.mark.browser
def test_jenkins_shows_a_picture_alone(archive, chromium):
    folder, address = archive
    write(folder, ALL["fail"])
    page, said = opened(chromium, f"{address}/{svg.file_name(ALL['fail'].benchmarks[0])}")
    seen = colours(chromium, page.screenshot())

    assert said == []
    assert seen.get(svg.FILLS[3], 0) > 100
    assert seen.get(svg.EDGE, 0) > 100
    assert page.locator("title").count() > 50
    page.close()


@pytest.mark.browser
def test_a_narrow_page_does_not_scroll_sideways(archive, chromium):
    folder, address = archive
    write(folder, ALL["fail"])
    page, said = opened(chromium, f"{address}/static.html")
    page.set_viewport_size({"width": 400, "height": 800})
    names = page.locator("section td:first-child code").first

    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert names.bounding_box()["width"] >= 100
    page.close()


@pytest.mark.browser
def test_a_script_or_a_style_of_its_own_would_be_seen_by_these_tests(archive, chromium):
    folder, address = archive
    write(folder, ALL["fail"], text=REPORTERS["html"](ALL["fail"]))
    page, said = opened(chromium, f"{address}/static.html")

    assert any("Content Security Policy" in each for each in said)
    page.close()


@pytest.mark.browser
def test_names_from_a_profile_are_text_on_the_page(archive, chromium):
    folder, address = archive
    write(folder, ALL["hostile-script"])
    page, said = opened(chromium, f"{address}/static.html")

    assert said == []
    assert "<script>alert(1)</script>" in page.locator("h2").inner_text()
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
def test_growth_is_on_the_screen_and_names_have_its_width(chromium, archive, width):
    folder, address = archive
    name = "benchmarks/test_catalogue.py::test_search_of_the_whole_catalogue"
    write(folder, verdict(failing(), passing(name)))
    page, said = opened(chromium, f"{address}/static.html", width)
    right = "all => Math.max(...all.map((e) => e.getBoundingClientRect().right))"
    high = "all => Math.max(...all.map((e) => e.getClientRects().length))"

    growth = page.locator("nav td:nth-child(5), section td:nth-child(4)")
    assert growth.count() > 4
    assert all(growth.nth(n).is_visible() for n in range(growth.count()))
    assert growth.evaluate_all(right) <= width
    assert page.locator("nav a").evaluate_all(high) <= 2  # lines
    assert page.locator("img").first.bounding_box()["width"] >= 890
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
