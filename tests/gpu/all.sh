#!/usr/bin/env bash
# Everything that has to be shown on a GPU, in order; the last line counts. tests/gpu/README.md says what each step shows.
#   tests/gpu/all.sh [STEP…]      STEP: one of `steps` below
# After a build with tests: build/release/bin, or PROGRAMS=folder. What doesn't begin within BUDGET seconds (1,800) counts
# as failed. PYTHON=… is one with torch, transformers and the packages of tests/requirements.txt.
set -uo pipefail
steps=(operators model ranks processes cluster shared_memory bundled_model whole_model same_ids start kill_ranks bad_conditions floor)
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
programs=$(cd "${PROGRAMS:-$root/build/release/bin}" && pwd)
python=${PYTHON:-python3}
budget=${BUDGET:-1800}
output=${OUTPUT:-$(mktemp -d)}
weights=$(mktemp -d)
running=
trap 'rm -rf "$weights"' EXIT
trap '[ -z "$running" ] || kill "$running"; exit 143' INT TERM
gpus=$(nvidia-smi --list-gpus | wc -l)
((gpus > 0)) || { echo "nvidia-smi sees no GPU"; exit 1; }
passed=0 failed=0
export CARAVAN_TEST_DEVICE=cuda

step() { # name limit_s command…
  local name=$1 limit=$2 begun=$SECONDS
  if ((SECONDS >= budget)); then
    echo "$name: not run, the budget of $budget s is spent"
    ((++failed))
    return
  fi
  timeout -k 5 "$limit" "${@:3}" > "$output/$name.txt" 2>&1 &
  running=$!
  if wait "$running" && ! grep -q '^\[  PASSED  \] 0 tests' "$output/$name.txt"; then
    ((++passed))
    echo "$name: passed in $((SECONDS - begun)) s: $(summary "$name")"
  else
    ((++failed))
    echo "$name: FAILED after $((SECONDS - begun)) s; $output/$name.txt ends with"
    tail -n 8 "$output/$name.txt" | cut -c1-300
  fi
  running=
}
summary() { grep -E '^(\[  (PASSED|SKIPPED)|[0-9]+ (passed|failed)|ok |right|batch_)|ready after' "$output/$1.txt" | tail -n 4 | cut -c1-200 | paste -sd ';'; }

needs_two() { ((gpus >= 2)) || { echo "$1: not run, it needs two GPUs"; return 1; }; }

# Each rank has a GPU, or takes turns with others on one.
most_degree=$((gpus < 2 ? 2 : gpus < 8 ? gpus : 8))
degrees() { # most
  local list=1 n
  for ((n = 2; n <= $1; n *= 2)); do list+=,$n; done
  echo $list
}

tests() { # name limit_s program filter
  step "$1" "$2" "$programs/$3" --gtest_brief=1 --gtest_filter="$4"
}
operators() { tests operators 500 kernels_test 'cuda/*:*/cuda*:*Cuda*:*PeerTest*'; }
model() { tests model 300 worker_model_runner_test '*/cuda*:*Cuda*:*Gpu*'; }
ranks() { needs_two ranks && tests ranks 200 worker_replica_test '*Gpu*'; }
processes() { needs_two processes && tests processes 300 worker_test '*WorkerProcess*:*WedgedRank*'; }
# Test files of pytest, AT_ONCE (4) side by side, since starting processes is what takes their time.
python_tests() { # name files…
  printf '%s\n' "${@:2}" > "$output/$1.files"
  cd "$root/tests" || return
  step "$1" 900 xargs -a "$output/$1.files" -P "${AT_ONCE:-4}" -n 1 "$python" -m pytest -q --color=no -p no:cacheprovider --timeout=120
}
cluster() {
  local list="" rank
  for ((rank = 0; rank < 8; ++rank)); do list+=,$((rank % gpus)); done
  export CARAVAN_TEST_GPUS=${list#,} CARAVAN_BUILD_DIR=${programs%/bin}
  export CARAVAN_TEST_WORKER_FLAGS="--kv_cache_bytes=400000000 --gpu_memory_fraction=0.98"
  python_tests cluster cluster/{greedy_text,beam_search,checkpoints,streams,failure,bad_input}_test.py
  # Some of these compare the bits of what a request gives alone and in a batch.
  CARAVAN_TEST_WORKER_FLAGS+=" --batch_invariant"
  python_tests triton conformance/triton_{outputs,clients,tables,http_errors}_test.py
}
shared_memory() { step shared_memory 150 "$python" "$here/cuda_shared_memory.py" "$programs" $((gpus < 2 ? 1 : 2)); }
bundled_model() {
  step bundled_model 300 "$python" "$here/bundled_model.py" "$programs" --tensor_parallel "$(degrees $((gpus < 2 ? 1 : most_degree)))"
}
whole_model() {
  step whole_model 900 "$python" "$here/whole_model.py" "$programs" --tensor_parallel "$(degrees $most_degree)" --keep "$weights"
  step tensor_parallel 600 "$python" "$here/whole_model.py" "$programs" llama2_70b_4_layers --dtypes "" --tensor_parallel "$(degrees 8)"
}
same_ids() {
  step same_ids 300 "$python" "$here/same_ids.py" "$programs"
  ((gpus < 2)) || step same_ids_of_two_ranks 200 "$python" "$here/same_ids.py" "$programs" llama3_8b --tensor_parallel 2
}
start() {
  [ -e "$weights/llama3_8b" ] || step weights 100 "$python" "$here/whole_model.py" "$programs" llama3_8b --dtypes "" --keep "$weights"
  step start 100 "$here/start_time.sh" "$programs" "$weights/llama3_8b"
}
kill_ranks() {
  needs_two kill_ranks || return
  step kill_follower 120 "$here/kill.sh" "$programs" llama2_7b 2 1
  step kill_leader 120 "$here/kill.sh" "$programs" llama2_7b 2 0
  WORKER_FLAGS=--collectives=nccl step kill_follower_nccl 120 "$here/kill.sh" "$programs" llama2_7b 2 1
  ((gpus < 4)) || step kill_follower_of_four 120 "$here/kill.sh" "$programs" llama2_7b 4 3
}
bad_conditions() { step bad_conditions 300 "$here/bad_conditions.sh" "$programs"; }
floor() {
  local degrees=(1)
  ((gpus < 2)) || degrees+=(2)
  step floor_7b 300 "$here/floor.sh" "$programs" llama2_7b float16 "${degrees[@]}"
  step floor_8b 300 "$here/floor.sh" "$programs" llama3_8b bfloat16 1
}

[ $# -gt 0 ] || set -- "${steps[@]}"
for name in "$@"; do
  [[ " ${steps[*]} " == *" $name "* ]] || { echo "$name is no step: ${steps[*]}"; exit 2; }
done
for name in "$@"; do "$name"; done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && ((passed > 0))
