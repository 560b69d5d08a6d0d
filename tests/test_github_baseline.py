"""Which baseline a job finds: with real git, a GitHub of our own, and everything in the way."""

import functools
import io
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from fake_github import FakeGitHub
from synthetic import ENVIRONMENT, SHOP, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder, store
from ci_flame.errors import BaselineError, PolicyError, UsageError, WriteError
from ci_flame.github import api as api_module
from ci_flame.github import baseline, builds
from ci_flame.github.api import Api
from ci_flame.github.baseline import Wishes, number_of_builds, resolve
from ci_flame.github.job import parse
from ci_flame.pipeline import stored as stored_builds

MEASURED = synthetic_measurement(SHOP, processes=2, rounds=3)
NAME = "ci-flame-run-bench"
WORKFLOW = ".github/workflows/perf.yml"


def git(*words, cwd):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "t", f"GIT_{who}_EMAIL": "t@example.org"}
    done = subprocess.run(
        ["git", *words], cwd=cwd, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


def commit(repository, text):
    git("commit", "-q", "--allow-empty", "-m", text, cwd=repository)
    return git("rev-parse", "HEAD", cwd=repository)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """main: A - B - C - D, topic from B: T; HEAD: the merge of topic into D, as GitHub makes it."""
    here = tmp_path_factory.mktemp("template")
    git("init", "-q", "-b", "main", cwd=here)
    git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=here)
    line = [commit(here, name) for name in "ABCD"]
    git("switch", "-q", "-c", "topic", line[1], cwd=here)
    topic = commit(here, "T")
    git("switch", "-q", "--detach", "main", cwd=here)
    git("merge", "-q", "--no-ff", "-m", "merge", "topic", cwd=here)
    git("branch", "merged", cwd=here)
    return here, line, topic, git("rev-parse", "HEAD", cwd=here)


class Project:
    """A copy of the template, and what GitHub knows of it."""

    def __init__(self, tmp_path, github, template):
        self.github = github
        self.here = tmp_path / "project"
        source, line, self.topic, self.merge = template
        self.line = list(line)
        shutil.copytree(source, self.here, symlinks=True)
        self.place = tmp_path / "runner-temp" / "baseline"
        for number, sha in enumerate(self.line):
            github.commits[sha] = self.line[number - 1 : number] if number else []
        github.commits[self.topic] = [self.line[1]]
        github.commits[self.merge] = [self.line[3], self.topic]

    def stored(self, sha, *, embedded=None, name=NAME, data=None, complete=True, **origin):
        """An artifact that a push to main has left; keywords break what is to be broken."""
        details = {key: origin.pop(key) for key in ("digest", "expired") if key in origin}
        run = self.github.add_run(head_sha=sha, **origin)
        if data is None:
            data = packed(sha if embedded is None else embedded, complete=complete)
        return self.github.add_artifact(run, name, data, **details)

    def job(self, **environment):
        pull = {
            "number": 7,
            "head": {"sha": self.topic, "repo": {"id": 1001}},
            "base": {"ref": "main", "repo": {"id": 1001}},
        }
        event = {"pull_request": pull, "repository": {"id": 1001, "default_branch": "main"}}
        payload = environment.pop("payload", json.dumps(event))
        given = {
            "GITHUB_EVENT_NAME": "pull_request",
            "GITHUB_REPOSITORY": "acme/demo",
            "GITHUB_JOB": "bench",
            "GITHUB_SHA": self.merge,
            "GITHUB_BASE_REF": "main",
            "GITHUB_WORKFLOW_REF": f"acme/demo/{WORKFLOW}@refs/pull/7/merge",
            **environment,
        }
        return parse(given, payload, has_token=True)

    def resolved(self, word="auto", *, start=None, job=None, **wishes):
        return resolve(
            job or self.job(),
            Wishes(word, **wishes),
            start or self.here,
            self.place,
            lambda: Api(self.github.api_url, "ro"),
        )


