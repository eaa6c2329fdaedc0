"""JSON, YAML and array files that enter: tickets, scores, results, protocols; and numbers among the options."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.samples import SMALL, result, skeleton_ticket, super_ticket
from ..test_arrays import header, patched
from .case import Case, Toy

Make = Callable[[Toy, Path], None]
PRUNE = ("fairseq-tickets", "prune", "--scores", "s.npz", "--heads", "0.3", "--ffn", "0.4", "--output", "t.json")
GOOD = ("fairseq-tickets", "prune", "--scores", "{toy}/scores.npz", "--output", "t.json")


def nothing(toy: Toy, at: Path) -> None:
    """The command reads the toy folder alone."""


def text(name: str, content: str) -> Make:
    def make(toy: Toy, at: Path) -> None:
        (at / name).write_text(content, encoding="utf-8")

    return make


def scores(**changes: Any) -> Make:
    """The toy's scores with arrays replaced; a text replaces a part of the provenance: "old -> new"."""

    def make(toy: Toy, at: Path) -> None:
        with np.load(toy / "scores.npz") as file:
            arrays = {name: file[name] for name in file.files}
        for name, change in changes.items():
            if isinstance(change, str):
                old, new = change.split(" -> ")
                assert old in str(arrays[name])
                arrays[name] = np.array(str(arrays[name]).replace(old, new))
            else:
                arrays[name] = change(arrays[name])
        np.savez(at / "s.npz", **arrays)

    return make


def zipped(change: Callable[[bytes], bytes]) -> Make:
    def make(toy: Toy, at: Path) -> None:
        (at / "s.npz").write_bytes(change((toy / "scores.npz").read_bytes()))

    return make


def claims(toy: Toy, at: Path) -> None:
    lie = header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }\n", bytes(64))
    with zipfile.ZipFile(toy / "scores.npz") as good, zipfile.ZipFile(at / "s.npz", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, lie if name == "heads.npy" else good.read(name))


def tickets(**changes: Any) -> Make:
    """super.json and dominant.json, with fields of the first or second replaced by name: super_version=..."""

    def make(toy: Toy, at: Path) -> None:
        contents = {
            "super": super_ticket(SMALL, [[1, 0, 1, 1]] * 3, [1, 0, 1]).to_json(),
            "dominant": skeleton_ticket(SMALL, 1).to_json(),
        }
        for name, value in changes.items():
            kind, field = name.split("_", 1)
            contents[kind][field] = value
        for kind, content in contents.items():
            (at / f"{kind}.json").write_text(json.dumps(content))

    return make


def results(**changes: Any) -> Make:
    return text("r.json", json.dumps(result(method="winning", level=0.3, **changes)))


DIMENSIONS = ("fairseq-tickets", "dimensions", "dominant.json")
JACCARD = ("fairseq-tickets", "jaccard", "dominant.json", "dominant.json")
OWNERSHIP = ("fairseq-tickets", "table", "ownership", "A=super.json")
RUN = ("fairseq-tickets", "run", "p.yaml", "--dry-run")
DEEP = "[" * 50_000
SHAPE = SMALL._asdict()

