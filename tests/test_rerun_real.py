"""The base commit recorded beside, end to end: real repositories, real recordings, one wording."""

import json
import os
import subprocess
import sys

import pytest

from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, machine

WHY = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}"),
]
PLAIN = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:xdist")
SHOP = """\
import made


def tokenize(times):
    total = 0
    for i in range(300 * times):
        total += i * 3 % 7
    return total * made.PRICE


def read(times):
    return tokenize(times)


def render():
    return ",".join([str(i) for i in range(300)])
"""
TOKENIZE = "Changed in this diff: shop.py:6."
# However busy the machine is that the tests run on.
POLICY = """\
version: 1
record: {busy: 100%}
baseline:
  setup: echo PRICE = 1 > made.py && echo made at the base
"""


def run_git(place, *words):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *who, *words], cwd=place, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path):
    """Two commits: `tokenize` does five times as much in the second, and nothing else changed.

    `made.py` is ignored by git: each side has to make it.
    """
    root = tmp_path / "project"
    root.mkdir()
    run_git(root, "init", "-q", "-b", "main")
    (root / ".gitignore").write_text(".ci-flame/\n__pycache__/\nmade.py\nagain/\n")
    (root / "ci-flame.yml").write_text(POLICY)
    (root / "shop.py").write_text(SHOP)
    (root / "test_shop.py").write_text(
        "import shop\n"
        "def checkout():\n    shop.read(1)\n    shop.render()\n"
        "def test_checkout(flame):\n    flame(checkout)\n"
    )
    (root / "busy.py").write_text(
        "import shop\nfor _ in range(2000):\n    shop.read(8)\n    shop.render()\n"
    )
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", "one")
    (root / "shop.py").write_text(SHOP.replace("300 * times", "1500 * times"))
    run_git(root, "commit", "-q", "-a", "-m", "two")
    (root / "made.py").write_text("PRICE = 1\n")
    return root


def spawn(project, *words, code, quiet=True, **variables):
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=project,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert not quiet or "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done


def pytest_of(project, *words, code, processes=3, seconds=0.3, **variables):
    size = (f"--flame-processes={processes}", f"--flame-seconds={seconds}")
    return spawn(project, "pytest", "--flame", *size, *PLAIN, *words, code=code, **variables)


def same_everywhere(project, said):
    """Check that `explain`, `compare` and every report word and decide as the build did."""
    report = project / ".ci-flame" / "report"
    verdict = json.loads((report / "verdict.json").read_text())
    findings = [each for one in verdict["benchmarks"] for each in one["findings"]]
    failed = {each["function"]: each for each in findings if each["outcome"] == "fail"}
    assert set(failed) == {"shop:tokenize"}
    (finding,) = failed.values()
    assert (finding["touched"], finding["changed"]) == ("changed", TOKENIZE)
    sentence = finding["sentence"]
    assert sentence.endswith(TOKENIZE)
    assert sentence in said
    explained = spawn(project, "ci_flame", "explain", report, code=0).stdout
    assert sentence in explained
    assert "judged again: fail (the same)" in explained
    for name in ("summary.md", "junit.xml", "report.html"):
        assert TOKENIZE.removesuffix(".") in (report / name).read_text(), name
    compared = spawn(
        project, "ci_flame", "compare", report / "before", report / "after", "-o", "again", code=1
    )
    assert sentence in compared.stdout
    again = json.loads((project / "again" / "verdict.json").read_text())
    assert again["benchmarks"][0]["findings"] == verdict["benchmarks"][0]["findings"]
    # Another revision, or none, changes the label and nothing else.
    for revision, told in (("HEAD", "Not touched by this diff."), ("none", None)):
        other = spawn(
            project, "ci_flame", "explain", report, "--changed-since", revision, code=0
        ).stdout
        assert "judged again: fail (the same)" in other
        assert TOKENIZE not in other
        assert told is None or told in other
    return verdict


def test_in_ci_the_base_commit_is_recorded_and_the_guilty_change_is_named(project):
    """Nothing is named: CI says it is CI. The base needs its setup; benchmarks are new, too."""
    (project / "test_added.py").write_text(
        "import shop\ndef test_render(flame):\n    flame(shop.render)\n"
    )
    fresh = (project / "shop.py").read_text() + "\n\ndef fresh():\n    return render() * 2\n"
    (project / "shop.py").write_text(fresh)
    (project / "test_fresh.py").write_text(
        "import shop\ndef test_fresh(flame):\n    flame(shop.fresh)\n"
    )
    base = run_git(project, "rev-parse", "HEAD~1")
    before = run_git(project, "worktree", "list"), run_git(project, "status", "--porcelain")
    done = pytest_of(project, code=1, processes=2, CI="true")
    said = done.stdout

    assert (
        "ci-flame: no baseline: .ci-flame/baseline does not exist;"
        f" {base[:10]}, the first parent of HEAD"
        " (no pull request), is recorded beside: the default in CI"
    ) in said
    assert "1 failed, 2 passed" in said
    verdict = same_everywhere(project, said)

    assert (
        run_git(project, "worktree", "list"),
        run_git(project, "status", "--porcelain"),
    ) == before
    notes = {(each["slug"], each["benchmark"]): each["text"] for each in verdict["notes"]}
    for each in verdict["benchmarks"]:
        notes |= {(note["slug"], each["benchmark"]): note["text"] for note in each["notes"]}
    assert notes["new-file", "test_added.py::test_render"] == (
        "test_added.py is new: it was run against the base commit's code"
    )
    assert (
        "is new: the base commit does not have it"
        in (notes["new-benchmark", "test_fresh.py::test_fresh"])
    )
    outcomes = {each["benchmark"]: each["outcome"] for each in verdict["benchmarks"]}
    assert outcomes == {
        "test_added.py::test_render": "pass",
        "test_fresh.py::test_fresh": "no-baseline",
        "test_shop.py::test_checkout": "fail",
    }
    sides = [folder.load(project / ".ci-flame" / "report" / name) for name in ("before", "after")]
    assert [side.commit for side in sides] == [base, run_git(project, "rev-parse", "HEAD")]
    assert [len(side.measurements) for side in sides] == [2, 3]
    assert len(sides[1].seed) == 16  # of the order of the sides


