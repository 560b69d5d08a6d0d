"""Which functions, how many turns, which limit, what is said, what is written."""

import json
import math
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SHOP, synthetic_measurement

from ci_flame.cli import cli, testing
from ci_flame.config import load
from ci_flame.errors import FormatError, PolicyError, UsageError
from ci_flame.policy import Limit, Policy, Rule
from ci_flame.profile import Frame
from ci_flame.self_test import advice, choosing, figures, page, text
from ci_flame.self_test.figures import Planted, Same, SelfTest, decode_one, encode
from ci_flame.self_test.figures import encode_one as encoded


def candidate(name, own, total=None):
    return choosing.Candidate(Frame(name, "m"), own, total or own, 100.0)


def planted(name="m:f", *, found=True, **more):
    usual = {
        "own_share": 0.3, "share": 0.3, "calls": 2.0, "turns": 40, "growth": 0.21,
        "outcome": "fail" if found else "pass", "estimate": 0.22, "low": 0.15, "high": 0.3,
        "limit": 0.1, "visible": 0.12,
    }  # fmt: skip
    return Planted(name, found=found, **{**usual, **more})


def of_benchmark(name="t.py::a", visible=0.12, outcome="pass", **more):
    same = (Same(outcome, visible=visible),)
    return figures.Tested(
        name, 10.0, 5, **{"same": same, "planted": (planted(),), "limit": 0.1, **more}
    )


class TestChoosing:
    def test_functions_of_a_recording_with_their_costs(self):
        found = choosing.candidates([synthetic_measurement(SHOP, seed=1)])

        assert found
        assert sum(each.own_share for each in found) <= 1 + 1e-9
        assert [each.own_share for each in found] == sorted(
            (each.own_share for each in found), reverse=True
        )
        assert all(each.cost > 0 and each.share >= each.own_share for each in found)

    def test_one_large_one_near_ten_percent_and_one_between(self):
        found = [candidate(f"f{i}", own) for i, own in enumerate((0.4, 0.35, 0.2, 0.11, 0.03))]

        assert [c.own_share for c in choosing.choose(found, 3, ())] == [0.4, 0.2, 0.11]
        assert [c.own_share for c in choosing.choose(found, 1, ())] == [0.4]
        assert len(choosing.choose(found, 9, ())) == 5

    @pytest.mark.parametrize(("own", "count"), [(0.02, 1), (0.0199, 0)])
    def test_smallest_share_that_is_chosen_by_itself(self, own, count):
        assert len(choosing.choose([candidate("f", own)], 3, ())) == count

    def test_named_functions_are_chosen_whatever_their_share(self):
        found = [candidate("large", 0.5), candidate("tiny", 0.001), candidate("never", 0.0, 0.3)]

        assert [str(c.frame) for c in choosing.choose(found, 3, ("m:tiny",))] == ["m:tiny"]
        assert choosing.choose(found, 3, ("m:never", "m:absent")) == ()

    def test_callers_and_lambdas_only_where_nothing_else_is(self):
        found = [candidate("caller", 0.3, 0.9), candidate("leaf", 0.2), candidate("<lambda>", 0.2)]

        assert [str(c.frame) for c in choosing.choose(found, 1, ())] == ["m:leaf"]
        assert [str(c.frame) for c in choosing.choose(found, 3, ())] == ["m:caller", "m:leaf"]

    @pytest.mark.parametrize(
        ("limit", "growth"), [(None, 0.2), (0.05, 0.2), (0.1, 0.2), (0.11, 0.22), (0.5, 1.0)]
    )
    def test_growth_is_twice_the_limit_and_at_least_20_percent(self, limit, growth):
        assert choosing.growth_to_plant(limit) == pytest.approx(growth)

    def test_the_lowest_limit_that_names_the_function(self):
        rules = (
            Rule(max_growth=Limit(share=0.3)),
            Rule(max_growth=Limit(share=0.05), frames=("m:f",)),
            Rule(max_growth=Limit(share=0.01), benchmarks=("other",)),
            Rule(max_growth=Limit(ns=5.0)),
        )
        policy = Policy(rules=rules)

        assert choosing.limit_of(policy, "a", Frame("f", "m"))[0] == 0.05
        assert choosing.limit_of(policy, "a", Frame("g", "m"))[0] == 0.3
        assert choosing.limit_of(Policy(rules=rules[3:]), "a", Frame("g", "m")) == (None, None)

    @given(
        st.floats(1, 1e5), st.floats(0.01, 1e4), st.floats(0.01, 5), st.floats(1e-6, 1e-2),
        st.floats(0, 1e-3),
    )  # fmt: skip
    def test_turns_make_the_growth_to_within_half_a_turn(self, cost, calls, growth, turn, entry):
        turns = choosing.turns_for(cost, calls, growth, turn, entry)
        made = choosing.planted_growth(turns, cost, calls, turn, entry)

        assert turns >= 1
        if 1 < turns < choosing.MAX_TURNS:
            assert abs(made - growth) <= 0.5001 * calls * turn / cost + 1e-9

    def test_what_is_never_called_gets_no_turns(self):
        assert choosing.turns_for(100.0, 0.0, 0.2, 1e-4, 0.0) == 0

    @pytest.mark.parametrize(
        ("visible", "limit"),
        [(0.01, 0.03), (0.03, 0.03), (0.0301, 0.05), (0.16, 0.2), (1.0, 1.0), (1.01, None),
         (None, None)],
    )  # fmt: skip
    def test_recommended_limit(self, visible, limit):
        assert choosing.recommended(visible) == limit

    def test_seconds_grow_with_the_square(self):
        assert choosing.seconds_for(0.05, 0.05, 10) == pytest.approx(10)
        assert choosing.seconds_for(0.05, math.expm1(2 * math.log(1.05)), 10) == pytest.approx(40)
        assert choosing.seconds_for(0.05, math.expm1(10.01 * math.log(1.05)), 10) is None
        assert choosing.seconds_for(0.05, None, 10) is None

    @pytest.mark.parametrize(
        ("failures", "comparisons", "end"),
        [(0, 1, 0.95), (0, 59, 0.0495), (0, 600, 0.00498), (1, 1, 1.0), (0, 0, 1.0)],
    )
    def test_upper_end(self, failures, comparisons, end):
        assert choosing.upper_end(failures, comparisons) == pytest.approx(end, rel=1e-2)


