"""The layout of a differential flame graph: widths, colours, the guilty box."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdicts import benchmark_diff, change, failing, finding, tree

from ci_flame.diff import PathChange
from ci_flame.profile import TOTAL, Frame
from ci_flame.report import folded, picture
from ci_flame.report.picture import Direction

names = st.sampled_from("abcd")
paths = st.lists(names, min_size=1, max_size=5).map(lambda p: tuple(Frame(n, "m") for n in p))
costs = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda c: (float(c[0]), float(c[1])))


@st.composite
def trees(draw):
    own = draw(st.dictionaries(paths, costs, min_size=1, max_size=12))
    for path in list(own):
        for depth in range(1, len(path)):
            own.setdefault(path[:depth], (0.0, 0.0))
    if not sum(sum(cost) for cost in own.values()):
        own[next(iter(own))] = (1.0, 1.0)
    return own


@given(trees())
def test_children_fit_into_their_parents_and_do_not_overlap(own):
    boxes = picture.lay_out(benchmark_diff(own)).boxes

    assert len(boxes) == len(own) + 1
    assert boxes[0].parent == -1
    edges = [box.left for box in boxes]
    for box in boxes[1:]:
        parent = boxes[box.parent]
        assert box.depth == parent.depth + 1
        assert box.left == pytest.approx(edges[box.parent])
        edges[box.parent] += box.width
        assert edges[box.parent] <= (parent.left + parent.width) * (1 + 1e-9) + 1e-6


@given(trees())
def test_a_width_is_the_mean_of_both_sides(own):
    for box in picture.lay_out(benchmark_diff(own)).boxes:
        assert box.width == pytest.approx((box.change.before_ns + box.change.after_ns) / 2)


@given(trees(), st.integers(1, 6))
def test_the_widest_boxes_are_kept_and_the_others_counted(own, limit):
    whole = picture.lay_out(benchmark_diff(own))
    part = picture.lay_out(benchmark_diff(own), limit)

    assert len(part.boxes) == min(limit, len(whole.boxes))
    assert part.left_out == len(whole.boxes) - len(part.boxes)
    assert all(box.parent < index for index, box in enumerate(part.boxes))
    narrowest = min(box.width for box in part.boxes)
    assert sum(box.width > narrowest * (1 + 1e-9) for box in whole.boxes) < max(limit, 1)


def test_a_vanished_stack_has_half_its_former_width():
    gone = next(b for b in picture.lay_out(benchmark_diff()).boxes if str(b.frame) == "json:load")

    assert gone.change.after_ns == 0
    assert gone.width == pytest.approx(gone.change.before_ns / 2)


def test_a_node_without_its_parent_hangs_on_the_root():
    diff = benchmark_diff()
    orphan = replace(diff, paths=(diff.paths[-1],))

    assert [box.parent for box in picture.lay_out(orphan).boxes] == [-1, 0]


@pytest.mark.parametrize(
    ("p_value", "before", "after", "expected"),
    [
        (0.0099, 10, 12, Direction.GREW),
        (0.01, 10, 12, Direction.NOISE),
        (0.0099, 12, 10, Direction.SHRANK),
        (math.nan, 10, 12, Direction.NOISE),
        (0.0, 10, 10, Direction.NOISE),
        (0.0, 0, 10, Direction.GREW),
        (0.0, 10, 0, Direction.SHRANK),
    ],
)
def test_a_change_has_a_direction_only_where_it_can_be_told(p_value, before, after, expected):
    assert picture.direction(replace(change(before, after), p_value=p_value)) is expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1000, 1099, 1),
        (1000, 1100, 2),
        (1000, 1249, 2),
        (1000, 1250, 3),
        (1000, 1499, 3),
        (1000, 1500, 4),
        (0, 1, 4),
    ],
)
def test_colours_take_steps_and_swapping_the_sides_changes_the_sign(before, after, expected):
    forth = replace(change(before, after), p_value=0.0)
    back = replace(change(after, before), p_value=0.0)

    assert picture.tone(forth) == expected
    assert picture.tone(back) == -expected


def test_the_guilty_box_is_the_end_of_the_findings_path():
    each = failing()
    graph = picture.lay_out(each.diff)

    (index,) = picture.guilty(graph, each.findings)

    assert str(graph.boxes[index].frame) == "shop.parser:tokenize"
    assert graph.boxes[index].change == each.findings[0].change


def test_a_finding_on_a_path_of_no_frames_is_the_benchmark():
    graph = picture.lay_out(benchmark_diff())

    assert graph.find(()) == graph.find((TOTAL,)) == 0


def test_a_diff_that_lists_the_benchmark_as_a_path_has_one_root():
    diff = benchmark_diff()
    root = PathChange((TOTAL,), diff.total, diff.total, judged=True)

    assert picture.lay_out(replace(diff, paths=(root, *diff.paths))) == picture.lay_out(diff)


def test_a_finding_on_the_benchmark_is_the_root_and_a_lost_one_is_left_out():
    diff = benchmark_diff()
    graph = picture.lay_out(diff)
    lost = replace(finding(diff), path=(Frame("nowhere"),))

    assert list(picture.guilty(graph, [finding(diff, "[total]"), lost])) == [0]
    assert finding(diff, "[total]").frame == TOTAL


def test_folded_lines_add_up_to_the_benchmark():
    lines = folded.render(benchmark_diff()).splitlines()
    columns = [line.rsplit(" ", 2) for line in lines]

    assert lines == sorted(lines)
    assert sum(float(before) for _, before, _ in columns) == pytest.approx(
        1e3 * sum(before for before, _ in tree().values())
    )
    assert sum(float(after) for _, _, after in columns) == pytest.approx(
        1e3 * sum(after for _, after in tree().values())
    )
    assert all(" " not in path for path, _, _ in columns)


def test_folded_names_cannot_add_frames_or_columns():
    own = {(Frame("f;g h\n", "m"),): (1.0, 2.0)}

    assert folded.render(benchmark_diff(own)) == "m:f:g_h\\n 1000 2000\n"
