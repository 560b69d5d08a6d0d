"""Java and Node: the flags arrive, compiled functions have names, their growth is found."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ci_flame import pipeline
from ci_flame.collect import COLLECTORS, machine
from ci_flame.config import RecordConfig
from ci_flame.errors import CollectError
from ci_flame.policy import Policy
from ci_flame.profile import Frame, Kind, Mode, Process, Profile, Round, Weight
from ci_flame.record import command, jit, jit_maps, jit_report
from ci_flame.record.jit import Jit
from ci_flame.verdict import Outcome

DATA = Path(__file__).parent / "data" / "jit"
JAVA = shutil.which("java")
NODE = shutil.which("node")

needs_java = [
    pytest.mark.java,
    pytest.mark.skipif(not JAVA or not shutil.which("javac"), reason="no JDK here"),
]
needs_node = [pytest.mark.node, pytest.mark.skipif(not NODE, reason="no Node here")]
needs_perf = [
    pytest.mark.root,
    pytest.mark.skipif(
        COLLECTORS["perf"].obstacle(machine.probe(), python=False) is not None,
        reason="no perf here",
    ),
]


def environment(**more):
    kept = {key: value for key, value in os.environ.items() if key not in _OURS}
    return {**kept, **more}


_OURS = {jit.JAVA_VARIABLE, jit.NODE_VARIABLE, jit.MARK_VARIABLE, "JAVA_HOME"}


def prepare(wanted, words, given, **more):
    """Prepare in a stack that is left at once, except for the test that uses the shim."""
    with ExitStack() as stack:
        return jit.prepare(wanted, words, given, Path.cwd(), stack, **more)


def ask(words, given):
    """Return what a runtime prints; the map that it writes goes by its number."""
    with subprocess.Popen(
        words, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        told = process.communicate(timeout=60)[0]
    jit_maps.remove(process.pid)
    assert process.returncode == 0, told
    return told


# -- the flags ------------------------------------------------------------------------


class TestJavaFlags:
    pytestmark = needs_java

    def test_they_stand_behind_what_is_there(self):
        given = environment(JAVA_TOOL_OPTIONS="-Dshop=1")

        runtimes = prepare(Jit.JAVA, ["java", "Shop"], given)
        made = runtimes.environment(given, "abc")

        assert made["JAVA_TOOL_OPTIONS"] == f"-Dshop=1 {' '.join(jit.JAVA_FLAGS)}"
        assert made["CI_FLAME_JIT"] == "abc"
        assert "NODE_OPTIONS" not in made
        assert runtimes.command(["java", "Shop"]) == ("java", "Shop")

    def test_the_jvm_takes_them(self):
        given = environment()
        made = prepare(Jit.JAVA, ["java"], given).environment(given, "abc")

        told = ask(["java", "-XX:+PrintFlagsFinal", "-version"], made)

        flags = {line.split()[1]: line.split()[3] for line in told.splitlines() if " = " in line}
        assert flags["PreserveFramePointer"] == "true"
        assert flags["DumpPerfMapAtExit"] == "true"

    def test_java_home_comes_before_the_path(self, tmp_path):
        """A wrapper (mvn) takes JAVA_HOME; what answers there is what is asked."""
        (tmp_path / "bin").mkdir()
        script = tmp_path / "bin" / "java"
        script.write_text("#!/bin/sh\necho 'this java is broken' >&2\nexit 1\n")
        script.chmod(0o755)

        with pytest.raises(
            CollectError, match=rf"{script} does not run with .*this java is broken"
        ):
            prepare(Jit.JAVA, ["./build"], environment(JAVA_HOME=str(tmp_path)))

    def test_what_the_user_set_wrongly_is_named(self):
        given = environment(JAVA_TOOL_OPTIONS="-XX:+NoSuchFlag")

        with pytest.raises(CollectError, match="Unrecognized VM option 'NoSuchFlag'"):
            prepare(Jit.JAVA, ["java"], given)

    def test_an_older_jvm_gets_what_it_knows(self, tmp_path):
        """Java 11 has no DumpPerfMapAtExit; this one refuses it as that does."""
        script = tmp_path / "java"
        script.write_text(
            f'#!/bin/sh\ncase "$JAVA_TOOL_OPTIONS" in *DumpPerfMap*)\n'
            f"  echo \"Unrecognized VM option 'DumpPerfMapAtExit'\" >&2; exit 1;;\n"
            f'esac\nexec {JAVA} "$@"\n'
        )
        script.chmod(0o755)

        runtimes = prepare(Jit.JAVA, [str(script), "Shop"], environment())

        assert runtimes.variables == {"JAVA_TOOL_OPTIONS": "-XX:+PreserveFramePointer"}
        assert "Unrecognized VM option 'DumpPerfMapAtExit'" in runtimes.notes[0]
        assert "Java 17 and newer name all" in runtimes.notes[0]


class TestNodeFlags:
    pytestmark = needs_node

    def test_node_takes_them_in_its_variable(self):
        given = environment(NODE_OPTIONS="--no-warnings")

        runtimes = prepare(Jit.NODE, ["npx", "shop"], given)
        made = runtimes.environment(given, "abc")

        assert made["NODE_OPTIONS"] == f"--no-warnings {' '.join(jit.NODE_FLAGS)}"
        assert runtimes.shim == ""
        assert ask(["node", "-p", "process.env.NODE_OPTIONS"], made).strip() == made["NODE_OPTIONS"]

    def test_a_flag_that_is_refused_there_goes_through_a_shim(self, tmp_path):
        """Node allows few of V8's flags in NODE_OPTIONS; --no-opt is not one of them."""
        given = environment()
        with ExitStack() as stack:
            runtimes = jit.prepare(
                Jit.NODE, ["npx", "shop"], given, tmp_path, stack, node_flags=("--no-opt",)
            )
            made = runtimes.environment(given, "abc")
            assert "NODE_OPTIONS" not in made
            for words in (["node"], ["sh", "-c", 'exec node "$@"', "sh"], ["env", "node"]):
                told = subprocess.run(
                    [*words, "-p", "process.execArgv.join() + ':' + process.argv.slice(1)", "a b"],
                    env=made, capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
                assert told.startswith("--no-opt,")
                assert told.endswith(":a b\n")
            folder = Path(runtimes.shim)
            assert folder.is_dir()
        assert not folder.exists()

    def test_a_command_that_names_node_by_its_path_is_rewritten(self, tmp_path):
        with ExitStack() as stack:
            runtimes = jit.prepare(
                Jit.NODE, [NODE, "shop.js"], environment(), tmp_path, stack, node_flags=["--no-opt"]
            )

        assert runtimes.command([NODE, "shop.js"]) == (NODE, "--no-opt", "shop.js")
        assert runtimes.command(["/usr/bin/make", "x"]) == ("/usr/bin/make", "x")

    def test_what_the_user_set_wrongly_is_named(self):
        given = environment(NODE_OPTIONS="--no-such-flag")

        with pytest.raises(CollectError, match=r"--no-such-flag is not allowed in") as raised:
            prepare(Jit.NODE, ["node"], given)
        assert raised.value.hint == "mend NODE_OPTIONS, which holds: --no-such-flag"

    def test_a_flag_that_node_does_not_know_is_refused(self):
        with pytest.raises(CollectError, match=r"does not run with --no-such-flag: .*bad option"):
            prepare(Jit.NODE, ["node"], environment(), node_flags=("--no-such-flag",))


@pytest.mark.parametrize(("wanted", "named"), [(Jit.JAVA, "java"), (Jit.NODE, "node")])
def test_a_runtime_that_is_not_there_is_named(wanted, named, tmp_path):
    with pytest.raises(CollectError, match=f"--jit {named}: no {named} program") as raised:
        prepare(wanted, ["./build"], {"PATH": str(tmp_path)})

    assert "apt-get install" in raised.value.hint


def test_auto_adds_what_is_installed(tmp_path):
    assert prepare(Jit.AUTO, ["./build"], {"PATH": str(tmp_path)}).variables == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["java", "-jar", "x.jar"], (Jit.JAVA,)),
        (["/usr/lib/jvm/java-17/bin/java", "X"], (Jit.JAVA,)),
        (["./gradlew", "bench"], (Jit.JAVA,)),
        (["node", "x.js"], (Jit.NODE,)),
        (["npx", "vitest", "bench"], (Jit.NODE,)),
        (["sh", "-c", "cd web && npm run bench"], (Jit.NODE,)),
        (["sh", "-c", "java X; node y"], (Jit.JAVA, Jit.NODE)),
        (["./nodes", "javac-like"], ()),
        (["gcc", "x.c"], ()),
    ],
)
def test_runtimes_in_a_command(words, expected):
    assert jit.mentioned(words) == expected


