"""A store of builds: kept whole, read without trust, by several writers at once."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from synthetic import ENVIRONMENT, SHOP, synthetic_measurement, synthetic_run
from test_baseline_git import run_git
from test_cli import call

from ci_flame import pipeline
from ci_flame.baseline import folder, store
from ci_flame.baseline.folder import PROFILES
from ci_flame.config import BaselineKind, build, parse_baseline
from ci_flame.errors import (
    BaselineError,
    CiFlameError,
    FormatError,
    PolicyError,
    UsageError,
    WriteError,
)
from ci_flame.pipeline import stored

OTHER = replace(ENVIRONMENT, cpu_model="Example CPU 2")
NEWER = replace(ENVIRONMENT, python="3.12.1")


def commit_of(number):
    return f"{number:04x}" + "0" * 36


def run_of(number, *, environment=None, commit=None, **changes):
    return synthetic_run(
        synthetic_measurement(SHOP, processes=2, rounds=2, seconds=0.4, seed=number),
        environment=environment,
        commit=commit_of(number) if commit is None else commit,
        time=f"2026-09-{number:02}T10:00:00Z",
        **changes,
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def commits(place):
    return [build.header.commit for build in store.read(place).builds]


# -- writing and reading --------------------------------------------------------------


def test_what_is_added_is_read_back(place):
    run = run_of(1)
    where, new = store.add(run, place, branch="main")
    listing = store.read(place)
    (only,) = listing.builds

    assert new
    assert only.place == where
    assert store.load(only) == run
    assert (only.branch, only.benchmarks) == ("main", ("tests/bench_shop.py::test_checkout",))
    assert only.size == sum(each.stat().st_size for each in where.rglob("*") if each.is_file())
    assert listing.broken == ()
    assert sorted(each.name for each in place.iterdir()) == ["builds", "store.json"]


def test_the_same_run_is_kept_once(place):
    assert store.add(run_of(1), place)[1]
    assert not store.add(run_of(1), place)[1]
    assert store.add(replace(run_of(1), time="2026-09-01T11:00:00Z"), place)[1]
    assert commits(place) == [commit_of(1)] * 2


def test_both_ways_of_writing_utc_sort_alike(place):
    for number, time in ((1, "2026-09-01T10:00:00+00:00"), (2, "2026-09-01T09:00:00Z")):
        store.add(replace(run_of(number), time=time), place)

    assert commits(place) == [commit_of(2), commit_of(1)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"complete": False}, "interrupted"), ({"measurements": ()}, "no benchmark")],
)
def test_what_must_not_be_a_baseline_is_refused(place, changes, words):
    with pytest.raises(BaselineError, match=words):
        store.add(replace(run_of(1), **changes), place)

    assert not place.exists()


def test_a_folder_that_is_something_else_is_left_alone(place):
    place.mkdir()
    (place / "thesis.txt").write_text("ten years")

    with pytest.raises(CiFlameError, match=r"holds thesis.txt and no store.json"):
        store.add(run_of(1), place)
    with pytest.raises(BaselineError, match="not a store"):
        store.read(place)
    assert [each.name for each in place.iterdir()] == ["thesis.txt"]


def test_writers_at_once_lose_nothing(place):
    """Six processes' worth of writers, two of them with the same run, and one that prunes."""
    runs = [run_of(number) for number in (1, 2, 3, 4, 5, 5)]
    failed = []

    def write(run):
        try:
            store.add(run, place)
            store.prune(place, 10)
        except CiFlameError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failed == []
    assert commits(place) == [commit_of(number) for number in (1, 2, 3, 4, 5)]
    assert [store.load(build) for build in store.read(place).builds] == runs[:5]
    assert {each.name for each in place.iterdir()} == {"builds", "store.json"}