@functools.cache
def packed(sha, *, complete=True, cpu_model=ENVIRONMENT.cpu_model, time=""):
    """The zip of a run of this commit."""
    environment = replace(ENVIRONMENT, cpu_model=cpu_model)
    made = synthetic_run(MEASURED, environment=environment)
    run = replace(made, commit=sha, complete=complete, time=time or made.time)
    out = io.BytesIO()
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(out, "w") as archive:
        folder.save(run, Path(name) / "run")
        for each in sorted((Path(name) / "run").rglob("*")):
            if each.is_file():
                archive.write(each, str(each.relative_to(Path(name) / "run")))
    return out.getvalue()


@pytest.fixture
def github():
    with FakeGitHub() as server:
        yield server


@pytest.fixture
def project(tmp_path, github, template, monkeypatch):
    monkeypatch.setattr(api_module.time, "sleep", lambda _seconds: None)
    return Project(tmp_path, github, template)


# -- the order ------------------------------------------------------------------------------


def test_the_artifact_of_the_exact_base_is_first(project):
    """The base is D, the tip that was merged: not B, where topic and main part."""
    for sha in project.line:
        project.stored(sha)
    found = project.resolved()

    assert found.word == f"folder:{project.place}"
    assert (found.source, found.sha, found.distance) == ("artifact", project.line[3], 0)
    assert found.told == (
        f"baseline: the artifact of {project.line[3][:10]}, the base commit itself"
    )
    assert (found.notes, found.trouble, found.warning) == ((), "", "")
    assert folder.load(project.place).commit == project.line[3]


def test_the_nearest_ancestor_is_second_and_its_distance_is_said(project):
    project.stored(project.line[0])
    project.stored(project.line[1])
    found = project.resolved()

    assert (found.source, found.sha, found.distance) == ("ancestor", project.line[1], 2)
    assert f"of {project.line[1][:10]}, 2 commits before the base" in found.told
    assert folder.load(project.place).commit == project.line[1]


def test_the_second_parents_side_is_no_ancestor(project):
    """T is on topic: a commit of the pull request is never its own baseline."""
    project.stored(project.topic)
    found = project.resolved()

    assert found.source == "rerun"
    assert any("or one of the 3 commits before it" in each for each in found.notes)


def test_rerun_is_third(project):
    found = project.resolved()

    assert found.word == f"rerun:{project.line[3]}"
    assert (found.source, found.sha, found.distance) == ("rerun", project.line[3], 0)
    assert "the first parent of the merge into main, is recorded in this job" in found.told
    assert found.notes == (f"there is no artifact {NAME} yet",)


def test_a_repository_without_a_commit_is_said_to_have_none(project, tmp_path):
    (tmp_path / "new").mkdir()
    git("init", "-q", cwd=tmp_path / "new")
    job = project.job(GITHUB_EVENT_NAME="push", GITHUB_BASE_REF="", payload="{}")
    found = project.resolved(start=tmp_path / "new", job=job)

    assert found.told == "no baseline: the repository has no commit yet"


def test_the_first_commit_has_nothing_to_compare_with(project, tmp_path):
    (tmp_path / "new").mkdir()
    git("init", "-q", cwd=tmp_path / "new")
    sha = commit(tmp_path / "new", "first")
    job = project.job(GITHUB_EVENT_NAME="push", GITHUB_SHA=sha, GITHUB_BASE_REF="", payload="{}")
    found = project.resolved(start=tmp_path / "new", job=job)

    assert (found.word, found.source, found.distance) == ("none", "none", None)
    assert found.told == "no baseline: HEAD is the first commit, there is nothing before it"
    assert project.github.requests == []


def test_a_push_is_compared_with_the_commit_before(project):
    git("switch", "-q", "--detach", project.line[2], cwd=project.here)
    project.stored(project.line[1])
    job = project.job(
        GITHUB_EVENT_NAME="push",
        GITHUB_SHA=project.line[2],
        GITHUB_BASE_REF="",
        payload='{"repository": {"id": 1001, "default_branch": "main"}}',
    )
    found = project.resolved(job=job)

    assert (found.source, found.sha) == ("artifact", project.line[1])


def test_a_pull_request_that_is_not_checked_out_merged_has_its_merge_base(project):
    git("switch", "-q", "--detach", project.topic, cwd=project.here)
    found = project.resolved()

    assert (found.source, found.sha) == ("rerun", project.line[1])
    assert "the merge base with main (GITHUB_BASE_REF)" in found.told


# -- words ------------------------------------------------------------------------------------


