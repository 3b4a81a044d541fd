"""Packaging: what is installed, what it needs, and the `fcmae` command."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = "0.1.0"

ONNX = ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.5"]
TESTS = [
    *ONNX,
    "pyarrow>=15",
    "tifffile",
    "pytest>=8",
    "pytest-timeout",
    "pytest-xdist",
    "timm>=1.0.20",
    "transformers>=4.50",
]
DEV = [*TESTS, "mypy>=1.15", "ruff>=0.12", "types-PyYAML"]

setup(
    name="fcmae",
    version=VERSION,
    description="Pre-train ConvNeXt V2 on unlabelled images with a fully convolutional masked autoencoder",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    classifiers=[
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["fcmae*", "finetune*", "models*", "launch*"]),
    package_data={
        "fcmae": ["recipes/*.yaml", "py.typed"],
        "finetune": ["recipes/*.yaml", "py.typed"],
        "models": ["py.typed"],
        "launch": ["py.typed"],
    },
    install_requires=[
        "torch>=2.7",
        "torchvision>=0.22",
        "numpy>=1.26",
        "timm>=1.0.20",
        "submitit>=1.5",
        "tensorboard>=2.16",
        "safetensors>=0.5",
        "jsonargparse>=4.49",
        "docstring-parser>=0.16",
        "PyYAML>=6",
        "rich>=13",
        "matplotlib>=3.8",
        "scikit-learn>=1.4",
        "pillow>=10",
    ],
    extras_require={
        # Builds against the PyTorch that is installed, without build isolation: the README has the commands.
        "minkowski": ["MinkowskiEngine==0.5.4"],
        "onnx": ONNX,
        "parquet": ["pyarrow>=15"],
        "tiff": ["tifffile"],
        "tests": TESTS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["fcmae=launch.cli:main"]},
    zip_safe=False,
)
