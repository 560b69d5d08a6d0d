"""Step 2 of action.yml: the inputs in the environment -> one `ci-flame check`, without a shell.

Ends with 0 unless an input is wrong, so that the report is published before the last step ends
the job with the check's own exit code. Standard library only: it runs on any Python 3.11.
"""

import json
import os
import secrets
import shlex
import subprocess
from pathlib import Path
from typing import NoReturn

MAX_ANNOTATIONS = 9
KINDS = ("auto", "none", "rerun:", "folder:", "git:")


def escape(text: str) -> str:
    """Return text that cannot end the runner's command that it is part of."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Return text for a property of a command, where `:` and `,` end it too."""
    return escape(text).replace(":", "%3A").replace(",", "%2C")


def fail(message: str, hint: str) -> NoReturn:
    """End the step with one annotation: what was wrong, then the cure."""
    print(f"::error title=ci_flame::{escape(f'{message}; {hint}')}", flush=True)
    raise SystemExit(2)


def split(command: str) -> list[str]:
    """Return the words of the command as a shell would split them."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        fail(f"input command {command!r} cannot be split: {error}", "close the quote")
    if not words:
        fail("input command is empty", "name the command that runs the benchmarks, as in: pytest")
    return words


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git here and return what it said; the caller looks at the exit code."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def first_parent() -> str:
    """Return the commit that HEAD is compared with, fetched where the checkout is shallow.

    On `pull_request` HEAD is the merge commit and its first parent is exactly the base that was
    merged. A shallow checkout lists the parents in the commit but does not have them.
    """
    commit = git("cat-file", "-p", "HEAD")
    if commit.returncode:
        fail(
            f"baseline 'auto' needs a git checkout: {commit.stderr.strip()}",
            "run actions/checkout before this action, or set the input baseline",
        )
    header = commit.stdout.split("\n\n", 1)[0]
    parents = [line.split()[1] for line in header.splitlines() if line.startswith("parent ")]
    if not parents:
        return ""
    parent = parents[0]
    if git("cat-file", "-e", f"{parent}^{{commit}}").returncode:
        fetched = git("fetch", "--quiet", "--no-tags", "--depth=1", "origin", parent)
        if fetched.returncode:
            reason = (fetched.stderr.strip().splitlines() or ["no reason given"])[-1]
            fail(
                f"the base commit {parent[:12]} is not in this shallow checkout: {reason}",
                "give actions/checkout `fetch-depth: 2`",
            )
    return parent


def resolve(baseline: str) -> str:
    """Return the word for `--baseline`; `auto` becomes `rerun:` of the first parent."""
    if not baseline.startswith(KINDS):
        fail(
            f"input baseline is {baseline!r}",
            "it may be auto, none, rerun:REV, folder:DIR or git:REV",
        )
    if baseline != "auto":
        return baseline
    parent = first_parent()
    if not parent:
        print("The checked-out commit has no parent: nothing to compare with.", flush=True)
        return "none"
    return f"rerun:{parent}"


def outcome_of(report: Path) -> str:
    """Return the verdict's outcome, or `error` where no verdict was written."""
    try:
        verdict = json.loads((report / "verdict.json").read_text(encoding="utf-8"))
        return str(verdict["outcome"])
    except (OSError, ValueError, KeyError, TypeError):
        return "error"


def stamp(report: Path) -> tuple[int, int]:
    """Return what tells one written verdict from another; zeros where there is none."""
    try:
        status = (report / "verdict.json").stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _place(file: str, line: int) -> str:
    return f",file={escape_property(file)},line={int(line)}" if file else ""


def annotations(report: Path) -> list[str]:
    """Return one command for each finding, at its file and line; `[]` without a verdict.

    The runner keeps ten of a kind per action, and one is needed for the outcome.
    """
    try:
        verdict = json.loads((report / "verdict.json").read_text(encoding="utf-8"))
        found = [each for benchmark in verdict["benchmarks"] for each in benchmark["findings"]]
        return [
            f"::{'error' if each['outcome'] == 'fail' else 'warning'} title=ci_flame"
            f"{_place(each['file'], each['line'])}::{escape(each['sentence'])}"
            for each in found[:MAX_ANNOTATIONS]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def publish(**outputs: str) -> None:
    """Append step outputs; the random delimiter keeps values from ending their own text."""
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        for name, value in outputs.items():
            end = f"end-{secrets.token_hex(8)}"
            file.write(f"{name.replace('_', '-')}<<{end}\n{value}\n{end}\n")


def main() -> None:
    """Run the check, hand its outcome to the next steps, and end with 0."""
    command = split(os.environ.get("CI_FLAME_COMMAND", "pytest"))
    baseline = resolve(os.environ.get("CI_FLAME_BASELINE", "auto"))
    report = Path(os.environ.get("CI_FLAME_OUTPUT") or ".ci-flame/report").resolve()
    python = os.environ.get("CI_FLAME_PYTHON") or "python3"
    words = [python, "-m", "ci_flame", "check", "--baseline", baseline, "-o", str(report)]
    if policy := os.environ.get("CI_FLAME_POLICY"):
        words += ["--policy", policy]
    # What the benchmarks print must not be read as a command of the runner.
    token = secrets.token_hex(16)
    print(f"::stop-commands::{token}", flush=True)
    earlier = stamp(report)
    try:
        code = subprocess.run([*words, "--", *command], check=False).returncode
    except OSError as error:
        code = 3
        print(f"{python}: {error.strerror}", flush=True)
    print(f"::{token}::", flush=True)
    # A report that was here before (in the checkout, or of an earlier job) is not this build's.
    written = stamp(report) not in {earlier, (0, 0)}
    outcome = outcome_of(report) if written else "error"
    publish(
        outcome=outcome,
        exit_code=str(code),
        baseline=baseline,
        report=str(report) if written else "",
    )
    for line in annotations(report) if written else ():
        print(line)
    if outcome == "error":
        print(f"::error title=ci_flame::nothing was judged (exit code {code}); see the log above")
    elif code:
        print(f"::error title=ci_flame::{outcome} (exit code {code}); see the job summary")


if __name__ == "__main__":
    main()
