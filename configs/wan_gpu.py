r"""RATS on Wan2.1 text-to-video 1.3B, 17 frames of 256x256, with LoRA, for one GPU with 12 GB or more.

    python -m rats_jax.main --config=configs/wan_gpu.py --workdir=runs/wan --config.prompts=FILE

5 student steps at guidance 1, a teacher of 50 at guidance 5 (100 evaluations), HPSv2.1 on the first frame as
the reward, 4 videos an update, one after another. The first latent alone is decoded for the reward, and the
gradient goes through the last step: both keep the memory of an update small. UMT5 is 11.4 GB of weights in
bfloat16, until `python -m rats_jax.embed --config=configs/wan_gpu.py --config.prompts=FILE --out=DIR` has
stored what it makes of the prompts: --config.prompt_embeds=DIR.

Single frames, as others train Wan for pictures: --config.num_frames=1.
Longer and larger, where there is memory: --config.num_frames=81 --config.height=480 --config.width=832.
14B: --config.pretrained=Wan-AI/Wan2.1-T2V-14B-Diffusers (28.6 GB of weights in bfloat16).

It starts from configs/flux_gpu.py; what differs stands here. Nobody has run it with the published weights.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("flux_gpu.py"))
    config.batch_size = 4
    config.optimizer.accumulation_steps = 4

    config.pretrained = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    config.height = 256
    config.width = 256
    config.num_frames = 17
    # For small videos, by diffusers' documentation; the scheduler's file has 3 for any size.
    config.flow_shift = 3.0
    config.num_decoded_latents = 1
    config.reward_frames = 1
    del config.monitor.imagereward

    config.student.num_steps = 5
    config.student.guidance_scale = 1.0
    config.student.reward_gradient_steps = 1
    config.teacher.guidance_scale = 5.0
    # The two differ, and an average of both would be neither.
    config.teacher.ema_decay = 1.0
    # Attention to the video and to the prompt, and the perceptrons of all blocks.
    config.lora.targets = "attn[12]/to_|net_0/proj|net_2"

    config.samples.num = 4
    config.evaluation.num_prompts = 32
    return config