def test_two_stores_laid_over_one_another_are_one(place, tmp_path):
    other = tmp_path / "other"
    store.add(run_of(1), place)
    store.add(run_of(2), other)
    store.pin(other, commit_of(2))
    shutil.copytree(other, place, dirs_exist_ok=True)

    assert commits(place) == [commit_of(1), commit_of(2)]
    assert [build.pinned for build in store.read(place).builds] == [False, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.root
def test_a_full_disk_is_told_and_harms_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        store.add(run_of(1), disk / "store")
        (disk / "filler").write_bytes(b"x" * (20 << 10))
        runs = [run_of(number) for number in range(2, 30)]
        with pytest.raises(WriteError, match=r"store could not be written: no space left") as told:
            all(store.add(run, disk / "store") for run in runs)
        kept = store.read(disk / "store")
        assert kept.broken == ()
        assert all(store.load(build) for build in kept.builds)
        assert "untouched" in told.value.hint
    finally:
        subprocess.run(["umount", disk], check=True)


# -- what strangers leave in it -------------------------------------------------------


def broken(place):
    return store.read(place).broken


def test_a_build_that_is_broken_is_named_and_the_others_stay(place):
    first, _ = store.add(run_of(1), place)
    store.add(run_of(2), place)
    (first / "build.json").write_text('{"format": "ci-flame build"')

    assert commits(place) == [commit_of(2)]
    (told,) = broken(place)
    assert str(first) in told
    assert "truncated" in told


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("format", "something", "format is not"),
        ("schema_version", 9, "has format 9, this ci-flame reads 1"),
        ("branch", 7, "a string is needed"),
        ("branch", "x" * 1001, "limit is 1000"),
        ("benchmarks", "all", "a list is needed"),
        ("run", None, "an object is needed"),
        ("more", 1, "unknown key"),
    ],
)
def test_a_description_that_is_wrong_is_refused(place, field, value, words):
    where, _ = store.add(run_of(1), place)
    document = json.loads((where / "build.json").read_text())
    (where / "build.json").write_text(json.dumps({**document, field: value}))

    (told,) = broken(place)
    assert words in told


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("commit", "../../etc", "not the hash"),
        ("commit", "A" * 40, "not the hash"),
        ("time", "yesterday", "not a time"),
        ("complete", False, "complete run"),
    ],
)
def test_a_run_that_is_described_wrongly_is_refused(place, field, value, words):
    where, _ = store.add(run_of(1), place)
    document = json.loads((where / "build.json").read_text())
    document["run"][field] = value
    (where / "build.json").write_text(json.dumps(document))

    (told,) = broken(place)
    assert words in told


def test_a_description_of_another_run_is_refused(place):
    one, _ = store.add(run_of(1), place)
    two, _ = store.add(run_of(2), place)
    shutil.copy(two / "build.json", one / "build.json")
    builds = store.read(place).builds

    with pytest.raises(FormatError, match="describes another run"):
        store.load(next(build for build in builds if build.place == one))


def test_links_are_not_followed(place, tmp_path):
    where, _ = store.add(run_of(1), place)
    outside = tmp_path / "outside"
    shutil.move(where, outside)
    where.symlink_to(outside)
    assert commits(place) == []

    where.unlink()
    where.mkdir()
    (where / "build.json").symlink_to(outside / "build.json")
    (told,) = broken(place)
    assert "symbolic link" in told

    store.add(run_of(2), place)
    shutil.move(place / "store.json", tmp_path / "store.json")
    (place / "store.json").symlink_to(tmp_path / "store.json")
    with pytest.raises(FormatError, match="symbolic link"):
        store.read(place)


def test_a_description_that_is_too_large_is_not_read(place):
    where, _ = store.add(run_of(1), place)
    with (where / "build.json").open("ab") as stream:
        stream.truncate(store.MAX_TEXT + 1)

    (told,) = broken(place)
    assert f"{store.MAX_TEXT + 1} bytes; the limit is {store.MAX_TEXT}" in told


def test_more_builds_than_a_store_may_have_are_refused(place, monkeypatch):
    store.add(run_of(1), place)
    store.add(run_of(2), place)
    monkeypatch.setattr(store, "MAX_BUILDS", 2)
    assert len(commits(place)) == 2

    monkeypatch.setattr(store, "MAX_BUILDS", 1)
    with pytest.raises(FormatError, match="more than 1 builds"):
        store.read(place)


