#!/usr/bin/env python3
"""Find the CPythons that the tests run under; fetch those that are missing.

    tools/pythons.py [--into FOLDER] [VERSION…]    3.13 3.14 3.15 where nothing else is asked for
    tools/pythons.py --list                        what is here: version, tab, path; fetches nothing
    tools/pythons.py --environment 3.14            a virtual environment with this project in it

Debian 12 has CPython 3.11 alone. Newer ones come from later suites of the same archive: their
packages are unpacked into a folder of ours, libc and loader included, and the interpreter is told
where these lie. dpkg, the system's sources and its libraries are not touched. The archive's address
is taken from this machine's own sources, signatures are checked by apt.

Elsewhere, interpreters that are there already are used: on PATH, of pyenv, of uv
(`uv python install 3.13 3.14 3.15`), of a hosted runner's tool cache. Exit code 1 says that one is
missing still, 2 that the command line is wrong.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

WANTED: Final = ("3.13", "3.14", "3.15")
SUITES: Final = ("trixie", "forky", "sid")
"""In the order of age: the first that has a version is asked for it."""
ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "build" / "pythons"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FORMAT: Final = 1
"""Of what lies in the folder; another one is fetched anew."""

_ANSWER_SECONDS: Final = 20
_INDEX_SECONDS: Final = 180
_DOWNLOAD_SECONDS: Final = 600
_UNPACK_SECONDS: Final = 60
_LOCK_SECONDS: Final = 900
_NEEDED: Final = ("apt-get", "apt-cache", "dpkg-deb", "patchelf")
_ASK: Final = (
    "import sys, ssl, sqlite3, zlib, lzma, ctypes, hashlib, _ctypes, sysconfig;"
    " print(sys.implementation.name, sys.version.split()[0],"
    " sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"
)
_ASK_WHEELS: Final = (
    "import ensurepip, pathlib;"
    " print(*pathlib.Path(ensurepip.__file__).parent.glob('_bundled/pip-*.whl'), sep='\\n')"
)
_DROPPED: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


class FetchError(Exception):
    """An interpreter cannot be had, and what would help."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def answer(python: Path | str) -> str:
    """Return the full version of an ordinary CPython that works, else an empty string."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    name, _, rest = done.stdout.strip().partition(" ")
    version, _, free_threaded = rest.partition(" ")
    good = done.returncode == 0 and name == "cpython" and free_threaded == "0"
    return version if good else ""


def installed(version: str) -> Iterator[Path]:
    """Yield the places where a CPython of this minor version may be, the system's first."""
    program = f"python{version}"
    if on_path := shutil.which(program):
        yield Path(on_path)
    yield Path("/usr/bin") / program
    yield Path("/usr/local/bin") / program
    homes = [Path.home()]
    if user := os.environ.get("SUDO_USER"):  # run by sudo: what that user has installed
        homes.append(Path(f"~{user}").expanduser())
    patterns = [(home / ".pyenv/versions", f"{version}.*/bin/{program}") for home in homes]
    uv = os.environ.get("UV_PYTHON_INSTALL_DIR")
    folders = [Path(uv)] if uv else [home / ".local/share/uv/python" for home in homes]
    patterns += [(folder, f"cpython-{version}.*/bin/{program}") for folder in folders]
    cache = os.environ.get("AGENT_TOOLSDIRECTORY", "/opt/hostedtoolcache")
    patterns.append((Path(cache) / "Python", f"{version}.*/*/bin/{program}"))
    for folder, pattern in patterns:
        yield from sorted(folder.glob(pattern), key=_patch_level, reverse=True)


def fetched(version: str, folder: Path = FOLDER) -> Path | None:
    """Return the interpreter that was fetched for this minor version, if it is whole."""
    home = folder / version
    # The loader and the libraries are named by absolute path: a moved checkout fetches again.
    if _stamp(home) != {"format": FORMAT, "home": str(home)}:
        return None
    return home / "usr" / "bin" / f"python{version}"