# -- names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/home/me/shop/src/cart.js:total", "src/cart.js:total"),
        ("/home/me/shop/node_modules/a/node_modules/b/i.js:f", "node_modules/b/i.js:f"),
        ("/usr/share/x.js:g", "x.js:g"),
        ("/home/me/shopping/x.js:g", "x.js:g"),
        ("node:fs:readSync", "node:fs:readSync"),
        ("shop.Parser.size", "shop.Parser.size"),
    ],
)
def test_no_absolute_path_is_kept(name, expected):
    stack = (Frame("[node]", "", Kind.MARK), Frame(name, "", Kind.JIT))

    assert jit.relative(stack, ("/home/me/shop",))[1] == Frame(expected, "", Kind.JIT)


def test_native_frames_stay_as_they_are():
    stack = (Frame("/x/y", "/lib", Kind.NATIVE),)

    assert jit.relative(stack, ("/x",)) == stack


# -- what is said ---------------------------------------------------------------------


def process(stacks):
    weights = {
        tuple(map(Frame.parse, path.split(";"))): Weight(count, count)
        for path, count in stacks.items()
    }
    return Process((Round(1, 1, 1, profiles={Mode.ON_CPU: Profile(weights)}),))


COMPILING = "[java];native:libjvm.so:CompileBroker::compiler_thread_loop;native:libjvm.so:f"