# -- pins and pruning -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "left"), [(5, [1, 2, 3, 4]), (4, [1, 2, 3, 4]), (3, [2, 3, 4]), (1, [4])]
)
def test_prune_keeps_the_newest(place, keep, left):
    for number in (1, 2, 3, 4):
        store.add(run_of(number), place)
    gone = store.prune(place, keep)

    assert commits(place) == [commit_of(number) for number in left]
    assert len(gone) == 4 - len(left)


def test_prune_counts_each_kind_of_recording_by_itself(place):
    for number in (1, 2, 3):
        for environment in (ENVIRONMENT, OTHER, NEWER):
            store.add(run_of(number, environment=environment), place)
    store.prune(place, 2)

    assert sorted(commits(place)) == [commit_of(2)] * 3 + [commit_of(3)] * 3


def test_pins_hold_and_do_not_count(place):
    for number in (1, 2, 3, 4):
        store.add(run_of(number), place)
    store.pin(place, commit_of(1), anchor=True)
    store.pin(place, commit_of(2))
    store.prune(place, 1)
    assert commits(place) == [commit_of(1), commit_of(2), commit_of(4)]
    assert store.read(place).anchor == commit_of(1)

    assert store.unpin(place, commit_of(2))
    assert not store.unpin(place, commit_of(2))
    assert store.unpin(place, store.ANCHOR)
    store.prune(place, 1)
    assert commits(place) == [commit_of(4)]
    assert store.read(place).anchor == ""


def test_an_anchor_that_is_no_commit_is_refused(place):
    store.add(run_of(1), place)
    store.pin(place, commit_of(1), anchor=True)
    (place / "pins" / "anchor").write_text("main\n")

    with pytest.raises(FormatError, match="not the hash"):
        store.read(place)


def test_scratch_of_a_killed_writer_is_swept_once_it_is_old(place):
    store.add(run_of(1), place)
    for name, age in ((".new-old", 90_000), (".new-young", 60)):
        (place / name).mkdir()
        then = place.stat().st_mtime - age
        os.utime(place / name, (then, then))
    store.prune(place, 5)

    assert not (place / ".new-old").exists()
    assert (place / ".new-young").exists()


# -- which build it is ----------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Six commits on main, and a branch from the fourth."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    run_git(root, "init", "-q", "-b", "main")
    for number in range(6):
        (root / "code.py").write_text(f"{number}\n")
        run_git(root, "add", "-A")
        run_git(root, "commit", "-q", "-m", str(number))
        if number == 3:
            run_git(root, "branch", "feature")
    return root


def history_of(root, revision="main"):
    return run_git(root, "rev-list", "--reverse", revision).split()


def fill(root, *numbers, branch="main", environment=None):
    hashes = history_of(root)
    for number in numbers:
        run = run_of(number + 1, commit=hashes[number], environment=environment)
        store.add(run, root / "store", branch=branch)
    return hashes


def choose(root, environment=ENVIRONMENT, keep=10, anchor=""):
    return stored.choose(store.read(root / "store"), environment, root, keep, anchor)


def test_the_nearest_ancestor_is_the_base(repository):
    hashes = fill(repository, 0, 1, 3, 4)
    chosen = choose(repository)

    assert chosen.base.commit == hashes[4]
    assert [run.commit for run in chosen.siblings] == [hashes[0], hashes[1], hashes[3]]
    assert chosen.anchor is None
    assert "3 more builds beside it" in chosen.told


def test_a_branch_is_compared_with_where_it_left(repository):
    hashes = fill(repository, 0, 1, 3, 4, 5)
    run_git(repository, "checkout", "-q", "feature")
    (repository / "code.py").write_text("feature\n")
    run_git(repository, "commit", "-q", "-a", "-m", "feature")
    chosen = choose(repository)

    assert chosen.base.commit == hashes[3]
    # Newer builds of main are of the same branch, and tell of the spread just as well.
    assert [run.commit for run in chosen.siblings] == [hashes[n] for n in (0, 1, 4, 5)]


def test_a_job_that_runs_again_is_not_compared_with_itself(repository):
    hashes = fill(repository, 3, 4, 5)
    assert choose(repository).base.commit == hashes[4]

    (repository / "code.py").write_text("dirty\n")
    assert choose(repository).base.commit == hashes[5]


