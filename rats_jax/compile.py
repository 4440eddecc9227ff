"""Compile a training update for TPUs or GPUs that are not there.

    python -m rats_jax.compile --config=configs/sd_tpu.py --topology=v5e:4x4
    python -m rats_jax.compile --config=configs/flux_gpu.py --topology=h100

Needs the compiler, in the extra `tpu` or `cuda`, and no such chip. One JSON object on stdout says what the
update needs; the exit status is 1, with advice, if it does not fit into the chips' memory. Of published
models nothing is read. `--dry` only traces and counts.
"""

from __future__ import annotations

import json
import os

from absl import app, flags, logging

from rats_jax.aot.chips import CHIPS, describe_machine
from rats_jax.config.flags import define_config, errors_in_a_line, fail, parse_flags
from rats_jax.config.together import validate
from rats_jax.errors import ConfigError, expect
from rats_jax.files import naming_disk, write_whole
from rats_jax.paths import output_file
from rats_jax.texts import show

_CONFIG = define_config()
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPUs, as v5e:4x4, or GPUs, as h100 or h100:8.", required=True
)
_DRY = flags.DEFINE_bool("dry", False, "Only trace and count.")
_EFFORT = flags.DEFINE_float(
    "effort",
    -1.0,
    "XLA's effort for the program's speed, from -1 (compiles several times faster) to 1; a run trains at 0.",
    lower_bound=-1.0,
    upper_bound=1.0,
)
_HLO = flags.DEFINE_string("hlo", None, "File to write the compiled program's text to.")


def main(_: list[str]) -> None:
    """Check the input, compile, report; jax is imported once its environment is set."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        topology = str(_TOPOLOGY.value)
        name = topology.partition(":")[0]
        expect(name in CHIPS, "topology", topology, f"CHIP:SHAPE, with a chip of {', '.join(CHIPS)}")
        hlo = None if _HLO.value is None else output_file(_HLO.value, "hlo")
        validate(_CONFIG.value)
        os.environ |= describe_machine(name)
        from rats_jax.parallel.environment import check_variables

        check_variables()
        from rats_jax.aot import trace as compiling

        program = compiling.trace(_CONFIG.value, compiling.find_devices(topology))
        report = {"config": _CONFIG.value.pretrained, "topology": topology, **program.counts}
        text = ""
        if not _DRY.value:
            result = compiling.compile_for(program, effort=_EFFORT.value, chip=CHIPS[name])
            report, text = report | result.report, result.text
        show(json.dumps(report))
        if hlo and text:
            with naming_disk(hlo, field="hlo", kind="file", at=hlo.parent):
                write_whole(hlo, text)
        if not report.get("fits", True):
            fail(ConfigError(compiling.advice(_CONFIG.value)))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