def test_artifact_alone_does_not_record(project):
    found = project.resolved("artifact")

    assert (found.word, found.source) == ("none", "none")
    assert "no artifact of" in found.told


def test_rerun_alone_asks_nobody(project):
    project.stored(project.line[3])

    assert project.resolved("rerun").word == f"rerun:{project.line[3]}"
    assert project.github.requests == []


def test_none_asks_nobody_and_needs_no_checkout(project, tmp_path):
    assert project.resolved("none", start=tmp_path).word == "none"


@pytest.mark.parametrize("word", ["folder:a/b", "git:main:runs", "store:.ci-flame/store"])
def test_what_is_given_is_passed_on(project, word):
    found = project.resolved(word)

    assert (found.word, found.source) == (word, "given")


def test_a_revision_that_is_given_tells_its_commit(project):
    found = project.resolved("rerun:main~1")

    assert (found.word, found.sha) == ("rerun:main~1", project.line[2])
    assert project.resolved("rerun:no-such").sha == ""


@pytest.mark.parametrize("word", ["", "Artifact", "main", "rerun:", "none:x", "%0A::error::x"])
def test_other_words_are_refused(project, word):
    with pytest.raises(UsageError):
        project.resolved(word)


def test_the_policys_own_baseline_counts_where_the_input_is_auto(project):
    (project.here / "ci-flame.yml").write_text(
        "version: 1\nbaseline: {from: 'folder:kept'}\n", encoding="utf-8"
    )
    found = project.resolved()

    assert (found.word, found.source) == (f"folder:{project.here / 'kept'}", "given")
    assert project.resolved("rerun").source == "rerun"


def test_a_policy_that_forbids_to_rerun_is_heard(project):
    (project.here / "ci-flame.yml").write_text(
        "version: 1\nbaseline: {rerun: never}\n", encoding="utf-8"
    )
    found = project.resolved()

    assert (found.word, found.source) == ("none", "none")
    assert "the policy says rerun: never" in found.told
    assert project.resolved("rerun").source == "rerun", "the input asks for it by name"


def test_a_policy_that_is_wrong_is_said(project):
    (project.here / "x.yml").write_text("version: 2\n", encoding="utf-8")
    with pytest.raises(PolicyError, match=r"x\.yml:1"):
        project.resolved(policy=project.here / "x.yml")


# -- what is refused --------------------------------------------------------------------------

FORK = {"id": 666, "full_name": "eve/demo"}


@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        ({"head_repository": FORK}, "its code is of a fork"),
        ({"repository": FORK, "head_repository": FORK}, "it is of another repository"),
        ({"head_branch": "topic"}, "its branch is topic, not main"),
        ({"event": "pull_request"}, "its run was started by pull_request"),
        ({"path": ".github/workflows/evil.yml"}, "its workflow is .github/workflows/evil.yml"),
        ({"expired": True}, "it has expired"),
        ({"digest": f"sha256:{'0' * 64}"}, "what was downloaded has sha256:"),
        ({"digest": ""}, "GitHub tells no sha256 of it"),
        ({"embedded": "e" * 40}, "the run in it is of commit eeeeeeeeee"),
        ({"embedded": ""}, "the run in it is of commit none"),
        ({"complete": False}, "was interrupted and is not complete"),
        ({"data": b"<html>"}, "a broken or truncated zip"),
    ],
)
def test_one_broken_rule_is_named_and_the_next_artifact_is_tried(project, breaking, reason):
    good = project.stored(project.line[2])
    bad = project.stored(project.line[3], **breaking)
    found = project.resolved()

    assert (found.source, found.sha, found.distance) == ("ancestor", project.line[2], 1)
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"artifact {bad} of run ")
    assert " is refused: " in found.notes[0]
    assert reason in found.notes[0]
    assert good != bad
    assert folder.load(project.place).commit == project.line[2]


def test_all_poisoned_ends_in_a_rerun(project):
    """A fork whose branch is called main, and an own branch's pull request."""
    project.stored(project.line[3], head_repository=FORK)
    project.stored(project.line[2], event="pull_request")
    project.stored(project.line[1], data=b"PK\x05\x06" + b"\0" * 18)
    found = project.resolved()

    assert found.source == "rerun"
    assert [("refused" in each) for each in found.notes] == [True, True, True]
    assert not project.place.exists()


