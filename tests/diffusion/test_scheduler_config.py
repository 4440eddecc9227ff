"""Arguments of the schedulers of diffusers: each is computed as PyTorch does, or refused by name."""

import ast
import importlib
import inspect
import json
import sys
import types
from pathlib import Path

import chex
import diffusers
import numpy as np
import pytest

from rats_jax.diffusion.grid import flow_shift, make_grid, sigmas
from rats_jax.diffusion.schedule import get_alphas_cumprod, get_prediction_type
from rats_jax.diffusion.scheduler_config import as_ddim, read_scheduler_config

DIFFUSIONS = (
    *("DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete"),
    *("KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep"),
    *("DEISMultistep", "UniPCMultistep", "DPMSolverSDE", "LCM", "TCD"),
)
QUICK = {"num_train_timesteps": 100}  # some lay out all steps of training in their constructors, at length
ALL = (*DIFFUSIONS, "FlowMatchEulerDiscrete")
SPACINGS = ("leading", "linspace", "trailing")
# Values other than the default. What is not refused gives the timesteps, the levels and the prediction type
# of the PyTorch scheduler with the same value.
COMPUTED = {
    "num_train_timesteps": [500],
    "beta_start": [0.0005],
    "beta_end": [0.015],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
    "trained_betas": [np.linspace(0.002, 0.03, 1000).tolist()],
    "prediction_type": ["v_prediction", "sample"],
    "timestep_spacing": SPACINGS,
    "steps_offset": [1],
    "set_alpha_to_one": [True, False],
    "original_inference_steps": [40],
    "shift": [3.0],
    # Without a say in what is computed here, and in what PyTorch is compared by.
    "clip_sample_range": [2.0],
    "dynamic_thresholding_ratio": [0.9],
    "sample_max_value": [2.0],
    "variance_type": ["fixed_small_log", "fixed_large", "fixed_large_log"],
    "skip_prk_steps": [True],
    "solver_order": [1, 3],
    "algorithm_type": ["dpmsolver++"],
    "solver_type": ["midpoint", "heun", "bh1", "logrho"],
    "lower_order_final": [True, False],
    "euler_at_final": [True],
    "predict_x0": [False],
    "disable_corrector": [[0]],
    "noise_sampler_seed": [1],
    "flow_shift": [3.0],
    "time_shift_type": ["linear"],
    "base_shift": [0.6],
    "max_shift": [1.2],
    "base_image_seq_len": [128],
    "max_image_seq_len": [2048],
}
REFUSED = {
    "clip_sample": [True],
    "thresholding": [True],
    "variance_type": ["learned", "learned_range"],
    "use_karras_sigmas": [True],
    "use_exponential_sigmas": [True],
    "use_beta_sigmas": [True],
    "use_lu_lambdas": [True],
    "use_flow_sigmas": [True],
    "use_dynamic_shifting": [True],
    "invert_sigmas": [True],
    "stochastic_sampling": [True],
    "shift_terminal": [0.1],
    "sigma_min": [0.1],
    "sigma_max": [10.0],
    "timestep_type": ["continuous"],
    "interpolation_type": ["log_linear"],
    "lambda_min_clipped": [-5.1],
    "solver_p": ["DDIMScheduler"],
    "beta_schedule": ["sigmoid", "exp"],
    "prediction_type": ["flow_prediction", "velocity"],
    "timestep_spacing": ["karras"],
    "steps_offset": [-1, 0.5],
    "num_train_timesteps": [0, 1000.0],
    "trained_betas": [[0.1, 0.2], "0.1"],
    "shift": [0.0],
}
# Of these a class means something, which differs between classes.
BY_CLASS = {
    "rescale_betas_zero_snr": {
        "DDIM",
        "DDPM",
        "EulerDiscrete",
        "EulerAncestralDiscrete",
        "DPMSolverMultistep",
    }
    | {"UniPCMultistep", "LCM", "TCD"},
    "final_sigmas_type": {"EulerDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep"},
    "timestep_scaling": {"TCD"},
}
VALUES_BY_CLASS = {
    "rescale_betas_zero_snr": True,
    "final_sigmas_type": "sigma_min",
    "timestep_scaling": 5.0,
}


