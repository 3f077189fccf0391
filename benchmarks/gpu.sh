#!/usr/bin/env bash
# GPU tests, the table and a profile on one GPU, in a few minutes. Usage: benchmarks/gpu.sh [OUTPUT_FOLDER]
# On a machine without a GPU it runs the same commands on tiny shapes, to try the script.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
out=${1:-runs/gpu}
python=${PYTHON:-python}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0
step() {  # NAME COMMAND...: run it, keep its output, go on when it fails
  local name=$1 began=$SECONDS
  shift
  echo "== $name: $*"
  "$@" 2>&1 | tee "$out/$name.log"
  local status=${PIPESTATUS[0]}
  echo "== $name: exit $status after $((SECONDS - began)) s"
  [ "$status" -eq 0 ] || failed=1
}
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  step table "$python" benchmarks/run.py --device cuda --repeats 5 --output "$out/table.json"
  step profile "$python" benchmarks/profile_step.py --device cuda
  step data "$python" benchmarks/data.py --rounds 3 --output "$out/data.json"
  step tests "$python" -m pytest -q -p no:cacheprovider -m gpu tests/algorithms/test_engines_gpu.py
else
  step table "$python" benchmarks/run.py --device cpu --tiny --engines unroll,folded,graph --repeats 1 --output "$out/table.json"
  step profile "$python" benchmarks/profile_step.py --device cpu --tiny
  step data "$python" benchmarks/data.py --rounds 1 --batches 4 --steps 40 --output "$out/data.json"
  step tests "$python" -m pytest -q -p no:cacheprovider tests/nn/test_convolution.py
fi
exit "$failed"
