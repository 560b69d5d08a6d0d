"""Metrics, latencies and the collector's cost, as every report shows them."""

import json
import re
from dataclasses import replace

import jsonschema
import pytest
from synthetic import SHOP, WAITS, longer, synthetic_measurement, synthetic_run, synthetic_waits
from test_report_text import SCHEMA, WRITERS

from ci_flame.diff import diff
from ci_flame.diff.figures import figures
from ci_flame.judge import judge
from ci_flame.policy import Policy, Rule
from ci_flame.profile import Histogram, Mode
from ci_flame.report import REPORTERS, json_report, machine, plain, terminal
from ci_flame.verdict import Outcome

RUN_QUEUE = Histogram({0: 400, 12: 900, 20: 300, 28: 40, 40: 8, 52: 1})
DISK = Histogram({24: 10, 30: 200, 36: 90, 44: 12, 56: 2})
METRICS = {
    "collector.percent": 2.4,
    "collector.bpf.on_cpu.ns": 12e6,
    "collector.bpf.on_cpu.runs": 4000.0,
    "collector.bpf.<odd>&.ns": 1e6,
    "collector.bpf.<odd>&.runs": 10.0,
    "run_queue.percent": 3.21,
    "run_queue.p99_ms": 1.7,
    "block_io.p99_ms": 14.0,
    "bpftrace.switches.@[<script>]": 12345.0,
}


def with_figures(measurement, factor=1.0, histograms=None):
    return replace(
        measurement,
        processes=tuple(
            replace(
                process,
                metrics={name: value * factor * (1 + n / 100) for name, value in METRICS.items()},
                histograms=histograms
                or {"run_queue": RUN_QUEUE, "block_io.vda.write": DISK, "block_io.vdb.read": DISK},
            )
            for n, process in enumerate(measurement.processes)
        ),
    )


def both_modes(seed, factor=1.0, part="nothing"):
    """Return a benchmark on the CPU and one that waits, both measured with the machine."""
    waits = synthetic_waits(
        longer(WAITS, part, 1.5), seed=seed, benchmark="bench.py::test_waits", processes=3
    )
    return synthetic_run(
        with_figures(synthetic_measurement(SHOP, seed=seed), factor), with_figures(waits, factor)
    )


def judged(policy=None, part="nothing", factor=1.0):
    before, after = both_modes(1), both_modes(2, factor, part)
    return judge(diff(before, after), policy or Policy(), after=after)


RULES = Policy(rules=(*Policy().rules, Rule(metric="run_queue.p99_ms", maximum=1.0)))


@pytest.mark.parametrize("reporter", WRITERS)
def test_every_reporter_writes_metrics_and_waiting_the_same_twice(reporter):
    verdict = judged(RULES, "mail", 1.5)

    assert verdict.outcome is Outcome.FAIL
    assert WRITERS[reporter](verdict) == WRITERS[reporter](verdict)


@pytest.mark.parametrize("reporter", ["terminal", "markdown", "junit", "html", "json"])
def test_every_text_has_the_sentence_of_a_metric_and_of_a_wait(reporter):
    text = re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), REPORTERS[reporter](judged(RULES, "mail")))
    text = re.sub(r"</?code>", "", text)  # a sentence shows its function as code
    text = text.replace("&gt;", ">").replace("\N{WORD JOINER}", "")
    text = re.sub("</?code>", "", text)  # the summary sets names in it

    assert "run_queue.p99_ms is 1.73 ms (median of 5 processes); limit 1 ms." in text
    assert "shop.mail:send waits 5" in text


def test_the_line_tells_cost_delay_and_disk():
    verdict = judged()
    (line,) = [
        line.strip()
        for line in terminal.benchmark_lines(verdict.benchmarks[0])
        if "collector" in line
    ]

    assert line.startswith("collector 2.45 % of a CPU (on_cpu 3.00 µs x ")
    assert (
        "; the benchmark waited for a CPU 3.27 % of the time (99 % of the waits under 1.73 ms);"
        in line
    )
    assert line.endswith("; 99 % of the disk requests under 14.3 ms")


