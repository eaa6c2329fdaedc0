"""A Hugging Face folder -> `model.pt`, `dict.txt`, `import.json` and the tokenizer: all files or none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_tickets.convert.huggingface import BERT_TYPES, architecture_of, to_fairseq
from fairseq_tickets.convert.shape import ModelConfig, count_parameters, fairseq_checkpoint
from fairseq_tickets.convert.source import TOKENIZER_FILES, copy_tokenizer, read_source
from fairseq_tickets.convert.vocabulary import Dictionary, Vocabulary, read_vocabulary, write_dictionary
from fairseq_tickets.data.imported import IMPORT_FILE, IMPORT_FORMAT
from fairseq_tickets.files import PathLike, sha256, write_json
from fairseq_tickets.folders import filled_folder


@dataclass
class ImportReport:
    """What `import_folder` wrote.

    Attributes:
        output: the folder.
        architecture: model_type of the source.
        config: the fields of arch `ticket_roberta`.
        words: size of the dictionary, special words included.
        parameters: number of weights, the tied language-model projection counted once.
        notes, not_carried: see `Converted`.
        files: names of the files in `output`.
    """

    output: Path
    architecture: str
    config: ModelConfig
    words: int
    parameters: int
    notes: list[str]
    not_carried: list[str]
    files: list[str]


def import_folder(source: PathLike, output: PathLike) -> ImportReport:
    """Convert a Hugging Face folder into `model.pt`, `dict.txt`, `import.json` and the tokenizer files.

    All files are written or none.

    Raises:
        UserError: a model of another architecture, damaged or missing files, tensors that don't fit the
        config.
    """
    from fairseq_tickets.checkpoint import save

    read = read_source(source)
    architecture = architecture_of(read.config)
    vocabulary = read_vocabulary(read.folder, bert=architecture in BERT_TYPES)
    converted = to_fairseq(read.tensors, read.config, vocabulary)
    with filled_folder(output, IMPORT_FILE, TOKENIZER_FILES) as stage:
        tokenizer = copy_tokenizer(read.folder, stage)
        write_dictionary(stage / "dict.txt", converted.dictionary.symbols)
        # no digest of the words in it: import.json has that, and results made before know model.pt by its checksum
        save(fairseq_checkpoint(converted.tensors, converted.config), stage / "model.pt")
        report = ImportReport(
            output=Path(output),
            architecture=architecture,
            config=converted.config,
            words=len(converted.dictionary.symbols),
            parameters=count_parameters(converted.tensors),
            notes=converted.notes,
            not_carried=converted.not_carried,
            files=["model.pt", "dict.txt", IMPORT_FILE, *tokenizer],
        )
        write_json(stage / IMPORT_FILE, _record(report, vocabulary, converted.dictionary, read.checksums, stage))
    return report


def _record(
    report: ImportReport,
    vocabulary: Vocabulary,
    dictionary: Dictionary,
    checksums: dict[str, str],
    stage: Path,
) -> dict[str, Any]:
    return {
        "format": IMPORT_FORMAT,
        "version": 1,
        "architecture": report.architecture,
        "source": {"files": checksums},
        "model": report.config,
        "parameters": report.parameters,
        "dictionary": {
            "words": report.words,
            "sha256": sha256(stage / "dict.txt"),
            "reordered": dictionary.reordered,
            "special": {symbol: vocabulary.words[number] for symbol, number in vocabulary.special.items()},
        },
        "checkpoint": {"file": "model.pt", "sha256": sha256(stage / "model.pt")},
        "checksums": {path.name: sha256(path) for path in sorted(stage.iterdir())},
        "files": report.files,
        "notes": report.notes,
        "not_carried_over": report.not_carried,
    }