class TestWords:
    @pytest.mark.parametrize(
        ("benchmarks", "good", "headline"),
        [
            ([of_benchmark()], True,
             ("this gate can fail (1 of 1 planted slow-downs was found), and would not have"
             " failed on"
             " identical code (0 of 1 comparisons failed; 95 % sure of under 95 %)")),
            ([of_benchmark(planted=(planted(found=False),))], False,
             ("this gate was not seen to fail in t.py::a (0 of 1 planted slow-downs was found), but"
             " would not have failed on identical code (0 of 1 comparisons failed; 95 % sure of"
             " under 95 %)")),
            ([of_benchmark(outcome="fail")], False,
             ("this gate can fail (1 of 1 planted slow-downs was found), but it failed on identical"
             " code (1 of 1 comparisons failed; 95 % sure of under 100 %)")),
            ([of_benchmark(planted=(), skipped="no time left")], False,
             ("nothing was planted: this gate was not shown to fail, but would not have failed on"
             " identical code (0 of 1 comparisons failed; 95 % sure of under 95 %)")),
            ([of_benchmark(), of_benchmark("b", outcome="inconclusive")], True,
             ("this gate can fail (2 of 2 planted slow-downs were found), and would not have failed"
             " on identical code (0 of 1 comparisons failed; 95 % sure of under 95 %)")),
        ],
        ids=["good", "blind", "false alarm", "nothing planted", "not judged"],
    )  # fmt: skip
    def test_headline(self, benchmarks, good, headline):
        test = SelfTest(tuple(benchmarks))

        assert test.headline == headline
        assert test.good is good

    def test_each_benchmark_must_have_a_find(self):
        assert not SelfTest(
            (of_benchmark(), of_benchmark("b", planted=(planted(found=False),)))
        ).good
        assert not SelfTest(()).good

    def test_lines(self):
        slow = planted("m:g", found=False, looks=2, own_share=0.1)
        one = of_benchmark(
            planted=(planted(looks=2, accused=("m:h",)), slow), refused=(("m:x", "why"),)
        )

        assert text.render(SelfTest((one,), notes=("n",))).splitlines()[2:] == [
            "t.py::a (5 x 2 s a side)",
            "  identical code   pass",
            (
                "  planted          +21 % of m:f (30 % own cost): found and confirmed, measured"
                " +22 %"
                " (15 to 30 %)"
            ),
            "                   innocent, and accused with it: m:h",
            (
                "  planted          +21 % of m:g (10 % own cost): NOT found (the second"
                " recording did"
                " not confirm it), measured +22 % (15 to 30 %); limit 10 %, visible from 12 % on"
            ),
            "  not planted      m:x: why",
            (
                "  what it can see  growth of 12 % or more in functions over 5 % (4 times of 5), in"
                " 10 s a side"
            ),
            "  recommended      10 %, as it is",
            "  to see 10 %      about 14 s a side, in 7 processes",
            "  to see 5 %       about 54 s a side, in 27 processes",
            "",
            "note: n",
        ]

    def test_page_holds_every_figure_and_no_name_breaks_out_of_it(self):
        one = of_benchmark("t.py::a[<script>alert(1)</script>]", planted=(planted("m:<b>"),))
        html = page.render(SelfTest((one,)))

        assert "<script" not in html
        assert "m:&lt;b&gt;" in html
        assert "+21 %" in html
        assert "recommended" in html
        assert "default-src &#39;none&#39;" in html

    def test_figures_are_read_back(self):
        one = of_benchmark(refused=(("m:x", "why"),))

        assert decode_one(encoded(one), "f") == one
        told = json.loads(encode(SelfTest((one,))))
        assert told["version"] == 1
        assert told["benchmarks"][0]["recommended_limit"] == 0.1
        assert told["good"] is True

    @pytest.mark.parametrize("data", ["", "[]", "{}", '{"same": 1, "planted": []}'])
    def test_broken_figures_are_refused_by_name(self, data):
        with pytest.raises(FormatError, match=r"here\.tested"):
            decode_one(data, "here.tested")


