"""Names of modules, libraries, functions and kernel symbols."""

import ctypes
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.symbols.code_file import read_code_file
from ci_flame.symbols.elf import OversizedSectionError, content, read_elf
from ci_flame.symbols.frames import open_image
from ci_flame.symbols.kernel import KernelNames
from ci_flame.symbols.modules import Layout, name_module
from ci_flame.symbols.native import (
    AddressSpace,
    NativeNames,
    library_name,
    parse_maps,
    read_maps,
)

PACKAGES = {"/p/src/shop", "/p/src/shop/sub", "/elsewhere/pkg"}
LAYOUT = Layout(
    module_files={"/p/odd/plugin.py": "shop_plugins.odd", "/p/conftest.py": "tests.conftest"},
    roots=("/p", "/p/src", "/p/tests"),
    is_package=PACKAGES.__contains__,
)


@pytest.mark.parametrize(
    ("file", "module", "place"),
    [
        ("/p/src/shop/parser.py", "shop.parser", "src/shop/parser.py"),
        ("/p/src/shop/sub/deep.py", "shop.sub.deep", "src/shop/sub/deep.py"),
        ("/p/src/shop/__init__.py", "shop", "src/shop/__init__.py"),
        # no package: the longest root, not the project's, is what an import would have used
        ("/p/src/single.py", "single", "src/single.py"),
        ("/p/tests/bench_shop.py", "bench_shop", "tests/bench_shop.py"),
        ("/p/scripts/run/it.py", "scripts.run.it", "scripts/run/it.py"),
        # the target knows better
        ("/p/odd/plugin.py", "shop_plugins.odd", "odd/plugin.py"),
        ("/p/conftest.py", "tests.conftest", "conftest.py"),
        # outside every root: the packages above it, else its own name, and never the folder
        ("/elsewhere/pkg/thing.py", "pkg.thing", "thing.py"),
        ("/elsewhere/lonely.py", "lonely", "lonely.py"),
        ("/p2/src/neighbour.py", "neighbour", "neighbour.py"),
        # installed, standard library, frozen, built from a string
        (
            "/v/lib/python3.11/site-packages/rich/text.py",
            "rich.text",
            "site-packages/rich/text.py",
        ),
        ("/usr/lib/python3/dist-packages/apt/x.py", "apt.x", "site-packages/apt/x.py"),
        ("/p/.venv/lib/python3.11/site-packages/a/__init__.py", "a", "site-packages/a/__init__.py"),
        ("/opt/lib/python3.11/json/decoder.py", "json.decoder", "lib/python3.11/json/decoder.py"),
        ("/opt/lib64/python3.14/ast.py", "ast", "lib/python3.14/ast.py"),
        ("<frozen importlib._bootstrap>", "importlib._bootstrap", "<frozen importlib._bootstrap>"),
        ("<string>", "<string>", "<string>"),
        ("<attrs generated init shop.A-2>", "<attrs generated init shop.A-N>", None),
        ("<lambda at 0x7f00dead>", "<lambda at N>", "<lambda at N>"),
        ("", "<unknown>", "<unknown>"),
        # relative names and odd ways
        ("src/shop/parser.py", "shop.parser", "src/shop/parser.py"),
        ("./run.py", "run", "run.py"),
        ("/p/src/../src/shop/parser.py", "shop.parser", "src/shop/parser.py"),
        # borders of frames cannot be smuggled in
        ("/p/a;b/c:d.py", "a_b.c_d", "a;b/c:d.py"),
    ],
)
def test_name_module(file, module, place):
    assert name_module(file, LAYOUT) == (module, module if place is None else place)


@given(st.text(min_size=1, max_size=60), st.sampled_from(["/p/", "/p/src/", "/q/", "", "/"]))
def test_no_name_is_absolute_or_empty(rest, folder):
    module, place = name_module(folder + rest, LAYOUT)

    assert module
    assert ";" not in module
    assert not place.startswith("/")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/lib/x86_64-linux-gnu/libcrypto.so.3", "libcrypto"),
        ("/usr/lib/libcrypto.so.1.1", "libcrypto"),
        ("/opt/lib/libpython3.11.so.1.0", "libpython3.11"),
        ("/usr/bin/python3.11", "python3.11"),
        ("/x/_json.cpython-311-x86_64-linux-gnu.so", "_json"),
        ("/x/_rust.abi3.so", "_rust"),
        ("/x/numpy.libs/libopenblas64_p-r0-0cf96a72.3.23.dev.so", "libopenblas64_p-r0"),
        ("/lib64/ld-linux-x86-64.so.2", "ld-linux-x86-64"),
        ("/var/gone.so (deleted)", "gone"),
        ("/var/a:b;c", "a_b_c"),
    ],
)
def test_library_name(path, name):
    assert library_name(path) == name


