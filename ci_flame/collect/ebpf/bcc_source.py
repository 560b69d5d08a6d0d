"""Stage 1, edge: the BPF sources as bcc compiles them, and the kernel headers that it wants.

bcc knows neither `#include "…"` of headers that use maps nor libbpf's calls: the headers are put
into one text, and `bpf_map_lookup_elem(&map, …)` becomes `map.lookup(…)`.
"""

import os
import re
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent.parent / "bpf"
ROOTS: Final = ("tree.h", "learn.h", "on_cpu.h")

_INCLUDE: Final = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
_CALLS: Final = (
    (re.compile(r"\bbpf_map_lookup_elem\(&(\w+), "), r"\1.lookup("),
    (re.compile(r"\bbpf_map_delete_elem\(&(\w+), "), r"\1.delete("),
    (re.compile(r"\bbpf_map_update_elem\(&(\w+), ([^;]*?), BPF_ANY\)"), r"\1.update(\2)"),
    (re.compile(r"\bbpf_map_update_elem\(&(\w+), ([^;]*?), BPF_NOEXIST\)"), r"\1.insert(\2)"),
    (re.compile(r"\bbpf_ringbuf_output\(&(\w+), "), r"\1.ringbuf_output("),
)
_LEFT: Final = re.compile(r"\bbpf_(?:map|ringbuf)_\w+\(&\w+")

_MODULES: Final = Path("/lib/modules")
_HEADERS: Final = Path("/usr/src")
_ARCHITECTURE_FOLDER: Final = "x86"


def source(folder: Path = SOURCES, roots: tuple[str, ...] = ROOTS) -> str:
    """Return one text for bcc; ValueError where a call is left that it does not know."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (folder / name).read_text(encoding="utf-8")
        return _INCLUDE.sub(lambda found: expand(found[1]), text)

    text = "#define CI_FLAME_BCC\n" + "".join(expand(name) for name in roots)
    for libbpf, bcc in _CALLS:
        text = libbpf.sub(bcc, text)
    if left := _LEFT.search(text):
        raise ValueError(f"{left[0]}: bcc has no such call")
    return text


def header_trees(release: str, modules: Path = _MODULES, headers: Path = _HEADERS) -> list[Path]:
    """Return what must be laid one over the other for bcc; empty where nothing is installed.

    The running kernel's own headers come first; any others do as well, because no structure is
    taken from them. Debian keeps them in two folders, `-common` and that of the architecture.
    """
    candidates = [modules / release / "build", modules / release / "source"]
    configured = [
        tree
        for tree in headers.glob("linux-headers-*")
        if (tree / "include/generated/autoconf.h").exists()
    ]
    candidates += sorted(configured, key=_version, reverse=True)
    for tree in candidates:
        if not (tree / "include/generated/autoconf.h").exists():
            continue
        if (tree / "include/linux/types.h").exists():
            return [tree]
        real = tree.resolve()
        for common in sorted(headers.glob("linux-headers-*-common")):
            version = common.name.removesuffix("common")
            if real.name.startswith(version) and (common / "include/linux/types.h").exists():
                return [common, real]
    return []


def lay_over(trees: list[Path], folder: Path) -> Path:
    """Return a folder where bcc finds headers: the only tree, or `folder` with links to both."""
    if len(trees) == 1:
        return trees[0].resolve()
    for part in ("include", f"arch/{_ARCHITECTURE_FOLDER}/include"):
        (folder / part).mkdir(parents=True)
        for tree in trees:
            for entry in sorted((tree / part).iterdir()):
                link = folder / part / entry.name
                if not link.exists():
                    link.symlink_to(entry)
    return folder


def _version(tree: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", tree.name))


def this_release() -> str:
    """Return the running kernel's name, as folders are called by."""
    return os.uname().release
