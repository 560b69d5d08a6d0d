"""Stage 1, edge: find the CPython of a running process, and where its structures keep what.

3.13 and newer tell their offsets themselves (`_Py_DebugOffsets`, at the start of `_PyRuntime`);
for 3.11 and 3.12 they are a table, made from their headers, and checked against the memory of
the process before use. Whatever is not known for sure is refused by name, never guessed.
"""

import os
import re
import struct
from dataclasses import dataclass
from typing import Final

from ci_flame.errors import CollectError
from ci_flame.symbols.elf import Elf
from ci_flame.symbols.native import Mapping, NativeNames, read_maps

NO_FIELD: Final = 0xFFFFFFFF
_SUPPORTED: Final = "3.11 to 3.15"
_CURE: Final = f"use CPython {_SUPPORTED}, or `--collector py-spy`, which may know this one"
_COOKIE: Final = b"xdebugpy"
_DEBUG_BYTES: Final = 2048
_RELEASE_CANDIDATE: Final = 0xC
_FIRST_WITH_OFFSETS: Final = 13
_CODE_BYTES: Final = 72
_FRAME_BYTES: Final = 80
"""What python_walk.h copies of a code object (from its first field on) and of a frame."""
_GC_GENERATIONS: Final = 24
_GC_GENERATION0: Final = 96
"""In `struct _gc_runtime_state` of 3.11 and 3.12, `generation0` points at `generations[0]`."""


class UnsupportedPythonError(CollectError):
    """This is a CPython, but not one whose frames can be walked."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`struct py_layout` of python_walk.h, field by field."""

    interpreters: int
    """Address of the head of the list of interpreters."""
    interpreter_next: int
    interpreter_threads: int
    interpreter_collecting: int
    thread_next: int
    thread_interpreter: int
    thread_native_id: int
    thread_cframe: int
    thread_frame: int
    frame_code: int
    frame_previous: int
    frame_owner: int
    owner_not_python: int
    code_file: int
    code_qualname: int
    code_line: int
    ascii_bytes: int
    compact_bytes: int
    version: str = ""
    """`3.11.7`; not part of the C structure."""

    def pack(self) -> bytes:
        """Return the C structure."""
        fields = (self.code_file, self.code_qualname, self.code_line)
        start = min(fields) & ~7
        if max(fields) + 8 - start > _CODE_BYTES or self.frame_owner >= _FRAME_BYTES:
            raise UnsupportedPythonError(
                f"CPython {self.version} keeps its code objects in another way than is known",
                f"{_SUPPORTED} are supported",
            )
        return struct.pack(
            "<Q18I",
            self.interpreters,
            self.interpreter_next,
            self.interpreter_threads,
            self.interpreter_collecting,
            self.thread_next,
            self.thread_interpreter,
            self.thread_native_id,
            self.thread_cframe,
            self.thread_frame,
            self.frame_code,
            self.frame_previous,
            self.frame_owner,
            self.owner_not_python,
            start,
            self.code_file,
            self.code_qualname,
            self.code_line,
            self.ascii_bytes,
            self.compact_bytes,
        )


EMPTY: Final = bytes(8 + 18 * 4)
"""What a process has that is not (yet) Python."""

# From the headers: offsetof() in a program compiled against pycore_runtime.h, pycore_interp.h,
# pycore_frame.h and pycore_gc.h. Private structures do not move between patch releases.
_TABLES: Final = {
    11: {
        "interpreters": 40,
        "interpreter_next": 0,
        "interpreter_threads": 16,
        "interpreter_collecting": 648 + 200,
        "thread_next": 8,
        "thread_interpreter": 16,
        "thread_native_id": 160,
        "thread_cframe": 56,
        "thread_frame": 8,
        "frame_code": 32,
        "frame_previous": 48,
        "frame_owner": 69,
        "owner_not_python": 255,  # 3.11 has no entry frames of C
        "code_file": 112,
        "code_qualname": 128,
        "code_line": 72,
        "ascii_bytes": 48,
        "compact_bytes": 72,
    },
    12: {
        "interpreters": 40,
        "interpreter_next": 0,
        "interpreter_threads": 72,
        "interpreter_collecting": 112 + 200,
        "thread_next": 8,
        "thread_interpreter": 16,
        "thread_native_id": 144,
        "thread_cframe": 56,
        "thread_frame": 0,
        "frame_code": 0,
        "frame_previous": 8,
        "frame_owner": 70,
        "owner_not_python": 3,
        "code_file": 112,
        "code_qualname": 128,
        "code_line": 68,
        "ascii_bytes": 40,
        "compact_bytes": 56,
    },
}

