"""pprof: our files in other hands, other people's files in ours, and what is refused."""

import gzip
import json
import shutil
import subprocess
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import measurements

from ci_flame.errors import FormatError
from ci_flame.formats import folded, pprof
from ci_flame.formats import profile_pb2 as pb
from ci_flame.profile import (
    GC,
    UNKNOWN,
    Frame,
    Kind,
    Measurement,
    Mode,
    Place,
    Process,
    Profile,
    Round,
    Unit,
    Weight,
    fold,
)

DATA = Path(__file__).parent / "data" / "pprof"
NODE = Path(__file__).parent / "node"

BENCH = Frame("test_checkout", "tests.bench_shop")
PARSE = Frame("Grammar.compile", "shop.parser")
READ = Frame("read", "libc.so.6", Kind.NATIVE)
VFS = Frame("vfs_read", "", Kind.KERNEL)
ADD = Frame("add /app/x.js", "", Kind.JIT)
STACKS = {
    (BENCH,): Weight(1, 500),
    (BENCH, PARSE): Weight(60, 30_000),
    (BENCH, PARSE, READ, VFS): Weight(5, 2_500),
    (BENCH, PARSE, GC): Weight(2, 1_000),
    (BENCH, ADD): Weight(3, 1_500),
    (BENCH, PARSE, PARSE): Weight(4, 2_000),
}


def measurement(*rounds, mode=Mode.ON_CPU, **changes):
    profiles = rounds or (Profile(STACKS),)
    made = tuple(Round(1, 1, 1, profiles={mode: each}) for each in profiles)
    return Measurement("tests/bench_shop.py::test_checkout", (Process(made),), **changes)


def message_of(data):
    return pb.Profile.FromString(gzip.decompress(data))


# --- our own files ------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(measurements("t"), st.sampled_from(Mode))
def test_read_returns_what_write_was_given(some, mode):
    expected = {
        (process, number): each.profiles[mode].stacks
        for process, of_process in enumerate(some.processes)
        for number, each in enumerate(of_process.rounds)
        if mode in each.profiles and each.profiles[mode].stacks
    }
    data = pprof.write(some, mode)
    actual = pprof.read(data, "x")

    assert {key: profile.stacks for key, profile in actual.profiles.items()} == expected
    assert actual.mode is mode
    assert data == pprof.write(some, mode)


def test_order_of_stacks_does_not_change_the_bytes():
    backwards = Profile(dict(reversed(STACKS.items())))

    assert pprof.write(measurement(backwards), Mode.ON_CPU) == pprof.write(
        measurement(), Mode.ON_CPU
    )


def test_gzip_header_has_no_time():
    data = pprof.write(measurement(), Mode.ON_CPU)

    assert data[:4] == b"\x1f\x8b\x08\x00"
    assert data[4:8] == b"\0\0\0\0"


@pytest.mark.parametrize(
    ("mode", "unit", "types"),
    [
        (Mode.ON_CPU, Unit.NANOSECONDS, ["samples count", "cpu nanoseconds"]),
        (Mode.OFF_CPU, Unit.NANOSECONDS, ["samples count", "off-cpu nanoseconds"]),
        (Mode.ON_CPU, Unit.SAMPLES, ["samples count", "cpu count"]),
    ],
)
def test_message_is_what_the_schema_asks_for(mode, unit, types):
    place = Place("src/shop/parser.py", 88)
    one = measurement(
        Profile(STACKS, unit), Profile(STACKS, unit), mode=mode, places={PARSE: place}
    )
    message = message_of(pprof.write(one, mode))
    text = message.string_table

    assert text[0] == ""
    assert len(set(text)) == len(text)
    assert [f"{text[each.type]} {text[each.unit]}" for each in message.sample_type] == types
    assert text[message.default_sample_type] == types[1].split()[0]
    assert message.period == 500
    assert [each.id for each in message.function] == list(range(1, 7))
    assert [each.id for each in message.location] == list(range(1, 7))
    assert {each.filename for each in message.mapping} == {
        list(text).index(name) for name in ("libc.so.6", "[kernel.kallsyms]", "[jit]", "[mark]")
    }
    assert len(message.sample) == 2 * len(STACKS)
    for sample in message.sample:
        assert len(sample.value) == 2
        assert [text[label.key] for label in sample.label] == ["process", "round"]
        assert {text[label.num_unit] for label in sample.label} == {"index"}
    (parse,) = (each for each in message.function if text[each.name] == str(PARSE))
    assert (text[parse.system_name], text[parse.filename], parse.start_line) == (
        "shop.parser:Grammar.compile",
        "src/shop/parser.py",
        88,
    )
    assert pprof.read(pprof.write(one, mode), "x").places == {PARSE: place}