def test_an_artifact_that_is_gone_meanwhile_is_passed_over(project):
    project.stored(project.line[2])
    gone = project.stored(project.line[3])
    path = f"/repos/acme/demo/actions/artifacts/{gone}/zip"
    project.github.fault("GET", path, status=410, body=b'{"message": "Artifact has expired"}')
    found = project.resolved()

    assert (found.source, found.distance) == ("ancestor", 1)
    assert "410: Artifact has expired" in found.notes[0]


def test_no_more_than_some_are_looked_into(project, monkeypatch):
    monkeypatch.setattr(builds, "MAX_TRIED", 2)
    for sha in project.line[:3]:
        project.stored(sha, event="pull_request")
    found = project.resolved()

    assert found.source == "rerun"
    assert found.notes[-1] == "after 2 artifacts no further one is looked at"


def test_looking_ends_after_a_while(project, monkeypatch):
    monkeypatch.setattr(builds, "SEARCH_S", -1.0)
    project.stored(project.line[3])
    found = project.resolved()

    assert found.source == "rerun"
    assert "no artifact was found within" in found.trouble


@pytest.mark.parametrize(("limit", "warned"), [(2, False), (1, True)])
def test_a_distance_over_the_limit_warns(project, monkeypatch, limit, warned):
    monkeypatch.setattr(baseline, "WARN_DISTANCE", limit)
    project.stored(project.line[1])
    found = project.resolved()

    assert found.distance == 2
    assert bool(found.warning) is warned
    assert not warned or "2 commits before the base commit; over 1" in found.warning


def test_the_branch_may_be_named(project):
    project.stored(project.line[3], head_branch="release")

    assert project.resolved().source == "rerun"
    assert project.resolved(branch="release").source == "artifact"


def test_what_is_not_told_is_asked_for(project):
    """A local runner tells neither the workflow nor the repository's id or branch."""
    own = project.github.add_run()
    project.stored(project.line[3])
    git("switch", "-q", "--detach", project.line[3], cwd=project.here)
    after = commit(project.here, "E")
    job = project.job(
        GITHUB_EVENT_NAME="push",
        GITHUB_SHA=after,
        GITHUB_BASE_REF="",
        GITHUB_WORKFLOW_REF="",
        GITHUB_RUN_ID=str(own),
        payload="{}",
    )

    assert (job.repository_id, job.workflow_path, job.default_branch) == (0, "", "")
    assert project.resolved(job=job).source == "artifact"


def test_matrix_legs_keep_apart(project):
    project.stored(project.line[3], name="ci-flame-run-bench_3.11")
    project.stored(project.line[3], name="ci-flame-run-bench_3.12")
    job = project.job(CI_FLAME_MATRIX='{"python": "3.12"}')
    found = project.resolved(job=job)
    asked = project.github.asked("GET", r".*/actions/artifacts")

    assert found.source == "artifact"
    assert {each.query["name"] for each in asked} == {"ci-flame-run-bench_3.12"}
    assert project.resolved(job=project.job(CI_FLAME_MATRIX='{"python": "3.13"}')).source == "rerun"


# -- shallow checkouts ------------------------------------------------------------------------


@pytest.fixture(params=[1, 2])
def shallow(project, tmp_path, request):
    place = tmp_path / "shallow"
    words = ("-q", f"--depth={request.param}", "--branch", "merged", f"file://{project.here}")
    git("clone", *words, str(place), cwd=tmp_path)
    return place


def test_a_shallow_checkout_finds_an_ancestor_by_asking_github(project, shallow):
    project.stored(project.line[0])
    found = project.resolved(start=shallow)

    assert (found.source, found.sha, found.distance) == ("ancestor", project.line[0], 3)
    assert project.github.asked("GET", r".*/commits")


def test_a_merged_side_in_githubs_list_is_no_ancestor(project, shallow):
    """GitHub lists the side branch's commit before A: it is newer, and not on the line."""
    side = "5" * 40
    a, b, c, d = project.line
    project.github.commits.clear()
    project.github.commits |= {a: [], b: [a], side: [a], c: [b, side], d: [c]}
    project.stored(a)
    project.stored(side)
    found = project.resolved(start=shallow)
    listed = Api(project.github.api_url, "ro").get("/repos/acme/demo/commits", sha=d)

    assert [each["sha"] for each in listed] == [d, c, side, b, a]
    assert (found.source, found.sha, found.distance) == ("ancestor", a, 3)