MAPS = """\
55d0c0000000-55d0c0001000 r--p 00000000 fe:00 11 /usr/bin/tool
55d0c0001000-55d0c0003000 r-xp 00001000 fe:00 11 /usr/bin/tool
7f0000000000-7f0000001000 rwxp 00000000 00:00 0
7f0000002000-7f0000003000 r-xp 00002000 fe:00 12 /opt/with space/lib.so.1
7ffff7fc0000-7ffff7fc2000 r-xp 00000000 00:00 0                          [vdso]
"""


def test_maps_are_parsed_and_searched_at_their_borders():
    space = AddressSpace()
    space.update(parse_maps(MAPS))
    names = NativeNames()

    assert len(space.mappings) == 4
    assert space.find(0x55D0C0000FFF) is None
    assert space.find(0x55D0C0001000).path == "/usr/bin/tool"
    assert space.find(0x55D0C0002FFF).path == "/usr/bin/tool"
    assert space.find(0x55D0C0003000) is None
    assert space.find(0x7F0000002000).path == "/opt/with space/lib.so.1"
    assert names.name(space, 0x7F0000000010, 0) == ("[anon]", "[unknown]")
    assert names.name(space, 0x7FFFF7FC0010, 0) == ("[vdso]", "[unknown]")
    assert names.name(space, 0x1000, 0) == ("[unknown]", "[unknown]")
    assert names.name(space, 0x7F0000002010, 0) == ("lib", "[unknown]")


def test_a_snapshot_survives_the_process():
    space = AddressSpace()
    space.update(parse_maps(MAPS))
    space.update(())

    assert len(space.mappings) == 4


def test_addresses_of_this_process_are_named():
    space = AddressSpace()
    space.update(read_maps(os.getpid()))
    address = ctypes.cast(ctypes.CDLL(None).getenv, ctypes.c_void_p).value
    library, symbol = NativeNames().name(space, address + 1, os.getpid())

    assert (library, symbol) == ("libc", "getenv")
    runtime = ctypes.cast(ctypes.pythonapi.PyObject_GetAttr, ctypes.c_void_p).value
    library, symbol = NativeNames().name(space, runtime, os.getpid())
    assert library.startswith(("libpython3", "python3"))
    assert symbol == "PyObject_GetAttr"


