"""The command line with real recordings, real repositories and real signals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from synthetic import SHOP, synthetic_measurement, synthetic_run

from ci_flame import collect
from ci_flame.baseline import folder
from ci_flame.collect import machine

CI_FLAME = (sys.executable, "-m", "ci_flame")


def ebpf_usable():
    return collect.COLLECTORS["ebpf"].obstacle(machine.probe(), python=True) is None


needs_ebpf = [
    pytest.mark.root,
    pytest.mark.skipif(not ebpf_usable(), reason="no eBPF here"),
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder, and in it a run to compare with."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    folder.save(synthetic_run(synthetic_measurement(SHOP, seed=2)), root / "after")
    return root


def spawn(*words, check=None):
    """Run `ci-flame` in a process of its own, with all that its children print."""
    done = subprocess.run(
        [*CI_FLAME, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert check in (None, done.returncode), done.stdout + done.stderr
    return done


# -- the real thing -------------------------------------------------------------------

BUSY = """
import time
def spin(n):
    return sum(i * i for i in range(n))
for _ in range(30):
    spin(100_000)
"""


def run_git(place, *words):
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words],
        cwd=place, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


class TestForReal:
    pytestmark = needs_ebpf

    def test_record_and_look_at_it(self, project):
        (project / "busy.py").write_text(BUSY)
        done = spawn(
            "record", "-o", "run", "--name", "busy", "--repeat", "2", "--",
            sys.executable, "busy.py", check=0,
        )  # fmt: skip

        assert "busy: 2 repetitions, " in done.stderr
        assert "busy:spin" in spawn("export", "run", "--format", "folded", check=0).stdout
        run = folder.load(project / "run")
        assert run.complete
        assert len(run.measurements[0].processes) == 2

    def test_ctrl_c_keeps_what_was_recorded_and_marks_it(self, project):
        # The third run of the command (one is a warm-up) says that it is there, and stays.
        (project / "busy.py").write_text(
            BUSY + "from pathlib import Path\n"
            "n = len(list(Path('.').glob('ran*')))\n"
            "Path(f'ran{n}').touch()\n"
            "time.sleep(60 if n == 2 else 0)\n"
        )
        words = ["record", "-o", "run", "--name", "busy", "--repeat", "5", "--"]
        process = subprocess.Popen(
            [*CI_FLAME, *words, sys.executable, "busy.py"],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            for _ in range(600):
                if (project / "ran2").exists():
                    break
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()

        assert process.returncode == 130
        assert "interrupted; the run is marked incomplete" in told
        run = folder.load(project / "run", incomplete_ok=True)
        assert not run.complete
        assert len(run.measurements[0].processes) == 1
        done = spawn("compare", "run", "after", check=2)
        assert "not complete" in done.stderr

    def test_check_against_the_base_commit(self, project):
        """The base commit in a worktree, and a guilty function that is named."""
        run_git(project, "init", "-q")
        (project / ".gitignore").write_text("before/\nafter/\nagain/\n.ci-flame/\n__pycache__/\n")
        (project / "shop.py").write_text(
            "def tokenize(n):\n    return sum(len(str(i)) for i in range(n))\n"
            "def render(n):\n    return ''.join([str(i * i) for i in range(n)])\n"
        )
        (project / "busy.py").write_text(
            "import shop\nfor _ in range(120):\n    shop.tokenize(15_000); shop.render(40_000)\n"
        )
        # However busy the machine is that the tests run on.
        (project / "ci-flame.yml").write_text("version: 1\nrecord: {busy: 100%}\n")
        run_git(project, "add", "-A")
        run_git(project, "commit", "-q", "-m", "one")
        source = (project / "shop.py").read_text()
        dearer = source.replace("for i in range(n))", "for i in range(n * 4))")
        (project / "shop.py").write_text(dearer)
        before = run_git(project, "worktree", "list"), run_git(project, "status", "--porcelain")
        words = ["--baseline", "rerun:HEAD", "--repeat", "5", "--", sys.executable, "busy.py"]

        done = spawn("check", *words, check=1)

        assert "shop:tokenize" in done.stdout
        assert "shop:render grew" not in done.stdout
        assert (
            run_git(project, "worktree", "list"),
            run_git(project, "status", "--porcelain"),
        ) == before
        report = project / ".ci-flame/report"
        spawn("compare", report / "before", report / "after", "-o", "again", check=1)
        first, again = (
            json.loads((place / "verdict.json").read_text())
            for place in (report, project / "again")
        )
        assert "Changed in this diff: shop.py:2." in done.stdout
        # How it was recorded is in no run folder: `explain` says it, `compare` cannot know.
        slugs = [[note["slug"] for note in each.pop("notes")] for each in (first, again)]
        assert slugs == [["base-commit", "changed-since"], ["changed-since"]]
        for each in (first, again):
            for benchmark in each["benchmarks"]:
                benchmark["notes"] = [
                    note for note in benchmark["notes"] if note["slug"] != "confirmed"
                ]
        assert again == first
        sides = [folder.load(report / side) for side in ("before", "after")]
        assert [run.dirty for run in sides] == [False, True]
        assert len({run.commit for run in sides}) == 1

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize(
        ("command", "sentence"),
        [
            ((), "interrupted before one repetition had ended; nothing is kept"),
            (("-m", "pytest", "-q", "-s"), "interrupted; no benchmark had ended, and nothing"),
        ],
    )
    def test_an_interrupted_check_leaves_the_repository_as_it_was(
        self, project, tmp_path, monkeypatch, *, command, sentence, number
    ):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setenv("TMPDIR", str(scratch))
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        run_git(project, "init", "-q")
        (project / "test_busy.py").write_text(
            "import time\ndef test_sleep():\n    print('here', flush=True)\n    time.sleep(60)\n"
            "if __name__ == '__main__':\n    test_sleep()\n"
        )
        (project / ".gitignore").write_text(".pytest_cache\n.ci-flame\n")
        run_git(project, "add", "test_busy.py")
        run_git(project, "commit", "-q", "-m", "one")
        before = run_git(project, "worktree", "list"), run_git(project, "status", "--porcelain")
        words = ["check", "--baseline", "rerun:HEAD", "--", sys.executable]
        process = subprocess.Popen(
            [*CI_FLAME, *words, *command, "test_busy.py"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert "here\n" in iter(process.stdout.readline, "")
            assert [each.name[:14] for each in scratch.iterdir()] == ["ci-flame-base-"]
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()

        assert process.returncode == 130
        assert f"ci-flame: {sentence}" in told
        assert list(scratch.iterdir()) == []
        assert (
            run_git(project, "worktree", "list"),
            run_git(project, "status", "--porcelain"),
        ) == before

    def test_check_runs_pytest_with_our_options(self, project):
        (project / "bench_x.py").write_text(
            "def work():\n    return sum(i * i for i in range(20_000))\n\n"
            "def test_work(flame):\n    flame(work)\n"
        )
        words = ["--baseline", "none", "--repeat", "1", "--seconds", "0.5"]
        done = spawn(
            "check", *words, "--", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "bench_x.py", check=0,
        )  # fmt: skip

        assert "1 passed" in done.stdout
        assert "ci-flame: no-baseline; .ci-flame/report/report.html" in done.stderr
        run = folder.load(project / ".ci-flame/run")
        assert [m.benchmark for m in run.measurements] == ["bench_x.py::test_work"]

    def test_a_test_that_fails_is_no_hot_path(self, project):
        (project / "bench_x.py").write_text(
            "def test_work(flame):\n    flame(lambda: sum(i * i for i in range(20_000)))\n\n"
            "def test_other():\n    assert False\n"
        )
        words = ["--baseline", "none", "--repeat", "1", "--seconds", "0.5", "--"]
        done = spawn("check", *words, sys.executable, "-m", "pytest", "-q", "bench_x.py", check=3)

        assert "pytest ended with exit code 1, and not because of a hot path" in done.stderr
