r"""RATS on Stable Diffusion 3.5 medium at 512x512 with LoRA, for one GPU with 16 GB or more.

    hf auth login   # and accept the licence at https://huggingface.co/stabilityai/stable-diffusion-3.5-medium
    python -m rats_jax.main --config=configs/sd3_gpu.py --workdir=runs/sd3 --config.prompts=FILE

As configs/flux_gpu.py, which it starts from; what differs stands here. Guidance is classifier-free: the
teacher's 50 steps are 100 evaluations, the student folds it into 4. The base is 4.9 GB in bfloat16, the
text encoders 11.2 GB, which `python -m rats_jax.embed` makes needless: 10.3 GB are laid out without them. An
update is 313 TFLOP a picture (docs/tpu.md): 0.6 seconds at the rate of a bare FLUX transformer on an H100, 5
for the 8 of an update. Nobody has run it with the published weights yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("flux_gpu.py"))
    config.pretrained = "stabilityai/stable-diffusion-3.5-medium"
    config.optimizer.accumulation_steps = 4
    config.teacher.guidance_scale = 4.5
    config.student.guidance_scale = 1.0
    # The two differ, and an average of both would be neither.
    config.teacher.ema_decay = 1.0
    config.evaluation.batch_size = 8
    return config
