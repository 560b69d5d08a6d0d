"""End to end: real benchmarks, the real eBPF collector, real further processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci_flame.baseline import folder
from ci_flame.collect import COLLECTORS, machine
from ci_flame.profile import Frame, Kind

WHY = COLLECTORS["ebpf"].obstacle(machine.probe(), python=True)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(WHY is not None, reason=f"eBPF: {WHY and WHY.reason}"),
]
PLAIN = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio")
SHOP = """
def tokenize(times):
    total = 0
    for i in range(300 * times):
        total += i * 3 % 7
    return total

def render():
    return ",".join([str(i) for i in range(300)])

def sort():
    return sorted([i * 7919 % 1009 for i in range(300)])
"""


def run(pytester, *words, processes=1, seconds=0.2):
    # However busy the machine is that the tests run on; `*words` may name another policy.
    calm = pytester.path.parent / f"{pytester.path.name}.yml"
    calm.write_text("version: 1\nrecord: {busy: 100%}\n", encoding="utf-8")
    size = (f"--flame-processes={processes}", f"--flame-seconds={seconds}")
    return pytester.runpytest_subprocess("--flame", f"--flame-policy={calm}", *size, *PLAIN, *words)


def recorded(pytester):
    run_folder = folder.load(pytester.path / ".ci-flame" / "run")
    return {each.benchmark.partition("::")[2]: each for each in run_folder.measurements}


def functions(measurement):
    """Return the Python functions of the project that were seen, with their samples' share."""
    stacks = measurement.profile().stacks
    total = sum(weight.samples for weight in stacks.values())
    shares = {}
    for stack, weight in stacks.items():
        for frame in set(stack):
            if frame.kind is Kind.PYTHON:
                shares[str(frame)] = shares.get(str(frame), 0) + weight.samples / total
    return shares


def test_every_way_to_say_what_is_measured(pytester):
    pytester.makepyfile(shop=SHOP)
    pytester.makepyfile(
        test_ways="""
        import asyncio, time
        import pytest, shop
        calls = []

        def test_call(flame):
            assert flame(shop.render)[:3] == "0,1"

        def test_block(flame):
            kept = [shop.sort()]  # outside of the block
            with flame:
                for _ in range(40):  # what a window costs is known to within 2 µs
                    shop.render()

        @pytest.mark.flame
        def test_whole():
            shop.render()

        class TestClass:
            @pytest.mark.parametrize("times", [1, 2], ids=["one", "zwölf"])
            def test_method(self, flame, times):
                flame(shop.tokenize, times)

        def test_benchmark(benchmark):
            assert benchmark(shop.tokenize, times=1) > 0

        def test_pedantic(benchmark):
            def setup():
                shop.sort()
                return (40,), {}
            benchmark.pedantic(
                shop.tokenize, setup=setup, teardown=lambda times: calls.append(times), rounds=3
            )
            assert len(calls) >= 3

        async def wait():
            await asyncio.sleep(0)
            shop.render()

        def test_coroutine(flame):
            flame(wait)

        def größe(tiefe):
            return größe(tiefe - 1) if tiefe else shop.render()

        def test_deep(flame):
            flame(größe, 200)

        def test_sleeps(flame):
            flame(time.sleep, 0.02)

        def test_plain():
            assert True
        """
    )
    made = run(pytester, "--benchmark-max-time=0.05")
    made.assert_outcomes(passed=11)
    seen = recorded(pytester)

    inside = {
        "test_call": ("test_call", "shop:render"),
        "test_block": ("test_block", "shop:render"),
        "test_whole": ("test_whole", "shop:render"),
        "TestClass::test_method[one]": ("TestClass.test_method", "shop:tokenize"),
        r"TestClass::test_method[zw\xf6lf]": ("TestClass.test_method", "shop:tokenize"),
        "test_benchmark": ("test_benchmark", "shop:tokenize"),
        "test_pedantic": ("test_pedantic", "shop:tokenize"),
        "test_coroutine": ("test_coroutine", "shop:render"),
        "test_deep": ("test_deep", "shop:render"),  # the rest is the recursion
    }
    assert set(seen) == {*inside, "test_sleeps"}
    for name, (root, function) in inside.items():
        measurement = seen[name]
        (process,) = measurement.processes
        shares = functions(measurement)

        assert measurement.root == Frame(root, "test_ways"), name
        assert process.kept >= 0.9 * process.expected, name  # 98 % is the collector's own test
        assert process.unrooted <= 0.02 * process.kept, name
        assert shares[function] >= 0.3, name
        assert not [frame for frame in shares if frame.startswith(("ci_flame", "_pytest"))], name
        assert all(each.references for each in process.rounds)
    assert "shop:sort" not in functions(seen["test_block"])
    assert "shop:sort" not in functions(seen["test_pedantic"])
    assert functions(seen["test_deep"])["test_ways:größe"] >= 0.3
    assert any(len(stack) > 128 for stack in seen["test_deep"].profile().stacks)
    made.stdout.fnmatch_lines(
        ["*on the CPU for only * %*its waiting is not judged; add --flame-mode off-cpu"]
    )


