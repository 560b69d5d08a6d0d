"""Stage 1, edge: bindings to libbpf.so.1 (1.1 and newer) and the system calls beside it.

Loading the committed object takes 0.1 s and no compiler; what libbpf and the verifier say is
kept, so that an error carries the reason and not only a number.
"""

import ctypes as c
import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ci_flame.collect.machine import INSTALL_LIBBPF
from ci_flame.errors import CollectError

_LOG_BYTES: Final = 1 << 24
_LOG_LINES: Final = 400
_RUN_TIME_STATS: Final = 0
_BPF_EXIST: Final = 2
_BATCH: Final = 2048
_BATCH_BYTES: Final = 1 << 19

_Print = c.CFUNCTYPE(c.c_int, c.c_int, c.c_void_p, c.c_void_p)
_Record = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p, c.c_size_t)

_SIGNATURES: Final[tuple[tuple[str, Any, tuple[Any, ...]], ...]] = (
    ("libbpf_set_print", c.c_void_p, (_Print,)),
    ("libbpf_num_possible_cpus", c.c_int, ()),
    ("bpf_object__open_file", c.c_void_p, (c.c_char_p, c.c_void_p)),
    ("bpf_object__load", c.c_int, (c.c_void_p,)),
    ("bpf_object__close", None, (c.c_void_p,)),
    ("bpf_object__find_map_fd_by_name", c.c_int, (c.c_void_p, c.c_char_p)),
    ("bpf_object__find_program_by_name", c.c_void_p, (c.c_void_p, c.c_char_p)),
    ("bpf_object__next_program", c.c_void_p, (c.c_void_p, c.c_void_p)),
    ("bpf_object__next_map", c.c_void_p, (c.c_void_p, c.c_void_p)),
    ("bpf_map__name", c.c_char_p, (c.c_void_p,)),
    ("bpf_map__set_autocreate", c.c_int, (c.c_void_p, c.c_bool)),
    ("bpf_map__set_max_entries", c.c_int, (c.c_void_p, c.c_uint32)),
    ("bpf_program__name", c.c_char_p, (c.c_void_p,)),
    ("bpf_program__set_autoload", c.c_int, (c.c_void_p, c.c_bool)),
    ("bpf_program__fd", c.c_int, (c.c_void_p,)),
    ("bpf_program__attach", c.c_void_p, (c.c_void_p,)),
    ("bpf_link__destroy", c.c_int, (c.c_void_p,)),
    ("bpf_map_update_elem", c.c_int, (c.c_int, c.c_void_p, c.c_void_p, c.c_uint64)),
    ("bpf_map_lookup_elem", c.c_int, (c.c_int, c.c_void_p, c.c_void_p)),
    ("bpf_map_lookup_and_delete_elem", c.c_int, (c.c_int, c.c_void_p, c.c_void_p)),
    ("bpf_map_lookup_batch", c.c_int, (c.c_int, *(c.c_void_p,) * 6)),
    ("bpf_map_lookup_and_delete_batch", c.c_int, (c.c_int, *(c.c_void_p,) * 6)),
    ("bpf_enable_stats", c.c_int, (c.c_int,)),
    ("ring_buffer__new", c.c_void_p, (c.c_int, _Record, c.c_void_p, c.c_void_p)),
    ("ring_buffer__consume", c.c_int, (c.c_void_p,)),
    ("ring_buffer__epoll_fd", c.c_int, (c.c_void_p,)),
    ("ring_buffer__free", None, (c.c_void_p,)),
)


def _library() -> c.CDLL:
    try:
        library = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise CollectError(f"libbpf.so.1 does not load: {error}", INSTALL_LIBBPF) from None
    for name, returns, arguments in _SIGNATURES:
        function = getattr(library, name)
        function.restype = returns
        function.argtypes = arguments
    return library