def test_a_shallow_checkout_fetches_the_base_to_record_it(project, shallow):
    found = project.resolved(start=shallow)

    assert found.word == f"rerun:{project.line[3]}"
    assert git("cat-file", "-t", project.line[3], cwd=shallow) == "commit"


def test_a_base_that_cannot_be_fetched_is_an_error_with_its_cure(project, shallow, tmp_path):
    """Passing without a comparison, build by build, would be worse."""
    project.here.rename(tmp_path / "elsewhere")
    if git("rev-list", "--count", "HEAD", cwd=shallow) == "1":
        with pytest.raises(BaselineError, match="is not in this checkout") as caught:
            project.resolved(start=shallow)
        assert "fetch-depth: 2" in caught.value.hint
    else:
        assert project.resolved(start=shallow).source == "rerun"


def test_outside_a_checkout_the_cure_is_the_checkout(project, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(BaselineError) as caught:
        project.resolved(start=tmp_path)

    assert "run actions/checkout before this action" in caught.value.hint


# -- a service in trouble -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (r".*/actions/artifacts", {"status": 401}),
        (r".*/actions/artifacts", {"status": 403}),
        (r".*/actions/artifacts", {"status": 404}),
        (r".*/actions/artifacts", {"status": 422}),
        (r".*/actions/artifacts", {"status": 429, "headers": {"Retry-After": "1"}}),
        (r".*/actions/artifacts", {"status": 503}),
        (r".*/actions/artifacts", {"drop": "before"}),
        (r".*/actions/artifacts", {"drop": "middle"}),
        (r".*/actions/artifacts", {"status": 200, "body": b"<html>"}),
        (r".*/actions/artifacts", {"status": 200, "body": b'{"artifacts": 5}'}),
        (r".*/actions/runs/\d+", {"status": 500}),
        (r".*/actions/runs/\d+", {"drop": "before"}),
        (r".*/actions/artifacts/\d+/zip", {"status": 502}),
        (r"/blob/\d+", {"status": 503}),
        (r"/blob/\d+", {"drop": "middle"}),
    ],
)
def test_trouble_of_the_service_ends_in_a_rerun_and_is_said(project, path, fault):
    project.stored(project.line[3])
    project.github.fault("GET", path, times=99, **fault)
    found = project.resolved()

    assert found.source == "rerun"
    assert found.trouble.startswith("no artifact could be had: ")
    assert "\n" not in found.trouble


def test_a_service_that_is_down_ends_in_a_rerun(project):
    project.github.down()
    found = project.resolved()

    assert found.source == "rerun"
    assert "it could not be connected to" in found.trouble


def test_trouble_that_passes_is_none(project):
    project.stored(project.line[3])
    project.github.fault("GET", r".*/actions/artifacts", status=502, times=2)
    project.github.fault("GET", r"/blob/\d+", drop="middle")
    found = project.resolved()

    assert (found.source, found.trouble) == ("artifact", "")


def test_entries_that_are_no_artifacts_are_passed_over(project):
    project.stored(project.line[3])
    body = json.dumps({"artifacts": [None, 5, "x", {}, {"id": "x", "name": NAME}]}).encode()
    project.github.fault("GET", r".*/actions/artifacts", status=200, body=body)

    assert project.resolved().source == "rerun"


def test_without_a_token_or_a_repository_nobody_is_asked(project):
    job = replace(project.job(), has_token=False)
    other = project.job(GITHUB_REPOSITORY="", payload='{"pull_request": {"number": 7}}')

    assert "the job has no token" in project.resolved(job=job).notes[0]
    assert "GITHUB_REPOSITORY is not set" in project.resolved(job=other).notes[0]
    assert project.github.requests == []


def test_a_disk_that_takes_nothing_ends_in_a_rerun(project):
    project.stored(project.line[3])
    project.place.parent.mkdir(parents=True)
    project.place.write_text("a file in the way", encoding="utf-8")
    found = project.resolved()

    assert found.source == "rerun"
    assert found.trouble.startswith("no artifact could be kept: ")


