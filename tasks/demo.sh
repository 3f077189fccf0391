#!/usr/bin/env bash
# The whole pipeline on the built-in data: search, meta-train what was found, compare on the same test episodes, sort
# images of classes that no training saw.
# Every step is a plain command line that can be run by itself; the runs and the report are left in runs/demo/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

search_steps=200  # meta-steps of each search; the first half of the controller's trains the shared weights alone
train_steps=100   # meta-steps of each meta-training from scratch
space="--space=conv4_chain --channels=8 --head=prototype --reward=negative_query_loss --train_query=5"
controller="--warmup_steps=100 --inner_archs=4 --outer_archs=4 --share_archs=true --outer_baseline=leave_one_out
  --controller_lr=0.005 --controller_inner_lr=3"
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

# Run the step NAME, the words of a command, beside others; its output is shown when it is waited for.
beside() {
  run "$@" >"$out/$1.log" 2>&1 &
  waiting="$1 $!"
}

wait_for_it() {
  local name=${waiting% *} code=0
  wait "${waiting#* }" || code=$?
  cat "$out/$name.log"
  return "$code"
}

rm -rf "$out"
mkdir -p "$out"
# shellcheck disable=SC2086
beside search-random --algorithm=RandomSearch $space --rewards_per_task=4 --max_meta_steps=$search_steps
# shellcheck disable=SC2086
run search-maml-enas --algorithm=MAMLENAS $space $controller --max_meta_steps=$search_steps
wait_for_it
beside maml-on-random --algorithm=MAML --model_class=GenotypeNetwork \
  --genotype="$out/search-random/genotype.json" --max_meta_steps=$train_steps
run maml-on-searched --algorithm=MAML --model_class=GenotypeNetwork \
  --genotype="$out/search-maml-enas/genotype.json" --max_meta_steps=$train_steps
wait_for_it
run maml-on-conv4 --algorithm=MAML --model_class=Conv4 --max_meta_steps=$train_steps

printf '\n'
"$python" training/report.py "$out/search-maml-enas" "$out/search-random" "$out/maml-on-searched" \
  "$out/maml-on-random" "$out/maml-on-conv4" --output "$out/report.html"

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
"$python" training/predict.py --run_dir="$out/maml-on-searched" --support="$out/images/labelled" \
  --images="$out/images/new" --output="$out/predictions.csv"