_RUNTIME: Final = ("size", "finalizing", "interpreters_head")
_INTERPRETER_13: Final = (
    *("size", "id", "next", "threads_head", "gc", "imports_modules", "sysdict", "builtins"),
    *("ceval_gil", "gil_runtime_state", "gil_enabled", "gil_locked", "gil_holder"),
)
_INTERPRETER_14: Final = (
    *("size", "id", "next", "threads_head", "threads_main", "gc", "imports_modules", "sysdict"),
    *("builtins", "ceval_gil", "gil_runtime_state", "gil_enabled", "gil_locked", "gil_holder"),
    *("code_object_generation", "tlbc_generation"),
)
_THREAD_13: Final = (
    *("size", "prev", "next", "interp", "current_frame", "thread_id", "native_thread_id"),
    *("datastack_chunk", "status"),
)
_THREAD_15: Final = (
    *("size", "prev", "next", "interp", "current_frame", "base_frame", "last_profiled_frame"),
    *("last_profiled_frame_seq", "thread_id", "native_thread_id", "datastack_chunk", "status"),
    *("holds_gil", "gil_requested", "current_exception", "exc_state"),
)
_FRAME_13: Final = ("size", "previous", "executable", "instr_ptr", "localsplus", "owner")
_FRAME_14: Final = (*_FRAME_13, "stackpointer", "tlbc_index")
_CODE: Final = ("size", "filename", "name", "qualname", "linetable", "firstlineno")
_GROUPS: Final = {
    13: (
        ("runtime", _RUNTIME),
        ("interpreter", _INTERPRETER_13),
        ("thread", _THREAD_13),
        ("frame", _FRAME_13),
        ("code", _CODE),
    ),
    14: (
        ("runtime", _RUNTIME),
        ("interpreter", _INTERPRETER_14),
        ("thread", _THREAD_13),
        ("frame", _FRAME_14),
        ("code", _CODE),
    ),
    15: (
        ("runtime", _RUNTIME),
        ("interpreter", _INTERPRETER_14),
        ("thread", _THREAD_15),
        ("exception", ("exc_value",)),
        ("frame", _FRAME_14),
        ("code", _CODE),
    ),
}
"""The groups of `_Py_DebugOffsets` by minor version, up to the last one read by position."""

_UNICODE_GROUP: Final = struct.pack("<4Q", 64, 32, 16, 40)
"""size, state, length and asciiobject_size: the same in all of 3.13 to 3.15. Found by value,
because the groups before it differ; `gc` (size, collecting) follows it."""
_UNICODE_FIELDS: Final = {13: 4, 14: 4, 15: 5}


def find_python(pid: int, names: NativeNames) -> Layout | None:
    """Return the layout of a process's CPython; None if it runs none (or not yet).

    Raises UnsupportedPythonError for a CPython that cannot be walked.
    """
    mappings = read_maps(pid)
    for elf, first in _candidates(mappings, pid, names):
        runtime = elf.variable("_PyRuntime")
        bias = _bias(elf, first)
        if runtime is None or bias is None:
            continue
        try:
            descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return _layout(descriptor, elf, bias, runtime + bias)
        except (OSError, OverflowError, struct.error):
            return None  # not mapped yet, or gone
        finally:
            os.close(descriptor)
    return None


