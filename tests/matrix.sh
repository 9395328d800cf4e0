#!/usr/bin/env bash
# Runs the suite with other Pythons in fresh environments, and stores the outcomes in matrix.json:
#   bash tests/matrix.sh PYTHON [PYTHON ...] [-- ARGUMENTS OF PYTEST]
# Dependencies are the newest; with CONSTRAINTS=tests/constraints-oldest.txt, those of the file.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
pythons=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
    pythons+=("$1")
    shift
done
[ ${#pythons[@]} -gt 0 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
[ $# -eq 0 ] || shift
export OMP_NUM_THREADS=1
failed=0
for python in "${pythons[@]}"; do
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
    "$python" -m venv "$environment"
    constraints=(${CONSTRAINTS:+-c "$CONSTRAINTS"})
    "$environment/bin/python" -m pip install --quiet -e ".[test]" "${constraints[@]}"
    "$environment/bin/python" -m pytest -n 2 --junitxml="$environment/report.xml" "$@" || failed=1
    "$environment/bin/python" tests/matrix.py "$environment/report.xml" "$@"
    rm -rf "$environment"
done
exit $failed
