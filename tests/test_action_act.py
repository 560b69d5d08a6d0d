"""The whole action under real act: what a maintainer sees of each kind of build.

Most builds replay recordings with known truth (`acted.Shop`); two kinds record with eBPF.
"""

import json
import os
import re
import shutil
import sys
import venv

import pytest
import yaml
from acted import BIN, CHECKOUT, GUILTY, ROOT, Runner, Shop, checkout_of_the_action, git
from fake_github import FakeGitHub

from ci_flame.github.artifacts import read_run
from ci_flame.profile import Mode

pytestmark = [pytest.mark.act]
RUN, REPORT, PAGE = "ci-flame-run-bench", "ci-flame-report-bench", "ci-flame-bench.html"
ARTIFACTS = "/repos/acme/shop/actions/artifacts"


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("act"))


@pytest.fixture
def github():
    with FakeGitHub("acme/shop") as fake:
        yield fake


@pytest.fixture
def shop(tmp_path, runner, github):
    """A shop whose recordings are replayed: the base commit cannot be recorded beside them."""
    made = Shop(tmp_path, runner, github)
    made.policy(baseline={"rerun": "never"})
    return made


@pytest.fixture
def stored(shop):
    """The shop after one push: `shop.base` is the commit whose run is stored."""
    shop.base = shop.commit(1.0)
    shop.data = shop.store(1.0, shop.base)
    return shop


def baseline_of(ran):
    return ran.outputs["baseline-source"], ran.outputs["baseline-sha"]


# -- the maintainer's days --------------------------------------------------------------


def test_first_push_passes_says_so_and_keeps_its_run(shop):
    head = shop.commit(1.0)
    ran = shop.run("push")

    assert ran.returncode == 0, ran.log
    assert (ran.outputs["outcome"], ran.outputs["exit-code"]) == ("no-baseline", "0")
    assert baseline_of(ran) == ("none", "")
    assert shop.artifacts == {RUN, REPORT, PAGE}
    run = json.loads(shop.artifact(RUN)["run.json"])
    assert (run["commit"], run["complete"]) == (head, True)
    assert {"verdict.json", "report.html", "junit.xml"} <= set(shop.artifact(REPORT))
    assert shop.artifact(PAGE).startswith(b"<!doctype html>")
    assert "NO-BASELINE" in ran.summary
    assert ran.annotations("error") == []


def test_pull_request_that_changes_nothing_passes_in_silence(stored, github):
    ran = stored.run("pull_request", stored.pull(1.0))

    assert ran.returncode == 0, ran.log
    assert ran.outputs["outcome"] == "pass"
    assert baseline_of(ran) == ("artifact", stored.base)
    assert ran.outputs["baseline-distance"] == "0"
    assert ran.annotations("error") == ran.annotations("warning") == []
    assert "PASS" in ran.summary
    assert github.comments == []


def test_pull_request_that_grows_is_told_everywhere_and_then_fails(stored, github):
    """And the comment is brought up to date: by a second attempt, and when it is mended."""
    pull = stored.pull(1.5)
    ran = stored.run("pull_request", pull)

    assert ran.returncode == 1
    assert (ran.outputs["outcome"], ran.outputs["exit-code"]) == ("fail", "1")
    assert any(GUILTY in text and "grew by" in text for text in ran.annotations("error"))
    assert ("shop/parser.py", "12") in ran.places("error")
    assert any("a hot path grew" in text for text in ran.annotations("error"))
    assert len(ran.annotations("error")) <= 10
    assert "FAIL" in ran.summary
    assert ran.outputs["page-url"] in ran.summary
    (comment,) = github.comments
    assert GUILTY.split(":")[1] in comment["body"]
    assert ran.outputs["comment-url"] == comment["html_url"]

    uploaded = {each.id for each in github.artifacts if each.run == stored.run_id}
    again = stored.run("pull_request", pull, run_id=stored.run_id, env={"GITHUB_RUN_ATTEMPT": "2"})

    assert again.returncode == 1, again.log
    replaced = {each.id for each in github.artifacts if each.run == stored.run_id}
    assert len(uploaded) == len(replaced) == 3
    assert not uploaded & replaced
    assert len(github.comments) == 1

    mended = stored.run("pull_request", stored.pull(1.0, seed=3))

    assert mended.returncode == 0, mended.log
    assert len(github.comments) == 1
    assert "PASS" in github.comments[0]["body"] or "✅" in github.comments[0]["body"]


