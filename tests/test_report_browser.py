"""report.html in a real Chromium."""

# ruff: noqa: E731, S311 - short questions to the page are lambdas; the trees are not secrets

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from verdicts import (
    ALL,
    benchmark_diff,
    change,
    failing,
    run,
    verdict,
)

from ci_flame.profile import (
    Frame,
    Kind,
    Unit,
)
from ci_flame.report import html, json_report, picture, plain, words
from ci_flame.verdict import BenchmarkVerdict, Outcome

CHROMIUM = "/usr/bin/chromium"
SIZES = {"wide": (1400, 900), "laptop": (1280, 800), "narrow": (400, 800)}


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


@pytest.fixture
def show(chromium, tmp_path):
    """Open a page's text in Chromium; any console message, error or request fails the test."""
    pages, trouble = [], []

    def open_page(text, size="wide", **options):
        path = tmp_path / f"{len(pages)}.html"
        path.write_text(text, "utf-8")
        width, height = SIZES[size]
        page = chromium.new_page(viewport={"width": width, "height": height}, **options)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.split("#")[0] in {path.as_uri(), "data:,"}
                else trouble.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert trouble == []


FAIL = html.render(ALL["fail"])
CONTRAST = """() => {
  const channel = (c) => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const seen = [];
  const texts = "h1, h2, dt, dd, .finding, .note, .box:not(.gone), td, th, .tools *, .tabs button,"
    + " .legend span, .outcome";
  for (const e of document.querySelectorAll(texts)) {
    if (!e.checkVisibility() || !e.textContent.trim() || e.matches(":disabled")) continue;
    const fill = (element) => getComputedStyle(element).backgroundColor;
    let under = e;
    while (fill(under) === "rgba(0, 0, 0, 0)") under = under.parentElement;
    const [a, b] = [light(getComputedStyle(e).color), light(fill(under))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    seen.push([ratio, `${e.className}: ${e.textContent.slice(0, 30)}`]);
  }
  return seen.sort((a, b) => a[0] - b[0]).slice(0, 3);
}"""


def box(page, name):
    return page.locator(
        "section:not([hidden]) .box", has=page.locator(f".name:text-is('{name}')")
    ).first


@pytest.mark.browser
def test_the_guilty_box_tells_what_the_verdict_says(show):
    found = json.loads(json_report.render(ALL["fail"]))["benchmarks"][0]["findings"][0]
    told = found["path_change"]
    page = show(FAIL)

    page.locator(".box.guilty").hover()
    tip = page.locator("#tip")
    cells = tip.locator(".figures span").all_inner_texts()

    assert page.locator(".box.guilty").count() == 1
    assert tip.locator(".sentence").inner_text() == found["sentence"]
    assert tip.locator(".who").inner_text() == found["function"]
    assert cells[4:6] == [words.duration(told["before_ns"]), words.duration(told["after_ns"])]
    assert cells[7:9] == [words.share(told["before_share"]), words.share(told["after_share"])]
    assert cells[10:12] == [f"{told['samples_before']:,}", f"{told['samples_after']:,}"]
    assert tip.locator(".change").inner_text() == (
        f"{words.signed(told['growth'])} %, 90 % interval {words.signed(told['low'])} to"
        f" {words.signed(told['high'])} %, +{words.duration(told['after_ns'] - told['before_ns'])}"
        " per iteration"
    )
    label = page.locator(".box.guilty").get_attribute("aria-label")
    assert label.startswith(found["sentence"])


