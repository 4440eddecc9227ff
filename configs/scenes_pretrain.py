"""Text-to-scene from scratch: the FLUX in miniature, its rewards and its judge under rats_jax/assets/scenes.

    python -m rats_jax.pretrain --config=configs/scenes_pretrain.py --workdir=runs/scenes_pretrain

Every stage writes one folder of the work directory, is skipped where that folder exists, and goes on where
it was stopped.
"""

import ml_collections

NOUNS = (
    # name, of several, name of the emoji
    ("frog", "frogs", "frog"),
    ("penguin", "penguins", "penguin"),
    ("duck", "ducks", "duck"),
    ("owl", "owls", "owl"),
    ("flamingo", "flamingos", "flamingo"),
    ("parrot", "parrots", "parrot"),
    ("snail", "snails", "snail"),
    ("butterfly", "butterflies", "butterfly"),
    ("ladybird", "ladybirds", "lady beetle"),
    ("spider", "spiders", "spider"),
    ("monkey", "monkeys", "monkey face"),
    ("dog", "dogs", "dog face"),
    ("fox", "foxes", "fox"),
    ("cat", "cats", "cat face"),
    ("lion", "lions", "lion"),
    ("tiger", "tigers", "tiger face"),
    ("horse", "horses", "horse face"),
    ("zebra", "zebras", "zebra"),
    ("cow", "cows", "cow face"),
    ("pig", "pigs", "pig face"),
    ("camel", "camels", "camel"),
    ("elephant", "elephants", "elephant"),
    ("rabbit", "rabbits", "rabbit face"),
    ("koala", "koalas", "koala"),
    ("panda", "pandas", "panda"),
    ("whale", "whales", "spouting whale"),
    ("octopus", "octopuses", "octopus"),
    ("crocodile", "crocodiles", "crocodile"),
    ("turtle", "turtles", "turtle"),
    ("crab", "crabs", "crab"),
    ("rose", "roses", "rose"),
    ("sunflower", "sunflowers", "sunflower"),
    ("tulip", "tulips", "tulip"),
    ("cactus", "cactuses", "cactus"),
    ("mushroom", "mushrooms", "mushroom"),
    ("tree", "trees", "evergreen tree"),
    ("melon", "melons", "watermelon"),
    ("lemon", "lemons", "lemon"),
    ("banana", "bananas", "banana"),
    ("pineapple", "pineapples", "pineapple"),
    ("apple", "apples", "red apple"),
    ("pear", "pears", "pear"),
    ("peach", "peaches", "peach"),
    ("strawberry", "strawberries", "strawberry"),
    ("avocado", "avocados", "avocado"),
    ("carrot", "carrots", "carrot"),
    ("broccoli", "broccolis", "broccoli"),
    ("bread", "breads", "bread"),
    ("pretzel", "pretzels", "pretzel"),
    ("hamburger", "hamburgers", "hamburger"),
    ("pizza", "pizzas", "pizza"),
    ("egg", "eggs", "cooking"),
    ("cookie", "cookies", "cookie"),
    ("doughnut", "doughnuts", "doughnut"),
    ("cupcake", "cupcakes", "cupcake"),
    ("bus", "buses", "bus"),
    ("taxi", "taxis", "taxi"),
    ("tractor", "tractors", "tractor"),
    ("bicycle", "bicycles", "bicycle"),
    ("rocket", "rockets", "rocket"),
    ("sailboat", "sailboats", "sailboat"),
    ("heart", "hearts", "red heart"),
    ("crown", "crowns", "crown"),
    ("football", "footballs", "soccer ball"),
)


