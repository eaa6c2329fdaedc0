"""Vega, Vega-Lite and Vega-Embed as one script, from the vl-convert package: no network, 0.9 MB.

vl-convert links it anew at each call, which takes seconds; the result is kept in the user's cache folder, under its
version and with its checksum, and made again where it is missing or was changed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from functools import lru_cache
from pathlib import Path

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import atomic_write


@lru_cache(maxsize=1)
def vega() -> str:
    """The script; it defines `vegaEmbed`."""
    import vl_convert

    cache = _folder() / f"vega-{importlib.metadata.version('vl-convert-python')}.js"
    try:
        digest, _, script = cache.read_text("utf-8").partition("\n")
        if digest == _digest(script):
            return script
    except (OSError, UnicodeDecodeError):
        pass  # not there yet
    script = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub makes a default of its own required
    if "</script" in script.lower() or "<!--" in script:
        raise UserError("vl-convert's script can't stand in a page; another version of vl-convert-python is needed")
    try:
        with atomic_write(cache) as temporary:
            temporary.write_text(f"{_digest(script)}\n{script}", "utf-8")
    except UserError:
        pass  # a cache that can't be written costs time only
    return str(script)


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "fairseq_tickets"


def _digest(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()
