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
gcloud reaches several hosts only with its key in the ssh agent: ssh-add ~/.ssh/google_compute_engine

  --accelerator-type=TYPE  v5litepod-16
  --version=IMAGE          that of the accelerator type
  --project=PROJECT        that of gcloud's configuration
  --spot                   a cheaper slice that may be taken away
  --max-restarts=N         20
  --delete-after           delete the slice at the end
  --dry-run                print the commands of one start, run none

example: launch/tpu_queued.sh --spot my-pod us-central1-a configs/sd_tpu.py gs://my-bucket/sd \
  --config.prompts=gs://my-bucket/prompts.txt
TEXT
}

queued() {
  local verb=$1
  shift
  run gcloud compute tpus queued-resources "$verb" "$name" "${place[@]}" "$@"
}

state() { queued describe '--format=value(state.state)'; }

is_lost() { [[ $1 == SUSPENDED || $1 == SUSPENDING || $1 == FAILED ]]; }

create() {
  queued create "--node-id=$name" "${create_flags[@]}" "--runtime-version=$version"
}

# Queue unless that is done already; what an earlier start left without machines is queued for again.
queue() {
  local now
  if now=$(state 2>/dev/null); then
    is_lost "$now" || return 0
    queued delete --force --quiet
  fi
  create
}

# Wait for the machines; not 0 if the resource was refused or taken away meanwhile.
await() {
  local now
  while true; do
    now=$(state) || return
    [[ $now != ACTIVE ]] || return 0
    echo "$name is $now" >&2
    ! is_lost "$now" || return 1
    sleep "$seconds"
  done
}

# Tell machines that were taken away from a job that failed on healthy ones, for the resource's state lags behind the
# connections that break. What cannot be asked is not known to be gone, and must not be deleted.
was_taken_away() {
  local look now
  for look in 1 2 3 4 5; do
    ((look == 1)) || sleep "$seconds"
    now=$(state) || return 1
    ! is_lost "$now" || return 0
    now=$(gcloud compute tpus tpu-vm describe "$name" "${place[@]}" '--format=value(state)') || now=GONE
    [[ $now == READY ]] || return 0
  done
  return 1
}

accelerator_type=v5litepod-16 seconds=${RATS_POLL_SECONDS:-30}
parse_arguments "$@"
[[ $workdir == gs://?* ]] || fail "WORKDIR=$workdir: expected gs://BUCKET/..., which outlives the slice"
pack

if "$dry_run"; then
  state
  echo "# only if there is none; then the first command again until it says ACTIVE:"
  create
  install
  execute
  echo "# whenever the slice is taken away, before all of it again; with --delete-after also at the end:"
  queued delete --force --quiet
  exit
fi

for ((start = 0; start <= max_restarts; start++)); do
  status=0
  queue
  { await && install && execute; } || status=$?
  ((status != 0)) || break
  if ((status == 75)); then # it was asked to end, and what it has done is saved
    ((start < max_restarts)) || break
    echo "the job was asked to end and goes on; start $((start + 2)) of at most $((max_restarts + 1))" >&2
    continue
  fi
  if ! was_taken_away; then
    echo "error: status $status, and nothing says that $name was taken away" >&2
    break
  fi
  ((start < max_restarts)) || break
  echo "$name was taken away; start $((start + 2)) of at most $((max_restarts + 1))" >&2
  queued delete --force --quiet
done
if "$delete_after"; then
  queued delete --force --quiet || status=$((status ? status : $?))
fi
exit "$status"
