"""Which artifacts may be a baseline: each rule broken alone refuses."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.github import origin
from ci_flame.github.origin import Artifact, Origin, Wanted

SHA, OTHER = "a" * 40, "b" * 40
PATH = ".github/workflows/perf.yml"
WANTED = Wanted("ci-flame-run-bench", "main", PATH, 42)
ARTIFACT = Artifact(
    12, "ci-flame-run-bench", 1000, f"sha256:{'0' * 64}", expired=False, run_id=77, head_sha=SHA,
    head_branch="main", repository_id=42, head_repository_id=42,
)  # fmt: skip
RUN = Origin(77, "push", PATH, SHA, "main", 42, 42)


def test_what_fits_in_every_point_is_accepted():
    assert origin.refused_as_listed(ARTIFACT, WANTED) == ""
    assert origin.refused_by_origin(ARTIFACT, RUN, WANTED) == ""
    for event in ("schedule", "workflow_dispatch"):
        assert origin.refused_by_origin(ARTIFACT, replace(RUN, event=event), WANTED) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "ci-flame-run-other"}, "its name is ci-flame-run-other"),
        ({"expired": True}, "it has expired"),
        ({"digest": ""}, "GitHub tells no sha256 of it"),
        ({"size": 0}, "it is 0 bytes"),
        ({"size": origin.MAX_ZIP + 1}, f"it is {origin.MAX_ZIP + 1} bytes; the limit is"),
        ({"run_id": 0}, "GitHub does not tell its run"),
        ({"head_sha": ""}, "GitHub does not tell its commit"),
        ({"head_branch": "topic"}, "its branch is topic, not main"),
        ({"head_branch": ""}, "its branch is not told, not main"),
        ({"repository_id": 43}, "it is of another repository"),
        ({"head_repository_id": 43}, "its code is of a fork"),
        ({"head_repository_id": 0}, "GitHub does not tell the repository of its code"),
    ],
)
def test_each_rule_of_the_list_refuses_alone(change, reason):
    assert reason in origin.refused_as_listed(replace(ARTIFACT, **change), WANTED)


def test_the_largest_artifact_is_accepted():
    assert origin.refused_as_listed(replace(ARTIFACT, size=origin.MAX_ZIP), WANTED) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run_id": 78}, "GitHub answered with another run"),
        ({"event": "pull_request"}, "started by pull_request, not by push, schedule or workflow_d"),
        ({"event": "pull_request_target"}, "started by pull_request_target"),
        ({"event": "workflow_run"}, "started by workflow_run"),
        ({"event": ""}, "started by nothing told"),
        ({"workflow_path": ".github/workflows/evil.yml"}, "evil.yml, not .github/workflows/perf"),
        ({"workflow_path": ""}, "its workflow is not told"),
        ({"head_sha": OTHER}, "its run is of another commit than it"),
        ({"head_branch": "topic"}, "its branch is topic, not main"),
        ({"repository_id": 43, "head_repository_id": 43}, "it is of another repository"),
        ({"head_repository_id": 43}, "its code is of a fork"),
        ({"head_repository_id": 0}, "GitHub does not tell the repository of its code"),
    ],
)
def test_each_rule_of_the_run_refuses_alone(change, reason):
    assert reason in origin.refused_by_origin(ARTIFACT, replace(RUN, **change), WANTED)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"workflow_path": ""}, "GITHUB_WORKFLOW_REF does not tell"),
        ({"branch": ""}, "the branch that a baseline must be of is not known"),
    ],
)
def test_what_is_not_known_of_the_job_refuses(change, reason):
    assert reason in origin.refused_by_origin(ARTIFACT, RUN, replace(WANTED, **change))


def test_a_repository_that_is_not_told_must_still_be_one():
    wanted = replace(WANTED, repository_id=0)

    assert origin.refused_by_origin(ARTIFACT, RUN, wanted) == ""
    assert "a fork" in origin.refused_by_origin(
        ARTIFACT, replace(RUN, head_repository_id=43), wanted
    )


# -- what GitHub answers ------------------------------------------------------------------


def listed(**changes):
    run = {
        "id": 77,
        "repository_id": 42,
        "head_repository_id": 42,
        "head_branch": "main",
        "head_sha": SHA,
        **changes.pop("run", {}),
    }
    return {
        "id": 12,
        "name": "ci-flame-run-bench",
        "size_in_bytes": 1000,
        "digest": f"sha256:{'0' * 64}",
        "expired": False,
        "workflow_run": run,
        **changes,
    }


def test_an_answer_is_read():
    assert origin.read_artifact(listed()) == ARTIFACT
    told = {
        "id": 77,
        "event": "push",
        "path": f"{PATH}@refs/heads/main",
        "head_sha": SHA,
        "head_branch": "main",
        "repository": {"id": 42},
        "head_repository": {"id": 42},
    }
    assert origin.read_origin(told) == RUN


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"expired": None}, "expired", True),
        ({"expired": "false"}, "expired", True),
        ({"digest": "sha256:" + "A" * 64}, "digest", ""),
        ({"digest": "md5:" + "0" * 64}, "digest", ""),
        ({"digest": None}, "digest", ""),
        ({"size_in_bytes": "1000"}, "size", 0),
        ({"size_in_bytes": True}, "size", 0),
        ({"workflow_run": None}, "run_id", 0),
        ({"workflow_run": []}, "head_sha", ""),
        ({"run": {"head_sha": "main"}}, "head_sha", ""),
        ({"run": {"head_branch": "main\n::error::"}}, "head_branch", ""),
        ({"run": {"head_branch": "x" * 1001}}, "head_branch", ""),
        ({"run": {"head_repository_id": 42.0}}, "head_repository_id", 0),
    ],
)
def test_what_is_not_clear_is_not_told(changes, field, value):
    assert getattr(origin.read_artifact(listed(**changes)), field) == value


@pytest.mark.parametrize("value", [None, [], "x", {}, {"id": "12", "name": "n"}, {"id": 12}])
def test_what_is_no_artifact_is_none(value):
    assert origin.read_artifact(value) is None
    assert origin.read_origin(value) is None or value == {"id": 12}


def test_the_nearest_is_first_and_of_one_commit_the_newest():
    rows = [(1, SHA), (5, OTHER), (3, SHA), (9, "c" * 40), (3, SHA)]
    found = origin.in_order(
        [replace(ARTIFACT, id=number, head_sha=sha) for number, sha in rows], {OTHER: 0, SHA: 4}
    )

    assert [(distance, each.id) for distance, each in found] == [(0, 5), (4, 3), (4, 1)]


# -- never one that breaks a rule ---------------------------------------------------------

SOME = st.sampled_from
ARTIFACTS = st.builds(
    Artifact,
    id=st.integers(1, 50),
    name=SOME(["ci-flame-run-bench", "ci-flame-run-other"]),
    size=SOME([0, 1, origin.MAX_ZIP, origin.MAX_ZIP + 1]),
    digest=SOME(["", f"sha256:{'0' * 64}"]),
    expired=st.booleans(),
    run_id=SOME([0, 77, 78]),
    head_sha=SOME(["", SHA, OTHER]),
    head_branch=SOME(["", "main", "Main", "topic"]),
    repository_id=SOME([0, 42, 43]),
    head_repository_id=SOME([0, 42, 43]),
)
ORIGINS = st.builds(
    Origin,
    run_id=SOME([77, 78]),
    event=SOME(["push", "schedule", "workflow_dispatch", "pull_request", "", "Push"]),
    workflow_path=SOME(["", PATH, ".github/workflows/evil.yml"]),
    head_sha=SOME(["", SHA, OTHER]),
    head_branch=SOME(["", "main", "Main", "topic"]),
    repository_id=SOME([0, 42, 43]),
    head_repository_id=SOME([0, 42, 43]),
)
WISHES = st.builds(
    Wanted,
    name=st.just("ci-flame-run-bench"),
    branch=SOME(["", "main"]),
    workflow_path=SOME(["", PATH]),
    repository_id=SOME([0, 42]),
)


def near(value, others):
    """Mostly what fits, so that accepted ones are among the examples."""
    return st.one_of(st.just(value), st.just(value), others)


@given(
    st.lists(st.tuples(near(ARTIFACT, ARTIFACTS), near(RUN, ORIGINS)), max_size=12),
    near(WANTED, WISHES),
)
def test_nothing_that_breaks_a_rule_is_ever_accepted(candidates, wanted):
    accepted = [
        (artifact, run)
        for artifact, run in candidates
        if not origin.refused_as_listed(artifact, wanted)
        and not origin.refused_by_origin(artifact, run, wanted)
    ]

    for artifact, run in accepted:
        assert run.event in ("push", "schedule", "workflow_dispatch")
        assert run.head_repository_id == run.repository_id == artifact.head_repository_id != 0
        assert wanted.repository_id in (0, run.repository_id)
        assert run.head_branch == artifact.head_branch == wanted.branch == "main"
        assert run.workflow_path == wanted.workflow_path == PATH
        assert run.head_sha == artifact.head_sha != ""
        assert run.run_id == artifact.run_id
        assert not artifact.expired
        assert artifact.digest
        assert artifact.name == wanted.name
        assert 0 < artifact.size <= origin.MAX_ZIP
    assert len(accepted) >= sum(pair == (ARTIFACT, RUN) for pair in candidates if wanted == WANTED)