def test_no_latency_is_told_of_no_requests():
    def told(requests):
        run = synthetic_run(synthetic_measurement(SHOP))
        figured = {"block_io.p99_ms": 0.0 if requests == 0 else 0.3, "block_io.requests": requests}
        (measurement,) = run.measurements
        processes = tuple(replace(each, metrics=figured) for each in measurement.processes)
        return machine.line(figures(None, replace(measurement, processes=processes)))

    assert told(0.0) == ""
    assert told(1.0) == "99 % of the disk requests under 0.3 ms"


def test_without_figures_nothing_is_said():
    run = synthetic_run(synthetic_measurement(SHOP))
    verdict = judge(diff(run, run), Policy(), after=run)

    assert machine.line(verdict.benchmarks[0].figures) == ""
    assert machine.values(verdict.benchmarks[0].figures) is None
    assert "Machine and collector" not in REPORTERS["html"](verdict)


def test_the_document_is_of_the_schema_and_whole():
    document = json_report.document(judged(RULES))
    jsonschema.validate(document, SCHEMA)
    of = document["benchmarks"][0]["figures"]

    assert len(of["metrics"]["run_queue.p99_ms"]["after"]) == 5
    buckets = of["histograms"]["run_queue"]["after"]
    assert sum(number for _, number in buckets) == 5 * RUN_QUEUE.count
    assert [upper for upper, _ in buckets] == sorted(upper for upper, _ in buckets)
    assert [each["name"] for each in of["programs"]] == ["on_cpu", "<odd>&"]
    assert document["benchmarks"][0]["findings"][0]["metric"]["threshold"] == 1.0
    json.dumps(document, allow_nan=False)


def test_only_the_first_mode_of_a_benchmark_carries_the_figures():
    after = with_figures(synthetic_measurement(SHOP))
    waiting = replace(
        after,
        processes=tuple(
            replace(
                process,
                rounds=tuple(
                    replace(
                        each,
                        profiles={
                            **each.profiles,
                            Mode.OFF_CPU: replace(each.profiles[Mode.ON_CPU], stacks={}),
                        },
                    )
                    for each in process.rounds
                ),
            )
            for process in after.processes
        ),
    )
    run = synthetic_run(waiting)
    verdict = judge(diff(run, run), Policy(), after=run)

    assert [(each.mode, each.figures is None) for each in verdict.benchmarks] == [
        ("on-cpu", False),
        ("off-cpu", True),
    ]


def test_the_page_holds_bars_and_the_same_as_a_table():
    page = REPORTERS["html"](judged())
    values = machine.values(figures(None, with_figures(synthetic_measurement(SHOP))))
    queue = next(each for each in values["histograms"] if each["name"] == "run_queue")

    assert "<h4>block_io.vda.write</h4>" in page
    assert page.count('class="after"') > 10
    assert "&lt;odd&gt;&amp;" in page
    assert "@[<script>]" not in page
    assert 'style="' not in page  # the page's content policy forbids it
    assert max(bar.after_height for bar in queue["bars"]) == machine.HEIGHT
    assert sum(int(row["after"].replace(",", "")) for row in queue["rows"]) == 5 * RUN_QUEUE.count
    assert queue["rows"][0]["range"] == "0 to 2.00 µs"
    assert queue["told"].startswith("8,245, half under 9.00 µs, 99 % under ")


def test_a_page_of_a_run_shows_them_without_a_before_side():
    page = plain.render(both_modes(1))

    assert "Machine and collector" in page
    assert '<th scope="col">Before</th>' not in page
    assert '<section class="benchmark waiting"' in page
    assert "Waits per iteration" in page


def test_one_latency_alone_is_drawn():
    only = {"run_queue": Histogram({0: 1})}
    values = machine.values(
        figures(None, with_figures(synthetic_measurement(SHOP), histograms=only))
    )
    (queue,) = values["histograms"]

    assert len(queue["bars"]) == 4
    assert queue["bars"][0].after_height == machine.HEIGHT
