"""Stage 3, pure: Profile -> Profile with clean names, cut to what a rule may judge.

Nothing here loses weight: a frame that is left out gives its cost to its caller, and a
stack that is not the benchmark's goes to `[unknown]`.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from ci_flame.profile import GC, UNKNOWN, Frame, Kind, Profile, Stack, Weight

_INTERPRETER: Final = re.compile(r"(?:lib)?python\d?(?:\.\d+)?[dmtu]*(?:\.so[.\d]*)?")
"""`python3.11`, `python3.13t`, `libpython3.12`, `libpython3.12.so.1.0`."""
_C_LIBRARY: Final = re.compile(
    r"(?:libc|ld|libpthread|libmimalloc|libjemalloc|libtcmalloc)(?:[.-].*)?"
)
_CLONE: Final = re.compile(
    r"(?: \[clone [^\]]*\]"
    r"|\.(?:cold|part|constprop|isra|lto_priv|llvm|ipa_ra|localalias)(?:\.\d+)?"
    r"|::h[0-9a-f]{16}"
    r"|@@?[A-Z]\w*[.\d]*)+$"
)
"""What compilers and linkers put behind a name; last a version, `@@GLIBC_2.34`."""
_V8: Final = re.compile(
    r"(?:JS|Eval|Script|Function|LazyCompile):[*~^+]?"
    r"(?P<function>.*?)(?: ?(?P<file>(?:/|file://|node:|[A-Za-z]:[\\/]|evalmachine\.).*?))?"
    r"(?::\d+){0,2}"
)
"""V8's word for the sort of code, its mark for how far it was optimised (which changes while a
program runs), the function, its file, its line and column (which change with edits above it)."""
_V8_OTHER: Final = re.compile(r"(?P<sort>BytecodeHandler|Handler|RegExp):.*", re.DOTALL)
_HOTSPOT: Final = re.compile(
    r"(?:\S+ )?(?P<type>[^\s():]+)\.(?P<method>[^\s().:<>]+|<init>|<clinit>)\([^():]*\)"
)
"""`int shop.Parser.tokenize(java.lang.String, int)`, as HotSpot writes it into its map."""
_PERF_MAP_AGENT: Final = re.compile(
    r"L?(?P<type>[\w$]+(?:/[\w$.+]+)+);?(?:::|\.)(?P<method>[^\s();:.]+)"
)
_HIDDEN_CLASS: Final = re.compile(
    r"[/+.]0x[0-9a-f]+|(?<=\$\$Lambda)\$\d+|(?<=MethodAccessor)\d+|(?<=ConstructorAccessor)\d+"
)
"""Addresses and numbers of classes that the JVM makes as it runs: others in each process."""
_STUBS: Final = re.compile(r"(?P<sort>StubRoutines) \(.*\)")
_V8_GLUE: Final = re.compile(
    r"Builtins_(?:\w+Handler|Interpreter\w+|Baseline\w+|Call\w*|Construct\w*|JS(?:Run\w+)?Entry\w*"
    r"|\w*IC(?:Trampoline|Baseline|_\w+)*|CEntry\w*|ArgumentsAdaptor\w*|Compile\w+)"
)
"""How V8 runs JavaScript that is not optimised yet: handlers of bytecodes, calls, inline caches."""
_JIT_COMPILERS: Final = frozenset(
    {
        "CompileBroker::compiler_thread_loop",
        "v8::internal::OptimizingCompileDispatcher::CompileNext",
        "v8::internal::OptimizingCompileDispatcher::CompileTask::Run",
        "v8::internal::OptimizingCompileDispatcher::CompileTask::RunInternal",
        "v8::internal::Compiler::CompileOptimized",
        "v8::internal::maglev::MaglevConcurrentDispatcher::JobTask::Run",
    }
)
"""HotSpot's and V8's functions that have compiling below them and nothing else."""


_INTERPRETED: Final = Frame("Interpreter", "", Kind.JIT)
"""Any Java function that HotSpot has not compiled (yet)."""


def trim(profile: Profile, root: Frame) -> tuple[Profile, int]:
    """Cut what is above the benchmark's function; return the profile and what had no such frame.

    With root `t:bench`, `pytest:main;t:bench;shop:f 3` becomes `t:bench;shop:f 3`. Where
    the root is there twice, the outermost counts. Stacks without it become `[unknown]`;
    the second value is the number of their samples.
    """
    stacks: dict[Stack, Weight] = {}
    unrooted = 0
    for stack, weight in profile.stacks.items():
        if root in stack:
            cut = stack[stack.index(root) :]
        else:
            cut = (UNKNOWN,)
            unrooted += weight.samples
        _add(stacks, cut, weight)
    return replace(profile, stacks=stacks), unrooted


def judged(stack: Stack) -> Stack:
    """Return the stack that rules see: the interpreter's own native frames go to their caller.

    `shop:f;native:libpython3.11.so.1.0:dict_lookup` becomes `shop:f`. Only what is right
    below a Python frame or `[gc]` goes: in a C program `malloc` is a function like others.
    The same for V8 (`jit:shop.js:f;native:node:Builtins_CallProperty1Handler`), and what a JIT
    compiler does while it compiles is the compiler's, as one function.
    """
    kept: list[Frame] = []
    for frame in stack:
        if kept and _runs_python(kept[-1]) and is_interpreter(frame):
            continue
        if kept and kept[-1].kind is Kind.JIT and is_v8_glue(frame):
            continue
        kept.append(frame)
        if is_jit_compiler(frame):
            break
    return stack if len(kept) == len(stack) else tuple(kept)


@lru_cache(maxsize=65_536)
def is_interpreter(frame: Frame) -> bool:
    """Say whether a native frame is how CPython runs Python code, and not what the code chose.

    These are: everything in libpython and in the python binary, and everything in the C
    library (`malloc`, `memcpy`, locks, system calls' wrappers; also where a stripped library
    only says `[unknown]`). They move with the interpreter's build and with memory layout, a
    reader can change them only in the Python function above, and their split between one
    another is noise. Extension modules (`_json`) and other libraries (libcrypto, libm) are
    the code's own choice and stay.
    """
    return frame.kind is Kind.NATIVE and bool(
        _INTERPRETER.fullmatch(frame.module) or _C_LIBRARY.fullmatch(frame.module)
    )


def is_jit_compiler(frame: Frame) -> bool:
    """Say whether a frame is where HotSpot or V8 compiles: what is below is not the program."""
    return frame.kind is Kind.NATIVE and frame.function in _JIT_COMPILERS


@lru_cache(maxsize=65_536)
def is_v8_glue(frame: Frame) -> bool:
    """Say whether a native frame is how V8 runs JavaScript, and not what the code chose.

    Which of them is seen depends on how far the function above was optimised by then.
    Builtins that the code calls (`Builtins_ArrayPrototypeMap`) stay.
    """
    return frame.kind is Kind.NATIVE and _V8_GLUE.fullmatch(frame.function) is not None


def merge_recursion(profile: Profile) -> Profile:
    """Fold direct recursion into one frame.

    `main;walk;walk;leaf 3` becomes `main;walk;leaf 3`; weights stay with their leaf.
    """
    return _rewrite(profile, _without_repeats)


def clean(profile: Profile) -> Profile:
    """Give native, kernel and JIT-compiled functions the name that their source has.

    `native:shop:parse(int).constprop.0` becomes `native:shop:parse`: compilers split and
    copy functions as they like, and a copy's name must not look like a new function.
    """
    return _rewrite(profile, clean_stack)


def clean_stack(stack: Stack) -> Stack:
    """Return the stack with clean names; interpreted Java functions in a row are one frame.

    HotSpot's interpreter has one piece of code for all of them, so that none has a name.
    """
    frames = map(clean_frame, stack)
    kept: list[Frame] = []
    for frame in frames:
        if frame == _INTERPRETED and kept and kept[-1] == _INTERPRETED:
            continue
        kept.append(frame)
    return tuple(kept)


def clean_name(name: str) -> str:
    """Strip compilers' suffixes, Rust's hash and a C++ parameter list from a symbol.

    `operator()`, `(anonymous namespace)` and template arguments are kept.
    """
    bare = _CLONE.sub("", name)
    cut = _without_parameters(bare.removesuffix(" const"))
    return _CLONE.sub("", cut) or name


def clean_frame(frame: Frame) -> Frame:
    """Return a native, kernel or JIT frame with its name cleaned, any other one as it is."""
    if frame.kind is Kind.JIT:
        name = jit_name(frame.function)
    elif frame.kind in {Kind.NATIVE, Kind.KERNEL}:
        name = clean_name(frame.function)
    else:
        return frame
    return frame if name == frame.function else replace(frame, function=name)


@lru_cache(maxsize=65_536)
def jit_name(name: str) -> str:
    """Return what a JIT-compiled function is called, whatever its tier and in every process.

    V8's `JS:*tokenize /shop/parser.js:12:7` is `/shop/parser.js:tokenize`, without a name
    `(anonymous)`; HotSpot's `int shop.Parser.size(int)` is `shop.Parser.size`, so that
    overloads are one function. A clean name stays as it is.
    """
    name = name.replace(";", ",") if "::" not in name else name
    if v8 := _V8.fullmatch(name):
        function = v8["function"].strip() or "(anonymous)"
        file = (v8["file"] or "").removeprefix("file://")
        return f"{file}:{function}" if file else function
    if other := _V8_OTHER.fullmatch(name):
        return str(other["sort"])
    if stubs := _STUBS.fullmatch(name):
        return str(stubs["sort"])
    java = _HOTSPOT.fullmatch(name) or _PERF_MAP_AGENT.fullmatch(name)
    if java is None:
        return name.replace(";", ",")
    where = _HIDDEN_CLASS.sub("", java["type"]).replace("/", ".")
    return f"{where}.{java['method']}"


def _without_parameters(name: str) -> str:
    """Return the name without the balanced parentheses that end it: `f<int (*)()>(char*)`."""
    if not name.endswith(")") or name.endswith(("operator()", "(anonymous namespace)")):
        return name
    depth = 0
    for position in range(len(name) - 1, 0, -1):
        depth += (name[position] == ")") - (name[position] == "(")
        if depth == 0:
            return name[:position].rstrip()
    return name


def _runs_python(frame: Frame) -> bool:
    return frame.kind is Kind.PYTHON or frame == GC


def _without_repeats(stack: Stack) -> Stack:
    return tuple(
        frame for number, frame in enumerate(stack) if number == 0 or frame != stack[number - 1]
    )


def _rewrite(profile: Profile, change: Callable[[Stack], Stack]) -> Profile:
    stacks: dict[Stack, Weight] = {}
    for stack, weight in profile.stacks.items():
        _add(stacks, change(stack), weight)
    return replace(profile, stacks=stacks)


def _add(stacks: dict[Stack, Weight], stack: Stack, weight: Weight) -> None:
    have = stacks.get(stack)
    stacks[stack] = weight if have is None else have + weight
