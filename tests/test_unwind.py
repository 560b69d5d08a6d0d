"""Stacks from registers and a copy of the stack: rules of real libraries, and hostile ones."""

import hashlib
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from perf_recordings import counted, ours, perfs, record

from ci_flame.symbols import cfi, frames, unwind
from ci_flame.symbols.cfi import CallFrames, Entries, How
from ci_flame.symbols.unwind import Copied, End, Unwinder, evaluate

RAX, RBX, RBP, RSP, RA = 0, 3, 6, 7, 16


def library(name):
    """The path of a library that this process has mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if name in line:
            return line.split(maxsplit=5)[5]
    raise AssertionError(f"{name} is not mapped")


LIBC = library("libc.so.6")
hashlib.sha256()  # so that libcrypto is mapped


# --- entries, made by hand ----------------------------------------------------------------------


def uleb(value):
    out = bytearray()
    while True:
        value, byte = value >> 7, value & 0x7F
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def sleb(value):
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        done = (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40)
        out.append(byte if done else byte | 0x80)
        if done:
            return bytes(out)


def entry(pointer, body):
    body += b"\0" * (-(len(body) + 4) % 4)
    return struct.pack("<II", len(body) + 4, pointer) + body


# CFA is rsp+8 and the return address at CFA-8: how every function begins.
BEGINNING = b"\x0c" + uleb(7) + uleb(8) + b"\x90" + uleb(1)
BASE = 0x1000


def section(code, *, initial=BEGINNING, augmentation=b"zR", extra=b"\x00", size=0x100, version=1):
    """A CIE and an FDE for the addresses 0x5000 to 0x5100, both as `.eh_frame` has them."""
    head = bytes([version]) + augmentation + b"\0" + uleb(1) + sleb(-8) + bytes([RA])
    if augmentation.startswith(b"z"):
        head += uleb(len(extra)) + extra
    cie = entry(0, head + initial)
    told = struct.pack("<QQ", 0x5000, size) + (uleb(0) if augmentation.startswith(b"z") else b"")
    return cie + entry(len(cie) + 4, told + code)


def frames_of(data, *, base=BASE):
    def read(address, size):
        start = address - base
        return data[start : start + size] if start >= 0 else b""

    entries = Entries.scan(read, base, len(data), debug=False)
    return CallFrames(read, table=None, entries=entries)


def row_at(code, address=0x50FF, **how):
    return frames_of(section(code, **how)).row(address)


@pytest.mark.parametrize(
    ("code", "cfa", "saved"),
    [
        (b"", (7, 8), {RA: -8}),
        (b"\x41\x0e\x10\x86\x02", (7, 16), {RA: -8, RBP: -16}),  # push rbp
        (b"\x41\x0e\x10\x86\x02\x43\x0d\x06", (6, 16), {RA: -8, RBP: -16}),  # mov rbp, rsp
        (b"\x02\x10\x0e\x20", (7, 32), {RA: -8}),  # advance_loc1
        (b"\x03\x10\x00\x0e\x20", (7, 32), {RA: -8}),  # advance_loc2
        (b"\x04\x10\x00\x00\x00\x0e\x20", (7, 32), {RA: -8}),  # advance_loc4
        (b"\x01" + struct.pack("<Q", 0x5010) + b"\x0e\x20", (7, 32), {RA: -8}),  # set_loc
        (b"\x05\x0c\x03", (7, 8), {RA: -8, 12: -24}),  # offset_extended
        (b"\x11\x0c" + sleb(-2), (7, 8), {RA: -8, 12: 16}),  # offset_extended_sf
        (b"\x2f\x0c\x02", (7, 8), {RA: -8, 12: 16}),  # GNU_negative_offset_extended
        (b"\x12\x03" + sleb(-4), (3, 32), {RA: -8}),  # def_cfa_sf counts in data units
        (b"\x13" + sleb(-4), (7, 32), {RA: -8}),  # def_cfa_offset_sf
        (b"\x83\x02\xc3", (7, 8), {RA: -8}),  # restore of what the CIE does not say
        (b"\x90\x03\xd0", (7, 8), {RA: -8}),  # restore of what it says
        (b"\x90\x03\x06\x10", (7, 8), {RA: -8}),  # restore_extended
        (b"\x0a\x0e\x40\x83\x02\x0b", (7, 8), {RA: -8}),  # remember, restore: the CFA, too
        (b"\x2e" + uleb(300), (7, 8), {RA: -8}),  # GNU_args_size
        (b"\x87\x00\x91\x05", (7, 8), {RA: -8, 7: 0}),  # vector registers are left out
    ],
)
def test_instructions(code, cfa, saved):
    row = row_at(code)

    assert (row.cfa_register, row.cfa_offset) == cfa
    assert dict(row.saved) == saved


@pytest.mark.parametrize(
    ("code", "other"),
    [
        (b"\x07\x10", ((RA, How.UNDEFINED, 0),)),
        (b"\x08\x10", ()),
        (b"\x09\x10\x01", ((RA, How.REGISTER, 1),)),
        (b"\x14\x06\x02", ((RBP, How.VALUE, -16),)),
        (b"\x15\x06" + sleb(-2), ((RBP, How.VALUE, 16),)),
        (b"\x10\x06\x02\x76\x10", ((RBP, How.AT, b"\x76\x10"),)),
        (b"\x16\x06\x02\x76\x10", ((RBP, How.EXPRESSION, b"\x76\x10"),)),
    ],
)
def test_rules_that_are_not_simply_saved(code, other):
    assert row_at(code).other == other


def test_rows_hold_from_their_address_on():
    table = frames_of(section(b"\x44\x0e\x10\x48\x0e\x20"))

    assert table.row(0x4FFF) is None
    assert [table.row(a).cfa_offset for a in (0x5000, 0x5003, 0x5004, 0x500B, 0x500C)] == [
        8, 8, 16, 16, 32,
    ]  # fmt: skip
    assert table.row(0x50FF).cfa_offset == 32
    assert table.row(0x5100) is None


@pytest.mark.parametrize(
    "data",
    [
        section(b"\x3f"),  # unknown instruction
        section(b"\x0c\x11\x08\x41"),  # CFA from a register that is none
        section(b"\x0e" + b"\xff" * 12),  # a number without end
        section(b"\x0f\x7f\x00"),  # an expression longer than the entry
        section(b"\x0b"),  # nothing was remembered
        section(b"\x0a" * 65),  # one state more than is kept
        section(b"", version=2),
        section(b"", augmentation=b"eh"),
        section(b"", augmentation=b"zR" + b"x" * 40),
        section(b"", extra=b"\x50"),  # addresses "aligned": not written by anybody
        section(b"")[:-3],
    ],
)
def test_entry_that_makes_no_sense_has_no_row(data):
    assert frames_of(data).row(0x5010) is None


def test_number_of_remembered_states_that_still_fits():
    assert row_at(b"\x0a" * 64).cfa_offset == 8


def test_entries_behind_a_broken_one_are_found():
    good = section(b"\x41\x0e\x10")
    broken = entry(0x7FFF_FFF0, b"\0" * 32)

    assert frames_of(broken + good).row(0x50FF).cfa_offset == 16


def test_lengths_of_64_bits_end_the_list():
    assert frames_of(struct.pack("<I", 0xFFFFFFFF) + section(b"")).row(0x5010) is None


def test_debug_frame_names_its_cie_by_offset():
    cie = entry(0xFFFFFFFF, b"\x04\0\x08\0" + uleb(1) + sleb(-8) + uleb(RA) + BEGINNING)
    data = cie + entry(0, struct.pack("<QQ", 0x5000, 0x100) + b"\x41\x0e\x30")

    def read(offset, size):
        return data[offset : offset + size]

    entries = Entries.scan(read, 0, len(data), debug=True)
    table = CallFrames(read, table=None, entries=entries)

    assert table.row(0x5000).cfa_offset == 8
    assert table.row(0x5001).cfa_offset == 48


# --- expressions --------------------------------------------------------------------------------

WORDS = [100 + number for number in range(17)]


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (b"\x34", 4),
        (b"\x08\xff", 255),
        (b"\x09\xff", 2**64 - 1),
        (b"\x0a\x01\x02", 0x201),
        (b"\x0d\xfe\xff\xff\xff", 2**64 - 2),
        (b"\x0e" + b"\x01" * 8, 0x0101010101010101),
        (b"\x10\x80\x01", 128),
        (b"\x11\x7f", 2**64 - 1),
        (b"\x73\x08", 111),  # breg3
        (b"\x77\x78", 99),  # breg7 - 8
        (b"\x38\x34\x1c", 4),
        (b"\x32\x3f\x24", 1 << 16),
        (b"\x32\x08\x40\x24", 0),  # a shift by all bits
        (b"\x12", None),  # dup of nothing
        (b"\x33\x12\x1e", 9),
        (b"\x33\x34\x14", 3),
        (b"\x33\x34\x16", 3),
        (b"\x33\x34\x13", 3),
        (b"\x31\x1f", 2**64 - 1),
        (b"\x30\x20", 2**64 - 1),
        (b"\x31\x23\x05", 6),
        (b"\x31\x32\x2d", 1),
        (b"\x09\xff\x31\x2d", 1),  # signed: -1 < 1
        (b"\x31\x28\x01\x00\x35\x36", 6),  # a branch over lit5
        (b"\x30\x28\x01\x00\x35\x36", 6),
        (b"\x2f\x01\x00\x35\x36", 6),
        (b"\x2f\xfd\xff", None),  # a loop without end
        (b"\x2f\x00\x80", None),  # to before the code
        (b"\x36" * 65, None),  # too many operands
        (b"\x77\x00\x06", 0x1122334455667788),  # what rsp points to
        (b"\x77\x20\x06", None),  # what lies behind the copy
        (b"\x50", None),  # DW_OP_reg0 is no value
        (b"\x0c\x01", None),
        (b"", None),
    ],
)
def test_expressions(code, value):
    stack = struct.pack("<QQ", 0x1122334455667788, 2)

    assert evaluate(code, WORDS, Copied(stack, WORDS[RSP])) == value


@pytest.mark.parametrize(("entry_byte", "offset"), [(0xA, 8), (0xB, 16)])
def test_procedure_linkage_table(entry_byte, offset):
    """gcc's own expression: rsp+8, and 8 more once the entry has pushed its number (11 bytes)."""
    code = bytes.fromhex("77 08 80 00 3f 1a 3b 2a 33 24 22")
    words = [0] * 17
    words[RSP], words[RA] = 0x7000, 0x401020 + entry_byte

    assert evaluate(code, words, Copied(b"", 0x7000)) == 0x7000 + offset


