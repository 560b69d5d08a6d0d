"""The main job on real input: a released library, one small real slowdown, PASS and FAIL.

`make demo` fetches a library from PyPI that we did not write, commits it with a benchmark, and
checks two pull requests with `ci-flame check --baseline rerun:HEAD~1`: one that changes only words,
and `examples/demo/tidy.patch`. Ends with 0 only if the first passes and the second fails and
names the function that the patch made slower. `--repeat 10` does that ten times and counts.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from demo_sizes import Sizes, measure

ROOT = Path(__file__).resolve().parent.parent
CASE = ROOT / "examples" / "demo"
WORK = Path("build") / "demo"
GUILTY = "sqlparse.sql:Token.match"
NOT_RECORDED = 3
"""What ci-flame ends with, too, when nothing could be recorded."""
BRANCHES = {"pass": "words", "fail": "tidy"}
GIT_ENVIRONMENT = {
    # The demo's commits are the same on every machine, whatever git is told there.
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "demo",
    "GIT_AUTHOR_EMAIL": "demo@example.org",
    "GIT_AUTHOR_DATE": "2026-01-05T12:00:00Z",
    "GIT_COMMITTER_NAME": "demo",
    "GIT_COMMITTER_EMAIL": "demo@example.org",
    "GIT_COMMITTER_DATE": "2026-01-05T12:00:00Z",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """One `ci-flame check` and what it wrote."""

    wanted: str
    exit_code: int
    outcome: str
    blamed: tuple[str, ...]
    sentences: tuple[str, ...]
    report: Path
    seconds: float
    output: str

    @property
    def right(self) -> bool:
        """True if the verdict is the expected one, and a FAIL names the guilty function first."""
        if self.wanted == "pass":
            return self.outcome == "pass" and self.exit_code == 0
        return self.outcome == "fail" and self.exit_code == 1 and self.blamed[:1] == (GUILTY,)


def say(text: str = "") -> None:
    """Print at once, so that a log shows where the time goes."""
    print(text, flush=True)


def git(*arguments: str, repository: Path) -> str:
    """Run git in the demo's repository; end the demo with its words if it fails."""
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **GIT_ENVIRONMENT},
    )
    if done.returncode:
        raise SystemExit(f"demo: git {arguments[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def obstacle() -> str:
    """Return what stops recording here, in the doctor's words; empty if nothing does."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ci-flame"), "doctor"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode else ""


def fetch(work: Path) -> Path:
    """Return the library's file: of this version and this hash, from pip's usual index."""
    folder = work / "download"
    have = sorted(folder.glob("*.whl"))
    if have:
        return have[0]
    partial = work / "download.partial"
    shutil.rmtree(partial, ignore_errors=True)
    words = ["download", "-qq", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", *words),
            *("--requirement", str(CASE / "requirements.txt"), "--dest", str(partial)),
        ],
        check=False,
    )
    if done.returncode:
        raise SystemExit("demo: the library could not be fetched; pip's words are above")
    partial.rename(folder)
    return next(folder.glob("*.whl"))


def build_repository(wheel: Path, work: Path) -> Path:
    """Make the repository: the release on `main`, one branch for each pull request."""
    repository = work / "repository"
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(CASE, repository, ignore=shutil.ignore_patterns("__pycache__", "*.patch"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(repository)  # the hash says that it is the file we looked at
    (repository / ".gitignore").write_text("__pycache__/\n.pytest_cache/\n", encoding="utf-8")
    git("init", "--quiet", "--initial-branch=main", repository=repository)
    git("add", "--all", repository=repository)
    git("commit", "--quiet", "--message", wheel.stem, repository=repository)

    git("switch", "--quiet", "--create", BRANCHES["pass"], repository=repository)
    (repository / "CONTRIBUTORS").write_text("Thanks to everyone.\n", encoding="utf-8")
    git("add", "--all", repository=repository)
    git("commit", "--quiet", "--message", "Thank the contributors", repository=repository)

    git("switch", "--quiet", "--create", BRANCHES["fail"], "main", repository=repository)
    git("apply", "--index", str(CASE / "tidy.patch"), repository=repository)
    message = "Normalise the arguments of Token.match before they are used"
    git("commit", "--quiet", "--message", message, repository=repository)
    return repository


def true_sizes(repository: Path, work: Path) -> Sizes:
    """Measure both states of the library without ci_flame."""
    folders = []
    for name in ("main", BRANCHES["fail"]):
        folder = work / f"sizes-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        git("switch", "--quiet", name, repository=repository)
        for part in ("sqlparse", "benchmarks"):
            shutil.copytree(repository / part, folder / part)
        folders.append(folder)
    return measure(folders[0], folders[1])


def check(repository: Path, wanted: str, report: Path) -> Checked:
    """Check the pull request whose verdict should be `wanted` against its base commit."""
    git("switch", "--quiet", BRANCHES[wanted], repository=repository)
    shutil.rmtree(report, ignore_errors=True)
    binaries = Path(sys.executable).parent
    start = time.monotonic()
    done = subprocess.run(
        [
            *(str(binaries / "ci-flame"), "check", "--baseline", "rerun:HEAD~1"),
            *("-o", str(report), "--", str(binaries / "pytest"), "benchmarks"),
        ],
        cwd=repository,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    seconds = time.monotonic() - start
    outcome, findings = "error", []
    try:
        verdict = json.loads((report / "verdict.json").read_text(encoding="utf-8"))
        outcome = verdict["outcome"]
        findings = [finding for each in verdict["benchmarks"] for finding in each["findings"]]
    except FileNotFoundError:
        pass  # said by `outcome`, and by what ci-flame printed
    failures = [finding for finding in findings if finding["outcome"] == "fail"]
    return Checked(
        wanted=wanted,
        exit_code=done.returncode,
        outcome=outcome,
        blamed=tuple(finding["function"] for finding in failures),
        sentences=tuple(finding["sentence"] for finding in failures),
        report=report,
        seconds=seconds,
        output=done.stdout,
    )


def tell(checked: Checked) -> None:
    """Print one verdict, what it says, and where its files are."""
    mark = "as expected" if checked.right else f"NOT as expected: {checked.wanted}"
    say(
        f"  {checked.outcome.upper()} (exit code {checked.exit_code}), {mark}; "
        f"{checked.seconds:.0f} s"
    )
    for sentence in checked.sentences:
        say(f"  {sentence}")
    if not checked.right:
        say("  what ci-flame printed:")
        say("".join(f"  | {line}\n" for line in checked.output.splitlines()))
    for name in ("report.html", "*.svg", "junit.xml"):
        for file in sorted(checked.report.glob(name)):
            say(f"    {os.path.relpath(file)}")


def story(repository: Path, wheel: Path, work: Path) -> None:
    """Say what is checked, and how big the change is by other means than ci_flame's."""
    say(f"Library   {wheel.name.split('-py3')[0]} from PyPI, as released; not written by us")
    say("Benchmark parse the SQL query of a monthly report (benchmarks/test_report.py)")
    say("Change    'Normalise the arguments of Token.match before they are used':\n")
    diff = git("diff", "--unified=1", "main", BRANCHES["fail"], repository=repository)
    say("".join(f"    {line}\n" for line in diff.splitlines()[2:]))
    sizes = true_sizes(repository, work)
    say("True size, measured without sampling, both sides in turns:")
    say(
        f"  Token.match    {sizes.function:+.0%} time of its calls, "
        f"{sizes.bytecodes:+.0%} bytecodes "
        f"({sizes.bytecodes_before:,} -> {sizes.bytecodes_after:,} per parse)"
    )
    say(f"  whole parse    {sizes.total:+.1%} time ({sizes.total_before_ms:.1f} ms before)\n")


def main() -> int:
    """Run the demo; return 0 if every verdict was the expected one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1, help="times that both are checked")
    parser.add_argument("--sizes", action="store_true", help="only measure the change's true size")
    parser.add_argument("--work", type=Path, metavar="DIR", help=f"folder to work in ({WORK})")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error(f"--repeat is {options.repeat}; it must be 1 or more")
    if not options.sizes and (stops := obstacle()):
        say(f"demo: Python benchmarks cannot be recorded here\n{stops}")
        return NOT_RECORDED
    work = (ROOT / WORK if options.work is None else options.work).absolute()
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    wheel = fetch(work)
    repository = build_repository(wheel, work)
    story(repository, wheel, work)
    if options.sizes:
        return 0
    done: list[Checked] = []
    for number in range(1, options.repeat + 1):
        for wanted, what in (("pass", "no code changed"), ("fail", "the change above")):
            turn = f" {number}/{options.repeat}" if options.repeat > 1 else ""
            say(f"Pull request{turn}: {what}; both commits recorded here, alternating")
            suffix = f"-{number}" if options.repeat > 1 else ""
            checked = check(repository, wanted, work / f"report-{wanted}{suffix}")
            tell(checked)
            done.append(checked)
            if checked.exit_code == NOT_RECORDED:
                return NOT_RECORDED
    tally = {
        wanted: sum(each.right for each in done if each.wanted == wanted) for wanted in BRANCHES
    }
    say(
        f"\n{tally['pass']} of {options.repeat} PASS and {tally['fail']} of {options.repeat} FAIL "
        f"naming {GUILTY}, in {time.monotonic() - start:.0f} s"
    )
    return 0 if all(each.right for each in done) else 1


if __name__ == "__main__":
    sys.exit(main())
