"""The command line as a user meets it: the sentence, the exit code, the files."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from unittest import mock

import pytest
from click.testing import CliRunner
from synthetic import SHOP, grown, synthetic_measurement, synthetic_run

import ci_flame
from ci_flame import cli, report_folder
from ci_flame.baseline import folder
from ci_flame.cli import converting
from ci_flame.config import COLLECTOR_NAMES, BaselineKind
from ci_flame.report import NAMED, REPORTERS

GUILTY = "shop.parser:tokenize"
CI_FLAME = (sys.executable, "-m", "ci_flame")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder, and in it two runs: `before` and `after`, which grew."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    for variable in ("PYTEST_ADDOPTS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(variable, raising=False)
    folder.save(synthetic_run(synthetic_measurement(SHOP, seed=1)), root / "before")
    after = synthetic_measurement(grown(SHOP, GUILTY, 2.0), seed=2)
    folder.save(synthetic_run(after), root / "after")
    return root


@dataclass
class Ended:
    """How a command line ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def call(*words, check=None):
    """Run `ci-flame` in this process, the way its entry point does."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    handler = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", ["ci-flame", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    signal.signal(signal.SIGTERM, handler)
    told = [stream.buffer.getvalue().decode() for stream in (out, err)]
    done = Ended(ended.value.code, *told)
    assert check in (None, done.returncode), done
    return done


# -- compare, explain, gate, report ---------------------------------------------------


def test_a_hot_path_that_grew_fails(project):
    done = call("compare", "before", "after", "-o", "out", check=1)

    assert f"{GUILTY} grew by" in done.stdout
    assert "ci-flame: fail; out/report.html" in done.stderr
    verdict = json.loads((project / "out/verdict.json").read_text())
    assert verdict["outcome"] == "fail"
    (failure,) = ET.parse(project / "out/junit.xml").getroot().iter("failure")  # noqa: S314
    assert GUILTY in failure.get("message")


def test_the_same_passes(project):
    done = call("compare", "before", "before", check=0)

    assert "PASS" in done.stdout
    assert (project / ".ci-flame/report/report.html").exists()


def test_the_policy_decides(project):
    lenient = "version: 1\nrules:\n  - {frames: '*', max_growth: 500%}\n"
    (project / "lenient.yml").write_text(lenient)
    (project / "ci-flame.yml").write_text(lenient.replace("500%", "10%, severity: warn"))

    call("compare", "before", "after", "--policy", "lenient.yml", check=0)
    done = call("compare", "before", "after", "-o", "out", check=0)

    assert "WARN" in done.stdout
    assert json.loads((project / "out/verdict.json").read_text())["outcome"] == "warn"


def test_gate_ends_as_the_stored_verdict(project):
    call("compare", "before", "after", "-o", "fail")
    call("compare", "before", "before", "-o", "pass")

    assert "ci-flame: fail" in call("gate", "fail", check=1).stderr
    call("gate", "pass", check=0)
    call("gate", "before", check=2)


def test_explain_judges_again_and_ends_with_0(project):
    call("compare", "before", "after", "-o", "out", check=1)

    done = call("explain", "out", check=0)
    assert "rule default: *: max_growth 10%, min_impact 0.50%, certainty 80%, fail" in done.stdout
    assert "judged again: fail (the same)" in done.stdout

    (project / "p.yml").write_text("version: 1\nrules:\n  - {frames: '*', max_growth: 500%}\n")
    done = call("explain", "out", "--policy", "p.yml", check=0)
    assert "judged again: pass (the report says fail)" in done.stdout


def test_explain_tells_the_rules_of_markers(project):
    from ci_flame import pipeline
    from ci_flame.config import Config, marker_rules

    runs = [folder.load(project / side) for side in ("before", "after")]
    name = runs[1].measurements[0].benchmark
    own = marker_rules(Config().policy, {"severity": "warn", "max_growth": "7%"}, name)
    verdict = pipeline.compare(*runs, own)
    pipeline.write_report(verdict, *runs, Config(), project / "out", policies={name: own})

    done = call("explain", "out", check=0)
    assert f"{name}: rule marker of {name}: *: max_growth 7%," in done.stdout
    assert "judged again: warn (the same)" in done.stdout


def test_pages_of_runs_and_reports(project):
    call("compare", "before", "after", "-o", "out")
    page = (project / "out/report.html").read_bytes()

    call("report", "out", "-o", "again.html", check=0)
    assert (project / "again.html").read_bytes() == page
    call("report", "before", check=0)
    assert "tokenize" in (project / "before/report.html").read_text()
    call("report", "before", "-o", "no/such/folder/x.html", check=2)
    call("report", "nosuch", check=2)


def test_a_report_has_a_file_for_every_reader(project):
    call("compare", "before", "after", "-o", "out")
    files = {file.name: file.read_bytes() for file in (project / "out").iterdir() if file.is_file()}

    for file, form in report_folder.RENDERED.items():
        where = ("-o", "-") if form in {"html", "static"} else ()
        done = call("report", "out", "--format", form, *where, check=0)
        assert done.stdout.encode() == files[file], form
        call("report", "out", "--format", form, "-o", "one", check=0)
        assert (project / "one").read_bytes() == files[file], form
    assert set(converting._REPORTS) == set(REPORTERS)
    assert set(converting._NAMED) == set(NAMED)


def test_the_static_page_has_its_pictures_beside_it(project):
    call("compare", "before", "after", "-o", "out")
    (project / "site").mkdir()

    done = call("report", "out", "--format", "static", "-o", "site/index.html", check=0)

    assert done.stderr == "ci-flame: site/index.html\n"
    for file in ("static.css", *(path.name for path in (project / "out").glob("*.svg"))):
        assert (project / "site" / file).read_bytes() == (project / "out" / file).read_bytes()
        assert file in (project / "site/index.html").read_text()


def test_a_report_is_named_after_its_leg(project):
    call("compare", "before", "after", "-o", "out")
    for form in converting._NAMED:
        done = call("report", "out", "--format", form, "--name", "py312", check=0)
        plain = call("report", "out", "--format", form, check=0)
        assert done.stdout != plain.stdout
        assert form == "codequality" or "py312" in done.stdout

    done = call("report", "out", "--format", "html", "--name", "py312", check=2)
    assert "--name: a report in html has no name" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("out", "--format", "sarfi"), '--format: "sarfi" is not known; did you mean "sarif"?'),
        (("before", "--format", "sarif"), "before has no verdict: --format sarif needs one"),
        (("nosuch", "--format", "sarif"), "nosuch"),
        (("out", "--format", "sarif", "-o", "no/such/x"), "no/such/x cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_said(project, words, said):
    call("compare", "before", "after", "-o", "out")
    done = call("report", *words, check=2)

    assert said in done.stderr
    assert done.stdout == ""


# -- export ---------------------------------------------------------------------------


def test_folded_stacks_add_up(project):
    done = call("export", "before", "--format", "folded", check=0)
    total = sum(int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines())

    measured = folder.load(project / "before").measurements[0].profile()
    assert total in (measured.samples, measured.value)
    assert f"shop.parser:parse;{GUILTY} " in done.stdout


def test_pprof_reads_back(project):
    from ci_flame.formats import pprof

    call("export", "before", "--format", "pprof", "-o", "x.pb.gz", check=0)
    read = pprof.read((project / "x.pb.gz").read_bytes(), "x")

    measured = folder.load(project / "before").measurements[0]
    assert sum(p.samples for p in read.profiles.values()) == measured.profile().samples


def test_export_asks_which_benchmark(project):
    second = synthetic_measurement(SHOP, benchmark="b::two", processes=1, rounds=2)
    run = folder.load(project / "before")
    folder.save(replace(run, measurements=(*run.measurements, second)), project / "two")

    done = call("export", "two", "--format", "folded", check=2)
    assert "the run holds several benchmarks" in done.stderr
    done = call("export", "two", "--format", "folded", "--benchmark", "b::tow", check=2)
    assert 'no benchmark b::tow; did you mean "b::two"?' in done.stderr
    call("export", "two", "--format", "folded", "--benchmark", "b::two", check=0)


def test_export_writes_into_a_pipe_and_through_a_link(project):
    pipe, link = project / "pipe", project / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    link.symlink_to("target")
    call("export", "before", "--format", "folded", "-o", "pipe", check=0)
    call("export", "before", "--format", "folded", "-o", "link", check=0)

    with os.fdopen(reader, "rb") as stream:
        assert stream.read() == (project / "target").read_bytes()
    assert pipe.is_fifo()
    assert link.is_symlink()


@pytest.mark.parametrize("baseline", ["gone", "folder:gone", "git:HEAD", "tree:gone", "auto"])
def test_a_baseline_that_cannot_be_used_is_a_usage_error_of_pytest_too(project, baseline):
    (project / ".ci-flame/baseline").mkdir(parents=True)
    done = call("check", "--baseline", baseline, "--", "pytest", "no-such-file.py", check=2)

    assert done.stderr.startswith("ci-flame: ")
    assert "no-such-file" not in done.stdout + done.stderr


def test_a_reader_that_goes_away_is_no_error(project):
    words = " ".join([*CI_FLAME, "export", "before", "--format", "folded"])
    done = subprocess.run(
        ["bash", "-c", f"{words} | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("141\n", "")


# -- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "Usage: ci-flame"),
        (["nosuch"], 2, "No such command 'nosuch'"),
        (["record"], 2, "COMMAND is missing"),
        (["record", "--bogus", "--", "true"], 2, "ci-flame: No such option"),
        (["record", "--bogus", "--", "true"], 2, "\n  hint: ci-flame record --help\n"),
        (["record", "--jit", "jva", "--", "true"], 2, '"jva" is not known; did you mean "java"?'),
        (["check", "--jit", "jva", "--", "pytest"], 2, "hint: one of: none, java, node, auto"),
        (["export", "x", "--format", "pproff"], 2, "ci-flame: Invalid value for '--format'"),
        (["record", "--repeat", "0", "--", "true"], 2, "--repeat 0 is outside 1 to 100"),
        (["record", "--repeat", "101", "--", "true"], 2, "--repeat 101 is outside 1 to 100"),
        (["record", "--repeat", "x", "--", "true"], 2, "--repeat is a plain number"),
        (["record", "--frequency", "9", "true"], 2, "--frequency 9 is outside 10 to 20000 Hz"),
        (["record", "--collector", "prf", "true"], 2, 'did you mean "perf"?'),
        (["record", "--name", "a\nb", "true"], 2, "is not a name"),
        (["record", "--policy", "nosuch.yml", "true"], 2, "policy nosuch.yml cannot be read"),
        (["compare", "before", "nosuch"], 2, "nosuch: there is no such folder"),
        (["compare", "nosuch", "after"], 2, "nosuch: there is no such folder"),
        (["compare", "none", "after"], 2, "BEFORE none: no baseline"),
        (["compare", "git:main", "after"], 2, "is not in a git work tree"),
        (["compare", "rerun:main", "after"], 2, "is recorded, not loaded"),
        (["compare", "before", "after", "-o", "before"], 2, "is not empty and not a report"),
        (["check", "--baseline", "gti:x", "--", "true"], 2, 'did you mean "git"?'),
        (["check", "--baseline", "rerun:main", "--", "true"], 2, "is not in a git work tree"),
        (["check", "--baseline", "folder:nosuch", "--", "true"], 2, "there is no such folder"),
        (["explain", "before"], 2, "before is not a report"),
        (["gate", "nosuch"], 2, "nosuch does not exist"),
        (["export", "before", "--format", "svg"], 2, "'svg' is not one of 'folded', 'pprof'"),
        (["check", "--pytest", "--", "no-such-program"], 3, "no-such-program cannot be run"),
        (["check", "--pytest", "--", "true"], 3, "pytest passed, but recorded no benchmark"),
        (["check", "--pytest", "--", "false"], 3, "exit code 1 and left no report"),
    ],
)
def test_errors_are_one_line_and_a_code(project, words, code, message):
    done = call(*words, check=code)

    assert message in done.stderr


def test_a_policy_error_has_file_and_line(project):
    (project / "ci-flame.yml").write_text("version: 1\nrules:\n  - {max_grwth: 10%}\n")
    done = call("compare", "before", "after", check=2)

    first, hint = done.stderr.splitlines()
    assert first.startswith('ci-flame: ci-flame.yml:3: unknown key "max_grwth"')
    assert first.endswith('did you mean "max_growth"?')
    assert hint.startswith("  hint: ")


def test_an_unforeseen_refusal_of_the_system_is_told(monkeypatch, capsys):
    def refuse(_context):
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setattr(sys, "argv", ["ci-flame", "doctor"])
    monkeypatch.setattr(cli.cli, "invoke", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 3
    assert "Permission denied" in capsys.readouterr().err


def test_version():
    assert call("--version", check=0).stdout == f"ci-flame, version {ci_flame.__version__}\n"


def test_help_of_check_names_every_baseline_and_collector():
    told = " ".join(CliRunner().invoke(cli.cli, ["check", "--help"]).output.split())
    baselines = told.partition("--baseline SPEC")[2].partition(" --")[0]
    collectors = told.partition("--collector")[2].partition(" --")[0]

    assert {kind.value for kind in BaselineKind} <= set(re.findall(r"[\w-]+", baselines))
    assert set(COLLECTOR_NAMES) <= set(re.findall(r"[\w-]+", collectors))


def test_help_is_quick_and_complete():
    runner = CliRunner()
    listed = runner.invoke(cli.cli, ["--help"]).output
    for name in ("record", "compare", "check", "report", "explain", "export", "doctor", "gate"):
        assert name in listed
        assert runner.invoke(cli.cli, [name, "--help"]).exit_code == 0

    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, ci_flame.cli; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert {"numpy", "scipy", "yaml", "jinja2", "google.protobuf", "pytest"}.isdisjoint(loaded)


# -- replay: the whole way without privileges -----------------------------------------


def replayed(project, *words):
    name = "tests/bench_shop.py::test_checkout"
    return call("check", "--name", name, *words, "--", "true")


def test_check_compares_with_a_stored_run(project):
    done = replayed(project, "--replay", "after", "--baseline", "folder:before")

    assert done.returncode == 1
    assert f"{GUILTY} grew by" in done.stdout
    assert (project / ".ci-flame/run/run.json").exists()
    assert replayed(project, "--replay", "before", "--baseline", "folder:before").returncode == 0

    lenient = "version: 1\nbaseline: {from: 'folder:before'}\nrules: [{max_growth: 500%}]\n"
    (project / "lenient.yml").write_text(lenient)
    done = replayed(project, "--replay", "after", "--policy", "lenient.yml", "-o", "out")
    assert (done.returncode, (project / "out/report.html").exists()) == (0, True)
    assert "ci-flame: pass; out/report.html" in done.stderr


def test_what_a_ci_job_collects(project):
    words = ["--replay", "after", "--baseline", "folder:before", "-o", "out"]
    words += ["--summary", "summary", "--github-output", "output"]
    (project / "summary").write_text("before us\n")

    assert replayed(project, *words, "--exit-zero").returncode == 0
    assert (project / "output").read_text() == "outcome=fail\nexit-code=1\nreport=out\n"
    assert (project / "summary").read_text().startswith("before us\n")
    assert GUILTY in (project / "summary").read_text()
    assert replayed(project, *words).returncode == 1
    call("gate", "out", check=1)


def test_a_job_that_cannot_record_says_so_in_its_outputs(project):
    call("check", "--github-output", "output", "--", "no-such-program", check=3)

    assert (project / "output").read_text() == "outcome=error\nexit-code=3\nreport=\n"


def test_a_check_that_fails_leaves_no_report_of_an_earlier_one(project):
    assert replayed(project, "--replay", "after").returncode == 0
    assert (project / ".ci-flame/report/verdict.json").exists()

    call("check", "--", "no-such-program", check=3)

    assert not (project / ".ci-flame/report").exists()


@pytest.mark.parametrize("command", ["true", "pytest"])
@pytest.mark.parametrize("option", ["--replay {}", "--baseline folder:{}"])
def test_what_is_needed_of_an_earlier_report_is_not_removed(project, option, command):
    assert replayed(project, "--replay", "after").returncode == 0
    run = ".ci-flame/report/after"
    done = call("check", *option.format(run).split(), "--", command, check=2)

    assert f"{run} lies in the report folder .ci-flame/report" in done.stderr
    assert (project / run / "run.json").exists()


@pytest.mark.parametrize("run", ["out/run", "out"])
def test_a_run_inside_the_report_is_refused_before_anything_is_recorded(project, run):
    words = ("--run", run, "-o", "out", "--name", "x", "--", "touch", "recorded")
    done = call("check", *words, check=2)

    assert f"{run} lies in the report folder out, which is written anew" in done.stderr
    assert not (project / "recorded").exists()


def test_no_baseline_passes_unless_it_is_required(project):
    assert replayed(project, "--replay", "after", "--baseline", "none").returncode == 0
    (project / "ci-flame.yml").write_text("version: 1\nbaseline: {required: true}\n")
    done = replayed(project, "--replay", "after")

    assert done.returncode == 4
    assert "no baseline: .ci-flame/baseline does not exist" in done.stdout
    call("gate", ".ci-flame/report", check=4)


def test_a_budget_that_warns_does_not_stand_in_for_a_required_baseline(project):
    (project / "ci-flame.yml").write_text(
        "version: 1\nbaseline: {required: true}\n"
        "rules: [{frames: ['*'], budget: 1%, severity: warn}]\n"
    )
    done = replayed(project, "--replay", "after", "--github-output", "output")

    assert done.returncode == 4
    assert "outcome=warn\nexit-code=4\n" in (project / "output").read_text()
    call("gate", ".ci-flame/report", check=4)


@pytest.mark.parametrize("baseline", ["auto", "none"])
def test_a_required_baseline_that_is_missing_stops_pytest_before_it_starts(project, baseline):
    (project / "ci-flame.yml").write_text("version: 1\nbaseline: {required: true}\n")
    done = call("check", "--baseline", baseline, "--", "pytest", "no-such-file.py", check=4)

    assert done.stderr.startswith("ci-flame: no baseline: ")
    assert "and the policy requires one" in done.stderr
    assert "no-such-file" not in done.stdout


def test_another_machine_is_inconclusive(project):
    run = folder.load(project / "after")
    other = replace(run.environment, cpu_model="Another CPU 2")
    folder.save(replace(run, environment=other), project / "other")

    assert replayed(project, "--replay", "other", "--baseline", "folder:before").returncode == 0
    (project / "ci-flame.yml").write_text("version: 1\ninconclusive: fail\n")
    done = replayed(project, "--replay", "other", "--baseline", "folder:before")

    assert done.returncode == 5
    assert "Another CPU 2" in done.stdout
