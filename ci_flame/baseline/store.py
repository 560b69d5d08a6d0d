"""Edge: a store of baselines: the builds of a base branch, in a folder that a CI caches.

    STORE/store.json                                what it is
    STORE/builds/CLASS/TIME-COMMIT-DIGEST/          a run folder, and build.json: what it holds
    STORE/pins/COMMIT, STORE/pins/anchor            builds that are kept, and the fixed anchor
    STORE/line                                      commits of the base branch, where told

Every build is written beside its place and renamed, and each pin is a file of its own, so
that two writers do not meet and two copies of a store can be laid over one another. Nothing
in it is ever run; what is read may come from a stranger.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ci_flame.baseline import folder
from ci_flame.errors import BaselineError, CiFlameError, FormatError, WriteError
from ci_flame.formats import run_json
from ci_flame.formats.fields import Node, parse
from ci_flame.profile import Environment, Run

DEFAULT_STORE: Final = Path(".ci-flame/store")
SCHEMA_VERSION: Final = 1
# History of the format:
#   1  ci-flame 0.1: store.json, builds/CLASS/ENTRY with build.json, pins/.
KEEP: Final = 10
"""Builds of a machine class that a store keeps, and that a verdict reads, unless told."""
MAX_BUILDS: Final = 10_000
MAX_TEXT: Final = 4 << 20
"""Characters of one build.json."""
ANCHOR: Final = "anchor"
LINE: Final = "line"
MAX_LINE: Final = 1000
"""Commits of the base branch that a store tells."""
_FORMAT: Final = "ci-flame store"
_BUILD_FORMAT: Final = "ci-flame build"
_ABANDONED_S: Final = 24 * 3600
"""A scratch folder of this age belongs to a writer that was killed."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_NAME: Final = re.compile(r"[\w][\w.-]{0,150}", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|\+00:00)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Build:
    """One stored run, without its stacks."""

    place: Path
    header: Run
    """Environment, commit, time; no measurements."""
    branch: str
    benchmarks: tuple[str, ...]
    size: int
    """Bytes of all its files."""
    pinned: bool = False

    @property
    def name(self) -> str:
        """Return the words for messages: `1a2b3c4d5e of 2026-11-22`."""
        commit = self.header.commit[:10] or "a run outside git"
        return f"{commit} of {self.header.time[:10]}" if self.header.time else commit


@dataclass(frozen=True, slots=True)
class Listing:
    """What a store holds."""

    store: Path
    builds: tuple[Build, ...]
    """Oldest first."""
    anchor: str = ""
    """Commit of the fixed anchor; empty: none."""
    broken: tuple[str, ...] = ()
    """Builds that cannot be read, each in one line with its reason."""


def machine_class(environment: Environment) -> str:
    """Return the folder of a machine class: a readable part, and 8 hex digits of it."""
    words = f"{environment.architecture} {environment.cpu_model}"
    slug = re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-").lower()[:60].strip("-")
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{slug or 'machine'}-{digest}"


# -- writing --------------------------------------------------------------------------


def add(run: Run, store: Path, *, branch: str = "") -> tuple[Path, bool]:
    """Keep a run as a build; return its folder, and whether it is new.

    The same run is kept once, whoever adds it. Raises BaselineError for a run that must not
    be a before side, CiFlameError where the folder is no store, WriteError where the disk is
    full.
    """
    if not run.complete:
        raise BaselineError("the run was interrupted and is not complete", "record it again")
    if not run.measurements:
        raise BaselineError("the run holds no benchmark", "record it again")
    if not all(measurement.modes for measurement in run.measurements):
        empty = next(each.benchmark for each in run.measurements if not each.modes)
        raise BaselineError(f"{empty} has no profile in this run", "record it again")
    text = run_json.encode(run)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    when = re.sub(r"[^0-9TZ]", "", run.time.replace("+00:00", "Z")) or "undated"
    name = f"{when}-{run.commit[:10] or 'no-commit'}-{digest}"
    place = store / "builds" / machine_class(run.environment) / name
    with _sentences(store):
        _create(store)
        if place.is_dir():
            return place, False
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=store))
        try:
            folder.save(run, scratch / "run")
            (scratch / "run" / "build.json").write_text(_describe(run, branch), encoding="utf-8")
            try:
                (scratch / "run").rename(place)
            except OSError:
                if place.is_dir():  # another writer was faster with the same run
                    return place, False
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return place, True


def _describe(run: Run, branch: str) -> str:
    header = json.loads(run_json.encode(replace(run, measurements=())))
    document = {
        "format": _BUILD_FORMAT,
        "schema_version": SCHEMA_VERSION,
        "branch": branch,
        "benchmarks": sorted(each.benchmark for each in run.measurements),
        "run": header,
    }
    return json.dumps(document, indent=1) + "\n"


