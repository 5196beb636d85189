#!/usr/bin/env bash
# Starts the worker where it can't work: each time a sentence that says why and, of the process that says it, an end by
# itself with an exit status between 1 and 123; and where it can work later: a sentence while it waits, then it serves.
# Nothing may hang. The last line is `N passed, N failed`.
#   tests/gpu/bad_conditions.sh PROGRAM_FOLDER
# OTHER_WORKER=… is a caravan_worker built for another architecture than this GPU's alone
# (-DCARAVAN_CUDA_ARCHITECTURES=80), which must refuse it.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "$1" && pwd)
demo=$here/../../models/demo
gpus=$(nvidia-smi --list-gpus | wc -l)
work=$(mktemp -d)
pids=()
trap '[ ${#pids[@]} -eq 0 ] || kill -9 "${pids[@]}" 2>/dev/null; wait; rm -rf "$work"' EXIT
passed=0 failed=0

mkdir "$work/7b" "$work/70b"
cp "$here/models/llama2_7b.json" "$work/7b/config.json"
sed 's/"num_hidden_layers": *[0-9]*/"num_hidden_layers": 80/' "$here/models/llama2_70b_4_layers.json" > "$work/70b/config.json"

worker=("$programs/caravan_worker" --device=cuda --listen_address=127.0.0.1:0)
up=("$programs/caravan" up --device=cuda --gateway_port=0 --http_port=0 --metrics_port=0)
launch() { # name flags…
  "${worker[@]}" "${@:2}" --port_file="$work/$1.ports" > "$work/$1.log" 2>&1 &
  pids+=($!)
}
is_ready='worker/[0-9]+ ready '
port_of() { sed -n 's/^grpc=//p' "$work/$1.ports" 2>/dev/null; }
await() { # seconds what pattern file
  local deadline=$((SECONDS + $1))
  until grep -qE -e "$3" "$4" 2>/dev/null; do
    ((SECONDS < deadline)) || { echo "$2: nothing after $1 s"; return 1; }
    sleep 0.02
  done
}
end_all() {
  [ ${#pids[@]} -eq 0 ] || kill -9 "${pids[@]}" 2>/dev/null
  wait
  pids=()
}
# Of a process that has to end by itself: its exit status, 124 where it hasn't ended within so many seconds.
exit_status_of() { # seconds pid
  local deadline=$((SECONDS + $1))
  while kill -0 "$2" 2>/dev/null; do
    ((SECONDS < deadline)) || return 124
    sleep 0.02
  done
  wait "$2"
}
judge() { # name ok file: the words that a person sees
  if [ "$2" = 0 ]; then ((++passed)); echo "right: $1:"; else ((++failed)); echo "wrong: $1:"; fi
  grep -vE '^$' "$3" | tail -n "$(($2 == 0 ? 1 : 6))" | cut -c1-500
}
# Must end by itself within 40 s, with an exit status of its own and the words.
refused() { # name words command…
  local file=$work/refused.txt code ok=1
  timeout -k 1 40 "${@:3}" > "$file" 2>&1
  code=$?
  ((code != 0 && code < 124)) && grep -qE -e "$2" "$file" && ok=0
  judge "$1 (exit status $code)" $ok "$file"
}

refused "no GPU is visible" "no GPU is visible" env CUDA_VISIBLE_DEVICES= "${worker[@]}" --model="$demo"
refused "fewer GPUs than ranks" "--gpu is 1 for rank 1; 1 GPU is visible" env CUDA_VISIBLE_DEVICES=0 "${up[@]}" --model="$demo" --tensor_parallel=2
refused "a GPU that there is not" "--gpu is $gpus for rank 0; $gpus GPUs? (is|are) visible" "${worker[@]}" --model="$demo" --gpu="$gpus"
refused "a model that is too large" "too little memory.*--tensor_parallel" "${worker[@]}" --model="$work/70b" --load_format=dummy --dtype=bfloat16 --gpu_memory_wait_ms=0
if [ -n "${OTHER_WORKER:-}" ]; then
  refused "a build for another architecture" \
    "has compute capability [0-9.]+, this build has code for .* alone: build with -DCARAVAN_CUDA_ARCHITECTURES=[0-9]+" \
    "$OTHER_WORKER" --device=cuda --listen_address=127.0.0.1:0 --model="$demo"
else
  echo "not run: a build for another architecture: OTHER_WORKER names none"
fi

# Another process holds the GPU: a model whose KV blocks take all that is left.
launch holder --model="$work/7b" --load_format=dummy --gpu_memory_fraction=0.97
if await 30 holder "$is_ready" "$work/holder.log"; then
  refused "a GPU that is full" "too little memory" "${worker[@]}" --model="$work/7b" --load_format=dummy --gpu_memory_wait_ms=1000

  # Then the process ends that holds it, as one that is killed and whose memory the driver takes back.
  launch second --model="$demo" --gpu_memory_wait_ms=30000
  ok=1
  if await 20 second "waiting for (GPU memory|the GPU) " "$work/second.log" && ! grep -qE "$is_ready" "$work/second.log"; then
    kill -9 "${pids[0]}"
    await 60 second "$is_ready" "$work/second.log" && ok=0
  fi
  grep -E "waiting for|$is_ready| E " "$work/second.log" > "$work/words.txt"
  judge "a GPU that is full and gets free" $ok "$work/words.txt"
else
  judge "a GPU that is full" 1 "$work/holder.log"
  judge "a GPU that is full and gets free" 1 "$work/holder.log"
fi
end_all

if ((gpus >= 2)); then
  # Two ranks that are not of one model.
  launch leader --model="$demo" --tensor_parallel=2
  await 30 leader "listening" "$work/leader.log"
  refused "ranks with different models" "rank 1 has a model with fingerprint .*start all ranks alike" "${worker[@]}" --model="$work/7b" --load_format=dummy \
    --tensor_parallel=2 --rank=1 --gpu=1 --leader_address="127.0.0.1:$(port_of leader)"
  end_all

  # NCCL finds no way to the other rank: the leader gives up after three attempts, of 10 s each at most, and tells the
  # others; both name both ends.
  launch leader --model="$demo" --tensor_parallel=2 --collectives=nccl
  await 30 leader "listening" "$work/leader.log"
  NCCL_SOCKET_IFNAME=nowhere0 launch follower --model="$demo" --tensor_parallel=2 --collectives=nccl --rank=1 --gpu=1 \
    --leader_address="127.0.0.1:$(port_of leader)"
  ok=0 codes=
  for pid in "${pids[@]}"; do
    exit_status_of 90 "$pid"
    code=$?
    codes+=" $code"
    ((code != 0 && code < 124)) || ok=1
  done
  : > "$work/words.txt"
  for name in leader follower; do
    place="\(host [^ ,]+, address [^ ,]+, GPU [^ )]+\)"
    grep -E "rank [01] $place can't connect through NCCL to rank [01] $place" "$work/$name.log" | tail -n 1 > "$work/sentence.txt"
    [ -s "$work/sentence.txt" ] || { ok=1; tail -n 3 "$work/$name.log" > "$work/sentence.txt"; }
    cat "$work/sentence.txt" >> "$work/words.txt"
  done
  judge "NCCL without a way to the other rank (exit statuses$codes)" $ok "$work/words.txt"
  end_all
fi
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
