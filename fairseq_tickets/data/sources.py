"""Installed libraries as text: their source files, parsed and never imported, and the documentation in them."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from fairseq_tickets.errors import UserError

_SKIPPED = frozenset(
    re.findall(
        r"\S+",
        "tests test testing site-packages idlelib lib2to3 turtledemo ensurepip pydoc_data encodings _vendor _examples"
        " f2py _inductor _dynamo _numpy __pycache__",
    )
)
_DOCUMENTING = frozenset(("add_newdoc", "add_docstr", "add_docstr_all"))
_MASKS = tuple(
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), neutral)
    for words, neutral in (
        (r"numpy|scipy|(?:py|lib)?torch\w*|c?python\d?|np", "library"),
        (r"ndarrays|tensors", "arrays"),
        (r"ndarray|tensor", "array"),
    )
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def mask(sentence: str) -> str:
    """The sentence with names of libraries and of their array types replaced by "library" and "array"."""
    for pattern, neutral in _MASKS:
        sentence = pattern.sub(neutral, sentence)
    return sentence[:1].upper() + sentence[1:]


def in_words(name: str) -> list[str]:
    """The words of an identifier, small: `HTTPErrorHandler2` is http, error, handler, 2."""
    return [word.lower() for word in _WORDS.findall(name)]


def docstrings(source: str) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, and texts in calls like `add_newdoc`."""
    for node in _nodes(source):
        if isinstance(node, (ast.Module, *_NAMED)):
            yield ast.get_docstring(node, clean=False) or ""
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _DOCUMENTING:
            parts = [part for argument in node.args for part in ast.walk(argument) if isinstance(part, ast.Constant)]
            yield from (part.value for part in parts if isinstance(part.value, str) and "\n" in part.value)


def described(source: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of every public class and function that has one."""
    for node in _nodes(source):
        if isinstance(node, _NAMED) and not node.name.startswith("_"):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield node.name, text


def source_files(root: Path) -> Iterator[str]:
    """A library's own Python files, as paths below `root`; no tests, no code of others that it carries."""
    for folder, inside, names in os.walk(root):
        inside[:] = [name for name in inside if name not in _SKIPPED]
        for name in names:
            if name.endswith(".py"):
                yield Path(folder, name).relative_to(root).as_posix()


def library_folder(library: str) -> Path:
    """Where a library lies; "python" is the standard library. UserError if it isn't installed."""
    if library == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        raise UserError(f"docstring data: the package {library} is not installed")
    return Path(spec.origin).parent


def _nodes(source: str) -> Iterator[ast.AST]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    yield from ast.walk(tree)