ARRAYS = (
    Case("scores encrypted", zipped(lambda b: patched(b, b"PK\1\2", 8, b"\1\0")), PRUNE, "s.npz: heads.npy is encr"),
    Case("scores packed otherwise", zipped(lambda b: patched(b, b"PK\1\2", 10, b"\x63\0")), PRUNE, "by method 99"),
    Case("scores with a damaged directory", zipped(lambda b: b.replace(b"PK\1\2", b"PK\1\3")), PRUNE, "not a readable"),
    Case("scores with a flipped bit", zipped(lambda b: b.replace(b"\x93NUMPY", b"\x93NUMPX", 1)), PRUNE, "CRC|NumPy"),
    Case("scores cut", zipped(lambda b: b[:-40]), PRUNE, "s.npz is not a readable .npz file"),
    Case("scores that claim terabytes", claims, PRUNE, "heads claims the shape .1099511627776,., .* 64 are there"),
    Case("scores that are dates", scores(heads=lambda a: a.astype("M8[D]")), PRUNE, "heads holds dates"),
    Case("scores that are durations", scores(ffn=lambda a: a.astype("m8[s]")), PRUNE, "ffn holds durations"),
    Case("scores that are truth values", scores(heads=lambda a: a > 0.1), PRUNE, "heads holds truth values"),
    Case("scores that are texts", scores(heads=lambda a: a.astype(str)), PRUNE, "heads holds texts"),
    Case("scores that are complex", scores(heads=lambda a: a * 1j), PRUNE, "heads holds complex numbers"),
    Case("scores that are whole", scores(heads=lambda a: a.astype(int)), PRUNE, "heads holds whole numbers"),
    Case("scores of half precision", scores(heads=lambda a: a.astype("f2")), PRUNE, "floating-point numbers of 2 byt"),
    Case("scores that are not finite", scores(ffn=lambda a: a * np.nan), PRUNE, "ffn holds a number that is not fini"),
    Case("scores that are pickled", scores(heads=lambda a: a.astype(object)), PRUNE, "pickled Python objects"),
    Case("scores all 0", scores(heads=lambda a: a * 0), PRUNE, "all heads have the same score"),
    Case("scores all the same", scores(heads=lambda a: a * 0 + 1e308), PRUNE, "all heads have the same score"),
    Case("scores of float32 big-endian", scores(heads=lambda a: a.astype(">f4")), PRUNE, code=0, leaves=("t.json",)),
    Case("infinity in the provenance", scores(provenance='"task": -> "loss": Infinity, "task":'), PRUNE, "Infinity"),
    Case("examples that are infinite", scores(examples=lambda a: np.float64(np.inf)), PRUNE, "examples holds floating"),
    Case("a size that is infinite", scores(provenance='"positions": -> "positions": 1e999, "p":'), PRUNE, "positions"),
    Case("a provenance twice", scores(provenance='"task": -> "task": "a", "task":'), PRUNE, "key 'task' stands twice"),
    Case("a version that is true", scores(provenance='"version": 1 -> "version": true'), PRUNE, "version True"),
    Case(
        "counts in place of scores",
        nothing,
        ("fairseq-tickets", "plot", "out-weighted", "{toy}/scores.npz", "--output", "f.pdf"),
        "is not a counts file: it lacks q_proj",
    ),
)
NUMBERS = tuple(
    Case(f"a fraction of {value[:20]}", nothing, (*GOOD, "--ffn", "0.4", f"--heads={value}"), "heads is .*it must be")
    for value in ("1e999999999", "1e-999999999", "nan", "inf", "-0.1", "1" * 5000, "0x1", "", "1/0", "٠.٢", "1e400")
) + tuple(
    Case(f"{option} {value[:20]}", nothing, (*command, f"{option}={value}"), f"{option} is .*it must be")
    for command, option in (
        ((*GOOD, "--heads", "0.3", "--ffn", "0.4"), "--seed"),
        ((*GOOD, "--heads", "0.3", "--ffn", "0.4"), "--min-heads-per-layer"),
        (("fairseq-tickets", "extract", "--pretrained", "{toy}/model.pt", "--finetuned", "{toy}/tuned.pt",
          "--output", "t.json"), "--sigma"),
        (("fairseq-tickets", "importance", "--checkpoint", "{toy}/tuned.pt", "--data", "{toy}/data",
          "--output", "t.npz"), "--limit"),
        (JACCARD, "--draws"),
        (DIMENSIONS, "--popular"),
        (("fairseq-tickets", "plot", "skeleton", "dominant.json", "--output", "f.pdf"), "--at-least"),
    )
    for value in ("1e999999999", "nan", "-1", "9" * 30, "9" * 5000)
)  # fmt: skip
TICKETS = (
    Case("a ticket with 1.0 for 1", tickets(super_ffn=[1.0, 0, 1]), OWNERSHIP, "1.0 is neither 1 .kept. nor 0"),
    Case("a ticket with true for 1", tickets(super_ffn=[True, 0, 1]), OWNERSHIP, "True is neither"),
    Case("a ticket of version true", tickets(dominant_version=True), DIMENSIONS, "version True is unknown"),
    Case("a ticket of a huge model", tickets(dominant_model={**SHAPE, "embed_dim": 2**63}), JACCARD, "embed_dim is 92"),
    Case("counts of texts", tickets(dominant_counts={"q_proj": ["x"]}), DIMENSIONS, "counts must name exactly"),
    Case("a ticket nested deep", text("dominant.json", DEEP), DIMENSIONS, "nested deeper than 64"),
    Case("a ticket with keys twice", text("dominant.json", '{"format": "a",\n"format": "b"}'), DIMENSIONS,
         r"key 'format' stands twice in one object \(lines 1 and 2\)"),
    Case("a ticket not in UTF-8", lambda toy, at: (at / "dominant.json").write_bytes(b'{"\xff": 1}') and None,
         DIMENSIONS, "dominant.json is not UTF-8 text: byte 2 is 0xff"),
    Case("a ticket that is a folder", lambda toy, at: (at / "dominant.json").mkdir(), DIMENSIONS, "Is a directory"),
    Case(
        "a ticket of a long name",
        nothing,
        ("fairseq-tickets", "dimensions", "n" * 300 + ".json"),
        r"error: .{0,40}\bn{90,110}\.\.\.n{80,100}\.json: File name too long",
    ),
    Case(
        "an output of a long name",
        nothing,
        (*GOOD[:-1], "n" * 300 + ".json", "--heads", "0.3", "--ffn", "0.4"),
        r"error: .{0,40}\bn{90,110}\.\.\.n{80,100}\.json.*File name too long",
    ),
    Case("a ticket that is not there", nothing, DIMENSIONS, "No such file"),
    Case("a name with NUL", nothing, ("fairseq-tickets", "dimensions", "a\0b"), "NUL character"),
)  # fmt: skip
RESULTS = (
    Case("weights that are texts", results(weight_remaining={"encoder": "x"}), ("fairseq-tickets", "table", "S7",
         "r.json"), "r.json: weight_remaining is {'encoder': 'x'}; it must be an object of numbers"),
    Case("weights out of range", results(weight_remaining={"encoder": 1e308}), ("fairseq-tickets", "table", "S",
         "r.json"), "weight_remaining is .* at most 1"),
    Case("an epoch without numbers", results(epochs=[{"epoch": 1, "valid": None}], best_epoch=1),
         ("fairseq-tickets", "table", "S1", "r.json"), "epochs/0: valid is None; it must be an object of numbers"),
    Case("a learning rate in a list", results(config={"lr": [1]}), ("fairseq-tickets", "table", "S1", "r.json"),
         "config is {'lr': .1.}; it must be"),
    Case("a result nested deep", text("r.json", DEEP), ("fairseq-tickets", "table", "levels", "r.json"),
         "nested deeper than 64"),
    Case("results in words of a run's help", results(), ("fairseq-tickets", "table", "1", "r.json"),
         "table 1: must be one of .*S1, S2"),
)  # fmt: skip


