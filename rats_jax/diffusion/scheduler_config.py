"""Fields of a scheduler_config.json: each is computed, or refused by name; none is dropped in silence.

A scheduler of diffusers is two things in one: the diffusion that a network was trained on, which must be
computed as the class means it, and a solver, which is not read, since the steps taken here are our own.
Between the two lie the timesteps: a class places them where its defaults say, so an absent field means what
that class means by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rats_jax.fields import Field, flag, integer, listed, number, one_of, only, optional

FLOW_CLASS = "FlowMatchEulerDiscreteScheduler"
_FLOW_PREDICTION = "flow_prediction"


def invalid_value(field: str, value: Any, expected: str) -> ValueError:
    """Make the error about a field of a scheduler's configuration."""
    return ValueError(f"{field} is {value!r}, expected {expected}")


class SchedulerSettings(NamedTuple):
    """What a scheduler_config.json says of the diffusion and of its timesteps, every default filled in.

    Attributes:
        class_name: of the scheduler, as diffusers names it.
        prediction_type: `epsilon`, `v_prediction`, `sample` or `flow`.
        num_train_timesteps: T.
        beta_schedule: by name, beta_start and beta_end its ends; none is read of a flow.
        beta_start: see beta_schedule.
        beta_end: see beta_schedule.
        trained_betas: T numbers in place of the schedule, or None.
        rescale_betas_zero_snr: whether the last level is pure noise.
        placement: how a diffusion places S timesteps: `ddim`, `without_last` (the first S of S + 1) or
            `consistency` (a subset of those that a student was distilled at); of a flow `match`, or the
            solver: `dpm` or `unipc`.
        timestep_spacing: `leading`, `linspace` or `trailing`; not read by `consistency` and flows.
        steps_offset: of `leading`.
        lands_on_data: whether the last step ends at data, or at the cleanest level of training.
        original_inference_steps: of `consistency`.
        shift: of a flow, towards noise.
        dynamic_shift: of a flow whose shift grows with the picture instead, the arguments of
            `grid.flow_shift`; else None.
    """

    class_name: str
    prediction_type: str
    num_train_timesteps: int
    beta_schedule: str = ""
    beta_start: float = 0.0
    beta_end: float = 0.0
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    placement: str = "ddim"
    timestep_spacing: str = ""
    steps_offset: int = 0
    lands_on_data: bool = True
    original_inference_steps: int = 0
    shift: float = 1.0
    dynamic_shift: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Class:
    """A scheduler class of diffusers: its own fields, and what it means by them.

    Attributes:
        fields: that it reads, by name.
        placement: of the timesteps, as in SchedulerSettings.
        lands_on_data: where the last step ends if the file does not say.
        reads_spacing: whether timestep_spacing has a say, or the default holds.
        flow_placement: how it places the levels of a flow; none if it cannot.
    """

    fields: Mapping[str, Field]
    placement: str = "ddim"
    lands_on_data: bool = True
    reads_spacing: bool = True
    flow_placement: str = ""


