"""Installs seqgpt_jax, its SeqIO tasks and its gin files. Every bound's upper end has been tested."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

REQUIREMENTS = [
    "absl-py>=2.1,<3",
    "array-record>=0.7,<0.9",
    "flax>=0.12,<0.13",
    "gin-config>=0.5,<0.6",
    "grain>=0.2.15,<0.3",
    "huggingface-hub>=1.0,<3",
    "importlib-resources>=7.0,<8",  # tensorflow-datasets needs it to prepare a dataset, and does not say so
    "jax>=0.10,<0.11",
    "jinja2>=3.1,<4",
    "matplotlib>=3.9,<4",
    "ml-collections>=1.0,<2",
    "numpy>=2.0,<3",
    "optax>=0.2.6,<0.3",
    "orbax-checkpoint>=0.11.28,<0.13",
    "packaging>=24,<27",
    "regex>=2024.4.16,<2027",
    "safetensors>=0.5,<0.9",
    "seqio>=0.0.20,<0.1",
    "t5>=0.9.4,<0.10",
    "tensorboardX>=2.6,<3",
    "tensorflow-datasets>=4.9.9,<5",
    "tokenizers>=0.22,<0.24",
    "tqdm>=4.66,<5",
]

TEST = [
    "hypothesis>=6.100,<7",
    "mypy>=2.0,<3",
    "nervaluate>=1.2,<1.3",
    "peft>=0.17,<0.22",
    "pytest>=9.0,<10",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.17,<0.18",
    "scikit-learn>=1.5,<2",
    "torch==2.13.0",
    "transformers>=5.0,<6",
]


# `seqgpt eval --model openai:NAME`, `hf:PATH` and `tfidf`.
OPENAI = ["httpx2>=2.12,<3", "tenacity>=9.0,<10"]
HF = ["torch>=2.6,<2.14", "transformers>=5.0,<6"]
TFIDF = ["scikit-learn>=1.5,<2"]

# hub:NAME mixtures.
HUB = ["datasets>=5.2,<6"]

# `seqgpt study` on SLURM and Kubernetes.
LAUNCH = ["pyyaml>=6.0,<7", "submitit>=1.5,<2"]

# `seqgpt plan` compiles for TPUs through it; no TPU is needed. The version that jax 0.10's own extra "tpu" names.
TPU_PLAN = ["libtpu>=0.0.42,<0.0.43"]

# Its workers build token caches. Beam allows protobuf below 7 alone, which sentencepiece 0.2.3, of seqio, does not.
BEAM = ["apache-beam>=2.77,<2.78", "sentencepiece>=0.2,<0.2.3"]


def gin_data_files() -> list[tuple[str, list[str]]]:
    """The recipes, installed beside the package so that `seqgpt train recipes/quickstart.gin` works from a wheel."""
    folders = sorted({path.parent for path in (ROOT / "gin").rglob("*.gin")})
    return [
        (
            str(Path("share/seqgpt_jax") / folder.relative_to(ROOT)),
            [str(path.relative_to(ROOT)) for path in sorted(folder.glob("*.gin"))],
        )
        for folder in folders
    ]


setup(
    name="seqgpt_jax",
    version="0.1.0",
    description="SeqGPT in JAX: one decoder model for open-domain understanding of English and Chinese text",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["seqgpt_jax", "seqgpt_jax.*", "tasks", "tasks.*"]),
    package_data={
        "seqgpt_jax.analysis": ["report.html.jinja", "report.css", "report.js"],
        "seqgpt_jax.synthesis": ["content/**/*.toml"],
    },
    data_files=gin_data_files(),
    install_requires=REQUIREMENTS,
    extras_require={
        "beam": BEAM,
        "hf": HF,
        "hub": HUB,
        "launch": LAUNCH,
        "openai": OPENAI,
        "test": [*TEST, *HUB, *LAUNCH, *OPENAI],
        "tfidf": TFIDF,
        "tpu-plan": TPU_PLAN,
    },
    entry_points={"console_scripts": ["seqgpt = seqgpt_jax.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
