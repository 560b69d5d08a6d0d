"""An ordinary user: words in front of a command, an interpreter and an environment for it."""

import os
import shutil
import site
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
CONTAINER = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")


@cache
def interpreter():
    """The Python of these tests, or the system's of the same minor version, that nobody may run."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, f"/usr/bin/python{minor}", shutil.which(f"python{minor}")):
        if program and _runs(program):
            return program
    pytest.skip("nobody may read this interpreter")


def _runs(program):
    # What setpriv starts may lie where nobody cannot look; what that starts may not.
    code = (
        "import subprocess, sys;"
        " subprocess.run([sys.executable, '-c', 'import ci_flame, numpy'], check=True)"
    )
    done = subprocess.run(
        [*NOBODY, program, "-c", code], capture_output=True, cwd="/", env=environment(), check=False
    )
    return done.returncode == 0


def hidden(*files):
    """Words in front of a command for which these files are empty and cannot be run.

    In a mount namespace of its own, so that nobody else misses them.
    """
    code = (
        'while [ "$1" != -- ]; do mount --bind /dev/null "$1" || exit 99; shift; done;'
        ' shift; exec "$@"'
    )
    real = [str(Path(each).resolve()) for each in files if Path(each).exists()]
    return ("unshare", "--mount", "sh", "-c", code, "sh", *real, "--")


def environment(**more):
    """What such a user needs to find ci_flame and what it is made of."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    packages = os.pathsep.join([str(ROOT), *site.getsitepackages()])
    return {
        "PATH": programs,
        "PYTHONPATH": packages,
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
        **more,
    }
