"""Simplify: what is cut, charged and renamed, and that no weight is lost by it."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import profiles, stacks

from ci_flame import simplify
from ci_flame.profile import UNKNOWN, Frame, Kind, Profile, Unit, Weight, fold

BENCH = Frame("bench", "t")


def frames(text):
    return tuple(map(Frame.parse, text.split(";")))


def folded(made):
    return {fold(stack): weight.samples for stack, weight in made.stacks.items()}


def build(counts):
    return Profile({frames(text): Weight(n, 10 * n) for text, n in counts.items()}, iterations=3)


# --- trim -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "unrooted"),
    [
        ("pytest:main;t:bench;shop:f", "t:bench;shop:f", 0),
        ("t:bench", "t:bench", 0),
        ("pytest:main;t:bench;shop:f;t:bench;shop:g", "t:bench;shop:f;t:bench;shop:g", 0),
        ("pytest:main;shop:f", "[unknown]", 4),
        ("[truncated];shop:f", "[unknown]", 4),
        ("pytest:main;native:t:bench", "[unknown]", 4),
    ],
)
def test_trim(before, after, unrooted):
    trimmed, strays = simplify.trim(build({before: 4}), BENCH)

    assert folded(trimmed) == {after: 4}
    assert strays == unrooted


def test_trim_adds_up_what_becomes_one_stack():
    made = build({"a:x;t:bench": 1, "b:y;t:bench": 2, "c:z": 3, "d:z": 4})
    trimmed, strays = simplify.trim(made, BENCH)

    assert trimmed == Profile(
        {(BENCH,): Weight(3, 30), (UNKNOWN,): Weight(7, 70)}, Unit.NANOSECONDS, 3
    )
    assert strays == 7


# --- judged ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("t:bench;shop:f;native:libpython3.11.so.1.0:dict_lookup", "t:bench;shop:f"),
        ("t:bench;native:python3.11:_PyEval_EvalFrameDefault", "t:bench"),
        ("t:bench;native:libpython3.11.so.1.0:a;native:libc.so.6:malloc", "t:bench"),
        ("t:bench;[gc];native:python3.11:gc_collect_main", "t:bench;[gc]"),
        ("t:bench;native:libc.so.6:malloc;kernel:page_fault", "t:bench;kernel:page_fault"),
        # What the code itself chose stays.
        ("t:bench;native:libcrypto.so.3:sha256", "t:bench;native:libcrypto.so.3:sha256"),
        ("t:bench;native:libc.so.6:qsort", "t:bench"),
        ("t:bench;native:libc:[unknown];kernel:do_futex", "t:bench;kernel:do_futex"),
        ("t:bench;native:libpython3.11:[unknown]", "t:bench"),
        ("t:bench;native:libm:pow", "t:bench;native:libm:pow"),
        ("t:bench;native:libx.so:f;native:libc.so.6:malloc",) * 2,
        # A C program calls malloc itself.
        ("[shop];native:shop:main;native:libc.so.6:malloc",) * 2,
        # Nothing is left above: something must be.
        ("native:python3.11:main", "native:python3.11:main"),
        ("[unknown];native:python3.11:main", "[unknown];native:python3.11:main"),
    ],
)
def test_judged(before, after):
    assert fold(simplify.judged(frames(before))) == after


@given(stacks())
def test_judged_keeps_the_root_and_settles_at_once(some):
    for stack in some:
        once = simplify.judged(stack)

        assert once[0] == stack[0]
        assert simplify.judged(once) == once


@pytest.mark.parametrize(
    ("library", "symbol", "expected"),
    [
        ("libpython3.11.so.1.0", "anything", True),
        ("libpython3.13t.so.1.0", "anything", True),
        ("python3.11", "anything", True),
        ("python3.15d", "anything", True),
        ("python", "anything", True),
        ("pythonfoo.so", "anything", False),
        ("_json.cpython-311-x86_64-linux-gnu.so", "scan_once", False),
        ("libpython_helper.so", "f", False),
        ("libc.so.6", "malloc", True),
        ("libc.so.6", "__libc_malloc", True),
        ("libc.so.6", "_int_free", True),
        ("libc.so.6", "_int_malloc", True),
        ("libc.so.6", "malloc_consolidate", True),
        ("libc.so.6", "cfree", True),
        ("libc-2.31.so", "realloc", True),
        ("ld-musl-x86_64.so.1", "calloc", True),
        ("libc.so.6", "__memmove_avx_unaligned_erms", True),
        ("libc.so.6", "__memset_evex_unaligned_erms", True),
        ("libc.so.6", "__strlen_avx2", True),
        ("libc.so.6", "__GI___pthread_mutex_lock", True),
        ("libc.so.6", "qsort", True),
        ("libc.so.6", "read", True),
        ("libc.so.6", "strtod", True),
        ("libc.so.6", "strftime", True),
        ("libcurl.so.4", "malloc", False),
        ("libm.so.6", "exp", False),
        ("libmimalloc.so.2", "mi_malloc", True),
        ("shop", "malloc", False),
    ],
)
def test_is_interpreter(library, symbol, expected):
    assert simplify.is_interpreter(Frame(symbol, library, Kind.NATIVE)) is expected


@pytest.mark.parametrize("kind", [Kind.PYTHON, Kind.KERNEL, Kind.JIT, Kind.MARK])
def test_only_native_frames_are_the_interpreters(kind):
    assert not simplify.is_interpreter(Frame("malloc", "libc.so.6", kind))


# --- recursion and names ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("m:main;m:walk;m:walk;m:leaf", "m:main;m:walk;m:leaf"),
        ("m:walk;m:walk;m:walk", "m:walk"),
        ("m:a;m:b;m:a;m:b", "m:a;m:b;m:a;m:b"),
        ("[truncated];m:walk", "[truncated];m:walk"),
    ],
)
def test_merge_recursion(before, after):
    assert folded(simplify.merge_recursion(build({before: 5}))) == {after: 5}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("parse", "parse"),
        ("parse.cold", "parse"),
        ("parse.part.0.cold", "parse"),
        ("parse.constprop.1", "parse"),
        ("parse.isra.0", "parse"),
        ("parse.lto_priv.12", "parse"),
        ("parse.llvm.12345", "parse"),
        ("parse(int) [clone .cold]", "parse"),
        ("shop::parse(std::string const&) const", "shop::parse"),
        ("f(int (*)(char))", "f"),
        ("std::function<int (char)>::f(int)", "std::function<int (char)>::f"),
        ("operator()", "operator()"),
        ("x::operator()(int)", "x::operator()"),
        ("(anonymous namespace)::f(int)", "(anonymous namespace)::f"),
        ("(anonymous namespace)", "(anonymous namespace)"),
        ("core::fmt::write::h0123456789abcdef", "core::fmt::write"),
        ("__libc_start_main@@GLIBC_2.34", "__libc_start_main"),
        ("memcpy@GLIBC_2.14", "memcpy"),
        ("EVP_sha256@@OPENSSL_3.0.0", "EVP_sha256"),
        ("memcpy@plt", "memcpy@plt"),
        ("main.work", "main.work"),
        ("main.(*Parser).Compile", "main.(*Parser).Compile"),
        ("a.cold_path", "a.cold_path"),
        ("(", "("),
        ("f)", "f)"),
        ("()", "()"),
        (".cold", ".cold"),
    ],
)
def test_clean_name(name, expected):
    assert simplify.clean_name(name) == expected


def test_clean_touches_native_and_kernel_frames_only():
    made = build(
        {
            "native:a:f.cold;native:b:f.cold": 1,
            "native:a:f;native:b:f.part.0": 2,
            "m:f.cold;jit:f.cold;kernel:f.isra.0": 3,
        }
    )

    assert folded(simplify.clean(made)) == {
        "native:a:f;native:b:f": 3,
        "m:f.cold;jit:f.cold;kernel:f": 3,
    }


# --- all of them ------------------------------------------------------------------------------


@given(profiles(), st.data())
def test_no_weight_is_lost_and_nothing_is_changed_in_place(some, data):
    roots = [frame for stack in some.stacks for frame in stack] or [BENCH]
    root = data.draw(st.sampled_from(roots))
    kept = copy.deepcopy(some)
    trimmed, strays = simplify.trim(some, root)
    for after in (trimmed, simplify.clean(some), simplify.merge_recursion(some)):
        assert (after.samples, after.value) == (some.samples, some.value)
        assert (after.unit, after.iterations) == (some.unit, some.iterations)
        after.check()

    assert all(stack[0] in {root, UNKNOWN} for stack in trimmed.stacks)
    assert strays == sum(w.samples for stack, w in some.stacks.items() if root not in stack)
    assert some == kept


# -- compiled functions ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # V8: sort, tier (`*` optimised, `^` `+` half, `~` interpreted), function, file, place
        ("JS:*leafA /my dir/hot.js:1:15", "/my dir/hot.js:leafA"),
        ("JS:^leafA /my dir/hot.js:1:15", "/my dir/hot.js:leafA"),
        ("JS:+leafA /my dir/hot.js:7:1", "/my dir/hot.js:leafA"),
        ("JS:~leafA /my dir/hot.js", "/my dir/hot.js:leafA"),
        ("JS:leafA /my dir/hot.js", "/my dir/hot.js:leafA"),
        ("LazyCompile:*get size /x/y.mjs:3", "/x/y.mjs:get size"),
        ("Function:tick file:///a/b.mjs:2:3", "/a/b.mjs:tick"),
        (
            "JS:~ node:internal/main/run_main_module:1:1",
            "node:internal/main/run_main_module:(anonymous)",
        ),
        ("Eval:~ evalmachine.<anonymous>:1:1", "evalmachine.<anonymous>:(anonymous)"),
        ("JS:*a;b /x.js:1:1", "/x.js:a,b"),
        ("JS:*leafA", "leafA"),
        ("BytecodeHandler:LdaZero.Wide", "BytecodeHandler"),
        ("RegExp:a;b\nc", "RegExp"),
        # HotSpot: type, class, method, parameters
        ("int Hot.leafA(int)", "Hot.leafA"),
        ("void shop.Cart.<init>(java.lang.String, int[])", "shop.Cart.<init>"),
        ("java.lang.Object[] shop.Cart.items()", "shop.Cart.items"),
        ("long Hot$$Lambda$14/0x0000000800c03000.applyAsLong(long)", "Hot$$Lambda.applyAsLong"),
        ("long Hot$$Lambda$2+0x0000000800c03000.applyAsLong(long)", "Hot$$Lambda.applyAsLong"),
        (
            "java.lang.Object java.lang.invoke.LambdaForm$MH/0x0000000800c02800.invoke(int)",
            "java.lang.invoke.LambdaForm$MH.invoke",
        ),
        (
            "java.lang.Object jdk.internal.reflect.GeneratedMethodAccessor12.invoke(int)",
            "jdk.internal.reflect.GeneratedMethodAccessor.invoke",
        ),
        ("void shop.Ünïcode.größe()", "shop.Ünïcode.größe"),
        # perf-map-agent
        ("Lcom/foo/Bar;::baz", "com.foo.Bar.baz"),
        ("com/foo/Bar::baz", "com.foo.Bar.baz"),
        # the runtimes' own code
        ("StubRoutines (2)", "StubRoutines"),
        ("Interpreter", "Interpreter"),
        ("vtable stub", "vtable stub"),
        ("RuntimeStub - _new_array_Java", "RuntimeStub - _new_array_Java"),
    ],
)
def test_names_of_compiled_functions(name, expected):
    assert simplify.jit_name(name) == expected
    assert simplify.jit_name(expected) == expected


@given(st.text(min_size=1))
def test_any_name_has_a_clean_one_that_stays(name):
    clean = simplify.jit_name(name)

    assert clean
    assert ";" not in clean
    assert simplify.jit_name(clean) == clean


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        # interpreted Java functions have no names: however many, they are one frame
        ("[java];jit:Interpreter;jit:Interpreter;jit:a.B.c", "[java];jit:Interpreter;jit:a.B.c"),
        ("jit:a.B.c;jit:Interpreter;jit:a.B.c", "jit:a.B.c;jit:Interpreter;jit:a.B.c"),
        ("jit:a.B.c;jit:a.B.c", "jit:a.B.c;jit:a.B.c"),
        ("jit:JS:*f /x.js:1:1;jit:JS:~f /x.js:1:1", "jit:/x.js:f;jit:/x.js:f"),
    ],
)
def test_stacks_of_compiled_functions(stack, expected):
    assert simplify.clean_stack(frames(stack)) == frames(expected)


COMPILER = "native:libjvm:CompileBroker::compiler_thread_loop"


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        # how V8 runs what is not optimised yet is the function's own
        ("jit:a.js:f;native:node:Builtins_LdaGlobalHandler", "jit:a.js:f"),
        (
            "jit:a.js:f;native:node:Builtins_Call_ReceiverIsAny;jit:a.js:g",
            "jit:a.js:f;jit:a.js:g",
        ),
        # what the code asked for is not, nor is the way into JavaScript
        (
            "jit:a.js:f;native:node:Builtins_ArrayPrototypeSort",
            "jit:a.js:f;native:node:Builtins_ArrayPrototypeSort",
        ),
        ("native:node:Builtins_JSEntry;jit:a.js:f", "native:node:Builtins_JSEntry;jit:a.js:f"),
        # compiling is one function
        (f"[java];{COMPILER};native:libjvm:PhaseCFG::do_global_code_motion", f"[java];{COMPILER}"),
    ],
)
def test_what_rules_see_of_jit_runtimes(stack, expected):
    assert simplify.judged(frames(stack)) == frames(expected)