@pytest.fixture(scope="module", autouse=True)
def torchsde():
    """One scheduler imports a package for its random steps alone, which are not taken here."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            importlib.import_module("torchsde")
        except ImportError:
            stub = types.ModuleType("torchsde")
            patch.setitem(sys.modules, "torchsde", stub)
        yield


def class_of(name):
    if name == "DPMSolverSDE":
        return importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde").DPMSolverSDEScheduler
    return getattr(diffusers, f"{name}Scheduler")


def make_theirs(name, fields):
    """Build the PyTorch scheduler; some lay out all steps of training in their constructors, at length."""
    original = class_of(name)

    class Quick(original):
        def set_timesteps(self, num_steps, *of_constructor):
            original.set_timesteps(self, 2 if of_constructor else num_steps)

    # The first steps of PNDM are of Runge and Kutta, and four at least, unless they are skipped.
    return Quick(**({"skip_prk_steps": True} if name == "PNDM" else {}) | fields)


def arguments_of(name):
    """By its source, so that the packages that a class needs do not matter."""
    folder = Path(inspect.getfile(diffusers)).parent / "schedulers"
    for path in folder.glob("scheduling_*.py"):
        if f"class {name}Scheduler(" in path.read_text():
            tree = ast.parse(path.read_text())
            (found,) = (c for c in tree.body if isinstance(c, ast.ClassDef) and c.name == f"{name}Scheduler")
            (init,) = (f for f in found.body if isinstance(f, ast.FunctionDef) and f.name == "__init__")
            return [argument.arg for argument in init.args.args if argument.arg != "self"]
    raise AssertionError(name)


def laid_out(name, scheduler, num_steps):
    """Timesteps and sigmas of a PyTorch scheduler, save those that lie inside one of our steps."""
    if name == "FlowMatchEulerDiscrete":  # by itself it shifts the lower end twice
        class_of(name).set_timesteps(scheduler, sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps))
    else:
        scheduler.set_timesteps(num_steps)
    if name == "PNDM":  # takes some of them twice
        timesteps = scheduler._timesteps[::-1]
    else:
        timesteps = scheduler.timesteps.numpy()[:: scheduler.order]
    if name == "FlowMatchEulerDiscrete":
        return timesteps, scheduler.sigmas.numpy()
    alphas_cumprod = scheduler.alphas_cumprod.double().numpy()
    visited = np.interp(timesteps, np.arange(len(alphas_cumprod)), np.sqrt(1 / alphas_cumprod - 1))
    if name == "DDPM":
        last = 0.0
    elif hasattr(scheduler, "final_alpha_cumprod"):
        last = np.sqrt(1 / float(scheduler.final_alpha_cumprod) - 1)
    else:
        last = float(scheduler.sigmas[-1])
        np.testing.assert_allclose(scheduler.sigmas[0], visited[0], rtol=1e-5)
    return timesteps, np.append(visited, last)


def assert_same(name, fields, num_steps):
    config = {"_class_name": f"{name}Scheduler", **fields}
    grid = make_grid(config, num_steps)
    scheduler = make_theirs(name, fields)
    timesteps, levels = laid_out(name, scheduler, num_steps)
    if name == "FlowMatchEulerDiscrete":
        np.testing.assert_allclose(grid.timesteps, timesteps, rtol=1e-5)
        np.testing.assert_allclose(grid.noise_rates, levels, rtol=1e-5, atol=1e-7)
        assert get_prediction_type(config) == "flow"
        return
    assert np.abs(grid.timesteps - timesteps).max() <= 0.5
    rounded = np.abs(grid.timesteps - timesteps) > 0
    assert not rounded.any() or fields.get("timestep_spacing", "linspace") == "linspace"
    ours, same = sigmas(grid), np.append(~rounded, True)
    pure_noise = ours == np.inf  # 2^-24 of signal is left in some
    assert np.all(levels[pure_noise] > 4000)
    same &= ~pure_noise
    np.testing.assert_allclose(ours[same], levels[same], rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(get_alphas_cumprod(config), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7)
    assert read_scheduler_config(config).prediction_type == fields.get("prediction_type", "epsilon")


def assert_refused(name, fields, field, num_steps=4):
    config = {"_class_name": f"{name}Scheduler", **fields}
    with pytest.raises(ValueError, match=f"^{field} is .*, expected ") as caught:
        make_grid(config, num_steps)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_every_argument_is_computed_or_refused(name):
    for field in arguments_of(name):
        if field in BY_CLASS:
            fields = {field: VALUES_BY_CLASS[field]}
            if name in BY_CLASS[field]:
                assert_same(name, fields, 4)
            else:
                assert_refused(name, fields, field)
            continue
        assert field in COMPUTED or field in REFUSED, f"{name} has an argument that no test knows: {field}"
        for value in COMPUTED.get(field, ()):
            assert_same(name, {field: value}, 4)
        for value in REFUSED.get(field, ()):
            assert_refused(name, {field: value}, field)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("num_steps", [1, 4, 7, 30])
def test_an_absent_field_means_what_its_class_means_by_it(name, num_steps):
    assert_same(name, {}, num_steps)


@pytest.mark.parametrize("name", ALL)
def test_a_file_with_every_default_written_out_is_read(name):
    """As diffusers saves it; it would clip the pixels of DDIM and DDPM, which latents are not."""
    content = json.loads(class_of(name)(**QUICK).to_json_string())
    assert set(content) >= set(arguments_of(name))
    content |= {"clip_sample": False}
    config = {"_class_name": f"{name}Scheduler", **QUICK}
    chex.assert_trees_all_equal(make_grid(content, 4), make_grid(config, 4))


@pytest.mark.parametrize("name", [name for name in DIFFUSIONS if "timestep_spacing" in arguments_of(name)])
def test_every_spacing_of_every_class(name):
    for spacing in SPACINGS:
        for num_steps in (2, 3, 8, 25):
            assert_same(name, {"timestep_spacing": spacing, "steps_offset": 1}, num_steps)


FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.parametrize("name", ["UniPCMultistep", "DPMSolverMultistep", "DPMSolverSinglestep"])
@pytest.mark.parametrize("change", [{}, {"flow_shift": 1.0}, {"num_train_timesteps": 500}])
def test_the_flow_sigmas_of_solvers(name, change):
    fields = FLOW_SIGMAS | change
    config = {"_class_name": f"{name}Scheduler", **fields}
    for num_steps in (1, 4, 7, 50):
        scheduler = class_of(name)(**fields)
        scheduler.set_timesteps(num_steps)
        grid = make_grid(config, num_steps)
        np.testing.assert_array_equal(grid.timesteps, scheduler.timesteps)
        np.testing.assert_allclose(grid.noise_rates, scheduler.sigmas, rtol=1e-6)
        np.testing.assert_allclose(grid.signal_rates + grid.noise_rates, 1, rtol=1e-6)
        assert grid.timesteps.dtype == np.float32 and np.all(grid.signal_rates > 0)
    assert get_prediction_type(config) == "flow"


@pytest.mark.parametrize("token_count", [256, 1024, 4096, 5000])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"time_shift_type": "linear"},
        {"base_shift": 0.6, "max_shift": 1.2},
        {"base_image_seq_len": 128, "max_image_seq_len": 2048},
        {"num_train_timesteps": 500},
    ],
)
def test_a_shift_that_grows_with_the_picture(token_count, change):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    fields = {"use_dynamic_shifting": True, "shift": 3.0} | change
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**fields)
    settings = dict(scheduler.config)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(token_count, *(settings[name] for name in names))
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", **fields}
    grid = make_grid(config, 4, num_tokens=token_count)
    np.testing.assert_allclose(grid.noise_rates, scheduler.sigmas, rtol=1e-5)
    np.testing.assert_allclose(grid.timesteps, scheduler.timesteps, rtol=1e-5)


def test_an_impossible_shift_is_one_line():
    settings = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
    for change, message in (
        ({"time_shift_type": "cubic"}, "time_shift_type is 'cubic', expected exponential or linear"),
        ({"time_shift_type": "linear", "max_image_seq_len": 256}, "max_image_seq_len is 256"),
        ({"time_shift_type": "linear", "base_shift": -1.0}, "mu = -1.0 is not positive"),
    ):
        with pytest.raises(ValueError, match=message):
            flow_shift(256, **(settings | change))


TRAILING_V = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
EDM = {"num_train_timesteps": 1000, "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002}
KNOWN = "expected one of DDIMScheduler, DDPMScheduler, PNDMScheduler, "


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            TRAILING_V | {"_class_name": "VQDiffusionScheduler"},
            f"_class_name is 'VQDiffusionScheduler', {KNOWN}",
        ),
        (EDM | {"_class_name": "EDMEulerScheduler"}, f"_class_name is 'EDMEulerScheduler', {KNOWN}"),
        (
            EDM | {"_class_name": "EDMDPMSolverMultistepScheduler", "rho": 7.0, "solver_order": 2},
            "_class_name is 'EDMDPMSolverMultistepScheduler'",
        ),
        ({"_class_name": ["DDIMScheduler"]}, r"_class_name is \['DDIMScheduler'\], expected one of"),
        (
            TRAILING_V
            | {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous", "sigma_max": 700.0},
            "timestep_type is 'continuous', expected 'discrete'",
        ),
        (
            TRAILING_V | {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas is True, expected false with prediction_type 'v_prediction'",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            "prediction_type is 'flow_prediction', expected use_flow_sigmas true with it",
        ),
        (
            FLOW_SIGMAS | {"_class_name": "UniPCMultistepScheduler", "final_sigmas_type": "sigma_min"},
            "final_sigmas_type is 'sigma_min', expected 'zero' with use_flow_sigmas",
        ),
        (FLOW_SIGMAS | {"_class_name": "DEISMultistepScheduler"}, "use_flow_sigmas is True, expected False"),
        ({"prediction_type": "flow", "_class_name": "DDIMScheduler"}, "prediction_type is 'flow', expected"),
        ({"beta_scheduel": "linear"}, "beta_scheduel is 'linear', expected null .* known of a DDIMScheduler"),
        ({"prediction_type": "flow", "beta_start": 0.1}, "beta_start is 0.1, .* FlowMatchEulerDiscreteSched"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas is 'an array of shape .2,.', expected num_train_t"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_grid(config, 4)
    assert "\n" not in str(caught.value)


def test_a_short_config_of_a_consistency_model_takes_its_defaults():
    """Those of DDIM would be another schedule, and timesteps that it was not distilled at."""
    config = {"_class_name": "LCMScheduler", "prediction_type": "v_prediction"}
    grid = make_grid(config, 4)
    np.testing.assert_array_equal(grid.timesteps, [999, 759, 499, 259])
    np.testing.assert_allclose(sigmas(grid)[0], 14.6146, rtol=1e-4)
    for num_steps in range(1, 51):
        assert_same("LCM", {}, num_steps)
    for field, value in (("original_inference_steps", 1001), ("num_steps", 51)):
        fields = {field: value} if field != "num_steps" else {}
        assert_refused("LCM", fields, field, num_steps=51)


def test_one_step_more_is_placed_than_taken_by_some():
    config = {"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 8}
    np.testing.assert_array_equal(make_grid(config, 7).timesteps, np.arange(7, 0, -1))
    with pytest.raises(ValueError, match="num_steps is 8, expected from 1 to num_train_timesteps - 1 = 7"):
        make_grid(config, 8)
    assert len(make_grid(config | {"timestep_spacing": "trailing"}, 8).timesteps) == 8


SD = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "trained_betas": None,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "_diffusers_version": "0.19.0",
}
PUBLISHED = {
    "1.5": SD | {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    "2.1": SD | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "xl": SD
    | {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "interpolation_type": "linear",
        "sample_max_value": 1.0,
        "skip_prk_steps": True,
        "use_karras_sigmas": False,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_grids_of_published_models_stay_as_they_are_to_the_bit(name):
    """XL's file has a set_alpha_to_one that its Euler class does not read: it lands on data."""
    grid, last = (
        make_grid(PUBLISHED[name], 4),
        (1.0, 0.0) if name == "xl" else (0.9995748996734619, 0.029154759),
    )
    signal_rates = [
        *(0.23604878783226013, 0.5244035124778748, 0.8198484182357788, 0.9991476535797119),
        last[0],
    ]
    noise_rates = [0.9717412, 0.8514699, 0.5725806, 0.041279197, last[1]]
    expected = (np.int32([751, 501, 251, 1]), np.float32(signal_rates), np.float32(noise_rates))
    chex.assert_trees_all_equal(tuple(grid), expected)
    for num_steps in (3, 7, 50):
        chex.assert_trees_all_equal(
            make_grid(as_ddim(PUBLISHED[name]), num_steps), make_grid(PUBLISHED[name], num_steps)
        )


