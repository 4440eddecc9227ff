"""The rules of the config: every field is guarded, and each mistake is one line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

import rats_jax
from rats_jax.config.fields import REWARD_RULES, RULES, flatten
from rats_jax.config.flags import load_config
from rats_jax.config.together import validate, validate_paths
from rats_jax.errors import ConfigError
from rats_jax.paths import resolve_path

DEFAULT = Path(__file__).parents[2] / "configs" / "default.py"


@pytest.fixture
def config():
    config = load_config(DEFAULT)
    config.pretrained = "model"
    config.prompts = "prompts.txt"
    config.rewards.first = ConfigDict({"kind": "clip", "path": "reward", "weight": 1.0})
    return config


def message(config) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_field_of_the_default_has_a_rule_and_every_rule_a_field():
    assert flatten(load_config(DEFAULT)).keys() - {"rewards", "monitor"} == RULES.keys()
    assert set(REWARD_RULES) == {"kind", "path", "weight"}


def test_a_complete_config_is_accepted(config):
    validate(config)
    validate(config.to_dict())


BAD = [
    ("seed", -1, "an integer from 0 to 4294967295"),
    ("seed", 2**32, "an integer from 0 to 4294967295"),
    ("num_updates", 0, "an integer >= 1"),
    ("num_updates", True, "an integer >= 1"),
    ("num_updates", 2.5, "an integer >= 1"),
    ("batch_size", 0, "an integer >= 1"),
    ("log_every", 0, "an integer >= 1"),
    ("loggers", "wandb", "() or some of 'tensorboard', 'wandb', 'trackio'"),
    (
        "loggers",
        ("tensorboard,wandb",),
        "each once, as in --config.loggers=tensorboard --config.loggers=wandb",
    ),
    ("loggers", ("wandb", "wandb"), "each once"),
    ("loggers", ("neptune",), "'trackio'"),
    ("pretrained", "", "not empty"),
    ("height", -16, "an integer >= 0"),
    ("width", 512.0, "an integer >= 0"),
    ("num_frames", -1, "an integer >= 0"),
    ("flow_shift", -0.5, ">= 0"),
    ("negative_prompt", None, "a text"),
    ("num_decoded_latents", 1.5, "an integer >= 0"),
    ("reward_frames", -2, "an integer >= 0"),
    ("max_sequence_length", -1, "an integer >= 0"),
    ("prompts", " ", "not empty"),
    ("prompt_embeds", None, "a text"),
    ("sampler", "dpm", "one of 'ddim', 'euler'"),
    ("student.timestep_spacing", "karras", "'trailing'"),
    ("student.num_steps", 0, "an integer >= 1"),
    ("student.num_steps", 51, "at most teacher.num_steps=50"),
    ("student.guidance_scale", 0.5, ">= 1"),
    ("student.reward_gradient_steps", 0, ">= 1"),
    ("student.reward_gradient_steps", 5, "student.num_steps=4"),
    ("student.unroll", "maybe", "True or False"),
    ("student.remat", True, "one of 'none', 'matmuls', 'step'"),
    ("teacher.num_steps", 0, ">= 1"),
    ("teacher.guidance_scale", float("nan"), ">= 1"),
    ("teacher.timestep_spacing", "karras", "'trailing'"),
    ("student.ema_decay", 1.0, "from 0 to below 1"),
    ("lora.base_dtype", "int4", "one of '', 'int8'"),
    ("lora.base_dtype", "int8", "'' while lora.rank=0: all weights are trained"),
    ("teacher.ema_decay", 1.5, "from 0 to 1"),
    ("teacher.ema_decay", 0.99, "teacher.mixed_guidance_reason"),
    ("teacher.mixed_guidance_reason", None, "a text"),
    ("teacher.targets", None, "a text"),
    ("teacher.ema_every", 0, ">= 1"),
    ("teacher.reuse_after", -1, ">= 0"),
    ("teacher.sampler", "heun", "'', 'ddim', 'euler', 'dpmpp_2m'"),
    ("horizon.interpolation", "cubic", "'nearest'"),
    ("horizon.weights", (1.0, 1.0), "student.num_steps=4"),
    ("horizon.weights", (0.0,) * 4, "one is > 0"),
    ("horizon.weights", (1.0, -1.0, 1.0, 1.0), "numbers >= 0"),
    ("horizon.weights", 1.0, "numbers >= 0"),
    ("gate.kind", "soft", "'sigmoid', 'hard', 'constant'"),
    ("gate.temperature", 0.0, "> 0"),
    ("gate.relative", "yes", "True or False"),
    ("gate.std_decay", 1.0, "below 1"),
    ("gate.value", -0.1, "from 0 to 1"),
    ("reward_weight", -1.0, ">= 0"),
    ("shaping_weight", float("inf"), ">= 0"),
    ("reward_loss.kind", "mse", "'negative', 'hinge'"),
    ("reward_loss.margin", float("nan"), "finite"),
    ("normalise_rewards", 1, "True or False"),
    ("gate.reward", 1, "a text"),
    ("gate.reward", "second", "'' or the name of a reward in `rewards` ('first')"),
    ("heldout_reward", 3, "a text"),
    ("heldout_reward", "first", "'' or the name of a reward in `monitor` (there is none)"),
    ("hacking_patience", 0, ">= 1"),
    ("stop_on_hacking", "no", "True or False"),
    ("reference", 3, "a text"),
    ("heldout_prompts", 3, "a text"),
    ("gate.gap", "batch", "one of 'sample', 'mean'"),
    ("optimizer.learning_rate", 0.0, "> 0"),
    ("optimizer.warmup_updates", -1, ">= 0"),
    ("optimizer.clip_norm", 0.0, "> 0"),
    ("optimizer.b1", 1.0, "below 1"),
    ("optimizer.b2", -0.1, "from 0"),
    ("optimizer.weight_decay", -0.1, ">= 0"),
    ("optimizer.decay_updates", 3, "0, or at least num_updates="),
    ("optimizer.accumulation_steps", 3, "accumulation_steps=3"),
    ("compute_dtype", "float16", "'float32', 'bfloat16'"),
    ("checkpoint.every", 0, ">= 1"),
    ("checkpoint.keep", 0, ">= 1"),
    ("samples.every", -1, ">= 0"),
    ("samples.num", 0, ">= 1"),
    ("evaluation.num_prompts", -1, ">= 0"),
    ("evaluation.batch_size", 0, ">= 1"),
    ("evaluation.seed", -1, "from 0"),
    ("mesh.data", 0, "or -1"),
    ("mesh.data", 3, "the 3 devices"),
    ("mesh.fsdp", -2, "or -1"),
    ("mesh.fsdp", -1, "what is left"),
    ("mesh.tensor", 0, "a number of devices"),
    ("mesh.dcn_data", 0, "a number of devices"),
    ("mesh.dcn_fsdp", "2", "a number of devices"),
    ("mesh.dcn_tensor", -2, "a number of devices"),
    ("sharding", (("(", "copy"),), "pairs of a regular expression"),
    ("sharding", (("a", "fsdp fsdp"),), "'largest' or mesh axes"),
    ("sharding", (("a", "data"),), "'largest' or mesh axes"),
    ("sharding", (("a",),), "pairs of a regular expression"),
    ("lora.rank", -1, ">= 0"),
    ("lora.alpha", 0.0, "> 0"),
    ("lora.targets", "(", "a regular expression"),
    ("frozen_dtype", "float16", "one of 'float32', 'bfloat16'"),
    ("decoder_parts", 0, ">= 1"),
    ("decoder_parts", 3, "a multiple of decoder_parts=3"),
    ("reward_parts", 0, ">= 1"),
    ("reward_parts", 3, "a multiple of reward_parts=3"),
    ("rewards.first.weight", 0.0, "> 0"),
    ("rewards.first.path", None, "a text"),
    ("rewards.first.kind", 7, "not empty"),
]


@pytest.mark.parametrize(("field", "value", "expected"), BAD)
def test_bad_value_is_named_with_what_was_expected(config, field, value, expected):
    nested = config.to_dict()
    *sections, name = field.split(".")
    section = nested
    for key in sections:
        section = section[key]
    section[name] = value
    text = message(nested)
    assert expected in text
    assert (
        repr(value) in text or field.startswith("mesh.") or field.endswith(("accumulation_steps", "_parts"))
    )


def test_every_rule_has_a_bad_value_above():
    assert {field for field, _, _ in BAD} >= RULES.keys()


def test_moving_teacher_with_another_scale_needs_a_reason(config):
    config.teacher.ema_decay = 0.99
    config.teacher.mixed_guidance_reason = "the network is guidance-distilled"
    validate(config)
    config.teacher.targets = "targets"
    assert "teacher.targets='targets': expected '' while teacher.ema_decay < 1" in message(config)
    config.teacher.targets = ""
    config.teacher.reuse_after = 8
    assert "teacher.reuse_after=8: expected 0, or a divisor of teacher.ema_every=1" in message(config)
    config.teacher.ema_every = 16
    validate(config)
    config.teacher.reuse_after = 0
    config.teacher.mixed_guidance_reason = ""
    config.student.guidance_scale = config.teacher.guidance_scale
    validate(config)


def test_a_margin_has_the_unit_of_the_reward(config):
    config.reward_loss.kind = "hinge"
    validate(config)
    config.normalise_rewards = True
    assert message(config).startswith("reward_loss.kind='hinge': expected 'negative' while normalise_rewards")


def test_hacking_is_watched_on_sheets(config):
    config.stop_on_hacking = True
    validate(config)
    config.samples.every = 0
    assert message(config).startswith("stop_on_hacking=True: expected False while samples.every=0")


@pytest.mark.parametrize("off", [{"shaping_weight": 0.0}, {"gate": {"kind": "constant", "value": 0.0}}])
def test_a_run_without_any_loss_is_refused(config, off):
    config.update(off)
    validate(config)
    config.reward_weight = 0.0
    assert "nothing is trained" in message(config)


def test_static_distillation_and_reward_only_are_accepted(config):
    config.gate.kind = "constant"
    config.reward_weight = 0.0
    validate(config)
    config.reward_weight, config.gate.value = 1.0, 0.0
    validate(config)


def test_batch_must_split_over_the_mesh_in_each_accumulation_step(config):
    config.mesh.data, config.mesh.fsdp = 2, 4
    validate(config)
    config.optimizer.accumulation_steps = 2
    assert message(config).startswith("batch_size=8")
    config.optimizer.accumulation_steps = 1
    config.evaluation.batch_size = 12
    assert message(config).startswith("evaluation.batch_size=12")


def test_missing_and_unknown_fields_are_named(config):
    nested = config.to_dict()
    nested["student"]["nmu_steps"] = nested["student"].pop("num_steps")
    assert "did you mean 'student.num_steps'?" in message(nested)
    del nested["student"]["nmu_steps"]
    assert message(nested) == "student.num_steps=None: expected an integer >= 1"


def test_no_name_is_looked_for_while_all_are_known(config, monkeypatch):
    # It takes a tenth of a second, and a comparison checks a hundred configs.
    monkeypatch.delattr("difflib.get_close_matches")
    validate(config)


def test_no_reward_and_a_reward_without_a_path(config):
    nested = config.to_dict()
    del nested["rewards"]["first"]["path"]
    assert message(nested).startswith("rewards.first.path=None")
    nested["rewards"] = {}
    assert message(nested) == "rewards={}: expected at least one reward, by name"
    del nested["rewards"]
    assert message(nested) == "rewards={}: expected at least one reward, by name"


def test_monitored_rewards_have_names_of_their_own_and_no_weight(config):
    config.monitor.second = ConfigDict({"kind": "clip", "path": ""})
    config.heldout_reward = "second"
    validate(config)
    config.monitor.second.weight = 2.0
    assert message(config).startswith("monitor.second.weight=2.0: expected no such field")
    config.monitor = ConfigDict({"first": {"kind": "clip", "path": "reward"}})
    config.heldout_reward = ""
    assert message(config) == "monitor.first='first': expected a name that no reward in `rewards` has"


def test_paths(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("model", "reward", "heldout"):
        (tmp_path / folder).mkdir()
    (tmp_path / "prompts.txt").write_text("cat\n")
    validate_paths(config)
    config.monitor.judge = ConfigDict({"kind": "clip", "path": str(tmp_path / "heldout")})
    validate_paths(config)
    validate_paths(config)
    bad = {
        "pretrained": "/missing",
        "prompts": "model",
        "reference": "x.npz",
        "heldout_prompts": "x.txt",
    }
    for field, value in bad.items():
        broken = config.copy_and_resolve_references()
        broken[field] = value
        with pytest.raises(ConfigError, match=f"^{field}='{value}': expected an existing f"):
            validate_paths(broken)
    config.monitor.judge.path = "assets/missing"
    with pytest.raises(
        ConfigError, match=r"^monitor.judge.path='assets/missing': expected an existing folder"
    ):
        validate_paths(config)
    config.rewards.first.path = "/missing"
    with pytest.raises(ConfigError, match=r"^rewards.first.path='/missing': expected an existing folder"):
        validate_paths(config)


def test_assets_lie_in_the_package_and_all_else_where_it_says():
    assert (
        resolve_path("assets/emoji/prompts.txt")
        == Path(rats_jax.__file__).parent / "assets/emoji/prompts.txt"
    )
    assert resolve_path("./assets/x") == Path("assets/x")
    assert resolve_path("/data/assets/x") == Path("/data/assets/x")


@given(
    st.sampled_from(sorted(RULES)),
    st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.lists(st.text())),
)
def test_any_value_is_accepted_or_refused_in_one_line(field, value):
    nested = {"rewards": {"r": {"kind": "clip", "path": "p", "weight": 1.0}}}
    flat = flatten(load_config(DEFAULT)) | {"pretrained": "m", "prompts": "p", field: value}
    for name, item in flat.items():
        *sections, last = name.split(".")
        section = nested
        for key in sections:
            section = section.setdefault(key, {})
        if name not in ("rewards", "monitor"):
            section[last] = item
    try:
        validate(nested)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
