"""Check action.yml, the actions beside it and all workflows by five tools, each of which sees more.

    tools/lint_github.py [--root DIR] [--only TOOL]

    zizmor            security: injection, unpinned actions, permissions; persona pedantic
    check-jsonschema  the public schemas of actions and workflows
    jactionlint       expressions, inputs and outputs, shell scripts (by shellcheck)
    languageservice   what GitHub itself says of them: @actions/languageservice on Node 20 or newer
    own               that others' actions are pinned by commit, with the version beside

Offline but for the first run, which fetches the fourth into build/ as pinned in tools/node.
Prints the findings of each tool, ends with 0 where there are none and 1 where there is one; 2
where a tool is missing.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
NODE: Final = ROOT / "tools" / "node"
INSTALLED: Final = ROOT / "build" / "node-linters"
ACTIONS: Final = ("action.yml", "actions/*/action.yml", "tests/stubs/*/action.yml")
WORKFLOWS: Final = (".github/workflows/*.yml", "examples/*/.github/workflows/*.yml")
_SECONDS: Final = 300
_PINNED: Final = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v[\d.]+$")


class MissingToolError(Exception):
    """A tool that is not there; the text says the cure."""


def found(patterns: Iterable[str], root: Path) -> list[str]:
    """Return the files of the patterns, relative to the root."""
    files = {file for pattern in patterns for file in root.glob(pattern)}
    return sorted(str(file.relative_to(root)) for file in files)


def run(words: Sequence[str], root: Path) -> tuple[int, str]:
    """Run one tool in the root, our environment's programs first; its exit code and output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    program = shutil.which(words[0], path=path)
    if program is None:
        raise MissingToolError(f"{words[0]} is not installed; run: make setup")
    done = subprocess.run(
        [program, *words[1:]],
        cwd=root,
        env={**os.environ, "PATH": path, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    return done.returncode, done.stdout


def zizmor(root: Path) -> str:
    """Return its findings; a file that it cannot parse is one, too."""
    words = ["--offline", "--no-progress", "--quiet", "--strict-collection", "--persona=pedantic"]
    code, told = run(["zizmor", *words, *found((*ACTIONS, *WORKFLOWS), root)], root)
    return told or f"zizmor ended with {code}" if code else ""


def schemas(root: Path) -> str:
    """Return what does not fit the schemas of actions and workflows."""
    told = ""
    for kind, patterns in (("actions", ACTIONS), ("workflows", WORKFLOWS)):
        if files := found(patterns, root):
            words = ["check-jsonschema", "--verbose", "--builtin-schema", f"vendor.github-{kind}"]
            code, text = run([*words, *files], root)
            told += text if code else ""
    return told


def jactionlint(root: Path) -> str:
    """Return its findings: of actions and workflows, and of the scripts in them."""
    files = found((*ACTIONS, *WORKFLOWS), root)
    code, told = run(["jactionlint", "--oneline", "--no-color", "--strict-exit", *files], root)
    return told if code else ""


def language_service(root: Path) -> str:
    """Return what GitHub's own check says of each file."""
    install()
    program = str(INSTALLED / "validate_github.mjs")
    code, told = run(["node", program, *found((*ACTIONS, *WORKFLOWS), root)], root)
    return told or f"node ended with {code}" if code else told


def install() -> None:
    """Fetch the packages that tools/node pins into build/, unless they are there."""
    if shutil.which("npm") is None:
        raise MissingToolError("npm is not installed; run: tools/system_packages.sh test")
    files = sorted(NODE.iterdir())
    stamp = b"".join(file.read_bytes() for file in files)
    INSTALLED.mkdir(parents=True, exist_ok=True)
    done = INSTALLED / "installed"
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run side by side
        if done.is_file() and done.read_bytes() == stamp:
            return
        for file in files:
            shutil.copy2(file, INSTALLED / file.name)
        words = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        code, told = run(["npm", *words], INSTALLED)
        if code:
            raise MissingToolError(f"npm ci in {INSTALLED} ended with {code}:\n{told}")
        done.write_bytes(stamp)


def pins(root: Path) -> str:
    """Return each use of another's action without a commit and the version that it is."""
    lines = [
        f"{name}:{number}: {line.strip()} (pin it by commit, with the version as a comment)"
        for name in found((*ACTIONS, *WORKFLOWS), root)
        for number, line in enumerate((root / name).read_text("utf-8").splitlines(), 1)
        if re.match(r"\s*(?:- )?uses: (?!\./)", line) and not _PINNED.search(line)
    ]
    return "\n".join(lines)


TOOLS: Final[dict[str, Callable[[Path], str]]] = {
    "zizmor": zizmor,
    "check-jsonschema": schemas,
    "jactionlint": jactionlint,
    "languageservice": language_service,
    "own": pins,
}


def main(arguments: Sequence[str]) -> int:
    """Run the tools; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout; default: this one")
    parser.add_argument("--only", choices=TOOLS, action="append", help="this tool; repeatable")
    given = parser.parse_args(arguments)
    files = found((*ACTIONS, *WORKFLOWS), given.root)
    if not files:
        print(f"{given.root}: there is no action.yml and no workflow", file=sys.stderr)
        return 2
    told = {}
    for name in given.only or TOOLS:
        try:
            told[name] = TOOLS[name](given.root).strip()
        except (MissingToolError, OSError, subprocess.SubprocessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
    for name, text in told.items():
        print(f"{name}: {'no finding' if not text else 'found'} in {len(files)} files")
        if text:
            print(text)
    return int(any(told.values()))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