def test_a_command_fails_with_the_same_words(project):
    done = spawn(
        project, "ci_flame", "check", "--baseline", "rerun:HEAD~1", "--repeat", "3", "--",
        sys.executable, "busy.py", code=1,
    )  # fmt: skip

    same_everywhere(project, done.stdout)
    assert len(folder.load(project / ".ci-flame" / "report" / "after").seed) == 16


def test_a_base_that_lacks_a_file_names_it_with_the_cure(project):
    (project / "ci-flame.yml").write_text("version: 1\n")
    cure = "git does not hold made.py, so the base commit is without: add it, or let baseline:"
    done = pytest_of(project, "--flame-baseline=rerun:HEAD~1", "test_shop.py", code=1, processes=1)

    assert "run in the base commit, it ended with exit code" in done.stdout
    assert "No module named 'made'" in done.stdout
    assert f"hint: {cure}" in done.stdout

    words = ("check", "--baseline", "rerun:HEAD~1", "--repeat", "2", "--", sys.executable)
    # The traceback is the command's own.
    done = spawn(project, "ci_flame", *words, "busy.py", code=3, quiet=False)

    assert "ci-flame: beside the base commit, the command ended with exit code 1" in done.stderr
    assert done.stderr.count("No module named 'made'") == 2
    assert "hint: git does not hold made.py; baseline: {setup: COMMAND}" in done.stderr


@pytest.mark.parametrize("where", ["pytest", "check pytest", "check"])
def test_a_setup_that_fails_ends_the_build_before_anything_is_recorded(project, where):
    setup = "echo no compiler; exit 7"
    told = f"setup of the base commit ended with exit code 7: {setup}"
    if where == "pytest":
        words = ("--flame-baseline=rerun:HEAD~1", f"--flame-setup={setup}")
        done = pytest_of(project, *words, code=4)
    else:
        command = ["-m", "pytest"] if where == "check pytest" else ["busy.py"]
        done = spawn(
            project, "ci_flame", "check", "--baseline", "rerun:HEAD~1", "--setup", setup, "--",
            sys.executable, *command, code=3,
        )  # fmt: skip

    assert told in done.stderr
    assert "  | no compiler" in done.stderr
    assert not (project / ".ci-flame" / "run").exists()
    assert run_git(project, "worktree", "list").count("\n") == 0


@pytest.mark.parametrize("where", ["pytest", "check"])
def test_a_revision_that_does_not_exist_is_said_before_anything_is_recorded(project, where):
    if where == "pytest":
        done = pytest_of(project, "--flame-changed-since=nosuch", code=4)
    else:
        done = spawn(
            project, "ci_flame", "check", "--changed-since", "nosuch", "--",
            sys.executable, "busy.py", code=2,
        )  # fmt: skip

    assert "revision nosuch does not exist" in done.stderr
    assert "git log --oneline" in done.stderr
    assert not (project / ".ci-flame" / "run").exists()


PERF = COLLECTORS["perf"].obstacle(machine.probe(), python=False)
PROGRAM = """\
__attribute__((noinline)) int scan(int n) {
    volatile int total = 0;
    for (int i = 0; i < n * 100; i++)
        total += i % 7;
    return total;
}
__attribute__((noinline)) int other(int n) {
    volatile int total = 0;
    for (int i = 0; i < n * 300; i++)
        total += i % 3;
    return total;
}
int main(void) {
    int total = 0;
    for (int i = 0; i < 1500; i++)
        total += scan(1000) + other(1000);
    return total == 7;
}
"""


@pytest.mark.skipif(PERF is not None, reason=f"perf: {PERF and PERF.reason}")
def test_a_native_function_is_told_by_its_line_table(project):
    """The base's setup builds its program; the label comes from the build that lies here."""
    build = "cc -g -O1 -fno-omit-frame-pointer -o prog prog.c"
    policy = f"version: 1\nrecord: {{busy: 100%}}\nbaseline: {{setup: {build}}}\n"
    (project / "ci-flame.yml").write_text(policy)
    with (project / ".gitignore").open("a") as ignored:
        ignored.write("prog\n")
    (project / "prog.c").write_text(PROGRAM)
    run_git(project, "add", "-A")
    run_git(project, "commit", "-q", "-m", "native")
    (project / "prog.c").write_text(PROGRAM.replace("n * 100;", "n * 400;"))
    subprocess.run(build.split(), cwd=project, check=True)
    # Three do not always tell 0.4 s from 0.7 s: there are references at each end of a run only.
    words = ("check", "--baseline", "rerun:HEAD", "--repeat", "6", "--", "./prog")
    done = spawn(project, "ci_flame", *words, code=1)

    (sentence,) = [row.strip() for row in done.stdout.splitlines() if "limit 10 %" in row]
    assert "native:prog:scan grew by" in sentence
    assert sentence.endswith("Changed in this diff: prog.c:3.")
    explained = spawn(project, "ci_flame", "explain", ".ci-flame/report", code=0).stdout
    assert sentence in explained