def test_builds_of_other_branches_are_no_siblings(repository):
    hashes = fill(repository, 2, 3, 4)
    store.add(run_of(20, commit="f" * 40), repository / "store", branch="experiment")
    chosen = choose(repository)

    assert chosen.base.commit == hashes[4]
    assert [run.commit for run in chosen.siblings] == [hashes[2], hashes[3]]


@pytest.mark.parametrize("environment", [OTHER, NEWER, replace(ENVIRONMENT, layout="fixed-1")])
def test_builds_of_another_machine_are_no_siblings(repository, environment):
    hashes = fill(repository, 1, 2)
    fill(repository, 3, 4, environment=environment)
    chosen = choose(repository)

    assert chosen.base.commit == hashes[2]
    assert [run.commit for run in chosen.siblings] == [hashes[1]]


def test_with_builds_of_another_machine_alone_the_difference_can_be_told(repository):
    hashes = fill(repository, 3, 4, environment=OTHER)
    chosen = choose(repository)

    assert chosen.base.commit == hashes[4]
    assert chosen.base.environment == OTHER
    assert chosen.siblings == ()


@pytest.mark.parametrize(("keep", "count"), [(1, 1), (2, 2), (4, 4), (9, 4)])
def test_no_more_siblings_than_asked(repository, keep, count):
    hashes = fill(repository, 0, 1, 2, 3, 4)
    chosen = choose(repository, keep=keep)

    assert [run.commit for run in chosen.siblings] == hashes[4 - count : 4]


def test_without_an_ancestor_the_newest_is_taken_and_said(repository):
    store.add(run_of(3, commit="e" * 40), repository / "store")
    store.add(run_of(4, commit="f" * 40), repository / "store")
    chosen = choose(repository)

    assert chosen.base.commit == "f" * 40
    assert "no ancestor" in chosen.told


def test_a_base_that_is_broken_gives_way_to_the_next(repository):
    hashes = fill(repository, 2, 3, 4)
    newest = store.read(repository / "store").builds[-1].place
    next((newest / PROFILES).iterdir()).write_bytes(b"garbage")
    chosen = choose(repository)

    assert chosen.base.commit == hashes[3]
    assert any(str(newest) in note for note in chosen.notes)


def test_an_empty_store_has_no_base(repository):
    fill(repository, 2)
    store.prune(repository / "store", 1)
    shutil.rmtree(repository / "store" / "builds")
    chosen = choose(repository)

    assert chosen.base is None
    assert "holds no build" in chosen.told


@pytest.mark.parametrize("word", ["hash", "short", "HEAD~4", "main~4", "v1"])
def test_an_anchor_is_named_as_git_would(repository, word):
    hashes = fill(repository, 1, 3, 4)
    run_git(repository, "tag", "v1", hashes[1])
    named = {"hash": hashes[1], "short": hashes[1][:9]}.get(word, word)

    assert choose(repository, anchor=named).anchor.commit == hashes[1]


def test_an_anchor_that_no_build_is_of_is_refused(repository):
    hashes = fill(repository, 1, 3)

    with pytest.raises(BaselineError, match="holds no build of HEAD~1") as told:
        choose(repository, anchor="HEAD~1")
    assert hashes[3][:10] in told.value.hint


def test_a_pinned_anchor_of_another_machine_is_told(repository):
    hashes = fill(repository, 1, environment=OTHER)
    fill(repository, 3, 4)
    store.pin(repository / "store", hashes[1], anchor=True)
    chosen = choose(repository)

    assert chosen.anchor is None
    assert any("CPU model: Example CPU 2, Example CPU 1" in note for note in chosen.notes)


def test_a_pinned_anchor_that_is_lost_is_told(repository):
    hashes = fill(repository, 1, 4)
    store.pin(repository / "store", hashes[1], anchor=True)
    shutil.rmtree(store.read(repository / "store").builds[0].place)
    chosen = choose(repository)

    assert chosen.base.commit == hashes[4]
    assert any("pruned or lost" in note for note in chosen.notes)


# -- words ----------------------------------------------------------------------------


