#!/usr/bin/env bash
# Installs what Caravan is built from, as packages of Debian 12 or Ubuntu 24.04.
#   deploy/install_dependencies.sh [build|test|tidy]   what is missing of that set (build is the default)
#   deploy/install_dependencies.sh list [SET]          only prints the names
# Does nothing, in a few milliseconds, when all are there.
set -euo pipefail

build_packages=(
  g++ cmake ninja-build ccache pkg-config
  protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libgrpc++-dev libabsl-dev
  libgloo-dev libspdlog-dev nlohmann-json3-dev prometheus-cpp-dev libboost-dev zlib1g-dev
)
test_packages=(
  "${build_packages[@]}"
  libgtest-dev libgmock-dev libbenchmark-dev clang-format-14
  python3 python3-venv
  golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev
  protoc-gen-go-1-5 protoc-gen-go-grpc
)
tidy_packages=("${test_packages[@]}" clang-tidy-14)

fail() {
  echo "caravan: $*" >&2
  exit 1
}

# Sets `packages` to the names of a set.
choose() {
  case "$1" in
    build) packages=("${build_packages[@]}") ;;
    test) packages=("${test_packages[@]}") ;;
    tidy) packages=("${tidy_packages[@]}") ;;
    *) fail "there is no package set '$1' (build, test, tidy)" ;;
  esac
}

# Sets `missing` to those of `packages` that are not installed.
find_missing() {
  local installed name
  missing=()
  installed=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package} ' "${packages[@]}" 2>/dev/null || true) "
  for name in "${packages[@]}"; do
    [[ $installed == *" ii $name "* || $installed == *" hi $name "* ]] || missing+=("$name")
  done
}

become_root() {
  as_root=()
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null ||
      fail "these packages are missing and only root can install them (there is no sudo here): ${missing[*]}"
    as_root=(sudo)
  fi
}

install_missing() {
  local log
  log=$(mktemp "${TMPDIR:-/tmp}/caravan-apt.XXXXXX")
  echo "caravan: installing ${#missing[@]} packages with apt (once; some minutes): ${missing[*]}" >&2
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } \
      >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    fail "apt could not install the packages; its whole output is in $log"
  fi
  rm -f "$log"
}

main() {
  local packages missing as_root
  if [[ ${1:-} == list ]]; then
    choose "${2:-build}"
    printf '%s\n' "${packages[@]}"
    return
  fi
  choose "${1:-build}"
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    fail "this system has no apt. Caravan builds on Debian 12 and Ubuntu 24.04; elsewhere install the equivalents of: ${packages[*]}"
  fi
  find_missing
  ((${#missing[@]} == 0)) && return
  become_root
  install_missing
  find_missing
  ((${#missing[@]} == 0)) || fail "apt says it is done, but these packages are still missing: ${missing[*]}"
}

main "$@"
