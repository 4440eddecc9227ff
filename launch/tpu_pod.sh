#!/usr/bin/env bash
# Run a training config on all hosts of a Cloud TPU slice.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: launch/tpu_pod.sh [OPTION ...] NAME ZONE CONFIG gs://WORKDIR [OVERRIDE ...]

Creates the slice NAME unless it is there, installs the last commit of this checkout with the extras `tpu`
and `datasets` on every host, and starts on all of them
  python -m rats_jax.main --config=CONFIG --workdir=WORKDIR OVERRIDE ...
The hosts find each other. They share the checkpoints, so WORKDIR is a bucket. A second start resumes.
If HF_TOKEN is set, the job gets it.
gcloud reaches several hosts only with its key in the ssh agent: ssh-add ~/.ssh/google_compute_engine

  --accelerator-type=TYPE  v5litepod-16
  --version=IMAGE          that of the accelerator type
  --project=PROJECT        that of gcloud's configuration
  --spot                   a cheaper slice that may be taken away
  --delete-after           delete the slice at the end
  --dry-run                print the commands, run none

example: launch/tpu_pod.sh my-pod us-central1-a configs/sd_tpu.py gs://my-bucket/sd \
  --config.prompts=gs://my-bucket/prompts.txt
TEXT
}

accelerator_type=v5litepod-16
parse_arguments "$@"
[[ $workdir == gs://?* ]] || fail "WORKDIR=$workdir: expected gs://BUCKET/..., which all hosts can write"
create_run_collect