def test_the_words_of_a_baseline():
    spec = parse_baseline("store:some/where")

    assert (spec.kind, spec.value, str(spec)) == (
        BaselineKind.STORE,
        "some/where",
        "store:some/where",
    )
    with pytest.raises(UsageError, match="names nothing"):
        parse_baseline("store:")


def policy(tmp_path, text):
    (tmp_path / "ci-flame.yml").write_text(f"version: 1\n{text}\n")
    return build(policy_file=tmp_path / "ci-flame.yml", start=tmp_path, flags={})


def test_the_policy_names_store_keep_and_anchor(tmp_path):
    config = policy(tmp_path, "baseline: {store: kept, keep: 4, anchor: v1.2}")

    assert str(config.baseline) == f"store:{tmp_path / 'kept'}"
    assert (config.keep, config.anchor) == (4, "v1.2")
    flags = {"keep": "100", "anchor": "v2", "baseline": "store:x"}
    config = build(policy_file=tmp_path / "ci-flame.yml", start=tmp_path, flags=flags)
    assert (str(config.baseline), config.keep, config.anchor) == ("store:x", 100, "v2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("baseline: {store: kept, from: auto}", "both name the baseline"),
        ("baseline: {store: kept, keep: 0}", "outside 1 to 100"),
        ("baseline: {store: kept, keep: 101}", "outside 1 to 100"),
        ("baseline: {store: kept, keep: 2.5}", "whole number"),
        ("baseline: {store: kept, anchor: --upload-pack=x}", "not a revision"),
        ("baseline: {store: ''}", "needs a path"),
    ],
)
def test_a_policy_that_does_not_fit_is_told_with_its_line(tmp_path, text, words):
    with pytest.raises(PolicyError, match=words) as told:
        policy(tmp_path, text)
    assert told.value.line == 2


# -- the command line -----------------------------------------------------------------


def test_a_store_from_the_command_line(repository):
    hashes = history_of(repository)
    for number in (1, 2, 3):
        folder.save(run_of(number + 1, commit=hashes[number]), repository / "run")
        made = call("baseline", "add", "run", "--store", "kept", "--branch", "main")
        assert made.returncode == 0, made.stderr
        assert f"added 1 benchmark of {hashes[number][:10]}" in made.stderr
    assert "there already" in call("baseline", "add", "run", "--store", "kept").stderr

    assert call("baseline", "pin", hashes[1][:8], "--anchor", "--store", "kept").returncode == 0
    assert call("baseline", "pin", "HEAD~3", "--store", "kept").returncode == 0
    head, *rows = call("baseline", "list", "--store", "kept").stdout.splitlines()
    assert head.split()[:4] == ["commit", "date", "branch", "benchmarks"]
    assert [row.split()[0] for row in rows] == [hashes[n][:10] for n in (3, 2, 1)]
    assert "anchor" in rows[2]
    assert " yes " in rows[1]
    document = json.loads(call("baseline", "list", "--json", "--store", "kept").stdout)
    assert document["anchor"] == hashes[1]
    assert [each["pinned"] for each in document["builds"]] == [False, True, True]
    assert document["builds"][0]["branch"] == "main"

    made = call("baseline", "prune", "--keep", "1", "--store", "kept")
    assert "removed 0 builds" in made.stderr
    assert call("baseline", "unpin", "HEAD~3", "--store", "kept").returncode == 0
    assert "removed 1 build " in call("baseline", "prune", "--keep", "1", "--store", "kept").stderr
    assert call("baseline", "unpin", "--anchor", "--store", "kept").returncode == 0
    assert call("baseline", "unpin", "--anchor", "--store", "kept").returncode == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("add", "none"), "there is no such folder"),
        (("add", "dirty"), "differed from commit"),
        (("add", "run", "--branch", ""), "not a name"),
        (("list", "--store", "none"), "there is no such store"),
        (("pin", "HEAD", "--store", "none"), "there is no such store"),
        (("pin", "HEAD"), "holds no build of HEAD"),
        (("unpin",), "give REV or --anchor"),
        (("unpin", "HEAD", "--anchor"), "give REV or --anchor"),
        (("prune", "--keep", "0"), "outside 1 to 100"),
        (("prune", "--keep", "many"), "plain number"),
    ],
)
def test_what_does_not_fit_is_one_line_and_its_cure(repository, words, told):
    folder.save(run_of(1), repository / "run")
    folder.save(run_of(1, dirty=True), repository / "dirty")
    assert call("baseline", "add", "run").returncode == 0
    made = call("baseline", *words)

    assert made.returncode == 2
    assert told in made.stderr
    assert "Traceback" not in made.stderr


