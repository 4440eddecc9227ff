#!/usr/bin/env bash
# Run a training config on a Cloud TPU VM of one host.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh [OPTION ...] NAME ZONE CONFIG WORKDIR [OVERRIDE ...]

Creates the TPU VM NAME unless it is there, installs the last commit of this checkout with the extras `tpu`
and `datasets`, runs
  python -m rats_jax.main --config=CONFIG --workdir=WORKDIR OVERRIDE ...
and copies a WORKDIR that is a folder back, also after a failure. A second start with the same WORKDIR resumes.
If HF_TOKEN is set, the job gets it.

  --accelerator-type=TYPE  v5litepod-4
  --version=IMAGE          that of the accelerator type
  --project=PROJECT        that of gcloud's configuration
  --spot                   a cheaper machine that may be taken away
  --delete-after           delete the machine at the end, unless WORKDIR could not be copied back
  --dry-run                print the commands, run none

example: launch/tpu_vm.sh my-tpu us-central1-a configs/emoji_cpu.py runs/emoji --config.seed=1
TEXT
}

accelerator_type=v5litepod-4
parse_arguments "$@"
create_run_collect
