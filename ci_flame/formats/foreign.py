"""Stage 2, pure: names that other tools gave -> Frame.

Other profilers write one string per frame. What kind of code it is must be told from the
file, the library or the way it is written; where nothing tells, it is native.
"""

import re
from functools import lru_cache
from typing import Final

from ci_flame.profile import UNKNOWN, Frame, Kind

_OWN: Final = re.compile(r"native:|python:.|kernel:.|jit:.|\[.*\]$")
_OWN_PYTHON: Final = re.compile(r"[^:/\\\s(]*:[^:.].*")
"""`shop.parser:tokenize`, but not `std::sort` nor `java/lang/Thread:.run`."""
_PY_SPY: Final = re.compile(r"(?P<function>.+) \((?P<file>[^()]+\.py)(?::\d+)?\)")
_ANNOTATION: Final = re.compile(r"(?P<name>.+)_\[(?P<letter>[kji])\]")
"""How FlameGraph's stackcollapse programs mark kernel, jitted and inlined frames."""
_KERNEL_DSO: Final = re.compile(r"\[(?:kernel|guest)\b.*\]|.*vmlinux.*|.*\.ko(?:\.\w+)?")
_JIT_FILE: Final = re.compile(
    r"node:.*|.*\.(?:[cm]?js|[cm]?ts|java|rb)|.*perf-\d+\.map|.*jitted-\d+-.*\.so"
)
_TRAMPOLINE: Final = re.compile(r"py::(?P<function>.+):(?P<file>[^:]+)")
"""What CPython's perf trampoline (`-X perf`) writes into its map."""
_V8: Final = re.compile(r"(?P<sort>[A-Z]\w+:)[*~^+]?(?P<name>.*?)(?::\d+){0,2}")
"""V8's name, with its mark for how far a function was optimised (it changes while a program
runs) and its line (it changes with every edit above)."""
_JAVA: Final = re.compile(r"L?(?P<type>[\w/$]+);(?:::|\.)(?P<method>.+)")
"""How perf-map-agent writes a method."""
_KERNEL_HALF: Final = 1 << 63
_USER_MARKS: Final = frozenset({"[vdso]", "[vsyscall]", "[heap]", "[stack]", "[anon]", "[uprobes]"})
_TAG: Final = re.compile(r"\.(?:cpython-\w+|abi3|pypy\w*)(?:-[\w-]+)?$")
_WHEEL_HASH: Final = re.compile(r"-[0-9a-f]{8}(?=$|[.-])")
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


def library_name(path: str) -> str:
    """Return the name that stays the same between builds and updates.

    `libcrypto.so.3` and `libcrypto.so.1.1` are `libcrypto`, `_json.cpython-311-x86_64-linux-gnu.so`
    is `_json`, a wheel's `libopenblas64_p-r0-0cf96a72.3.23.dev.so` is `libopenblas64_p-r0`.
    """
    name = path.removesuffix(" (deleted)").rsplit("/", 1)[-1]
    stem, shared, _ = name.partition(".so")
    if shared:
        stem = _TAG.sub("", stem)
        hashed = _WHEEL_HASH.search(stem)
        stem = stem[: hashed.start()] if hashed else stem
    return (stem or name or "[anon]").replace(":", "_").replace(";", "_")


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


def dso_frame(symbol: str, dso: str, address: int = 0) -> Frame:
    """Return the frame for what perf knows of an address: its symbol and whose code it is.

    `dso` is the path of a file, or perf's mark for what has none (`[vdso]`, `[unknown]`,
    `[kernel.kallsyms]`); the address tells kernel from user code where it does not.
    """
    name = symbol or "[unknown]"
    unknown = name == "[unknown]"
    dso = dso.removesuffix(" (deleted)")
    kernel_mark = dso.startswith("[") and dso != "[unknown]" and dso not in _USER_MARKS
    if is_kernel_dso(dso) or kernel_mark or address >= _KERNEL_HALF:
        return Frame(name, "", Kind.KERNEL)
    if trampoline := _TRAMPOLINE.fullmatch(name):
        return Frame(trampoline["function"], module_of(trampoline["file"]), Kind.PYTHON)
    if is_jit_file(dso):
        return Frame(jit_name(name), "", Kind.JIT)
    if dso in {"[unknown]", ""} or dso.startswith("//anon"):
        return UNKNOWN if unknown else Frame(name, "", Kind.NATIVE)
    return Frame(name, library_name(dso), Kind.NATIVE)


def jit_name(name: str) -> str:
    """Return a jitted function's name without what changes while the program runs."""
    if v8 := _V8.fullmatch(name):
        return v8["sort"] + v8["name"]
    if java := _JAVA.fullmatch(name):
        return f"{java['type']}::{java['method']}"
    return name