def test_the_store_of_the_policy_is_the_default(repository):
    (repository / "ci-flame.yml").write_text("version: 1\nbaseline: {store: kept}\n")
    folder.save(run_of(1), repository / "run")

    assert call("baseline", "add", "run").returncode == 0
    assert len(store.read(repository / "kept").builds) == 1


def test_compare_and_explain_say_the_same(repository):
    hashes = history_of(repository)
    for number in range(5):
        run = replace(_long(number), commit=hashes[number])
        store.add(run, repository / "store", branch="main")
    store.pin(repository / "store", hashes[0], anchor=True)
    folder.save(_long(9), repository / "after")
    made = call("compare", "store:store", "after", "-o", "report", "--keep", "3")
    assert made.returncode == 0, made.stderr
    assert f"commit {hashes[4][:10]} of 2026-09-05, 3 more builds beside it" in made.stderr
    assert f"anchor {hashes[0][:10]}" in made.stderr
    again = call("explain", "report")

    assert "(the same)" in again.stdout
    assert len(list((repository / "report" / "siblings").iterdir())) == 3
    first = pipeline.explain(repository / "report")
    shutil.rmtree(repository / "report" / "siblings")
    without = pipeline.explain(repository / "report")
    wide = first.benchmarks[0].diff.total.standard_error
    assert wide > without.benchmarks[0].diff.total.standard_error


def _long(number):
    return synthetic_run(
        synthetic_measurement(SHOP, seed=number), time=f"2026-09-{number + 1:02}T10:00:00Z"
    )


def test_check_against_a_store(repository):
    """A real command: two builds stored, the third compared with them."""
    words = (sys.executable, "-c", "sum(i * i for i in range(3_000_000))")
    (repository / "ci-flame.yml").write_text("version: 1\nrecord: {busy: 100%}\n")
    for number in (2, 1):
        run_git(repository, "checkout", "-q", f"main~{number}")
        made = call("record", "--name", "sum", "--repeat", "3", "-o", "run", "--", *words)
        assert made.returncode == 0, made.stderr
        assert call("baseline", "add", "run", "--store", "kept", "--branch", "main").returncode == 0
    run_git(repository, "checkout", "-q", "main")
    made = call("check", "--baseline", "store:kept", "--name", "sum", "--repeat", "3", "--", *words)

    assert made.returncode in (0, 1), made.stderr
    assert "1 more build beside it" in made.stderr
    assert "(the same)" in call("explain", ".ci-flame/report").stdout


COMMAND = (sys.executable, "-c", "sum(i * i for i in range(3_000_000))")


@pytest.mark.parametrize("lost", ["missing", "empty"])
def test_the_first_build_of_a_store_passes_and_the_second_is_compared(
    repository, lost, monkeypatch
):
    """As in a CI whose cache holds nothing yet, or has been lost."""
    monkeypatch.setenv("CI", "true")
    (repository / "ci-flame.yml").write_text(
        "version: 1\nrecord: {busy: 100%}\noverhead: {max: 90%}\nbaseline: {rerun: never}\n"
    )
    if lost == "empty":
        (repository / "kept").mkdir()
        (repository / "kept" / ".gitignore").touch()
    words = ("check", "--baseline", "store:kept", "--name", "sum", "--repeat", "2", "--", *COMMAND)
    run_git(repository, "checkout", "-q", "main~1")
    first = call(*words)

    assert first.returncode == 0, first.stderr
    assert "NO-BASELINE" in first.stdout
    assert "no baseline: there is nothing in the store" in first.stdout
    assert call("baseline", "add", ".ci-flame/run", "--store", "kept").returncode == 0

    run_git(repository, "checkout", "-q", "main")
    second = call(*words)
    assert second.returncode in (0, 1), second.stderr
    assert "baseline store:" in second.stderr
    assert "NO-BASELINE" not in second.stdout


