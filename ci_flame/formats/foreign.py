"""Stage 2, pure: names that other tools gave -> Frame.

Other profilers write one string per frame. What kind of code it is must be told from the
file, the library or the way it is written; where nothing tells, it is native.
"""

import re
from functools import lru_cache
from typing import Final

from ci_flame.profile import UNKNOWN, Frame, Kind

_OWN: Final = re.compile(r"native:|kernel:.|jit:.|\[.*\]$")
_OWN_PYTHON: Final = re.compile(r"[^:/\\\s(]*:[^:.].*")
"""`shop.parser:tokenize`, but not `std::sort` nor `java/lang/Thread:.run`."""
_PY_SPY: Final = re.compile(r"(?P<function>.+) \((?P<file>[^()]+\.py)(?::\d+)?\)")
_ANNOTATION: Final = re.compile(r"(?P<name>.+)_\[(?P<letter>[kji])\]")
"""How FlameGraph's stackcollapse programs mark kernel, jitted and inlined frames."""
_KERNEL_DSO: Final = re.compile(r"\[(?:kernel|guest)\b.*\]|.*vmlinux.*|.*\.ko(?:\.\w+)?")
_JIT_FILE: Final = re.compile(
    r"node:.*|.*\.(?:[cm]?js|[cm]?ts|java|rb)|.*perf-\d+\.map|.*jitted-\d+-.*\.so"
)
_LIBRARY_PATH: Final = re.compile(r".*(?:/site-packages/|/dist-packages/|/lib/python3\.\d+/)")
_KERNEL_ENTRY: Final = re.compile(
    r"entry_(?:SYSCALL|SYSENTER|INT80)\w*|do_syscall_64|asm_(?:exc|sysvec|common|load)\w*"
    r"|ret_from_fork\w*|(?:common|secondary)_startup_\w+|x86_64_start_\w+|x64_sys_call"
    r"|__x64_sys_\w+|el[01]t?_\w+|el0_svc\w*|__arm64_sys_\w+|secondary_start_kernel|start_kernel"
    r"|kthread|cpu_startup_entry"
)
"""Functions that a kernel begins with when it is entered, and none of a program's own."""


def is_kernel_dso(dso: str) -> bool:
    """Say whether a mapping's name is the kernel's or one of its modules'."""
    return _KERNEL_DSO.fullmatch(dso) is not None


def is_jit_file(file: str) -> bool:
    """Say whether a file belongs to code that a runtime compiled (JavaScript, JVM, Ruby)."""
    return _JIT_FILE.fullmatch(file) is not None


def is_kernel_entry(name: str) -> bool:
    """Say whether a name without its library is one of those that the kernel is entered by."""
    return _KERNEL_ENTRY.fullmatch(name) is not None


def module_of(file: str) -> str:
    """Return the dotted module that a Python file's path tells.

    `/x/site-packages/shop/parser.py` is `shop.parser`; outside of a known folder only the
    last name is sure: `/home/me/app.py` is `app`.
    """
    inside = _LIBRARY_PATH.match(file)
    parts = (file[inside.end() :] if inside else file.rpartition("/")[2]).split("/")
    parts[-1] = parts[-1].removesuffix(".py")
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def foreign_frame(function: str, file: str = "", library: str = "") -> Frame:
    """Return the frame for a function of a foreign profile, with what it tells beside the name."""
    if is_kernel_dso(library):
        return Frame(function or "[unknown]", "", Kind.KERNEL)
    if file.endswith(".py"):
        return Frame(function or "[unknown]", module_of(file), Kind.PYTHON)
    if not function:
        name = library.rpartition("/")[2]
        return Frame("[unknown]", name, Kind.NATIVE) if name else UNKNOWN
    if is_jit_file(file) or is_jit_file(library):
        return Frame(function, "", Kind.JIT)
    if file or library:
        return Frame(function, library.rpartition("/")[2], Kind.NATIVE)
    return folded_frame(function)


@lru_cache(maxsize=65_536)
def folded_frame(text: str) -> Frame:
    """Return the frame that one name of a folded line stands for; own names return unchanged."""
    if _OWN.match(text):
        return Frame.parse(text)
    if marked := _ANNOTATION.fullmatch(text):
        kinds = {"k": Kind.KERNEL, "j": Kind.JIT, "i": Kind.NATIVE}
        return Frame(marked["name"], "", kinds[marked["letter"]])
    if spy := _PY_SPY.fullmatch(text):
        return Frame(spy["function"], module_of(spy["file"]), Kind.PYTHON)
    if _OWN_PYTHON.fullmatch(text):
        return Frame.parse(text)
    return Frame(text, "", Kind.NATIVE)