def parse_debug_offsets(raw: bytes, runtime: int) -> Layout:
    """Return the layout that the bytes at `_PyRuntime` (3.13 and newer) tell."""
    version, free_threaded = struct.unpack_from("<QQ", raw, 8)
    minor = version >> 16 & 0xFF
    name = version_name(version)
    if version >> 24 != 3 or minor not in _GROUPS or version >> 4 & 0xF < _RELEASE_CANDIDATE:  # noqa: PLR2004 - CPython 3
        raise UnsupportedPythonError(f"CPython {name} is not supported; {_SUPPORTED} are", _CURE)
    if free_threaded:
        raise UnsupportedPythonError(
            f"CPython {name} is a free-threaded build, which cannot be walked",
            f"use the ordinary build of CPython 3.{minor}; its native frames alone:"
            " `perf record -g`, then `ci-flame import`",
        )
    field: dict[tuple[str, str], int] = {}
    position = 24
    for group, names in _GROUPS[minor]:
        for each in names:
            (field[group, each],) = struct.unpack_from("<Q", raw, position)
            position += 8
    collecting = NO_FIELD
    ascii_bytes, unicode_at = 40, raw.find(_UNICODE_GROUP, position)
    if unicode_at >= 0:
        after = unicode_at + 8 * _UNICODE_FIELDS[minor]
        gc_size, in_gc = struct.unpack_from("<QQ", raw, after)
        if in_gc < gc_size < 1 << 16:
            collecting = field["interpreter", "gc"] + in_gc
    return Layout(
        interpreters=runtime + field["runtime", "interpreters_head"],
        interpreter_next=field["interpreter", "next"],
        interpreter_threads=field["interpreter", "threads_head"],
        interpreter_collecting=collecting,
        thread_next=field["thread", "next"],
        thread_interpreter=field["thread", "interp"],
        thread_native_id=field["thread", "native_thread_id"],
        thread_cframe=NO_FIELD,
        thread_frame=field["thread", "current_frame"],
        frame_code=field["frame", "executable"],
        frame_previous=field["frame", "previous"],
        frame_owner=field["frame", "owner"],
        owner_not_python=3,
        code_file=field["code", "filename"],
        code_qualname=field["code", "qualname"],
        code_line=field["code", "firstlineno"],
        ascii_bytes=ascii_bytes,
        compact_bytes=ascii_bytes + 16,
        version=name,
    )


def version_name(version: int) -> str:
    """Return `3.11.7` of 0x030b07f0; candidates and the like carry their letter."""
    major, minor, micro, level = (version >> shift & 0xFF for shift in (24, 16, 8, 0))
    suffix = {0xA: "a", 0xB: "b", 0xC: "rc"}.get(level >> 4, "")
    return f"{major}.{minor}.{micro}" + (f"{suffix}{level & 0xF}" if suffix else "")


def _layout(memory: int, elf: Elf, bias: int, runtime: int) -> Layout:
    raw = os.pread(memory, _DEBUG_BYTES, runtime)
    if raw.startswith(_COOKIE):
        return parse_debug_offsets(raw, runtime)
    at = elf.variable("Py_Version")
    if at is None:
        raise UnsupportedPythonError(
            f"this CPython is older than 3.11; {_SUPPORTED} are supported",
            _CURE,
        )
    (version,) = struct.unpack("<Q", os.pread(memory, 8, at + bias))
    minor = version >> 16 & 0xFF
    if minor >= _FIRST_WITH_OFFSETS:
        raise OSError("the runtime is not initialised yet")
    if minor not in _TABLES:
        raise UnsupportedPythonError(
            f"CPython {version_name(version)} is not supported; {_SUPPORTED} are",
            _CURE,
        )
    table = dict(_TABLES[minor])
    table["interpreters"] += runtime
    if not _gc_is_there(memory, table):
        table["interpreter_collecting"] = NO_FIELD
    return Layout(**table, version=version_name(version))


def _gc_is_there(memory: int, table: dict[str, int]) -> bool:
    """Check the offset of the collector's state: its first generation must point at itself."""
    (interpreter,) = struct.unpack("<Q", os.pread(memory, 8, table["interpreters"]))
    if not interpreter:
        raise OSError("the runtime is not initialised yet")
    state = interpreter + table["interpreter_collecting"] - 200
    (first,) = struct.unpack("<Q", os.pread(memory, 8, state + _GC_GENERATION0))
    return bool(first == state + _GC_GENERATIONS)


def _candidates(
    mappings: tuple[Mapping, ...], pid: int, names: NativeNames
) -> list[tuple[Elf, Mapping]]:
    """Return the files that may hold the runtime: named python, else the program itself."""
    files: dict[str, Mapping] = {}
    for mapping in mappings:
        if "x" in mapping.protection and mapping.path.startswith("/"):
            files.setdefault(mapping.path, mapping)
    wanted = [m for path, m in files.items() if re.search(r"python", os.path.basename(path))]  # noqa: PTH119 - names of another mount namespace
    # An extension module is never the home of the runtime; the program may embed it.
    wanted = [m for m in wanted if ".cpython-" not in m.path]
    wanted += [m for m in list(files.values())[:1] if m not in wanted]
    found = [(names.elf(mapping, pid), mapping) for mapping in wanted]
    return [(elf, mapping) for elf, mapping in found if elf is not None]


def _bias(elf: Elf, mapping: Mapping) -> int | None:
    """Return what is added to a file's addresses in this process."""
    address = elf.page_address(mapping.offset)
    return None if address is None else mapping.start - address