def test_without_a_store_the_base_commit_is_recorded_in_ci(repository, monkeypatch):
    monkeypatch.setenv("CI", "true")
    (repository / "ci-flame.yml").write_text(
        "version: 1\nrecord: {busy: 100%}\noverhead: {max: 90%}\n"
    )
    made = call(
        "check", "--baseline", "store:none", "--name", "sum", "--repeat", "2", "--", *COMMAND
    )

    assert made.returncode in (0, 1), made.stderr
    assert "nothing in the store" in made.stdout
    assert "is recorded beside: the default in CI" in made.stdout


def test_a_required_store_that_is_not_there_ends_before_anything_is_recorded(repository):
    (repository / "ci-flame.yml").write_text("version: 1\nbaseline: {required: true}\n")
    made = call("check", "--baseline", "store:none", "--name", "x", "--", "touch", "recorded")

    assert made.returncode == 4
    assert "there is nothing in the store" in made.stderr
    assert "ci-flame baseline add RUN --store" in made.stderr
    assert not (repository / "recorded").exists()


@pytest.mark.parametrize("what", ["a file", "another folder"])
def test_what_is_no_store_is_refused_before_anything_is_recorded(repository, what):
    place = repository / "none"
    if what == "a file":
        place.touch()
    else:
        place.mkdir()
        (place / "notes.txt").touch()
    made = call("check", "--baseline", "store:none", "--name", "x", "--", "touch", "recorded")

    assert made.returncode == 2
    assert "not a folder" in made.stderr if what == "a file" else "not a store" in made.stderr
    assert not (repository / "recorded").exists()


# -- a shallow clone ------------------------------------------------------------------


def test_a_store_tells_the_line_that_a_shallow_clone_lacks(repository, tmp_path):
    """Of three builds the one nearest to HEAD is the oldest recording."""
    hashes = history_of(repository)
    for day, number in ((9, 1), (8, 2), (7, 3)):
        store.add(run_of(day, commit=hashes[number]), repository / "store", branch="main")
    run_git(repository, "clone", "-q", "--depth=1", f"file://{repository}", str(tmp_path / "one"))
    listing = store.read(repository / "store")
    guessed = stored.choose(listing, ENVIRONMENT, tmp_path / "one", 10, "")
    store.tell_line(repository / "store", hashes[4::-1])
    told = stored.choose(listing, ENVIRONMENT, tmp_path / "one", 10, "")

    assert guessed.base.commit == hashes[1]
    assert "no ancestor" in guessed.told
    assert told.base.commit == hashes[3]
    assert "no ancestor" not in told.told
    assert {each.commit for each in told.siblings} == {hashes[1], hashes[2]}


def test_the_commit_before_comes_first_where_it_is_all_that_a_shallow_clone_knows(
    repository, tmp_path
):
    """What git does not know there is a newer build, and no ancestor for all that it can tell."""
    hashes = history_of(repository)
    for day, number in ((9, 1), (7, -2)):
        store.add(run_of(day, commit=hashes[number]), repository / "store", branch="main")
    run_git(repository, "clone", "-q", "--depth=2", f"file://{repository}", str(tmp_path / "two"))

    chosen = stored.choose(store.read(repository / "store"), ENVIRONMENT, tmp_path / "two", 10, "")

    assert chosen.base.commit == hashes[-2]
    assert "no ancestor" not in chosen.told


@pytest.mark.parametrize("text", ["main\n", f"{'a' * 40}x", f"{'a' * 40}\n" * 1001])
def test_a_line_that_is_no_list_of_commits_is_refused(place, text):
    store.add(run_of(1), place)
    (place / "line").write_text(text)

    with pytest.raises(FormatError, match="no list of at most 1000 commits"):
        store.line(place)


def test_a_store_without_a_line_tells_none(place):
    assert not store.begun(place)
    store.add(run_of(1), place)

    assert store.begun(place)
    assert store.line(place) == ()
    store.tell_line(place, ["a" * 40] * 2000)
    assert len(store.line(place)) == 1000
