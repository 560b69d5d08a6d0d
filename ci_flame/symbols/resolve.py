"""Stage 1, edge: the addresses of a perf.data file -> frames, by the files of this machine.

The same places are asked as perf asks: mapped ELF files and their debug files, the kernel's
symbols, the maps and dumps of runtimes, and this machine's vDSO. A file of another build than
the recorded one names nothing: no name is better than a wrong one.
"""

import os
import re
import stat
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ci_flame.errors import CiFlameError
from ci_flame.formats.foreign import dso_frame
from ci_flame.formats.perf_data import Mapped, PerfData, is_anonymous
from ci_flame.formats.perf_data.records import KernelCode
from ci_flame.profile import UNKNOWN, Frame, Kind
from ci_flame.simplify import clean_frame
from ci_flame.symbols.code_file import DEBUG_FOLDER, CodeFile, parse_code_file, read_code_file
from ci_flame.symbols.jit import JitNames, read_jitdump, read_perf_map
from ci_flame.symbols.kernel import KernelNames
from ci_flame.symbols.native import read_maps
from ci_flame.symbols.sections import build_id_of_notes

Words = npt.NDArray[np.uint64]

MAX_MAP_BYTES: Final = 512 << 20
_KERNEL_HALF: Final = np.uint64(1 << 63)
_JITDUMP: Final = re.compile(r"/(?:[^/]*/)*jit-\d+\.dump")
_TEMPORARY: Final = Path("/tmp")  # noqa: S108 - where the runtimes and perf agreed to put it
_VDSO: Final = "[vdso]"