# --- walks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    start: int
    end: int
    path: str
    offset: int = 0


def walker(*regions, **images):
    def find(address):
        return next((each for each in regions if each.start <= address < each.end), None)

    return Unwinder(lambda path: images.get(path.strip("/"))), find


def image(code, **how):
    return frames.Image([(0x5000, 0x5000, 0x1000)], [frames_of(section(code, **how))])


LIB = Code(0x405000, 0x406000, "/lib", 0x5000)
JIT = Code(0x900000, 0x910000, "")


def registers(rip, rsp=0x7000, rbp=0, **other):
    words = [0] * 17
    words[RA], words[RSP], words[RBP] = rip, rsp, rbp
    for name, value in other.items():
        words[int(name.removeprefix("r"))] = value
    return words


def words_of(*values):
    return struct.pack(f"<{len(values)}Q", *values)


def test_callers_by_rules():
    unwinder, find = walker(LIB, lib=image(b""))
    stack = words_of(0x405020, 0x405030, 0)

    chain = unwinder.walk(registers(0x405010), stack, find)

    assert chain.addresses == (0x405010, 0x40501F, 0x40502F)
    assert chain.end is End.WHOLE


def test_outermost_function_says_that_it_has_no_caller():
    unwinder, find = walker(LIB, lib=image(b"\x07\x10"))

    assert unwinder.walk(registers(0x405010), words_of(1, 2), find) == unwind.Chain(
        (0x405010,), End.WHOLE
    )


