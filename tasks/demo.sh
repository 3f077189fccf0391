#!/usr/bin/env bash
# The whole pipeline on the built-in data: search, train what was found on episodes, compare on the same test episodes, sort
# images of classes that no training saw.
# Every step is a plain command line that can be run by itself; the runs and the report are left in runs/demo/. SEED=1 and
# OUT=runs/other repeat it with another seed elsewhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

search_steps=200  # meta-steps of each search; the first half of the controller's trains the shared weights alone
train_steps=200   # meta-steps of each training from scratch
space="--space=conv4_chain --channels=8 --head=prototype --reward=negative_query_loss --train_query=5"
controller="--warmup_steps=100 --inner_archs=4 --outer_archs=4 --share_archs=true --outer_baseline=leave_one_out
  --controller_lr=0.005 --controller_inner_lr=3"
train="--algorithm=ProtoNet --train_query=5 --max_meta_steps=$train_steps"
task="--data_class=Glyphs --n_way=5 --k_shot=1 --seed=${SEED:-0} --val_every=50 --val_episodes=30 --log_every=5
  --test_episodes=300"
out=${OUT:-runs/demo}

python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export OMP_NUM_THREADS=1  # two steps at a time, each on a core of its own

run() {
  local name=$1
  shift
  printf '\n== %s ==\n' "$name"
  # The settings above are lists of flags, split into words on purpose.
  # shellcheck disable=SC2086
  "$python" training/run_experiment.py $task --run_dir="$out/$name" "$@"
}

# shellcheck disable=SC2086
others() {
  run search-random --algorithm=RandomSearch $space --rewards_per_task=4 --max_meta_steps=$search_steps
  run train-on-random $train --model_class=GenotypeNetwork --genotype="$out/search-random/genotype.json"
  run train-on-conv4 $train --model_class=Conv4 --width=8  # as wide as the architectures of the space
}

rm -rf "$out"
mkdir -p "$out"
set -m  # a group of its own, which ends with this script
others >"$out/others.log" 2>&1 &
beside=$!
set +m
trap 'kill -- "-$beside" 2>/dev/null || true' EXIT
# shellcheck disable=SC2086
run search-maml-enas --algorithm=MAMLENAS $space $controller --max_meta_steps=$search_steps
# shellcheck disable=SC2086
run train-on-searched $train --model_class=GenotypeNetwork --genotype="$out/search-maml-enas/genotype.json"
printf '\n(beside it ran the following)\n'
code=0
wait "$beside" || code=$?
trap - EXIT
cat "$out/others.log"
[ "$code" = 0 ] || exit "$code"

printf '\n'
"$python" training/report.py "$out/search-maml-enas" "$out/search-random" "$out/train-on-searched" \
  "$out/train-on-random" "$out/train-on-conv4" --output "$out/report.html"

printf '\n== predict ==\n'
"$python" - "$out" <<'PYTHON'
"""Say what the controller learned; write three labelled images of each of five test classes, and three to be sorted."""

import sys
from pathlib import Path

from PIL import Image

from few_shot_nas.data.sources.glyphs import Glyphs
from few_shot_nas.report.run import load_run
from few_shot_nas.report.verdict import verdicts

out = Path(sys.argv[1])
print(*verdicts(load_run(out / "search-maml-enas")))
source = Glyphs()
source.prepare()
test = source.split("test")
for number in range(5):
    name = f"class-{number}"  # the own name of a class may be a sign that no folder can have
    for place in range(6):
        folder = out / "images" / ("labelled" if place < 3 else "new") / (name if place < 3 else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[test.starts[number] + place].squeeze()).save(folder / f"{name}-{place}.png")
PYTHON
"$python" training/predict.py --run_dir="$out/train-on-searched" --support="$out/images/labelled" \
  --images="$out/images/new" --output="$out/predictions.csv"
