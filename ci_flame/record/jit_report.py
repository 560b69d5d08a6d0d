"""Stage 1, edge: what a recording with `--jit` shows of compiled code, in words for the user."""

from collections.abc import Callable, Sequence
from typing import Final

from ci_flame.profile import Frame, Kind, Mode, Process, Stack
from ci_flame.record.jit import Jit
from ci_flame.simplify import is_jit_compiler

WARM: Final = 0.85
"""Below this share of samples in the program's own functions, runs differ by how the JIT
compilers got on (docs/cli.md has the measurements)."""
SEEN: Final = 0.5
"""Below this share something keeps the names away, not only the start of the runtime."""
_CURES: Final = {
    Jit.JAVA: "does the command clear JAVA_TOOL_OPTIONS (env -i, sudo), or end its JVM by SIGKILL?",
    Jit.NODE: "does the command clear NODE_OPTIONS (env -i, sudo)?",
    Jit.AUTO: "does the command clear JAVA_TOOL_OPTIONS or NODE_OPTIONS (env -i, sudo)?",
}


def notes(wanted: Jit, collector: str, processes: Sequence[Process]) -> tuple[str, ...]:
    """Return what a recording says of compiled code: how much has names, and what to mend."""
    if wanted is Jit.NONE:
        return ()
    if collector != "perf":
        told = (
            f"{collector} sees neither names nor callers of compiled Java and JavaScript functions"
        )
        return (f"{told}; --collector perf does",)
    lines = []
    total = _samples(processes, lambda _stack: True)
    named = _samples(processes, _has_compiled) / max(total, 1)
    program = _samples(processes, _in_program) / max(total, 1)
    lines.append(f"{100 * named:.1f} % of {total} samples carry Java or JavaScript functions")
    if named < SEEN:
        lines.append(f"too few to compare by function: {_CURES[wanted]}")
    elif program < WARM:
        lines.append(
            f"{100 * (1 - program):.0f} % of the samples are the runtime's start, its interpreter"
            f" or its compilers (limit {100 * (1 - WARM):.0f} %): let the command run longer, or"
            " repeat its work"
        )
    return tuple(lines)


def advice(mentioned: Sequence[Jit]) -> tuple[str, ...]:
    """Return what to add for a command that was recorded without `--jit`."""
    if not mentioned:
        return ()
    names = {Jit.JAVA: "Java", Jit.NODE: "JavaScript"}
    languages = " and ".join(names[each] for each in mentioned)
    wanted = mentioned[0] if len(mentioned) == 1 else Jit.AUTO
    return (f"compiled {languages} functions have no names; add --jit {wanted.value}",)


def _samples(processes: Sequence[Process], chosen: Callable[[Stack], bool]) -> int:
    return sum(
        weight.samples
        for process in processes
        for each in process.rounds
        if Mode.ON_CPU in each.profiles
        for stack, weight in each.profiles[Mode.ON_CPU].stacks.items()
        if chosen(stack)
    )


def _has_compiled(stack: Stack) -> bool:
    return any(_of_program(frame) for frame in stack)


def _in_program(stack: Stack) -> bool:
    """Tell whether a sample is the program's: in or below its functions, and not compiling."""
    return _has_compiled(stack) and not any(is_jit_compiler(frame) for frame in stack)


def _of_program(frame: Frame) -> bool:
    """Tell a compiled function from the runtime's own code in the map, which has no dot."""
    return frame.kind is Kind.JIT and ("." in frame.function or ":" in frame.function)