@pytest.mark.parametrize(("words", "end"), [(1, End.LOST), (0, End.SHORT)])
def test_copy_that_ends_in_the_middle(words, end):
    """The second frame's return address is behind the copy, or leads nowhere."""
    unwinder, find = walker(LIB, lib=image(b""))
    stack = words_of(0x405020, *([0xDEAD] * words))

    assert unwinder.walk(registers(0x405010), stack, find).end is end


def test_frame_pointers_lead_through_code_without_rules():
    unwinder, find = walker(LIB, JIT, lib=image(b"\x07\x10"))
    #              rbp of the caller, back into the library
    stack = words_of(7, 7, 0x7040, 0x900800, 7, 7, 7, 7, 0, 0x405010)

    chain = unwinder.walk(registers(0x900100, rbp=0x7010), stack, find)

    assert chain.addresses == (0x900100, 0x9007FF, 0x40500F)
    assert chain.end is End.WHOLE


@pytest.mark.parametrize(
    ("rbp", "back", "end"),
    [
        (0x7010, 0x1234, End.LOST),  # leads into no code
        (0, 0x900800, End.WHOLE),  # the outermost frame, as the ABI marks it
        (0x7012, 0x900800, End.LOST),  # not aligned
        (0x6FF8, 0x900800, End.LOST),  # below the stack pointer
        (0x7018, 0x900800, End.SHORT),  # its return address is just behind the copy
        (0x7000 + (1 << 24), 0x900800, End.LOST),  # too far for a frame
    ],
)
def test_frame_pointer_that_is_none(rbp, back, end):
    unwinder, find = walker(JIT)
    stack = words_of(0, 0, 0, back)

    assert unwinder.walk(registers(0x900100, rbp=rbp), stack, find) == unwind.Chain(
        (0x900100,), end
    )