def index(toy: Toy, at: Path) -> None:
    (at / "hf").mkdir()
    (at / "hf" / "config.json").write_text('{"model_type": "bert"}')
    (at / "hf" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "a\\u0000b.safetensors"}}')


PROTOCOLS = (
    Case("a long experiment name", text("p.yaml", f"experiment: {'x' * 300}\nmodel: {{path: m}}\n"), RUN,
         "p.yaml: experiment is 'xxx.*a name has 1 to 100 printable characters"),
    Case("a weight file with NUL in its name", index, ("fairseq-tickets", "import", "--model", "hf", "--output", "o"),
         "index.json names 'a.x00b.safetensors'; its files must be in the same folder"),
    Case("a protocol nested deep", text("p.yaml", DEEP), RUN, "nested deeper than 64"),
    Case("a protocol with keys twice", text("p.yaml", "a: 1\nb: 2\na: 3\n"), RUN, "line 3: the key 'a' stands twice"),
    Case("a protocol that calls", text("p.yaml", "a: !!python/object/apply:os.getcwd []"), RUN, "line 1: the tag"),
    Case("a protocol with a bomb", text("p.yaml", "a: &a [x, x]\n" + "".join(
        f"b{i}: &b{i} [{', '.join(['*' + ('a' if i == 0 else f'b{i - 1}')] * 9)}]\n" for i in range(9))), RUN,
        "aliases write out to more"),
    Case("a protocol with NUL in a path", text("p.yaml", 'experiment: x\nmodel: {path: "a\\0b"}\n'), RUN,
         "p.yaml: /model/path holds a NUL character"),
    Case("a protocol that is no YAML", text("p.yaml", "a: [1"), RUN, "p.yaml is not valid YAML"),
)  # fmt: skip
COMMANDS = (
    Case("a command misspelt", nothing, ("fairseq-tickets", "prun"), "no command 'prun'; did you mean prune?"),
    Case("no command at all like it", nothing, ("fairseq-tickets", "xyz"), "no command 'xyz'; the commands are import"),
)
CASES = (*ARRAYS, *NUMBERS, *TICKETS, *RESULTS, *PROTOCOLS, *COMMANDS)