@pytest.mark.browser
def test_the_page_rounds_as_python_does(show):
    page = show(FAIL)
    random.seed(7)
    durations = [random.uniform(0, 10 ** random.randint(0, 12)) for _ in range(300)]
    durations += [0, -1, 9.995, 99.95, 999.5, 999.4999, 1.125, 2.5, 12.25, 112.5, 9.5e12]
    shares = [random.uniform(-2, 2) for _ in range(300)]
    shares += [0, 0.0005, 0.00049, 0.12345, 0.9995, 0.99949, -0.0004, 0.125125, 12.5]

    ours = page.evaluate(
        """([durations, shares]) => [durations.map(ciFlame.format.duration),
           shares.map(ciFlame.format.share), shares.map(ciFlame.format.signed),
           shares.map((share) => ciFlame.format.growth(8, 8 + 8 * share)),
           shares.map((share) => ciFlame.format.interval(share, 50 * share + 1)),
           durations.map((after) => ciFlame.format.difference(1000, after))]""",
        [durations, shares],
    )

    assert ours[0] == [words.duration(each) for each in durations]
    assert ours[1] == [words.share(each) for each in shares]
    assert ours[2] == [words.signed(each) for each in shares]
    assert ours[3] == [
        words.growth(replace(change(1, 1), before_ns=8.0, after_ns=8 + 8 * each)) for each in shares
    ]
    assert ours[4] == [
        words.interval(replace(change(1, 1), low=each, high=50 * each + 1)) for each in shares
    ]
    assert ours[5] == [
        words.change_of_time(replace(change(1, 1), before_ns=1000.0, after_ns=each))
        for each in durations
    ]


@pytest.mark.browser
@pytest.mark.parametrize(
    "query", ["re:", "native", "shop.parser", "Decimal", "nothing at all", "JSON"]
)
def test_matched_counts_nothing_twice(show, query):
    boxes = picture.lay_out(ALL["fail"].benchmarks[0].diff).boxes
    inside, sums = [], [0.0, 0.0]
    for each in boxes:
        covered = each.parent >= 0 and inside[each.parent]
        hit = query.lower() in str(each.frame).lower()
        inside.append(covered or hit)
        if hit and not covered:
            sums[0] += each.change.before_ns
            sums[1] += each.change.after_ns
    root = boxes[0].change
    expected = (
        f"matched {words.share(sums[0] / root.before_ns)} → {words.share(sums[1] / root.after_ns)}"
    )
    page = show(FAIL)

    page.keyboard.press("/")
    page.keyboard.type(query)

    assert page.locator("section:not([hidden]) .matched").inner_text() == expected
    hits = page.locator(".box.hit").evaluate_all("all => all.map((b) => +b.dataset.i)")
    assert all(query.lower() in str(boxes[i].frame).lower() for i in hits)
    assert bool(hits) == any(inside)


@pytest.mark.browser
def test_click_zooms_and_reset_goes_back(show):
    page = show(FAIL)
    graph = page.locator("section:not([hidden]) .graph").bounding_box()
    reset = page.locator("section:not([hidden]) .reset")
    before = page.locator(".box").count()
    assert reset.is_disabled()

    box(page, "Cart.total").click()

    assert box(page, "Cart.total").bounding_box()["width"] == pytest.approx(graph["width"], abs=2)
    assert page.locator(".box.held").count() == 3
    assert box(page, "tokenize").count() == 0
    assert box(page, "Line.price").bounding_box()["width"] > 100
    reset.click()
    assert page.locator(".box").count() == before
    assert page.locator(".box.held").count() == 0


@pytest.mark.browser
def test_a_held_ancestor_zooms_out_to_it(show):
    page = show(FAIL)
    box(page, "Cart.total").click()

    box(page, "checkout").click()

    assert page.locator(".box.held").count() == 2
    assert box(page, "tokenize").count() == 1


