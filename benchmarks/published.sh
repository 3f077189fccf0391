#!/usr/bin/env bash
# What a GPU should run, in order of worth, towards the published numbers. Each call runs the next step that is not finished, for at most
# STEP_SECONDS (480) and the half minute that it has to stop. A training that did not end goes on at the next call, from its last checkpoint;
# one without a checkpoint starts afresh.
# A test keeps nothing of what it has done: neither evaluate.py nor the test at the end of a run goes on where it was stopped. One that
# takes longer than the limit never ends; give it more STEP_SECONDS.
# A step that fails, or passes the limit and cannot go on, is marked as failed. The next call leaves it out; its name runs it again.
#   DATA=folder benchmarks/published.sh          the next step
#   DATA=folder benchmarks/published.sh all      one after the other, each for at most STEP_SECONDS at a time
#   DATA=folder benchmarks/published.sh list     what is done, failed or open
#   benchmarks/published.sh NAME                 that step
# TINY=1 tries everything on the built-in characters on a CPU. Every finished training leaves model.safetensors and README.md, a card written from its
# results.json, in runs/published/NAME (OUT to move it); neither belongs in the repository where the data's terms forbid it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
out=${OUT:-runs/published}
python=${PYTHON:-python}
limit=${STEP_SECONDS:-480}
tiny=${TINY:-}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
recipes=training/recipes
mkdir -p "$out"
if [ -z "$tiny" ] && [ -z "${DATA:-}" ]; then
  echo "published.sh: DATA is not set; give the folder with mini_imagenet/ (or TINY=1)" >&2
  exit 2
fi
common=(--data_dir="${DATA:-data}" --save_minutes=1)
small=(--data_class=Glyphs --image_size=28 --max_meta_steps=4 --val_every=4 --val_episodes=4 --test_episodes=4 --accelerator=cpu --precision=null)

engine=graph  # records a meta-step once; CUDA only
[ -n "$tiny" ] && engine=unroll

names=(gpu_tests engine_table maml_5w1s rfs_resnet12_5w5s rfs_resnet12_5w1s proto_net_5w1s proto_net_5w5s maml_plus_plus_5w1s maml_plus_plus_5w5s
  anil_5w5s tnas_search tnas_decode tnas_retrain meta_ntk_search meta_ntk_retrain)

finished() { [ -e "$out/$1.done" ]; }
failed() { [ -e "$out/$1.failed" ]; }
limited() { timeout --signal=INT --kill-after=30 "$limit" "$python" "$@"; }

fail() {  # NAME: mark it as failed
  touch "$out/$1.failed"
  return 1
}

once() {  # NAME ARGUMENTS...: what cannot go on where it stopped
  limited "${@:2}" || fail "$1"
}

ended() {  # NAME RUN: whether the run that a step needs is at its end
  [ -e "$out/$2/results.json" ] && return
  echo "== $1: needs $2 to its end"
  return 1
}

passed_limit() { [ "$1" -eq 124 ] || [ "$1" -eq 137 ]; }  # 137: killed after the half minute

train() {  # NAME FLAGS...: start the run or go on with it
  local run=$out/$1 flags=("${@:2}" --ckpt_path=auto)
  [ -n "$tiny" ] && flags+=("${small[@]}")
  limited training/run_experiment.py "${flags[@]}" "${common[@]}" --run_dir="$run"
  local status=$?
  if [ ! -e "$run/results.json" ]; then
    local how="starts it afresh"
    [ -e "$run/checkpoints/last.ckpt" ] && how="goes on from its last checkpoint"
    if passed_limit "$status"; then echo "== $1: not at its end; the next call $how"
    else fail "$1"; fi
    return 1
  fi
  "$python" benchmarks/model_card.py "$run" || fail "$1"
}

retest() {  # NAME RUN FLAGS...: test a finished run under another protocol
  local folder=$out/$1 run=$out/$2
  ended "$1" "$2" || return 1
  once "$1" training/evaluate.py --run_dir="$run" --output="$folder" "${@:3}"
}

decode() {  # NAME SEARCH FLAGS...: the genotype of every test task of a search; goes on where it stopped
  local run=$out/$2
  ended "$1" "$2" || return 1
  limited training/decode.py --run_dir="$run" "${@:3}"
  local status=$?
  [ "$status" -eq 0 ] || passed_limit "$status" || fail "$1"
  return "$status"
}

