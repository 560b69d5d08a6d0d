"""perf.data files made of bytes: fields, records and orders that no recording here would have."""

import struct

IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU = (1 << bit for bit in range(8))
PERIOD, STREAM, RAW, BRANCH, REGISTERS, STACK = (1 << bit for bit in range(8, 14))
WEIGHT, SOURCE, IDENTIFIER, TRANSACTION, INTERRUPT, PHYSICAL = (1 << bit for bit in range(14, 20))
USUAL = IP | TID | TIME | PERIOD | CALLCHAIN
USER, KERNEL = 2, 1
MARK_KERNEL, MARK_USER = 2**64 - 128, 2**64 - 512
CPU_CLOCK = (1, 0)


def attr(
    sample_type=USUAL,
    *,
    event=CPU_CLOCK,
    read_format=0,
    branches=0,
    registers=0,
    interrupt=0,
    flags=1 << 10 | 1 << 18,
    size=112,
):
    packed = struct.pack(
        "<IIQQQQQIIQQQQIiQIH",
        *(event[0], size, event[1], 1000, sample_type, read_format, flags, 0, 0, 0, 0),
        *(branches, registers, 0, -1, interrupt, 0, 0),
    )
    return packed.ljust(size, b"\0")[:size]


def record(kind, body, misc=USER):
    body += b"\0" * (-len(body) % 8)
    return struct.pack("<IHH", kind, misc, len(body) + 8) + body


def text(name):
    raw = name.encode() + b"\0"
    return raw + b"\0" * (-len(raw) % 8)


def trailer(pid=7, time=0):
    return struct.pack("<iiQ", pid, pid, time)


def mmap(pid, start, size, path, *, time=0, offset=0, misc=USER):
    body = struct.pack("<iiQQQ24sII", pid, pid, start, size, offset, b"", 5, 0)
    return record(10, body + text(path) + trailer(pid, time), misc)


def comm(pid, name, *, time=0, tid=None, exec_=False):
    body = struct.pack("<ii", pid, pid if tid is None else tid) + text(name)
    return record(3, body + trailer(pid, time), 1 << 13 if exec_ else 0)


def fork(pid, parent, *, time, tid=None, parent_tid=None):
    tid, parent_tid = pid if tid is None else tid, parent if parent_tid is None else parent_tid
    body = struct.pack("<iiiiQ", pid, parent, tid, parent_tid, time)
    return record(7, body + trailer(pid, time), 0)


def lost(number, *, time=0):
    return record(2, struct.pack("<QQ", 1, number) + trailer(0, time), 0)


def sample(*addresses, pid=7, time=1, period=500, tid=None, mode=USER):
    """One of the USUAL fields; addresses leaf first, context marks as they come."""
    tid = pid if tid is None else tid
    ip = next((each for each in addresses if each < 2**64 - 4095), 0)
    head = struct.pack("<QiiQQQ", ip, pid, tid, time, period, len(addresses))
    return record(9, head + struct.pack(f"<{len(addresses)}Q", *addresses), mode)


def file(*records, attrs=None, ids=None, data_size=None):
    """A file as perf record writes it, without features."""
    attrs = [attr()] if attrs is None else attrs
    ids = [(number + 1,) for number in range(len(attrs))] if ids is None else ids
    at = 104
    id_block, sections = b"", []
    for each in ids:
        sections.append((at + len(id_block), 8 * len(each)))
        id_block += struct.pack(f"<{len(each)}Q", *each)
    entry = len(attrs[0]) + 16
    attrs_at = at + len(id_block)
    block = b"".join(
        each + struct.pack("<QQ", *where) for each, where in zip(attrs, sections, strict=True)
    )
    data = b"".join(records)
    data_at = attrs_at + len(block)
    size = len(data) if data_size is None else data_size
    head = struct.pack(
        "<8s12Q",
        *(b"PERFILE2", 104, entry, attrs_at, len(block), data_at, size, 0, 0, 0, 0, 0, 0),
    )
    return head + id_block + block + data


def piped(*records, attrs=None):
    """A recording as `perf record -o -` writes it."""
    attrs = [attr()] if attrs is None else attrs
    heads = [
        record(64, each + struct.pack("<Q", number + 1), 0) for number, each in enumerate(attrs)
    ]
    return struct.pack("<8sQ", b"PERFILE2", 16) + b"".join([*heads, *records])
