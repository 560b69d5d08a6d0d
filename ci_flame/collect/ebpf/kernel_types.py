"""Stage 1, edge: where the running kernel's structures keep their fields, from its own BTF.

    header | types: name, kind and number of parts, size, parts… | strings

What libbpf does when it loads an object, for programs that are compiled on the spot: their
compiler sees headers that may be of another kernel. Reference: Documentation/bpf/btf.rst.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ci_flame.errors import CollectError

VMLINUX: Final = Path("/sys/kernel/btf/vmlinux")
FIELDS: Final[Mapping[str, Sequence[str]]] = {
    "task_struct": ("pid", "tgid", "group_leader", "thread_pid", "signal"),
    "signal_struct": ("live",),
    "pid": ("level", "numbers"),
    "upid": ("nr", "ns"),
    "pid_namespace": ("ns",),
    "ns_common": ("inum",),
}
"""What the BPF programs read."""

_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("<HBBIIIII")
_TYPE: Final = struct.Struct("<III")
_MEMBER: Final = struct.Struct("<III")
_MAX_BYTES: Final = 256 << 20
_STRUCT: Final = 4
_UNION: Final = 5
_PART_BYTES: Final = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""By kind: bytes of each part that follows a type (members, values, parameters)."""
_EXTRA_BYTES: Final = {1: 4, 3: 12, 14: 4, 17: 4}
"""By kind: bytes that follow a type whatever its number of parts."""


def kernel_macros(path: Path = VMLINUX) -> list[str]:
    """Return `-D` options: OFFSET_struct_field in bytes, SIZE_struct."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise CollectError(
            f"the kernel has no type information ({path}: {error.strerror})",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, like those of Debian and Ubuntu",
        ) from None
    try:
        found = read_structures(data, FIELDS)
    except (ValueError, struct.error, RecursionError) as error:
        raise CollectError(f"{path} is not understood: {error}") from None
    macros = []
    for name, (size, offsets) in found.items():
        macros.append(f"-DSIZE_{name}={size}")
        macros += [f"-DOFFSET_{name}_{field}={offset}" for field, offset in offsets.items()]
    return macros


def read_structures(
    data: bytes, wanted: Mapping[str, Sequence[str]]
) -> dict[str, tuple[int, dict[str, int]]]:
    """Return name -> (size, field -> offset), both in bytes; ValueError if one is missing."""
    magic, _, _, header, types_at, types_bytes, strings_at, strings_bytes = _HEADER.unpack_from(
        data
    )
    if magic != _MAGIC:
        raise ValueError(f"it begins with {magic:#06x}, not {_MAGIC:#06x}")
    types = data[header + types_at : header + types_at + types_bytes]
    strings = data[header + strings_at : header + strings_at + strings_bytes]
    structures = _Structures(types, strings)
    found = {}
    for name, fields in wanted.items():
        number = structures.named.get(name.encode())
        if number is None:
            raise ValueError(f"it has no struct {name}")
        size, offsets = structures.members(number)
        missing = [field for field in fields if field not in offsets]
        if missing:
            raise ValueError(f"struct {name} has no {missing[0]}")
        found[name] = (size, {field: offsets[field] for field in fields})
    return found


class _Structures:
    """The structures and unions of a BTF, by number and by name."""

    def __init__(self, types: bytes, strings: bytes) -> None:
        self._types = types
        self._strings = strings
        self._at: dict[int, int] = {}
        self.named: dict[bytes, int] = {}
        position, number = 0, 1
        while position < len(types):
            name, how, _ = _TYPE.unpack_from(types, position)
            kind, parts = how >> 24 & 0x1F, how & 0xFFFF
            if kind in (_STRUCT, _UNION):
                self._at[number] = position
                if kind == _STRUCT:
                    self.named.setdefault(self._string(name), number)
            position += _TYPE.size + _EXTRA_BYTES.get(kind, 0) + _PART_BYTES.get(kind, 0) * parts
            number += 1

    def members(self, number: int) -> tuple[int, dict[str, int]]:
        """Return a structure's size and the offsets of its fields, those of unnamed ones too."""
        position = self._at[number]
        _, how, size = _TYPE.unpack_from(self._types, position)
        offsets: dict[str, int] = {}
        for part in range(how & 0xFFFF):
            name, of, bits = _MEMBER.unpack_from(
                self._types, position + _TYPE.size + part * _MEMBER.size
            )
            at = (bits & 0xFFFFFF if how >> 31 else bits) // 8
            if text := self._string(name):
                offsets.setdefault(text.decode(errors="replace"), at)
            elif of in self._at:
                for inner, offset in self.members(of)[1].items():
                    offsets.setdefault(inner, at + offset)
        return size, offsets

    def _string(self, at: int) -> bytes:
        return self._strings[at : self._strings.find(b"\0", at)]