def _create(store: Path) -> None:
    """Make the folder a store; CiFlameError where it is something else."""
    if store.is_dir() and not (store / "store.json").exists():
        entries = sorted(each.name for each in store.iterdir() if not each.name.startswith("."))
        if entries and not (store / "store.json").exists():  # another writer may just have made it
            raise CiFlameError(
                f"{store} holds {entries[0]} and no store.json: it is not a store",
                "name an empty or a new folder: --store DIR",
            )
    if not (store / "store.json").exists():
        store.mkdir(parents=True, exist_ok=True)
        folder.ignore_in_git(store.absolute())
        document = {"format": _FORMAT, "schema_version": SCHEMA_VERSION}
        _write(store / "store.json", json.dumps(document) + "\n")
        return
    _must_be_store(store)


def _write(path: Path, text: str) -> None:
    # Not the process's number: containers that share a store may have the same.
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def pin(store: Path, commit: str, *, anchor: bool = False) -> None:
    """Keep the builds of a commit for good; `anchor`: growth is also judged since then."""
    _must_be_store(store)
    with _sentences(store):
        (store / "pins").mkdir(exist_ok=True)
        if anchor:
            _write(store / "pins" / ANCHOR, f"{commit}\n")
        else:
            _write(store / "pins" / commit, "")


def unpin(store: Path, commit: str) -> bool:
    """Take a pin away, `ANCHOR` for the anchor's; tell whether it was there."""
    _must_be_store(store)
    with _sentences(store):
        try:
            (store / "pins" / commit).unlink()
        except FileNotFoundError:
            return False
    return True


def prune(store: Path, keep: int) -> tuple[Build, ...]:
    """Remove all but the newest `keep` builds of each kind of recording; return what went.

    Builds that may be compared with one another are of one kind: machine class, collector,
    event, frequency, Python minor and layout. Pinned builds stay, and count for nothing.
    """
    found = read(store)
    by_kind: dict[tuple[object, ...], list[Build]] = {}
    for build in found.builds:
        if not build.pinned:
            by_kind.setdefault(_kind(build.header.environment), []).append(build)
    surplus = [build for builds in by_kind.values() for build in builds[: -keep or None]]
    with _sentences(store):
        for build in surplus:
            # Renamed first: whoever lists the store meanwhile finds it whole or not at all.
            trash = Path(tempfile.mkdtemp(prefix=".old-", dir=store))
            with suppress(FileNotFoundError):  # another job prunes too
                build.place.rename(trash / "build")
            shutil.rmtree(trash, ignore_errors=True)
        _sweep(store)
    return tuple(surplus)


def _kind(of: Environment) -> tuple[object, ...]:
    return (
        of.architecture, of.cpu_model, of.collector, of.event, of.frequency_hz, of.python_minor,
        of.layout,
    )  # fmt: skip


def _sweep(store: Path) -> None:
    """Remove scratch folders of writers that were killed."""
    for entry in store.iterdir():
        if entry.name.startswith((".new-", ".old-")) and not entry.is_symlink():
            with suppress(OSError):
                if time.time() - entry.lstat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(entry, ignore_errors=True)


def tell_line(store: Path, commits: Sequence[str]) -> None:
    """Tell the commits of the base branch along first parents, the nearest first.

    For a clone that is too shallow to know them: whoever filled the store has asked elsewhere.
    """
    _must_be_store(store)
    with _sentences(store):
        _write(store / LINE, "".join(f"{each}\n" for each in commits[:MAX_LINE]))


# -- reading --------------------------------------------------------------------------


