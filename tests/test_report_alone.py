"""What reports tell of a benchmark that there is nothing to compare with."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SHOP, synthetic_measurement

from ci_flame.judge import judge_alone
from ci_flame.policy import Policy
from ci_flame.profile import Frame, Measurement, Mode, Process, Profile, Round, Unit, Weight
from ci_flame.report import alone, markdown, svg, terminal
from ci_flame.verdict import Note, Outcome, Verdict

NS = "{http://www.w3.org/2000/svg}"


def measured(stacks, mode=Mode.ON_CPU, *, iterations=10, processes=1, unit=Unit.NANOSECONDS):
    profile = Profile(
        {
            tuple(map(Frame.parse, path.split(";"))): Weight(1, value)
            for path, value in stacks.items()
        },
        unit,
        iterations,
    )
    each = Round(iterations, 1, 1, profiles={mode: profile})
    return Measurement("bench::test_shop", (Process((each,)),) * processes)


@pytest.mark.parametrize(
    ("stacks", "most"),
    [
        ({"t:t": 700, "t:t;m:f": 300}, "; most own cost: t:t 70.0 %, m:f 30.0 %"),
        # What the interpreter and the kernel did, the function did that called them.
        (
            {"t:t;m:f;native:libpython3.11:visit": 600, "t:t;m:f;kernel:read;kernel:copy": 400},
            "; most own cost: m:f 100.0 %",
        ),
        # Both sides of what is worth a name, and three at most.
        ({"t:a": 50, "t:b": 49, "t:c": 901}, "; most own cost: t:c 90.1 %, t:a 5.0 %"),
        (
            {f"t:{n}": 250 for n in "abcd"},
            "; most own cost: t:a 25.0 %, t:b 25.0 %, t:c 25.0 %",
        ),
        ({f"t:f{n}": 10 for n in range(100)}, ""),
    ],
)
def test_cost_and_where_most_of_it_is(stacks, most):
    told = alone.line(measured(stacks), Mode.ON_CPU)

    assert told == f"100 ns per iteration, as timed, 1 process{most}"


def test_nothing_is_told_of_no_samples():
    assert alone.line(measured({}), Mode.ON_CPU) == ""


def test_waits_for_a_cpu_are_not_the_benchmark_s():
    stacks = {"t:t;m:get;kernel:do_nanosleep;[sleep]": 800, "t:t;m:get;[run queue]": 9200}
    made = measured(stacks, Mode.OFF_CPU, processes=3)

    assert alone.line(made, Mode.OFF_CPU) == (
        "waits 80.0 ns per iteration, as timed, 3 processes; most own cost: m:get 100.0 %"
    )


def test_samples_without_time_are_counted():
    made = measured({"main": 7}, iterations=1, unit=Unit.SAMPLES)

    assert alone.line(made, Mode.ON_CPU) == "1 samples, 1 process; most own cost: main 100.0 %"


def verdict_alone():
    made = synthetic_measurement(SHOP)
    judged = judge_alone(made, Mode.ON_CPU, Policy(), Note("no-baseline", "none"))
    return Verdict(Outcome.NO_BASELINE, (judged,), (), None, Policy())


@pytest.mark.parametrize("render", [terminal.render, markdown.render])
def test_a_first_run_tells_where_the_time_goes(render):
    verdict = verdict_alone()
    told = alone.line(verdict.benchmarks[0].alone, Mode.ON_CPU)

    assert "per iteration, as timed" in told
    shown = render(verdict)
    assert (told if render is terminal.render else markdown.text(told)) in shown


def test_notes_are_said_once_of_the_modes_of_a_benchmark():
    (one,) = verdict_alone().benchmarks
    busy = Note("recording", "3 of 200 rounds left out", one.benchmark)
    first = replace(one, notes=(busy,))
    second = replace(one, mode="off-cpu", notes=(busy, Note("waits", "other", one.benchmark)))
    third = replace(one, benchmark="bench::test_other", notes=(busy,))
    shown = terminal.render(
        Verdict(Outcome.NO_BASELINE, (first, second, third), (), None, Policy())
    )

    assert shown.count("3 of 200 rounds left out") == 2
    assert shown.count("note: other") == 1


def test_the_picture_of_a_first_run_is_a_plain_flame_graph():
    drawn = svg.render(verdict_alone().benchmarks[0])
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    boxes = {
        group.find(f"{NS}title").text.splitlines()[0]: group.find(f"{NS}rect").attrib
        for group in root.iter(f"{NS}g")
    }
    profile = verdict_alone().benchmarks[0].alone.profile(Mode.ON_CPU)
    whole = float(boxes["[total]: the whole benchmark"]["width"])

    assert root.find(f"{NS}title").text.startswith("Flame graph of")
    assert set(boxes) == {"[total]: the whole benchmark"} | {
        str(frame) for stack in profile.stacks for frame in stack
    }
    for frame, _own, total in alone.functions(profile):
        part = float(boxes[str(frame)]["width"]) / whole
        assert abs(part - total.value / profile.value) < 0.01
    lowest = max(float(box["y"]) + float(box["height"]) for box in boxes.values())
    assert lowest < float(root.attrib["height"])


@pytest.mark.parametrize(("depth", "rows"), [(298, 300), (299, 300), (400, 300)])
def test_a_stack_of_any_depth_ends_inside_the_picture(depth, rows):
    names = ";".join(f"f{n}" for n in range(depth + 1))
    made = measured({names: 100})
    judged = judge_alone(made, Mode.ON_CPU, Policy(), Note("no-baseline", "none"))
    drawn = svg.render(judged)

    assert drawn.count("<g>") == rows


def test_no_samples_draw_nothing():
    judged = judge_alone(measured({}), Mode.ON_CPU, Policy(), Note("no-baseline", "none"))

    assert "<g>" not in svg.render(judged)


STACKS = st.dictionaries(
    st.lists(st.sampled_from([Frame(name, "m") for name in "abc"]), min_size=1, max_size=6).map(
        tuple
    ),
    st.builds(Weight, st.integers(0, 9), st.integers(0, 99)),
    max_size=12,
)


@given(STACKS)
def test_the_tree_holds_each_path_once_with_all_that_is_below_it(stacks):
    nodes = alone.tree(Profile(stacks))
    paths = [()]
    for frame, parent, _ in nodes[1:]:
        paths.append((*paths[parent], frame))

    assert paths[1:] == sorted(
        {stack[:end] for stack in stacks for end in range(1, len(stack) + 1)}
    )
    for path, (_, _, weight) in zip(paths, nodes, strict=True):
        inside = [w for stack, w in stacks.items() if stack[: len(path)] == path]
        assert weight == sum(inside, Weight(0, 0))


def test_a_deep_stack_is_no_longer_than_it_is_deep():
    """4,096 frames are what an import may hold; their paths would be eight million."""
    frames = tuple(Frame(f"f{n}", "m") for n in range(4096))
    nodes = alone.tree(Profile({frames[:end]: Weight(1, 1) for end in (4000, 4095, 4096)}))

    assert len(nodes) == 4097
    assert nodes[4000][2] == Weight(3, 3)
    assert nodes[4096] == (frames[4095], 4095, Weight(1, 1))
