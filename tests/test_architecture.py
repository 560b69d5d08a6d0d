"""The picture of docs/architecture.md, held: import direction, purity, stages, sizes."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ci_flame"
GENERATED = {"formats/profile_pb2.py"}
FILES = sorted(
    file for file in PACKAGE.rglob("*.py") if file.relative_to(PACKAGE).as_posix() not in GENERATED
)
IMPURE = {
    "click",
    "ctypes",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "pytest",
    "random",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
}
"""What a pure stage may not import: files, clock, processes, network, chance, frameworks."""
HEAVY = {
    "click",
    "ctypes",
    "elftools",
    "google",
    "hypothesis",
    "jinja2",
    "junit_xml",
    "multiprocessing",
    "numpy",
    "scipy",
    "subprocess",
    "yaml",
}


def name_of(file: Path) -> str:
    """`ci_flame/report/svg.py` -> `report.svg`; a package is its `__init__`."""
    parts = list(file.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(file: Path, *, lazy: bool = True) -> Iterator[str]:
    """Absolute names that a file imports; those for type checkers only are left out.

    `lazy=False` leaves out what is imported inside functions.
    """

    def visit(node: ast.AST, *, inside: bool) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    yield from visit(other, inside=inside)
            elif isinstance(child, ast.Import) and (lazy or not inside):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and (lazy or not inside):
                assert child.level == 0, f"{file}: relative import"
                for alias in child.names:
                    yield f"{child.module}.{alias.name}"
            else:
                deeper = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from visit(child, inside=deeper)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), inside=False)


def own(name: str) -> str | None:
    """`ci_flame.report.svg.render` -> `report.svg`; None for what is not ours."""
    if name != "ci_flame" and not name.startswith("ci_flame."):
        return None
    parts = name.split(".")[1:]
    while parts:
        path = PACKAGE.joinpath(*parts)
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts)
        parts.pop()
    return ""


def table() -> dict[str, tuple[int, str]]:
    """Module -> (row, stage), from the table of docs/architecture.md; `x/` stands for a package."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows: dict[str, tuple[int, str]] = {}
    lines = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", text, flags=re.MULTILINE)
    for number, (modules, stage) in enumerate(lines):
        for module in re.findall(r"`([^`]+)`", modules):
            name = module.removesuffix("/").removesuffix(".py").replace("/", ".")
            rows[name] = (number, stage.strip())
    return rows


TABLE = table()


def stage_of(module: str) -> str:
    """The module's own words: the first words of its docstring, before the colon."""
    file = PACKAGE.joinpath(*module.split("."))
    file = file.with_suffix(".py") if file.with_suffix(".py").is_file() else file / "__init__.py"
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.split(":", 1)[0].lower()


def is_pure(file: Path) -> bool:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return "pure" in docstring.split(":", 1)[0].lower()


def row_of(module: str) -> int | None:
    """The row of a module, or of the package that it is in."""
    parts = module.split(".")
    while parts:
        if ".".join(parts) in TABLE:
            return TABLE[".".join(parts)][0]
        parts.pop()
    return None


STAGE = re.compile(r"(every stage|model|stage [1-6]|edge|pure)\b", re.IGNORECASE)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_module_says_its_stage_first(file):
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert docstring, f"{file}: no docstring"

    if file != PACKAGE / "__init__.py":
        assert STAGE.match(docstring), f"{name_of(file)} begins with: {docstring.splitlines()[0]}"
        assert ":" in docstring.split("\n\n", 1)[0], "a colon ends the stage"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_module_is_under_500_lines(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) < 500


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_public_function_and_class_has_a_docstring(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    bare = []
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    for scope in (tree, *classes):
        for node in scope.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_") or any(
                "overload" in ast.dump(d) for d in node.decorator_list
            ):
                continue
            if ast.get_docstring(node) is None:
                bare.append(f"{file.name}:{node.lineno} {node.name}")

    assert bare == []


@pytest.mark.parametrize("file", [file for file in FILES if is_pure(file)], ids=name_of)
def test_pure_stage_touches_nothing_outside(file):
    found = {
        name
        for name in imports(file)
        for bad in IMPURE
        if name == bad or name.startswith(f"{bad}.")
    }

    assert found == set()


@pytest.mark.parametrize("file", [file for file in FILES if is_pure(file)], ids=name_of)
def test_pure_stage_imports_only_what_is_pure(file):
    """Purity is inherited: a pure stage that calls an edge is an edge."""
    used = {module for name in imports(file) if (module := own(name))}
    impure = {
        module
        for module in used
        if not re.search("pure|model|every stage|all", stage_of(module))
        and module != "errors"
        and f"{module.replace('.', '/')}.py" not in GENERATED
    }

    assert impure == set()


def test_pure_stages_are_those_of_the_table():
    pure = {module for module, (_row, stage) in TABLE.items() if "pure" in stage}
    files = {name_of(file) for file in FILES if is_pure(file)}
    declared = {file for file in files if any(file == p or file.startswith(f"{p}.") for p in pure)}

    assert len(pure) >= 8, "the table was not understood"
    assert {p for p in pure if p not in files} == set()
    assert declared, "no file was understood as pure"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_follow_the_table(file):
    """A module imports from its own row or package, or from rows above in docs/architecture.md."""
    module = name_of(file)
    row = row_of(module)
    if module == "":
        assert list(imports(file)) == []
        return
    assert row is not None, f"{module} has no row in docs/architecture.md"

    upwards = {
        used
        for name in imports(file)
        if (used := own(name)) and (other := row_of(used)) is not None and other > row
        if used.split(".")[0] != module.split(".")[0]
    }

    assert upwards == set()


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_imports_nothing_else():
    before = loaded("")

    assert loaded("import ci_flame") - before == {"ci_flame"}


def test_importing_the_plugin_adds_nothing_heavy_to_pytest():
    before = loaded("import pytest")
    added = loaded("import pytest, ci_flame.pytest_plugin") - before

    assert "ci_flame" in added
    assert added & HEAVY == set()


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_another_system_imports_and_runs_tests_without_the_flag(tmp_path, system):
    """The plugin does nothing there without `--flame`: tests run as they would."""
    (tmp_path / "test_it.py").write_text(
        "def test_it():\n    assert 1 + 1 == 2\n", encoding="utf-8"
    )
    code = (
        "import platform, sys\n"
        f"platform.system = lambda: {system!r}\n"
        "import pytest\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_another_system_is_refused_by_name_with_the_flag(tmp_path, system):
    (tmp_path / "test_it.py").write_text(
        "def test_it(flame):\n    flame(sorted, [3, 1, 2])\n", encoding="utf-8"
    )
    code = (
        "import platform, sys\n"
        f"platform.system = lambda: {system!r}\n"
        "import pytest\n"
        f"sys.exit(pytest.main(['-q', '--flame', '-p', 'no:cacheprovider', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    told = done.stdout + done.stderr

    assert done.returncode != 0
    assert system in told
    assert "Traceback" not in told