def test_a_baseline_that_an_earlier_step_left_is_replaced(project):
    project.stored(project.line[2])
    project.resolved()
    project.stored(project.line[3])
    project.resolved()

    assert folder.load(project.place).commit == project.line[3]


@pytest.mark.parametrize(
    "commit_",
    [
        None,
        5,
        {},
        {"sha": 5, "parents": []},
        {"sha": "a"},
        {"sha": "a", "parents": [{}]},
        {"sha": "a", "parents": 5},
    ],
)
def test_an_entry_that_is_no_commit_is_passed_over(commit_):
    assert list(builds._first_parent(commit_)) == []


def test_a_line_that_runs_in_a_circle_ends():
    assert len(list(builds._line("a", {"a": "b", "b": "a"}))) == builds.MAX_ANCESTORS


# -- builds beside the baseline -----------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """This machine is of the class that the recordings are of."""
    of = builds.class_of(ENVIRONMENT)
    monkeypatch.setattr(baseline, "_machine", lambda _config: of)


def downloads(project):
    return len(project.github.asked("GET", r".*/zip"))


def chosen(found, start):
    """The builds of the store that a check in `start` compares with: base, then siblings."""
    place = Path(found.word.removeprefix("store:"))
    picked = stored_builds.choose(store.read(place), ENVIRONMENT, start, 10, "")
    assert not picked.notes
    assert "no ancestor" not in picked.told
    return picked.base.commit, {each.commit for each in picked.siblings}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("number", "found"), [(1, 1), (2, 2), (3, 3), (4, 4), (10, 4)])
def test_as_many_builds_as_asked_stand_beside_the_baseline(project, number, found):
    a, b, c, d = project.line
    for sha in project.line:
        project.stored(sha)
    resolved = project.resolved(builds=number)
    nearest = [f"{d[:10]} (the base commit)", f"{c[:10]} (1 before)", f"{b[:10]} (2 before)",
               f"{a[:10]} (3 before)"][:found]  # fmt: skip

    assert (resolved.source, resolved.sha, resolved.distance) == ("artifact", d, 0)
    assert (resolved.builds, resolved.notes, resolved.trouble) == (found, (), "")
    assert downloads(project) == found
    if number == 1:
        assert resolved.word == f"folder:{project.place}"
        return
    assert resolved.word == f"store:{project.place}-builds"
    assert resolved.told == f"compared with {found} builds: {', '.join(nearest)}"
    assert chosen(resolved, project.here) == (d, {*project.line[4 - found : 3]})


@pytest.mark.usefixtures("here")
def test_one_build_alone_is_a_folder(project):
    project.stored(project.line[1])
    found = project.resolved(builds=5)

    assert (found.word, found.builds) == (f"folder:{project.place}", 1)
    assert (found.source, found.sha, found.distance) == ("ancestor", project.line[1], 2)
    assert not builds.store_beside(project.place).exists()


@pytest.mark.usefixtures("here")
def test_an_ancestor_has_builds_beside_it_too(project):
    a, b, c, _d = project.line
    for sha in (a, b, c):
        project.stored(sha)
    found = project.resolved(builds=5)

    assert (found.source, found.sha, found.distance, found.builds) == ("ancestor", c, 1, 3)
    assert found.told.startswith(f"compared with 3 builds: {c[:10]} (1 before the base), ")
    assert found.told.endswith(f"{b[:10]} (2 before), {a[:10]} (3 before)")
    assert chosen(found, project.here) == (c, {a, b})


@pytest.mark.usefixtures("here")
def test_a_shallow_checkout_knows_which_build_is_the_nearest(project, shallow):
    """The oldest commit was recorded last: its time says nothing of where it stands."""
    a, b, c, _d = project.line
    for day, sha in ((9, a), (8, b), (7, c)):
        project.stored(sha, data=packed(sha, time=f"2026-09-{day:02}T10:00:00Z"))
    found = project.resolved(start=shallow, builds=3)

    assert (found.source, found.sha, found.distance, found.builds) == ("ancestor", c, 1, 3)
    assert chosen(found, shallow) == (c, {a, b})


