"""report.html and the page without a verdict: what is in the file."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from verdicts import (
    ALL,
    ENVIRONMENT,
    HOSTILE,
    failing,
    renamed,
    run,
    verdict,
)

from ci_flame.profile import (
    Frame,
    Measurement,
    Mode,
    Process,
    Profile,
    Round,
    Run,
    Weight,
)
from ci_flame.report import html, plain, words


class Page(HTMLParser):
    """Tags, attributes and script texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.text = [], [], [], []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, _tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text.append(data)


# ---- the file ----


@pytest.mark.parametrize("case", ALL)
def test_the_page_is_one_file_that_loads_nothing(case):
    page = Page(html.render(ALL[case]))

    for _, name, value in page.attributes:
        assert name not in {"src", "style", "action"}
        assert not name.startswith("on")
        if name == "href":
            assert value == "data:," or re.fullmatch(r"#b\d+", value), value
    assert not {"img", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    policy = next(v for t, n, v in page.attributes if t == "meta" and n == "content" and "src" in v)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_no_name_breaks_out_of_the_page(name):
    clean = Page(html.render(verdict(renamed(failing(), "harmless"))))
    page = Page(html.render(verdict(renamed(failing(), name))))

    assert page.tags == clean.tags
    data = json.loads(page.scripts[0])
    assert words.visible(name) in data["functions"]
    assert "49" not in [word for text in page.text for word in text.split()], "Jinja saw a name"


def test_the_data_survives_every_text():
    hostile = "".join(HOSTILE.values()) + "</script><!--<script>]]>\u2028\u2029"

    text = html.embed({"a": hostile, "b": [1.5, None]})

    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"a": hostile, "b": [1.5, None]}
    with pytest.raises(ValueError, match="Out of range"):
        html.embed([math.inf])


def test_a_large_page_says_what_it_left_out(monkeypatch):
    monkeypatch.setattr(html, "BOXES", 30)
    monkeypatch.setattr(html, "FUNCTIONS", 10)
    each = failing()

    page = Page(html.render(verdict(each)))

    data = json.loads(page.scripts[0])
    assert len(data["boxes"]["parent"]) == 30
    assert len(data["table"]["frame"]) == 10
    text = " ".join(page.text)
    assert f"{len(each.diff.paths) + 1 - 30} narrow boxes left out" in text
    assert f"{len(each.diff.frames) - 10} functions that changed least are left out" in text


def test_many_findings_are_counted_above_and_shown_below():
    many = verdict(*[failing(f"tests/bench.py::test_{n}") for n in range(html.FINDINGS + 2)])
    text = " ".join(Page(html.render(many)).text)

    assert "2 more below, at their benchmarks." in text
    for each in many.benchmarks:
        assert str(each.findings[0]) in text


def test_a_plain_page_has_one_side():
    text = plain.render(run())
    page = Page(text)
    data = json.loads(page.scripts[0])

    assert text == plain.render(run())
    assert not any(data["boxes"]["before"])
    assert data["boxes"]["after"][0] == pytest.approx(run().measurements[0].profile().value / 2_000)
    assert (
        data["table"]["place"][
            data["table"]["frame"].index(data["names"].index("shop.parser:tokenize"))
        ]
        == "src/shop/parser.py:88"
    )
    assert "interrupted" not in " ".join(page.text)
    assert "interrupted" in " ".join(Page(plain.render(run(complete=False))).text)


def test_a_plain_page_without_benchmarks_or_samples():
    empty = Measurement("a", (Process((Round(1, 0, 0, profiles={Mode.ON_CPU: Profile()}),)),))

    assert "No samples were taken" in plain.render(Run(ENVIRONMENT, (empty,)))
    assert "No benchmark was selected." in plain.render(Run(ENVIRONMENT, ()))


def test_a_function_that_calls_itself_is_counted_once_in_the_plain_table():
    walk = Frame("walk", "m")
    profile = Profile({(walk, walk, walk): Weight(3, 30), (walk,): Weight(1, 10)})
    each = Measurement("a", (Process((Round(1, 40, 40, profiles={Mode.ON_CPU: profile}),)),))

    table = json.loads(Page(plain.render(Run(ENVIRONMENT, (each,)))).scripts[0])["table"]

    assert table["total"]["after"] == [40]
    assert table["own"]["after"] == [40]


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({}, f"{ENVIRONMENT.cpu_model}, Python 3.11.7, ebpf 1,999 Hz"),
        ({"python": ""}, f"{ENVIRONMENT.cpu_model}, ebpf 1,999 Hz"),
        # Imported files do not say where they are from, and few how often they sampled.
        ({"cpu_model": "", "python": "", "collector": "import:folded", "frequency_hz": 0},
         "import:folded"),
    ],
)  # fmt: skip
def test_the_line_on_the_machine(machine, expected):
    assert html.machine(replace(ENVIRONMENT, **machine)) == expected
