r"""RATS on FLUX.1 [dev] at 512x512 with LoRA, for one GPU with 40 or 80 GB.

    hf auth login   # and accept the licence at https://huggingface.co/black-forest-labs/FLUX.1-dev
    python -m rats_jax.main --config=configs/flux_gpu.py --workdir=runs/flux --config.prompts=FILE

4 student steps, a teacher of 50, HPSv2.1 as the reward, 8 pictures an update, one after another. The
teacher is the same network with a moving average of the adapters: there is one copy of the base, 23.8 GB in
bfloat16. T5 is 9.5 GB more, until `python -m rats_jax.embed --config=configs/flux_gpu.py
--config.prompts=FILE --out=DIR` has stored what it makes of the prompts, 4.2 MB each:
--config.prompt_embeds=DIR.

By its program (docs/tpu.md) an update lays out 29.7 GB with stored embeddings. On a card with 24 GB
--config.lora.base_dtype=int8 makes it 17.8. On one with 80 --config.optimizer.accumulation_steps=2 draws four
pictures at a time in 34.3 GB, at least 11.6 s an update in place of 16.9. Another card: `python -m
rats_jax.compile --config=configs/flux_gpu.py --config.prompt_embeds=DIR --topology=rtx4090`. With random
weights on an H200 an update of one picture took 4.3 s and 56 GB (docs/flux.md). Nobody has run it with the
published weights.

What is trained on FLUX.1 [dev] carries its non-commercial licence. [schnell] is Apache-2.0:
--config.pretrained=black-forest-labs/FLUX.1-schnell --config.teacher.guidance_scale=1 \
    --config.student.guidance_scale=1 --config.teacher.num_steps=4 --config.student.num_steps=2 \
    --config.student.reward_gradient_steps=2
"""

from pathlib import Path

from ml_collections import ConfigDict

from rats_jax.config.flags import load_config


def get_config() -> ConfigDict:
    """Make the config of the main job."""
    config = load_config(Path(__file__).with_name("default.py"))
    config.num_updates = 400
    config.batch_size = 8
    config.optimizer.accumulation_steps = 8

    config.pretrained = "black-forest-labs/FLUX.1-dev"
    config.height = 512
    config.width = 512
    config.prompts = "prompts.txt"
    config.rewards.hpsv2 = ConfigDict({"kind": "hpsv2.1", "path": "", "weight": 1.0})
    config.monitor.pickscore = ConfigDict({"kind": "pickscore", "path": ""})
    config.monitor.imagereward = ConfigDict({"kind": "imagereward", "path": ""})
    config.heldout_reward = "pickscore"

    # Of a flow a step of DDIM is Euler's, and it starts from pure noise.
    config.sampler = "ddim"
    config.student.num_steps = 4
    config.student.guidance_scale = 3.5
    config.student.remat = "step"
    config.teacher.num_steps = 50
    config.teacher.guidance_scale = 3.5
    config.teacher.ema_decay = 0.999
    # The gaps of the paper's curves are hundredths of an HPSv2.1: see configs/flux_paper.py.
    config.gate.temperature = 0.03
    config.reward_weight = 10.0

    config.lora.rank = 32
    config.lora.alpha = 32.0
    # Attention and perceptrons of all blocks, as peers train them; no modulation.
    config.lora.targets = (
        "_to_[0-9]+/.*(to_[qkv]|to_out_0|add_[qkv]_proj|to_add_out|net_0/proj|net_2|proj_mlp|proj_out)$"
    )
    config.optimizer.learning_rate = 1e-4
    config.optimizer.decay_updates = 400

    config.compute_dtype = "bfloat16"
    config.frozen_dtype = "bfloat16"

    config.checkpoint.every = 50
    config.samples.every = 50
    config.samples.num = 8
    config.evaluation.num_prompts = 96
    config.evaluation.batch_size = 4
    return config
