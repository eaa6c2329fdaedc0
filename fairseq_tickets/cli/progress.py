"""Progress on standard error: a bar on a terminal, nothing in a file or a pipe, where it would leave fragments."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(title: str, unit: str, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is called with (how many just done, how many in all)."""
    from tqdm import tqdm

    hidden = not (show and sys.stderr.isatty())
    with tqdm(desc=title, unit=f" {unit}", leave=False, file=sys.stderr, disable=hidden) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        yield update
