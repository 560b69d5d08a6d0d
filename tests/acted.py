"""A repository that uses the action, and real act that runs its workflows in host mode.

    shop = Shop(tmp_path, github)             a repository with one benchmark, whose recordings
    base = shop.commit(cost=1.0)              are replayed: what costs what is known
    ran = shop.run("push")
    ran.returncode, ran.outputs, ran.annotations("error"), ran.summary

The runner is nektos/act, GitHub is `fake_github`, `actions/upload-artifact` is the stub beside this
file; the action, ci_flame, git and pytest are real. Steps see the environment that is given
here and nothing else of this machine.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from synthetic import SHOP, grown, synthetic_measurement, synthetic_run

from ci_flame.baseline import folder

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
OURS = "1" * 40
"""The commit that workflows of the tests pin the action by."""
CHECKOUT = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1"
BENCHMARK = "benchmarks/test_shop.py::test_checkout"
GUILTY = "shop.parser:tokenize"
SECONDS = 900
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def git(*words, cwd):
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    done = subprocess.run(
        ["git", *words], cwd=cwd, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


def checkout_of_the_action(place):
    """Copy what a checkout of this repository gives the runner."""
    place.mkdir()
    for name in ("action.yml", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy2(ROOT / name, place / name)
    for name in ("actions", "tools", "ci_flame"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def uploads():
    """Return the pinned upload actions of action.yml and actions/."""
    files = [ROOT / "action.yml", *ROOT.glob("actions/*/action.yml")]
    found = re.findall(r"uses: (\S+)", "".join(file.read_text("utf-8") for file in files))
    return sorted(set(found))


def recording(cost, seed=0):
    """A run of the benchmark in which the guilty function costs `cost` times."""
    made = synthetic_measurement(
        grown(SHOP, GUILTY, cost),
        benchmark=BENCHMARK,
        seed=seed,
        rounds=5,
        places={GUILTY: ("shop/parser.py", 12)},
    )
    return synthetic_run(made)


@dataclass
class Ran:
    """One run of act, ended."""

    returncode: int
    lines: list
    files: dict = field(default_factory=dict)
    """What the workflow's last step kept: the outputs of the action, by leg."""

    @property
    def outputs(self):
        (only,) = self.files.values()
        return only

    @property
    def log(self):
        return "\n".join(str(line.get("msg", "")) for line in self.lines)

    def annotations(self, level):
        """Return the texts of one level in order; act tells each once per level of nesting."""
        found = [line for line in self.lines if line.get("command") == level]
        return list(dict.fromkeys(str(line.get("arg", "")) for line in found))

    def places(self, level):
        """Return `(file, line)` of the annotations of one level."""
        pairs = [line["kvPairs"] for line in self.lines if line.get("command") == level]
        # Where a message holds `::`, act takes the last of them for the end of the properties.
        return {(each.get("file", ""), each.get("line", "").split("::")[0]) for each in pairs}

    @property
    def summary(self):
        texts = [line["content"] for line in self.lines if line.get("command") == "summary"]
        return "\n".join(dict.fromkeys(texts))