def test_interrupted_function_keeps_its_very_address():
    """Behind a signal frame the address is where it was interrupted: maybe its first."""
    trampoline = image(b"", augmentation=b"zRS")
    unwinder, find = walker(LIB, JIT, lib=trampoline)

    chain = unwinder.walk(registers(0x405010), words_of(0x900000, 0), find)

    assert chain.addresses[1] == 0x900000


def test_walk_that_comes_back_is_ended():
    """A CFA that does not move outward can be no caller's."""
    unwinder, find = walker(LIB, lib=image(b"\x0c\x07\x00"))
    stack = words_of(*[0x405010] * 4)

    chain = unwinder.walk(registers(0x405010, rsp=0x7008), b"\0" * 8 + stack, find)

    assert chain.end is End.LOST
    assert len(chain.addresses) == 1


def test_frames_are_bounded():
    unwinder, find = walker(LIB, lib=image(b""))
    stack = words_of(*[0x405020] * 2000)
    few = Unwinder(lambda _path: image(b""), max_frames=127)

    assert len(unwinder.walk(registers(0x405010), stack, find).addresses) == unwind.MAX_FRAMES
    assert unwinder.walk(registers(0x405010), stack, find).end is End.DEEP
    assert len(few.walk(registers(0x405010), stack, find).addresses) == 127