def begun(store: Path) -> bool:
    """Tell whether there is anything: False where no folder is, or one that holds nothing.

    So it is before the first build, and where a CI has lost its cache.
    """
    try:
        return any(not each.name.startswith(".") for each in store.iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True  # for `read` to say


def line(store: Path) -> tuple[str, ...]:
    """Return the commits of the base branch that a store tells; FormatError for others."""
    if not (store / LINE).exists():
        return ()
    commits = tuple(_text(store, LINE).split())
    if len(commits) > MAX_LINE or not all(map(_COMMIT.fullmatch, commits)):
        raise FormatError(f"{store}/{LINE}", f"it is no list of at most {MAX_LINE} commits")
    return commits


def read(store: Path) -> Listing:
    """Return what a store holds; builds that cannot be read are named in `broken`.

    Raises BaselineError where there is no store, FormatError where it is of another version.
    """
    _must_be_store(store)
    anchor, pins = _pins(store)
    builds: list[Build] = []
    broken: list[str] = []
    for place in _entries(store):
        try:
            build = _build(place)
        except (BaselineError, FormatError) as error:
            broken.append(error.message)
            continue
        builds.append(replace(build, pinned=build.header.commit in pins))
    builds.sort(key=lambda build: (_instant(build.header.time), build.place.name))
    return Listing(store, tuple(builds), anchor, tuple(sorted(broken)))


def load(build: Build) -> Run:
    """Return a stored run whole; it must be the one that its build.json describes."""
    run = folder.load(build.place)
    if replace(run, measurements=()) != build.header:
        raise FormatError(
            f"{build.place}/build.json", "it describes another run than run.json beside it"
        )
    return run


def matching(builds: Sequence[Build], revision: str) -> tuple[Build, ...]:
    """Return the builds of a commit that is named by its hash or the beginning of it."""
    word = revision.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{4,64}", word):
        return ()
    return tuple(build for build in builds if build.header.commit.startswith(word))


def _instant(text: str) -> str:
    """Return a time that sorts: both ways of writing UTC are the same."""
    return text.replace("+00:00", "Z")


def _must_be_store(store: Path) -> None:
    cure = f"ci-flame baseline add RUN --store {store}"
    if not store.is_dir():
        if store.exists():
            raise BaselineError(
                f"{store}: is not a folder", "name the folder of a store: --store DIR"
            )
        raise BaselineError(f"{store}: there is no such store", cure)
    if not (store / "store.json").exists():
        # `add` makes a store of an empty folder only.
        if any(not each.name.startswith(".") for each in store.iterdir()):
            cure = "name the folder of a store, or one that is new: --store DIR"
        raise BaselineError(f"{store}: not a store of baselines, it holds no store.json", cure)
    root = parse(_text(store, "store.json"), f"{store}/store.json")
    _version(root, _FORMAT)


def _version(root: Node, wanted: str) -> None:
    if root.get("format").text(100) != wanted:
        raise root.error(f"format is not {wanted!r}")
    version = root.get("schema_version").integer()
    if version != SCHEMA_VERSION:
        raise FormatError(
            root.source, f"has format {version}, this ci-flame reads {SCHEMA_VERSION}"
        )


def _text(place: Path, name: str) -> str:
    data = folder.read_file(place, name, MAX_TEXT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{place}/{name}", f"byte {error.start} is not UTF-8") from None


def _pins(store: Path) -> tuple[str, frozenset[str]]:
    """Return the anchor's commit, and all commits that are kept."""
    place = store / "pins"
    if place.is_symlink() or not place.is_dir():
        return "", frozenset()
    names = {each.name for each in place.iterdir() if _COMMIT.fullmatch(each.name)}
    anchor = ""
    if (place / ANCHOR).exists():
        anchor = _text(place, ANCHOR).strip()
        if not _COMMIT.fullmatch(anchor):
            raise FormatError(f"{place}/{ANCHOR}", "it is not the hash of a commit")
    return anchor, frozenset(names | ({anchor} if anchor else set()))


def _entries(store: Path) -> Iterator[Path]:
    """Yield the folders of builds; links are not followed."""
    count = 0
    root = store / "builds"
    for of_class in sorted(_folders(root)):
        for place in sorted(_folders(of_class)):
            count += 1
            if count > MAX_BUILDS:
                raise FormatError(
                    str(store), f"more than {MAX_BUILDS} builds", "ci-flame baseline prune --keep K"
                )
            yield place


def _folders(place: Path) -> list[Path]:
    if place.is_symlink() or not place.is_dir():
        return []
    with os.scandir(place) as entries:
        return [
            place / entry.name
            for entry in entries
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]


def _build(place: Path) -> Build:
    source = f"{place}/build.json"
    root = parse(_text(place, "build.json"), source)
    root.only(("format", "schema_version", "branch", "benchmarks", "run"))
    _version(root, _BUILD_FORMAT)
    header = run_json.decode(json.dumps(root.get("run").value), source).run
    if header.measurements or not header.complete:
        raise FormatError(source, "it is not the description of a complete run")
    if header.commit and not _COMMIT.fullmatch(header.commit):
        raise FormatError(source, f"{header.commit[:50]!r} is not the hash of a commit")
    if header.time and not _TIME.fullmatch(header.time):
        raise FormatError(source, f"{header.time[:50]!r} is not a time in UTC")
    names = root.get("benchmarks").items(run_json.MAX_BENCHMARKS)
    return Build(
        place,
        header,
        root.get("branch").text(1000),
        tuple(each.text(run_json.MAX_NAME) for each in names),
        _size(place),
    )


def _size(place: Path) -> int:
    """Return the bytes of the plain files of a run folder."""
    total = 0
    for above in (place, place / folder.PROFILES):
        with suppress(OSError), os.scandir(above) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


@contextmanager
def _sentences(store: Path) -> Iterator[None]:
    """Turn what the disk says into one sentence."""
    try:
        yield
    except WriteError as error:
        raise WriteError(
            f"{store}: the store could not be written: {error.message.rpartition(': ')[2]}",
            "what it held before is untouched; make room or name another folder",
        ) from None
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise WriteError(
            f"{store}: the store could not be written: {reason}",
            "what it held before is untouched; make room or name another folder",
        ) from None