@pytest.mark.parametrize(
    ("stacks", "expected"),
    [
        ({"[java];jit:Interpreter;jit:Shop.run": 85, COMPILING: 15}, []),  # 85 % is enough
        ({"[java];jit:Interpreter;jit:Shop.run": 84, COMPILING: 16}, ["16 % of the samples"]),
        ({"[java];jit:Shop.run": 50, "[java];[unknown]": 50}, ["50 % of the samples"]),
        ({"[java];jit:Shop.run": 49, "[java];[unknown]": 51}, ["too few to compare"]),
        ({"[java];jit:Interpreter": 100}, ["too few to compare"]),
    ],
)
def test_what_is_said_of_a_recording(stacks, expected):
    told = jit_report.notes(Jit.JAVA, "perf", [process(stacks)])

    assert "of 100 samples carry Java or JavaScript functions" in told[0]
    assert [each in told[1 + index] for index, each in enumerate(expected)] == [True] * len(
        expected
    )
    assert len(told) == 1 + len(expected)


def test_a_collector_without_names_is_named():
    (told,) = jit_report.notes(Jit.NODE, "ebpf", [process({"[node];native:[unknown]:f": 1})])

    assert told.startswith("ebpf sees neither names nor callers of compiled Java")
    assert jit_report.notes(Jit.NONE, "ebpf", []) == ()


def test_advice():
    assert jit_report.advice(()) == ()
    assert jit_report.advice((Jit.NODE,))[0].endswith("add --jit node")
    assert jit_report.advice((Jit.JAVA, Jit.NODE))[0].endswith("add --jit auto")


# -- maps -----------------------------------------------------------------------------


def wait_for(condition):
    for _ in range(250):
        if condition():
            return True
        time.sleep(0.02)
    return False


WRITER = "import os, sys, time; open(f'{sys.argv[1]}/perf-{os.getpid()}.map', 'w'); time.sleep(60)"