@pytest.mark.usefixtures("here")
def test_several_recordings_of_the_base_commit_are_the_nearest(project):
    """Nightly builds of a repository at rest."""
    c, d = project.line[2:]
    project.stored(c)
    for night in (1, 2):
        data = packed(d, time=f"2026-09-{night:02}T02:00:00Z")
        project.stored(d, data=data, event="schedule")
    found = project.resolved(builds=2)

    assert found.told == (
        f"compared with 2 builds: {d[:10]} (the base commit), {d[:10]} (the same commit)"
    )
    assert project.resolved(builds=5).builds == 3


OTHER_CPU = "Other CPU 9"


@pytest.mark.usefixtures("here")
def test_builds_of_another_machine_are_left_out_by_name(project):
    a, b, c, d = project.line
    for sha, cpu_model in ((a, ""), (b, OTHER_CPU), (c, ""), (d, OTHER_CPU)):
        model = cpu_model or ENVIRONMENT.cpu_model
        project.stored(sha, data=packed(sha, cpu_model=model))
    found = project.resolved(builds=5)

    assert (found.source, found.sha, found.distance, found.builds) == ("ancestor", c, 1, 2)
    assert chosen(found, project.here) == (c, {a})
    assert folder.load(project.place).commit == c
    assert [d[:10] in found.notes[0], b[:10] in found.notes[1]] == [True, True]
    assert f"another machine class (CPU model: {OTHER_CPU}, here " in found.notes[0]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("number", [1, 5])
def test_with_builds_of_other_machines_alone_the_check_records_the_base(project, number):
    """The nearest one is handed over: the check says the difference, and records instead."""
    for sha in project.line[2:]:
        project.stored(sha, data=packed(sha, cpu_model=OTHER_CPU))
    found = project.resolved(builds=number)

    assert found.word == f"folder:{project.place}"
    assert (found.source, found.sha, found.builds) == ("artifact", project.line[3], 1)
    assert len(found.notes) == (2 if number > 1 else 0)
    assert folder.load(project.place).environment.cpu_model == OTHER_CPU


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("reach", "sha"), [(1, 3), (2, 1)])
def test_a_build_from_long_ago_is_no_reason_not_to_record_the_base(
    project, monkeypatch, reach, sha
):
    monkeypatch.setattr(builds, "REACH", reach)
    project.stored(project.line[1])
    project.stored(project.line[3], data=packed(project.line[3], cpu_model=OTHER_CPU))

    assert project.resolved(builds=5).sha == project.line[sha]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("reach", "count"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_builds_farther_than_that_are_another_code(project, monkeypatch, reach, count):
    monkeypatch.setattr(builds, "REACH", reach)
    for sha in project.line:
        project.stored(sha)

    assert project.resolved(builds=10).builds == count


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        ({"head_repository": FORK}, "its code is of a fork"),
        ({"event": "pull_request"}, "its run was started by pull_request"),
        ({"digest": f"sha256:{'0' * 64}"}, "what was downloaded has sha256:"),
        ({"embedded": "e" * 40}, "the run in it is of commit eeeeeeeeee"),
        ({"complete": False}, "was interrupted and is not complete"),
        ({"data": b"<html>"}, "a broken or truncated zip"),
    ],
)
def test_each_build_beside_it_is_verified_by_itself(project, breaking, reason):
    a, b, c, d = project.line
    for sha in (a, c, d):
        project.stored(sha)
    bad = project.stored(b, **breaking)
    found = project.resolved(builds=4)

    assert found.builds == 3
    assert chosen(found, project.here) == (d, {a, c})
    assert [each for each in found.notes if "is refused" in each] == list(found.notes)
    assert f"artifact {bad} of run " in found.notes[0]
    assert reason in found.notes[0]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("at", [1, 2])
def test_trouble_beside_the_baseline_costs_no_more_than_the_rest(project, at):
    for sha in project.line:
        project.stored(sha)
    project.github.fault("GET", r"/blob/\d+", status=503, times=99, skip=at)
    found = project.resolved(builds=4)

    assert (found.source, found.sha, found.builds) == ("artifact", project.line[3], at)
    assert found.trouble == ""
    assert found.notes[0].startswith("no further build is looked for: ")
    assert found.word.startswith("folder:" if at == 1 else "store:")


