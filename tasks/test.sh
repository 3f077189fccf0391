#!/usr/bin/env bash
# Run the tests; arguments go to pytest, e.g. tasks/test.sh tests/meta -k adapt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
# The tests' tensors are tiny: more threads only wait for each other, and sums in another order are not bit-equal.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MPLBACKEND=Agg
# Two processes, each with whole files: fixtures of a module are built once.
exec "$python" -m pytest --numprocesses="${TEST_PROCESSES:-2}" --dist=loadfile "$@"
