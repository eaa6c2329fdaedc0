"""How fast `prepare` is: real SNLI pairs and SST-2 sentences, with each kind of tokenizer; pairs a minute.

The whole command's work is timed, reading and writing included, imports not. SNLI's training file is written several
times over to reach --pairs, since the real one here may be partial; repeated text does not help the tokenizers but for
the small cache of word pieces that they keep anyway.

    GLUE_DIR=... python benchmarks/prepare.py --model HUGGING_FACE_FOLDER --output prepare.json

The folder needs tokenizer.json or vocab.txt; a sentencepiece model and a byte-level BPE are trained here.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers

from fairseq_tickets.data.binary import SPECIALS, Vocabulary
from fairseq_tickets.data.prepare import prepare
from fairseq_tickets.data.readers import read_examples
from fairseq_tickets.data.tasks import TaskSpec, find_files, find_task
from fairseq_tickets.data.tokenization import load_tokenizer, train_sentencepiece
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import write_json

TARGET = 100_000  # pairs a minute on two cores
VOCABULARY = 4000
TRAINED_ON = 20_000  # sentences


def main() -> int:
    """Run every tokenizer on both tasks; exit code 1 when SNLI falls below the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder with a Hugging Face tokenizer")
    parser.add_argument("--pairs", type=int, default=100_000, help="SNLI pairs to prepare (default: 100,000)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    glue = Path(os.environ.get("GLUE_DIR", ""))
    if "GLUE_DIR" not in os.environ:
        raise UserError("GLUE_DIR must name the folder that holds SNLI and SST-2")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        snli, files = _repeated(glue, work, args.pairs)
        sst2 = find_task("SST-2")
        sources = _tokenizers(work, files["train"], snli, args.model)
        Vocabulary(_dictionary(sources["sentencepiece"]))  # imports fairseq
        for kind, tokenizer in sources.items():
            dictionary = _dictionary(tokenizer)
            for spec, paths in ((snli, files), (sst2, find_files(glue, sst2))):
                rows.append(_timed(kind, spec, paths, tokenizer, dictionary, work / "out"))
                print(
                    "{tokenizer:13} {task:6} {examples:7} examples {seconds:6.1f} s {per_minute:9,.0f} a minute".format(
                        **rows[-1]
                    )
                )
    slowest = min(row["per_minute"] for row in rows if row["task"] == "SNLI")
    if args.output:
        machine = {
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
            "processor": platform.machine(),
            "tokenizers": tokenizers.__version__,
            "sentencepiece": sentencepiece.__version__,
        }
        write_json(args.output, {"machine": machine, "target_pairs_per_minute": TARGET, "rows": rows})
    print(f"slowest on pairs: {slowest:,.0f} a minute; target {TARGET:,}")
    return 0 if slowest >= TARGET else 1


def _repeated(glue: Path, work: Path, pairs: int) -> tuple[TaskSpec, dict[str, Path]]:
    """SNLI's training file cut or repeated to `pairs` lines, and its dev file."""
    spec = find_task("SNLI")
    files = find_files(glue, spec)
    header, *lines = files["train"].read_bytes().rstrip(b"\n").split(b"\n")
    many = (lines * (pairs // len(lines) + 1))[:pairs]
    long = work / "train.tsv"
    long.write_bytes(b"\n".join([header, *many]) + b"\n")
    return spec, {"train": long, "valid": files["valid"]}


def _tokenizers(work: Path, train: Path, spec: TaskSpec, model: Path | None) -> dict[str, Path]:
    sentences = read_examples(train, spec.sentences, None).sentences[1][:TRAINED_ON]
    found = {"sentencepiece": work / "sp" / "sentencepiece.model", "gpt2-bpe": work / "bpe" / "encoder.json"}
    for path in found.values():
        path.parent.mkdir()
    train_sentencepiece(sentences, VOCABULARY, found["sentencepiece"])
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(sentences, vocab_size=VOCABULARY, show_progress=False)
    vocabulary, merges = bpe.save_model(str(work / "bpe"))
    Path(vocabulary).rename(found["gpt2-bpe"])
    Path(merges).rename(work / "bpe" / "vocab.bpe")
    if model is not None:
        found["huggingface"] = work / "hf" / "tokenizer.json"
        found["huggingface"].parent.mkdir()
        found["huggingface"].write_bytes((model / "tokenizer.json").read_bytes())
    return found


def _dictionary(tokenizer: Path) -> Path:
    """A dict.txt beside the tokenizer with all its pieces."""
    path = tokenizer.with_name("dict.txt")
    words = [word for word in load_tokenizer(tokenizer).symbols if word not in SPECIALS]
    path.write_text("".join(f"{word} 1\n" for word in words), encoding="utf-8")
    return path


def _timed(
    kind: str, spec: TaskSpec, files: dict[str, Path], tokenizer: Path, dictionary: Path, output: Path
) -> dict[str, Any]:
    start = time.perf_counter()
    content = prepare(spec, files, output, tokenizer, dictionary, overwrite=True)
    seconds = time.perf_counter() - start
    examples = sum(entry["kept"] for entry in content["splits"].values())
    return {
        "tokenizer": kind,
        "task": spec.name,
        "examples": examples,
        "tokens": sum(entry["tokens"] for entry in content["splits"].values()),
        "seconds": round(seconds, 2),
        "per_minute": round(60 * examples / seconds),
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"benchmarks/prepare.py: error: {error}")
