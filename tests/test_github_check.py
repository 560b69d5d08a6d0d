"""The steps that record and compare, as a job runs them: outputs, fences, what is left behind."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import pytest
from fake_github import FakeGitHub
from synthetic import SHOP, grown, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder
from ci_flame.errors import UsageError
from ci_flame.github import check
from ci_flame.pipeline import reasons

ROOT = pytest.mark.root
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: records for real")
WORK = """\
import os, pathlib, time

def squares():
    return sum(number * number for number in range(20_000))

pathlib.Path(os.environ["SEEN"]).write_text("\\n".join(sorted(os.environ)))
print("::error::from the benchmark")
end = time.process_time() + 0.4
while time.process_time() < end:
    squares()
"""


def git(*words, cwd):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "t", f"GIT_{who}_EMAIL": "t@example.org"}
    subprocess.run(["git", *words], cwd=cwd, capture_output=True, check=True, env=environment)


def git_says(*words, cwd):
    done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Step:
    """A checkout, and the environment of a step in it."""

    def __init__(self, tmp_path):
        self.here = tmp_path / "checkout"
        self.here.mkdir()
        self.output = tmp_path / "output"
        self.seen = tmp_path / "seen"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "CI": "true",
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_ENV": str(tmp_path / "env"),
            "RUNNER_TEMP": str(tmp_path / "temp"),
            "CI_FLAME_GITHUB_TOKEN": "ghs_geheim",
            "CI_FLAME_COMMAND": f"{sys.executable} work.py",
            "CI_FLAME_BASELINE": "none",
            "SEEN": str(self.seen),
        }
        (self.here / "work.py").write_text(WORK, encoding="utf-8")
        (self.here / "ci-flame.yml").write_text(
            "version: 1\nrecord: {processes: 1, busy: 100%}\n", encoding="utf-8"
        )
        git("init", "-q", cwd=self.here)
        git("add", ".", cwd=self.here)
        git("commit", "-qm", "one", cwd=self.here)

    def run(self, command, **environment):
        self.output.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ci_flame", "github", command],
            cwd=self.here,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**self.environment, **environment},
        )
        text = self.output.read_text("utf-8") if self.output.exists() else ""
        pairs = re.findall(r"^([\w-]+)<<(\S+)\n(.*?)\n\2$", text, flags=re.MULTILINE | re.DOTALL)
        return done, {name: value for name, _end, value in pairs}


@pytest.fixture
def step(tmp_path):
    return Step(tmp_path)


def unfenced(text):
    """The lines that the runner reads commands in."""
    lines, until = [], ""
    for line in text.splitlines():
        if until:
            until = "" if line == f"::{until}::" else until
        elif line.startswith("::stop-commands::"):
            until = line.removeprefix("::stop-commands::")
        else:
            lines.append(line)
    assert not until, "the fence was not ended"
    return lines


# -- inputs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("pytest", ("pytest",)),
        ("pytest -k 'a or b' tests", ("pytest", "-k", "a or b", "tests")),
        ('pytest "$(touch x)"; rm y', ("pytest", "$(touch x);", "rm", "y")),  # no shell reads it
        ("pytest\n  -x", ("pytest", "-x")),
    ],
)
def test_command_is_split_like_a_shell_would(command, words):
    assert check.split(command) == words


@pytest.mark.parametrize(
    ("command", "told"),
    [("", "input command is empty"), ("pytest 'x", "cannot be split: no closing quotation")],
)
def test_command_that_cannot_be_split_is_refused(command, told):
    with pytest.raises(UsageError, match=told):
        check.split(command)


def test_inputs_have_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = check.inputs({})

    assert asked.command == ("pytest",)
    assert asked.python == sys.executable
    assert asked.report == tmp_path / ".ci-flame" / "report"
    assert asked.run == tmp_path / ".ci-flame" / "run"
    other = check.inputs({"CI_FLAME_OUTPUT": "out", "CI_FLAME_PYTHON": "python3.12"})
    assert (other.report, other.python) == (tmp_path / "out", "python3.12")


@pytest.mark.parametrize("command", ["check", "record", "compare", "baseline"])
def test_an_input_that_is_wrong_is_one_annotation_and_code_2(step, command):
    wrong = {"CI_FLAME_BASELINE": "%0A\n::error::x"} if command == "baseline" else {
        "CI_FLAME_COMMAND": "pytest 'x\n::error::y"
    }  # fmt: skip
    done, outputs = step.run(command, **wrong)
    shown = [line for line in done.stdout.splitlines() if line.startswith("::")]

    assert done.returncode == 2
    assert len(shown) == 1
    assert shown[0].startswith("::error title=ci_flame::input ")
    assert "Traceback" not in done.stderr
    assert outputs == {}


NOTHING = {
    "outcome": "error",
    "exit-code": "3",
    "report": "",
    "run": "",
    "page": "",
    "key": "job",
    "why": "python9: No such file or directory (input python)",
    "baseline": "none",
    "baseline-sha": "",
    "baseline-distance": "",
    "baseline-source": "",
    "baseline-told": "",
}
"""The outputs of a check that recorded nothing."""


def test_without_a_runner_outputs_are_printed(step):
    del step.environment["GITHUB_OUTPUT"]
    done, _ = step.run("baseline")

    assert done.returncode == 0
    assert "baseline=none" in done.stdout.splitlines()
    assert "key=job" in done.stdout.splitlines()


# -- check --------------------------------------------------------------------------------


def test_python_that_is_missing_is_an_outcome_not_a_traceback(step):
    done, outputs = step.run("check", CI_FLAME_PYTHON="python9")

    assert done.returncode == 0
    assert outputs == NOTHING
    assert "python9: No such file or directory (input python)" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_report_that_was_there_before_is_not_this_builds(step):
    report = step.here / ".ci-flame" / "report"
    report.mkdir(parents=True)
    (report / "verdict.json").write_text('{"outcome": "pass"}', encoding="utf-8")
    (report / "policy.json").write_text("{}", encoding="utf-8")
    run = step.here / ".ci-flame" / "run"
    folder.save(synthetic_run(synthetic_measurement(SHOP, processes=1, rounds=2)), run)
    done, outputs = step.run("check", CI_FLAME_PYTHON="python9")

    assert done.returncode == 0
    assert outputs == NOTHING


def test_a_policy_that_is_wrong_is_an_outcome(step):
    (step.here / "broken.yml").write_text("version: 2\n", encoding="utf-8")
    done, outputs = step.run("check", CI_FLAME_POLICY="broken.yml")

    assert (outputs["outcome"], outputs["exit-code"]) == ("error", "2")
    assert 'broken.yml:1: version "2" is not known' in done.stderr + done.stdout


def test_a_checkout_cannot_stand_in_for_what_checks_it(step):
    (step.here / "ci_flame").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (step.here / "ci_flame" / name).write_text("raise SystemExit(0)\n", encoding="utf-8")
    (step.here / "click.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    (step.here / "broken.yml").write_text("version: 2\n", encoding="utf-8")
    _, outputs = step.run("check", CI_FLAME_POLICY="broken.yml")

    assert outputs["exit-code"] == "2", "the policy is wrong, and ours has read it"


def test_a_command_that_fails_is_an_outcome(step):
    done, outputs = step.run("check", CI_FLAME_COMMAND=f"{sys.executable} no-such-file.py")

    assert done.returncode == 0
    assert (outputs["outcome"], outputs["exit-code"], outputs["report"]) == ("error", "3", "")
    assert "exit code 3" in done.stdout


@ROOT
@NEEDS_ROOT
def test_a_check_is_published_fenced_and_keeps_its_secrets(step):
    done, outputs = step.run("check")
    free = unfenced(done.stdout)
    seen = step.seen.read_text("utf-8").splitlines()

    assert (outputs["outcome"], outputs["exit-code"]) == ("no-baseline", "0"), done.stderr
    assert outputs["report"] == str(step.here / ".ci-flame" / "report")
    assert folder.load(step.here / ".ci-flame" / "run").measurements
    assert "::error::from the benchmark" in done.stdout.splitlines()
    assert not [line for line in free if line.startswith("::")]
    assert not {"CI_FLAME_GITHUB_TOKEN", "GITHUB_OUTPUT", "GITHUB_ENV"} & set(seen)
    assert "RUNNER_TEMP" in seen


@ROOT
@NEEDS_ROOT
def test_a_base_that_is_recorded_beside_is_compared(step):
    (step.here / "NEWS").write_text("x", encoding="utf-8")
    git("add", ".", cwd=step.here)
    git("commit", "-qm", "two", cwd=step.here)
    done, found = step.run("baseline", CI_FLAME_BASELINE="rerun")
    checked, outputs = step.run("check", CI_FLAME_BASELINE=found["baseline"])

    assert done.returncode == 0
    assert found["baseline"] == f"rerun:{found['baseline-sha']}"
    assert outputs["outcome"] in ("pass", "inconclusive", "fail"), checked.stdout + checked.stderr
    verdict = json.loads((step.here / ".ci-flame/report/verdict.json").read_text("utf-8"))
    assert verdict["before"]["commit"] == found["baseline-sha"]


@ROOT
@NEEDS_ROOT
@pytest.mark.parametrize(
    ("source", "outcome", "code"), [("rerun", "no-baseline", "0"), ("given", "error", "3")]
)
def test_a_base_that_cannot_run_is_no_dead_end_unless_it_was_named(step, source, outcome, code):
    """The step before chose the commit, or the workflow names it."""
    work = step.here / "work.py"
    work.write_text(f"import nope\n{WORK}", encoding="utf-8")
    git("commit", "-qam", "broken", cwd=step.here)
    work.write_text(WORK, encoding="utf-8")
    git("commit", "-qam", "mended", cwd=step.here)
    word = f"rerun:{git_says('rev-parse', 'HEAD~1', cwd=step.here)}"
    found = {"baseline": word, "baseline-source": source}
    if source == "rerun":
        _, found = step.run("baseline", CI_FLAME_BASELINE="auto")
        assert (found["baseline"], found["baseline-source"]) == (word, source)
    done, outputs = step.run(
        "check",
        CI_FLAME_BASELINE=found["baseline"],
        CI_FLAME_BASELINE_SOURCE=found["baseline-source"],
    )

    assert (outputs["outcome"], outputs["exit-code"]) == (outcome, code), done.stderr
    assert bool(outputs["run"]) is (outcome != "error"), "later builds are compared with it"
    assert "No module named 'nope'" in done.stdout + done.stderr


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@ROOT
@NEEDS_ROOT
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_that_is_cancelled_leaves_no_process(step, number):
    """GitHub sends SIGINT and then SIGTERM to the step's process."""
    (step.here / "work.py").write_text(
        "import os, pathlib, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "pathlib.Path(os.environ['SEEN']).write_text(str(os.getpid()))\n"
        "while True:\n    sum(range(10_000))\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "ci_flame", "github", "check"],
        cwd=step.here,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=step.environment,
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (step.seen.exists() and step.seen.read_text()):
            time.sleep(0.05)
        pid = int(step.seen.read_text())
        process.send_signal(number)
        told = process.communicate(timeout=60)[0].decode()
    finally:
        process.kill()

    assert process.returncode == 130, told
    assert "Traceback" not in told
    until = time.monotonic() + 10
    while time.monotonic() < until and not gone(pid):
        time.sleep(0.05)
    assert gone(pid)
    unfenced(told)


# -- with GitHub ------------------------------------------------------------------------------

SECRET = "ghs_GeheimesWort0123456789"  # noqa: S105 - made up


@pytest.fixture
def github():
    with FakeGitHub(tokens={SECRET: "read"}) as server:
        yield server


@pytest.fixture
def job(step, github):
    """A push of a second commit, whose parent has left an artifact."""
    parent = git_says("rev-parse", "HEAD", cwd=step.here)
    (step.here / "NEWS").write_text("x", encoding="utf-8")
    git("add", ".", cwd=step.here)
    git("commit", "-qm", "two", cwd=step.here)
    step.environment |= {
        "GITHUB_API_URL": github.api_url,
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_REPOSITORY": "acme/demo",
        "GITHUB_REPOSITORY_ID": "1001",
        "GITHUB_JOB": "bench",
        "GITHUB_SHA": git_says("rev-parse", "HEAD", cwd=step.here),
        "GITHUB_WORKFLOW_REF": f"acme/demo/{github.workflow}@refs/heads/main",
        "CI_FLAME_BASELINE": "auto",
        "CI_FLAME_GITHUB_TOKEN": SECRET,
    }
    return parent


def leave(github, place, sha, **origin):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for each in sorted(place.rglob("*")):
            if each.is_file():
                archive.write(each, str(each.relative_to(place)))
    run = github.add_run(head_sha=sha, **origin)
    return github.add_artifact(run, "ci-flame-run-bench", out.getvalue())


def stored(tmp_path, sha):
    run = synthetic_run(synthetic_measurement(SHOP, processes=1, rounds=2), commit=sha)
    folder.save(run, tmp_path / "stored")
    return tmp_path / "stored"


def test_the_baseline_step_finds_the_parents_artifact(step, job, github, tmp_path):
    leave(github, stored(tmp_path, job), job)
    newer = leave(github, stored(tmp_path, job), job, event="pull_request")
    done, outputs = step.run("baseline")
    place = tmp_path / "temp" / "ci-flame" / "baseline-bench"

    assert done.returncode == 0
    assert outputs == {
        "baseline": f"folder:{place}",
        "baseline-sha": job,
        "baseline-distance": "0",
        "baseline-source": "artifact",
        "baseline-builds": "1",
        "baseline-told": f"baseline: the artifact of {job[:10]}, the base commit itself",
        "key": "bench",
    }
    assert folder.load(place).commit == job
    assert f"artifact {newer} of run " in done.stdout
    assert "is refused: its run was started by pull_request" in done.stdout
    assert f"the artifact of {job[:10]}, the base commit itself" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_a_poisoned_artifact_is_named_and_the_base_is_recorded(step, job, github, tmp_path):
    fork = {"id": 666, "full_name": "eve/demo"}
    number = leave(github, stored(tmp_path, job), job, head_repository=fork)
    done, outputs = step.run("baseline")

    assert (outputs["baseline"], outputs["baseline-source"]) == (f"rerun:{job}", "rerun")
    assert f"artifact {number} of run " in done.stdout
    assert "is refused: its code is of a fork" in done.stdout


def test_a_service_that_is_down_is_a_notice_and_no_failure(step, job, github):
    github.fault("GET", ".*", status=403, times=9, body=f'{{"message": "no {SECRET}"}}'.encode())
    done, outputs = step.run("baseline")
    notices = [line for line in done.stdout.splitlines() if line.startswith("::notice ")]

    assert done.returncode == 0
    assert outputs["baseline-source"] == "rerun"
    assert len(notices) == 1
    assert "with 403: no ***" in notices[0]
    assert "is recorded in this job" in notices[0]
    assert SECRET not in done.stdout + done.stderr


def test_without_requests_the_base_is_recorded(step, job, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "requests.py").write_text("raise ImportError\n", encoding="utf-8")
    done, outputs = step.run("baseline", PYTHONPATH=str(tmp_path / "without"))

    assert outputs["baseline-source"] == "rerun"
    assert "pip install 'ci-flame[github]'" in done.stdout


@ROOT
@NEEDS_ROOT
def test_an_artifact_of_another_machine_gives_way_to_the_base_recorded_here(
    step, job, github, tmp_path
):
    """The artifact is the grandparent's: what is recorded instead is the parent, the base."""
    grandparent = job
    (step.here / "MORE").write_text("x", encoding="utf-8")
    git("add", ".", cwd=step.here)
    git("commit", "-qm", "three", cwd=step.here)
    step.environment["GITHUB_SHA"] = git_says("rev-parse", "HEAD", cwd=step.here)
    parent = git_says("rev-parse", "HEAD~1", cwd=step.here)
    leave(github, stored(tmp_path, grandparent), grandparent)
    _, found = step.run("baseline")
    given = {f"CI_FLAME_{name.upper().replace('-', '_')}": text for name, text in found.items()}
    done, outputs = step.run("check", **given)
    summary = (step.here / ".ci-flame/report/summary.md").read_text("utf-8")
    verdict = json.loads((step.here / ".ci-flame/report/verdict.json").read_text("utf-8"))

    assert (found["baseline-source"], found["baseline-distance"]) == ("ancestor", "1")
    assert outputs["outcome"] in ("pass", "inconclusive", "fail"), done.stdout + done.stderr
    assert verdict["before"]["commit"] == parent
    assert outputs["baseline"] == f"rerun:{parent}"
    assert outputs["baseline-source"] == "rerun"
    assert (outputs["baseline-sha"], outputs["baseline-distance"]) == (parent, "0")
    assert outputs["baseline-told"] == f"baseline {parent[:10]}, recorded in this job"
    assert str(tmp_path / "temp") not in summary


# -- record and compare ---------------------------------------------------------------------


@ROOT
@NEEDS_ROOT
def test_record_leaves_a_run_and_no_verdict(step):
    done, outputs = step.run("record")

    assert (outputs["outcome"], outputs["exit-code"]) == ("recorded", "0"), done.stderr
    assert outputs["report"] == ""
    assert folder.load(step.here / ".ci-flame" / "run").complete
    assert not (step.here / ".ci-flame" / "report").exists()


def test_record_of_a_command_that_fails_is_no_success(step):
    _, outputs = step.run("record", CI_FLAME_COMMAND=f"{sys.executable} no-such-file.py")

    assert (outputs["outcome"], outputs["exit-code"]) == ("error", "3")


@pytest.fixture
def runs(step):
    """Two stored runs: tokenize is dearer in the later one."""
    places = {}
    for name, costs in (("before", SHOP), ("after", grown(SHOP, "shop.parser:tokenize", 1.5))):
        run = synthetic_run(synthetic_measurement(costs, seed=len(places)))
        places[name] = step.here / ".ci-flame" / name
        folder.save(run, places[name])
    return places


@pytest.mark.parametrize(
    ("sides", "outcome", "code"),
    [
        (("before", "after"), "fail", "1"),
        (("before", "before"), "pass", "0"),
        ((None, "after"), "no-baseline", "0"),
    ],
)
def test_compare_judges_a_stored_run(step, runs, sides, outcome, code):
    before, after = sides
    done, outputs = step.run(
        "compare",
        CI_FLAME_RUN=str(runs[after]),
        CI_FLAME_BASELINE=f"folder:{runs[before]}" if before else "none",
    )

    assert done.returncode == 0
    assert (outputs["outcome"], outputs["exit-code"]) == (outcome, code), done.stderr
    assert outputs["report"] == str(step.here / ".ci-flame" / "report")
    assert (step.here / ".ci-flame" / "report" / "report.html").is_file()
    assert ("tokenize grew by" in done.stdout) is (outcome == "fail")


def test_compare_hears_a_policy_that_requires_a_baseline(step, runs):
    (step.here / "ci-flame.yml").write_text(
        "version: 1\nbaseline: {required: true}\n", encoding="utf-8"
    )
    _, outputs = step.run("compare", CI_FLAME_RUN=str(runs["after"]))

    assert (outputs["outcome"], outputs["exit-code"]) == ("no-baseline", "4")


@pytest.mark.parametrize(
    ("environment", "told", "code"),
    [
        ({"CI_FLAME_RUN": "nothing"}, "there is no such folder", "2"),
        ({"CI_FLAME_BASELINE": "folder:nothing"}, "there is no such folder", "2"),
    ],
)
def test_compare_without_a_side_is_an_outcome(step, runs, environment, told, code):
    given = {"CI_FLAME_RUN": str(runs["after"]), **environment}
    done, outputs = step.run("compare", **given)

    assert done.returncode == 0
    assert (outputs["outcome"], outputs["exit-code"], outputs["report"]) == ("error", code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@ROOT
@NEEDS_ROOT
def test_compare_records_both_sides_where_the_stored_one_is_of_another_machine(step):
    """As the check does by itself in CI; the stored run's commit is the base."""
    _, outputs = step.run("record")
    run = folder.load(step.here / ".ci-flame" / "run")
    other = replace(run, environment=replace(run.environment, cpu_model="another CPU"))
    folder.save(other, step.here / ".ci-flame" / "theirs")
    done, outputs = step.run("compare", CI_FLAME_BASELINE="folder:.ci-flame/theirs")
    verdict = json.loads((step.here / ".ci-flame/report/verdict.json").read_text("utf-8"))

    assert outputs["outcome"] in ("pass", "inconclusive", "fail"), done.stdout + done.stderr
    assert verdict["before"]["commit"] == run.commit
    assert verdict["before"]["environment"]["cpu_model"] == run.environment.cpu_model


@ROOT
@NEEDS_ROOT
def test_compare_records_both_sides_of_a_checkout(step, tmp_path):
    step.run("record")
    base = tmp_path / "base"
    git("worktree", "add", "-q", "--detach", str(base), "HEAD", cwd=step.here)
    done, outputs = step.run("compare", CI_FLAME_BASELINE=f"tree:{base}")
    verdict = json.loads((step.here / ".ci-flame/report/verdict.json").read_text("utf-8"))

    assert outputs["outcome"] in ("pass", "inconclusive", "fail"), done.stdout + done.stderr
    assert verdict["before"] is not None


def test_the_page_has_a_file_of_its_own_named_by_the_key(tmp_path, capsys):
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>page</p>", encoding="utf-8")
    made = check.page(report, tmp_path / "temp" / "ci-flame", "bench_3.12")

    assert made == tmp_path / "temp" / "ci-flame" / "ci-flame-bench_3.12.html"
    assert made.read_text(encoding="utf-8") == "<p>page</p>"
    assert check.page(None, tmp_path, "bench") is None

    (report / "report.html").unlink()

    assert check.page(report, tmp_path, "bench") is None
    assert "report.html was not made ready for upload: no such file" in capsys.readouterr().out


# -- why there is no verdict --------------------------------------------------------------


SUITE = """\
import os

def work(flame):
    flame(lambda: sum(range(3000)))

def test_fine(flame):
    work(flame)

def test_crash(flame):
    1 / 0

def test_sees(flame, tmp_path_factory):
    seen = [name for name in os.environ if name.startswith("INPUT_") or "REASONS" in name]
    assert not seen, seen
"""


@ROOT
@NEEDS_ROOT
@pytest.mark.parametrize("broken", [False, True])
def test_the_reason_reaches_the_outputs(step, broken):
    (step.here / "test_it.py").write_text(SUITE, encoding="utf-8")
    if broken:
        (step.here / "test_other.py").write_text("import no_such_module\n", encoding="utf-8")
    done, outputs = step.run(
        "check",
        CI_FLAME_COMMAND=f"{sys.executable} -m pytest -q -p no:cacheprovider",
        PYTEST_ADDOPTS="--flame-seconds 0.3",
        **{"INPUT_GITHUB-TOKEN": "ghs_geheim", "INPUT_COMMAND": "pytest"},
    )

    said = outputs["why"].splitlines()
    assert (outputs["outcome"], outputs["exit-code"]) == ("error", "3"), done.stdout + done.stderr
    if broken:
        assert said[0] == (
            "test_other.py cannot be collected: ModuleNotFoundError: No module named"
            " 'no_such_module'"
        )
        assert said[-1].startswith("pytest ended with exit code 2")
    else:
        crash, ended = said
        assert crash == "test_it.py::test_crash failed: ZeroDivisionError: division by zero"
        assert ended.startswith("pytest ended with exit code 1, and not because of a hot path; ")


def test_the_reason_of_a_wrong_policy_and_of_no_program_reaches_the_outputs(step):
    (step.here / "broken.yml").write_text("version: 2\n", encoding="utf-8")
    _, outputs = step.run("check", CI_FLAME_POLICY="broken.yml")
    assert 'broken.yml:1: version "2" is not known' in outputs["why"]

    _, outputs = step.run("compare", CI_FLAME_RUN="nowhere")
    assert "nowhere" in outputs["why"]
    assert "\n" not in outputs["why"]


def test_reasons_are_bounded_lines(tmp_path):
    place = tmp_path / "reasons"
    for number in range(50):
        reasons.tell(place, f"{number} \n\x1b[31m\ud800 {'x' * 10_000}")
        reasons.tell(place, f"{number} \n\x1b[31m\ud800 {'x' * 10_000}")

    said = reasons.read(place)

    assert len(said) == reasons.MAX_LINES
    assert max(map(len, said)) == reasons.MAX_LINE
    assert reasons.read(tmp_path / "none") == ()
    place.write_bytes(b"\xff\xfe" * 200_000)
    assert len(reasons.read(place)) == 1
    reasons.tell(None, "nobody asked")
    reasons.tell(tmp_path / "no" / "such", "cannot be written")