def test_asynchronous_tests_are_driven_on_their_own_loop(pytester):
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(shop=SHOP)
    pytester.makepyfile(
        test_loop="""
        import asyncio
        import pytest, shop

        @pytest.fixture
        async def loop_of_fixture():
            yield asyncio.get_running_loop()

        async def work():
            await asyncio.sleep(0)
            shop.render()

        @pytest.mark.flame
        async def test_whole(loop_of_fixture):
            assert asyncio.get_running_loop() is loop_of_fixture
            await work()

        async def test_call(flame, loop_of_fixture):
            await flame(work)

        async def test_block(flame, loop_of_fixture):
            await asyncio.sleep(0)
            with flame:
                shop.render()
        """
    )
    made = pytester.runpytest_subprocess(
        "--flame", "--flame-processes=1", "--flame-seconds=0.2", "-p", "no:randomly"
    )
    made.assert_outcomes(passed=3)

    for name, measurement in recorded(pytester).items():
        (process,) = measurement.processes

        # The loop's own turns, one per sleep, are not below the test function.
        assert process.unrooted <= 0.3 * process.kept, name
        assert functions(measurement)["shop:render"] >= 0.5, name


def _two_trees(pytester, factor):
    """Make a project and a checkout of its base, in which `tokenize` did less work."""
    pytester.makeini("[pytest]\npythonpath = src\naddopts = -k checkout")
    pytester.makepyfile(
        test_shop="""
        import shop
        def checkout(): shop.tokenize(TIMES); shop.render(); shop.sort()
        def test_checkout(flame): flame(checkout)
        """.replace("TIMES", "1")
    )
    for tree, times in ((pytester.path, factor), (pytester.path / "base", 1)):
        (tree / "src").mkdir(parents=True)
        (tree / "src" / "shop.py").write_text(SHOP.replace("300 * times", f"{300 * times} * times"))
    for name in ("tox.ini", "test_shop.py"):
        (pytester.path / "base" / name).write_text((pytester.path / name).read_text())


@pytest.mark.parametrize(
    ("factor", "outcome", "workers"),
    [(5, "failed", ()), (1, "passed", ()), (5, "failed", ("-n2",))],
)
def test_the_base_commit_is_recorded_beside_and_a_planted_growth_fails(
    pytester, factor, outcome, workers
):
    _two_trees(pytester, factor)
    words = ("--flame-baseline=tree:base", "test_shop.py", "--junitxml=junit.xml", *workers)
    made = run(pytester, *words, processes=3, seconds=0.3)

    made.assert_outcomes(**{outcome: 1})
    assert made.ret == (1 if outcome == "failed" else 0)
    text = made.stdout.str()
    assert ("shop:tokenize grew by" in text) is (outcome == "failed")
    assert ("note: failed in two recordings" in text) is (outcome == "failed")
    assert text.count("FAILED test_shop.py::test_checkout") == (factor > 1)
    cases = (pytester.path / "junit.xml").read_text()
    assert (cases.count("<testcase "), cases.count("<failure ")) == (1, factor > 1)
    before = folder.load(pytester.path / ".ci-flame" / "report" / "before")
    after = folder.load(pytester.path / ".ci-flame" / "report" / "after")
    assert [len(each.processes) for each in before.measurements] == [3]
    assert [len(each.processes) for each in after.measurements] == [3]