class TestMaps:
    @pytest.fixture
    def writer(self, tmp_path):
        """Start processes that write an empty map, with a mark in their environment or not."""
        started = []

        def start(**more):
            each = subprocess.Popen(
                [sys.executable, "-c", WRITER, tmp_path], env=environment(**more)
            )
            started.append(each)
            assert wait_for((tmp_path / f"perf-{each.pid}.map").exists)
            return each.pid

        yield start
        for each in started:
            each.kill()
            each.wait()

    def test_ours_are_removed_and_nobody_elses(self, writer, tmp_path):
        (tmp_path / "perf-1.map").write_text("from before")
        with jit_maps.Watch("abc", folder=tmp_path) as watch:
            ours, other, foreign = (
                writer(CI_FLAME_JIT="abc"), writer(), writer(CI_FLAME_JIT="abcd"),
            )  # fmt: skip
            watch.settle(os.getpid())
            assert watch.pids == (ours,)
            os.kill(ours, signal.SIGKILL)

        assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
            ["perf-1.map", f"perf-{other}.map", f"perf-{foreign}.map"]
        )

    def test_a_link_is_left_alone(self, tmp_path):
        precious = tmp_path / "precious"
        precious.write_text("data")
        (tmp_path / "perf-7.map").symlink_to(precious)

        jit_maps.remove(7, folder=tmp_path)

        assert (tmp_path / "perf-7.map").is_symlink()
        assert precious.read_text() == "data"

    def test_a_process_that_was_too_quick_is_known_by_its_number(self, tmp_path):
        with jit_maps.Watch("abc", folder=tmp_path) as watch:
            gone = subprocess.Popen(["true"])
            gone.wait()
            (tmp_path / f"perf-{gone.pid}.map").touch()
            assert wait_for(lambda: gone.pid in watch._unsure)
            watch.settle(gone.pid)
            assert watch.pids == (gone.pid,)

        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_cannot_be_watched(self, tmp_path):
        with jit_maps.Watch("abc", folder=tmp_path / "none") as watch:
            watch.settle(os.getpid())

        assert watch.pids == ()


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The compiled Java program and the JavaScript one, in a folder of their own."""
    for name in ("Shop.java", "shop.js"):
        shutil.copy(DATA / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in _OURS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def compile_java(folder):
    subprocess.run(["javac", "-d", ".", "Shop.java"], cwd=folder, check=True)


# -- for real -------------------------------------------------------------------------

PLAN = RecordConfig(frequency_hz=1999, busy=1.0)  # however busy the tests' machine is


def record(wanted, *words, repeat=3):
    (run,) = command.record(PLAN, "shop", (command.Side.here(words),), repeat, wanted)
    return run


def share(run, *wanted):
    """Share of the samples that carry, outermost first, a frame of each of the groups."""
    profile = run.measurements[0].profile()
    seen = 0
    for stack, weight in profile.stacks.items():
        rest = iter(stack)
        if all(any(frame.function in group for frame in rest) for group in wanted):
            seen += weight.samples
    return seen / profile.samples


def call(*words):
    """Run `ci-flame` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "ci_flame", *words],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture
def caused(monkeypatch):
    """The maps that recordings of this test have caused; other programs write theirs meanwhile."""
    places = []
    remove = jit_maps.remove

    def note(pid, **more):
        places.append(jit_maps.FOLDER / f"perf-{pid}.map")
        assert places[-1].exists()
        remove(pid, **more)

    monkeypatch.setattr(jit_maps, "remove", note)
    return places


class TestJava:
    pytestmark = needs_java + needs_perf

    def test_functions_are_named_and_runs_compare(self, shop, capsys, caused):
        compile_java(shop)
        # The loop of `main` is compiled while it runs: until then it is the interpreter.
        runs = [record(Jit.JAVA, "java", "Shop", "400000", times) for times in ("4", "4", "32")]

        stages = {"Shop$Tokenize.run", "Shop$Weigh.run", "Shop$Digest.run"}
        for run in runs:
            assert share(run, {"Shop.main", "Interpreter"}, stages) > 0.9
            assert run.environment.collector == "perf"
        same, grown = (pipeline.compare(runs[0], each, Policy()) for each in runs[1:])
        assert same.outcome is Outcome.PASS
        assert grown.outcome is Outcome.FAIL
        # It, or the call path to it: how soon its callers are compiled differs.
        assert all("jit:Shop$Weigh.run" in str(each) for each in grown.benchmarks[0].findings)
        assert [place.exists() for place in caused] == 3 * 4 * [False]
        assert "carry Java or JavaScript functions" in capsys.readouterr().err

    def test_a_jvm_that_outlives_the_command_writes_its_map_before(self, shop, caused):
        compile_java(shop)
        run = record(Jit.AUTO, "sh", "-c", "java Shop 100000000 4 & sleep 1.5", repeat=1)

        assert share(run, {"Shop$Weigh.run"}) > 0.3
        assert [place.exists() for place in caused] == [False, False]