def test_pull_request_that_breaks_a_warning_stays_green(shop, github):
    rules = [{"frames": "*", "max_growth": "10%", "severity": "warn"}]
    shop.policy(baseline={"rerun": "never"}, rules=rules)
    shop.store(1.0, shop.commit(1.0))
    ran = shop.run("pull_request", shop.pull(1.5))

    assert ran.returncode == 0, ran.log
    assert (ran.outputs["outcome"], ran.outputs["exit-code"]) == ("warn", "0")
    assert any(GUILTY in text for text in ran.annotations("warning"))
    assert ran.annotations("error") == []
    assert len(github.comments) == 1


def test_benchmark_command_that_fails_is_red_and_nothing_is_kept_for_later(shop):
    shop.write(
        "benchmarks/test_shop.py", "def test_checkout(flame):\n    assert flame(sum, [1]) == 2\n"
    )
    shop.commit(1.0)
    ran = shop.run("push")

    assert ran.returncode == 1
    assert ran.outputs["outcome"] == "error"
    assert ran.outputs["exit-code"] not in ("", "0", "1")
    # Why, and which test, stand where the result is looked at.
    crashed = "test_checkout failed: assert 1 == 2 (exit code 3)"
    assert any(crashed in text for text in ran.annotations("error"))
    assert "benchmarks/test&#95;shop.py::test&#95;checkout failed" in ran.summary
    told = json.loads(shop.artifact(RUN)["run.json"]) if RUN in shop.artifacts else {}
    assert not told.get("measurements")


def test_what_a_benchmark_prints_is_no_command(shop):
    """Neither an error nor an output, nor the end of the fence."""
    shop.uses(command=f"{BIN / 'pytest'} -s -p no:cacheprovider benchmarks")
    shop.write(
        "benchmarks/test_shop.py",
        "def test_checkout(flame):\n"
        "    print('\\n::error::mine\\n::stop-commands::x\\n::x::')\n"
        "    print('\\n::set-output name=outcome::pass\\n##[error]mine')\n"
        "    flame(sum, [1])\n",
    )
    shop.commit(1.0)
    ran = shop.run("push")

    assert ran.returncode == 0, ran.log
    assert "::error::mine" in ran.log
    assert ran.annotations("error") == []
    assert ran.outputs["outcome"] == "no-baseline"


# -- which baseline -----------------------------------------------------------------------


def test_nearest_ancestor_with_a_run_is_taken_and_the_build_before_it_stands_beside(stored):
    stored.write("NEWS", "one\n")
    near = stored.commit()
    stored.store(1.0, near, seed=5)
    stored.write("NEWS", "two\n")
    stored.commit()
    ran = stored.run("pull_request", stored.pull(1.5))
    told = f"compared with 2 builds: {near[:10]} (1 before the base), {stored.base[:10]} (2 before)"
    members = stored.artifact(REPORT)

    assert ran.returncode == 1, ran.log
    assert baseline_of(ran) == ("ancestor", near)
    assert (ran.outputs["baseline-distance"], ran.outputs["baseline-builds"]) == ("1", "2")
    assert ran.outputs["baseline-told"] == told
    assert told in ran.log
    assert told in ran.summary
    assert json.loads(members["verdict.json"])["before"]["commit"] == near
    kept = [text for name, text in members.items() if name.endswith("run.json")]
    assert sorted(json.loads(text)["commit"] for text in kept).count(stored.base) == 1


