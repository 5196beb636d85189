#!/usr/bin/env bash
# How long a worker takes from its start until it is ready, with weights that lie in the page cache.
#   tests/gpu/start_time.sh PROGRAMS MODEL_FOLDER [TENSOR_PARALLEL [LIMIT_S]]      MODEL_FOLDER: of Hugging Face's form
# tests/gpu/whole_model.py --keep FOLDER makes such folders with random weights. Fails above LIMIT_S, 10 seconds.
set -euo pipefail
programs=$1
model=$2
degree=${3:-1}
limit=${4:-10}
work=$(mktemp -d)
pids=()
trap '[ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null; wait; rm -rf "$work"' EXIT

fail() { echo "wrong: $*"; tail -n 5 "$work"/*.log | cut -c1-300; exit 1; }
alive() { for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || fail "a worker ended"; done; }
launch() { # rank flags…
  "$programs/caravan_worker" --model="$model" --rank="$1" --tensor_parallel="$degree" --device="${DEVICE:-cuda}" \
    ${WORKER_FLAGS:-} "${@:2}" --listen_address=127.0.0.1:0 --port_file="$work/$1.ports" > "$work/$1.log" 2>&1 &
  pids+=($!)
}

begun=$EPOCHREALTIME
cat "$model"/*.safetensors > /dev/null
awk -v begun="$begun" -v now="$EPOCHREALTIME" 'BEGIN { printf "weights read into the page cache in %.1f s\n", now - begun }'
for attempt in 1 2; do
  rm -f "$work"/*.ports
  begun=$EPOCHREALTIME
  launch 0
  until [ -s "$work/0.ports" ]; do alive; sleep 0.01; done
  for ((rank = 1; rank < degree; ++rank)); do
    launch "$rank" --leader_address="127.0.0.1:$(sed -n 's/^grpc=//p' "$work/0.ports")"
  done
  until grep -qE ' ready epoch=' "$work/0.log"; do alive; sleep 0.01; done
  seconds=$(awk -v begun="$begun" -v now="$EPOCHREALTIME" 'BEGIN { printf "%.2f", now - begun }')
  echo "start $attempt: ready after $seconds s, of it:"
  # The time of each line after the start, and what it says; a phase ends with its line.
  cat "$work"/*.log | sort | grep -E ' (configured flag=rank|listening|loaded|formed epoch|warmed up|ready epoch|ready in epoch)' |
    while read -r stamp _ process rest; do
      awk -v begun="$begun" -v now="$(date -d "${stamp}" +%s.%N)" -v line="$process $rest" \
        'BEGIN { printf "  %5.2f s  %s\n", now - begun, substr(line, 1, 180) }'
    done
  kill "${pids[@]}"
  wait "${pids[@]}" || true
  pids=()
done
awk -v seconds="$seconds" -v limit="$limit" 'BEGIN { exit !(seconds <= limit) }' || fail "$seconds s are more than $limit"
echo "right: ready after $seconds s, at most $limit"