# --- real files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [LIBC, library("libcrypto") if "libcrypto" in Path("/proc/self/maps").read_text() else LIBC],
)
def test_rules_of_a_real_library_are_those_that_pyelftools_decodes(path):
    mine = frames.open_image(path)
    compared = wrong = 0
    with Path(path).open("rb") as file:
        elf = ELFFile(file)
        segments = [s for s in elf.iter_segments("PT_LOAD") if s["p_flags"] & 1]
        for each in elf.get_dwarf_info().EH_CFI_entries()[::7]:
            if not isinstance(each, FDE):
                continue
            try:
                table = each.get_decoded().table
            except Exception:  # noqa: BLE001, S112 - DW_CFA_GNU_args_size ends pyelftools
                continue
            ends = [line["pc"] for line in table[1:]]
            ends.append(each["initial_location"] + each["address_range"])
            for line, end in zip(table, ends, strict=True):
                place = line["pc"]
                if end <= place:
                    continue
                offset = next(
                    place - s["p_vaddr"] + s["p_offset"]
                    for s in segments
                    if s["p_vaddr"] <= place < s["p_vaddr"] + s["p_filesz"]
                )
                compared += 1
                wrong += not agrees(mine.row(offset), line)

    assert compared > 1000
    assert wrong == 0


def agrees(row, line):
    cfa = line["cfa"]
    if cfa.expr is not None:
        same = row.cfa_expression == bytes(cfa.expr)
    else:
        same = (row.cfa_register, row.cfa_offset) == (cfa.reg, cfa.offset)
    rules = {key: rule for key, rule in line.items() if isinstance(key, int) and key < 17}
    found = dict(row.saved) | {key: value for key, _, value in row.other}
    for key, rule in rules.items():
        value = bytes(rule.arg) if isinstance(rule.arg, list) else rule.arg
        if rule.type != "S":
            same = same and found.pop(key) == (0 if value is None else value)
    return same and not found


def test_vdso_of_this_process():
    assert frames.open_image("[vdso]") is not None


@pytest.mark.parametrize("what", ["/nonexistent", "relative", "", "//anon", "/dev/zero", "/usr"])
def test_what_is_no_image(what):
    assert frames.open_image(what) is None


