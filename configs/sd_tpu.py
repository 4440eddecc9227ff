r"""RATS on Stable Diffusion 1.5 at 512x512, for a TPU v5e slice of 16 chips (v5litepod-16).

    python -m rats_jax.main --config=configs/sd_tpu.py --workdir=gs://BUCKET/sd --config.prompts=FILE

4 student steps without guidance, a teacher of 50 steps at guidance 7.5, HPSv2.1 as the reward. All weights
are trained; the state is split over the chips, frozen networks but the reward are copied to each. LoRA, for
the 4 chips of a v5litepod-4:

    ... --config.lora.rank=32 --config.batch_size=4 --config.evaluation.batch_size=4 \
        --config.optimizer.learning_rate=1e-4

What `python -m rats_jax.compile --config=configs/sd_tpu.py --topology=v5e:4x4` says of both: docs/tpu.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("default.py"))
    config.num_updates = 400
    config.batch_size = 16

    config.pretrained = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config.prompts = "prompts.txt"
    config.rewards.hpsv2 = ConfigDict({"kind": "hpsv2.1", "path": "", "weight": 1.0})
    config.monitor.pickscore = ConfigDict({"kind": "pickscore", "path": ""})
    config.heldout_reward = "pickscore"

    # Trailing steps begin at the last timestep, where the noise that a sampler starts from belongs.
    config.student.num_steps = 4
    config.student.guidance_scale = 1.0
    config.student.timestep_spacing = "trailing"
    config.student.remat = "step"
    config.teacher.num_steps = 50
    config.teacher.guidance_scale = 7.5
    config.teacher.timestep_spacing = "trailing"
    config.teacher.ema_decay = 1.0
    # HPSv2's gaps are hundredths, other rewards' are tenths: their own deviation is the unit.
    config.gate.relative = True
    config.gate.temperature = 1.0
    config.reward_weight = 10.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.decay_updates = 400

    config.compute_dtype = "bfloat16"
    config.frozen_dtype = "bfloat16"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    # 1.7 GB of bfloat16 are gathered once per update, not at each of 54 steps.
    config.sharding = (("^(base|text_encoder|decoder)/", "copy"), *config.sharding)

    config.checkpoint.every = 50
    config.samples.every = 50
    config.evaluation.num_prompts = 96
    config.evaluation.batch_size = 16
    return config
