"""Every stage: each exception, its exit code, and what to do about it.

An error is one line that says what was wrong, with number, limit and place; the hint is
the cure, in words that can be pasted.
"""

from typing import ClassVar


class CiFlameError(Exception):
    """Something the user can act on; never shown with a traceback."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross processes (xdist, pools), whatever their class is built from.
        return _again, (type(self), dict(vars(self)))


def _again(kind: type[CiFlameError], values: dict[str, object]) -> CiFlameError:
    error = kind.__new__(kind, values["message"])
    vars(error).update(values)
    return error


class UsageError(CiFlameError):
    """The words on the command line, in a marker or in the environment do not fit."""


class PolicyError(CiFlameError):
    """The policy file says something that ci_flame does not understand."""

    def __init__(self, source: str, line: int, message: str, hint: str = "") -> None:
        super().__init__(f"{source}:{line}: {message}", hint)
        self.source = source
        self.line = line


class FormatError(CiFlameError):
    """A file is truncated, hostile, too large, or not what its name says."""

    def __init__(self, source: str, message: str, hint: str = "") -> None:
        super().__init__(f"{source}: {message}", hint)
        self.source = source


class UnrecognisedError(CiFlameError):
    """A reader looked at the input and it is not its format ("not mine", not "broken")."""


class BaselineError(CiFlameError):
    """The baseline is missing, empty, incomplete or from another version."""


class MissingBaselineError(BaselineError):
    """There is no baseline, and the policy requires one."""

    exit_code = 4


class CollectError(CiFlameError):
    """Recording was not possible, or the recorded command failed."""

    exit_code = 3


class WriteError(CollectError):
    """The disk is full or failing: what was recorded or judged could not be kept."""


class ChildError(CollectError):
    """A benchmark's further process failed; the message carries its last lines."""


class InterruptedRunError(CiFlameError):
    """Ctrl-C; what was recorded is kept and marked incomplete."""

    exit_code = 130