def test_the_grid_of_the_embedded_model_stays_as_it_is_to_the_bit():
    grid = make_grid(TRAILING_V | {"_class_name": "DDIMScheduler"}, 4)
    signal_rates = [0.0682649165391922, 0.2379569113254547, 0.5269436836242676, 0.8218469619750977, 1.0]
    noise_rates = [0.99766725, 0.9712757, 0.8499002, 0.56970835, 0.0]
    expected = (np.int32([999, 749, 499, 249]), np.float32(signal_rates), np.float32(noise_rates))
    chex.assert_trees_all_equal(tuple(grid), expected)


def test_where_the_last_step_lands_is_said_by_the_fields_that_the_class_reads():
    def final(name, **fields):
        return make_grid({"_class_name": f"{name}Scheduler", **fields}, 4).noise_rates[-1] == 0

    assert final("EulerDiscrete", set_alpha_to_one=False) and final(
        "EulerAncestralDiscrete", set_alpha_to_one=False
    )
    assert not final("EulerDiscrete", set_alpha_to_one=True, final_sigmas_type="sigma_min")
    assert not final("DDIM", set_alpha_to_one=False) and not final("DEISMultistep", set_alpha_to_one=True)
    assert not final("PNDM") and final("PNDM", set_alpha_to_one=True)
    assert not final("PNDM", final_sigmas_type="zero")  # it has no such field


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_as_ddim_has_every_default_of_the_class_filled_in(name):
    """A DDIMScheduler of diffusers takes it without a warning, with the same levels of training."""
    config = {"_class_name": f"{name}Scheduler", "prediction_type": "v_prediction", "steps_offset": 1}
    for spacing in SPACINGS:
        written = as_ddim(config, timestep_spacing=spacing)
        assert set(written) - {"_class_name"} <= set(arguments_of("DDIM"))
        scheduler = diffusers.DDIMScheduler.from_config(written)
        scheduler.set_timesteps(8)
        grid = make_grid(written, 8)
        np.testing.assert_array_equal(grid.timesteps, scheduler.timesteps)
        np.testing.assert_allclose(scheduler.alphas_cumprod, get_alphas_cumprod(config), rtol=1e-4)
        assert grid.noise_rates[-1] == make_grid(config, 8).noise_rates[-1]
        assert scheduler.config.prediction_type == get_prediction_type(written) == "v_prediction"
        assert not scheduler.config.clip_sample
    own = read_scheduler_config(config).placement
    if own == "ddim":
        chex.assert_trees_all_equal(make_grid(as_ddim(config), 8), make_grid(config, 8))
        return
    with pytest.raises(ValueError, match=f"^timestep_spacing is .*, expected .* of a {name}Scheduler$"):
        as_ddim(config)
    trailing = config | {"timestep_spacing": "trailing"}
    if own == "without_last" and name != "DPMSolverSinglestep":
        chex.assert_trees_all_equal(make_grid(as_ddim(trailing), 8), make_grid(trailing, 8))


def test_as_ddim_keeps_betas_and_refuses_flows_and_unknown_spacings():
    betas = np.linspace(0.002, 0.03, 1000).tolist()
    config = {"trained_betas": betas, "rescale_betas_zero_snr": True, "prediction_type": "sample"}
    written = as_ddim(config)
    assert written["trained_betas"] == betas and written["rescale_betas_zero_snr"] is True
    chex.assert_trees_all_equal(make_grid(written, 5), make_grid(config, 5))
    with pytest.raises(ValueError, match="prediction_type is 'flow', expected a diffusion"):
        as_ddim({"prediction_type": "flow"})
    with pytest.raises(ValueError, match="timestep_spacing is 'karras', expected one of leading"):
        as_ddim({}, timestep_spacing="karras")