class BpfObject:
    """A loaded object file: its maps, programs and ring buffer; `close` frees all of it.

    Of its programs only those named are loaded, and maps named in `without` are not made.
    `sizes` gives maps another number of entries (bytes for the ring buffer).
    """

    _object: int | None

    def __init__(
        self,
        path: Path,
        programs: Collection[str],
        without: Collection[str] = (),
        sizes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._prepare()
        self._object = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise self._error(f"{path.name} does not open")
        self._choose(programs, without, sizes)
        if self._library.bpf_object__load(self._object):
            error = self._error("the kernel refuses the BPF program")
            self.close()
            raise error

    def _prepare(self) -> None:
        """Begin with nothing loaded."""
        self._library = _library()
        self._log: list[str] = []
        self._vsnprintf = c.CDLL(None).vsnprintf
        self._vsnprintf.argtypes = (c.c_char_p, c.c_size_t, c.c_void_p, c.c_void_p)
        self._print = _Print(self._keep)  # libbpf holds the pointer: it must outlive the calls
        self._library.libbpf_set_print(self._print)
        self._links: list[int] = []
        self._ring: int | None = None
        self._on_record: Any = None
        self._stats = -1
        self._object = None

    def _choose(
        self, programs: Collection[str], without: Collection[str], sizes: Mapping[str, int]
    ) -> None:
        """Tell libbpf, before it loads, what to leave out of the kernel."""
        library = self._library
        program = library.bpf_object__next_program(self._object, None)
        while program:
            wanted = library.bpf_program__name(program).decode() in programs
            library.bpf_program__set_autoload(program, wanted)
            program = library.bpf_object__next_program(self._object, program)
        each = library.bpf_object__next_map(self._object, None)
        while each:
            name = library.bpf_map__name(each).decode()
            library.bpf_map__set_autocreate(each, name not in without)
            if name in sizes:
                library.bpf_map__set_max_entries(each, sizes[name])
            each = library.bpf_object__next_map(self._object, each)

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map; it stays the object's."""
        descriptor: int = self._library.bpf_object__find_map_fd_by_name(self._object, name.encode())
        if descriptor < 0:
            raise CollectError(f"the BPF object has no map {name}")
        return descriptor

    def program_fd(self, name: str) -> int:
        """Return the file descriptor of a program; it stays the object's."""
        descriptor: int = self._library.bpf_program__fd(self._program(name))
        return descriptor

    def attach(self, name: str) -> None:
        """Attach a program where its section says."""
        link = self._library.bpf_program__attach(self._program(name))
        if not link:
            raise self._error(f"the BPF program {name} does not attach")
        self._links.append(link)

    def update(self, map_name: str, key: bytes, value: bytes) -> None:
        """Store one entry."""
        if self._library.bpf_map_update_elem(self.map_fd(map_name), key, value, 0):
            raise CollectError(f"map {map_name}: {os.strerror(c.get_errno())}")

    def replace(self, map_name: str, key: bytes, value: bytes) -> bool:
        """Store an entry in the place of one; False where there is none (any more)."""
        descriptor = self.map_fd(map_name)
        return not self._library.bpf_map_update_elem(descriptor, key, value, _BPF_EXIST)

    def lookup(self, map_name: str, key: bytes, value_bytes: int) -> bytes | None:
        """Return one entry; None if it is not there."""
        value = c.create_string_buffer(value_bytes)
        if self._library.bpf_map_lookup_elem(self.map_fd(map_name), key, value):
            return None
        return value.raw

    def take(self, map_name: str, key: bytes, value_bytes: int) -> bytes | None:
        """Remove one entry and return it; None if it is not there (any more)."""
        value = c.create_string_buffer(value_bytes)
        if self._library.bpf_map_lookup_and_delete_elem(self.map_fd(map_name), key, value):
            return None
        return value.raw

    def entries(
        self, map_name: str, key_bytes: int, value_bytes: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries of a hash map that programs may be changing meanwhile."""
        return self._batches("bpf_map_lookup_batch", map_name, key_bytes, value_bytes)

    def drain(
        self, map_name: str, key_bytes: int, value_bytes: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield all entries of a hash map and remove them; each exactly once."""
        return self._batches("bpf_map_lookup_and_delete_batch", map_name, key_bytes, value_bytes)

    def _batches(
        self, call: str, map_name: str, key_bytes: int, value_bytes: int
    ) -> Iterator[tuple[bytes, bytes]]:
        descriptor = self.map_fd(map_name)
        batch = min(_BATCH, max(_BATCH_BYTES // value_bytes, 1))
        keys = c.create_string_buffer(key_bytes * batch)
        values = c.create_string_buffer(value_bytes * batch)
        position = c.create_string_buffer(8)
        start = None
        while True:
            number = c.c_uint32(batch)
            failed = getattr(self._library, call)(
                descriptor, start, position, keys, values, c.byref(number), None
            )
            if failed and c.get_errno() != errno.ENOENT:  # ENOENT: this was the last batch
                raise CollectError(f"map {map_name}: {os.strerror(c.get_errno())}")
            raw_keys, raw_values = keys.raw, values.raw
            for index in range(number.value):
                yield (
                    raw_keys[index * key_bytes : (index + 1) * key_bytes],
                    raw_values[index * value_bytes : (index + 1) * value_bytes],
                )
            if failed:
                return
            start = position

    def per_cpu(self, map_name: str, index: int) -> int:
        """Return the sum over all CPUs of one 64-bit entry of a per-CPU array."""
        cpus = self._library.libbpf_num_possible_cpus()
        values = (c.c_uint64 * cpus)()
        key = index.to_bytes(4, "little")
        if self._library.bpf_map_lookup_elem(self.map_fd(map_name), key, values):
            return 0
        return sum(values)

    def ring(self, map_name: str, on_record: Callable[[bytes], None]) -> int:
        """Make `consume` call `on_record` for each record; return a descriptor to poll."""

        def received(_context: object, data: int, size: int) -> int:
            on_record(c.string_at(data, size))
            return 0

        self._on_record = _Record(received)
        self._ring = self._library.ring_buffer__new(
            self.map_fd(map_name), self._on_record, None, None
        )
        if not self._ring:
            raise self._error("the ring buffer cannot be mapped")
        descriptor: int = self._library.ring_buffer__epoll_fd(self._ring)
        return descriptor

    def consume(self) -> int:
        """Hand over all records that are there; return their number."""
        records: int = self._library.ring_buffer__consume(self._ring)
        return records

    def enable_stats(self) -> bool:
        """Let the kernel time BPF programs while this object is open; no sysctl is touched."""
        self._stats = self._library.bpf_enable_stats(_RUN_TIME_STATS)
        return self._stats >= 0

    def run_time_ns(self, name: str) -> tuple[int, int]:
        """Return the run time of a program and its number of runs."""
        nanoseconds = runs = 0
        text = Path(f"/proc/self/fdinfo/{self.program_fd(name)}").read_text()
        for line in text.splitlines():
            field, _, value = line.partition(":")
            if field == "run_time_ns":
                nanoseconds = int(value)
            elif field == "run_cnt":
                runs = int(value)
        return nanoseconds, runs

    def detach(self) -> None:
        """Take the programs off their hooks; maps and the ring buffer stay."""
        while self._links:
            self._library.bpf_link__destroy(self._links.pop())

    def close(self) -> None:
        """Free everything; may be called twice."""
        self.detach()
        if self._ring:
            self._library.ring_buffer__free(self._ring)
            self._ring = None
        if self._stats >= 0:
            os.close(self._stats)
            self._stats = -1
        if self._object:
            self._library.bpf_object__close(self._object)
            self._object = None

    def _program(self, name: str) -> int:
        program: int | None = self._library.bpf_object__find_program_by_name(
            self._object, name.encode()
        )
        if not program:
            raise CollectError(f"the BPF object has no program {name}")
        return program

    def _keep(self, level: int, text: int, arguments: int) -> int:
        """Format and keep one message of libbpf; debug messages are dropped."""
        if level > 1:
            return 0
        buffer = c.create_string_buffer(_LOG_BYTES)
        written = self._vsnprintf(buffer, _LOG_BYTES, text, arguments)
        self._log += buffer.value.decode(errors="replace").splitlines()
        del self._log[:-_LOG_LINES]
        return int(written)

    def _error(self, what: str) -> CollectError:
        """Return the error with errno and the lines of libbpf's log that tell why."""
        number = c.get_errno()
        reason = os.strerror(number) if number else "unknown error"
        lines = [line.strip() for line in self._log if line.strip()]
        told = [line for line in lines if "processed " not in line and "-- " not in line][-3:]
        hint = "see `ci-flame doctor`"
        if number in (errno.EPERM, errno.EACCES) and "permitted" in " ".join(lines):
            hint = "run as root, allow `sudo -n`, or see `ci-flame doctor`"
        if any(word in " ".join(lines) for word in ("unknown func", "invalid func")):
            hint = "Linux 5.17 or newer is needed"
        if "th argument" in " ".join(lines):  # of the tracepoint sched_switch
            hint = "Linux 5.18 or newer is needed for off-CPU recordings"
        return CollectError(f"{what}: {reason}" + (f" ({' / '.join(told)})" if told else ""), hint)
