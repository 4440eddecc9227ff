# Shared by the scripts that run on Cloud TPU: options, shipping the checkout, running, collecting.
# shellcheck shell=bash
# macOS ships bash 3.2, where an empty array counts as unset: arrays here always hold something.

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
  dry_run=false spot=false project='' version='' delete_after=false max_restarts=20
  while (($# > 0)); do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --dry-run) dry_run=true ;;
      --spot) spot=true ;;
      --delete-after) delete_after=true ;;
      --accelerator-type=?*) accelerator_type=${1#*=} ;;
      --version=?*) version=${1#*=} ;;
      --project=?*) project=${1#*=} ;;
      --max-restarts=*)
        max_restarts=${1#*=}
        [[ $max_restarts =~ ^[0-9]{1,6}$ ]] || fail "--max-restarts=$max_restarts: expected a number"
        ;;
      --accelerator-type | --version | --project | --max-restarts)
        (($# > 1)) && [[ -n $2 ]] || fail "$1: expected a value"
        set -- "$1=$2" "${@:3}"
        continue
        ;;
      -*) fail "$1: no such option; --help lists them" ;;
      *) break ;;
    esac
    shift
  done
  (($# >= 4)) || fail "expected NAME ZONE CONFIG WORKDIR [OVERRIDE ...], got $# arguments; --help shows an example"
  name=$1 zone=$2 config=$3 workdir=${4%/}
  shift 4
  [[ -n $version ]] || choose_version
  check_arguments "$@"
  place=("--zone=$zone")
  [[ -z $project ]] || place+=("--project=$project")
  create_flags=("--accelerator-type=$accelerator_type")
  ! "$spot" || create_flags+=(--spot)
  printf -v program ' %q' "--config=$config" "--workdir=$(remote_workdir)" "$@"
}

# The image that https://cloud.google.com/tpu/docs/runtimes names for JAX.
choose_version() {
  case $accelerator_type in
    v6e-?*) version=v2-alpha-tpuv6e ;;
    v5p-?*) version=v2-alpha-tpuv5 ;;
    v5litepod-?*) version=v2-alpha-tpuv5-lite ;;
    v4-?*) version=tpu-ubuntu2204-base ;;
    *)
      fail "--accelerator-type=$accelerator_type: expected v4-N, v5litepod-N, v5p-N or v6e-N, or a --version"
      ;;
  esac
}

