"""One benchmark per workload, as a project would write them; which ones, a plan says."""

import os
from pathlib import Path

import pytest
import workloads

from ci_flame.pytest_plugin import Flame

PLAN = workloads.plan_of(Path(os.environ["CI_FLAME_POWER_PLAN"]))


@pytest.mark.parametrize("workload", [name for name in workloads.WORKLOADS if name in PLAN])
def test(flame: Flame, workload: str) -> None:
    """Measure one workload."""
    flame(workloads.build(workload, PLAN[workload]))
