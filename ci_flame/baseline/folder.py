"""Edge: a run <-> a folder (`run.json` and `profiles/*.pb.gz`), as `docs/run-folder.md` tells.

Saving is all or nothing: the folder is written beside its place and then exchanged with
what was there. Loading trusts nothing: a baseline may have been downloaded.
"""

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from ci_flame.errors import BaselineError, CiFlameError, FormatError, WriteError
from ci_flame.formats import pprof, run_json
from ci_flame.profile import Frame, Measurement, Mode, Place, Profile, Run

RUN_JSON: Final = "run.json"
PROFILES: Final = "profiles"
HOME: Final = ".ci-flame"
MAX_TOTAL: Final = 512 << 20
"""Bytes of all profiles of one run together, packed."""

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NAME_A_RUN: Final = (
    "name the folder of a run; pytest --flame and ci-flame record write .ci-flame/run"
)
_RECORD: Final = "pytest --flame --flame-out {folder}"


def save(run: Run, folder: Path) -> None:
    """Write a run; an earlier run in the folder is replaced at once, or kept whole.

    Other files in a run folder stay. Raises CiFlameError where the disk is full, the place
    cannot be written, or the folder holds something that is not a run.
    """
    files = {RUN_JSON: run_json.encode(run).encode("utf-8")}
    # What cannot be read again must not replace what can.
    run_json.decode(files[RUN_JSON].decode("utf-8"), "the run")
    for measurement in run.measurements:
        for mode in measurement.modes:
            files[run_json.file_name(measurement.benchmark, mode)] = pprof.write(measurement, mode)
    check_writable(folder)
    with _sentences(folder, sum(map(len, files.values()))):
        # A link to a folder stays a link: what it leads to is replaced.
        place = _real(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        ignore_in_git(place)
        fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            # mkdtemp makes it private; a run is as readable as any other folder.
            fresh.chmod(0o777 & ~_umask())
            (fresh / PROFILES).mkdir()
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            _put(fresh, place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Raise CiFlameError where `save` would refuse the place; ask before a long recording."""
    if not folder.is_dir():
        if folder.is_symlink() or folder.exists():
            raise CiFlameError(f"{folder} is not a folder, so no run can be written there")
        above = next(each for each in _real(folder).parents if each.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise CiFlameError(
                f"{folder}: the run could not be written: {above} is not a folder, or may not"
                " be written",
                "name another folder",
            )
        return
    with _sentences(folder, 0):
        entries = sorted(each.name for each in folder.iterdir())
    if entries and RUN_JSON not in entries:
        raise CiFlameError(
            f"{folder} holds {entries[0]} and no {RUN_JSON}: it is not a run, and is not replaced",
            "name an empty or a new folder",
        )


def load(folder: Path, *, incomplete_ok: bool = False) -> Run:
    """Return the run of a folder.

    Raises BaselineError where there is none or it was interrupted (unless that is fine with
    the caller, as for a report), FormatError where a file is broken, hostile or of another
    version.
    """
    cure = _RECORD.format(folder=folder)
    if not folder.is_dir():
        if folder.exists():
            raise BaselineError(f"{folder}: is not a folder", _NAME_A_RUN)
        raise BaselineError(f"{folder}: there is no such folder", cure)
    with _opened(folder) as root:
        names = os.listdir(root)  # noqa: PTH208 - of the folder that was opened
        if not names:
            raise BaselineError(f"{folder}: the folder is empty", cure)
        if RUN_JSON not in names:
            raise BaselineError(
                f"{folder}: not a run, it holds no {RUN_JSON}", _other(names, folder)
            )
        run = assemble(lambda name, limit: _read(root, folder, name, limit), str(folder))
    if not run.complete and not incomplete_ok:
        raise BaselineError(
            f"{folder}: the run was interrupted and is not complete",
            f"record it again: {cure}",
        )
    return run


def _other(names: Sequence[str], folder: Path) -> str:
    """Return the cure where a folder holds something else; never to record into it."""
    if "verdict.json" in names and "after" in names:
        return f"it is a report; the run that was judged is {folder / 'after'}"
    return _NAME_A_RUN


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """Return a regular file of a folder, `limit` bytes at most; no link is followed inside it.

    Raises BaselineError where there is no such folder, FormatError for anything else.
    """
    with _opened(folder) as root:
        return _read(root, folder, name, limit)


def assemble(read: Callable[[str, int], bytes], source: str) -> Run:
    """Build a run from its files, wherever they are.

    `read(name, limit)` returns the bytes of `run.json` or `profiles/…`, `limit` bytes at
    most; `source` names the place in messages.
    """
    where = f"{source}/{RUN_JSON}"
    try:
        text = read(RUN_JSON, run_json.MAX_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(where, f"byte {error.start} is not UTF-8") from error
    stored = run_json.decode(text, where)
    left = MAX_TOTAL
    measurements = []
    for measurement in stored.run.measurements:
        filled = measurement
        for mode, name in sorted(stored.files[measurement.benchmark].items()):
            data = read(name, min(left, pprof.MAX_COMPRESSED))
            left -= len(data)
            filled = _fill(filled, mode, pprof.read(data, f"{source}/{name}"), f"{source}/{name}")
        measurements.append(filled)
    return replace(stored.run, measurements=tuple(measurements)).check(source)


def _fill(
    measurement: Measurement, mode: Mode, file: pprof.PprofProfiles, source: str
) -> Measurement:
    """Put the stacks of one mode's file into the rounds that `run.json` announced."""
    left = dict(file.profiles)
    if left and file.mode is not mode:
        raise FormatError(source, f"it is an {file.mode} profile; {RUN_JSON} says {mode}")
    processes = []
    for number, process in enumerate(measurement.processes):
        rounds = []
        for position, each in enumerate(process.rounds):
            announced = each.profiles.get(mode)
            found = None if announced is None else left.pop((number, position), None)
            if announced is None or found is None:
                rounds.append(each)
                continue
            if found.unit is not announced.unit:
                raise FormatError(
                    source, f"it counts {found.unit}; {RUN_JSON} says {announced.unit}"
                )
            profile = Profile(found.stacks, found.unit, announced.iterations)
            rounds.append(replace(each, profiles={**each.profiles, mode: profile}))
        processes.append(replace(process, rounds=tuple(rounds)))
    if left:
        process_number, round_number = min(left)
        raise FormatError(
            source,
            f"samples of process {process_number}, round {round_number},"
            f" which {RUN_JSON} does not know",
        )
    places: Mapping[Frame, Place] = {**file.places, **measurement.places}
    return replace(measurement, processes=tuple(processes), places=places)


# --- files ------------------------------------------------------------------------------


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BaselineError(f"{folder}: {_reason(error)}") from error
    try:
        yield root
    finally:
        os.close(root)


def _read(root: int, folder: Path, name: str, limit: int) -> bytes:
    """Read a regular file inside the folder; no symbolic link is followed on the way."""
    place = f"{folder}/{name}"
    inside = root
    *parents, last = name.split("/")
    opened: list[int] = []
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        for parent in parents:
            inside = os.open(parent, flags | os.O_DIRECTORY, dir_fd=inside)
            opened.append(inside)
        # O_NONBLOCK: opening a pipe must not wait for its writer.
        file = os.open(last, flags | os.O_NONBLOCK, dir_fd=inside)
        opened.append(file)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(place, "not a regular file, so it is not read")
        if status.st_size > limit:
            raise FormatError(place, f"{status.st_size} bytes; the limit is {limit}")
        with os.fdopen(os.dup(file), "rb") as stream:
            # Not more than was announced, should the file grow meanwhile.
            return stream.read(status.st_size)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise FormatError(
                place, "a symbolic link (or not a folder) is on the way, so it is not read"
            ) from error
        raise FormatError(place, _reason(error)) from error
    finally:
        for each in opened:
            os.close(each)


@contextmanager
def _sentences(folder: Path, size: int) -> Iterator[None]:
    """Turn what the disk says into one sentence."""
    try:
        yield
    except OSError as error:
        amount = f" ({size} bytes)" if size else ""
        raise WriteError(
            f"{folder}: the run could not be written{amount}: {_reason(error)}",
            "what was there before is untouched; make room or name another folder",
        ) from error


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _put(fresh: Path, folder: Path) -> None:
    """Move a finished folder to its place; what was there ends up in `fresh`, or is gone."""
    with suppress(OSError):
        # Atomic, and all that is needed where nothing or an empty folder was.
        fresh.rename(folder)
        return
    if _exchange(fresh, folder):
        _keep_others(fresh, folder)
        return
    # A file system without exchange: for an instant the folder is not there.
    before = fresh.with_name(f"{fresh.name}.before")
    folder.rename(before)
    try:
        fresh.rename(folder)
    except OSError:
        before.rename(folder)
        raise
    _keep_others(before, folder)
    shutil.rmtree(before, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        renameat2 = libc.renameat2
    except AttributeError:
        return False
    done: int = renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    return done == 0


def _keep_others(before: Path, folder: Path) -> None:
    """Carry over what a user put into the run folder (a README, a .gitattributes)."""
    for entry in before.iterdir():
        if entry.name not in {RUN_JSON, PROFILES}:
            entry.rename(folder / entry.name)


def ignore_in_git(folder: Path) -> None:
    """Put a `.gitignore` for everything into `.ci-flame`, unless there is one."""
    home = next((each for each in folder.parents if each.name == HOME), None)
    if home is None or (home / ".gitignore").exists():
        return
    fresh = home / f".gitignore.{os.getpid()}"
    fresh.write_text("# made by ci-flame\n*\n", encoding="utf-8")
    fresh.rename(home / ".gitignore")


def _real(folder: Path) -> Path:
    # Path.resolve() raises RuntimeError on a loop of links, before Python 3.13.
    return Path(os.path.realpath(folder))


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