@pytest.mark.browser
def test_the_keyboard_reaches_every_box(show):
    page = show(FAIL)
    focused = lambda: page.evaluate("document.activeElement.querySelector('.name')?.textContent")

    page.locator(".box[tabindex='0']").focus()
    assert focused() == "[total]"
    page.keyboard.press("ArrowDown")
    assert focused() == "test_checkout"
    page.keyboard.press("ArrowDown")
    assert focused() == "checkout"
    page.keyboard.press("ArrowDown")
    assert focused() == "Request.parse", "the widest child"
    page.keyboard.press("ArrowRight")
    assert focused() == "Cart.total"
    page.keyboard.press("ArrowLeft")
    assert focused() == "Request.parse"
    assert page.locator("#tip .who").inner_text() == "shop.api:Request.parse"
    page.keyboard.press("Enter")
    assert page.locator(".box.held").count() == 3
    assert focused() == "Request.parse"
    page.keyboard.press("ArrowUp")
    assert focused() == "checkout"
    page.keyboard.press("Escape")
    assert page.locator(".box.held").count() == 0
    assert page.locator(".box[tabindex='0']").count() == 1
    assert page.locator("[role=tree] [role=treeitem][aria-selected='true']").count() <= 1


@pytest.mark.browser
def test_the_table_sorts_and_shows_its_function_in_the_graph(show):
    page = show(FAIL)
    table = page.locator("section:not([hidden]) table")
    names = lambda: table.locator("tbody .name").all_inner_texts()
    heads = table.locator("thead th").all_inner_texts()
    place = next(n for n, head in enumerate(heads, 1) if head.startswith("Share"))
    column = lambda n: table.locator(f"tbody td:nth-child({n})").all_inner_texts()
    expected = [str(f.frame) for f in ALL["fail"].benchmarks[0].diff.frames]

    def shares():
        return [float(text.strip("<% ")) for text in column(place)]

    titles = table.locator("tbody .function button").evaluate_all("all => all.map((b) => b.title)")
    assert [title.split("\n")[0] for title in titles] == expected, "what changed most comes first"
    table.locator("th button", has_text="Share").click()
    assert shares() == sorted(shares(), reverse=True)
    assert table.locator("th[aria-sort='descending']").inner_text().startswith("Share")
    table.locator("th button", has_text="Share").click()
    assert shares() == sorted(shares())
    table.locator("th button", has_text="Function").click()
    assert names() == sorted(names(), key=str.lower)

    table.locator("tbody tr", has_text="scan_once_unicode").click()

    assert page.locator(".box.hit").count() == 2, "in json and in tax"
    assert page.locator("tr.picked").count() == 1
    assert page.locator("section:not([hidden]) .matched").inner_text().startswith("matched")
    page.keyboard.press("Escape")
    assert page.locator(".box.hit").count() == page.locator("tr.picked").count() == 0


@pytest.mark.browser
def test_own_costs_are_one_click_away(show):
    diff = ALL["fail"].benchmarks[0].diff
    guilty = next(f for f in diff.frames if f.frame.function == "tokenize")
    page = show(FAIL)
    row = page.locator("section:not([hidden]) tr.blamed td")

    assert row.all_inner_texts()[1:5] == ["60.1 µs", "75.2 µs", "+15.1 µs", "+25.1 %"]
    page.locator("section:not([hidden]) input[value='own']").check()
    assert row.all_inner_texts()[1] == words.duration(guilty.own.before_ns) == "41.5 µs"


@pytest.mark.browser
def test_vanished_stacks_are_shown_until_they_are_switched_off(show):
    page = show(FAIL)
    vat = lambda: page.locator(".box[aria-label^='shop.tax:vat']").bounding_box()["width"]
    gone = page.locator(".box.gone")
    style = gone.first.evaluate(
        "b => [getComputedStyle(b).outlineStyle, getComputedStyle(b).backgroundImage]"
    )
    wide = vat()

    assert gone.count() == 3
    assert style[0] == "dashed"
    assert "gradient" in style[1]
    page.locator("section:not([hidden]) .vanished").uncheck()
    assert gone.count() == 0
    assert vat() < wide


@pytest.mark.browser
def test_widths_of_one_side(show):
    page = show(FAIL)
    width = lambda name: page.locator(f".box[aria-label^='{name}']").bounding_box()["width"]
    whole = page.locator("section:not([hidden]) .graph").bounding_box()["width"]

    for side, expected in (("before", 26.0 / 396.9), ("after", 17.3 / 403.6)):
        page.locator(f"section:not([hidden]) .side[value='{side}']").check()
        assert width("shop.tax:vat") == pytest.approx(whole * expected, abs=2)


