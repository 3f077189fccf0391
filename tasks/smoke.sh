#!/usr/bin/env bash
# One tiny but real run of the command line on the built-in data: search, test, report. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
run=$folder/smoke

"$python" training/run_experiment.py --algorithm=MAMLENAS --data_class=Glyphs --run_dir="$run" \
  --channels=4 --cells=1 --nodes=2 --inner_steps=1 --eval_inner_steps=1 --n_query=5 --meta_batch_size=2 \
  --max_meta_steps=2 --val_every=1 --val_episodes=4 --test_episodes=4 --derive_candidates=2 --derive_episodes=2

for file in config.yaml metrics.csv episodes.csv results.json genotype.json checkpoints/last.ckpt report.html; do
  if [ ! -s "$run/$file" ]; then
    echo "smoke: the run left no $file" >&2
    exit 1
  fi
done
echo "smoke: passed"