def test_pipe_does_not_hold_the_reader_up(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    assert frames.open_image(str(tmp_path / "pipe")) is None


def test_image_without_a_search_table(tmp_path):
    """Linked without `.eh_frame_hdr`: the section itself is gone through."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    source = tmp_path / "one.c"
    source.write_text("int one(int x) { return x; }\n")
    library_file = tmp_path / "one.so"
    subprocess.run(
        [
            *("gcc", "-O2", "-shared", "-fPIC", "-nostdlib", "-Wl,--no-eh-frame-hdr"),
            *(str(source), "-o", str(library_file)),
        ],
        check=True,
    )
    with library_file.open("rb") as file:
        elf = ELFFile(file)
        assert not list(elf.iter_segments("PT_GNU_EH_FRAME"))
        place = elf.get_section_by_name(".dynsym").get_symbol_by_name("one")[0]["st_value"]

    row = frames.open_image(str(library_file)).row(place)

    assert (row.cfa_register, row.cfa_offset, dict(row.saved)) == (7, 8, {RA: -8})


# --- real stacks, side by side with perf script ---------------------------------------------------

WORK = """
import hashlib, json, sys
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
for _ in range(int(sys.argv[1])):
    fib(17)
    json.loads(json.dumps({"a": list(range(60)), "b": "x" * 200}))
    hashlib.sha256(b"x" * 200_000)
    sorted(range(5000), key=lambda x: -x)
"""


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    """A program without frame pointers: recursion, libc's callbacks, signals in the middle."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    program = tmp_path_factory.mktemp("signals") / "signals"
    source = Path(__file__).parent / "data" / "unwind" / "signals.c"
    subprocess.run(["gcc", "-O2", "-fomit-frame-pointer", source, "-o", program], check=True)
    return str(program)


@pytest.mark.root
@pytest.mark.parametrize(
    ("what", "size"), [("signals", 16384), ("this python", 32768), ("the system's python", 32768)]
)
def test_stacks_are_perfs_or_longer(tmp_path, signals, what, size):
    """libpython, libc and libcrypto have no frame pointers; Debian's python is static, too."""
    pythons = {"this python": sys.executable, "the system's python": "/usr/bin/python3"}
    command = (
        [signals, "400"] if what == "signals" else [pythons[what], "-I", "-S", "-c", WORK, "400"]
    )
    data = record(
        tmp_path / "perf.data",
        *command,
        options=("--call-graph", f"dwarf,{size}", "-k", "CLOCK_MONOTONIC"),
        hertz=1999,
    )
    mine, theirs = counted(ours(data)), counted(perfs(data))
    total = theirs.total()
    alike = (mine & theirs).total()
    # Where perf's libunwind gives up, the same stack is there with more frames outside.
    longer = 0
    rest, unmatched = list((theirs - mine).elements()), list((mine - theirs).elements())
    for stack in rest:
        leaf = tuple(frame for frame in stack[1:] if str(frame) != "[unknown]")
        found = next((o for o in unmatched if o[len(o) - len(leaf) :] == leaf), None)
        if found is not None:
            unmatched.remove(found)
            longer += 1

    assert mine.total() == total
    assert total > 200
    assert (alike + longer) / total >= 0.99, rest[:3]
    assert alike / total >= 0.97
    outermost = sum(n for stack, n in mine.items() if str(stack[1]).endswith(":_start"))
    assert outermost / total >= 0.95


# --- hostile input --------------------------------------------------------------------------------

VDSO = frames._own_vdso()
LIBC_IMAGE = frames.open_image(LIBC)
LIBC_CODE = Code(0x10000000, 0x10200000, LIBC)
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

addresses = st.one_of(
    st.integers(LIBC_CODE.start, LIBC_CODE.end - 1),
    st.integers(0x7000, 0x7000 + 4096),
    st.integers(0, 2**64 - 1),
)


@SLOW
@given(
    words=st.lists(addresses, min_size=17, max_size=17),
    stack=st.lists(addresses, max_size=300),
    cut=st.integers(0, 7),
)
def test_any_stack_ends(words, stack, cut):
    def find(address):
        return LIBC_CODE if LIBC_CODE.start <= address < LIBC_CODE.end else None

    data = words_of(*stack)
    unwinder = Unwinder(lambda _path: LIBC_IMAGE)
    chain = unwinder.walk(words, data[: len(data) - cut], find)

    assert 1 <= len(chain.addresses) <= unwind.MAX_FRAMES
    assert chain.addresses[0] == words[RA]
    assert all(0 <= each < 2**64 for each in chain.addresses)


@SLOW
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(VDSO) - 1), st.integers(0, 255)), min_size=1, max_size=30
    ),
    length=st.integers(0, len(VDSO)),
    places=st.lists(st.integers(0, len(VDSO)), max_size=20),
)
def test_any_file_is_read_or_refused(changes, length, places):
    data = bytearray(VDSO)
    for place, byte in changes:
        data[place] = byte
    found = frames.image_of(bytes(data[: max(length, len(data) // 2)]))
    if found is not None:
        for place in places:
            row = found.row(place)
            assert row is None or row.cfa_register < cfi.REGISTERS


@SLOW
@given(code=st.binary(max_size=60), stack=st.binary(max_size=200))
def test_any_expression_ends(code, stack):
    value = evaluate(code, WORDS, Copied(stack, WORDS[RSP]))

    assert value is None or 0 <= value < 2**64


@SLOW
@given(data=st.binary(max_size=400))
def test_any_bytes_are_entries_or_not(data):
    table = frames_of(section(b"")[:24] + data)

    for address in (0, 0x5000, 0x5080, 2**63):
        row = table.row(address)
        assert row is None or row.cfa_register < cfi.REGISTERS