@pytest.mark.browser
def test_noise_is_grey_and_certain_changes_are_not(show):
    page = show(FAIL)
    boxes = picture.lay_out(ALL["fail"].benchmarks[0].diff).boxes
    seen = page.locator("section:not([hidden]) .box").evaluate_all(
        "all => all.map((b) => [+b.dataset.i, getComputedStyle(b).getPropertyValue('--fill')])"
    )
    style = "getComputedStyle(document.documentElement).getPropertyValue"
    styles = page.evaluate(f"['--same', '--up4', '--down4'].map((name) => {style}(name))")
    grey = {
        fill
        for i, fill in seen
        if boxes[i].frame.kind is Kind.PYTHON and not picture.tone(boxes[i].change)
    }

    assert grey == {styles[0]}
    for i, fill in seen:
        if abs(picture.tone(boxes[i].change)) == 4:
            assert fill == styles[1 if boxes[i].change.after_ns > boxes[i].change.before_ns else 2]


@pytest.mark.browser
def test_tabs_and_findings_lead_to_their_benchmark(show):
    page = show(
        html.render(verdict(ALL["pass"].benchmarks[0], failing(), ALL["no-baseline"].benchmarks[0]))
    )
    shown = lambda: page.locator("section:not([hidden]) h2 bdi").inner_text()

    assert "test_checkout" in shown(), "the worst benchmark is shown first"
    page.locator("[role=tab]").nth(2).click()
    assert "test_new" in shown()
    assert page.locator("section:not([hidden]) .box").count() == 0
    page.keyboard.press("ArrowRight")
    assert "test_search" in shown()
    page.locator(".findings a").click()
    assert "test_checkout" in shown()
    assert "tokenize" in page.evaluate("document.activeElement.textContent")


@pytest.mark.browser
@pytest.mark.parametrize("side", ["both", "before", "after"])
def test_a_box_that_is_asked_for_is_seen_however_narrow_it_is(show, side):
    """Also one that the chosen side does not have, or that was hidden as vanished."""
    page = show(FAIL, "narrow")
    page.evaluate(f"document.querySelector('.side[value={side}]').click()")
    page.evaluate("document.querySelector('.vanished').click()")

    seen = page.evaluate(
        """() => {
          const benchmark = [...ciFlame.benchmarks.values()][0];
          const { before, after } = benchmark.boxes;
          const all = [...before.keys()].filter((i) => before[i] + after[i] > 0);
          return all.map((i) => {
            benchmark.reveal(i);
            const element = document.activeElement;
            return [i, Number(element.dataset.i), element.getBoundingClientRect().width];
          });
        }"""
    )

    assert len(seen) > 10
    assert [asked for asked, *_ in seen] == [focused for _, focused, _ in seen]
    assert min(width for *_, width in seen) >= 20


@pytest.mark.browser
def test_a_sentence_that_has_no_room_above_is_at_its_benchmark(show):
    many = [failing(f"tests/bench.py::test_{n}") for n in range(html.FINDINGS + 1)]
    page = show(html.render(verdict(*many)))
    local = page.locator("section:not([hidden]) .finding").locator("visible=true")

    assert local.count() == 0, "it is above already"
    page.locator("[role=tab]").last.click()
    assert local.inner_text() == str(many[-1].findings[0])


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_text_has_contrast(show, size, scheme):
    page = show(FAIL, size, color_scheme=scheme)

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ratios = page.evaluate(CONTRAST)
    assert ratios[0][0] >= 4.5, ratios


@pytest.mark.browser
@pytest.mark.parametrize("case", [case for case in ALL if case != "fail"])
def test_every_verdict_opens_without_a_sound(show, case):
    page = show(html.render(ALL[case]))

    assert page.evaluate("typeof ciFlame") == "object"
    assert page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