def test_a_place_that_cannot_hold_the_run_is_said_before_anything_is_recorded(pytester):
    pytester.makepyfile("def test_it(flame): flame(print, 'recorded')")
    (pytester.path / "out").write_text("a file where a folder should be")
    made = run(pytester, "-s", "--flame-out=out/run")

    assert made.ret == 4
    made.stderr.fnmatch_lines(["ERROR: ci-flame: out/run: the run could not be written: *"])
    assert "recorded" not in made.stdout.str()


def test_no_time_is_announced_where_no_benchmark_is_selected(pytester):
    pytester.makepyfile("def test_it(flame): flame(sum, [1])\ndef test_other(): pass")
    made = run(pytester, "-k", "other")

    assert made.ret == 0
    assert "in all" not in made.stdout.str()


@pytest.mark.parametrize(
    ("words", "outcome"), [((), "passed"), (("--flame-policy=once.yml",), "failed")]
)
def test_a_growth_that_a_second_recording_does_not_show_fails_nobody(pytester, words, outcome):
    """The function is five times as dear in the first recording's processes, not after them."""
    (pytester.path / "once.yml").write_text("version: 1\nrecord: {confirm: false, busy: 100%}\n")
    pytester.makepyfile(shop=SHOP.replace("300 * times", "300 * times * FACTOR") + "FACTOR = 1\n")
    pytester.makepyfile(
        test_shop="""
        import os, pathlib, shop
        def checkout(): shop.tokenize(1); shop.render(); shop.sort()
        def test_checkout(flame):
            busy = pathlib.Path("busy.txt")
            if os.getenv("CI_FLAME_CHILD") and busy.exists():
                left = int(busy.read_text())
                busy.write_text(str(max(left - 1, 0)))
                shop.FACTOR = 5 if left else 1
            flame(checkout)
        """
    )
    run(pytester, "--flame-out=base", processes=3, seconds=0.3).assert_outcomes(passed=1)
    (pytester.path / "busy.txt").write_text("3")
    made = run(pytester, "--flame-baseline=base", *words, processes=3, seconds=0.3)

    made.assert_outcomes(**{outcome: 1})
    told = "*note: a first recording failed, the second did not confirm it: shop:tokenize grew by*"
    if outcome == "passed":
        made.stdout.fnmatch_lines([told])
    else:
        made.stdout.no_fnmatch_line(told)
        made.stdout.fnmatch_lines(["*shop:tokenize grew by*"])


def _garbage(collections):
    """A function that leaves cycles behind and collects so many times in every call.

    What else lives in a process differs from one to the next, and so would a collection's cost.
    """
    return f"""
import gc
if {collections}:
    gc.freeze()
KEPT = [[] for _ in range({20_000 if collections else 2000})]

def leave():
    for _ in range(400):
        pair = []
        pair.append(pair)

def build():
    leave()
    for _ in range({collections}):
        gc.collect()

def count():
    return sum([i * 3 % 7 for i in range(2000)])
"""


def test_garbage_collection_is_a_frame_below_the_function_that_pays(pytester):
    pytester.makepyfile(shop=_garbage(0))
    pytester.makepyfile(
        test_shop="""
        import pytest, shop
        @pytest.mark.flame(gc=True)
        def test_on(flame): flame(shop.build)
        def test_off(flame): flame(shop.build)
        """
    )
    run(pytester, seconds=0.2).assert_outcomes(passed=2)

    below = {
        name: sum(
            weight.samples
            for stack, weight in measurement.profile().stacks.items()
            if any(str(frame) == "[gc]" for frame in stack)
            and "shop:leave" in [str(frame) for frame in stack]
        )
        / measurement.profile().samples
        for name, measurement in recorded(pytester).items()
    }
    assert below["test_on"] >= 0.1
    assert below["test_off"] == 0


