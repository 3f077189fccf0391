#!/usr/bin/env bash
# One run on several devices of this machine:  training/clusters/torchrun.sh 2 --algorithm=MAML --run_dir=runs/two
# The first word is the number of processes, the others are flags of run_experiment.py.
set -euo pipefail
processes=${1:?number of processes}
shift
exec torchrun --standalone --nproc_per_node="$processes" training/run_experiment.py "$@"