class TestAdvice:
    def read(self, tmp_path, found):
        file = tmp_path / "ci-flame.yml"
        file.write_text(found, encoding="utf-8")
        return load(file, start=tmp_path).policy

    def limits(self, policy, benchmark):
        return choosing.limit_of(policy, benchmark, Frame("f", "m"))[0]

    def test_without_a_file_others_keep_the_default(self, tmp_path):
        found = advice.merge(None, {"t.py::a[1]": 0.03, "b": 0.05}, "ci-flame.yml")
        policy = self.read(tmp_path, found.text)

        names = ("t.py::a[1]", "b", "another")
        assert [self.limits(policy, name) for name in names] == [0.03, 0.05, 0.10]
        assert any(rule.mode == "off-cpu" for rule in policy.rules)
        assert found.diff.count("\n+") >= len(found.text.splitlines())

    @pytest.mark.parametrize(
        "old",
        [
            "version: 1\nrules:\n  - max_growth: 10%  # mine\nrecord: {seconds: 1}\n",
            "version: 1\nrules:\n- max_growth: 10%  # mine\n  frames: [m:f]\n\n# end\n",
            "version: 1\nrecord: {seconds: 1}  # mine\n",
            "version: 1\nrules: # mine\n    - frames: ['*']\n      max_growth: 10%",
        ],
    )
    def test_what_was_there_is_kept_and_a_lower_limit_added(self, old, tmp_path):
        found = advice.merge(old, {"b": 0.05}, "ci-flame.yml")
        policy = self.read(tmp_path, found.text)

        assert self.limits(policy, "b") == 0.05
        kept = set(found.text.splitlines())
        assert [line for line in old.splitlines() if line not in kept] == []
        assert "# mine" in found.text
        assert not found.left
        for name, value in yaml.safe_load(old).items():
            if name != "rules":
                assert yaml.safe_load(found.text)[name] == value

    def test_rules_on_one_line_are_left_alone(self):
        old = "version: 1\nrules: [{max_growth: 10%}]\n"
        found = advice.merge(old, {"b": 0.05}, "p.yml")

        assert (found.text, found.diff) == (old, "")
        assert found.left == ("p.yml has its rules on one line: write them as a list",)

    @pytest.mark.parametrize(
        ("visible", "limit", "wanted"),
        [
            (0.04, 0.1, 0.05),
            (0.1, 0.1, 0.1),
            (0.11, 0.1, 0.1),  # a higher limit would only let pass what can be seen
            (20.0, 0.1, 0.1),
            (0.11, None, 0.15),
            (20.0, None, None),
        ],
    )
    def test_only_a_lower_limit_or_a_first_one_is_advice(self, visible, limit, wanted):
        one = replace(of_benchmark(visible=visible), limit=limit)

        assert one.recommended == wanted
        assert advice.limits(SelfTest((one,))) == ({} if wanted == limit else {"t.py::a": wanted})
        assert advice.merge("x", {}, "p").diff == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--growth", "20"], "--growth '20' is not growth"),
        (["--growth", "0.5%"], "--growth '0.5%' is not growth"),
        (["--repeat", "0"], "--repeat '0' is not a whole number from 1 to 50"),
        (["--repeat", "51"], "--repeat '51' is not a whole number from 1 to 50"),
        (["--functions", "x"], "--functions 'x' is not a whole number from 1 to 20"),
        (["--max-seconds", "0"], "--max-seconds '0' is not a time"),
        (["--max-seconds", "5 m"], "--max-seconds '5 m' is not a time"),
        (["--seconds", "nan"], "--seconds"),
        (["--policy", "absent.yml"], "absent.yml"),
    ],
)
def test_words_that_do_not_fit_are_refused(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["self-test", *words])

    assert isinstance(done.exception, Exception)
    assert told in str(done.exception)
    assert list(tmp_path.iterdir()) == []


