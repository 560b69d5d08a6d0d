"""Say whether a test run counts: nothing failed, and nothing that could run was skipped.

Usage: tally.py JUNIT_XML --pytest-exit N --lint-exit N. The last line is `N passed, N failed`.
"""

import argparse
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

MAY_SKIP: tuple[tuple[str, str], ...] = (
    (r"needs Python 3\.\d+ or newer", "the interpreter is what the machine has"),
    (r"no CPython 3\.\d+ is installed here", "one interpreter is enough for CI"),
    (r"got empty parameter set for \(python\)", "other interpreters are tried where there are any"),
    (r"nobody may use sudo here", "how the refusal is worded cannot be seen where it is granted"),
    (r"nobody may run an interpreter of this version", "it lies in a folder of root's"),
)
"""Patterns of skip reasons that hold on a machine with everything installed, and why."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What one JUnit file tells."""

    passed: int
    failed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    """Test and reason, of those that should have run."""


def read(path: Path) -> Tally:
    """Count the file's test cases; one with both a failure and an error is one failure.

    An expected failure is written as a skip of type `pytest.xfail` and counts as passed. Of a test
    that was repeated the last time counts.
    """
    passed = 0
    failed: list[str] = []
    skipped: list[tuple[str, str]] = []
    cases = {
        f"{case.get('classname', '')}.{case.get('name', '')}".strip("."): case
        for case in ET.parse(path).getroot().iter("testcase")  # noqa: S314 - as above
    }
    for name, case in cases.items():
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif skip is None or skip.get("type") == "pytest.xfail":
            passed += 1
        else:
            reason = skip.get("message") or skip.text or ""
            if not any(re.search(pattern, reason) for pattern, _ in MAY_SKIP):
                skipped.append((name, reason))
    return Tally(passed, tuple(failed), tuple(skipped))


def main(arguments: list[str] | None = None) -> int:
    """Print what stands against the run, then the tally; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("junit", type=Path)
    parser.add_argument("--pytest-exit", type=int, required=True)
    parser.add_argument("--lint-exit", type=int, required=True)
    options = parser.parse_args(arguments)
    try:
        tally = read(options.junit)
    except (OSError, ET.ParseError) as error:
        print(f"{options.junit}: no test report ({error}); pytest ended with {options.pytest_exit}")
        print("0 passed, 1 failed")
        return 1
    for name, reason in tally.skipped:
        print(f"skipped, but must run here: {name}: {reason}")
    if options.lint_exit:
        print(f"make lint ended with {options.lint_exit}; its messages are above")
    if options.pytest_exit and not tally.failed:
        print(f"pytest ended with {options.pytest_exit} without a failed test")
    bad = bool(
        options.pytest_exit
        or options.lint_exit
        or tally.failed
        or tally.skipped
        or not tally.passed
    )
    print(f"{tally.passed} passed, {len(tally.failed) + len(tally.skipped)} failed")
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
