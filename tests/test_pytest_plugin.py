"""The plugin's own part: what is a benchmark, what is called, what pytest shows and returns.

Recordings are replayed from synthetic runs with known truth, so that every outcome can be
had at once and without privileges; `test_pytest_recording.py` records for real.
"""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from synthetic import ENVIRONMENT, SHOP, grown, synthetic_measurement, synthetic_run

import ci_flame.judge
import ci_flame.report
from ci_flame.baseline import folder
from ci_flame.errors import CiFlameError
from ci_flame.pytest_plugin.session import _duration
from ci_flame.verdict import BenchmarkVerdict, Note, Outcome

assert ci_flame.judge  # scipy must be loaded outside of pytester's snapshots of sys.modules
assert ci_flame.report

NOT_HERE = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio")
"""asyncio's fixtures warn where a project has no setting for them."""


def record(path, *benchmarks, factor=1.0, seed=0, **run):
    """Write a run of these benchmarks in which the guilty function costs `factor` times."""
    leaf = next(name for name in (stack.split(";")[-1] for stack in SHOP) if "tokenize" in name)
    measurements = [
        synthetic_measurement(
            grown(SHOP, leaf, factor), benchmark=each, seed=seed + 31 * index, rounds=5
        )
        for index, each in enumerate(benchmarks)
    ]
    folder.save(replace(synthetic_run(*measurements), **run), path)


