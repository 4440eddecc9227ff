#!/usr/bin/env bash
# Run a training config as several processes on this machine.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/local_processes.sh [OPTION ...] CONFIG WORKDIR [OVERRIDE ...]

Starts N processes of python -m rats_jax.main that form one run. If one fails, all end, with its exit status.

  --processes=N  2
  --devices=N    fake CPU devices per process; without it each process takes the devices that jax finds
  --logs=DIR     folder for the output of all processes but the first; a temporary one
  --dry-run      print the commands, run none
  PYTHON=FILE    environment variable, their Python; .venv/bin/python of this checkout if there, else python3

example: launch/local_processes.sh --processes=2 --devices=4 configs/emoji_cpu.py runs/two
TEXT
}

fail() {
  echo "error: $*" >&2
  exit 2
}

processes=2 devices='' logs='' dry_run=false
while (($# > 0)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=true ;;
    --processes=*) processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --logs=?*) logs=${1#*=} ;;
    -*) fail "$1: no such option; --help lists them" ;;
    *) break ;;
  esac
  shift
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes=$processes: expected a number >= 1"
[[ -z $devices || $devices =~ ^[1-9][0-9]*$ ]] || fail "--devices=$devices: expected a number >= 1"
(($# >= 2)) || fail "expected CONFIG WORKDIR [OVERRIDE ...], got $# arguments; --help shows an example"
[[ -f $1 ]] || fail "CONFIG=$1: expected a file"
config=$1 workdir=$2
shift 2
for override in "$@"; do
  [[ $override == --config.?* || $override == --noconfig.?* ]] ||
    fail "OVERRIDE=$override: expected --config.FIELD=VALUE; options stand before CONFIG"
done

# A port that nothing listens on.
port=0
for ((i = 0; i < 100; i++)); do
  port=$((20000 + RANDOM % 20000))
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done

python=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/python
[[ -x $python ]] || python=python3
python=${PYTHON:-$python}
command=("$python" -m rats_jax.main "--config=$config" "--workdir=$workdir" "$@")
shared=("RATS_COORDINATOR=127.0.0.1:$port" "RATS_NUM_PROCESSES=$processes")
if [[ -n $devices ]]; then
  shared+=(JAX_PLATFORMS=cpu "XLA_FLAGS=--xla_force_host_platform_device_count=$devices")
fi
if "$dry_run"; then
  for ((i = 0; i < processes; i++)); do
    printf '%q ' env "${shared[@]}" "RATS_PROCESS_ID=$i" "${command[@]}"
    echo
  done
  exit 0
fi

if [[ -z $logs ]]; then logs=$(mktemp -d); else mkdir -p "$logs"; fi
((processes == 1)) || echo "output of the other processes: $logs" >&2
running=()
alive() {
  local pid
  for pid in ${running[@]+"${running[@]}"}; do
    if kill -0 "$pid" 2>/dev/null; then return 0; fi
  done
  return 1
}
# jax catches SIGTERM as the announcement of a preemption, so a process may go on after it.
end_all() {
  local i
  alive || return 0
  kill "${running[@]}" 2>/dev/null || true
  for ((i = 0; i < 20; i++)); do
    alive || return 0
    sleep 0.1
  done
  kill -KILL "${running[@]}" 2>/dev/null || true
  wait "${running[@]}" 2>/dev/null || true
}
trap end_all EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
for ((i = 0; i < processes; i++)); do
  if ((i == 0)); then
    env "${shared[@]}" "RATS_PROCESS_ID=$i" "${command[@]}" &
  else
    env "${shared[@]}" "RATS_PROCESS_ID=$i" "${command[@]}" >"$logs/process_$i.log" 2>&1 &
  fi
  running+=($!)
done
# `wait -n` would do, but for bash 3.2.
while ((${#running[@]} > 0)); do
  for i in "${!running[@]}"; do
    if kill -0 "${running[i]}" 2>/dev/null; then continue; fi
    status=0
    wait "${running[i]}" || status=$?
    unset "running[i]"
    if ((status != 0)); then
      ((i == 0)) || tail -n 20 "$logs/process_$i.log" >&2
      echo "error: process $i ended with status $status" >&2
      exit "$status"
    fi
  done
  sleep 0.1
done