def _stamp(home: Path) -> object:
    """Return what the last, finished step left in a folder; None where there was none."""
    try:
        found: object = json.loads((home / "stamp.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def find(version: str, folder: Path = FOLDER) -> tuple[str, Path] | None:
    """Return (full version, path) of a CPython of this minor version: fetched, else installed."""
    ours = fetched(version, folder)
    for python in (*((ours,) if ours else ()), *installed(version)):
        if python.exists() and (full := answer(python)).startswith(f"{version}."):
            return full, python
    return None


def fetch(version: str, folder: Path = FOLDER) -> Path:
    """Unpack a Debian CPython of this minor version into `folder / version`; return its program."""
    for name in _NEEDED:
        if not shutil.which(name):
            raise FetchError(
                f"CPython {version} is not here, and {name}, which fetching needs, is missing",
                f"sudo apt-get install {name}, or: uv python install {version}",
            )
    loader = {
        "x86_64": "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "aarch64": "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
    }.get(platform.machine())
    if loader is None:
        raise FetchError(
            f"CPython {version} is not here, and nothing is known to fetch for"
            f" {platform.machine()}",
            f"uv python install {version}",
        )
    mirror = archive()
    final = folder / version
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{version}-", dir=folder) as name:
        work = Path(name)
        tree = work / "tree"
        for suite in SUITES:
            apt = Apt(work / suite, mirror, suite)
            if apt.has(f"python{version}"):
                apt.download(version)
                break
        else:
            raise FetchError(
                f"CPython {version} is in none of {', '.join(SUITES)}",
                f"uv python install {version}",
            )
        for package in sorted(apt.packages()):
            _run(["dpkg-deb", "-x", package, tree], _UNPACK_SECONDS, f"unpacking {package.name}")
        for unused in _DROPPED:
            shutil.rmtree(tree / unused, ignore_errors=True)
        _run(
            [
                *("patchelf", "--set-interpreter", final / loader, "--force-rpath"),
                *("--set-rpath", (final / loader).parent, tree / f"usr/bin/python{version}"),
            ],
            _UNPACK_SECONDS,
            f"telling python{version} where its libraries are",
        )
        stamp = json.dumps({"format": FORMAT, "home": str(final)})
        (tree / "stamp.json").write_text(stamp, encoding="utf-8")
        if final.exists():
            final.rename(work / "old")  # not ours to use, or of another checkout
        tree.rename(final)
    python = final / "usr" / "bin" / f"python{version}"
    if not answer(python):
        (final / "stamp.json").unlink()
        raise FetchError(
            f"CPython {version} of {suite} does not run here: {python}",
            f"uv python install {version}",
        )
    return python


class Apt:
    """apt with a state of its own: it knows one suite and believes that nothing is installed."""

    def __init__(self, folder: Path, mirror: str, suite: str) -> None:
        self._archives = folder / "cache" / "archives"
        self._suite = suite
        for needed in (folder / "lists/partial", self._archives / "partial", folder / "etc"):
            needed.mkdir(parents=True)
        (folder / "status").touch()
        sources = folder / "etc" / "sources.list"
        sources.write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n", encoding="utf-8")
        settings = {
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": os.devnull,
            "Dir::Etc::preferences": os.devnull,
            "Dir::Etc::preferencesparts": os.devnull,
            "APT::Install-Recommends": "false",
            # The folder is the caller's: apt's own user may not read it.
            "APT::Sandbox::User": "root",
            "APT::Get::List-Cleanup": "false",
            "Acquire::Languages": "none",
            "APT::Update::Error-Mode": "any",  # an index that cannot be read is no mere warning
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            "Debug::NoLocking": "true",
        }
        self._options = [word for key, to in settings.items() for word in ("-o", f"{key}={to}")]
        _run(
            ["apt-get", *self._options, "-qq", "update"],
            _INDEX_SECONDS,
            f"reading the index of {suite}",
        )

    def has(self, package: str) -> bool:
        """Return whether the suite has this package."""
        told = _run(
            ["apt-cache", *self._options, "policy", package],
            _INDEX_SECONDS,
            f"asking {self._suite} for {package}",
        )
        return re.search(r"^ +Candidate: (?!\(none\))", told, re.MULTILINE) is not None

    def download(self, version: str) -> None:
        """Fetch an interpreter's packages and all that they depend on, down to libc."""
        names = (f"python{version}", f"python{version}-venv", f"libpython{version}-stdlib", "libc6")
        _run(
            ["apt-get", *self._options, "-qq", "-y", "--download-only", "install", *names],
            _DOWNLOAD_SECONDS,
            f"downloading CPython {version} of {self._suite}",
        )

    def packages(self) -> list[Path]:
        """Return the package files that were fetched."""
        return list(self._archives.glob("*.deb"))


def archive() -> str:
    """Return the address of the Debian archive that this machine itself installs from."""
    told = _run(
        [
            *("apt-get", "indextargets", "--format", "$(SITE)"),
            *("Created-By: Packages", "Origin: Debian", "Component: main"),
        ],
        _INDEX_SECONDS,
        "asking apt for its sources",
    )
    sites = sorted({line for line in told.splitlines() if line and "security" not in line})
    if not sites or not KEYRING.exists():
        raise FetchError(
            "this machine does not install from Debian, whose packages would be fetched",
            "uv python install " + " ".join(WANTED),
        )
    return sites[0]


def _run(command: list[str | Path], seconds: float, doing: str) -> str:
    """Return what a command printed; FetchError with its last words if it fails or hangs."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"{doing} took longer than {seconds:.0f} s", "try again") from None
    except OSError as error:
        raise FetchError(f"{doing}: {error}", "see above") from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise FetchError(
            f"{doing}: {told[-1] if told else f'exit code {done.returncode}'}",
            "is there a network, and room on the disk?",
        )
    return done.stdout


def _patch_level(python: Path) -> tuple[int, ...]:
    found = re.search(r"3\.\d+\.(\d+)", str(python))
    return (int(found[1]),) if found else (0,)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process fetches into this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FetchError(
                        f"another process has been fetching into {folder} for {_LOCK_SECONDS} s",
                        "end it, then run this again",
                    ) from None
                time.sleep(0.2)
            else:
                break
        yield


def provide(version: str, folder: Path) -> tuple[str, Path]:
    """Return (full version, path) of a CPython of this minor version, fetched if need be."""
    if found := find(version, folder):
        return found
    with alone(folder):
        if found := find(version, folder):  # by whom we waited for
            return found
        print(f"Fetching CPython {version} into {folder}", flush=True)
        python = fetch(version, folder)
    return answer(python), python


def environment(version: str, folder: Path) -> Path:
    """Return the interpreter of a virtual environment with this project and what it needs.

    Debian's interpreters bring pip as a wheel beside them, others inside `ensurepip`.
    """
    _, base = provide(version, folder)
    home = folder / f"environment-{version}"
    python = home / "bin" / "python"
    needs = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = {"format": FORMAT, "home": str(home), "base": str(base), "needs": needs}
    with alone(folder):
        if _stamp(home) == stamp:
            return python
        print(f"Making an environment of CPython {version} in {home}", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        _run([base, "-m", "venv", "--without-pip", home], _UNPACK_SECONDS, f"making {home}")
        told = _run([base, "-I", "-c", _ASK_WHEELS], _ANSWER_SECONDS, "looking for pip")
        wheels = [*(base.parent.parent / "share/python-wheels").glob("pip-*.whl")]
        wheels += [Path(line) for line in told.splitlines()]
        if not wheels:
            raise FetchError(
                f"CPython {version} brings no pip", f"sudo apt-get install python{version}-venv"
            )
        pip: list[str | Path] = [python, wheels[0] / "pip"]
        pip += ["--disable-pip-version-check", "--quiet"]
        _run([*pip, "install", "-e", ROOT], _DOWNLOAD_SECONDS, f"installing into {home}")
        (home / "stamp.json").write_text(json.dumps(stamp), encoding="utf-8")
    return python


def main(arguments: list[str]) -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--into", type=Path, default=FOLDER, help="where fetched ones lie")
    parser.add_argument("--list", action="store_true", help="say what is here; fetch nothing")
    parser.add_argument("--environment", metavar="VERSION", help="make one with this project in it")
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="such as 3.14")
    options = parser.parse_args(arguments)
    folder = options.into.absolute()
    for version in (*options.versions, *([options.environment] if options.environment else [])):
        if not re.fullmatch(r"3\.\d{1,2}", version):
            parser.error(f"{version!r} is not a version such as 3.14")
    if options.list:
        for version in options.versions or ("3.11", "3.12", *WANTED):
            if found := find(version, folder):
                print(*found, sep="\t")
        return 0
    missing = 0
    if options.environment:
        try:
            environment(options.environment, folder)
        except FetchError as error:
            print(f"ci_flame: {error}\n  hint: {error.hint}", file=sys.stderr)
            return 1
        return 0
    get: Callable[[str], tuple[str, Path]] = partial(provide, folder=folder)
    for version in options.versions or WANTED:
        try:
            get(version)
        except FetchError as error:
            print(f"ci_flame: {error}\n  hint: {error.hint}", file=sys.stderr)
            missing += 1
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
