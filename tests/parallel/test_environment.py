"""Variables that are wrong or half set, and platforms that are not here: one line with the variable."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from rats_jax.errors import ConfigError
from rats_jax.parallel import processes
from rats_jax.parallel.environment import check_devices, check_variables

_PROGRAM = """
import sys
from rats_jax.errors import ConfigError
from rats_jax.parallel.environment import open_environment
try:
    open_environment()
except ConfigError as error:
    sys.exit(str(error))
"""


@pytest.fixture(autouse=True)
def torch_stays(monkeypatch):
    """Keep the environment of other tests' processes as it is."""
    monkeypatch.setenv("USE_TORCH", "1")


def start(program=_PROGRAM, **variables):
    """What a new process says, and its status."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | {"JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("JAX_PLATFORMS", "cuda", "a platform that is here"),
        ("JAX_PLATFORMS", "abacus", "a platform that is here .*'abacus' is not in the list"),
        ("JAX_ENABLE_X64", "maybe", "what jax reads of JAX_"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "abc", "what jax reads of JAX_"),
        ("XLA_FLAGS", "--xla_nope=1", "flags of XLA .Unknown flag in XLA_FLAGS: --xla_nope=1"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=abc", "flags of XLA .*value abc for flag xla_"),
        ("XLA_FLAGS", "hello", "flags of XLA .*Could not open file"),
        ("HF_HUB_ETAG_TIMEOUT", "abc", "what huggingface_hub.constants reads of HF_"),
        ("TQDM_MININTERVAL", "abc", "what tqdm reads of TQDM_"),
    ],
)
def test_what_libraries_cannot_read_is_one_line_with_the_variable(name, value, reason):
    status, said = start(**{name: value})
    assert status == 1
    (line,) = said.splitlines()
    assert re.match(f"{name}='{value}': expected {reason}", line), line


def test_what_is_right_passes():
    assert start(XLA_FLAGS="--xla_force_host_platform_device_count=2", HF_HUB_OFFLINE="1") == (0, "")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("JAX_NUM_CPU_DEVICES", value, "a number >= 1") for value in ("abc", "0", "-3", "", "1.5")),
        ("HF_HUB_OFFLINE", "abc", "1 or 0"),
        ("XLA_CLIENT_MEM_FRACTION", "most", "a share of a GPU's memory, as 0.9"),
        ("XLA_PYTHON_CLIENT_MEM_FRACTION", "0", "a share of a GPU's memory, as 0.9"),
        ("TRANSFORMERS_OFFLINE", "2", "1 or 0"),
    ],
)
def test_numbers_and_switches(monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}='{value}': expected {expected}$"):
        check_variables()


def test_jax_takes_nine_tenths_of_a_gpu_unless_it_is_told_otherwise(monkeypatch):
    new, old = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
    monkeypatch.setenv(new, "")
    check_variables()
    assert os.environ[new] == "0.9"
    monkeypatch.setenv(old, "0.5")
    with pytest.raises(ConfigError, match=f"^{old}='0.5': expected none beside {new}$"):
        check_variables()
    monkeypatch.delenv(new)
    check_variables()
    assert new not in os.environ


def test_a_secret_is_not_shown(monkeypatch):
    def import_module(name):
        raise ValueError("invalid")

    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("rats_jax.parallel.environment._READERS", {"huggingface_hub": "HF_"})
    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(ConfigError) as caught:
        check_variables()
    assert str(caught.value) == "environment: expected what huggingface_hub reads of HF_... (invalid)"


@pytest.mark.parametrize("error", [RuntimeError("none\nhere"), AssertionError(), ValueError("x")])
def test_devices_that_are_not_found_are_one_line(monkeypatch, error):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("XLA_FLAGS", "")
    for name in ("JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"^environment: expected a platform that is here \("):
        check_devices()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    with pytest.raises(ConfigError, match=r"^CUDA_VISIBLE_DEVICES='9': expected a platform that is here \("):
        check_devices()


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[1-4]",
}
RATS = {"RATS_COORDINATOR": "host:1234", "RATS_NUM_PROCESSES": "2", "RATS_PROCESS_ID": "0"}


@pytest.fixture
def joined(monkeypatch):
    """What jax is asked to join; no process is."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(processes, "_is_tpu", lambda environment: False)
    return calls


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"SLURM_JOB_ID": "7"}, []),
        ({"SLURM_NTASKS": "", "RATS_COORDINATOR": ""}, []),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, []),
        (SLURM, [()]),
        (RATS, [("host:1234", 2, 0)]),
        (SLURM | RATS, [("host:1234", 2, 0)]),
        ({"SLURM_NTASKS": "abc"} | RATS, [("host:1234", 2, 0)]),
    ],
)
def test_who_is_joined(joined, environment, expected):
    processes.initialize(environment)
    assert joined == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        *(
            (SLURM | {name: ""}, f"{name}='': expected what srun sets, as SLURM_NTASKS=4")
            for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST")
        ),
        *(
            (SLURM | {name: "abc"}, f"{name}='abc': expected a number")
            for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
        ),
        (SLURM | {"SLURM_PROCID": "4"}, "SLURM_PROCID='4': expected from 0 to 3"),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID='1': expected from 0 to 0"),
        ({"SLURM_NTASKS": "²"}, "SLURM_NTASKS='²': expected a number"),
        (RATS | {"RATS_PROCESS_ID": "²"}, "RATS_PROCESS_ID='²': expected a number"),
        (RATS | {"RATS_COORDINATOR": "host:99999"}, "RATS_COORDINATOR='host:99999': expected host:port"),
        (RATS | {"RATS_COORDINATOR": "host:0"}, "RATS_COORDINATOR='host:0': expected host:port"),
        (RATS | {"RATS_NUM_PROCESSES": ""}, "RATS_NUM_PROCESSES is not set: expected all of"),
    ],
)
def test_processes_that_are_half_described_are_refused(joined, environment, message):
    with pytest.raises(ConfigError) as caught:
        processes.initialize(environment)
    assert str(caught.value).startswith(message) and joined == []