def test_growth_in_garbage_collection_is_a_finding_of_its_own(pytester):
    pytester.makepyfile(
        test_shop="""
        import pytest, shop
        def both(): shop.build(); shop.count()
        @pytest.mark.flame(gc=True)
        def test_build(flame): flame(both)
        """
    )
    for collections, words in ((1, ("--flame-out=base",)), (4, ("--flame-baseline=base",))):
        pytester.makepyfile(shop=_garbage(collections))
        made = run(pytester, *words, processes=3, seconds=0.4)

    made.assert_outcomes(failed=1)
    made.stdout.fnmatch_lines(["*::test_build: [[]gc[]] grew by *"])


def test_the_base_commit_may_be_named_and_the_repository_stays_as_it_was(pytester):
    def git(*words):
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(
            ["git", *who, *words], cwd=pytester.path, check=True, capture_output=True, text=True
        )
        return done.stdout

    def state():
        return git("worktree", "list"), git("branch", "--all"), git("status", "--porcelain")

    pytester.makepyfile(shop=SHOP, test_shop="import shop\ndef test_it(flame): flame(shop.render)")
    pytesters = "runpytest-*\nstdout\nstderr\n"
    (pytester.path / ".gitignore").write_text(f".ci-flame/\n__pycache__/\n{pytesters}")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    (pytester.path / "shop.py").write_text(
        SHOP.replace("def render", "def sell():\n    pass\n\ndef render")
    )
    before = state()
    made = run(pytester, "--flame-baseline=rerun:HEAD", "test_shop.py", seconds=0.3)

    made.assert_outcomes(passed=1)
    made.stdout.fnmatch_lines(["ci-flame: baseline rerun:HEAD, recorded beside"])
    assert state() == before
    sides = [
        folder.load(pytester.path / ".ci-flame" / "report" / side) for side in ("before", "after")
    ]
    assert [side.dirty for side in sides] == [False, True]
    assert {side.commit for side in sides} == {git("rev-parse", "HEAD").strip()}
    assert len({side.environment for side in sides}) == 1  # the same layout, too


def test_code_that_leaks_from_the_changed_tree_is_refused(pytester):
    _two_trees(pytester, 3)
    # The base finds its tests, but imports what the changed tree has put on the path.
    (pytester.path / "base" / "src" / "shop.py").unlink()
    conftest = f"import sys\nsys.path.insert(0, {str(pytester.path / 'src')!r})\n"
    (pytester.path / "base" / "conftest.py").write_text(conftest)
    made = run(pytester, "--flame-baseline=tree:base", "test_shop.py")

    made.assert_outcomes(failed=1)
    told = "*the base commit's process loaded shop from the changed tree"
    made.stdout.fnmatch_lines([told, "*hint: *pythonpath*"])


def test_a_benchmark_that_the_base_commit_lacks_is_new(pytester):
    _two_trees(pytester, 1)
    (pytester.path / "base" / "test_shop.py").write_text("def test_other(): pass\n")
    made = run(pytester, "--flame-baseline=tree:base", "test_shop.py")

    made.assert_outcomes(passed=1)
    made.stdout.fnmatch_lines(["*is new: the base commit does not have it*"])