def get_config() -> ml_collections.ConfigDict:
    """Give the configuration of pretraining."""
    config = ml_collections.ConfigDict()
    config.world = "scenes"
    config.seed = 0
    config.nouns = NOUNS
    config.heldout_share = 0.125  # of pairs of things and of numbers of a thing, which no training sees
    config.kinds = ml_collections.ConfigDict({"one": 0.5, "two": 0.15, "three": 0.05, "pair": 0.3})
    # Prompts of the main job, and those that it does not see.
    config.prompts = ml_collections.ConfigDict({"num_train": 512, "num_heldout": 63})
    config.prompts.kinds = ml_collections.ConfigDict({"one": 0.8, "two": 0.2, "three": 0.0, "pair": 0.0})

    config.tokenizer = ml_collections.ConfigDict({"vocab_size": 900, "max_length": 12})
    config.t5_tokenizer = ml_collections.ConfigDict({"max_length": 10})

    config.judge = ml_collections.ConfigDict(
        {
            "num_updates": 5000,
            "batch_size": 56,
            "learning_rate": 2e-3,
            "ema_decay": 0.998,
            "blends": 0.15,
            "max_severity": 0.5,
            "corruptions": ("noise", "blur", "bend", "fade", "saturate", "contrast", "grid"),
            "kinds": {"one": 0.45, "two": 0.3, "three": 0.15, "pair": 0.1},
        }
    )
    config.judge_model = ml_collections.ConfigDict(
        {"image_size": 32, "num_classes": len(NOUNS), "num_grounds": 8, "max_count": 4}
        | {"channels": (16, 48, 96)}
    )

    # A reward that counts: a detector of another seed and size, and of more damage, than the judge, which has
    # not seen what is held out.
    config.counting_reward = config.judge.copy_and_resolve_references()
    config.counting_reward.update({"num_updates": 3000, "blends": 0.25, "max_severity": 0.7})
    config.counting_reward_model = config.judge_model.copy_and_resolve_references()
    config.counting_reward_model.channels = (24, 48, 96)

    config.vae = ml_collections.ConfigDict(
        {"num_updates": 6000, "batch_size": 32, "learning_rate": 2e-3, "ema_decay": 0.999, "kl_weight": 1e-4}
    )
    config.vae_model = ml_collections.ConfigDict(
        {
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 8,
            "sample_size": 32,
            "act_fn": "silu",
            "mid_block_add_attention": False,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        }
    )

    config.flow = ml_collections.ConfigDict(
        {
            "num_updates": 24000,
            "batch_size": 128,
            "learning_rate": 1.5e-3,
            "ema_decay": 0.999,
            "prompt_dropout": 0.1,  # share of prompts replaced by the empty one
        }
    )
    config.guidance = ml_collections.ConfigDict(
        {
            "num_updates": 3000,
            "batch_size": 96,
            "learning_rate": 4e-4,
            "ema_decay": 0.998,
            "max_guidance_scale": 6.0,
        }
    )
    config.transformer_model = ml_collections.ConfigDict(
        {
            "patch_size": 1,
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 6,
            "attention_head_dim": 32,
            "num_attention_heads": 4,
            "axes_dims_rope": (4, 14, 14),
            "joint_attention_dim": 128,
            "pooled_projection_dim": 64,
            "guidance_embeds": True,
        }
    )
    config.text_encoder_model = ml_collections.ConfigDict(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "projection_dim": 64,
            "hidden_act": "gelu",
        }
    )
    config.text_encoder_2_model = ml_collections.ConfigDict(
        {
            "d_model": 128,
            "d_kv": 32,
            "d_ff": 256,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        }
    )
    config.scheduler = ml_collections.ConfigDict(
        {"num_train_timesteps": 1000, "shift": 2.0, "use_dynamic_shifting": False}
    )

    def reward(**differences: object) -> ml_collections.ConfigDict:
        tower = {"intermediate_size": 384, "num_attention_heads": 4, "hidden_act": "gelu"}
        return ml_collections.ConfigDict(
            {
                "num_updates": 4000,
                "images_per_corruption": 5,
                "learning_rate": 1e-3,
                "ema_decay": 0.998,
                "attack_step": 4 / 255,  # sign-gradient step on the pictures that must score low
                "attack_wrong": False,  # up to such a step on half of those that show something else, too
                "count_share": 1 / 3,  # of pictures that show something else, those of another number
                "extra_share": 0.0,  # of those, ones that differ from the right picture by one more thing
                "any_sizes": False,  # of things; else smaller ones where there are more, as the flow draws
                "kinds": config.kinds,
                "max_logit_scale": 30.0,
                "projection_dim": 96,
                "text_config": tower | {"hidden_size": 96, "num_hidden_layers": 2},
                "vision_config": tower
                | {"hidden_size": 128, "num_hidden_layers": 3, "image_size": 32, "patch_size": 4},
                "corruptions": ("noise", "blur", "mix", "fade", "saturate", "contrast", "grid", "tint")
                + ("swap_blocks", "bend"),
            }
            | differences
        )

    config.reward = reward(num_updates=9000)
    # The other shares neither seed nor size nor damage with the reward, and never meets a training run.
    other = {"intermediate_size": 320, "num_attention_heads": 4, "hidden_act": "gelu"}
    config.heldout_reward = reward(
        images_per_corruption=6,
        projection_dim=80,
        attack_step=6 / 255,
        text_config=other | {"hidden_size": 80, "num_hidden_layers": 2},
        vision_config=other | {"hidden_size": 80, "num_hidden_layers": 4, "image_size": 48, "patch_size": 6},
        corruptions=("noise", "blur", "mix", "contrast", "grid", "tint", "swap_blocks", "cut_out"),
    )

    # What the reward goes on with once it knows the things: that their number counts too, and that no pattern
    # makes up for it.
    config.second_round = ml_collections.ConfigDict(
        {
            "num_updates": 1500,
            "images_per_corruption": 3,
            "learning_rate": 3e-4,
            "attack_step": 8 / 255,
            "attack_wrong": True,
            "count_share": 0.6,
            "kinds": {"one": 0.4, "two": 0.3, "three": 0.3, "pair": 0.0},
        }
    )
    # Then that small things are not several for being small.
    config.third_round = config.second_round.copy_and_resolve_references()
    config.third_round.update({"num_updates": 1000, "any_sizes": True})
    # Last, that one thing too many spoils a picture that is right in all else, as few steps draw it.
    config.fourth_round = config.third_round.copy_and_resolve_references()
    config.fourth_round.update({"num_updates": 1500, "extra_share": 0.5})
    config.fourth_round.kinds = ml_collections.ConfigDict({"one": 0.5, "two": 0.3, "three": 0.1, "pair": 0.1})

    config.samples = ml_collections.ConfigDict({"num_images": 96, "num_steps": 50, "guidance_scale": 5.0})
    config.samples.columns = 12
    config.check = ml_collections.ConfigDict(
        {"num_images": 256, "severity": 0.6, "num_steps": (50, 8, 5, 4, 3, 2, 1), "guidance_scale": 5.0}
    )
    return config
