#!/bin/sh
# The hot paths of a change, on any CI: hot-paths.sh [BASE]. Ends with the verdict's exit code.
#
# BASE is the commit or branch to compare with. Without it ci-flame finds it: most CIs tell the
# target branch in a variable; otherwise it is the first parent of HEAD.
set -eu

export CI=true
base=${1:+rerun:$1}

pip install --quiet ci-flame -r requirements.txt
ci-flame doctor --fix
ci-flame check --exit-zero --baseline "${base:-auto}" -- pytest benchmarks

# Publish .ci-flame/report here, before the build ends red: report.html for people, static.html
# where scripts are blocked, junit.xml, codequality.json, results.sarif and metrics.txt for others.

ci-flame gate .ci-flame/report
