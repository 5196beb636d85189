#!/usr/bin/env bash
# NVIDIA's compute-sanitizer over a small case of every operator: memory that is not ours or was never written, and races
# in shared memory. The last line counts.
#   tests/gpu/sanitizers.sh PROGRAMS [TOOL…]      TOOL: memcheck, racecheck (both if none is given)
# Cases run side by side; each has LIMIT_S seconds (120). They are tens of times slower than without. Then, one after the
# other, the kernels that wait for peers, where each of their ranks has a GPU: on two GPUs every rank sums all (one shot)
# with and without the norm, on four also a part each (two shots).
set -uo pipefail
programs=$1
tools=("${@:2}")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck)
limit=${LIMIT_S:-120}
at_once=${AT_ONCE:-8}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v compute-sanitizer > /dev/null || { echo "compute-sanitizer is not on the PATH: it comes with CUDA"; exit 1; }

cases=(
  '*/MatmulTest.AgreesWithFloat64/cuda_float16_float16'
  '*/MatmulTest.AgreesWithFloat64/cuda_batch_invariant_bfloat16_bfloat16'
  '*/MatmulTest.AgreesWithFloat64/cuda_float32_float32'
  '*/MatmulCudaTest.TilesMayBeSplitOverClusters/bfloat16:*/MatmulCudaTest.StreamsMayBeDividedInAnyWay/bfloat16'
  '*/RmsNormTest.*/cuda_float16:*/RmsNormTest.*/cuda_bfloat16'
  '*/SwiGluTest.*/cuda_float16_float16:*/SwiGluTest.*/cuda_float32_bfloat16'
  '*/EmbeddingTest.*/cuda_float16_float16:*/GatherRowsTest.*/cuda:*/CopyKvBlocksTest.*/cuda'
  '*/RopeAppendKvTest.*/cuda_bfloat16_bfloat16'
  '*/PagedAttentionTest.AgreesWithFloat64ForEveryHeadSize/cuda_float16_float16'
  '*/PagedAttentionTest.AgreesWithFloat64ForEveryHeadSize/cuda_portable_bfloat16_bfloat16'
  '*/PagedAttentionTest.AgreesWithFloat64AroundTheBordersOfTilesWhileDecoding/cuda_bfloat16_bfloat16'
  '*/PagedAttentionTest.AgreesWithFloat64ForEveryGrouping/cuda_batch_invariant_float16_float16'
  '*/SamplingTest.ReportsTheLogProbabilitiesOfTheReference/cuda:*/SamplingTest.GreedyTakesTheLowestIdAmongEquals/cuda'
  '*/SlotTablesTest.*/cuda'
  '*/DummyFillTest.GivesThePartOfOneTensor/cuda_float16'
)
# PeerTest's parameters are numbers of ranks: /1 is two, /3 four. Kernels that take turns would wait for ever.
gpus=$(nvidia-smi --list-gpus | wc -l)
peer_cases=()
((gpus < 2)) || peer_cases+=(
  'Ranks/PeerTest.SumsHaveTheBitsOfTheRankOrderOnAllRanks/1'
  'Ranks/PeerTest.AddsTheSumToTheResidualAndNormalizes/1'
  'Ranks/PeerTest.GathersColumnsOfWholeAndBrokenPacks/1'
)
((gpus < 4)) || peer_cases+=('Ranks/PeerTest.SumsHaveTheBitsOfTheRankOrderOnAllRanks/3')
check() { # tool number filter sanitizer_flags…
  local log="$work/$1.$2" rc
  timeout -k 5 "$limit" compute-sanitizer --tool "$1" --error-exitcode 9 "${@:4}" "$programs/kernels_test" --gtest_brief=1 \
    --gtest_filter="$3" > "$log" 2>&1
  rc=$?
  case $rc in
    0) if grep -q 'PASSED  \] [1-9]' "$log"; then echo "passed: $1 $3"; else echo "FAILED: $1 $3: no test ran"; fi ;;
    124 | 137) echo "FAILED: $1 $3: more than $limit s" ;;
    *) echo "FAILED: $1 $3: $(grep -m1 -E '=========.*(rror|hazard)|FAILED' "$log" | cut -c1-200)" ;;
  esac
}
for tool in "${tools[@]}"; do
  for number in "${!cases[@]}"; do
    while (($(jobs -rp | wc -l) >= at_once)); do wait -n; done
    check "$tool" "$number" "${cases[number]}" >> "$work/results" &
  done
done
wait
((gpus >= 2)) || echo "not run: the kernels that wait for peers, they need two GPUs"
for tool in "${tools[@]}"; do
  flags=()
  # Peer access is asked for without a look whether it is on already, which is an error of the API (704).
  [ "$tool" != memcheck ] || flags=(--report-api-errors no)
  for number in "${!peer_cases[@]}"; do
    check "$tool" "peer_$number" "${peer_cases[number]}" "${flags[@]}" >> "$work/results"
  done
done
sort "$work/results"
failed=$(grep -c '^FAILED' "$work/results")
echo "$(grep -c '^passed' "$work/results") passed, $failed failed"
[ "$failed" = 0 ]
