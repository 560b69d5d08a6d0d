"""Targets and children in PID namespaces of their own, as containers are."""

import os
import sys

import pytest
from interpreters import stages
from recorded_stages import record

from ci_flame.collect import COLLECTORS
from ci_flame.collect.machine import probe

OBSTACLE = COLLECTORS["ebpf"].obstacle(probe(), python=True)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(OBSTACLE is not None, reason=f"eBPF: {OBSTACLE.reason if OBSTACLE else ''}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace"),
]
UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")
MAIN = ("stages:<module>", "stages:main")


def check(recorded):
    """The same in every namespace: full stacks of the target and of its children."""
    assert recorded.recording.lost == 0
    assert recorded.share("plain", *MAIN, "stages:plain") >= 0.99
    assert recorded.share("threads", "threading:Thread._bootstrap", "stages:in_thread") >= 0.98
    assert recorded.share("packing", *MAIN, "stages:packing") >= 0.99
    packing = recorded.leaves("packing")
    assert packing["libz"] + packing["zlib"] > 0.9 * recorded.total("packing")
    assert recorded.share("forked", *MAIN, "stages:forked", "stages:in_child") >= 0.97
    assert recorded.share("started", *MAIN, "stages:in_child") > 0.5
    nested = ("stages:unshared_fork", "stages:until")
    assert recorded.share("unshared_fork", *MAIN, *nested) >= 0.97
    assert recorded.share("unshared", *MAIN, "stages:in_child") > 0.5
    assert all(recorded.total(stage) > 300 for stage in STAGES)


STAGES = ("plain", "threads", "packing", "forked", "started", "unshared_fork", "unshared")


def test_children_in_a_namespace_of_their_own():
    with stages(sys.executable) as target:
        check(record(target, *STAGES))


def test_a_target_in_a_namespace_of_its_own_as_in_a_container_beside_us():
    with stages(sys.executable, *UNSHARE, inner=True) as target:
        assert target.run("number") == "1", "it takes itself for the first process"
        assert target.pid != 1
        check(record(target, *STAGES))


def test_a_target_two_namespaces_further_in():
    with stages(sys.executable, *UNSHARE, *UNSHARE, inner=2) as target:
        assert target.run("number") == "1"
        check(record(target, *STAGES))
