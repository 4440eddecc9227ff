#!/usr/bin/env bash
# Run a training config on a queued Cloud TPU resource, and again whenever the resource is taken away.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: launch/tpu_queued.sh [OPTION ...] NAME ZONE CONFIG gs://WORKDIR [OVERRIDE ...]

Queues for the slice NAME, waits until it is there, and starts on all of its hosts
  python -m rats_jax.main --config=CONFIG --workdir=WORKDIR OVERRIDE ...
When the slice is taken away it is deleted and queued for again, and the run goes on from its last checkpoint. A
job that fails on a slice that is there ends the script with its status. If HF_TOKEN is set, the job gets it.

  --accelerator-type=TYPE  v5litepod-16
  --version=IMAGE          v2-alpha-tpuv5-lite
  --project=PROJECT        that of gcloud's configuration
  --spot                   a cheaper slice that may be taken away
  --max-restarts=N         20
  --delete-after           delete the slice at the end
  --dry-run                print the commands of one start, run none

example: launch/tpu_queued.sh --spot my-pod us-central1-a configs/sd_tpu.py gs://my-bucket/sd
TEXT
}

queued() {
  local verb=$1
  shift
  run gcloud compute tpus queued-resources "$verb" "$name" "${place[@]}" "$@"
}

state() {
  gcloud compute tpus queued-resources describe "$name" "${place[@]}" '--format=value(state.state)' 2>/dev/null || echo NONE
}

# Queue unless that is done already, and wait; 1 if the resource was taken away or refused meanwhile.
acquire() {
  if "$dry_run" || [[ $(state) == NONE ]]; then
    queued create "--node-id=$name" "--accelerator-type=$accelerator_type" "--runtime-version=$version" "${spot[@]}"
  fi
  "$dry_run" && return 0
  local now
  while true; do
    now=$(state)
    case $now in
      ACTIVE) return 0 ;;
      SUSPENDED | SUSPENDING | FAILED | DELETING) return 1 ;;
    esac
    echo "$name is $now" >&2
    sleep "${RATS_POLL_SECONDS:-30}"
  done
}

accelerator_type=v5litepod-16 version=v2-alpha-tpuv5-lite
parse_arguments "$@"
[[ $workdir == gs://?* ]] || fail "WORKDIR=$workdir: expected gs://BUCKET/..., which outlives the slice"

status=1
for ((start = 0; start <= max_restarts; start++)); do
  status=1
  if acquire; then
    status=0
    { ship && execute; } || status=$?
    ((status != 0)) || break
    if [[ $(state) == ACTIVE ]]; then
      echo "error: the job failed on a slice that is there (status $status)" >&2
      break
    fi
  fi
  ((start < max_restarts)) || break
  echo "$name was taken away; start $((start + 2)) of at most $((max_restarts + 1))" >&2
  queued delete --force --quiet
done
if "$delete_after"; then
  queued delete --force --quiet
fi
exit "$status"
