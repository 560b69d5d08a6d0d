"""What GitHub says of a job, and what a stranger says through it."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_flame.errors import UsageError
from ci_flame.github import job, runner

SHA = "a" * 40
ENVIRONMENT = {
    "GITHUB_EVENT_NAME": "pull_request",
    "GITHUB_REPOSITORY": "acme/shop",
    "GITHUB_REPOSITORY_ID": "42",
    "GITHUB_RUN_ID": "7001",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_JOB": "hot-paths",
    "GITHUB_WORKFLOW_REF": "acme/shop/.github/workflows/perf.yml@refs/pull/7/merge",
    "GITHUB_SHA": SHA,
    "GITHUB_REF": "refs/pull/7/merge",
    "GITHUB_BASE_REF": "main",
    "GITHUB_API_URL": "https://ghe.example.org/api/v3",
    "GITHUB_SERVER_URL": "https://ghe.example.org",
    "GITHUB_WORKSPACE": "/home/runner/work/shop",
    "RUNNER_TEMP": "/home/runner/temp",
    "GITHUB_ACTOR": "dana",
}


def pull(number=7, head_id=42, head="acme/shop", **changes):
    return {
        "number": number,
        "head": {"ref": "topic", "sha": "b" * 40, "repo": {"id": head_id, "full_name": head}},
        "base": {"ref": "main", "repo": {"id": 42, "full_name": "acme/shop"}},
        **changes,
    }


def parsed(event=None, **environment):
    text = "" if event is None else json.dumps(event)
    return job.parse({**ENVIRONMENT, **environment}, text, has_token=True)


def test_a_pull_request_is_told_whole():
    event = {
        "pull_request": pull(),
        "repository": {"id": 42, "full_name": "acme/shop", "default_branch": "trunk"},
    }
    found = parsed(event)

    assert (found.event, found.repository, found.repository_id) == ("pull_request", "acme/shop", 42)
    assert (found.run_id, found.run_attempt, found.key) == (7001, 2, "hot-paths")
    assert found.workflow_path == ".github/workflows/perf.yml"
    assert (found.sha, found.ref) == (SHA, "refs/pull/7/merge")
    assert (found.base_branch, found.default_branch) == ("main", "trunk")
    assert found.pull == job.Pull(7, "main", "b" * 40, "acme/shop", fork=False)
    assert (found.pull_number, found.may_only_read, found.has_token) == (7, False, True)
    assert found.api_url == "https://ghe.example.org/api/v3"
    assert found.run_url == "https://ghe.example.org/acme/shop/actions/runs/7001"
    assert (found.trigger, found.notes) == (None, ())


def test_a_local_runner_that_tells_next_to_nothing_is_tolerated():
    found = job.parse({"GITHUB_JOB": "bench"})

    assert (found.repository, found.repository_id, found.workflow_path) == ("", 0, "")
    assert (found.key, found.pull, found.base_branch, found.run_url) == ("bench", None, "", "")
    assert (found.api_url, found.run_attempt) == ("https://api.github.com", 1)
    assert job.parse({}).key == "job"


@pytest.mark.parametrize(
    ("event", "actor", "change", "fork", "only_read"),
    [
        ("pull_request", "dana", pull(), False, False),
        ("pull_request", "dana", pull(head_id=43, head="eve/shop"), True, True),
        ("pull_request", "dana", pull(head={"sha": "b" * 40, "repo": None}), True, True),
        ("pull_request", "dependabot[bot]", pull(), False, True),
        ("pull_request_target", "dana", pull(head_id=43, head="eve/shop"), True, False),
        ("pull_request", "dana", {"number": 7}, False, False),  # a local runner's payload
    ],
)
def test_who_may_only_read(event, actor, change, fork, only_read):
    found = parsed({"pull_request": change}, GITHUB_EVENT_NAME=event, GITHUB_ACTOR=actor)

    assert (found.pull.fork, found.may_only_read) == (fork, only_read)


def test_the_branch_of_a_merge_queue_is_the_base():
    found = parsed({"merge_group": {"base_ref": "refs/heads/main"}}, GITHUB_BASE_REF="")

    assert found.base_branch == "main"


def test_the_run_that_started_a_workflow_run_job():
    event = {
        "workflow_run": {
            "id": 99,
            "run_attempt": 3,
            "event": "pull_request",
            "path": ".github/workflows/perf.yml@main",
            "head_sha": "c" * 40,
            "head_branch": "main",
            "head_repository": {"id": 43, "full_name": "eve/shop"},
        }
    }

    assert parsed(event).trigger == job.Trigger(
        99, 3, "pull_request", ".github/workflows/perf.yml", "c" * 40, "main", "eve/shop", 43
    )


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ("", ()),
        ("{}", ()),
        ("[1]", ("the event's payload is no JSON object and was not read",)),
        ('{"pull_request": ', ("the event's payload is broken JSON and was not read",)),
        ("[" * 200_000, ("the event's payload is broken JSON and was not read",)),
        ('{"pull_request": [], "repository": 5}', ()),
        ('{"pull_request": {"number": "7; rm"}}', ()),
        ('{"pull_request": {"number": -7}}', ()),
        ('{"pull_request": {"number": true}}', ()),
        ('{"pull_request": {"number": 1e400}}', ()),
    ],
)
def test_a_payload_that_is_none_is_as_good_as_absent(payload, told):
    found = job.parse(ENVIRONMENT, payload)

    assert (found.pull, found.notes) == (None, told)
    assert found.base_branch == "main"


def test_a_payload_that_is_too_long_is_not_read(monkeypatch):
    monkeypatch.setattr(job, "MAX_PAYLOAD", 40)

    assert job.parse({}, '{"pull_request": {"number": 7}}').pull_number == 7
    assert job.parse({}, '{"pull_request": {"number": 7}}' + " " * 10).notes == (
        "the event's payload is longer than 40 bytes and was not read",
    )


@pytest.mark.parametrize("word", ["main\n::error::x", "x" * 1001, "a\x1b[31m", 5, None, ["main"]])
def test_a_branch_that_is_no_line_is_not_told(word):
    event = {"pull_request": pull(base={"ref": word})}

    assert parsed(event, GITHUB_BASE_REF="").base_branch == ""


@pytest.mark.parametrize("word", ["acme", "a/b/c", "../..", "acme/..", "acme/shop?x=1", "a b/c"])
def test_a_repository_that_could_change_an_address_is_refused(word):
    with pytest.raises(UsageError, match="not owner/name"):
        parsed(GITHUB_REPOSITORY=word)


@pytest.mark.parametrize("word", ["ftp://x", "https://u:geheim@x", "javascript:1", "https://x/?q"])
def test_a_server_that_is_no_address_is_refused_without_showing_it(word):
    with pytest.raises(UsageError, match="GITHUB_API_URL is not the address") as refused:
        parsed(GITHUB_API_URL=word)

    assert word not in str(refused.value)


@pytest.mark.parametrize(
    ("ref", "path"),
    [
        ("acme/shop/.github/workflows/perf.yml@refs/heads/main", ".github/workflows/perf.yml"),
        ("Acme/Shop/.github/workflows/a b.yaml@x", ".github/workflows/a b.yaml"),
        ("acme/shop/.github/workflows/../x.yml@x", ""),
        ("eve/other/.github/workflows/perf.yml@refs/heads/main", ""),
        ("", ""),
    ],
)
def test_path_of_the_workflow(ref, path):
    assert parsed(GITHUB_WORKFLOW_REF=ref).workflow_path == path


# -- keys -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"GITHUB_JOB": "bench"}, "bench"),
        ({"GITHUB_JOB": "bench", "CI_FLAME_MATRIX": "null"}, "bench"),
        ({"GITHUB_JOB": "bench", "CI_FLAME_MATRIX": "{}"}, "bench"),
        (
            {"GITHUB_JOB": "bench", "CI_FLAME_MATRIX": '{"python": "3.12", "os": "ubuntu-24.04"}'},
            "bench_ubuntu-24.04_3.12",
        ),
        ({"GITHUB_JOB": "bench", "CI_FLAME_MATRIX": '{"n": 3}'}, "bench_3"),
        ({"GITHUB_JOB": "b", "CI_FLAME_NAME": "api", "CI_FLAME_MATRIX": '{"n": 3}'}, "api"),
    ],
)
def test_key_is_the_name_or_the_job_and_its_leg(environment, key):
    assert job.parse(environment).key == key


def test_artifacts_are_called_by_the_key():
    assert job.artifact_of_run("bench_3") == "ci-flame-run-bench_3"
    assert job.artifact_of_report("bench_3") == "ci-flame-report-bench_3"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "x/y"}, {"a": "x y"}),
        ({"a": "x_y", "b": "z"}, {"a": "x", "b": "y_z"}),
        ({"a": "x" * 100 + "1"}, {"a": "x" * 100 + "2"}),
        ({"a": "ä"}, {"a": "ö"}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}),
    ],
)
def test_legs_never_share_a_key(one, other):
    first, second = (
        job.parse({"GITHUB_JOB": "bench", "CI_FLAME_MATRIX": json.dumps(leg)}).key
        for leg in (one, other)
    )

    assert first != second


def test_two_jobs_never_share_a_key_by_their_legs():
    assert job.key_of(("a", "b", "c")) == "a_b_c"
    assert job.key_of(("a_b", "c")) != "a_b_c"


def test_a_matrix_that_is_no_object_is_said():
    found = job.parse({"CI_FLAME_MATRIX": "${{ toJSON(matrix) }}"})

    assert found.notes == ("CI_FLAME_MATRIX is no JSON object; give `${{ toJSON(matrix) }}`",)


@given(st.lists(st.text(max_size=120), min_size=1, max_size=4))
def test_a_key_is_fit_for_the_name_of_a_file_and_of_an_artifact(words):
    key = job.key_of(tuple(words))

    assert 0 < len(key) <= job.MAX_KEY
    assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not key.startswith((".", "-"))
    assert key == job.key_of(tuple(words))


@given(
    st.dictionaries(st.text(max_size=20), st.text(max_size=40) | st.integers() | st.none()),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["pull_request", "head", "base", "repo", "number", "ref", "id", "workflow_run"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    ),
)
def test_no_payload_is_an_error(leg, event):
    found = job.parse({"CI_FLAME_MATRIX": json.dumps(leg)}, json.dumps(event))

    assert found.key
    assert found.base_branch.isprintable()


# -- the runner -------------------------------------------------------------------------


def test_payload_and_token_come_from_the_runner(tmp_path):
    file = tmp_path / "event.json"
    file.write_text(json.dumps({"pull_request": pull()}), encoding="utf-8")
    given_ = {**ENVIRONMENT, "GITHUB_EVENT_PATH": str(file), "GITHUB_TOKEN": " t "}

    assert runner.job(given_).pull_number == 7
    assert runner.job(given_).has_token
    assert runner.token(given_) == "t"
    assert runner.token({**given_, "CI_FLAME_GITHUB_TOKEN": "input"}) == "input"
    assert not runner.job({**ENVIRONMENT, "GITHUB_EVENT_PATH": str(tmp_path / "no")}).has_token


def test_inputs_are_variables():
    given_ = {"CI_FLAME_BASELINE_BRANCH": " trunk ", "CI_FLAME_BASELINE": ""}

    assert runner.given_input("baseline-branch", "main", given_) == "trunk"
    assert runner.given_input("baseline", "auto", given_) == "auto"


def test_what_only_this_job_needs_is_in_the_runners_folder_or_in_our_own(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.tempfile, "gettempdir", lambda: str(tmp_path))
    place = tmp_path / f"ci-flame-{os.getuid()}"

    assert runner.scratch(job.parse(ENVIRONMENT)) == Path("/home/runner/temp/ci-flame")
    assert runner.scratch(job.parse({})) == place
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert runner.scratch(job.parse({})) == place, "a second step finds it again"

    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(UsageError, match="is not a folder of this user"):
        runner.scratch(job.parse({}))
    place.unlink()
    place.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be used: file exists"):
        runner.scratch(job.parse({}))
