"""What lies beside a checkpoint and says what its numbers mean: import.json, dict.txt, the tokenizer.

`import` writes them together with model.pt, and public RoBERTa archives hold a dict.txt. A dictionary of the same size
in another order fits every shape and trains on scrambled rows; so words are compared one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, file_digest, read_json

IMPORT_FORMAT = "fairseq-tickets/import"
SEPARATORS = {
    "roberta": 2,
    "xlm-roberta": 2,
    "bert": -1,
}  # token between the sentences of a pair beside </s>; -1 = none


def check_origin(path: PathLike, symbols: Sequence[str], data: PathLike) -> None:
    """Check that a checkpoint, what lies beside it and the data's dictionary belong together.

    Args:
        path: the checkpoint.
        symbols: the data's dictionary with its special words, row by row.
        data: names the data in errors.

    Raises:
        UserError: files of two imports are mixed, or the data's words are in another order than the model's.
    """
    folder = Path(path).parent
    imported = import_record(path)
    if imported is not None:
        for part, file in (("dictionary", folder / "dict.txt"), ("checkpoint", Path(path))):
            expected = imported.get(part)
            if not isinstance(expected, Mapping) or not file.is_file():
                continue
            if expected.get("sha256") != file_digest(file):
                raise UserError(
                    f"{file} is not the file that {folder / 'import.json'} tells of (its sha256 differs): the folder "
                    "mixes two imports, or the file was changed; run `fairseq-tickets import` again"
                )
    if (folder / "dict.txt").is_file():
        _compare(_words(folder / "dict.txt"), symbols, folder / "dict.txt", data)
    if imported is not None:
        _check_tokenizer(folder, Path(data))


def import_record(path: PathLike) -> Optional[dict[str, Any]]:
    """The import.json beside a checkpoint that `import` wrote; None without one, or for another file of the folder."""
    beside = Path(path).with_name("import.json")
    if not beside.is_file():
        return None
    content = read_json(beside, "import")
    if not isinstance(content, dict) or content.get("format") != IMPORT_FORMAT:
        return None
    named = content.get("checkpoint")
    return content if isinstance(named, Mapping) and named.get("file") == Path(path).name else None


def separator_of(path: PathLike) -> Optional[int]:
    """Token by which an imported model joins pairs, -1 = none; None where no import.json tells."""
    imported = import_record(path)
    return None if imported is None else SEPARATORS.get(str(imported.get("architecture")))


def _words(path: Path) -> list[str]:
    from fairseq.data import Dictionary

    try:
        dictionary = Dictionary.load(str(path))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a whole dictionary: {error}") from error
    dictionary.add_symbol("<mask>")
    return list(dictionary.symbols)


def _compare(own: Sequence[str], other: Sequence[str], path: Path, data: PathLike) -> None:
    for row, (word, seen) in enumerate(zip(own, other)):
        if word != seen:
            raise UserError(
                f"{Path(data) / 'input0' / 'dict.txt'} is not the model's dictionary {path}: row {row} is {seen!r} in "
                f"the data and {word!r} in the model; prepare the data with the model's own dict.txt"
            )
    if len(own) != len(other):
        raise UserError(
            f"the dictionary does not match the checkpoint: {Path(data) / 'input0' / 'dict.txt'} has {len(other)} "
            f"entries with the special ones, the model's {path} has {len(own)}; prepare the data with the model's own"
        )


def _check_tokenizer(folder: Path, data: Path) -> None:
    """Was the data's tokenizer another one than lies beside the model? Only what both say is compared."""
    if not (data / "task.json").is_file():
        return
    known = read_json(data / "task.json", "task")
    tokenizer = known.get("tokenizer") if isinstance(known, dict) else None
    if not isinstance(tokenizer, Mapping):
        return
    for entry in tokenizer.get("files") or []:
        beside = folder / Path(str(entry.get("file"))).name
        if beside.is_file() and entry.get("sha256") != file_digest(beside):
            raise UserError(
                f"{data} was prepared with another {beside.name} than the model's own, {beside}: words may be cut or "
                "lower-cased otherwise; prepare the data with the model's folder as --tokenizer"
            )
    if "lowercase" in tokenizer and (folder / "tokenizer_config.json").is_file():
        stated = read_json(folder / "tokenizer_config.json", "tokenizer configuration")
        lower = stated.get("do_lower_case") if isinstance(stated, dict) else None
        if isinstance(lower, bool) and lower != tokenizer["lowercase"]:
            raise UserError(
                f"{data} was prepared {'in lower case' if tokenizer['lowercase'] else 'with capitals'}, and "
                f"{folder / 'tokenizer_config.json'} says do_lower_case {str(lower).lower()}; prepare the data with "
                "the model's folder as --tokenizer"
            )
