"""Every CPython that is supported, sampled for real: what a stack holds is the same in all."""

import re
import subprocess

import pytest
from interpreters import ROOT, every_interpreter, pythons_tool, stages
from recorded_stages import record

from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, Target
from ci_flame.collect.machine import probe
from ci_flame.errors import CollectError
from ci_flame.profile import TRUNCATED, Kind

OBSTACLE = COLLECTORS["ebpf"].obstacle(probe(), python=True)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"eBPF: {OBSTACLE.reason if OBSTACLE else ''}"),
]
ORDINARY = {
    "plain": ("stages:plain",),
    "generators": ("stages:generators",),
    "coroutines": ("stages:coroutines", "asyncio.runners:run"),
    "generated": ("stages:generated",),
    "hashing": ("stages:hashing", "stages:hashing.<locals>.<lambda>"),
    "packing": ("stages:packing", "stages:packing.<locals>.<lambda>"),
    "foreign_names": ("stages:foreign_names",),
    "deep": ("stages:deep", "stages:descend"),
    "forked": ("stages:forked",),
}
"""Stage -> frames that a full stack has after `<module>` and `main`, in this order."""
OTHERS = ("reading", "threads", "too_deep", "started")


BCC = COLLECTORS["bcc"].obstacle(probe(), python=True)


def every_recording():
    """Each interpreter by ebpf; the system's and a newer one by bcc, which runs the same walk."""
    for each in every_interpreter():
        yield pytest.param((each.values[0], "ebpf"), id=f"{each.id}-ebpf", marks=each.marks)
        if each.id in ("3.11", "3.14"):
            marks = [
                *each.marks,
                pytest.mark.skipif(BCC is not None, reason=f"bcc: {BCC.reason if BCC else ''}"),
            ]
            yield pytest.param((each.values[0], "bcc"), id=f"{each.id}-bcc", marks=marks)


@pytest.fixture(scope="module", params=every_recording())
def recorded(request):
    python, collector = request.param
    with stages(python) as target:
        return record(target, *ORDINARY, *OTHERS, collector=collector)


def test_the_version_is_told_and_nothing_is_lost(recorded, request):
    python, _ = request.node.callspec.params["recorded"]

    assert recorded.version == pythons_tool().answer(python)
    assert recorded.recording.lost == 0
    assert len(recorded.recording.samples) == len(ORDINARY) + len(OTHERS)


@pytest.mark.parametrize("stage", ORDINARY)
def test_stacks_are_full(recorded, stage):
    wanted = ("stages:<module>", "stages:main", *ORDINARY[stage])

    assert recorded.total(stage) > 300
    assert recorded.share(stage, *wanted) >= 0.99
    # And nothing stands above the program's own root.
    assert recorded.roots(stage)["stages:<module>"] >= 0.99 * recorded.total(stage)


def test_generators_and_coroutines_stand_where_they_run(recorded):
    assert recorded.share("generators", "stages:delegated", "stages:squares") > 0.3
    assert recorded.share("coroutines", "asyncio.events:Handle._run", "stages:step") > 0.2


def test_code_made_by_exec_has_its_own_names(recorded):
    made = {name for name in recorded.frames("generated") if ":made_" in name}

    assert made == {f"<made>:made_{number}" for number in range(20)}
    assert sum(recorded.frames("generated")[name] for name in made) > 0.8 * recorded.total(
        "generated"
    )


def test_the_extension_is_the_leaf(recorded):
    hashing, packing = recorded.leaves("hashing"), recorded.leaves("packing")
    libraries = {"libcrypto", "_hashlib", "_sha2", "_sha256", "libz", "zlib"}

    assert sum(hashing[each] for each in libraries) > 0.9 * recorded.total("hashing")
    assert packing["libz"] + packing["zlib"] > 0.9 * recorded.total("packing")


def test_the_kernel_stack_is_below_the_call_that_entered_it(recorded):
    deep = 0
    for _, stack, count in recorded.stacks("reading"):
        kinds = [frame.kind for frame in stack]
        if Kind.KERNEL in kinds:
            deep += count
            first = kinds.index(Kind.KERNEL)
            assert set(kinds[first:]) == {Kind.KERNEL}
            assert Kind.PYTHON in kinds[:first]

    assert deep > 0.5 * recorded.total("reading")
    assert recorded.share("reading", "stages:main", "stages:reading") >= 0.99
    assert any("read" in name for name in recorded.frames("reading") if name.startswith("kernel:"))


def test_names_outside_ascii(recorded):
    frames = recorded.frames("foreign_names")

    for name in ("großer_λ_name", "Snake.метод", "Kopf.😀"):
        assert frames[f"stages:{name}"] > 0.1 * recorded.total("foreign_names"), name