def test_baseline_that_a_fork_has_uploaded_is_refused_by_name(stored, github):
    """Named `main` as ours is, of the base commit, by the same workflow: but not ours."""
    github.artifacts.clear()
    fork = {"id": 2002, "full_name": "mallory/shop"}
    poisoned = github.add_run(head_sha=stored.base, head_branch="main", head_repository=fork)
    github.add_artifact(poisoned, RUN, stored.data)
    pulled = github.add_run(head_sha=stored.base, head_branch="main", event="pull_request")
    github.add_artifact(pulled, RUN, stored.data)
    forged = github.add_run(head_sha=stored.base, head_branch="main")
    github.add_artifact(forged, RUN, stored.data, digest=f"sha256:{'0' * 64}")
    ran = stored.run("pull_request", stored.pull(1.5))

    assert ran.returncode == 0, ran.log
    assert ran.outputs["outcome"] == "no-baseline"
    assert baseline_of(ran)[0] == "none"
    assert ran.log.count("is refused:") >= 3
    assert "there was nothing to compare with: no artifact can be used" in ran.summary
    assert "its code is of a fork" in ran.summary
    assert "is refused: its code is of a fork" in stored.artifact(REPORT)["verdict.json"].decode()


def test_legs_of_a_matrix_have_their_own_baselines(shop, github):
    matrix = "    strategy:\n      fail-fast: false\n      matrix:\n        leg: [fast, slow]\n"
    shop.uses(matrix=matrix, policy="${{ matrix.leg }}.yml")
    for leg in ("fast", "slow"):
        record = {"collector": "replay", "replay": leg}
        text = yaml.safe_dump({"version": 1, "record": record, "baseline": {"rerun": "never"}})
        shop.write(f"{leg}.yml", text)
        shop.recorded(1.0, leg)
    base = shop.commit()
    for leg in ("fast", "slow"):
        shop.store(1.0, base, f"bench_{leg}")
    shop.recorded(1.0, "fast", seed=3)
    shop.recorded(1.5, "slow", seed=3)
    shop.commit()
    second = shop.run("push")

    assert {each["key"] for each in second.files.values()} == {"bench_fast", "bench_slow"}
    assert {f"ci-flame-{leg}.html" for leg in ("bench_fast", "bench_slow")} <= shop.artifacts
    assert second.returncode == 1, second.log
    assert second.files["fast"]["outcome"] == "pass"
    assert second.files["slow"]["outcome"] == "fail"
    assert {each["baseline-source"] for each in second.files.values()} == {"artifact"}


