"""Text-to-clip from scratch: the Wan in miniature, its rewards and its judge under rats_jax/assets/clips.

    python -m rats_jax.pretrain --config=configs/clips_pretrain.py --workdir=runs/clips_pretrain

Every stage writes one folder of the work directory, is skipped where that folder exists, and goes on where
it was stopped.
"""

import ml_collections

NOUNS = (
    # name, of several, name of the emoji
    ("fish", "fishes", "fish"),
    ("frog", "frogs", "frog"),
    ("butterfly", "butterflies", "butterfly"),
    ("ladybird", "ladybirds", "lady beetle"),
    ("pig", "pigs", "pig"),
    ("rocket", "rockets", "rocket"),
    ("heart", "hearts", "red heart"),
    ("ball", "balls", "soccer ball"),
)


def get_config() -> ml_collections.ConfigDict:
    """Give the configuration of pretraining."""
    config = ml_collections.ConfigDict()
    config.world = "clips"
    config.seed = 0
    config.nouns = NOUNS
    config.heldout_share = 0.125  # of the motions of things, which no training sees

    config.num_prompts = 256  # of the main job, and as many that it does not see, if there are so many

    config.tokenizer = ml_collections.ConfigDict({"vocab_size": 640, "max_length": 12})
    config.t5_tokenizer = ml_collections.ConfigDict({"max_length": 8})

    config.judge = ml_collections.ConfigDict(
        {
            "num_updates": 2500,
            "batch_size": 56,
            "learning_rate": 2e-3,
            "ema_decay": 0.998,
            "blends": 0.15,
            "max_severity": 0.5,
            "corruptions": ("noise", "blur", "bend", "fade", "saturate", "contrast", "grid"),
        }
    )
    config.judge_model = ml_collections.ConfigDict(
        {"image_size": 32, "num_classes": len(NOUNS), "num_grounds": 8, "channels": (16, 32, 64)}
    )

    config.vae = ml_collections.ConfigDict(
        {
            "num_updates": 1200,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "optimizer": "muon",
            "ema_decay": 0.998,
            "kl_weight": 1e-4,
        }
    )
    config.vae_model = ml_collections.ConfigDict(
        {
            "base_dim": 32,
            "z_dim": 16,
            "dim_mult": (1, 2),
            "num_res_blocks": 1,
            "attn_scales": (),
            "temperal_downsample": (True,),
            "scale_factor_temporal": 2,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "scale_factor_spatial": 4,
        }
    )

    config.num_clips = 24576  # that the flow is trained on
    config.flow = ml_collections.ConfigDict(
        {
            "num_updates": 4000,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "optimizer": "muon",
            "ema_decay": 0.998,
            "prompt_dropout": 0.1,  # share of prompts replaced by the empty one
        }
    )
    config.transformer_model = ml_collections.ConfigDict(
        {
            "patch_size": (1, 2, 2),
            "num_attention_heads": 4,
            "attention_head_dim": 32,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 96,
            "freq_dim": 64,
            "ffn_dim": 384,
            "num_layers": 6,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "eps": 1e-6,
            "rope_max_seq_len": 64,
        }
    )
    config.text_encoder_model = ml_collections.ConfigDict(
        {
            "d_model": 96,
            "d_kv": 24,
            "d_ff": 192,
            "num_layers": 1,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        }
    )
    config.scheduler = ml_collections.ConfigDict(
        {"num_train_timesteps": 1000, "shift": 2.0, "use_dynamic_shifting": False}
    )

    # What RATS climbs is the likelihood of a tracker of another seed and size, and of more damage, than the
    # judge.
    config.reward = ml_collections.ConfigDict(config.judge.to_dict() | {"blends": 0.25, "max_severity": 0.7})
    config.reward_model = ml_collections.ConfigDict(config.judge_model.to_dict() | {"channels": (24, 48, 64)})
    # The other is of another kind, and never meets a training run.
    tower = {"intermediate_size": 256, "num_attention_heads": 4, "hidden_act": "gelu"}
    config.heldout_reward = ml_collections.ConfigDict(
        {
            "num_updates": 1500,
            "images_per_corruption": 2,
            "learning_rate": 1e-3,
            "optimizer": "muon",
            "ema_decay": 0.998,
            "attack_step": 4 / 255,  # sign-gradient step on the clips that must score low
            "attack_wrong": True,  # up to such a step on half of those that show something else, too
            "max_logit_scale": 30.0,
            "projection_dim": 64,
            "text_config": tower | {"hidden_size": 64, "num_hidden_layers": 1},
            "vision_config": tower
            | {"hidden_size": 96, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
            "corruptions": ("noise", "blur", "mix", "fade", "saturate", "grid", "bend", "slow", "shake")
            + ("swap_frames",),
        }
    )

    config.samples = ml_collections.ConfigDict({"num_images": 24, "num_steps": 50, "guidance_scale": 2.0})
    config.samples.columns = 3
    config.check = ml_collections.ConfigDict({"num_clips": 128, "severity": 0.6})
    config.check.samplings = ((50, 3.0), (50, 2.0), (8, 2.0), (4, 2.0), (50, 1.0), (4, 1.0))
    return config