def test_weight_that_does_not_fit_is_refused():
    fits = Profile({(BENCH,): Weight(1, 2**63 - 1)})
    large = Profile({(BENCH,): Weight(1, 2**63)})

    assert pprof.read(pprof.write(measurement(fits), Mode.ON_CPU), "x").profiles
    with pytest.raises(FormatError, match=r"a weight of 9223372036854775808 is above 2\^63-1"):
        pprof.write(measurement(large), Mode.ON_CPU)


def test_no_round_of_the_mode_gives_an_empty_profile():
    assert pprof.read(pprof.write(measurement(), Mode.OFF_CPU), "x").profiles == {}


# --- an outside reader ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def node_modules(pytestconfig, tmp_path_factory):
    """The pinned readers of tests/node, installed once into pytest's cache, where it has one."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js with npm is not installed")
    cache = getattr(pytestconfig, "cache", None)
    place = tmp_path_factory.mktemp("node") if cache is None else cache.mkdir("ci-flame-node")
    lock = (NODE / "package-lock.json").read_bytes()
    done = place / "installed-lock.json"
    if not done.is_file() or done.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE / name, place / name)
        subprocess.run(
            ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=place,
            check=True,
            timeout=120,
        )
        done.write_bytes(lock)
    return place


@pytest.mark.node
def test_pprof_format_reads_the_same_stacks_and_weights(node_modules, tmp_path):
    rounds = [Profile(STACKS), Profile({(BENCH, PARSE): Weight(9, 2**62)}), Profile({})]
    one = measurement(*rounds)
    two = Measurement("t", one.processes * 2, places={PARSE: Place("a.py", 1)})
    (tmp_path / "x.pb.gz").write_bytes(pprof.write(two, Mode.ON_CPU))
    done = subprocess.run(
        ["node", NODE / "read_pprof.mjs", node_modules, tmp_path / "x.pb.gz"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    head, *samples = map(json.loads, done.stdout.splitlines())
    actual = Counter(
        (
            sample["labels"]["process"],
            sample["labels"]["round"],
            ";".join(sample["stack"]),
            *map(int, sample["values"]),
        )
        for sample in samples
    )
    expected = Counter(
        (process, number, fold(stack), weight.samples, weight.value)
        for process in range(2)
        for number, profile in enumerate(rounds)
        for stack, weight in profile.stacks.items()
    )

    assert actual == expected
    assert head["types"] == [["samples", "count"], ["cpu", "nanoseconds"]]


# --- other people's files -------------------------------------------------------------------


class Foreign:
    """Builds a pprof message as another producer would."""

    def __init__(self, *types, default=""):
        self.message = pb.Profile(string_table=[""])
        for name, unit in types or [("samples", "count"), ("cpu", "nanoseconds")]:
            self.message.sample_type.add(type=self.text(name), unit=self.text(unit))
        self.message.default_sample_type = self.text(default)

    def text(self, text):
        table = self.message.string_table
        if text not in table:
            table.append(text)
        return list(table).index(text)

    def mapping(self, filename):
        number = len(self.message.mapping) + 1
        self.message.mapping.add(id=number, filename=self.text(filename))
        return number

    def location(self, *lines, mapping=0):
        """Lines are (name, file, start line), innermost first."""
        number = len(self.message.location) + 1
        location = self.message.location.add(id=number, mapping_id=mapping, address=4096)
        for name, file, start in lines:
            function = len(self.message.function) + 1
            self.message.function.add(
                id=function, name=self.text(name), filename=self.text(file), start_line=start
            )
            location.line.add(function_id=function, line=start + 1)
        return number

    def sample(self, locations, values=(1, 10), **labels):
        sample = self.message.sample.add(location_id=locations, value=values)
        for key, value in labels.items():
            if isinstance(value, str):
                sample.label.add(key=self.text(key), str=self.text(value))
            else:
                sample.label.add(key=self.text(key), num=value)

    def read(self):
        return pprof.read(gzip.compress(self.message.SerializeToString()), "x")

    def stacks(self):
        return {
            fold(stack): (weight.samples, weight.value)
            for stack, weight in self.read().profiles[0, 0].stacks.items()
        }


def usual():
    """One sample of one function, to be broken by the tests below."""
    made = Foreign()
    made.sample([made.location(("main", "main.go", 1))])
    return made


@pytest.mark.parametrize(
    ("name", "file", "mapping", "expected"),
    [
        ("main.work", "/src/main.go", "/usr/bin/shop", "native:shop:main.work"),
        ("main.work", "/src/main.go", "", "main.work"),
        ("compile", "/app/shop/parser.py", "", "parser:compile"),
        ("loads", "/usr/lib/python3.11/json/__init__.py", "", "json:loads"),
        ("get", "/v/site-packages/shop/api/core.py", "/usr/bin/python3", "shop.api.core:get"),
        ("do_read", "", "[kernel.kallsyms]", "kernel:do_read"),
        ("", "", "[kernel.kallsyms]", "kernel:[unknown]"),
        ("ext4_read", "", "/lib/modules/6.1/kernel/fs/ext4/ext4.ko.xz", "kernel:ext4_read"),
        ("run", "/app/server.mjs", "", "jit:run"),
        ("std::sort", "", "", "std::sort"),
        ("shop.parser:tokenize", "", "", "shop.parser:tokenize"),
        ("java/lang/Thread:.run", "", "", "native::java/lang/Thread:.run"),
    ],
)
def test_foreign_names_become_frames(name, file, mapping, expected):
    made = Foreign()
    number = made.mapping(mapping) if mapping else 0
    made.sample([made.location((name, file, 7), mapping=number)])

    assert list(made.stacks()) == [expected]


def test_location_without_function_is_unknown_code_of_its_library():
    made = Foreign()
    library = made.mapping("/usr/lib/libx.so.1")
    made.sample([made.location(mapping=library), made.location()])

    assert list(made.stacks()) == [f"{UNKNOWN};native:libx.so.1:[unknown]"]


def test_inlined_lines_become_frames_of_their_own():
    made = Foreign()
    inner = made.location(("memcpy", "s.c", 1), ("copy", "s.c", 9))
    made.sample([inner, made.location(("main", "m.c", 3))])

    assert list(made.stacks()) == ["main;copy;memcpy"]


def test_one_function_may_be_in_several_places():
    made = Foreign()
    one = made.location(("walk", "w.c", 1))
    made.message.location.add(id=9).line.extend(list(made.message.location[0].line) * 2)
    made.sample([9, one])

    assert list(made.stacks()) == ["walk;walk;walk"]


def test_fields_of_later_versions_are_skipped():
    """One of each wire type, with numbers that the schema does not know yet."""
    plain = usual().message.SerializeToString()
    later = b"\xf8\x06\x05" + b"\xf9\x06" + bytes(8) + b"\xfd\x06" + bytes(4) + b"\xfa\x06\x01x"

    assert pprof.read(gzip.compress(plain + later), "x").profiles == usual().read().profiles


def test_samples_of_one_stack_add_up_and_text_labels_are_ignored():
    made = Foreign()
    place = made.location(("main", "main.go", 1))
    made.sample([place], (2, 20), thread="main")
    made.sample([place], (3, 30), thread="worker", process="one")

    assert made.stacks() == {"main": (5, 50)}


@pytest.mark.parametrize(
    ("types", "default", "values", "expected"),
    [
        ([("samples", "count"), ("cpu", "nanoseconds")], "", (2, 30), (2, 30, "nanoseconds")),
        ([("sample", "count"), ("wall", "microseconds")], "", (2, 30), (2, 30_000, "nanoseconds")),
        ([("cpu", "milliseconds")], "", (3,), (1, 3_000_000, "nanoseconds")),
        ([("samples", "count")], "", (4,), (4, 4, "samples")),
        (
            [("samples", "count"), ("cpu", "seconds")],
            "samples",
            (2, 3),
            (2, 3 * 10**9, "nanoseconds"),
        ),
        ([("cpu", "nanoseconds"), ("wall", "nanoseconds")], "cpu", (7, 9), (1, 7, "nanoseconds")),
        ([("cpu", "nanoseconds"), ("wall", "nanoseconds")], "", (7, 9), (1, 9, "nanoseconds")),
    ],
)
def test_the_value_that_counts(types, default, values, expected):
    made = Foreign(*types, default=default)
    made.sample([made.location(("main", "main.go", 1))], values)
    (weight,) = made.read().profiles[0, 0].stacks.values()

    assert (weight.samples, weight.value, made.read().unit) == expected


@pytest.mark.parametrize("name", ["off-cpu", "off_cpu", "offcpu"])
def test_off_cpu_time_is_told_from_the_name(name):
    made = Foreign((name, "nanoseconds"))
    made.sample([made.location(("main", "main.go", 1))], (5,))

    assert made.read().mode is Mode.OFF_CPU


def test_heap_profile_is_refused_with_the_cure():
    made = Foreign(("inuse_objects", "count"), ("inuse_space", "bytes"), default="inuse_space")
    made.sample([made.location(("main", "main.go", 1))])

    with pytest.raises(FormatError, match="it measures inuse_space in bytes") as error:
        made.read()
    assert error.value.hint == "record a CPU profile"


def test_real_profile_of_another_producer():
    """Recorded under Node.js with @datadog/pprof; tests/data/README.md has the command."""
    found = pprof.read((DATA / "node-wall.pb.gz").read_bytes(), "node-wall")
    profile = found.profiles[0, 0]

    assert folded.write(profile) == (DATA / "node-wall.folded").read_text(encoding="utf-8")
    assert found.unit is Unit.NANOSECONDS
    assert (profile.samples, profile.value) == (386, 489_448_000), "as pprof-format reads it"


# --- refused ----------------------------------------------------------------------------------


def broken(change):
    made = usual()
    change(made.message)
    return gzip.compress(made.message.SerializeToString())


GOOD = gzip.compress(usual().message.SerializeToString())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "0 bytes; a gzipped pprof profile was expected"),
        (b"PK\x03\x04zip", "not gzip: begins with 50 4b 03 04, not 1f 8b"),
        (b"\x1f", "not gzip: begins with 1f, not 1f 8b"),
        (GOOD[:-9], f"truncated: gzip data ends after {len(GOOD) - 9} bytes"),
        (GOOD[:10], "truncated: gzip data ends after 10 bytes"),
        (GOOD + b"more", "4 bytes after the gzip data"),
        (GOOD[:-8] + b"\0\0\0\0" + GOOD[-4:], "broken gzip data"),
        (gzip.compress(b"hello, this is no profile"), "not a pprof profile"),
        (gzip.compress(b"\xff" * 20), "not a pprof profile (broken number at byte 10)"),
        (gzip.compress(b"\x12\x7f\x00"), "truncated: sample ends after the data"),
        (gzip.compress(b"\x12\x02\x0a\x7f"), "not a pprof profile (broken message)"),
        (gzip.compress(b""), "its string table does not begin with the empty string"),
    ],
)
def test_what_is_not_pprof_is_refused_by_name(data, sentence):
    with pytest.raises(FormatError) as error:
        pprof.read(data, "baseline/x.pb.gz")
    assert error.value.message.startswith("baseline/x.pb.gz: ")
    assert sentence in error.value.message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.sample[0].value.append(1), "sample 0 has 3 values for 2 sample types"),
        (lambda m: m.sample[0].value.__setitem__(1, -5), "sample 0 has the negative value -5"),
        (lambda m: m.sample[0].value.__setitem__(0, -1), "sample 0 has the negative value -1"),
        (lambda m: m.sample[0].location_id.append(99), "sample 0 is in location 99, which is not"),
        (lambda m: m.sample[0].ClearField("location_id"), "sample 0 has an empty stack"),
        (lambda m: m.ClearField("sample_type"), "it names no sample type"),
        (lambda m: m.location.add(id=1), "location 1 is there twice, or its id is 0"),
        (lambda m: m.location.add(id=0), "location 0 is there twice, or its id is 0"),
        (lambda m: m.function.add(id=1), "function 1 is there twice, or its id is 0"),
        (lambda m: m.mapping.add(id=0), "mapping 0 is there twice, or its id is 0"),
        (lambda m: m.location.add(id=2).line.add(function_id=7), "is in function 7, which is not"),
        (lambda m: m.location.add(id=2, mapping_id=3), "is in mapping 3, which is not there"),
        (lambda m: setattr(m.function[0], "name", 99), "string 99 of a function is not among the"),
        (lambda m: setattr(m.function[0], "filename", -1), "string -1 of a function is not among"),
        (lambda m: setattr(m, "default_sample_type", 50), "string 50 of a default sample type"),
        (lambda m: m.comment.append(70), "string 70 of a comment is not among the"),
        (lambda m: m.sample[0].label.add(key=44), "string 44 of a label is not among the"),
        (lambda m: m.string_table.__setitem__(0, "x"), "does not begin with the empty string"),
    ],
)
def test_contradictions_are_refused_by_name(change, sentence):
    with pytest.raises(FormatError) as error:
        pprof.read(broken(change), "x")
    assert sentence in error.value.message


@pytest.mark.parametrize(
    ("key", "number", "ok"),
    [
        ("process", pprof.MAX_PROCESS, True),
        ("process", pprof.MAX_PROCESS + 1, False),
        ("round", pprof.MAX_ROUND, True),
        ("round", pprof.MAX_ROUND + 1, False),
        ("round", -1, False),
    ],
)
def test_labels_have_limits(key, number, ok):
    made = Foreign()
    made.sample([made.location(("main", "main.go", 1))], **{key: number})
    if ok:
        assert made.read().profiles
        return
    with pytest.raises(FormatError, match=f"sample 0 is of {key} {number}; 0 to "):
        made.read()


@pytest.mark.parametrize("name", ["shop", "kernel", "native:x", "native:x:"])
def test_own_file_with_a_name_that_fits_no_kind_is_refused(name):
    one = measurement(Profile({(READ if "native" in name else PARSE,): Weight(1, 1)}))
    message = message_of(pprof.write(one, Mode.ON_CPU))
    message.string_table.append(name)
    message.function[0].system_name = len(message.string_table) - 1

    with pytest.raises(FormatError, match=r"is not the name of a (python|native) frame"):
        pprof.read(gzip.compress(message.SerializeToString()), "x")


# --- limits, both sides ---------------------------------------------------------------------


def test_packed_size_is_limited(monkeypatch):
    monkeypatch.setattr(pprof, "MAX_COMPRESSED", len(GOOD))
    assert pprof.read(GOOD, "x").profiles
    monkeypatch.setattr(pprof, "MAX_COMPRESSED", len(GOOD) - 1)

    with pytest.raises(FormatError, match=f"{len(GOOD)} bytes; the limit is {len(GOOD) - 1}"):
        pprof.read(GOOD, "x")


def test_unpacked_size_is_limited(monkeypatch):
    size = len(gzip.decompress(GOOD))
    monkeypatch.setattr(pprof, "MAX_PLAIN", size)
    assert pprof.read(GOOD, "x").profiles
    monkeypatch.setattr(pprof, "MAX_PLAIN", size - 1)

    with pytest.raises(FormatError, match=f"unpacks to more than {size - 1} bytes, the limit"):
        pprof.read(GOOD, "x")


def test_bomb_is_refused_while_it_unpacks():
    """64 MB of zeros in 64 kB: no more than the free part is ever unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush()

    with pytest.raises(FormatError, match=f"unpacks to more than 200 times its {len(bomb)} bytes"):
        pprof.read(bomb, "x")


