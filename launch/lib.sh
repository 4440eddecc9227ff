# Shared by the scripts that run on Cloud TPU: options, shipping the checkout, running, collecting.
# shellcheck shell=bash

fail() {
  echo "error: $*" >&2
  exit 2
}

# Run a command, or print it so that it can be pasted.
run() {
  if "$dry_run"; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# Read options and NAME ZONE CONFIG WORKDIR [OVERRIDE ...] into variables.
parse_arguments() {
  dry_run=false spot=() project=() delete_after=false max_restarts=20
  while (($# > 0)); do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --dry-run) dry_run=true ;;
      --spot) spot=(--spot) ;;
      --delete-after) delete_after=true ;;
      --accelerator-type=?*) accelerator_type=${1#*=} ;;
      --version=?*) version=${1#*=} ;;
      --project=?*) project=("--project=${1#*=}") ;;
      --max-restarts=*)
        max_restarts=${1#*=}
        [[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max-restarts=$max_restarts: expected a number"
        ;;
      --*) fail "$1: no such option; --help lists them" ;;
      *) break ;;
    esac
    shift
  done
  (($# >= 4)) || fail "expected NAME ZONE CONFIG WORKDIR [OVERRIDE ...], got $# arguments; --help shows an example"
  name=$1 zone=$2 config=$3 workdir=$4
  shift 4
  overrides=("$@")
  place=("--zone=$zone" "${project[@]}")
  [[ -z $(git -C "$root" status --porcelain) ]] || echo "warning: only what is committed is sent" >&2
  git -C "$root" cat-file -e "HEAD:$config" 2>/dev/null ||
    fail "CONFIG=$config: expected a file of the last commit of this checkout"
}

# Write the command that installs the checkout on a machine and runs the job, quoted for its shell.
remote_command() {
  printf 'set -e; rm -rf rats_jax_checkout; mkdir rats_jax_checkout; tar -xzf rats_jax.tar.gz -C rats_jax_checkout; '
  printf 'cd rats_jax_checkout; python3 -m venv ../rats_jax_venv; ../rats_jax_venv/bin/pip install -q -e ".[tpu]"; '
  # Where a token is needed for gated weights, it is in a file, not in any command line.
  printf '[ ! -f ../rats_jax_token ] || . ../rats_jax_token; '
  printf '../rats_jax_venv/bin/python -m rats_jax.main --config=%q --workdir=%q' "$config" "$(remote_workdir)"
  (($# == 0)) || printf ' %q' "$@"
}

# A local WORKDIR is a folder beside the checkout on the machine; an address such as gs://... is itself.
remote_workdir() {
  if [[ $workdir == *://* ]]; then echo "$workdir"; else echo ../rats_jax_run; fi
}

# Copy the last commit, and the token if there is one, to the workers.
ship() {
  local archive=$scratch/rats_jax.tar.gz
  run git -C "$root" archive --format=tar.gz "--output=$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$name:rats_jax.tar.gz" --worker=all "${place[@]}"
  if [[ -n ${HF_TOKEN:-} ]]; then
    "$dry_run" || (umask 077 && printf 'export HF_TOKEN=%q\n' "$HF_TOKEN" >"$scratch/rats_jax_token")
    run gcloud compute tpus tpu-vm scp "$scratch/rats_jax_token" "$name:rats_jax_token" --worker=all "${place[@]}"
  fi
}

# Run the job on all workers; its exit status is that of this function.
execute() {
  run gcloud compute tpus tpu-vm ssh "$name" --worker=all "${place[@]}" "--command=$(remote_command "${overrides[@]}")"
}

# Bring a local WORKDIR back from the first worker.
collect() {
  [[ $workdir != *://* ]] || return 0
  run mkdir -p "$workdir"
  run gcloud compute tpus tpu-vm scp --recurse "$name:rats_jax_run/*" "$workdir" --worker=0 "${place[@]}"
}

# Create the TPU VM unless there is one of that name, run the job, bring the results back, also after a failure.
create_run_collect() {
  if "$dry_run" || ! gcloud compute tpus tpu-vm describe "$name" "${place[@]}" >/dev/null 2>&1; then
    run gcloud compute tpus tpu-vm create "$name" "${place[@]}" \
      "--accelerator-type=$accelerator_type" "--version=$version" "${spot[@]}"
  fi
  ship
  local status=0
  execute || status=$?
  collect || echo "warning: the results could not be copied from $name" >&2
  if "$delete_after"; then
    run gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet
  fi
  return "$status"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