@pytest.mark.parametrize("environment", [SLURM, RATS])
def test_processes_that_are_not_found_are_one_line(monkeypatch, environment):
    def initialize(*arguments):
        raise RuntimeError("DEADLINE_EXCEEDED:\nBarrier timed out")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ConfigError) as caught:
        processes.initialize(environment)
    (line,) = str(caught.value).splitlines()
    assert all(f"{name}={value!r}" in line for name, value in environment.items())
    assert line.endswith("expected to find the other processes (DEADLINE_EXCEEDED: Barrier timed out)")


def test_a_command_leaves_torch_out():
    program = (
        "import sys; from rats_jax.parallel.environment import check_variables; check_variables(); "
        "import rats_jax.weights.tokenizers, rats_jax.workdir.metrics; print('torch' in sys.modules)"
    )
    kept = {name: value for name, value in os.environ.items() if name != "USE_TORCH"}
    for given, imports in (({}, "False"), ({"USE_TORCH": "1"}, "True")):
        done = subprocess.run(
            [sys.executable, "-c", program], env=kept | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [imports], given


_SUMS = """
import sys
import numpy as np
{before}
import rats_jax
import jax
import jax.numpy as jnp
from rats_jax.errors import ConfigError
from rats_jax.parallel.environment import check_sums
try:
    check_sums()
except ConfigError as error:
    sys.exit(str(error))
x = np.random.default_rng(0).normal(size=(5, 60, 60)).astype(np.float32)
found = jax.jit(lambda x: jnp.sum((x @ jnp.full_like(x, 0.7)) * x))(x)
np.testing.assert_allclose(found, np.sum(x.sum(2) ** 2) * np.float32(0.7), rtol=1e-4)
rows = np.zeros((32769, 3), np.float32)
rows[:, 0] = np.arange(len(rows))
found = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
np.testing.assert_array_equal(found, rows[:, 0] ** 2)
"""


@pytest.mark.parametrize(
    ("before", "flags", "said"),
    [
        ("", "", ""),
        ("", "--xla_force_host_platform_device_count=2", ""),
        ("import jax; jax.devices()", "", "jaxlib='.*': expected .* import rats_jax before jax is used"),
        (
            "",
            "--xla_cpu_experimental_ynn_fusion_type=reduce",
            "jaxlib='.*': expected right sums on a CPU, which",
        ),
        ("", "FILE", ""),
    ],
)
def test_sums_on_a_cpu_are_right_or_refused(before, flags, said, tmp_path):
    """Two that jaxlib 0.10.2 computes wrongly; the second is https://github.com/jax-ml/jax/issues/39103."""
    if flags == "FILE":
        flags = str(tmp_path / "flags.txt")
        Path(flags).write_text("--xla_cpu_experimental_ynn_fusion_type=-reduce")
    status, error = start(_SUMS.format(before=before), XLA_FLAGS=flags)
    assert (status, bool(error)) == (bool(said), bool(said)), error
    assert re.match(said, error)