# Only the last commit is sent.
is_sent() { [[ $1 != /* && $(git -C "$root" cat-file -t "HEAD:./$1" 2>/dev/null) == blob ]]; }

check_arguments() { # OVERRIDE ...
  local override path file='a file of the last commit of this checkout'
  git -C "$root" rev-parse --quiet --verify 'HEAD^{commit}' >/dev/null 2>&1 ||
    fail "$root: expected a git checkout with a commit, which is what is sent"
  is_sent "$config" || fail "CONFIG=$config: expected $file"
  # Versions of scp differ in how they read other characters in a path on the machine.
  [[ $workdir == *://?* || ($workdir =~ ^[A-Za-z0-9._/-]+$ && /$workdir/ != */../*) ]] ||
    fail "WORKDIR=$workdir: expected gs://BUCKET/..., or a folder of letters, digits and . _ - without .."
  # An option that stands here would reach the program, and --dry-run at the end would not be one.
  for override in "$@"; do
    [[ $override == --config.?* || $override == --noconfig.?* ]] ||
      fail "OVERRIDE=$override: expected --config.FIELD=VALUE; options stand before NAME"
    [[ $override == --config.prompts=?* || $override == --config.heldout_prompts=?* ]] || continue
    path=${override#*=} # assets/... is in the package
    [[ $path == hf:* || $path == tfds:* || $path == *://* || $path == assets/* ]] || is_sent "$path" ||
      fail "OVERRIDE=$override: expected $file, gs://..., hf:... or tfds:..."
  done
  [[ -z $(git -C "$root" --no-optional-locks status --porcelain) ]] ||
    echo "warning: only what is committed is sent" >&2
}

# A local WORKDIR is a folder of its own on the machine; an address such as gs://... is itself.
remote_workdir() {
  if [[ $workdir == *://* ]]; then echo "$workdir"; else echo "../rats_jax_runs/$workdir"; fi
}

# Write the command that installs the checkout on a machine. Its Python is 3.10, which is too old: uv brings one.
install_command() {
  printf 'set -e; rm -rf rats_jax_checkout; mkdir rats_jax_checkout; tar -xzf rats_jax.tar.gz -C rats_jax_checkout; '
  printf 'cd rats_jax_checkout; PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv; '
  printf 'python3 -m uv venv -q --allow-existing --seed --python 3.11 ../rats_jax_venv; '
  printf '../rats_jax_venv/bin/pip install -q -e ".[tpu,datasets]"'
}

# Write the command that runs the job there, quoted for its shell.
train_command() {
  printf 'set -e; cd rats_jax_checkout; '
  # So that there is something to copy back from a job that fails at once.
  [[ $workdir == *://* ]] || printf 'mkdir -p %s; ' "$(remote_workdir)"
  # Where a token is needed for gated weights, it is in a file, not in any command line.
  [[ -z ${HF_TOKEN:-} ]] || printf '. ../rats_jax_token; '
  printf '../rats_jax_venv/bin/python -m rats_jax.main%s' "$program"
}

# Write what is sent, once: a job that starts again goes on with the same code.
pack() {
  if "$dry_run"; then
    scratch=${TMPDIR:-/tmp}/rats_jax_launch
    run mkdir -p -m 700 "$scratch"
  else
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
  fi
  run git -C "$root" archive --format=tar.gz "--output=$scratch/rats_jax.tar.gz" HEAD
  files=("$scratch/rats_jax.tar.gz")
  if [[ -n ${HF_TOKEN:-} ]]; then
    files+=("$scratch/rats_jax_token")
    if "$dry_run"; then
      # shellcheck disable=SC2016 # whoever pastes it expands it
      printf '(umask 077; printf "export HF_TOKEN=%%q\\n" "$HF_TOKEN" >%q)\n' "${files[1]}"
    else
      (umask 077 && printf 'export HF_TOKEN=%q\n' "$HF_TOKEN" >"${files[1]}")
    fi
  fi
}

# Copy the last commit, and the token if there is one, to the workers.
ship() { run gcloud compute tpus tpu-vm scp "${files[@]}" "$name:" --worker=all "${place[@]}"; }

on_all_workers() { run gcloud compute tpus tpu-vm ssh "$name" --worker=all "${place[@]}" "--command=$1"; }

# Install, then run the job, on all workers; none starts to wait for another one that cannot be installed.
install() { ship && on_all_workers "$(install_command)"; }
execute() { on_all_workers "$(train_command)"; }

# Bring a local WORKDIR back from the first worker.
collect() {
  local parent
  parent=$(dirname "$workdir")
  [[ $workdir != *://* ]] || return 0
  run mkdir -p "$parent" &&
    run gcloud compute tpus tpu-vm scp --recurse "$name:rats_jax_runs/$workdir" "$parent" --worker=0 "${place[@]}"
}

create_unless_there() {
  local state describe=(gcloud compute tpus tpu-vm describe "$name" "${place[@]}" '--format=value(state)')
  if "$dry_run"; then
    run "${describe[@]}"
    echo "# only if there is none:"
  elif state=$("${describe[@]}" 2>/dev/null); then
    [[ $state == READY ]] && return 0
    echo "error: $name is $state: expected READY; wait, or delete it" >&2
    exit 1
  fi
  run gcloud compute tpus tpu-vm create "$name" "${place[@]}" "${create_flags[@]}" "--version=$version"
}

# Create the TPU VM unless there is one of that name, run the job, bring the results back, also after a failure.
create_run_collect() {
  local status=0 collected=true
  pack
  create_unless_there
  install || status=$?
  if ((status == 0)); then
    execute || status=$?
    collect || collected=false
  fi
  if ! "$collected"; then
    echo "error: the results could not be copied; they are still on $name" >&2
    ((status != 0)) || status=1
  elif "$delete_after"; then
    run gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet || status=$((status ? status : $?))
  fi
  return "$status"
}

root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
