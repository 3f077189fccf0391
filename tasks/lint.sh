#!/usr/bin/env bash
# Run every linter, report them all, and fail at the end if one of them did.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
failed=()

check() {
  local name=$1
  shift
  echo "lint: $name"
  "$@" || failed+=("$name")
}

check flake8 "$python" -m flake8 few_shot_nas training benchmarks tests
check mypy "$python" -m mypy few_shot_nas training benchmarks
scripts=(tasks/*.sh benchmarks/*.sh training/clusters/* .ci/run)
for script in "${scripts[@]}"; do
  check "bash -n $script" bash -n "$script"
done
if command -v shellcheck >/dev/null; then
  check shellcheck shellcheck "${scripts[@]}"
else
  echo "lint: shellcheck is not installed, left out"
fi

if [ ${#failed[@]} -gt 0 ]; then
  echo "lint: FAILED: ${failed[*]}" >&2
  exit 1
fi
echo "lint: passed"