class TestNode:
    pytestmark = needs_node + needs_perf

    @pytest.mark.usefixtures("shop")
    def test_functions_are_named_and_runs_compare(self, caused):
        runs = [record(Jit.NODE, "node", "shop.js", "250000", "4") for _ in range(2)]

        stages = {f"shop.js:{name}" for name in ("tokenize", "weigh", "digest")}
        for run in runs:
            assert share(run, {"shop.js:(anonymous)"}, {"shop.js:main"}, stages) > 0.9
        assert pipeline.compare(*runs, Policy()).outcome is Outcome.PASS
        assert [place.exists() for place in caused] == 2 * 4 * [False]

    def test_the_base_commit_has_the_same_names(self, shop):
        """Another folder, npm in between: only what changed is found."""
        (shop / "package.json").write_text('{"scripts": {"bench": "node src/shop.js 80000 4"}}')
        (shop / "src").mkdir()
        (shop / "shop.js").rename(shop / "src" / "shop.js")
        (shop / "ci-flame.yml").write_text("version: 1\nrecord: {busy: 100%}\n")
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
            subprocess.run([*git, *words], check=True, capture_output=True)
        text = (shop / "src" / "shop.js").read_text()
        (shop / "src" / "shop.js").write_text(text.replace("* times) / 4", "* times) / 1"))

        ended = call(
            "check", "--baseline", "rerun:HEAD", "--jit", "auto", "--name", "bench",
            "--repeat", "3", "--", "npm", "run", "-s", "bench",
        )  # fmt: skip

        assert "jit:src/shop.js:weigh" in ended.stdout.partition(" grew by ")[0]
        assert ended.returncode == 1


def test_neither_runtime(capsys):
    if COLLECTORS["perf"].obstacle(machine.probe(), python=False) is not None:
        pytest.skip("no perf here")
    words = ("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    run = record(Jit.AUTO, *words, repeat=1)

    assert run.measurements[0].profile().samples > 20
    assert "the command ran neither Java nor Node" in capsys.readouterr().err


def test_pytest_has_no_jit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call("check", "--jit", "node", "--", "pytest")

    assert "--jit node: pytest's benchmarks run Python" in ended.stderr
    assert ended.returncode == 2


# -- whose jcmd it is -----------------------------------------------------------------


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as others")
@pytest.mark.parametrize("mode", [0o755, 0o711])
def test_root_asks_another_users_jvm_as_that_user(mode, monkeypatch):
    """What lies beside a program called java may be anything; 711 hides whose process it is."""
    nobody = 65534
    monkeypatch.setenv("CI_FLAME_SECRET", "of root")
    folder = Path(tempfile.mkdtemp(prefix="ci-flame-test-"))
    try:
        folder.chmod(0o755)
        shutil.copy(shutil.which("sleep"), folder / "java")
        (folder / "java").chmod(mode)
        (folder / "jcmd").write_text("#!/bin/sh\nid -u; id -G; pwd; env\n")
        (folder / "jcmd").chmod(0o755)
        process = subprocess.Popen(
            [folder / "java", "60"], user=nobody, group=nobody, extra_groups=()
        )
        try:
            while Path(f"/proc/{process.pid}/exe").readlink().name != "java":
                time.sleep(0.01)
            user, groups, place, *rest = jit_maps.ask(process.pid, "VM.flags").splitlines()
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder)

    assert (user, groups, place) == (str(nobody), str(nobody), "/")
    assert not any("SECRET" in line for line in rest)


@pytest.mark.parametrize(
    "asking", [jit_maps.ask_java, lambda pids: jit_maps.advice(pids, Jit.JAVA)]
)
def test_jvms_that_hang_are_not_all_waited_for(asking, monkeypatch):
    asked = []

    def hang(pid, _question):
        asked.append(pid)
        time.sleep(0.05)
        return ""

    monkeypatch.setattr(jit_maps, "runtime", lambda _pid: Jit.JAVA)
    monkeypatch.setattr(jit_maps, "ask", hang)
    monkeypatch.setattr(jit_maps, "_ALL_JCMD_S", 0.2)
    asking(range(1 << 23, (1 << 23) + 60))

    assert 1 <= len(asked) < 60
