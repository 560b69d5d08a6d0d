"""Edge, pure: exit code and outcome of a check -> the last line of the build, and its exit code."""

from collections.abc import Sequence
from typing import Final

from ci_flame.verdict import Outcome

NOTHING: Final = 3
"""What a build ends with whose check left no exit code: it was not recorded."""
_MAX_CODE: Final = 255
_NO_BASELINE: Final = (
    "no benchmark had anything to be compared with, and the policy requires it"
    " (baseline: {required: true})"
)
_WORDS: Final = {
    Outcome.FAIL: "a hot path grew past its limit",
    Outcome.NO_BASELINE: _NO_BASELINE,
    Outcome.INCONCLUSIVE: "it could not be judged, and the policy fails on that",
}
_CODES: Final = {
    2: "an input, the policy or the command line is wrong",
    3: "nothing could be recorded, or the command failed",
    4: _NO_BASELINE,
    130: "it was cancelled",
}


def gate(code: str, outcome: str, why: Sequence[str] = ()) -> tuple[int, str]:
    """Return the exit code of the build, and why it is not 0; empty where it is.

    `why` is what the check said of what failed, where it gave no verdict. What is no exit code
    counts as `NOTHING`: a check that was never run does not pass.
    """
    fits = code.isascii() and code.isdecimal() and len(code) <= 3 and int(code) <= _MAX_CODE  # noqa: PLR2004 - digits
    number = int(code) if fits else NOTHING
    if not number:
        return 0, ""
    known = {str(each): words for each, words in _WORDS.items()}
    if outcome in known:
        return number, f"{known[outcome]} (exit code {number}); see the job summary"
    if why:
        more = f"; and {len(why) - 1} more: see the job summary" if len(why) > 1 else ""
        return number, f"{why[0]} (exit code {number}){more}"
    told = _CODES.get(number, "the check ended so")
    return number, f"{told} (exit code {number}); see the log of the step that checked"
