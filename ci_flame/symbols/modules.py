"""Pure: a code object's file name -> dotted module, and a place without the machine's paths.

/opt/py/lib/python3.11/json/decoder.py    json.decoder    lib/python3.11/json/decoder.py
/home/me/shop/src/shop/parser.py          shop.parser     src/shop/parser.py
"""

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

_INSTALLED: Final = re.compile(r"^.*/(?:site|dist)-packages/(?P<rest>.+)$")
_LIBRARY: Final = re.compile(
    r"^.*/lib(?:64)?/(?P<python>python\d+\.\d+t?)/(?P<rest>(?!(?:site|dist)-packages/).+)$"
)
_FROZEN: Final = re.compile(r"^<frozen (?P<module>[^>]+)>$")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]+|(?<=[-_ #])\d+(?=>)|(?<=_)\d{6,}|(?<=<)\d+(?=>)")
_EXTENSION: Final = re.compile(r"\.(?:py|pyc|pyw|pyx|pyi)$")


def _no_files() -> Mapping[str, str]:
    return MappingProxyType({})


def _never(_folder: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a target's code lies."""

    module_files: Mapping[str, str] = field(default_factory=_no_files)
    """File -> module, as the target's `sys.modules` tells."""
    roots: Sequence[str] = ()
    """Folders that names and places are made relative to; the first is the project's root."""
    is_package: Callable[[str], bool] = _never
    """Whether a folder holds an `__init__.py`."""


def name_module(file: str, layout: Layout) -> tuple[str, str]:
    """Return the dotted module and the place's file of one code file name; neither is absolute."""
    if frozen := _FROZEN.match(file):
        return frozen["module"], file
    if file.startswith("<") or not file:
        shape = _ADDRESS.sub("N", file) or "<unknown>"
        return shape.replace(";", ","), shape
    # A relative name is relative to where the target was started: the project, most likely.
    path = posixpath.normpath(posixpath.join(*layout.roots[:1], file))
    place = place_of(path, layout.roots)
    if known := layout.module_files.get(file) or layout.module_files.get(path):
        return known, place
    return _from_path(path, layout), place


def place_of(path: str, roots: Sequence[str]) -> str:
    """Return `site-packages/...`, `lib/python3.11/...` or the path within the longest root."""
    if installed := _INSTALLED.match(path):
        return f"site-packages/{installed['rest']}"
    if library := _LIBRARY.match(path):
        return f"lib/{library['python']}/{library['rest']}"
    if not path.startswith("/"):
        return path.removeprefix("./")
    # The project's root comes first and keeps `src/`; the other roots only where it has no say.
    for root in (*roots[:1], *sorted(roots[1:], key=len, reverse=True)):
        if (rest := _within(path, root)) is not None:
            return rest
    return posixpath.basename(path)


def _from_path(path: str, layout: Layout) -> str:
    if match := _INSTALLED.match(path) or _LIBRARY.match(path):
        return _dotted(match["rest"].removeprefix("lib-dynload/"))
    walked = _by_packages(path, layout.is_package)
    if "." in walked:
        return walked
    for root in sorted(layout.roots, key=len, reverse=True):
        if (rest := _within(path, root)) is not None:
            return _dotted(rest)
    return walked


def _by_packages(path: str, is_package: Callable[[str], bool]) -> str:
    """Return the module name from the outermost folder of the unbroken row of packages."""
    folder, name = posixpath.split(path)
    parts = [name]
    while folder not in ("", "/") and is_package(folder):
        folder, package = posixpath.split(folder)
        parts.insert(0, package)
    return _dotted("/".join(parts))


def _within(path: str, root: str) -> str | None:
    folder = posixpath.normpath(root) if root else ""
    if folder in ("", ".", "/"):
        return None
    prefix = folder + "/"
    return path.removeprefix(prefix) if path.startswith(prefix) else None


def _dotted(relative: str) -> str:
    stem = _EXTENSION.sub("", relative).removesuffix("/__init__")
    # A colon or semicolon in a folder's name would read as a border between frames.
    return stem.replace("/", ".").replace(":", "_").replace(";", "_") or "[unknown]"