# Not computed, so that only the value at which it changes nothing is accepted, whichever class is named:
# files that were converted from one class to another keep the fields of both.
_REFUSED: Mapping[str, Field] = {
    # Change the clean estimate after each evaluation. DDIM and DDPM clip by default, for pixels in [-1, 1];
    # latents are never clipped, so an absent clip_sample means no clipping.
    **{name: only(False) for name in ("clip_sample", "thresholding")},
    # Visit other noise levels than those of the timesteps.
    **{f"use_{name}_sigmas": only(False) for name in ("karras", "exponential", "beta", "flow")},
    **{name: only(None) for name in ("sigma_min", "sigma_max", "shift_terminal")},
    **{name: only(False) for name in ("use_lu_lambdas", "use_dynamic_shifting", "invert_sigmas")},
    "interpolation_type": only("linear"),  # log_linear spreads sigmas that are not those of the timesteps
    "lambda_min_clipped": only(float("-inf")),
    "final_sigmas_type": only("zero"),
    # Another diffusion, where the class does not know the field but the file it was converted from did.
    "rescale_betas_zero_snr": only(False),
    # Says where the last step ends, of the classes that have it; SDXL's Euler passes over that of its file.
    "set_alpha_to_one": flag(True),
    # Tells the network log(sigma) / 4 in place of a timestep.
    "timestep_type": only("discrete"),
    # A network with twice the channels, the second half of which is its variance.
    "variance_type": one_of(None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    # Random steps, and steps of a second scheduler.
    "stochastic_sampling": only(False),
    "solver_p": only(None),
}

# Of the solver that a class is, in place of which our own steps are taken, or of an option that is refused
# above.
_IGNORED = frozenset(
    {
        # How many earlier estimates a step reads, by which formula, and where fewer must do.
        *(
            "solver_order",
            "solver_type",
            "algorithm_type",
            "lower_order_final",
            "euler_at_final",
            "predict_x0",
        ),
        *("disable_corrector", "skip_prk_steps"),
        "noise_sampler_seed",  # of random steps
        # Read with clip_sample and thresholding only.
        *("clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio"),
        # Read with use_dynamic_shifting only, by the class of flows.
        *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"),
        "flow_shift",  # read with use_flow_sigmas only
        "original_inference_steps",  # of other classes than LCM and TCD
        "timestep_scaling",  # of other classes than LCM; TCD itself does not read it
    }
)

_PREDICTIONS = ("v_prediction", "sample")
_DYNAMIC_SHIFT: Mapping[str, Field] = {
    "base_shift": number(0.5, positive=False),
    "max_shift": number(1.15, positive=False),
    "base_image_seq_len": integer(256),
    "max_image_seq_len": integer(4096),
    "time_shift_type": one_of("exponential", "linear"),
}
_SPACINGS = ("leading", "linspace", "trailing")


def _beta(default: float) -> Field:
    """Accept variances of a step of noise."""
    inside = number(default)
    return Field(default, lambda value: inside.holds(value) and value < 1, "a number in (0, 1)")


_RESCALES = {"rescale_betas_zero_snr": flag(False)}
_LANDS = {"set_alpha_to_one": flag(True)}
_FINAL_SIGMA = {"final_sigmas_type": one_of("zero", "sigma_min")}
_FLOW_SIGMAS = {
    "use_flow_sigmas": flag(False),
    "flow_shift": number(1.0),
    "prediction_type": one_of("epsilon", *_PREDICTIONS, _FLOW_PREDICTION),
}
_CONSISTENCY = {
    **_RESCALES,
    **_LANDS,
    "original_inference_steps": integer(50, most=100_000),
    "beta_start": _beta(0.00085),
    "beta_end": _beta(0.012),
    "beta_schedule": one_of("scaled_linear", "linear", "squaredcos_cap_v2"),
}
# What `trained_betas` take the place of.
_OF_BETAS = ("beta_start", "beta_end", "beta_schedule")
# The schedule of Stable Diffusion, save that it is linear.
_K_DIFFUSION = {"beta_start": _beta(0.00085), "beta_end": _beta(0.012)}


def _diffusion(spacing: str, own: Mapping[str, Field] | None = None) -> Mapping[str, Field]:
    """List the fields of a diffusion's scheduler: those of all, then its own."""
    return {
        "num_train_timesteps": integer(1000, most=100_000),
        "beta_start": _beta(0.0001),
        "beta_end": _beta(0.02),
        "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
        "trained_betas": optional(listed((), number(0.0, positive=False))),
        "prediction_type": one_of("epsilon", *_PREDICTIONS),
        "timestep_spacing": one_of(spacing, *(other for other in _SPACINGS if other != spacing)),
        "steps_offset": integer(0, least=0),
        **(own or {}),
    }


_CLASSES: Mapping[str, _Class] = {
    "DDIMScheduler": _Class(_diffusion("leading", _RESCALES | _LANDS)),
    "DDPMScheduler": _Class(_diffusion("leading", _RESCALES)),
    "PNDMScheduler": _Class(_diffusion("leading", _LANDS), lands_on_data=False),
    "LMSDiscreteScheduler": _Class(_diffusion("linspace")),
    "EulerDiscreteScheduler": _Class(_diffusion("linspace", _RESCALES | _FINAL_SIGMA)),
    "EulerAncestralDiscreteScheduler": _Class(_diffusion("linspace", _RESCALES)),
    "HeunDiscreteScheduler": _Class(_diffusion("linspace", _K_DIFFUSION)),
    "KDPM2DiscreteScheduler": _Class(_diffusion("linspace", _K_DIFFUSION)),
    "KDPM2AncestralDiscreteScheduler": _Class(_diffusion("linspace", _K_DIFFUSION)),
    "DPMSolverSDEScheduler": _Class(_diffusion("linspace", _K_DIFFUSION)),
    "DPMSolverMultistepScheduler": _Class(
        _diffusion("linspace", _RESCALES | _FINAL_SIGMA | _FLOW_SIGMAS), "without_last", flow_placement="dpm"
    ),
    "DPMSolverSinglestepScheduler": _Class(
        _diffusion("linspace", _FINAL_SIGMA | _FLOW_SIGMAS),
        "without_last",
        reads_spacing=False,
        flow_placement="dpm",
    ),
    "DEISMultistepScheduler": _Class(_diffusion("linspace"), "without_last", lands_on_data=False),
    "UniPCMultistepScheduler": _Class(
        _diffusion("linspace", _RESCALES | _FINAL_SIGMA | _FLOW_SIGMAS),
        "without_last",
        flow_placement="unipc",
    ),
    # Read as diffusers takes them when nothing is passed but a number of steps. LCM mixes its estimate with
    # the latents by weights that timestep_scaling sets: at its default the latents' is below 1e-5.
    "LCMScheduler": _Class(
        _diffusion("leading", _CONSISTENCY | {"timestep_scaling": only(10.0)}),
        "consistency",
        reads_spacing=False,
    ),
    "TCDScheduler": _Class(_diffusion("leading", _CONSISTENCY), "consistency", reads_spacing=False),
    FLOW_CLASS: _Class(
        {
            "num_train_timesteps": integer(1000, most=100_000),
            "shift": number(1.0),
            "prediction_type": one_of("flow", _FLOW_PREDICTION),
            "use_dynamic_shifting": flag(False),
            **_DYNAMIC_SHIFT,
        },
        flow_placement="match",
    ),
    # What the export of Flax pipelines writes; the Flax class knows no other spacing, nor the rescaling.
    "FlaxDDIMScheduler": _Class(_diffusion("leading", _LANDS | {"timestep_spacing": only("leading")})),
}
"""By class name; other classes are refused."""


def has_steps_offset(scheduler_config: Mapping[str, Any]) -> bool:
    """Tell whether the class of a scheduler_config.json is one of PyTorch's that reads `steps_offset`."""
    try:
        name = _class_name(scheduler_config)
    except ValueError:
        return False
    return "steps_offset" in _CLASSES[name].fields and not name.startswith("Flax")


def read_scheduler_config(scheduler_config: Mapping[str, Any]) -> SchedulerSettings:
    """Read a scheduler_config.json as its class means it.

    An absent `_class_name` is a DDIMScheduler, or with prediction_type `flow` a
    FlowMatchEulerDiscreteScheduler. One field is read otherwise than its class does: an absent `clip_sample`
    means no clipping, since latents are never clipped here.

    Args:
        scheduler_config: its content; names that begin with an underscore are about the file.

    Returns:
        The settings. The range of the betas is checked where they are computed.

    Raises:
        ValueError: a class or a field that is not known, or a value that is not computed here, in one line.
    """
    name = _class_name(scheduler_config)
    scheduler = _CLASSES[name]
    table = {**_REFUSED, **scheduler.fields}
    unread = _OF_BETAS if scheduler_config.get("trained_betas") is not None else ()
    for field, value in scheduler_config.items():
        if field in unread:
            continue
        if field in table:
            if not table[field].holds(value):
                raise invalid_value(field, value, table[field].expected)
        elif not field.startswith("_") and field not in _IGNORED and value is not None:
            raise invalid_value(field, value, f"null or absent: it is not known of a {name}")
    values = {field: scheduler_config.get(field, rule.default) for field, rule in table.items()}
    if name != FLOW_CLASS:
        _check_flow(values)
    if name == FLOW_CLASS or values["use_flow_sigmas"]:
        return SchedulerSettings(
            name,
            "flow",
            values["num_train_timesteps"],
            placement=scheduler.flow_placement,
            shift=values["shift" if name == FLOW_CLASS else "flow_shift"],
            dynamic_shift={field: values[field] for field in _DYNAMIC_SHIFT}
            if values["use_dynamic_shifting"]
            else None,
        )
    spacing = "timestep_spacing"
    return SchedulerSettings(
        name,
        values["prediction_type"],
        values["num_train_timesteps"],
        beta_schedule=values["beta_schedule"],
        beta_start=values["beta_start"],
        beta_end=values["beta_end"],
        trained_betas=values["trained_betas"],
        rescale_betas_zero_snr=values["rescale_betas_zero_snr"],
        placement=scheduler.placement,
        timestep_spacing=values[spacing] if scheduler.reads_spacing else scheduler.fields[spacing].default,
        steps_offset=values["steps_offset"],
        lands_on_data=_lands_on_data(scheduler, scheduler_config),
        original_inference_steps=values.get("original_inference_steps", 0),
    )


def _class_name(scheduler_config: Mapping[str, Any]) -> str:
    name = scheduler_config.get("_class_name")
    if name is None:
        return FLOW_CLASS if scheduler_config.get("prediction_type") == "flow" else "DDIMScheduler"
    if not isinstance(name, str) or name not in _CLASSES:
        raise invalid_value("_class_name", name, f"one of {', '.join(_CLASSES)}")
    return name


def _check_flow(values: Mapping[str, Any]) -> None:
    """Refuse half a flow: the sigmas of one for a network that predicts something else, or the reverse."""
    prediction_type, flow_sigmas = values["prediction_type"], values["use_flow_sigmas"]
    if flow_sigmas and prediction_type != _FLOW_PREDICTION:
        raise invalid_value("use_flow_sigmas", True, f"false with prediction_type {prediction_type!r}")
    if prediction_type == _FLOW_PREDICTION and not flow_sigmas:
        raise invalid_value("prediction_type", prediction_type, "use_flow_sigmas true with it")
    if flow_sigmas and values["final_sigmas_type"] != "zero":
        raise invalid_value("final_sigmas_type", values["final_sigmas_type"], "'zero' with use_flow_sigmas")


def _lands_on_data(scheduler: _Class, scheduler_config: Mapping[str, Any]) -> bool:
    if "final_sigmas_type" in scheduler.fields:
        return scheduler_config.get("final_sigmas_type", "zero") == "zero"
    if "set_alpha_to_one" in scheduler.fields:
        return scheduler_config.get("set_alpha_to_one", scheduler.lands_on_data)
    return scheduler.lands_on_data


def ddim_shares_timesteps(settings: SchedulerSettings) -> bool:
    """Say whether a DDIMScheduler can place its timesteps where the scheduler of a diffusion does."""
    placed = settings.placement, settings.timestep_spacing
    return settings.placement == "ddim" or placed == ("without_last", "trailing")


def as_ddim(scheduler_config: Mapping[str, Any], *, timestep_spacing: str = "") -> dict[str, Any]:
    """Write the configuration of a DDIMScheduler that makes the same grids, with every default filled in.

    Args:
        scheduler_config: a scheduler_config.json of a diffusion.
        timestep_spacing: in place of the file's: `leading`, `linspace` or `trailing` as DDIM means them,
            whichever class the file names; empty keeps the file's.

    Returns:
        The content of a scheduler_config.json.

    Raises:
        ValueError: as `read_scheduler_config`; a flow; or timesteps that a DDIMScheduler cannot place.
    """
    settings = read_scheduler_config(scheduler_config)
    if settings.prediction_type == "flow":
        raise invalid_value("prediction_type", "flow", "a diffusion: DDIM has no levels of a flow")
    spacing = timestep_spacing or settings.timestep_spacing
    if not timestep_spacing and not ddim_shares_timesteps(settings):
        named = ", ".join(_SPACINGS)
        expected = f"one of {named} chosen in its place: DDIM has no timesteps of a {settings.class_name}"
        raise invalid_value("timestep_spacing", spacing, expected)
    if spacing not in _SPACINGS:
        raise invalid_value("timestep_spacing", spacing, f"one of {', '.join(_SPACINGS)}")
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": settings.num_train_timesteps,
        "beta_schedule": settings.beta_schedule,
        "beta_start": settings.beta_start,
        "beta_end": settings.beta_end,
        "trained_betas": None if settings.trained_betas is None else list(settings.trained_betas),
        "rescale_betas_zero_snr": settings.rescale_betas_zero_snr,
        "prediction_type": settings.prediction_type,
        "timestep_spacing": spacing,
        "steps_offset": settings.steps_offset,
        "set_alpha_to_one": settings.lands_on_data,
        "clip_sample": False,
    }
