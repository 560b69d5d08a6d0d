"""Names of code: mangled symbols, separate debug files, JIT maps and dumps, aliases."""

import struct
import subprocess
from pathlib import Path

import numpy as np
import perf_data_builder as built
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_flame.errors import FormatError, UnrecognisedError
from ci_flame.formats import perf_data
from ci_flame.simplify import clean_name
from ci_flame.symbols.code_file import read_code_file
from ci_flame.symbols.demangle import demangle
from ci_flame.symbols.jit import read_jitdump, read_perf_map
from ci_flame.symbols.kernel import KernelNames
from ci_flame.symbols.resolve import Resolver, read_untrusted

DATA = Path(__file__).parent / "data" / "perf_data"
RUST = [
    tuple(line.split("\t")) for line in (DATA / "rust.tsv").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("main", "main"),
        ("_start", "_start"),
        ("_ZNK4shop4CartIdE5totalEv", "shop::Cart<double>::total"),
        ("_ZN4shop12_GLOBAL__N_16hiddenEj", "shop::(anonymous namespace)::hidden"),
        ("_Z5applyIZ4mainEUljE_EjT_j", "apply<main::{lambda(unsigned int)#1}>"),
        ("_ZN4shop4ImplD0Ev", "shop::Impl::~Impl"),
        ("_Znwm", "operator new"),
        ("_ZNK3FoocvmEv", "Foo::operator unsigned long"),
        ("_ZNKSt8functionIFvvEEclEv", "std::function<void ()>::operator()"),
        ("_ZlsRSoRK3Foo", "operator<<"),
        ("_ZThn8_N3Foo3runEv", "non-virtual thunk to Foo::run"),
        ("_ZN3foo3barEv.constprop.0", "foo::bar.constprop.0"),
        ("_ZN3foo3barEv@plt", "foo::bar@plt"),
        ("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"),
        ("_Znonsense", "_Znonsense"),
        ("_Z" + "3f" * 20_000, "_Z" + "3f" * 20_000),
        ("", ""),
    ],
)
def test_demangle(symbol, name):
    assert demangle(symbol) == name


@pytest.mark.parametrize(("symbol", "name"), RUST, ids=range(len(RUST)))
def test_rust_is_named_as_by_perf(symbol, name):
    assert clean_name(demangle(symbol)) == clean_name(name)


@given(st.text(alphabet="_ZNKRSt0123456789EIvLijTlambda$.@C<>(){}' ", max_size=60))
def test_no_symbol_is_an_error_or_empty(tail):
    for start in ("", "_Z", "_ZN", "_R", "_RNvC"):
        assert demangle(start + tail) or not start + tail


# --- ELF files ------------------------------------------------------------------------------

