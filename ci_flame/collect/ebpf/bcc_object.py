"""Stage 1, edge: the BPF sources compiled and loaded by bcc; in the collector process only.

    sources as one text -> bcc (clang inside) -> programs and maps, known by their descriptors

What is loaded behaves as the committed object does: everything after the loading works on
descriptors. Takes seconds and 200 MB where that takes 0.1 s and 40 MB.
"""

import ctypes as c
import importlib
import os
import sys
import tempfile
from collections.abc import Collection
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ci_flame.collect.ebpf import bcc_source
from ci_flame.collect.ebpf.kernel_types import kernel_macros
from ci_flame.collect.ebpf.libbpf import BpfObject
from ci_flame.errors import CollectError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

PACKAGES: Final = (
    Path("/usr/lib/python3/dist-packages/bcc"),
    *sorted(Path("/usr/lib").glob("python3.*/site-packages/bcc")),
)
"""Where distributions put bcc; the `bcc` on PyPI is another project."""
INSTALL_BCC: Final = "sudo apt-get install --no-install-recommends python3-bpfcc"
INSTALL_HEADERS: Final = (
    "sudo apt-get install --no-install-recommends linux-headers-amd64"
    " (Ubuntu: linux-headers-generic)"
)

_TRACEPOINTS: Final = {
    "on_fork": b"sched_process_fork",
    "on_exec": b"sched_process_exec",
    "on_exit": b"sched_process_exit",
}
_LEARN: Final = "on_learn"
_LOG_LINES: Final = 3


def package() -> Path | None:
    """Return the folder of bcc's Python package, or None."""
    return next((path for path in PACKAGES if (path / "__init__.py").exists()), None)


class BccObject(BpfObject):
    """Programs and maps that bcc has loaded."""

    def __init__(self, programs: Collection[str], _without: Collection[str]) -> None:
        self._prepare()
        self._functions: dict[str, Any] = {}
        self._bpf: Any = None
        with tempfile.TemporaryDirectory(prefix="ci-flame-bcc-") as name:
            folder = Path(name)
            module = _import(folder)
            trees = bcc_source.header_trees(bcc_source.this_release())
            if not trees:
                raise CollectError("no kernel headers are installed for bcc", INSTALL_HEADERS)
            os.environ["BCC_KERNEL_SOURCE"] = str(bcc_source.lay_over(trees, folder / "headers"))
            macros = kernel_macros()
            with _told(folder) as log:
                try:
                    self._bpf = module.BPF(
                        text=bcc_source.source(), cflags=[*macros, "-Wno-everything"]
                    )
                    self._load(module.BPF, programs)
                except Exception as error:  # noqa: BLE001 - bcc raises nothing more precise
                    self.close()
                    raise _error(error, log) from None

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map; it stays the object's."""
        descriptor: int = self._bpf[name.encode()].map_fd
        return descriptor

    def program_fd(self, name: str) -> int:
        """Return the file descriptor of a program; it stays the object's."""
        descriptor: int = self._functions[name].fd
        return descriptor

    def attach(self, name: str) -> None:
        """Attach a program to its tracepoint."""
        try:
            self._bpf.attach_raw_tracepoint(tp=_TRACEPOINTS[name], fn_name=name.encode())
        except Exception as error:  # noqa: BLE001 - as above
            raise CollectError(f"the BPF program {name} does not attach: {error}") from None

    def close(self) -> None:
        """Free everything; may be called twice."""
        super().close()
        if self._bpf is not None:
            self._bpf.cleanup()
            self._bpf = None

    def _load(self, kinds: Any, programs: Collection[str]) -> None:  # noqa: ANN401 - bcc has no types
        for name in (_LEARN, *programs):
            kind = kinds.RAW_TRACEPOINT if name in _TRACEPOINTS else kinds.PERF_EVENT
            self._functions[name] = self._bpf.load_func(name.encode(), kind)
        self._bpf[b"parts"][c.c_int(0)] = c.c_int(self._functions[_LEARN].fd)


def _import(folder: Path) -> Any:  # noqa: ANN401 - bcc has no types
    """Return bcc's module, by way of a folder that holds nothing else of the system's Python."""
    found = package()
    if found is None:
        raise CollectError("bcc's Python package is not installed", INSTALL_BCC)
    (folder / "bcc").symlink_to(found)
    sys.path.append(str(folder))
    try:
        return importlib.import_module("bcc")
    except (ImportError, OSError) as error:
        raise CollectError(f"bcc does not load: {error}", INSTALL_BCC) from None
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _told(folder: Path) -> "Iterator[IO[bytes]]":
    """Catch what clang and the verifier write to standard error."""
    with (folder / "log").open("w+b") as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _error(error: Exception, log: "IO[bytes]") -> CollectError:
    log.seek(0)
    lines = log.read()[-16384:].decode(errors="replace").splitlines()
    told = [line.strip() for line in lines if "error" in line or line.startswith("bpf:")]
    words = " / ".join(told[:_LOG_LINES])
    hint = "see `ci-flame doctor`"
    if "not permitted" in f"{error} {words}":
        hint = "run as root, allow `sudo -n`, or see `ci-flame doctor`"
    return CollectError(f"bcc: {error}" + (f" ({words})" if words else ""), hint)
