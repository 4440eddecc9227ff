#!/usr/bin/env bash
# Run a training config on a Cloud TPU VM of one host that exists already.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh [--dry-run] TPU_NAME ZONE CONFIG WORKDIR [OVERRIDE ...]

Copies the last commit of this checkout to the VM, installs it with the extra `tpu`, and starts
  python -m rats_jax.main --config=CONFIG --workdir=WORKDIR OVERRIDE ...
there; a second start with the same WORKDIR resumes the run. Slices of several hosts are not supported yet.
--dry-run prints the commands instead of running them.

example: launch/tpu_vm.sh my-tpu us-central2-b configs/emoji_cpu.py runs/emoji --config.seed=1
TEXT
}

dry_run=false
case "${1:-}" in
  -h | --help)
    usage
    exit 0
    ;;
  --dry-run)
    dry_run=true
    shift
    ;;
esac
if (($# < 4)); then
  usage >&2
  exit 2
fi
name=$1 zone=$2 config=$3 workdir=$4
shift 4

run() {
  if "$dry_run"; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

root=$(cd "$(dirname "$0")/.." && pwd)
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$root" archive --format=tar.gz --output="$archive" HEAD

command='set -e; mkdir -p rats_jax; tar -xzf rats_jax.tar.gz -C rats_jax; cd rats_jax; python3 -m venv .venv;'
command+=' .venv/bin/pip install -q -e ".[tpu]";'
command+=$(printf ' .venv/bin/python -m rats_jax.main --config=%q --workdir=%q' "$config" "$workdir")
for override in "$@"; do
  command+=$(printf ' %q' "$override")
done

run gcloud compute tpus tpu-vm scp "$archive" "$name:rats_jax.tar.gz" --zone="$zone"
run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --command="$command"