class Resolver:
    """Names the addresses of one recording (`formats.perf_data.Names`)."""

    def __init__(
        self,
        data: PerfData,
        *,
        maps: Path | None = None,
        kernel: KernelNames | None = None,
        debug_folder: Path = DEBUG_FOLDER,
        clean: Callable[[Frame], Frame] = clean_frame,
    ) -> None:
        """Name the addresses of `data`.

        `maps` is a folder with copies of the `perf-PID.map` and `jit-PID.dump` files that
        the recorded processes wrote; without one, or where it lacks one, /tmp is asked.
        """
        self._data = data
        self._maps = maps
        self._debug_folder = debug_folder
        self._clean = clean
        self._kernel = kernel
        self._files: dict[tuple[str, bytes], CodeFile | None] = {}
        self._jits: dict[int, tuple[JitNames, ...]] = {}
        self._frames: dict[str, dict[str, Frame]] = {}
        self._kernel_frames: dict[str, Frame] = {}
        self._dumps: dict[int, list[str]] = {}
        self._codes: list[KernelCode] = []
        for task in data.tasks:
            if isinstance(task, Mapped) and _JITDUMP.fullmatch(task.path):
                self._dumps.setdefault(task.pid, []).append(task.path)
            elif isinstance(task, KernelCode):
                self._codes.append(task)

    def kernel(self, addresses: Words) -> Sequence[Frame]:
        """Return the frame of each address that ran in the kernel."""
        if self._kernel is None:
            self._kernel = KernelNames.of_this_machine()
        shift = self._kernel_shift(self._kernel)
        if shift is None:
            names = ["[unknown]"] * len(addresses)
        else:
            names = self._kernel.find(addresses + np.uint64(shift & (1 << 64) - 1))
        for code in self._codes:
            first, last = np.searchsorted(addresses, _words(code.start, code.start + code.size))
            names[first:last] = [code.name or "[unknown]"] * int(last - first)
        low = int(np.searchsorted(addresses, _KERNEL_HALF))
        return [UNKNOWN] * low + [self._kernel_frame(name) for name in names[low:]]

    def _kernel_frame(self, name: str) -> Frame:
        frame = self._kernel_frames.get(name)
        if frame is None:
            frame = self._kernel_frames[name] = self._clean(Frame(name, "", Kind.KERNEL))
        return frame

    def _kernel_shift(self, kernel: KernelNames) -> int | None:
        """Return what to add to a recorded kernel address; None: it was another kernel."""
        recorded = self._data.build_ids.get("[kernel.kallsyms]", b"")
        if recorded and (own := _kernel_build_id()) and own != recorded.ljust(len(own), b"\0"):
            return None
        for task in self._data.tasks:
            if isinstance(task, Mapped) and task.kernel and task.path.startswith("[kernel."):
                # The kernel is loaded elsewhere at each boot; the map says where `_text` was.
                symbol = task.path.rpartition("]")[2]
                here = kernel.address(symbol) if symbol else None
                return 0 if here is None else here - task.offset
        return 0

    def user(self, mapping: Mapped | None, addresses: Words) -> Sequence[Frame]:
        """Return the frame of each address of one mapping; None: nothing was mapped there."""
        if mapping is None:
            high = Frame("[unknown]", "", Kind.KERNEL)
            return [high if each >= _KERNEL_HALF else UNKNOWN for each in addresses]
        if is_anonymous(mapping.path):
            dso = f"/tmp/perf-{mapping.pid}.map"  # noqa: S108 - a name to show, not to open
            return self._named(self._jitted(mapping.pid, addresses), dso)
        file = self._file(mapping.path, mapping.build_id)
        if file is None:
            return self._named([""] * len(addresses), mapping.path)
        offsets = addresses - np.uint64(mapping.start) + np.uint64(mapping.offset)
        return self._named(file.find(offsets), mapping.path)

    def _named(self, symbols: Sequence[str], dso: str) -> list[Frame]:
        known = self._frames.setdefault(dso, {})
        for symbol in set(symbols).difference(known):
            known[symbol] = self._clean(dso_frame(symbol.replace(";", ","), dso))
        return [known[symbol] for symbol in symbols]

    def _file(self, path: str, build_id: bytes) -> CodeFile | None:
        build_id = build_id or self._data.build_ids.get(path, b"")
        key = (path, build_id)
        if key not in self._files:
            if path == _VDSO:
                self._files[key] = _own_vdso(build_id)
            elif path.startswith("/"):
                self._files[key] = read_code_file(
                    Path(path), build_id, debug_folder=self._debug_folder
                )
            else:
                self._files[key] = None
        return self._files[key]

    def _jitted(self, pid: int, addresses: Words) -> list[str]:
        if pid not in self._jits:
            self._jits[pid] = tuple(self._read_jits(pid))
        names = [""] * len(addresses)
        for each in self._jits[pid]:
            names = [one or other for one, other in zip(names, each.find(addresses), strict=True)]
        return names

    def _read_jits(self, pid: int) -> list[JitNames]:
        found = []
        name = f"perf-{pid}.map"
        content = self._read(name, _TEMPORARY / name)
        if content is not None:
            found.append(_tolerant(read_perf_map, content, name))
        for path in self._dumps.get(pid, []):
            content = self._read(Path(path).name, Path(path))
            if content is not None:
                found.append(_tolerant(read_jitdump, content, path))
        return found

    def _read(self, name: str, original: Path) -> bytes | None:
        copies = [self._maps / name] if self._maps is not None else []
        for path in (*copies, original):
            content = read_untrusted(path, MAX_MAP_BYTES)
            if content is not None:
                return content
        return None


def _tolerant(read: Callable[[bytes, str], JitNames], content: bytes, name: str) -> JitNames:
    """Return what a runtime's file tells; a broken one tells nothing, the samples stay."""
    try:
        return read(content, name)
    except CiFlameError:
        return JitNames(())


def read_untrusted(path: Path, limit: int) -> bytes | None:
    """Return the bytes of a plain file that anybody may have put there; None: there is none.

    Links are not followed and devices not opened; what is over the limit is cut.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read(limit)
        except OSError:
            return None


def _kernel_build_id() -> bytes:
    """Return the running kernel's build id, by its notes; empty where they cannot be read."""
    try:
        return build_id_of_notes(Path("/sys/kernel/notes").read_bytes())
    except OSError:
        return b""


def _words(*values: int) -> Words:
    return np.array([min(value, 2**64 - 1) for value in values], dtype=np.uint64)


def _own_vdso(build_id: bytes) -> CodeFile | None:
    """Return the functions of the vDSO that the kernel gave to this process too."""
    for mapping in read_maps(os.getpid()):
        if mapping.path == _VDSO:
            try:
                with Path("/proc/self/mem").open("rb") as memory:
                    memory.seek(mapping.start)
                    content = memory.read(min(mapping.end - mapping.start, 1 << 20))
            except OSError:
                return None
            return parse_code_file(BytesIO(content), None, build_id)
    return None