def test_recursion_is_whole_up_to_the_limit_and_marked_beyond_it(recorded):
    whole = max(recorded.stacks("deep"), key=lambda each: each[2])[0]
    cut = [(stack, count) for stack, _, count in recorded.stacks("too_deep")]
    marked = sum(count for stack, count in cut if stack[0] == str(TRUNCATED))
    total = recorded.total("too_deep")

    assert whole.count("stages:descend") == 513
    assert marked > 0.95 * total
    assert recorded.recording.truncated[recorded.phase("too_deep")] == marked
    assert recorded.share("too_deep", "stages:main") < 0.05
    assert max(stack.count("stages:descend") for stack, _ in cut) > 1000


def test_threads_begin_at_their_own_root(recorded):
    wanted = ("threading:Thread._bootstrap", "stages:in_thread")

    assert recorded.share("threads", *wanted) >= 0.98
    assert recorded.share("threads", "stages:main", "stages:in_thread") == 0


def test_forked_children_are_walked_from_their_first_sample(recorded):
    # The rest is the parent's, above all the kernel's copying of its pages.
    assert recorded.share("forked", "stages:main", "stages:forked", "stages:in_child") >= 0.9


def test_programs_that_are_started_are_found_again(recorded):
    # The rest is the program's imports, and the interpreter's start before it could be found.
    assert recorded.share("started", "stages:<module>") > 0.85
    assert recorded.share("started", "stages:<module>", "stages:main", "stages:in_child") > 0.5


@pytest.mark.parametrize("python", every_interpreter())
def test_a_target_that_ends_at_once_neither_hangs_nor_invents(python):
    with subprocess.Popen([python, "-S", "-c", "pass"]) as process:
        try:
            session = COLLECTORS["ebpf"].start(Target(process.pid, python=True))
        except CollectError as error:
            assert str(process.pid) in error.message  # noqa: PT017 - either end is right
        else:
            session.set_phase(1)
            process.wait()
            recording = session.read()
            session.close()
            assert sum(recording.samples.get(1, {}).values()) < 500
        assert process.wait() == 0


@pytest.mark.parametrize("python", every_interpreter())
def test_work_in_a_subinterpreter_is_charged_to_the_call_that_entered_it(python):
    """Two interpreters have a thread state of one thread: the first one's frames are seen."""
    with stages(python) as target:
        recorded = record(target, "subinterpreters")

    wanted = ("stages:<module>", "stages:main", "stages:subinterpreters")
    assert recorded.share("subinterpreters", *wanted) >= 0.97


NEW = [each for each in every_interpreter() if each.id in ("3.13", "3.14", "3.15")]


@pytest.mark.parametrize("python", NEW)
@pytest.mark.parametrize(
    ("offset", "word", "message", "cure"),
    [
        (8, 0x031000F0, "CPython 3.16.0 is not supported; 3.11 to 3.15 are", "py-spy"),
        (8, 0x030E00B2, "CPython 3.14.0b2 is not supported; 3.11 to 3.15 are", "py-spy"),
        (16, 1, "is a free-threaded build, which cannot be walked", "perf record -g"),
    ],
)
def test_what_cannot_be_walked_is_refused_by_name(python, offset, word, message, cure):
    """A real process whose runtime tells another version, or that it has no GIL."""
    with stages(python) as target:
        address = int(target.run("runtime_address"))
        with open(f"/proc/{target.pid}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 - no file
            memory.seek(address + offset)
            memory.write(word.to_bytes(8, "little"))
        with pytest.raises(CollectError, match=re.escape(message)) as error:
            COLLECTORS["ebpf"].start(Target(target.pid, python=True))
        assert cure in error.value.hint
        # What is not asked for as Python is sampled as any program.
        session = COLLECTORS["ebpf"].start(Target(target.pid, python=False))
        session.set_phase(1)
        target.run("packing")
        session.set_phase(0)
        recording = session.read()
        session.close()

    kinds = {frame.kind for stack in recording.samples[1] for frame in stack}
    assert kinds <= {Kind.NATIVE, Kind.KERNEL}


SUITE = """
def sorted_words(number):
    return sorted(range(number), key=lambda value: -value)

def test_sort(flame):
    flame(sorted_words, 300)
"""


def test_the_plugin_records_under_a_newer_python(tmp_path):
    python = ROOT / "build" / "pythons" / "environment-3.14" / "bin" / "python"
    if not python.exists():
        pytest.skip("no environment of CPython 3.14: run tools/pythons.py --environment 3.14")
    (tmp_path / "test_words.py").write_text(SUITE)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-W", "error", "--flame", "--flame-quick"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "1 passed" in done.stdout
    run = folder.load(tmp_path / ".ci-flame" / "run")
    assert (run.environment.collector, run.environment.python[:5]) == ("ebpf", "3.14.")
    (measurement,) = run.measurements
    names = {str(frame) for stack in measurement.profile().stacks for frame in stack}
    assert "test_words:sorted_words" in names