def test_steps_one_by_one_come_to_the_same(stored, github):
    """Those of the page: record, baseline, compare; the set-up is there."""
    text = (ROOT / "docs" / "github-action.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    (block,) = [each for each in blocks if "actions/record" in each]
    steps = yaml.safe_load(block)[1:]  # without the set-up
    for step in steps:
        step.setdefault("with", {})["python"] = str(BIN / "python")
        if "command" in step["with"]:
            step["with"]["command"] = f"{BIN / 'pytest'} -p no:cacheprovider benchmarks"
    steps[-1]["id"] = "flame"
    workflow = yaml.safe_load((stored.repository / stored.workflow).read_text(encoding="utf-8"))
    job = workflow["jobs"]["bench"]
    job["steps"] = [job["steps"][0], *steps, job["steps"][-1]]
    workflow["on"] = workflow.pop(True)  # YAML 1.1 takes `on` for a Boolean
    stored.write(stored.workflow, yaml.safe_dump(workflow))
    ran = stored.run("pull_request", stored.pull(1.5))

    assert ran.returncode == 1
    assert (ran.outputs["outcome"], ran.outputs["exit-code"]) == ("fail", "1")
    assert stored.artifacts == {RUN, REPORT, PAGE}
    assert any(GUILTY in text for text in ran.annotations("error"))
    assert "the base commit itself" in ran.log
    (comment,) = github.comments
    assert ran.outputs["comment-url"] == comment["html_url"]


# -- what GitHub does not allow, or cannot ---------------------------------------------------


def test_pull_request_of_a_fork_is_judged_and_only_cannot_comment(stored, github):
    """Its token may read the baseline; the second workflow comments for it."""
    ran = stored.run("pull_request", stored.pull(1.5, fork=True), token="ro")  # noqa: S106 - of the fake
    fork_run = stored.run_id

    assert ran.returncode == 1
    assert ran.outputs["outcome"] == "fail"
    assert baseline_of(ran) == ("artifact", stored.base)
    assert github.comments == []
    assert any("no comment" in text for text in ran.annotations("notice"))
    assert not any("comment" in text for text in ran.annotations("warning"))

    workflow = ".github/workflows/comment.yml"
    stored.write(workflow, COMMENT_WORKFLOW)
    git("switch", "-q", "main", cwd=stored.repository)
    stored.write(workflow, COMMENT_WORKFLOW)
    stored.commit()
    stored.workflow = workflow
    run = {**github.runs[fork_run], "name": "hot paths"}
    told = stored.run("workflow_run", payload={"workflow_run": run, "action": "completed"})

    assert told.returncode == 0, told.log
    (comment,) = github.comments
    assert comment["issue"] == 7
    assert GUILTY.split(":")[1] in comment["body"]
    assert told.files["comment"]["comment-url"] in ("", comment["html_url"])


COMMENT_WORKFLOW = """\
name: hot paths comment
on:
  workflow_run:
    workflows: [hot paths]
    types: [completed]
permissions: {}
jobs:
  comment:
    runs-on: ubuntu-24.04
    permissions:
      actions: read
      pull-requests: write
    steps:
      - id: flame
        uses: ci-flame/ci-flame/actions/comment@1111111111111111111111111111111111111111 # v0.1.0
      - if: always()
        env:
          OUTPUTS: ${{ toJSON(steps.flame.outputs) }}
        run: printf '%s' "$OUTPUTS" >"$CI_FLAME_TEST_KEPT/comment.json"
"""

BASELINES = """\
name: baselines
on: pull_request
permissions: {{}}
jobs:
  bench:
    runs-on: ubuntu-24.04
    steps:
      - uses: {checkout}
        with:
          persist-credentials: false
{steps}"""
ONE_BASELINE = """\
      - id: s{number}
        uses: ci-flame/ci-flame/actions/baseline@1111111111111111111111111111111111111111 # v0.1.0
        with:
          python: {python}
      - if: always()
        env:
          OUTPUTS: ${{{{ toJSON(steps.s{number}.outputs) }}}}
        run: printf '%s' "$OUTPUTS" >"$CI_FLAME_TEST_KEPT/{number}.json"
"""
HOPELESS = [
    # an hour is more than a job waits
    *((status, {}) for status in (401, 403, 404, 410, 422)),
    (503, {"Retry-After": "3600"}),
]
PASSING = [(429, {"Retry-After": "0"}), (503, {"Retry-After": "0"})]


def test_errors_of_the_api_cost_the_stored_baseline_and_no_build(stored, github):
    """One job asks for the baseline again and again, and each time another thing goes wrong.

    The last time GitHub is too busy, and too busy once more: that is waited for.
    """
    pull = stored.pull(1.0)
    python = str(BIN / "python")
    steps = [ONE_BASELINE.format(number=each, python=python) for each in range(len(HOPELESS) + 1)]
    stored.write(stored.workflow, BASELINES.format(checkout=CHECKOUT, steps="".join(steps)))
    for status, headers in HOPELESS + PASSING:
        # Each step's first question is for the list of artifacts.
        github.fault("GET", ARTIFACTS, status=status, headers=headers)
    ran = stored.run("pull_request", pull)
    sources = [ran.files[str(each)]["baseline-source"] for each in range(len(HOPELESS) + 1)]
    told = ran.annotations("notice")

    assert ran.returncode == 0, ran.log
    assert sources == ["none"] * len(HOPELESS) + ["artifact"]
    assert len(told) == len(HOPELESS)
    for (status, _headers), text in zip(HOPELESS, told, strict=True):
        assert f"with {status}: " in text
    assert ran.annotations("error") == []


def test_service_that_goes_down_in_the_middle_fails_no_build(stored, github):
    """The baseline is there, then nobody answers: no upload, no comment, and the verdict holds."""
    github.fault("PUT", "/_upload/.*", drop="before", times=99)
    github.fault("GET", ".*/comments", drop="middle", times=99)
    github.fault("POST", ".*", drop="before", times=99)
    ran = stored.run("pull_request", stored.pull(1.0), env={})

    assert ran.returncode == 0, ran.log
    assert ran.outputs["outcome"] == "pass"
    assert ran.outputs["report-url"] == ""

    failed = stored.run("pull_request", stored.pull(1.5))

    assert failed.returncode == 1, failed.log
    assert failed.outputs["outcome"] == "fail"
    assert any("no comment was written" in text for text in failed.annotations("warning"))
    assert github.comments == []


def test_input_that_is_no_word_ends_the_job_with_the_words_that_may_be(shop):
    shop.uses(baseline="yesterday")
    shop.commit(1.0)
    ran = shop.run("push")

    assert ran.returncode == 1
    assert "input baseline is 'yesterday'" in ran.log
    assert "auto, artifact, rerun, none" in ran.log
    assert "Traceback" not in ran.log
    assert shop.artifacts == set()


# -- recorded for real --------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: host mode records here")


@pytest.fixture
def library(tmp_path, runner, github):
    """The example library, under its own policy, however busy this machine is."""
    made = Shop(tmp_path, runner, github, example=ROOT / "examples" / "library")
    policy = made.repository / "ci-flame.yml"
    text = policy.read_text(encoding="utf-8")
    policy.write_text(text.replace("record:\n", "record:\n  busy: 100%\n"), encoding="utf-8")
    made.write(".gitignore", ".ci-flame/\n__pycache__/\n")
    return made


@pytest.mark.root
@as_root
def test_ebpf_records_a_first_push_and_a_pull_request_that_fails(library, tmp_path, github):
    """Set up by the action from its own checkout, into an environment that has nothing yet."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    programs = environment / "bin"
    library.uses(command=f"{programs}/pytest benchmarks", python=f"{programs}/python", setup="auto")
    base = library.commit()
    first = library.run("push")

    assert first.returncode == 0, first.log
    assert first.outputs["outcome"] == "no-baseline"
    assert first.outputs["collector"] == "ebpf"
    assert any("are recorded by ebpf" in text for text in first.annotations("notice"))
    kept = json.loads(library.artifact(RUN)["run.json"])
    assert kept["environment"]["collector"] == "ebpf"

    library.uses(command=f"{programs}/pytest benchmarks", python=f"{programs}/python")
    landed = library.commit()
    git("apply", str(ROOT / "examples/library/slower.patch"), cwd=library.repository)
    text = (library.repository / "shop/text.py").read_text(encoding="utf-8")
    git("checkout", "-q", ".", cwd=library.repository)
    pull = library.pull(None, files={"shop/text.py": text})
    ran = library.run("pull_request", pull)
    verdict = json.loads(library.artifact(REPORT)["verdict.json"])

    assert ran.returncode == 1, ran.log
    assert ran.outputs["outcome"] == "fail"
    # What is stored is of the commit before; it failed, and was confirmed beside the base itself.
    assert f"the artifact of {base[:10]}, 1 commit before the base" in ran.log
    assert baseline_of(ran) == ("rerun", landed)
    assert ran.outputs["baseline-distance"] == "0"
    assert verdict["before"]["commit"] == landed
    assert (
        f"compared with <code>{landed[:10]}</code> (recorded again in the same job)" in ran.summary
    )
    assert any("shop.text:significant" in text for text in ran.annotations("error"))
    assert "shop/text.py" in {file for file, _line in ran.places("error")}
    assert verdict["after"]["environment"]["collector"] == "ebpf"
    (comment,) = github.comments
    assert "significant" in comment["body"]
    assert git("worktree", "list", cwd=library.repository).count("\n") == 0


@pytest.mark.root
@as_root
def test_base_is_recorded_beside_the_head_in_a_shallow_clone(library, tmp_path):
    """`baseline: rerun` fetches the one commit that the clone lacks."""
    library.write("ci-flame.yml", SHORT)
    library.uses(command=f"{BIN / 'pytest'} benchmarks", baseline="rerun")
    base = library.commit()
    library.write("NEWS", "Opening hours\n")
    library.commit()
    whole = library.repository
    git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=whole)
    shallow = tmp_path / "shallow"
    git("clone", "-q", "--depth=1", f"file://{whole}", str(shallow), cwd=tmp_path)
    library.repository = shallow
    ran = library.run("push")

    assert ran.returncode == 0, ran.log
    assert ran.outputs["outcome"] in ("pass", "inconclusive")
    assert baseline_of(ran) == ("rerun", base)
    verdict = json.loads(library.artifact(REPORT)["verdict.json"])
    assert verdict["before"]["commit"] == base
    assert verdict["before"]["environment"]["collector"] == "ebpf"


@pytest.mark.root
@as_root
def test_the_projects_own_workflow_records_its_own_hot_paths(tmp_path, runner, github):
    """As `.github/workflows/hot-paths.yml` says, set up already, and in less time."""
    project = checkout_of_the_action(tmp_path / "project")
    shutil.copytree(ROOT / "bench" / "hot", project / "bench" / "hot")
    (project / "tests").mkdir()
    shutil.copy2(ROOT / "tests" / "synthetic.py", project / "tests")
    github.workflow = ".github/workflows/hot-paths.yml"
    own = Shop(tmp_path, runner, github, example=project)
    own.write(".gitignore", ".ci-flame/\n__pycache__/\n")
    short = "record: {busy: 100%, processes: 1, seconds: 0.2}\n"
    policy = yaml.safe_load((ROOT / "bench/hot/ci-flame.yml").read_text(encoding="utf-8"))
    own.write("bench/hot/ci-flame.yml", yaml.safe_dump({**policy, **yaml.safe_load(short)}))
    workflow = yaml.safe_load((ROOT / github.workflow).read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True)  # YAML 1.1 takes `on` for a Boolean
    (job,) = workflow["jobs"].values()
    checkout, python, action = job["steps"]
    assert python["uses"].startswith("actions/setup-python@")
    assert action["uses"] == "./"
    assert action["with"]["command"].startswith("python3 -m pytest ")
    command = action["with"]["command"].replace("python3", sys.executable, 1)
    command += " -k 'comparing or judging'"
    action["with"] |= {"python": sys.executable, "setup": "none", "command": command}
    job["steps"] = [checkout, action]
    own.write(own.workflow, yaml.safe_dump(workflow))
    own.commit()
    ran = own.run("push")

    assert ran.returncode == 0, ran.log
    (name,) = [each for each in own.artifacts if each.startswith("ci-flame-run-")]
    assert name == "ci-flame-run-hot-paths"
    (data,) = [each.data for each in github.artifacts if each.name == name]
    kept = read_run(data, name)
    assert {each.benchmark for each in kept.measurements} == {
        "test_hot.py::test_comparing",
        "test_hot.py::test_judging",
    }
    assert kept.environment.collector == "ebpf"
    profile = kept.measurement("test_hot.py::test_comparing").profile(Mode.ON_CPU)
    seen = {frame.module for stack in profile.stacks for frame in stack}
    assert "ci_flame.diff" in seen


SHORT = """\
version: 1
record:
  busy: 100%
  processes: 2
  seconds: 1
rules:
  - frames: "*"
    max_growth: 100%
"""