NAMES = (
    "test_shop.py::test_fixture",
    "test_shop.py::test_marker",
    "test_shop.py::TestIt::test_many[1]",
    "test_shop.py::TestIt::test_many[2]",
)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Runs of the shop before a change, of the same code again, and after the change."""
    made = tmp_path_factory.mktemp("recordings")
    record(made / "before", *NAMES)
    record(made / "same", *NAMES, seed=7)
    record(made / "after", *NAMES, factor=1.5, seed=7)
    return made


@pytest.fixture
def shop(pytester, recordings):
    """A project with one benchmark of each kind, recorded before and after a change."""
    for each in recordings.iterdir():
        shutil.copytree(each, pytester.path / each.name)
    pytester.makepyfile(
        test_shop="""
        import pytest
        def test_fixture(flame):
            assert flame(sum, [1, 2]) == 3
        @pytest.mark.flame
        def test_marker():
            pass
        class TestIt:
            @pytest.mark.parametrize("n", [1, 2])
            def test_many(self, flame, n):
                with flame:
                    n += 1
        def test_plain():
            pass
        """
    )
    return pytester


def junit(pytester):
    """Return the test cases of the JUnit file that pytest wrote."""
    tree = ET.parse(pytester.path / "junit.xml")  # noqa: S314 - our own file
    return list(tree.iter("testcase"))


def run(pytester, *words, **how):
    return pytester.runpytest_inprocess("--flame", *NOT_HERE, *words, **how)


def compared(pytester, after, *words):
    return run(pytester, "--flame-replay", after, "--flame-baseline", "before", *words)


def test_unchanged_code_passes(shop):
    made = compared(shop, "same")

    made.assert_outcomes(passed=5)
    assert made.ret == 0
    made.stdout.fnmatch_lines(["ci-flame: replays same", "ci-flame: baseline before*"])
    made.stdout.fnmatch_lines(["ci-flame: PASS (4 benchmarks: 4 pass)"])
    made.stdout.fnmatch_lines(["report: .ci-flame/report/report.html", "run:    .ci-flame/run"])


def test_a_hot_path_that_grew_fails_its_item_with_one_sentence(shop):
    made = compared(shop, "after", "--junitxml=junit.xml")

    made.assert_outcomes(failed=4, passed=1)
    assert made.ret == 1
    sentence = r"test_shop\.py::test_fixture: \S*tokenize grew by \d+ % \(.*\).*; limit 10 %\."
    made.stdout.re_match_lines([sentence])
    assert "Traceback" not in made.stdout.str()
    assert "ci_flame/" not in made.stdout.str()  # no line of our own code
    cases = {each.get("name"): each for each in junit(shop)}
    assert len(cases) == 5
    failures = {name: each.findall("failure") for name, each in cases.items()}
    assert [len(failures[name]) for name in sorted(failures)] == [1, 1, 1, 1, 0]
    assert failures["test_fixture"][0].text.startswith("test_shop.py::test_fixture: ")
    assert "grew by" in failures["test_fixture"][0].text


def test_the_report_folder_agrees_with_the_items(shop):
    compared(shop, "after")
    report = shop.path / ".ci-flame" / "report"
    told = json.loads((report / "verdict.json").read_text())

    assert told["outcome"] == "fail"
    assert {each["outcome"] for each in told["benchmarks"]} == {"fail"}
    assert (report / "before" / "run.json").exists()
    assert folder.load(shop.path / ".ci-flame" / "run").complete


def test_explain_says_the_same_from_the_report_alone(shop):
    from ci_flame import pipeline

    compared(shop, "after")
    told = json.loads((shop.path / ".ci-flame/report/verdict.json").read_text())
    again = pipeline.explain(shop.path / ".ci-flame" / "report")

    assert str(again.outcome) == told["outcome"]
    assert [str(f) for each in again.benchmarks for f in each.findings] == [
        finding["sentence"] for each in told["benchmarks"] for finding in each["findings"]
    ]


@pytest.mark.parametrize("option", ["baseline", "out", "report"])
def test_a_folder_elsewhere_that_hides_the_settings_is_refused(shop, option):
    project = shop.mkdir("project")
    (project / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['src']\n")
    shutil.move(shop.path / "test_shop.py", project)
    shutil.copytree(shop.path / "before", folder := shop.path / "elsewhere" / "before")
    shop.chdir()
    os.chdir(project)
    words = ("--flame-replay=../same", f"--flame-{option}")
    lost = run(shop, *words, str(folder))
    found = run(shop, *words[:1], f"{words[1]}={folder if option == 'baseline' else '../new'}")

    assert (lost.ret, found.ret) == (4, 0)
    lost.stderr.fnmatch_lines(
        [f"*pytest took {folder} for a folder of tests and did not read {project}/pyproject.toml",
         f"  hint: --flame-{option}={folder}"]
    )  # fmt: skip
    found.assert_outcomes(passed=5)


def test_a_first_run_passes_and_says_that_nothing_was_compared(shop):
    made = run(shop, "--flame-replay", "same")

    assert made.ret == 0
    made.stdout.fnmatch_lines(["ci-flame: no baseline: .ci-flame/baseline does not exist"])
    made.stdout.fnmatch_lines(["ci-flame: NO-BASELINE (4 benchmarks: 4 no-baseline)"])


def test_the_policy_file_may_name_the_baseline(shop):
    shop.makefile(".yml", **{"ci-flame": "version: 1\nbaseline: {from: 'folder:before'}\n"})
    made = run(shop, "--flame-replay", "after", "-k", "fixture")

    assert made.ret == 1
    made.stdout.fnmatch_lines(["ci-flame: baseline *before (commit 0123456789)"])


def test_a_required_baseline_that_is_missing_is_a_usage_error(shop):
    shop.makefile(".yml", **{"ci-flame": "version: 1\nbaseline: {required: true}\n"})
    made = run(shop, "--flame-replay", "same")

    assert made.ret == 4
    made.stderr.fnmatch_lines(["*no baseline: .ci-flame/baseline does not exist"])
    made.stderr.fnmatch_lines(["*pytest --flame --flame-baseline none --flame-out .ci-flame/*"])


def test_a_required_baseline_is_recorded_as_the_message_says(shop):
    shop.makefile(".yml", **{"ci-flame": "version: 1\nbaseline: {required: true}\n"})
    words = ("--flame-baseline", "none", "--flame-out", ".ci-flame/baseline")

    assert run(shop, "--flame-replay", "before", *words).ret == 0
    assert run(shop, "--flame-replay", "same").ret == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--flame-baseline", "gone"), "*gone*"),
        (("--flame-baseline", "tree:gone"), "*baseline tree:gone: there is no such folder"),
        (("--flame-baseline", "flder:x"), "*unknown baseline *flder:x*folder*"),
        (("--flame-seconds", "0"), "*--flame-seconds 0 is outside 0.05 to 600 s"),
        (("--flame-processes", "many"), "*--flame-processes is a plain number*"),
        (("--flame-collector", "dtrace"), "*unknown collector *dtrace*"),
        (("--flame-policy", "gone.yml"), "*policy gone.yml cannot be read*"),
    ],
)
def test_words_that_do_not_fit_are_usage_errors(shop, words, told):
    made = run(shop, *words)

    assert made.ret == 4
    made.stderr.fnmatch_lines([told])
    assert "Traceback" not in made.stderr.str() + made.stdout.str()


def test_an_incomplete_baseline_is_refused(shop):
    record(shop.path / "broken", "test_shop.py::test_fixture", complete=False)
    made = run(shop, "--flame-replay", "same", "--flame-baseline", "broken")

    assert made.ret == 4
    made.stderr.fnmatch_lines(["*broken: the run was interrupted and is not complete"])


@pytest.mark.parametrize(
    ("policy", "code", "outcomes"),
    [("version: 1\n", 0, {"passed": 5}),
     ("version: 1\ninconclusive: fail\n", 1, {"failed": 4, "passed": 1})],
)  # fmt: skip
def test_another_machine_is_inconclusive(shop, policy, code, outcomes):
    shop.makefile(".yml", **{"ci-flame": policy})
    other = replace(ENVIRONMENT, cpu_model="Another CPU")
    names = [m.benchmark for m in folder.load(shop.path / "before").measurements]
    record(shop.path / "elsewhere", *names, factor=0.5, environment=other)
    made = run(shop, "--flame-replay", "same", "--flame-baseline", "elsewhere")

    made.assert_outcomes(**outcomes)
    assert made.ret == code
    made.stdout.fnmatch_lines(["*may not be compared with the baseline: *Another CPU*"])


def test_a_benchmark_that_the_baseline_lacks_is_named_not_failed(shop):
    record(shop.path / "less", "test_shop.py::test_fixture")
    made = run(
        shop, "--flame-replay", "same", "--flame-baseline", "less", "-k", "fixture or marker"
    )

    made.assert_outcomes(passed=2, deselected=3)
    made.stdout.fnmatch_lines(["*is new: the baseline does not have it*"])


@pytest.mark.parametrize(
    ("words", "removed"),
    [((), True), (("-k", "fixture"), True), (("test_shop.py::test_fixture",), False)],
)
def test_a_benchmark_that_was_removed_is_named(shop, words, removed):
    names = ["test_shop.py::test_fixture", "test_shop.py::test_gone", "test_other.py::test_x"]
    record(shop.path / "more", *names)
    made = run(shop, "--flame-replay", "same", "--flame-baseline", "more", *words)

    assert ("test_gone" in made.stdout.str()) is removed
    assert "test_x" not in made.stdout.str()  # its file was not part of this session


def test_the_marker_replaces_the_policy_s_fields(shop):
    shop.makepyfile(
        test_shop="""
        import pytest
        @pytest.mark.flame(max_growth="90%")
        def test_fixture(flame):
            flame(sum, [1, 2])
        def test_marker(flame):
            flame(sum, [1, 2])
        """
    )
    made = compared(shop, "after")

    made.assert_outcomes(passed=1, failed=1)
    made.stdout.fnmatch_lines(["FAILED test_shop.py::test_marker*"])
    again = ci_flame.pipeline.explain(shop.path / ".ci-flame" / "report")
    assert [str(each.outcome) for each in again.benchmarks] == ["pass", "fail"]


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ('flame("5%")', "*'5%' has no name*"),
        ('flame(max_grwth="5%")', "*unknown field*max_grwth*max_growth*"),
        ("flame(max_growth=5)", "*max_growth*"),
        ("flame(seconds=0)", "*seconds 0 is outside*"),
    ],
)
def test_a_marker_that_does_not_fit_is_a_usage_error(pytester, marker, told):
    pytester.makepyfile(f"import pytest\n@pytest.mark.{marker}\ndef test_a(): pass\n")
    made = run(pytester, "--flame-replay", "not-read-yet")

    assert made.ret == 4
    made.stderr.fnmatch_lines([told])


@pytest.mark.parametrize(("inconclusive", "code"), [("fail", 1), ("pass", 0)])
def test_a_build_that_is_inconclusive_as_a_whole_ends_as_its_policy_says(shop, inconclusive, code):
    """No rule names a function that is there: every benchmark passes, and nothing was judged."""
    rules = "rules: [{frames: ['zzz:*'], max_growth: 10%}]"
    text = f"version: 1\ninconclusive: {inconclusive}\n{rules}\n"
    shop.makefile(".yml", **{"ci-flame": text})
    made = compared(shop, "same")
    told = "ci-flame: the build as a whole is INCONCLUSIVE, and the policy says inconclusive: fail"

    made.assert_outcomes(passed=5)
    assert made.ret == code
    made.stdout.fnmatch_lines(["ci-flame: INCONCLUSIVE *", "report: *"])
    (made.stdout.fnmatch_lines if code else made.stdout.no_fnmatch_line)([told] if code else told)


def test_x_stops_at_the_first_failed_benchmark(shop):
    made = compared(shop, "after", "-x")

    made.assert_outcomes(failed=1)
    made.stdout.fnmatch_lines(["ci-flame: FAIL (1 benchmark: 1 fail)"])
    made.stdout.fnmatch_lines(["run: *(cut short: marked incomplete, no baseline)"])
    with pytest.raises(CiFlameError, match="not complete"):
        folder.load(shop.path / ".ci-flame" / "run")


@pytest.mark.parametrize(
    ("words", "complete"),
    [
        (("-x", "-k", "fixture or plain"), True),  # there was no further one
        (("--maxfail=4",), True),
        (("--maxfail=3",), False),
        ((), True),
    ],
)
def test_a_run_is_complete_where_every_benchmark_was_reached(shop, words, complete):
    compared(shop, "after", *words)

    run_kept = folder.load(shop.path / ".ci-flame" / "run", incomplete_ok=True)
    assert run_kept.complete is complete


def test_a_session_that_a_test_ends_leaves_no_baseline(shop):
    """`pytest.exit` with a code of its own is no interruption for pytest."""
    shop.makepyfile(
        test_shop="""
        import pytest
        def test_fixture(flame):
            assert flame(sum, [1, 2]) == 3
        def test_end():
            pytest.exit("enough", returncode=3)
        @pytest.mark.flame
        def test_marker():
            pass
        """
    )
    compared(shop, "same")

    kept = folder.load(shop.path / ".ci-flame" / "run", incomplete_ok=True)
    assert not kept.complete


def test_last_failed_runs_the_failed_benchmarks_again(shop):
    words = ("--flame", "-p", "no:randomly", "-p", "no:asyncio", "--flame-baseline", "before")
    shop.runpytest_inprocess(*words, "--flame-replay", "after", "-k", "fixture or plain")
    made = shop.runpytest_inprocess(*words, "--flame-replay", "after", "--lf")

    made.assert_outcomes(failed=1)


def test_two_benchmarks_with_one_id_are_refused(shop):
    made = compared(shop, "same", "--keep-duplicates", "test_shop.py", "test_shop.py")

    assert made.ret == 4
    made.stderr.fnmatch_lines(["*two benchmarks with the id test_shop.py::test_fixture*"])


def test_the_fixture_twice_in_a_test_is_refused(pytester):
    pytester.makepyfile(test_a="def test_a(flame):\n    flame(sum, [])\n    flame(sum, [])\n")
    record(pytester.path / "run", "test_a.py::test_a")
    made = run(pytester, "--flame-replay", "run")

    made.assert_outcomes(failed=1)
    assert made.ret == 1
    told = "ci-flame: test_a.py::test_a used the fixture twice: flame(...), then flame(...)"
    made.stdout.fnmatch_lines([told])
    made.stdout.no_fnmatch_line("During handling of the above exception*")


def test_an_unused_fixture_is_named(pytester):
    pytester.makepyfile(test_a="def test_a(flame): pass\ndef test_b(flame): flame(int)\n")
    record(pytester.path / "run", "test_a.py::test_b")
    made = run(pytester, "--flame-replay", "run")

    made.assert_outcomes(passed=2)
    made.stdout.fnmatch_lines(["note: test_a.py::test_a did not use its fixture flame"])


def test_a_benchmark_that_raises_fails_as_always_and_is_not_recorded(shop):
    shop.makepyfile(
        test_shop="""
        def test_fixture(flame):
            flame(int, "x")
        def test_marker(flame):
            flame(int, "1")
        """
    )
    made = compared(shop, "same")

    made.assert_outcomes(failed=1, passed=1)
    assert made.ret == 1
    made.stdout.fnmatch_lines(["E*ValueError: invalid literal for int()*"])
    kept = folder.load(shop.path / ".ci-flame" / "run")
    assert [each.benchmark for each in kept.measurements] == ["test_shop.py::test_marker"]


def test_xdist_shows_each_failure_once_and_merges_the_run(shop):
    made = compared(shop, "after", "-n", "2", "-p", "xdist", "--junitxml=junit.xml")

    made.assert_outcomes(failed=4, passed=1)
    assert made.ret == 1
    cases = junit(shop)
    assert len(cases) == 5
    assert sum(len(each.findall("failure")) for each in cases) == 4
    made.stdout.fnmatch_lines(["ci-flame: FAIL (4 benchmarks: 4 fail)"])
    assert len(folder.load(shop.path / ".ci-flame" / "run").measurements) == 4
    assert sorted(each.name for each in (shop.path / ".ci-flame").iterdir()) == [
        ".gitignore", "report", "run",
    ]  # fmt: skip


def test_a_run_that_cannot_be_kept_is_said_and_the_session_does_not_pass(shop):
    (shop.path / "out").write_text("a file where a folder should be")
    made = compared(shop, "same", "--flame-out", "out/run")

    assert made.ret == 3
    assert "Traceback" not in made.stdout.str() + made.stderr.str()
    made.stdout.fnmatch_lines(["ci-flame: *out*"])
    made.stdout.no_fnmatch_line("report:*")
    made.stdout.no_fnmatch_line("run:*")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_interrupted_sessions_keep_what_was_recorded_as_incomplete(shop, number):
    shop.makepyfile(
        test_shop=f"""
        import os, signal
        def test_fixture(flame):
            flame(int)
        def test_marker(flame):
            os.kill(os.getpid(), signal.{number})
        """
    )
    words = ("--flame-replay", "same", "--flame-baseline", "before")
    made = shop.runpytest_subprocess("--flame", *NOT_HERE, *words)

    assert made.ret == 2
    told = "run:    .ci-flame/run (cut short: marked incomplete, no baseline)"
    made.stdout.fnmatch_lines([told])
    kept = folder.load(shop.path / ".ci-flame" / "run", incomplete_ok=True)
    assert [each.benchmark for each in kept.measurements] == ["test_shop.py::test_fixture"]
    assert not kept.complete
    cut = "interrupted while test_shop.py::test_marker was recorded"
    made.stdout.fnmatch_lines([f"{cut}: the run holds 1 of 2 benchmarks"])


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_session_that_is_stopped_in_its_first_benchmark_says_what_is_left(shop, number, earlier):
    if earlier:
        assert compared(shop, "same").ret == 0
    shop.makepyfile(
        test_shop=f"""
        import os, signal
        def test_fixture(flame):
            os.kill(os.getpid(), signal.{number})
        """
    )
    words = ("--flame-replay", "same", "--flame-baseline", "before")
    made = shop.runpytest_subprocess("--flame", *NOT_HERE, *words)

    assert made.ret == 2
    told = "interrupted while test_shop.py::test_fixture was recorded: no benchmark was complete"
    kept = "; .ci-flame/run is that of an earlier session" if earlier else ""
    made.stdout.fnmatch_lines([f"ci-flame: {told}, nothing was kept{kept}"])
    assert (shop.path / ".ci-flame" / "run").exists() is earlier


def test_an_error_of_collection_is_no_interruption_of_a_recording(shop):
    shop.makepyfile(test_broken="import nothing_of_that_name")
    made = compared(shop, "same")

    assert made.ret == 2
    made.stdout.no_fnmatch_line("*nothing was kept*")


def test_collecting_only_records_nothing(shop):
    made = compared(shop, "same", "--collect-only", "-q")

    assert made.ret == 0
    assert not (shop.path / ".ci-flame").exists()


# -- without --flame --------------------------------------------------------------------


@pytest.mark.parametrize("plugin", [(), ("-p", "no:benchmark")])
def test_without_flame_everything_is_an_ordinary_call(pytester, plugin):
    pytester.makepyfile(
        """
        import pytest
        calls = []
        def work(n, by=1):
            calls.append(n * by)
            return n * by
        def test_call(flame):
            assert flame(work, 2, by=3) == 6
            assert calls == [6]
        def test_block(flame):
            with flame:
                calls.append(1)
            assert calls == [6, 1]
        @pytest.mark.flame(max_growth="5%")
        def test_marker():
            calls.append(2)
            assert calls == [6, 1, 2]
        def test_benchmark(benchmark):
            calls.clear()
            assert benchmark(work, 2) == 2
        def test_pedantic(benchmark):
            calls.clear()
            done = []
            made = benchmark.pedantic(
                work, setup=lambda: ((5,), {"by": 2}), teardown=lambda n, by: done.append(n)
            )
            assert (made, calls[-1], done[-1]) == (10, 10, 5)
        """
    )
    made = pytester.runpytest_inprocess(*NOT_HERE, *plugin, "--strict-markers")

    made.assert_outcomes(passed=5)
    assert not (pytester.path / ".ci-flame").exists()


def test_without_pytest_benchmark_there_is_one_benchmark_fixture(pytester):
    pytester.makepyfile(
        """
        calls = []
        def test_a(benchmark):
            benchmark(calls.append, 1)
            assert calls == [1]
        """
    )
    made = pytester.runpytest_inprocess(*NOT_HERE, "-p", "no:benchmark")

    made.assert_outcomes(passed=1)


def test_without_flame_nothing_heavy_is_imported(pytester):
    pytester.makepyfile(
        """
        import sys
        def test_a(flame):
            flame(int)
            ours = {name for name in sys.modules if name.split(".")[0] == "ci_flame"}
            assert ours == {"ci_flame", "ci_flame.pytest_plugin"}
            assert not {"numpy", "scipy", "yaml", "jinja2", "google.protobuf"} & set(sys.modules)
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "ci_flame.pytest_plugin", "-q"],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=pytester.path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout.splitlines()[-1][:8]) == (0, "1 passed"), done.stdout


def test_another_system_is_refused_by_name_and_only_with_flame(pytester, monkeypatch):
    pytester.makepyfile("def test_a(flame): flame(int)\n")
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: path != "/proc/self" and real(path))
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    refused = run(pytester)

    assert refused.ret == 4
    refused.stderr.fnmatch_lines(["*--flame records on Linux only, this is Darwin;*"])
    pytester.runpytest_inprocess(*NOT_HERE).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s")]
)
def test_durations_are_rounded_to_seconds(seconds, words):
    assert _duration(seconds) == words


def test_an_inconclusive_failure_gives_its_reason():
    from ci_flame.pytest_plugin.values import sentences

    note = Note("other-machine", "may not be compared", "t")
    verdict = BenchmarkVerdict("t", "on-cpu", Outcome.INCONCLUSIVE, (), (note,), None)

    assert sentences((verdict,)).splitlines() == [
        "t: may not be compared",
        "inconclusive results fail by the policy (inconclusive: fail)",
    ]
