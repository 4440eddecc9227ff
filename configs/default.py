"""Every field of a training config, with its meaning; the other configs are this one and their differences.

`pretrained`, `prompts` and `rewards` have no default: a config must name them. Paths that start with
`assets/` lie inside the installed package, all others are relative to the working directory.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Make the config whose fields and types every training config shares."""
    config = ConfigDict()

    # Root of all randomness: noise and the order of prompts. 0 .. 2**32 - 1.
    config.seed = 0
    # Updates of the student in the whole run; a resumed run counts those that it already made.
    config.num_updates = 400
    # Prompts per update, global: over all devices, processes and accumulation steps.
    config.batch_size = 8
    # Updates between two lines of metrics.jsonl, >= 1.
    config.log_every = 1
    # What the run is logged to beside its own files: any of 'tensorboard', 'wandb' and 'trackio', or ().
    # They get scalars, sheets of samples, config and table; a resumed run goes on with the same run there.
    # One that fails in the middle is left out, with a warning, and gets the rest at the next start. The
    # variables WANDB_... (WANDB_MODE=offline, WANDB_PROJECT) and TRACKIO_... choose the rest.
    config.loggers = ("tensorboard",)

    # What teacher and student start from: folder or hub id 'owner/name[@revision]' of a diffusers pipeline of
    # Stable Diffusion 1.x, 2.x, XL, 3 or 3.5, FLUX.1 or Wan2.1, with safetensors or Flax weights.
    config.pretrained = ""
    # Size of its pictures in pixels, a multiple of what the model cuts them into (16 for FLUX, SD3 and Wan);
    # 0 is the model's own, 512 for FLUX, and 480 x 832 for Wan.
    config.height = 0
    config.width = 0
    # Frames of a video, 1 more than a multiple of 4; 0 is 81. This and the next four are of Wan alone.
    config.num_frames = 0
    # Shift of a video's noise levels towards noise, > 0; 0 is that of the model's scheduler.
    config.flow_shift = 0.0
    # Prompt that guidance leads away from; '' is the empty one.
    config.negative_prompt = ""
    # Latents of a video that are decoded for its rewards, from the first on: 1 is its first frame, 2 are its
    # first 5 frames; 0 is all. What is drawn afterwards is whole.
    config.num_decoded_latents = 0
    # Frames of a video that trained rewards of pictures judge, of those that are decoded, at even distances
    # from the first to the last: 1 is the first; 0 is all. The reward is the mean over them. Sheets and
    # tables decode all, so that several lie farther apart there. Monitored rewards judge all frames of whole
    # videos.
    config.reward_frames = 0
    # Tokens of a prompt that a T5 encoder reads, 1 .. 512; 0 is the family's own: 512 for FLUX.1 [dev] and
    # Wan, 256 for [schnell] and SD3. A model without T5 takes 0 alone.
    config.max_sequence_length = 0
    # File of prompts: text with one per line; or .jsonl, .ndjson, .json (an array), .csv or .tsv, whose field
    # `prompt` is read, else `text`, else `caption`; or 'tfds:NAME[:SPLIT]', a prepared TFDS dataset with
    # captions (~/tensorflow_datasets or TFDS_DATA_DIR), all of which are read once before the training; or
    # 'hf:OWNER/NAME[/CONFIG][:SPLIT]', a Hugging Face dataset with such a column (extra `datasets`).
    config.prompts = ""

    # Folder that `python -m rats_jax.embed` wrote for this model and these prompts: the text encoders then
    # need no device memory. '' computes embeddings in each update.
    config.prompt_embeds = ""

    # The deterministic sampler of both rollouts: 'ddim' | 'euler'. A flow (FLUX, SD3) has 'ddim' alone, which
    # of a flow is Euler's step.
    config.sampler = "ddim"

    config.student = ConfigDict()
    # Sampling steps K of the student, 1 .. teacher.num_steps.
    config.student.num_steps = 4
    # Guidance of the student, >= 1. Classifier-free: 1 is none and halves the cost of a step. Of FLUX.1
    # [dev], the scale that the network is told; [schnell] is told none and takes 1 alone.
    config.student.guidance_scale = 1.0
    # Where its timesteps lie: 'leading' | 'linspace' | 'trailing', or '' for the choice of the pipeline; a
    # flow (FLUX, SD3) has '' alone, and where the pipeline's scheduler is DPM-Solver, DEIS, UniPC, LCM or
    # TCD, '' is refused unless DDIM, which students are exported with, has the same timesteps.
    config.student.timestep_spacing = ""
    # The gradient at the end flows back through the last so many student steps, 1 .. student.num_steps: that
    # of the reward, and that of the clean estimates of these steps. Estimates before reach the steps before.
    config.student.reward_gradient_steps = 4
    # Write the steps into the program one after another in place of a loop: it compiles longer, and is
    # hardly faster.
    config.student.unroll = False
    # What the backward pass computes again instead of storing it: 'none' | 'matmuls' (all but the results of
    # matmuls and convolutions) | 'step' (all: the memory of one step, for one more forward pass of it). What
    # each costs on GPUs: docs/tpu.md.
    config.student.remat = "none"
    # m of average <- m * average + (1 - m) * student, 0 to below 1: what sheets, table and exports draw with
    # in place of the last weights; the training itself does not read it. 0 keeps none.
    config.student.ema_decay = 0.0

    config.teacher = ConfigDict()
    # Sampling steps of the teacher, >= 1.
    config.teacher.num_steps = 50
    # Guidance of the teacher, as the student's.
    config.teacher.guidance_scale = 2.0
    # Its sampler: '' for the one above | 'ddim' | 'euler' | 'dpmpp_2m' (DPM-Solver++, multistep, whose error
    # falls with the square of the steps).
    config.teacher.sampler = ""
    # As the student's; the student's noise levels must lie inside the teacher's.
    config.teacher.timestep_spacing = ""
    # m of teacher <- m * teacher + (1 - m) * student, 0 .. 1; 1 keeps the teacher frozen.
    config.teacher.ema_decay = 1.0
    # Updates between two such steps, >= 1; the teacher stands still between them.
    config.teacher.ema_every = 1
    # Why a moving teacher (ema_decay < 1) may have another guidance scale than the student; '' refuses it.
    config.teacher.mixed_guidance_reason = ""
    # Folder in which a frozen teacher's targets are kept: an update that another run with the same noise,
    # prompts and noise levels has made already needs no teacher; weights at the same path are taken for the
    # same. '' keeps none.
    config.teacher.targets = ""
    # Updates after which prompts and noise begin again: the teacher's targets of the first round serve all
    # later ones, which cost the student's part alone, until a moving teacher has moved: then it must divide
    # ema_every. 0 never repeats.
    config.teacher.reuse_after = 0

    config.horizon = ConfigDict()
    # The teacher's estimate at the student's noise level: 'linear' (in log sigma) | 'nearest'.
    config.horizon.interpolation = "linear"
    # Weight of each student step, first = most noise, >= 0, scaled to sum 1; () is the same for all.
    config.horizon.weights = ()

    config.gate = ConfigDict()
    # 'sigmoid' of gap / temperature | 'hard' (1 where the teacher is better, else 0) | 'constant'.
    config.gate.kind = "sigmoid"
    # The gap that it reads: 'sample' (each its own) | 'mean' (the running mean over updates, one for all).
    config.gate.gap = "sample"
    # tau of the sigmoid, > 0, in units of the reward, or of the gap's standard deviation if gate.relative.
    config.gate.temperature = 0.05
    # The reward whose gap moves the gate, by its name in `rewards`; '' for the sum of all.
    config.gate.reward = ""
    # Measure the temperature in running standard deviations of the gap R_T - R_S, those of this update (with
    # accumulation: of this part of it) included.
    config.gate.relative = False
    # Decay per update of the running moments of the gap, and of normalised rewards, 0 .. below 1.
    config.gate.std_decay = 0.99
    # The gate of kind 'constant', 0 .. 1.
    config.gate.value = 1.0

    # Weight of the reward loss, >= 0; 0 with a constant gate of 1 is static distillation.
    config.reward_weight = 1.0
    # alpha, weight of the gated shaping loss, >= 0; 0 (or a constant gate of 0) is reward-only training.
    config.shaping_weight = 1.0
    config.reward_loss = ConfigDict()
    # 'negative' (-R) | 'hinge' (relu(margin - R)).
    config.reward_loss.kind = "negative"
    # The reward above which the hinge is 0, in units of the reward.
    config.reward_loss.margin = 1.0

    # The rewards whose weighted sum is trained, by name: ConfigDict(kind=, path=, weight=).
    # kind: one of rats_jax.rewards.REWARDS, e.g. 'hpsv2.1', or FILE.py:NAME; path: folder, file or hub id, ''
    # for the weights that were published (or for none, if the kind has none).
    config.rewards = ConfigDict()
    # Add the rewards in units of their running standard deviations, so that weights compare like with like;
    # with accumulation those of this part of an update are included, and few samples make the first rough.
    config.normalise_rewards = False
    # The rewards that are measured on samples and in the table and never trained on; as `rewards`, no weight.
    config.monitor = ConfigDict()
    # The name of the monitored reward that judges the table, '' for none.
    config.heldout_reward = ""
    # File of prompts that training does not see, as `prompts`: the run ends with a second table, of theirs;
    # '' makes none.
    config.heldout_prompts = ""
    # Sheets of samples in a row in which the training reward rises while a monitored reward falls or a guard
    # leaves the teacher's: after so many a warning is printed, >= 1.
    config.hacking_patience = 3
    # End the run at that warning, with the best checkpoint named.
    config.stop_on_hacking = False
    # npz of the prompts' real pictures, for distances; '' for none.
    config.reference = ""

    config.optimizer = ConfigDict()
    # AdamW's learning rate after warm-up, > 0.
    config.optimizer.learning_rate = 1e-4
    # Updates of linear warm-up, >= 0.
    config.optimizer.warmup_updates = 10
    # Updates over which the rate falls linearly to 0, >= num_updates; 0 keeps it constant.
    config.optimizer.decay_updates = 0
    # Largest global norm of the gradient, > 0.
    config.optimizer.clip_norm = 1.0
    # AdamW's decay of the first and second moment, 0 .. below 1.
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    # AdamW's decoupled weight decay, >= 0.
    config.optimizer.weight_decay = 0.0
    # Equal parts that the batch is cut into and processed one after another, to save memory, >= 1.
    config.optimizer.accumulation_steps = 1

    # Train low-rank adapters instead of the network's weights.
    config.lora = ConfigDict()
    # Rank of the adapters, >= 1; 0 trains the whole network.
    config.lora.rank = 0
    # An adapter is scaled by alpha / rank, > 0.
    config.lora.alpha = 32.0
    # Regular expression, searched in the path of a layer of the network: which layers get an adapter.
    config.lora.targets = "to_q|to_k|to_v|to_out_0"
    # What the large kernels of the network below the adapters are stored in: '' is frozen_dtype | 'int8',
    # half the memory of bfloat16, with a scale for each output of a layer.
    config.lora.base_dtype = ""

    # What the networks compute in: 'float32' | 'bfloat16'; all else is float32 in any case.
    config.compute_dtype = "float32"
    # What weights that never change are stored in: 'float32' | 'bfloat16'. A moving teacher stays float32,
    # because its steps are smaller than what bfloat16 tells apart.
    config.frozen_dtype = "float32"
    # Equal parts of a batch that are decoded one after another, to save memory, >= 1.
    config.decoder_parts = 1
    # Equal parts of a batch that the rewards see one after another, to save memory, >= 1.
    config.reward_parts = 1

    config.checkpoint = ConfigDict()
    # Updates between two checkpoints, >= 1; the last update is always saved.
    config.checkpoint.every = 100
    # Newest checkpoints that are kept, >= 1.
    config.checkpoint.keep = 2

    config.samples = ConfigDict()
    # Updates between two sheets of samples; the last update gets one too. 0 draws none, and watches for no
    # hacking.
    config.samples.every = 100
    # Prompts on a sheet, >= 1.
    config.samples.num = 8

    config.evaluation = ConfigDict()
    # Prompts of the final table, the first of a fixed order; 0 makes no table.
    config.evaluation.num_prompts = 192
    # Prompts evaluated at once, global.
    config.evaluation.batch_size = 32
    # Seed of the table's noise, the same for all its rows. 0 .. 2**32 - 1.
    config.evaluation.seed = 1234

    # Devices along each axis inside a slice (what the fast network joins); -1 on one axis is what is left.
    config.mesh = ConfigDict()
    # Copies of the weights: only the batch is split.
    config.mesh.data = -1
    # Parts of the weights and of the optimizer state; the batch is split over these devices too.
    config.mesh.fsdp = 1
    # Parts of single layers; the batch is not split over these devices.
    config.mesh.tensor = 1
    # Slices along the same axes, joined by the slow network; -1 on one axis is all that are left. Without TPU
    # slices, the devices of a process count as one.
    config.mesh.dcn_data = 1
    config.mesh.dcn_fsdp = 1
    config.mesh.dcn_tensor = 1

    # Where each weight lives: (regular expression, rule); the first that is found in its path decides, as in
    # student/mid_block/resnets_0/conv1/kernel. `student`, `teacher`, `opt_state` are trained, `base` is the
    # pretrained network, `text_encoder`, `decoder`, `rewards` and `monitors` are frozen too. Rules: 'copy' |
    # 'largest' (its largest axis over fsdp) | mesh axes for the last axes, as in 'fsdp tensor' or '- tensor'.
    # The student computes with a copy of its weights that lies as `base` does.
    config.sharding = (
        # Layers whose output features are split over tensor, and those that read them.
        ("(to_[qkv]|[qkv]_proj|fc1|conv1|time_emb_proj)/kernel", "fsdp tensor"),
        ("(to_out_0|out_proj|fc2|conv2)/kernel", "tensor fsdp"),
        # The same of stacked layers: of FLUX, SD3 and T5.
        ("_to_[0-9]+/.*(net_0/proj|proj_mlp|linear|SelfAttention/[qkv]|wi_[01])/kernel", "fsdp tensor"),
        ("_to_[0-9]+/.*(to_add_out|net_2|proj_out|SelfAttention/o|wo)/kernel", "tensor fsdp"),
        ("", "largest"),
    )

    return config