SOURCE = """
static int __attribute__((noinline)) hidden(int x) { return x * 3 + 1; }
int __attribute__((noinline)) shown(int x) { return hidden(x) + hidden(x + 1); }
int weak_one(int) __attribute__((weak, alias("shown")));
int _underscored(int) __attribute__((alias("shown")));
int puts(const char *);
int main(int n, char **words) { puts(words[0]); return shown(n); }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elf")
    (folder / "x.c").write_text(SOURCE, encoding="utf-8")
    target = folder / "x"
    command = ["cc", "-g", "-O1", "-Wl,-z,lazy", "-Wl,--build-id", "-o", target, folder / "x.c"]
    subprocess.run(command, check=True)
    return target


def all_names(file):
    return set(file.find(np.arange(0x1000, 0x1400, dtype=np.uint64)))


def offset_of(program, name):
    listed = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in listed.splitlines())
    return next(int(row[0], 16) for row in rows if row[-1] == name)


def test_functions_aliases_and_stubs(program):
    file = read_code_file(program)
    names = all_names(file)

    assert {"hidden", "shown", "main", "puts@plt"} <= names
    assert not {"weak_one", "_underscored"} & names, "strong ones without underscores are preferred"
    assert "" in names


def test_names_end_where_functions_end(program):
    start = offset_of(program, "hidden")
    file = read_code_file(program)
    around = file.find(np.array([start - 1, start, start + 3, start + 64], dtype=np.uint64))

    assert around[1:3] == ["hidden", "hidden"]
    assert around[0] != "hidden"
    assert around[3] != "hidden"


def strip(program, folder):
    """Return a stripped copy, and its symbols in a file of their own."""
    debug, stripped = folder / "x.debug", folder / "x"
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["objcopy", "--strip-all", program, stripped], check=True)
    return stripped, debug


def build_id_of(program):
    notes = subprocess.run(["readelf", "-n", program], capture_output=True, text=True, check=True)
    return next(line.split()[-1] for line in notes.stdout.splitlines() if "Build ID" in line)


def test_debug_file_is_found_by_build_id(program, tmp_path):
    stripped, debug = strip(program, tmp_path)
    number = build_id_of(program)
    folder = tmp_path / "debug"
    assert "hidden" not in all_names(read_code_file(stripped, debug_folder=folder))
    place = folder / ".build-id" / number[:2] / f"{number[2:]}.debug"
    place.parent.mkdir(parents=True)
    place.write_bytes(debug.read_bytes())

    assert {"hidden", "shown", "puts@plt"} <= all_names(
        read_code_file(stripped, debug_folder=folder)
    )


def test_debug_file_is_found_by_its_link(program, tmp_path):
    stripped, debug = strip(program, tmp_path)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", stripped], check=True)
    nowhere = tmp_path / "nowhere"

    assert "hidden" in all_names(read_code_file(stripped, debug_folder=nowhere))
    debug.write_bytes(debug.read_bytes()[:-300])
    assert read_code_file(stripped, debug_folder=nowhere) is not None


def test_file_of_another_build_names_nothing(program):
    own = bytes.fromhex(build_id_of(program))

    assert read_code_file(program, own) is not None
    assert read_code_file(program, own[:8]) is None
    assert read_code_file(program, bytes(20)) is None


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_hostile_elf_files_have_no_error(program, tmp_path_factory, data):
    content = bytearray(program.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 9))
        if data.draw(st.booleans()):
            # The table of sections is at the end, the header at the beginning.
            at = data.draw(st.sampled_from([at % 64, len(content) - 9 - at % 2000]))
        content[at : at + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    file = tmp_path_factory.mktemp("hostile") / "x"
    file.write_bytes(content[: data.draw(st.sampled_from([None, len(content) // 2]))])

    found = read_code_file(file)
    if found is not None:
        all_names(found)


# --- runtimes' own maps ----------------------------------------------------------------------


def found(names, *addresses):
    return names.find(np.array(addresses, dtype=np.uint64))


def test_perf_map():
    names = read_perf_map(b"1000 10 one\n0x1010 0x8 py::f:/x.py\nbroken\n2000 0 none\n30", "m")

    assert found(names, 0xFFF, 0x1000, 0x100F, 0x1010, 0x1017, 0x1018, 0x2000) == [
        *("", "one", "one", "py::f:/x.py", "py::f:/x.py", "", "")
    ]


def test_what_was_written_later_counts():
    names = read_perf_map(b"1000 100 old\n1010 10 new\n1000 8 newest\n", "m")

    assert found(names, 0x1000, 0x1008, 0x1010, 0x1020) == ["newest", "old", "new", "old"]


def dump(*records):
    head = struct.pack("<IIIIIIQQ", 0x4A695444, 1, 40, 62, 0, 7, 1, 0)
    return head + b"".join(
        struct.pack("<IIQ", kind, 16 + len(body), 5) + body for kind, body in records
    )


def load(start, size, number, name):
    return 0, struct.pack("<IIQQQQ", 7, 7, start, start, size, number) + name + b"\0" + bytes(size)


def test_jitdump_with_moved_code():
    content = dump(
        load(0x1000, 16, 1, b"one"),
        load(0x2000, 16, 2, b"two"),
        (1, struct.pack("<IIQQQQQ", 7, 7, 0, 0x1000, 0x3000, 16, 1)),
        (3, b""),
    )
    names = read_jitdump(content, "jit-7.dump")

    assert found(names, 0x1000, 0x200F, 0x2010, 0x3001) == ["one", "two", "", "one"]
    assert found(read_jitdump(content[:100], "cut"), 0x1000) == [""]
    with pytest.raises(UnrecognisedError, match="not a jitdump"):
        read_jitdump(b"\0" * 100, "x")
    with pytest.raises(FormatError, match="a record of 3 bytes at offset 40"):
        read_jitdump(dump()[:40] + struct.pack("<IIQ", 0, 3, 0), "x")


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_jitdump_is_an_error_of_another_kind(tail, cut):
    content = dump(load(0x1000, 16, 1, b"one"))[:cut] + tail
    try:
        found(read_jitdump(content, "x"), 0x1000)
    except (FormatError, UnrecognisedError):
        return


def test_maps_are_read_from_the_copy_and_links_are_not_followed(tmp_path):
    content = built.file(
        built.comm(7, "node"),
        built.mmap(7, 0x1000, 0x1000, "//anon"),
        built.sample(built.MARK_USER, 0x1008),
    )
    data = perf_data.read(content, "x")

    def stacks(maps):
        profile = perf_data.profile(data, Resolver(data, maps=maps, kernel=KernelNames(())))
        return [";".join(map(str, stack)) for stack in profile.stacks]

    assert stacks(tmp_path) == ["[node];jit:[unknown]"]
    secret = tmp_path / "secret"
    secret.write_text("1000 10 secret\n", encoding="utf-8")
    (tmp_path / "perf-7.map").symlink_to(secret)
    assert stacks(tmp_path) == ["[node];jit:[unknown]"]
    (tmp_path / "perf-7.map").unlink()
    (tmp_path / "perf-7.map").write_text("1000 10 weigh\n", encoding="utf-8")
    assert stacks(tmp_path) == ["[node];jit:weigh"]


def test_only_plain_files_are_read(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")

    assert read_untrusted(tmp_path / "f", 3) == b"123"
    assert read_untrusted(tmp_path, 3) is None
    assert read_untrusted(Path("/dev/zero"), 3) is None
    assert read_untrusted(tmp_path / "gone", 3) is None


# --- the kernel -------------------------------------------------------------------------------


def test_kernel_of_another_boot_lies_elsewhere():
    names = KernelNames(["ffffffff91000000 T _text\n", "ffffffff91000100 t work\n"])
    content = built.file(
        built.mmap(-1, 0xFFFFFFFF81000000, 0x1000, "[kernel.kallsyms]_text",
                   offset=0xFFFFFFFF81000000, misc=built.KERNEL),
        built.comm(7, "dd"),
        built.sample(built.MARK_KERNEL, 0xFFFFFFFF81000180),
    )  # fmt: skip
    data = perf_data.read(content, "x")
    profile = perf_data.profile(data, Resolver(data, kernel=names))

    assert [str(stack[-1]) for stack in profile.stacks] == ["kernel:work"]


def test_bpf_programs_that_are_gone_keep_their_names():
    symbol = struct.pack("<QIHH", 0xFFFFFFFFC0000000, 64, 1, 0) + built.text("bpf_prog_12_count")
    content = built.file(
        built.record(17, symbol + built.trailer(), 0),
        built.comm(7, "dd"),
        *(built.sample(built.MARK_KERNEL, 0xFFFFFFFFC0000000 + at) for at in (0, 63, 64)),
    )
    data = perf_data.read(content, "x")
    profile = perf_data.profile(data, Resolver(data, kernel=KernelNames(())))

    assert {str(stack[-1]): weight.samples for stack, weight in profile.stacks.items()} == {
        "kernel:bpf_prog_12_count": 2,
        "kernel:[unknown]": 1,
    }


def test_last_alias_of_kernel_symbols_is_shown():
    names = KernelNames(["ffffffff81000000 T memcpy\n", "ffffffff81000000 T __pi_memcpy\n"])

    assert names.name(0xFFFFFFFF81000004) == "__pi_memcpy"
    assert names.address("memcpy") == 0xFFFFFFFF81000000
    assert names.address("emcpy") is None
