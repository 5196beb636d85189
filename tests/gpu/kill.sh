#!/usr/bin/env bash
# Kills a rank of a replica on GPUs while it serves: requests in flight fail as UNAVAILABLE, the supervisor brings the
# rank back, the next epoch serves, and nothing hangs.
#   tests/gpu/kill.sh PROGRAM_FOLDER [MODEL [TENSOR_PARALLEL [RANK]]]      MODEL: a file of tests/gpu/models
# WORKER_FLAGS="--collectives=nccl" and others go to each worker. DEVICE=cpu tries this script on a machine without a GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=$1
model=${2:-llama2_7b}
degree=${3:-2}
rank=${4:-1}
WORKER_FLAGS=${WORKER_FLAGS:-}
device=${DEVICE:-cuda}
work=$(mktemp -d)
up=
trap '[ -z "$up" ] || kill "$up" 2>/dev/null; wait; rm -rf "$work"' EXIT

mkdir "$work/model"
cp "$here/models/$model.json" "$work/model/config.json"
cp "$here/../../models/demo/tokenizer.model" "$work/model/"

fail() { echo "wrong: $*"; tail -n 20 "$work"/up.txt "$work"/logs/* 2>/dev/null | cut -c1-300; exit 1; }
await() { # seconds what command…
  local deadline=$((SECONDS + $1)) what=$2
  until "${@:3}" 2>/dev/null; do
    ((SECONDS < deadline)) || fail "$what took more than $1 s"
    kill -0 "$up" 2>/dev/null || fail "caravan up ended"
    sleep 0.02
  done
}
status() { "$programs/caravan" status --address="$address"; }
pid_of_rank() { status | awk -v rank="$rank" '$2 == rank && $3 == "ready" { print $5; exit }'; }
is_serving() { grep -q '^Serving' "$work/up.txt"; }
is_back() { # a new process, and the replica ready with all its ranks
  local pid
  pid=$(pid_of_rank) && [ -n "$pid" ] && [ "$pid" != "$killed" ] && status | grep -qE " ready +$device +[0-9]+ +[1-9]" &&
    [ "$(status | grep -cE '^\S+ +[0-9]+ +ready ')" = "$degree" ]
}

"$programs/caravan" up --model "$work/model" --load_format=dummy --dtype=float16 --device="$device" --tensor_parallel="$degree" \
  --worker_flags="$WORKER_FLAGS" --gateway_port=0 --http_port=0 --metrics_port=0 --log_dir="$work/logs" > "$work/up.txt" 2>&1 &
up=$!
await 60 "start" is_serving
address=$(awk '$1 == "gateway" { print $2; exit }' "$work/up.txt")
bench() { # json requests output_tokens
  timeout 60 "$programs/caravan" bench --address="$address" --notext --concurrency=8 --warmup=0 --num_requests="$2" \
    --prompt_tokens=128 --output_tokens="$3" --temperature=0 --json="$1" > "$1.txt" 2>&1
}
counts() { # json
  python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); print(r["succeeded"], "succeeded,", r["failed"], "failed", r["first_error"])' "$1" 2>/dev/null || tail -n 3 "$1.txt"
}

bench "$work/before.json" 8 16 || fail "the first requests"
echo "before: $(counts "$work/before.json")"
bench "$work/during.json" 64 512 &
load=$!
running() { status | grep -qE " ready +$device +[0-9]+ +[0-9]+ +[0-9]+ +[1-9]"; }
await 20 "the load" running
killed=$(pid_of_rank)
kill -9 "$killed"
begun=$EPOCHREALTIME
await 30 "the next epoch" is_back
awk -v begun="$begun" -v now="$EPOCHREALTIME" -v rank="$rank" 'BEGIN { printf "rank %d was killed; all ranks ready in the next epoch after %.2f s\n", rank, now - begun }'
wait "$load" || true
during=$(counts "$work/during.json")
echo "during: $during"
[[ "$during" == *"succeeded, 0 failed"* || "$during" == *"failed UNAVAILABLE"* ]] || fail "how requests in flight failed"
bench "$work/after.json" 8 16 || fail "requests after the kill"
echo "after: $(counts "$work/after.json")"
for flag in $WORKER_FLAGS; do
  [[ "$flag" != --collectives=* ]] || grep -qE "formed epoch .* collectives=${flag#*=} " "$work"/logs/* || fail "no epoch of $flag"
done
grep -h -oE '(lost epoch|formed epoch|warmed up|recovered|lost rank) .*' "$work"/logs/* "$work/up.txt" | cut -c1-220 | sort -u | head -20
kill "$up"
wait "$up" || fail "the end"
echo "right: stopped in order"
up=