SOURCE = """
static int __attribute__((noinline)) hidden(int x) { return x * 3 + 1; }
int shown(int x) { return hidden(x) + hidden(x + 1); }
int variable = 42;
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elf")
    (folder / "x.c").write_text(SOURCE)
    target = folder / "libx.so.1"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(target), str(folder / "x.c")]
    subprocess.run(command, check=True)
    return target


READERS = """
import sys
from pathlib import Path
from ci_flame.symbols.code_file import read_code_file
from ci_flame.symbols.elf import read_elf
from ci_flame.symbols.frames import open_image
place = sys.argv[1]
print(read_elf(Path(place)), read_code_file(Path(place)), open_image(place))
"""


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_what_is_no_plain_file_holds_no_reader_up(kind, tmp_path):
    """A library may be exchanged for a pipe after it was mapped; the readers may be root."""
    place = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place = Path("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READERS, str(place)],
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("None None None\n", "")


def test_elf_knows_static_functions_and_their_ends(library):
    elf = read_elf(library)
    names = {elf.function(offset) for offset in range(0x1000, 0x1200)}

    assert {"hidden", "shown"} <= names
    assert elf.variable("variable") is not None
    assert elf.variable("hidden_nowhere") is None
    assert elf.variable("ariable") is None, "the tail of a name is not the name"
    assert elf.function(1 << 40) == ""


def test_a_stripped_library_names_exported_functions_only(library, tmp_path):
    stripped = tmp_path / "libx.so.1"
    subprocess.run(["strip", "-o", str(stripped), str(library)], check=True)
    names = {read_elf(stripped).function(offset) for offset in range(0x1000, 0x1200)}

    assert "shown" in names
    assert "hidden" not in names
    assert "" in names, "between exported functions nothing is guessed"


@pytest.mark.parametrize("cut", [0, 3, 16, 63, 64, 200, 1000])
def test_broken_files_have_no_symbols_but_no_error_either(library, tmp_path, cut):
    broken = tmp_path / "broken.so"
    broken.write_bytes(library.read_bytes()[:cut])

    elf = read_elf(broken)
    assert elf is None or elf.function(0x1100) == ""


@given(st.data())
def test_hostile_files_have_no_error(library, tmp_path_factory, data):
    content = bytearray(library.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 9))
        at = at % 64 if data.draw(st.booleans()) else at
        content[at : at + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    file = tmp_path_factory.mktemp("hostile") / "x.so"
    file.write_bytes(content)

    elf = read_elf(file)
    if elf is not None:
        elf.function(0x1100)
        elf.variable("variable")


def packed(file, name, *, told=None, cut=None):
    """Return an ELF file whose section of that name is compressed, and its unpacked size."""
    image = bytearray(file)
    (at,) = struct.unpack_from("<Q", image, 40)
    size, number, names = struct.unpack_from("<3H", image, 58)
    rows = [list(struct.unpack_from("<IIQQQQIIQQ", image, at + size * i)) for i in range(number)]
    for index, row in enumerate(rows):
        start = rows[names][4] + row[0]
        if image[start : image.index(b"\0", start)] == name:
            plain = bytes(image[row[4] : row[4] + row[5]])
            head = struct.pack("<IIQQ", 1, 0, len(plain) if told is None else told, row[8])
            body = zlib.compress(plain)[:cut]
            body += bytes(-len(body) % 24)  # pyelftools wants whole entries in the file, too
            row[2] |= 0x800  # SHF_COMPRESSED
            row[4], row[5] = len(image), len(head + body)
            image += head + body
            struct.pack_into("<IIQQQQIIQQ", image, at + size * index, *row)
            return bytes(image), len(plain)
    raise AssertionError(name)


def test_a_compressed_table_is_unpacked_up_to_its_limit(library, tmp_path, monkeypatch):
    file = tmp_path / "libx.so.1"
    image, size = packed(library.read_bytes(), b".symtab")
    file.write_bytes(image)

    with file.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".symtab")
        assert len(content(section, size)) == size
        with pytest.raises(
            OversizedSectionError,
            match=f"section .symtab unpacks to {size} bytes; 1 to {size - 1} are read",
        ):
            content(section, size - 1)
    assert "hidden" in {read_elf(file).function(offset) for offset in range(0x1000, 0x1200)}
    # What does not come from the file's own bytes is not read at all: `.dynsym` is there, too.
    assert read_code_file(file) is None


@pytest.mark.parametrize(
    ("told", "cut"),
    [
        (0, None),  # for zlib this is no limit
        ((1 << 28) + 1, None),
        (1 << 63, None),
        (1 << 28, None),  # less than told
        (None, 12),
        (None, 0),
    ],
)
def test_a_compressed_table_that_lies_is_not_read(library, tmp_path, told, cut):
    file = tmp_path / "libx.so.1"
    for name in (b".symtab", b".strtab"):
        file.write_bytes(packed(library.read_bytes(), name, told=told, cut=cut)[0])

        assert read_elf(file) is None


@pytest.mark.parametrize(("told", "read"), [(None, True), (0, False), (1 << 40, False)])
def test_compressed_call_frame_rules(tmp_path, told, read):
    """`gcc -gz`: of a file without .eh_frame, all rules are there."""
    source, program = tmp_path / "x.c", tmp_path / "x.so"
    source.write_text("int shown(int n) { return n * 3; }\n")
    flags = ("-g", "-fno-asynchronous-unwind-tables", "-shared", "-fPIC", "-nostdlib")
    subprocess.run(["gcc", *flags, "-Wl,--no-eh-frame-hdr", "-o", program, source], check=True)
    subprocess.run(["objcopy", "-R", ".eh_frame", program], check=True)  # the linker's own
    program.write_bytes(packed(program.read_bytes(), b".debug_frame", told=told)[0])

    image = open_image(str(program))
    assert (image is not None) == read


def test_files_that_are_not_there_or_not_elf():
    assert read_elf(Path("/nonexistent")) is None
    assert read_elf(Path(__file__)) is None
    assert read_elf(Path("/proc/self/mem")) is None


def test_kernel_symbols_by_the_nearest_below():
    lines = [
        "ffffffff81000000 T first\n",
        "ffffffff81000100 t second.isra.0\n",
        "ffffffff81000180 d not_a_function\n",
        "ffffffffc0000000 t inside\t[module]\n",
    ]
    names = KernelNames(lines)

    assert names.name(0xFFFFFFFF80FFFFFF) == "[unknown]"
    assert names.name(0xFFFFFFFF81000000) == "first"
    assert names.name(0xFFFFFFFF810000FF) == "first"
    assert names.name(0xFFFFFFFF81000190) == "second"
    assert names.name(0xFFFFFFFFC0000010) == "inside"


def test_kernel_symbols_hidden_from_the_user_are_unknown():
    assert KernelNames(["0000000000000000 T first\n"]).name(0xFFFFFFFF81000000) == "[unknown]"
    assert KernelNames([]).name(1) == "[unknown]"


def test_importing_the_pure_parts_needs_no_numpy():
    code = "import ci_flame.symbols.modules, sys; sys.exit('numpy' in sys.modules)"
    folder = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 0