@pytest.mark.parametrize("unit", Unit)
def test_a_plain_page_zooms_and_searches(show, unit):
    page = show(plain.render(run(unit)))
    whole = run().measurements[0].profile()
    shop = sum(w.value for s, w in whole.stacks.items() if any(f.module == "shop.cart" for f in s))

    page.locator(".search").fill("shop.cart")
    box(page, "Cart.total").hover()

    assert page.locator(".matched").inner_text() == f"matched {words.share(shop / whole.value)}"
    assert page.locator("#tip .who").inner_text() == "shop.cart:Cart.total"
    assert ("samples" if unit is Unit.SAMPLES else "per iteration") in page.locator(
        "#tip"
    ).inner_text()
    assert page.locator("tbody tr").count() == len({f for s in whole.stacks for f in s})
    assert page.locator(".vanished, .side").count() == 0


@pytest.mark.browser
def test_what_is_new_is_drawn_plain_beside_what_was_compared(show):
    measurement = run().measurements[0]
    new = BenchmarkVerdict(
        "tests/bench_shop.py::test_new", "on-cpu", Outcome.NO_BASELINE, (), (), None,
        alone=measurement,
    )  # fmt: skip
    page = show(html.render(verdict(failing(), new)))
    whole = measurement.profile()

    page.locator("[role=tab]", has_text="test_new").click()
    section = page.locator("section:visible")
    box(page, "Cart.total").hover()

    assert section.locator("h2 .outcome").inner_text().lower() == "no-baseline"
    assert page.locator("#tip .figures").inner_text().split("\n")[0] == "cost"
    assert section.locator("tbody tr").count() == len({f for s in whole.stacks for f in s})
    assert section.locator("thead th").all_inner_texts()[1] == "Cost"
    assert section.locator(".vanished, .side").count() == 0
    page.locator("[role=tab]").first.click()
    assert "Growth" in page.locator("section:visible thead").inner_text()


@pytest.mark.browser
def test_twenty_thousand_boxes_are_drawn_where_one_can_see_them(show):
    random.seed(3)
    own = {}
    stack = (Frame("root", "m"),)
    own[stack] = (1.0, 1.0)
    paths = [stack]
    while len(own) < 20_000:
        parent = random.choice(paths[-4_000:])
        path = (*parent, Frame(f"f{random.randrange(900)}", f"m{random.randrange(30)}"))
        if len(path) < 90 and path not in own:
            cost = random.expovariate(1)
            own[path] = (cost, cost * random.uniform(0.9, 1.1))
            paths.append(path)
    page = show(html.render(verdict(replace(failing(), diff=large_diff(own), findings=()))))

    assert page.evaluate("[...ciFlame.benchmarks.values()][0].count") == html.BOXES
    widths = page.locator(".box").evaluate_all("all => all.map((b) => parseFloat(b.style.width))")
    assert 500 < len(widths) < html.BOXES
    assert min(widths) >= 0.5
    page.locator(".search").fill("m7:")
    assert page.locator(".matched").inner_text().startswith("matched ")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        (1_200, 5),  # of 1,172 px each is about one: a stack that was seen once
        (200, 122),  # six pixels: to be seen and to be clicked at
    ],
)
def test_only_what_can_be_seen_sets_the_height(show, parts, rows):
    spike = [Frame("root", "m"), *(Frame(f"f{n:03}", "deep") for n in range(120))]
    own = {(spike[0],): (0.0, 0.0)}
    own |= {tuple(spike[: n + 1]): (0.0, 0.0) for n in range(1, 120)}
    own[tuple(spike)] = (1.0, 1.0)
    wide = (spike[0], Frame("a", "m"), Frame("b", "m"))
    own |= {wide[:2]: (0.0, 0.0), wide: (0.0, 0.0)}
    own[*wide, Frame("c", "m")] = (parts - 1.0, parts - 1.0)
    seen = verdict(replace(failing(), diff=large_diff(own), findings=()))
    page = show(html.render(seen))

    height = page.locator(".graph").evaluate("(graph) => parseFloat(graph.style.height)")
    row = page.evaluate("[...ciFlame.benchmarks.values()][0].rowHeight")
    bottom = page.locator(".box").evaluate_all(
        "all => Math.max(...all.map((b) => parseFloat(b.style.top)))"
    )

    assert height == rows * row + 4
    assert bottom == (rows - 1) * row
    # Nothing is lost: zoomed to, the column is as high as it is deep.
    page.evaluate(
        "(() => { const b = [...ciFlame.benchmarks.values()][0];"
        " b.zoom(b.boxes.frame.findIndex((f) => b.data.names[f] === 'deep:f000')); })()"
    )
    assert page.locator(".graph").evaluate("(graph) => parseFloat(graph.style.height)") > 100 * row