step() {
  case $1 in
    gpu_tests)
      if [ -n "$tiny" ]; then once "$1" -m pytest -q -p no:cacheprovider tests/test_registry.py
      else once "$1" -m pytest -q -p no:cacheprovider -m gpu tests; fi ;;
    engine_table)
      if [ -n "$tiny" ]; then
        once "$1" benchmarks/run.py --device cpu --tiny --engines unroll,folded --repeats 1 --output "$out/engines.json"
      else once "$1" benchmarks/run.py --device cuda --repeats 5 --output "$out/engines.json"; fi ;;
    # 48.70 published: 60,000 meta-steps of 4 tasks and 5 inner steps, second order.
    maml_5w1s) train "$1" --config=$recipes/maml_mini_imagenet_5w1s.yaml --engine="$engine" ;;
    # 62.02 and 79.64 published: one training, tested with 1 and 5 shots.
    rfs_resnet12_5w5s)
      train "$1" --algorithm=RFS --model_class=ResNet12 --data_class=MiniImagenet --n_way=5 --k_shot=5 --bn_mode=running --flat_batch_size=64 \
        --support_copies=5 --max_meta_steps=60000 --lr_milestones=[36000,48000] --val_every=3000 --precision=bf16-mixed \
        ${tiny:+--support_copies=0} ;;
    rfs_resnet12_5w1s) retest "$1" rfs_resnet12_5w5s --k_shot=1 ;;
    # 49.42 and 68.20 published; Conv4 with 64 channels.
    proto_net_5w1s | proto_net_5w5s) train "$1" --config=$recipes/proto_net_mini_imagenet_"${1#proto_net_}".yaml ;;
    # 52.15 and 68.32 published, five best validations together. No published number reads running statistics.
    maml_plus_plus_5w1s | maml_plus_plus_5w5s)
      train "$1" --config=$recipes/maml_plus_plus_mini_imagenet_"${1#maml_plus_plus_}".yaml --engine="$engine" --per_step_statistics=false ;;
    # 61.5 published; 61.0 of the val classes after 8,120 meta-steps, with a head from 0 and a cosine: docs/results.md.
    anil_5w5s) train "$1" --config=$recipes/anil_mini_imagenet_5w5s.yaml --engine="$engine" ;;
    # The whole published search; 52.84 published after its genotypes were trained, one for each of 600 tasks.
    tnas_search)
      train "$1" --config=$recipes/tnas_mini_imagenet_5w1s.yaml ${tiny:+--channels=4 --nodes=2 --decode_episodes=2} ;;
    tnas_decode) decode "$1" tnas_search --tasks=$([ -n "$tiny" ] && echo 4 || echo 600) ;;
    # What the search ends with, by the authors' first-order MAML: 15 epochs of 15,000 tasks, padded as the search padded, a random head.
    tnas_retrain)
      retrain "$1" tnas_search --algorithm=MAML --n_way=5 --k_shot=1 --first_order=true --zero_head=false --inner_lr=0.01 --inner_steps=5 \
        --eval_inner_steps=10 --outer_lr=0.001 --meta_batch_size=4 --train_query=15 --pad=left --max_meta_steps=56250 ;;
    meta_ntk_search)
      train "$1" --config=$recipes/meta_ntknas_mini_imagenet_5w1s.yaml ${tiny:+--channels=8 --repeats=1} ;;
    # By the published schedule and protocol: five copies of each support image, drop-path, 1000 tasks of 50 queries a class.
    meta_ntk_retrain)
      retrain "$1" meta_ntk_search --config=$recipes/rfs_genotype_mini_imagenet_5w1s.yaml ${tiny:+--protocol=null} ;;
    *) echo "published.sh: no step $1. Steps: ${names[*]}" >&2; exit 2 ;;
  esac
}

retrain() {  # NAME SEARCH FLAGS...: train the architecture that a search found
  local genotype=$out/$2/genotype.json
  ended "$1" "$2" || return 1
  train "$1" --model_class=GenotypeNetwork --genotype="$genotype" --data_class=MiniImagenet "${@:3}"
}

go() {
  echo "== $1"
  local began=$SECONDS
  rm -f "$out/$1.done" "$out/$1.failed"
  step "$1" 2>&1 | tee -a "$out/$1.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] && touch "$out/$1.done"
  echo "== $1: exit $status after $((SECONDS - began)) s"
  return "$status"
}

case ${1:-next} in
  list)
    for name in "${names[@]}"; do
      if finished "$name"; then echo "done  $name"; elif failed "$name"; then echo "failed  $name"; else echo "open  $name"; fi
    done ;;
  all) for name in "${names[@]}"; do finished "$name" || go "$name" || some=1; done; exit "${some:-0}" ;;
  next)
    left=()
    for name in "${names[@]}"; do
      finished "$name" && continue
      failed "$name" && { left+=("$name"); continue; }
      go "$name"; exit
    done
    if [ ${#left[@]} -eq 0 ]; then echo "== every step is finished"
    else echo "== no step is left but those that failed: ${left[*]}"; exit 1; fi ;;
  *) go "$1" ;;
esac
