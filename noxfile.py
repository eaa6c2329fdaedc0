"""The fast tests on every Python that is there: `make test-pythons`; `make test-pythons NOX_ARGS="-p 3.12"` on one.

Each session has an environment of its own in .nox, made by uv from setup.py's bounds: the newest versions that fit that
Python, or with NumPy 1, or (`oldest`) the lower bounds themselves. Pythons that are not there are left out and named.
setup.py, README and CONTRIBUTING claim what these sessions have shown, and no more.
"""

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"

NEWEST = "torch==2.13.0"
LAST_FOR_3_9 = "torch==2.8.0"


@nox.session(python=["3.9", "3.10", "3.11", "3.12", "3.13"])
def newest(session: nox.Session) -> None:
    """The newest of everything."""
    session.install("-e", ".[test]", LAST_FOR_3_9 if session.python == "3.9" else NEWEST)
    fast_tests(session)


@nox.session(python="3.10")
def numpy1(session: nox.Session) -> None:
    """A new PyTorch with the last NumPy 1."""
    session.install("-e", ".[test]", NEWEST, "numpy==1.26.4")
    fast_tests(session)


@nox.session(python="3.9")
def oldest(session: nox.Session) -> None:
    """The lower bounds of setup.py, all at once."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    fast_tests(session)


def fast_tests(session: nox.Session) -> None:
    """Versions, then the tests; `-- tests/cli` and other words for pytest come from the command line."""
    session.run("python", "-c", "import numpy, torch; print('NumPy', numpy.__version__, 'PyTorch', torch.__version__)")
    words = session.posargs or ["-n", "2"]
    session.run("python", "-m", "pytest", "-q", "-m", "not slow", *words, env={"OMP_NUM_THREADS": "1"})
