#!/usr/bin/env bash
# How fast the whole cluster decodes on this machine's GPUs: gateway, tokenizer and workers with random weights, loaded
# by `caravan bench` over gRPC. Token ids alone are asked for, so that any tokenizer does.
#   tests/gpu/floor.sh PROGRAM_FOLDER [MODEL [DTYPE [TENSOR_PARALLEL…]]]      MODEL: a file of tests/gpu/models
# WORKER_FLAGS="--batch_invariant" and others go to each worker.
# READ_GBPS=… is the measured read ceiling of one GPU, for the shares (default: that of an H200). DEVICE=cpu tries this
# script on a machine without one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=$1
model=${2:-llama2_7b}
dtype=${3:-float16}
degrees=("${@:4}")
[ ${#degrees[@]} -gt 0 ] || degrees=(1)
read_gbps=${READ_GBPS:-4402}
device=${DEVICE:-cuda}
WORKER_FLAGS=${WORKER_FLAGS:-}
work=$(mktemp -d)
pids=()
trap 'stop; rm -rf "$work"' EXIT

mkdir "$work/model"
cp "$here/models/$model.json" "$work/model/config.json"
cp "$here/../../models/demo/tokenizer.model" "$work/model/"

# Each process on a free port; without metrics, of which a sandboxed host may have no ports.
launch() { # name program flags…
  "$programs/$2" "${@:3}" --listen_address=127.0.0.1:0 --port_file="$work/$1.ports" > "$work/$1.log" 2>&1 &
  pids+=($!)
}
address_of() { # name
  until [ -s "$work/$1.ports" ]; do
    kill -0 "${pids[-1]}" 2>/dev/null || fail
    sleep 0.02
  done
  echo "127.0.0.1:$(sed -n 's/^grpc=//p' "$work/$1.ports")"
}
fail() { tail -n 5 "$work"/*.log >&2; exit 1; }

start() { # tensor_parallel
  rm -f "$work"/*.ports "$work"/*.log
  local begun=$EPOCHREALTIME leader
  local worker=(--model="$work/model" --load_format=dummy --dtype="$dtype" --device="$device" --tensor_parallel="$1"
    $WORKER_FLAGS)
  launch worker_0 caravan_worker "${worker[@]}"
  leader=$(address_of worker_0)
  for ((rank = 1; rank < $1; ++rank)); do
    launch "worker_$rank" caravan_worker "${worker[@]}" --rank="$rank" --leader_address="$leader"
  done
  launch tokenizer caravan_tokenizer --model="$work/model"
  launch gateway caravan_gateway --replicas="$leader" --tokenizers="$(address_of tokenizer)"
  address=$(address_of gateway)
  until "$programs/caravan" status --address="$address" 2>/dev/null | grep -q '[0-9]  ready '; do
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || fail; done
    sleep 0.05
  done
  awk -v begun="$begun" -v now="$EPOCHREALTIME" 'BEGIN { printf "ready after %.2f s\n", now - begun }'
  grep -h -oE '(loaded|warmed up|formed epoch) .*' "$work"/worker*.log | cut -c1-400
}
stop() {
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait
  pids=()
}

bench() { # name concurrency requests prompt output
  "$programs/caravan" bench --address="$address" --notext --concurrency="$2" --num_requests="$3" --warmup="$2" \
    --prompt_tokens="$4" --output_tokens="$5" --temperature=0 --json="$work/$1.json" > "$work/$1.txt"
  python3 - "$work/$1.json" "$work/model/config.json" "$1" "$2" "$degree" "$read_gbps" "$4" "$5" <<'PYTHON'
import json
import sys

report, config = (json.load(open(path)) for path in sys.argv[1:3])
name, (batch, degree, gbps, prompt, output) = sys.argv[3], map(float, sys.argv[4:])
h, kv = config["hidden_size"], config["num_key_value_heads"] * config["hidden_size"] / config["num_attention_heads"]
weights = config["num_hidden_layers"] * (2 * h * h + 2 * h * kv + 3 * h * config["intermediate_size"]) \
    + config["vocab_size"] * h  # of the embedding only the rows of the batch are read
context = batch * (prompt + output / 2) * config["num_hidden_layers"] * 2 * kv
# The median step decodes alone; the mean has those of the prompts that are computed after a request's own.
step_ms = report["inter_token_ms"]["p50"]
mean_ms = (report["end_to_end_ms"]["p50"] - report["time_to_first_token_ms"]["p50"]) / (output - 1)
floor_ms = 2 * (weights + context) / degree / gbps / 1e6
print(f"{name}: tensor parallel {degree:.0f}, batch {batch:.0f}: {1000 * batch / step_ms:.1f} tok/s decoding, "
      f"{step_ms:.3f} ms a step (mean {mean_ms:.3f}), {100 * floor_ms / step_ms:.1f} % of the read ceiling; first token "
      f"{report['time_to_first_token_ms']['p50']:.1f} ms (p50), {report['output_tokens_per_second']:.1f} tok/s end to "
      f"end, {report['failed']} failed")
PYTHON
}

for degree in "${degrees[@]}"; do
  echo "== $model $dtype tensor parallel $degree"
  start "$degree"
  bench batch_1 1 3 128 256
  bench batch_64 64 64 128 128
  "$programs/caravan" status --address="$address"
  stop
done