def large_diff(own):
    """Return a diff of many nodes; totals added up in one pass."""
    from ci_flame.diff import PathChange

    total = {path: list(cost) for path, cost in own.items()}
    for path in sorted(own, key=len, reverse=True):
        if len(path) > 1:
            total[path[:-1]][0] += total[path][0]
            total[path[:-1]][1] += total[path][1]
    whole = total[min(own, key=len)]
    told = lambda cost: change(*cost, total_before_us=whole[0], total_after_us=whole[1])
    small = benchmark_diff()
    nodes = tuple(PathChange(p, told(own[p]), told(total[p]), judged=True) for p in sorted(own))
    return replace(small, total=told(whole), paths=nodes)


@pytest.mark.browser
def test_pictures_for_people(show, tmp_path):
    """Screenshots go to CI_FLAME_SHOTS where it is set; printing keeps the graph."""
    folder = Path(os.environ.get("CI_FLAME_SHOTS") or tmp_path)
    page = show(FAIL, color_scheme="light")
    page.locator(".box.guilty").hover()
    page.screenshot(path=folder / "report.png")
    page.emulate_media(media="print")

    assert (folder / "report.png").stat().st_size > 20_000
    assert page.locator(".box.guilty").is_visible()
    assert not page.locator("section:not([hidden]) .tools").first.is_visible()


CUT = """() => [...document.querySelectorAll("section:not([hidden]) td.function .name")]
  .filter((e) => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > innerWidth)
  .map((e) => e.textContent)"""


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES)
def test_names_of_functions_can_be_read_whole(show, size):
    name = "test_search_of_the_whole_catalogue"
    diff = benchmark_diff()
    frames = tuple(
        replace(each, frame=Frame("shop.search", f"{name}_{n}"))
        for n, each in enumerate(diff.frames)
    )
    each = replace(failing(), diff=replace(diff, frames=frames), findings=())
    page = show(html.render(verdict(each)), size)

    assert page.locator("section:not([hidden]) td.function .name").count() == len(frames)
    assert page.evaluate(CUT) == []
    figures = page.locator("section:not([hidden]) tbody td.growth")
    assert all(figures.nth(n).is_visible() for n in range(figures.count()))
    ends = "all => Math.max(...all.map((e) => e.getBoundingClientRect().right))"
    assert figures.evaluate_all(ends) <= SIZES[size][0]


@pytest.mark.browser
def test_the_row_of_a_finding_has_its_own_figure_and_says_which(show):
    each = failing()
    (one,) = each.findings
    frame = next(frame for frame in each.diff.frames if frame.frame == one.frame)
    own = replace(one, change=frame.own, self_only=True, under="shop:main")
    page = show(html.render(verdict(replace(each, findings=(own,)))))
    row = page.locator("section:not([hidden]) tr.blamed")

    assert words.growth(frame.own) != words.growth(frame.total)
    assert row.locator(".about").inner_text() == "(own cost, under shop:main)"
    assert row.locator("td.growth").inner_text() == words.growth(frame.own)
    page.locator("section:not([hidden]) input.costs[value=own]").check(force=True)
    assert row.locator(".about").count() == 0