class Runner:
    """act with one checkout of the action; what is slow is made once per session."""

    def __init__(self, place):
        self.place = place
        self.action = checkout_of_the_action(place / "action")
        self.home = place / "home"
        self.home.mkdir()

    def run(self, event, payload, *, repository, workflow, github, token, run_id, scratch, env):
        event_file = scratch / f"event-{run_id}.json"
        event_file.write_text(json.dumps(payload), encoding="utf-8")
        kept = scratch / f"kept-{run_id}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        variables = {
            "GITHUB_REPOSITORY": github.repository,
            "GITHUB_REPOSITORY_ID": str(github.repository_id),
            "GITHUB_RUN_ID": str(run_id),
            "GITHUB_API_URL": github.api_url,
            "GITHUB_WORKFLOW_REF": f"{github.repository}/{workflow}@refs/heads/main",
            "CI_FLAME_TEST_GITHUB": github.api_url,
            "CI_FLAME_TEST_KEPT": str(kept),
            **env,
        }
        words = [
            *(str(BIN / "act"), event, "--eventpath", str(event_file), "--json", "--pull=false"),
            *("--workflows", workflow, "--platform", "ubuntu-24.04=-self-hosted"),
            *("--no-cache-server", "--action-cache-path", str(self.place / "act")),
            *("--secret", f"GITHUB_TOKEN={token}"),
            *("--local-repository", f"ci-flame/ci-flame@{OURS}={self.action}"),
        ]
        for name in uploads():
            words += ["--local-repository", f"{name}={ROOT / 'tests/stubs/upload-artifact'}"]
        for name, value in variables.items():
            words += ["--env", f"{name}={value}"]
        done = subprocess.run(
            words,
            cwd=repository,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=SECONDS,
            # Steps in host mode see this environment, and nothing else of this machine.
            env={"PATH": PATH, "HOME": str(self.home), "GIT_PAGER": "cat"},
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        lines += [{"msg": line} for line in done.stderr.splitlines()]
        files = {file.stem: json.loads(file.read_text("utf-8")) for file in kept.iterdir()}
        return Ran(done.returncode, lines, files)


class Shop:
    """A repository with one benchmark and a workflow, its history known to the fake GitHub.

    With `example` it is that project, recorded for real.
    """

    def __init__(self, place, runner, github, *, example=None):
        self.place = place
        self.runner = runner
        self.github = github
        self.repository = place / "shop"
        self.workflow = github.workflow
        if example is not None:
            ignored = shutil.ignore_patterns("__pycache__", ".ci-flame", ".github")
            shutil.copytree(example, self.repository, ignore=ignored)
            git("init", "-q", "-b", "main", cwd=self.repository)
            return
        self.repository.mkdir()
        git("init", "-q", "-b", "main", cwd=self.repository)
        self.write("benchmarks/test_shop.py", "def test_checkout(flame):\n    flame(sum, [1])\n")
        self.write("shop/parser.py", "def tokenize():\n" + "    pass\n" * 20)
        self.write("pytest.ini", "[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        self.policy()
        self.uses()

    def write(self, name, text):
        file = self.repository / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def policy(self, **more):
        """Write a policy under which the recording beside it is replayed."""
        record = {"collector": "replay", "replay": "recorded"}
        self.write("ci-flame.yml", yaml.safe_dump({"version": 1, "record": record, **more}))

    def uses(self, *, matrix="", **inputs):
        """Write the workflow: the action with these inputs, then its outputs into a file."""
        given = {
            "command": f"{BIN / 'pytest'} -p no:cacheprovider benchmarks",
            "python": sys.executable,
            "setup": "none",
            **{name.replace("_", "-"): value for name, value in inputs.items()},
        }
        told = yaml.safe_dump(given, width=1000)
        self.write(
            self.workflow,
            WORKFLOW.format(
                checkout=CHECKOUT,
                ours=OURS,
                inputs="".join(f"          {line}\n" for line in told.splitlines()),
                matrix=matrix,
            ),
        )

    def recorded(self, cost, name="recorded", seed=0):
        """Write the recording that is replayed; the guilty function costs `cost` times."""
        shutil.rmtree(self.repository / name, ignore_errors=True)
        folder.save(recording(cost, seed), self.repository / name)

    def commit(self, cost=None, *, seed=0):
        """Commit all there is; return the commit, which GitHub then knows."""
        if cost is not None:
            self.recorded(cost, seed=seed)
        git("add", "--all", cwd=self.repository)
        git("commit", "-q", "--allow-empty", "-m", f"cost {cost}", cwd=self.repository)
        self.tell()
        return self.head

    @property
    def head(self):
        return git("rev-parse", "HEAD", cwd=self.repository)

    def store(self, cost, commit, key="bench", *, seed=0, **changes):
        """Let GitHub have the run of a commit of `main`, as a push would have left it."""
        kept = self.place / "stored"
        shutil.rmtree(kept, ignore_errors=True)
        folder.save(replace(recording(cost, seed), commit=commit), kept)
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for file in sorted(kept.rglob("*")):
                archive.write(file, file.relative_to(kept))
        run = self.github.add_run(**{"head_sha": commit, "path": self.workflow, **changes})
        self.github.add_artifact(run, f"ci-flame-run-{key}", data.getvalue())
        return data.getvalue()

    def tell(self):
        """Let the fake GitHub know the history."""
        lines = git("rev-list", "--parents", "--reverse", "--all", "HEAD", cwd=self.repository)
        for line in lines.splitlines():
            sha, *parents = line.split()
            self.github.commits[sha] = parents

    def pull(self, cost, *, seed=1, number=7, fork=False, files=None):
        """Check out the merge of a pull request that changes the cost, as GitHub does."""
        git("switch", "-q", "main", cwd=self.repository)
        git("switch", "-q", "-C", "topic", cwd=self.repository)
        for name, text in (files or {}).items():
            self.write(name, text)
        tip = self.commit(cost, seed=seed)
        git("switch", "-q", "--detach", "main", cwd=self.repository)
        git("merge", "-q", "--no-ff", "-m", "merge", "topic", cwd=self.repository)
        self.tell()
        here = {"id": self.github.repository_id, "full_name": self.github.repository}
        there = {"id": 2002, "full_name": "mallory/shop"} if fork else here
        pull = {
            "number": number,
            "state": "open",
            "head": {"ref": "topic", "sha": tip, "repo": there},
            "base": {"ref": "main", "sha": git("rev-parse", "main", cwd=self.repository),
                     "repo": here},
        }  # fmt: skip
        self.github.pulls[:] = [pull]
        return pull

    def run(self, event, pull=None, *, token="rw", run_id=None, env=None, payload=None):  # noqa: S107 - of the fake
        """Run the workflow in act as a run that GitHub knows."""
        repository = {
            "id": self.github.repository_id,
            "full_name": self.github.repository,
            "default_branch": "main",
        }
        told = {"repository": repository, "ref": "refs/heads/main", **(payload or {})}
        changes = {"head_sha": self.head}
        if pull is not None:
            told["pull_request"] = pull
            changes = {
                "head_sha": pull["head"]["sha"],
                "head_branch": pull["head"]["ref"],
                "head_repository": pull["head"]["repo"],
            }
        if run_id is None:
            run_id = self.github.add_run(event=event, path=self.workflow, **changes)
        self.run_id = run_id
        return self.runner.run(
            event,
            told,
            repository=self.repository,
            workflow=self.workflow,
            github=self.github,
            token=token,
            run_id=run_id,
            scratch=self.place,
            env=env or {},
        )

    def artifact(self, name):
        """Return the newest artifact of that name as {member: bytes}, or its bytes un-zipped."""
        found = [each for each in self.github.artifacts if each.name == name]
        data = max(found, key=lambda each: each.id).data
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {each: archive.read(each) for each in archive.namelist()}

    @property
    def artifacts(self):
        return {each.name for each in self.github.artifacts}


WORKFLOW = """\
name: hot paths
on: [push, pull_request]
permissions: {{}}
jobs:
  bench:
    name: bench
    runs-on: ubuntu-24.04
    permissions:
      contents: read
      actions: read
      pull-requests: write
{matrix}    steps:
      - uses: {checkout}
        with:
          persist-credentials: false
      - id: flame
        uses: ci-flame/ci-flame@{ours} # v0.1.0
        with:
{inputs}      - if: always()
        env:
          OUTPUTS: ${{{{ toJSON(steps.flame.outputs) }}}}
          LEG: ${{{{ matrix.leg || 'bench' }}}}
        run: printf '%s' "$OUTPUTS" >"$CI_FLAME_TEST_KEPT/$LEG.json"
"""
