#!/bin/sh
# The step of settings.kts. TeamCity reads the service messages in its output: a failed test for each
# benchmark whose hot path grew, a build problem, and statistics for its charts.
set -eu

export CI=true # TEAMCITY_VERSION is not passed into containers
# TeamCity tells a script no target branch: without the next line a build is compared with the first
# parent of its commit, with it a whole branch is. The clone must have that branch, or may fetch it.
# export CI_FLAME_TARGET_BRANCH=main
git config --global --add safe.directory "$PWD" # the checkout belongs to the agent's user
pip install --quiet ci-flame -r requirements.txt
ci-flame doctor --fix
ci-flame check --exit-zero -- pytest benchmarks
cat .ci-flame/report/teamcity.txt
ci-flame gate .ci-flame/report