def test_ratio_counts_only_past_its_free_part(monkeypatch):
    data = broken(lambda m: m.string_table.append("x" * 60_000))
    monkeypatch.setattr(pprof, "RATIO_FREE", len(gzip.decompress(data)))
    assert pprof.read(data, "x").profiles
    monkeypatch.setattr(pprof, "RATIO_FREE", 1000)

    with pytest.raises(FormatError, match="as no real profile does"):
        pprof.read(data, "x")


@pytest.mark.parametrize("field", sorted(pprof.MAX_COUNTS))
def test_counts_are_limited_before_anything_is_built(monkeypatch, field):
    made = usual()
    made.mapping("x")
    number = len(getattr(made.message, field))
    monkeypatch.setitem(pprof.MAX_COUNTS, field, number)
    assert made.read().profiles
    monkeypatch.setitem(pprof.MAX_COUNTS, field, number - 1)

    with pytest.raises(FormatError, match=f"more than {number - 1} of {field}, the limit"):
        made.read()


def test_many_empty_samples_are_counted_and_not_built():
    """Four million samples of two bytes would be half a gigabyte of objects."""
    data = gzip.compress(b"\x32\x00" + b"\x12\x00" * (pprof.MAX_COUNTS["sample"] + 1), 1)

    with pytest.raises(FormatError, match="more than 2000000 of sample, the limit"):
        pprof.read(data, "x")


