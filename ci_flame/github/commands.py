"""Pure: text -> what the runner of GitHub Actions reads: commands, outputs, fences.

The runner takes any line of a step's output that begins with `::` for a command, so that names
and messages must be escaped, and what other programs print must be fenced. See GitHub's page
"Workflow commands for GitHub Actions" and `ActionCommand.cs` of actions/runner.
"""

import re
from collections.abc import Mapping
from typing import Final

from ci_flame.errors import UsageError

LEVELS: Final = ("error", "warning", "notice")
MAX_MESSAGE: Final = 4096
"""Characters that the runner keeps of an annotation (`ExecutionContext.cs`)."""
MAX_SUMMARY: Final = 1 << 20
"""Bytes of one step's summary; a longer one is dropped whole."""
MAX_OUTPUTS: Final = 1 << 20
"""Bytes of the outputs of a job."""
TITLE: Final = "ci_flame"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,99}", re.ASCII)
_TOKEN: Final = re.compile(r"[0-9a-f]{32,64}", re.ASCII)


def escape(text: str) -> str:
    """Return text that cannot end the command that it is part of."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Return text for a property of a command, where `:` and `,` end it too."""
    return escape(text).replace(":", "%3A").replace(",", "%2C")


def annotation(
    level: str, message: str, *, title: str = TITLE, file: str = "", line: int = 0
) -> str:
    """Return the command for one annotation, at a line of a file or at none.

    The message is cut where the runner would cut it.
    """
    if level not in LEVELS:
        raise ValueError(f"{level} is not one of {', '.join(LEVELS)}")
    place = f",file={escape_property(file)}" + (f",line={line}" if line > 0 else "") if file else ""
    return f"::{level} title={escape_property(title)}{place}::{escape(shortened(message))}"


def shortened(message: str) -> str:
    """Return a message that the runner keeps whole."""
    if len(message) <= MAX_MESSAGE:
        return message
    return message[: MAX_MESSAGE - 2].rstrip() + " …"


def group(title: str, lines: tuple[str, ...]) -> str:
    """Return lines folded under a title; none of them can be a command."""
    inside = (escape_line(line) for line in lines)
    return "\n".join((f"::group::{escape(title)}", *inside, "::endgroup::"))


def escape_line(line: str) -> str:
    """Return one line for the log that the runner takes for no command.

    The runner also trims what stands before `::`, and reads `##[` of its older form.
    """
    flat = line.replace("\r", " ").replace("\n", " ")
    return f"| {flat}" if flat.lstrip().startswith(("::", "##[")) else flat


def fence(token: str) -> tuple[str, str]:
    """Return the lines between which the runner reads no command but the second of them.

    `token` is to be random, of 32 hex digits or more: whoever knows it can end the fence.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError("a fence needs a random token of 32 to 64 hex digits")
    return f"::stop-commands::{token}", f"::{token}::"


def outputs(values: Mapping[str, str], delimiter: str) -> str:
    """Return the text to append to GITHUB_OUTPUT.

    `delimiter` is to be random: a value that holds it would end its own text, and is refused
    as one that is too large for a job's outputs is.
    """
    lines: list[str] = []
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an output")
        if delimiter in value:
            raise UsageError(f"output {name} holds the delimiter of outputs")
        lines += [f"{name}<<{delimiter}", value, delimiter]
    text = "".join(f"{line}\n" for line in lines)
    size = len(text.encode("utf-8", "backslashreplace"))
    if size > MAX_OUTPUTS:
        raise UsageError(f"the outputs are {size} bytes; GitHub takes {MAX_OUTPUTS} at most")
    return text
