"""The card of an exported student shows the evaluation of its checkpoint, else the run's own table."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.report.tables import format_overview
from rats_jax.student import card as model_card
from rats_jax.student.model import Generator, Origin
from tests.report.test_tables import made_up_report
from tests.tiny import tiny_config

CONTESTANTS = ("teacher", "untrained", "untrained_cfg", "student")
NUMBERS = {"updates": 250, "teacher_nfe": 100, "nfe": 4, "guided_nfe": 8, "command": "python -m x"}


def summary():
    """A summary.json whose rewards are 0.5 and 1.5, 2.5, 3.5."""
    names = (
        "reward",
        "heldout_reward",
        "heldout_win_rate",
        "reference_distance",
        "nearest_reference_distance",
    )
    return NUMBERS | {name: {who: i + 0.5 for i, who in enumerate(CONTESTANTS)} for name in names}


@pytest.fixture
def card(models, tmp_path):
    """Writes the card of a checkpoint of the run in tmp_path."""
    pipeline = SimpleNamespace(
        latent_shape=(8, 8, 4),
        prediction_type="v_prediction",
        tokenize=lambda prompts: np.zeros((len(prompts), 8), np.int32),
    )
    config = tiny_config(models)

    def card(step):
        sampling = {"timestep_spacing": "", "sampler": "ddim", "num_steps": 4, "guidance_scale": 1.0}
        student = Generator(str(tmp_path), pipeline, **sampling)
        return model_card._card(student, Origin(config, step, None), "diffusers")

    (tmp_path / "summary.json").write_text(json.dumps(summary()))
    return card


def test_the_evaluation_of_the_checkpoint_takes_the_place_of_the_runs_table(card, tmp_path):
    assert "## Scores" in card(250) and "3.5000" in card(250)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.json").write_text(json.dumps(made_up_report()))
    text = card(250)
    section = text.split("## Evaluation\n")[1].split("\n## Licence")[0]
    assert format_overview(made_up_report()) in section
    assert "256 prompts, 4 pictures of each" in section and "## Scores" not in text and "3.5000" not in text
    assert "| command | `python -m x` |" in text


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_damaged_table_of_the_run_is_named(card, tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ConfigError, match="^'.*summary.json' (is no JSON file|holds a list)"):
        card(250)


def test_the_evaluation_of_another_checkpoint_is_not_shown(card, tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.json").write_text(json.dumps(made_up_report() | {"update": 200}))
    assert "## Evaluation" not in card(250) and "## Scores" in card(250)
    assert "## Evaluation" in card(200) and "## Scores" not in card(200)
    assert "## Evaluation" not in card(100) and "## Scores" not in card(100)


@pytest.mark.parametrize(("kind", "chosen", "said"), [("T5", 0, 256), ("T5", 12, 12), ("CLIP", 0, None)])
def test_the_card_says_how_many_tokens_t5_reads(models, kind, chosen, said):
    """FLUX.1 [schnell] reads 256, and diffusers' pipeline gives it 512 if it is not told."""
    ids = {"text_encoder": np.zeros((1, 77)), "text_encoder_2": np.zeros((1, chosen or 256))}
    pipeline = SimpleNamespace(
        prediction_type="flow",
        tokenize=lambda prompts: ids,
        image_shape=lambda: (16, 24, 3),
        grid_fn=lambda count, spacing: SimpleNamespace(noise_rates=np.linspace(1, 0, count + 1)),
    )
    sampling = {"timestep_spacing": "", "sampler": "ddim", "num_steps": 4, "guidance_scale": 1.0}
    index = {"tokenizer": ["", "CLIPTokenizer"], "tokenizer_2": ["", f"{kind}TokenizerFast"]}
    config = tiny_config(models, max_sequence_length=chosen)
    options = model_card._sampling(Generator("", pipeline, **sampling), config, index)["options"]
    assert options.startswith(", height=16, width=24")
    assert (f", max_sequence_length={said}" in options) == ("max_sequence_length" in options) == bool(said)


@pytest.mark.parametrize(
    ("spacing", "said"),
    [("trailing", "`simple`"), ("linspace", "`normal`"), ("leading", "`ddim_uniform`, which")],
)
def test_comfyui_s_scheduler_has_the_timesteps_of_training(models, spacing, said):
    pipeline = SimpleNamespace(prediction_type="epsilon", tokenize=lambda prompts: np.zeros((1, 77)))
    sampling = {"timestep_spacing": "", "sampler": "ddim", "num_steps": 4, "guidance_scale": 1.0}
    config = tiny_config(models, student__timestep_spacing=spacing)
    index = {"tokenizer": ["", "CLIPTokenizer"]}
    values = model_card._sampling(Generator("", pipeline, **sampling), config, index)
    assert values["comfyui_scheduler"].startswith(said)


def test_a_base_is_written_as_pytorch_opens_it(tmp_path, monkeypatch):
    assert model_card._as_argument("owner/name") == '"owner/name"'
    assert model_card._as_argument("owner/name@v1") == '"owner/name", revision="v1"'
    assert model_card._as_argument("assets/emoji/pipeline").endswith('rats_jax/assets/emoji/pipeline"')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert model_card._as_argument("./models/mine") == f'"{tmp_path}/models/mine"'