@pytest.mark.usefixtures("here")
def test_downloads_beside_the_baseline_are_bounded(project, monkeypatch):
    for sha in project.line:
        project.stored(sha)
    size = len(packed(project.line[2]))
    monkeypatch.setattr(builds, "MAX_BESIDE", 2 * size + size // 2)
    found = project.resolved(builds=4)

    assert (found.builds, downloads(project)) == (3, 3)
    assert "no further build is downloaded: " in found.notes[0]
    monkeypatch.setattr(builds, "BESIDE_S", -1.0)
    found = project.resolved(builds=4)
    assert (found.builds, found.source) == (1, "artifact")
    assert "no further build is looked for" in found.notes[0]


@pytest.mark.usefixtures("here")
def test_a_disk_that_takes_no_store_leaves_the_baseline(project, monkeypatch):
    def full(*_words, **_options):
        raise WriteError("the store could not be written: no space left on device", "make room")

    monkeypatch.setattr(builds.store, "add", full)
    for sha in project.line:
        project.stored(sha)
    found = project.resolved(builds=4)

    assert (found.word, found.builds) == (f"folder:{project.place}", 1)
    assert found.notes[0].startswith("no build is kept beside the baseline: ")


@pytest.mark.usefixtures("here")
def test_builds_of_an_earlier_step_are_replaced(project):
    for sha in project.line[:3]:
        project.stored(sha)
    project.resolved(builds=3)
    project.stored(project.line[3])

    assert chosen(project.resolved(builds=2), project.here) == (project.line[3], {project.line[2]})


@pytest.mark.usefixtures("here")
def test_the_policy_reads_no_more_builds_than_it_keeps(project):
    (project.here / "ci-flame.yml").write_text("version: 1\nbaseline: {keep: 1}\n")
    for sha in project.line:
        project.stored(sha)

    assert project.resolved(builds=5).builds == 2


@pytest.mark.usefixtures("here")
def test_five_builds_cost_twelve_requests(project, shallow):
    """As the page says: the list, the commits, and of each build its run and its zip."""
    shas = [*project.line, *(f"{n:x}" * 40 for n in range(1, 5))]
    for older, newer in zip(["", *shas[4:-1]], shas[4:], strict=True):
        project.github.commits[newer] = [older] if older else []
    project.github.commits[project.line[0]] = [shas[-1]]
    for sha in shas:
        project.stored(sha)
    found = project.resolved(start=shallow, builds=5)
    asked = [each for each in project.github.requests if each.path.startswith("/repos/")]

    assert found.builds == 5
    assert len(asked) == 12


def test_the_machine_is_this_one_or_that_of_the_replayed_run(project):
    """Otherwise nobody could replay what another machine has recorded."""
    for sha in project.line:
        project.stored(sha)
    folder.save(replace(synthetic_run(MEASURED), commit=project.line[0]), project.here / "kept")
    recorded = project.resolved(builds=5)
    (project.here / "ci-flame.yml").write_text(
        "version: 1\nrecord: {collector: replay, replay: kept}\n", encoding="utf-8"
    )
    replayed = project.resolved(builds=5)

    assert (recorded.builds, replayed.builds) == (1, 4)
    assert sum("another machine class" in each for each in recorded.notes) == 4


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("5", 5), ("10", 10), ("05", 5)])
def test_the_number_of_builds(text, number):
    assert number_of_builds(text) == number


@pytest.mark.parametrize(
    "text", ["0", "11", "-1", "1.5", "", "five", "\u0665", "9" * 5000, "%0A::x"]
)
def test_another_number_is_refused_with_its_bounds(text):
    with pytest.raises(UsageError, match="input baseline-builds is ") as caught:
        number_of_builds(text)
    assert "1 to 10" in caught.value.hint
    assert len(caught.value.message) < 150


def test_why_there_is_none_is_one_sentence_for_the_report(project):
    for _number in range(5):
        project.stored(project.line[3], head_repository=FORK)
    found = project.resolved("artifact", builds=5)

    assert found.sentence.startswith("no baseline: no artifact of ")
    assert found.sentence.count("is refused: its code is of a fork") == 3
    assert project.resolved().sentence == project.resolved().told