class TestWrite:
    """`--write`: what a user's file holds afterwards, and what is said."""

    def write(self, test, file, capsys):
        testing._write_policy(test, file)
        return capsys.readouterr().err

    def test_a_file_that_was_not_there(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        told = self.write(SelfTest((of_benchmark(visible=0.04),)), None, capsys)

        assert told.endswith("ci-flame: ci-flame.yml: written\n")
        assert "+    max_growth: 5%\n" in told
        policy = load(None, start=tmp_path).policy
        assert choosing.limit_of(policy, "t.py::a", Frame("f", "m"))[0] == 0.05
        assert [each.name for each in tmp_path.iterdir()] == ["ci-flame.yml"]

    def test_a_second_time_changes_nothing(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        self.write(SelfTest((of_benchmark(visible=0.04),)), None, capsys)
        before = (tmp_path / "ci-flame.yml").read_bytes()
        test = SelfTest((of_benchmark(visible=0.04, limit=0.05),))

        told = self.write(test, tmp_path / "ci-flame.yml", capsys)
        assert told == "ci-flame: ci-flame.yml: nothing to change\n"
        assert (tmp_path / "ci-flame.yml").read_bytes() == before

    def test_a_text_that_cannot_be_read_back_is_not_written(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        old = "{version: 1}\n"
        (tmp_path / "ci-flame.yml").write_text(old, encoding="utf-8")

        with pytest.raises(PolicyError, match="the limits cannot be put in"):
            self.write(SelfTest((of_benchmark(visible=0.04),)), tmp_path / "ci-flame.yml", capsys)
        assert (tmp_path / "ci-flame.yml").read_text(encoding="utf-8") == old


def test_a_report_folder_is_used_again_and_what_cannot_be_one_is_refused(tmp_path):
    folder = tmp_path / ".ci-flame" / "self-test"
    testing._make(folder)
    (folder / "self-test.html").write_text("an earlier one", encoding="utf-8")
    testing._make(folder)

    assert [each.name for each in folder.iterdir()] == ["self-test.html"]
    assert (tmp_path / ".ci-flame" / ".gitignore").exists()
    with pytest.raises(UsageError, match=r"self-test\.html cannot be written: "):
        testing._make(folder / "self-test.html")
