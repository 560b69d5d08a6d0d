"""Edge: `bpftrace: {scripts: …}` of the policy file -> programs that run beside benchmarks.

    bpftrace:
      scripts:
        switches: "tracepoint:sched:sched_switch { @[comm] = count(); }"
        slow_reads: {file: tools/slow_reads.bt, args: [10, "{pid}"], per: second}

They come from the project's own policy file and nowhere else: no baseline, run or report
carries a program.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ci_flame.config.policy_file import section_of, text_of, words_of
from ci_flame.config.yaml_tree import Node, Scalar, Section, quote
from ci_flame.errors import PolicyError

MAX_SCRIPTS: Final = 16
MAX_ARGUMENTS: Final = 20
MAX_PROGRAM: Final = 64 << 10
"""Bytes of a file."""
DEFAULT_KEYS: Final = 20
MAX_KEYS: Final = 500
PID: Final = "{pid}"
"""An argument that stands for the benchmark's process."""
SCRIPT_KEYS: Final = ("program", "file", "args", "keys", "per")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Script:
    """One program of the project's for bpftrace."""

    name: str
    """Metrics are `bpftrace.NAME.@MAP[key]`."""
    program: str
    """Its text; empty until `loaded` has read `file`."""
    arguments: tuple[str, ...] = ()
    keys: int = DEFAULT_KEYS
    """Of each map, the largest."""
    per_second: bool = False
    """Counts and totals are divided by the seconds that the program ran."""
    file: str = ""
    """Relative to the policy file."""
    source: str = ""
    line: int = 1
    """Where the policy names it."""

    @property
    def place(self) -> str:
        """Return the file that a message about the program should point into."""
        return self.file or f"{self.source}:{self.line}"


def read_scripts(node: Node) -> tuple[Script, ...]:
    """Return the programs under `bpftrace:`; PolicyError with the line of what is wrong."""
    section = section_of(node, "bpftrace", ("scripts",))
    scripts = section.entries.get("scripts")
    if scripts is None:
        section.fail("bpftrace names no scripts", _EXAMPLE)
    if not isinstance(scripts, Section) or not scripts.entries:
        scripts.fail("scripts takes names and programs", _EXAMPLE)
    if len(scripts.entries) > MAX_SCRIPTS:
        scripts.fail(f"{len(scripts.entries)} scripts; at most {MAX_SCRIPTS}")
    found = []
    for name, each in scripts.entries.items():
        if not _NAME.fullmatch(name):
            each.fail(
                f"{quote(name)} is not a name", "letters, digits, _ and -, 40 of them at most"
            )
        found.append(replace(_script(name, each), source=each.source, line=each.line))
    return tuple(found)


_EXAMPLE: Final = (
    'scripts: {switches: "tracepoint:sched:sched_switch { @[comm] = count(); }"}'
)  # fmt: skip


def _script(name: str, node: Node) -> Script:
    if isinstance(node, Scalar):
        return Script(name, _program(node, name))
    section = section_of(node, name, SCRIPT_KEYS)
    given = section.entries
    if ("program" in given) == ("file" in given):
        section.fail(f"{name} needs a program or a file, one of them", _EXAMPLE)
    words = words_of(given["args"], "args") if "args" in given else ()
    if len(words) > MAX_ARGUMENTS:
        given["args"].fail(f"{len(words)} arguments; at most {MAX_ARGUMENTS}")
    for word in words:
        if word.startswith("-") or not word.isprintable():
            given["args"].fail(
                f"{quote(word)} is not an argument of a program", "options of bpftrace are ours"
            )
    return Script(
        name,
        _program(given["program"], "program") if "program" in given else "",
        words,
        _keys(given["keys"]) if "keys" in given else DEFAULT_KEYS,
        "per" in given and _per(given["per"]),
        _file(given["file"]) if "file" in given else "",
    )


def _program(node: Node, name: str) -> str:
    text = text_of(node, name)
    if not text.strip():
        node.fail(f"{name} is empty", _EXAMPLE)
    return text


def _file(node: Node) -> str:
    text = text_of(node, "file").strip()
    if not text or not text.isprintable():
        node.fail(f"file needs a path, not {quote(text)}")
    return text


def _per(node: Node) -> bool:
    text = text_of(node, "per")
    if text != "second":
        node.fail(f"per: {quote(text)} is not known", "per: second, or leave it out")
    return True


def _keys(node: Node) -> int:
    text = text_of(node, "keys")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_KEYS):
        node.fail(f"keys is a whole number from 1 to {MAX_KEYS}, not {quote(text)}")
    return int(text)


def loaded(scripts: Sequence[Script], base: Path) -> tuple[Script, ...]:
    """Return the programs with the text of their files, which lie relative to `base`."""
    return tuple(
        replace(script, program=_text(script, base)) if script.file else script
        for script in scripts
    )


def _text(script: Script, base: Path) -> str:
    path = base / script.file
    try:
        if path.exists() and not path.is_file():
            raise PolicyError(script.source, script.line, f"{script.file} is not a file")
        with path.open("rb") as stream:
            data = stream.read(MAX_PROGRAM + 1)
    except OSError as error:
        raise PolicyError(
            script.source,
            script.line,
            f"{script.file} cannot be read: {error.strerror}",
            "the path is relative to the policy file",
        ) from None
    if len(data) > MAX_PROGRAM:
        message = f"{script.file} has more than {MAX_PROGRAM} bytes, the limit"
        raise PolicyError(script.source, script.line, message)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{script.file}: byte {error.start} is not UTF-8"
        raise PolicyError(script.source, script.line, message) from None
    if not text.strip():
        raise PolicyError(script.source, script.line, f"{script.file} is empty")
    return text