def test_further_processes_run_the_test_alone_with_one_hash_seed(pytester):
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--size', default='1')")
    pytester.makepyfile(
        test_it="""
        import os, pathlib, sys
        def test_it(flame, pytestconfig):
            with open("seen.txt", "a") as seen:
                print(pytestconfig.getoption("size"), os.getcwd(), os.getenv("PYTHONHASHSEED"),
                      len(pytestconfig.args), file=seen)
            flame(sum, range(1000))
        def test_other():
            with open("other.txt", "a") as other:
                other.write("x")
        """
    )
    made = run(pytester, "--size", "7", "--junitxml=junit.xml", processes=3)

    made.assert_outcomes(passed=2)
    here = str(pytester.path)
    first, *further = (pytester.path / "seen.txt").read_text().splitlines()
    assert first.startswith(f"7 {here} ")
    assert further == [f"7 {here} 0 1"] * 3
    assert (pytester.path / "other.txt").read_text() == "x"
    assert len(recorded(pytester)["test_it"].processes) == 3
    assert 'tests="2"' in (pytester.path / "junit.xml").read_text()


def test_a_further_process_that_dies_fails_the_item_with_its_last_lines(pytester):
    pytester.makepyfile(
        """
        import os
        def test_it(flame):
            if os.getenv("CI_FLAME_CHILD"):
                print("the shop is closed", flush=True)
                os._exit(9)
            flame(sum, range(1000))
        """
    )
    made = run(pytester, "-s", processes=2)

    made.assert_outcomes(failed=1)
    assert made.ret == 1
    made.stdout.fnmatch_lines(
        ["ci-flame: *run again, it ended with exit code 9", "*shop is closed*"]
    )
    assert "Traceback" not in made.stdout.str()


def test_a_benchmark_too_short_to_sample_says_how_long_it_must_be(pytester):
    pytester.makepyfile("def test_it(flame): flame(sum, range(1000))")
    first = run(pytester, "--flame-frequency=99", "-p", "no:xdist", seconds=0.1)
    made = run(pytester, "--flame-frequency=99", "--flame-baseline=.ci-flame/run", seconds=0.1)

    assert first.ret == made.ret == 0
    head = "ci-flame: ebpf at 99 Hz, 1 process of 0.1 s per benchmark"
    first.stdout.fnmatch_lines(
        [head, "ci-flame: no baseline: .ci-flame/baseline does not exist",
         "ci-flame: 1 benchmark, about 2 s in all"]
    )  # fmt: skip
    made.stdout.fnmatch_lines([head, "ci-flame: baseline .ci-flame/run"])
    made.stdout.re_match_lines(
        [r".*too short to sample: \d+ samples in 0\.1\d* s of CPU time, 100 .*--flame-seconds \d"]
    )
    made.stdout.fnmatch_lines(["ci-flame: INCONCLUSIVE*"])


def test_a_collector_that_cannot_see_python_is_refused(pytester):
    pytester.makepyfile("def test_it(flame): flame(int)")
    made = run(pytester, "--flame-collector=perf")

    assert made.ret == 4
    made.stderr.fnmatch_lines(["ERROR: ci-flame: no collector can record a Python benchmark here*"])


def test_ctrl_c_ends_further_processes_and_keeps_what_was_recorded(pytester):
    pytester.makepyfile(
        """
        import os, pathlib, time
        def test_first(flame):
            flame(sum, range(1000))
        def test_second(flame):
            flame(sum, range(1000))
            if os.getenv("CI_FLAME_CHILD"):
                pathlib.Path("child.txt").write_text(str(os.getpid()))
                time.sleep(60)
        """
    )
    words = ["--flame", "--flame-processes=2", "--flame-seconds=0.1", *PLAIN]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *words],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    note = pytester.path / "child.txt"
    child = _wait_for(note)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 2, output
    assert "run:    .ci-flame/run (cut short: marked incomplete, no baseline)" in output
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    kept = folder.load(pytester.path / ".ci-flame" / "run", incomplete_ok=True)
    assert not kept.complete
    assert [each.benchmark.partition("::")[2] for each in kept.measurements] == ["test_first"]
    assert "Traceback" not in output


def _wait_for(note: Path) -> int:
    for _ in range(600):
        if note.exists() and note.read_text():
            return int(note.read_text())
        time.sleep(0.1)
    pytest.fail(f"{note} was not written within 60 s")