@pytest.mark.parametrize("limit", [pprof.MAX_DEPTH])
def test_depth_is_limited_after_inlining(limit):
    made = Foreign()
    two = made.location(("a", "a.c", 1), ("b", "a.c", 2))
    made.sample([two] * (limit // 2))
    assert made.read().profiles
    made.sample([two] * (limit // 2 + 1))

    with pytest.raises(FormatError, match=f"sample 1 is deeper than {limit} frames, the limit"):
        made.read()


def test_frames_of_all_stacks_are_limited(monkeypatch):
    made = Foreign()
    one, two = (made.location((name, "a.c", 1)) for name in "ab")
    for stack in ([one], [one, two], [one, two]):
        made.sample(stack)
    monkeypatch.setattr(pprof, "MAX_FRAMES", 3)
    assert made.read().profiles
    monkeypatch.setattr(pprof, "MAX_FRAMES", 2)

    with pytest.raises(FormatError, match="its stacks have more than 2 frames in all, the limit"):
        made.read()


def test_strings_are_limited():
    made = Foreign()
    made.sample([made.location(("x" * pprof.MAX_STRING, "", 1))])
    assert made.read().profiles
    made.text("y" * (pprof.MAX_STRING + 1))

    with pytest.raises(FormatError, match="a string_table of 65537 bytes; the limit is 65536"):
        made.read()


def test_one_sample_is_limited():
    made = usual()
    for _ in range(90_000):
        made.message.sample[0].label.add(key=1)

    with pytest.raises(FormatError, match=r"a sample of \d+ bytes; the limit is 262144"):
        made.read()


def test_file_names_of_300_bytes_are_kept():
    place = Place("src/" + "d" * 296 + "/parser.py", 5)
    one = measurement(places={PARSE: place})

    assert pprof.read(pprof.write(one, Mode.ON_CPU), "x").places == {PARSE: place}
