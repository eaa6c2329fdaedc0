"""Checkpoints, deltas and weight files: what runs code, what claims too much, what is no weight, what is damaged."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from fairseq_tickets import checkpoint
from fairseq_tickets.dominant_ticket.delta import load_delta, make_delta, save_delta
from fairseq_tickets.parameters import MATRICES, ModelShape, matrix_name
from fairseq_tickets.tickets import DominantTicket

from ..plugin import toy
from .case import Case

SHAPE = ModelShape(toy.LAYERS, toy.HEADS, toy.EMBED, toy.FFN)
WEIGHT = matrix_name(1, "fc1")
HEAD = "classification_heads.sentence_classification_head."
Change = Callable[[dict[str, torch.Tensor]], Any]
DELTA = ("fairseq-tickets", "export", "--delta", "d.safetensors", "--base", "{toy}/model.pt", "--output", "o.pt")
COLUMNS = "layers.1.fc1.columns"


def delta(change: Change) -> Callable[[Path, Path], None]:
    """A delta file of the toy's tuned model, its tensors changed."""

    def make(toy_folder: Path, at: Path) -> None:
        base = checkpoint.encoder_tensors(toy_folder / "model.pt")
        dims = {matrix: [[2, SHAPE.in_features(matrix)]] * SHAPE.layers for matrix in MATRICES}
        tuned = checkpoint.encoder_tensors(toy_folder / "tuned.pt")
        made = make_delta(tuned, DominantTicket(SHAPE, dims), checkpoint.fingerprint(base))
        path = at / "d.safetensors"
        save_delta(path, made)
        assert load_delta(path).heads.keys() == made.heads.keys()
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        change(tensors)
        save_file(tensors, path, metadata)

    return make


def column(dtype: torch.dtype) -> Callable[[Path, Path], None]:
    return delta(lambda tensors: tensors.update({COLUMNS: tensors[COLUMNS].to(dtype)}))


def head(name: str, tensor: torch.Tensor) -> Callable[[Path, Path], None]:
    return delta(lambda tensors: tensors.update({HEAD + name: tensor}))


DELTAS = (
    Case("delta unchanged", delta(lambda _: None), DELTA, code=0, leaves=("o.pt",)),
    *(
        Case(f"delta columns {dtype}", column(dtype), DELTA, rf"{COLUMNS} is {str(dtype)[6:]}; weights are float32")
        for dtype in (torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn)
    ),
    Case("delta columns float16", column(torch.float16), DELTA, r"half precision: .*columns is float16"),
    Case("delta head of another width", head("dense.weight", torch.zeros(12, 5)), DELTA, r"must be \(12, 12\)"),
    Case("delta head of one axis", head("out_proj.weight", torch.zeros(3)), DELTA, r"must be \(3, 12\)"),
    Case("delta head bool", head("dense.bias", torch.ones(12) > 0), DELTA, r"dense.bias is bool; weights are"),
    Case("delta head of another name", head("strange", torch.zeros(3)), DELTA, "no part of a classification head"),
    Case("delta with infinity", head("dense.bias", torch.full((12,), torch.inf)), DELTA, "12 values that are NaN"),
)

# Containers and pickles


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    """The toy's tuned checkpoint, its content changed by `change`, as x.pt."""

    def make(toy_folder: Path, at: Path) -> None:
        content = torch.load(toy_folder / "tuned.pt", weights_only=True)
        torch.save(change(content) or content, at / "x.pt")

    return make


def weight(change: Callable[[torch.Tensor], Any], name: str = WEIGHT) -> Callable[[Path, Path], None]:
    """One weight of it replaced."""
    return changed(lambda content: content["model"].update({name: change(content["model"][name])}))


def raw(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    """Its bytes changed."""

    def make(toy_folder: Path, at: Path) -> None:
        (at / "x.pt").write_bytes(change((toy_folder / "tuned.pt").read_bytes()))

    return make


def pickled(code: bytes) -> Callable[[Path, Path], None]:
    """A ZIP as PyTorch writes it, with these instructions for a pickle."""

    def make(_: Path, at: Path) -> None:
        with zipfile.ZipFile(at / "x.pt", "w") as archive:
            archive.writestr("x/data.pkl", code)
            archive.writestr("x/version", b"3")

    return make


def flag(offset: int, value: int) -> Callable[[bytes], bytes]:
    """Set two bytes in the first entry of a ZIP's directory and in its member's header."""

    def change(content: bytes) -> bytes:
        edited = bytearray(content)
        central = content.index(b"PK\x01\x02")
        struct.pack_into("<H", edited, central + offset, value)
        struct.pack_into("<H", edited, content.index(b"PK\x03\x04") + offset - 2, value)
        return bytes(edited)

    return change


def flipped(content: bytes) -> bytes:
    """One bit of the longest weight is another."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        longest = max(archive.infolist(), key=lambda info: info.file_size)
    at = longest.header_offset + 30 + len(longest.filename) + longest.file_size // 2 + 64
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def compressed(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return made.getvalue()


def twice(content: bytes) -> bytes:
    made = io.BytesIO(content)
    with zipfile.ZipFile(made, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(archive.namelist()[0], b"another")
    return made.getvalue()


def inside_itself(content: dict[str, Any]) -> None:
    content["cfg"] = {"model": {}}
    content["cfg"]["model"]["again"] = content["cfg"]


def shared(content: dict[str, Any]) -> None:
    """Forty lists, each with the next one twice: a small file, 2**40 values when written out."""
    inner: list[Any] = [1]
    for _ in range(40):
        inner = [inner, inner]
    content["cfg"]["model"]["laughs"] = inner


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


DEEP = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
DEEP_KEY = b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s."
SCALAR = b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x0b\x00\x00\x00V2147483647\x89\x88\x87R"
SCALAR += b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\x7fK\x01K\x00tb"
SCALAR += b"c_codecs\nencode\nX\x00\x00\x00\x00X\x06\x00\x00\x00latin1\x86R\x86R"
BOMB = b"\x80\x02}X\x01\x00\x00\x00a" + SCALAR + b"s."
LENGTH = b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f" + b"}."


class Cut:
    """A namespace whose pickle sets what no option may be named."""

    def __reduce__(self) -> Any:
        return Namespace, (), {"__class__": "Namespace"}


EXPORT = ("fairseq-tickets", "export", "--checkpoint", "x.pt", "--output", "o.pt")
EXTRACT = ("fairseq-tickets", "extract", "--pretrained", "x.pt", "--finetuned", "{toy}/tuned.pt", "--output", "t.json")
IMPORTANCE = ("fairseq-tickets", "importance", "--checkpoint", "x.pt", "--data", "{toy}/data", "--output", "s.npz")
TRAIN = ("fairseq-train", "{toy}/data", "x.pt", "--max-epoch", "1")
ROADS = {"export": EXPORT, "extract": EXTRACT, "importance": IMPORTANCE, "fairseq-train": TRAIN}

BAD: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "encrypted": (raw(flag(8, 1)), r"x\.pt is refused: .* is encrypted"),
    "unknown method": (raw(flag(10, 97)), r"x\.pt is refused: .* is compressed"),
    "compressed": (raw(compressed), r"x\.pt is refused: .* is compressed"),
    "directory damaged": (raw(lambda b: b.replace(b"PK\x01\x02", b"PK\x01\x00", 1)), r"x\.pt is damaged"),
    "one bit flipped": (raw(flipped), r"x\.pt is damaged .*CRC"),
    "a member twice": (raw(twice), r"is in it twice"),
    "packed": (raw(lambda b: b"\x1f\x8b" + b), r"packed archive"),
    "stride 0": (weight(lambda w: torch.ones(1).expand(10**5, 10**5)), r"claims 40,000,000,000 bytes"),
    "NumPy bomb": (pickled(BOMB), r"NumPy data of kind 'V2147483647'"),
    "nested": (pickled(DEEP), r"holds a list|nested deeper"),
    "nested key": (pickled(DEEP_KEY), r"pickle is not whole"),
    "frame's length": (pickled(LENGTH), r"x\.pt is damaged"),
    "inside itself": (changed(inside_itself), r"holds itself"),
    "laughs": (changed(shared), r"more than 2,000,000 values"),
    "options' class": (changed(lambda c: c.update(args=Cut())), r"an option in it is named '__class__'"),
    "list": (weight(torch.Tensor.tolist), rf"{WEIGHT} is of kind list, not a tensor"),
    "number for a name": (changed(lambda c: c["model"].update({7: torch.ones(1)})), r"name is of kind int"),
    "sparse": (weight(torch.Tensor.to_sparse), r"a sparse tensor"),
    "meta": (weight(lambda w: w.to("meta")), r"a tensor without data"),
    "quantised": (weight(quantised), r"a quantised tensor"),
    "model is a tensor": (changed(lambda c: c.update(model=torch.ones(3))), r"its model is of kind Tensor"),
    "no model": (changed(lambda c: c.update(model={})), r"its model is nothing"),
    "cfg is a list": (changed(lambda c: c.update(cfg=[1])), r"its cfg are a list"),
    "int8": (weight(torch.Tensor.char), r"is int8; weights are float32 or float64"),
    "bool": (weight(torch.Tensor.bool), r"is bool; weights are"),
    "complex": (weight(lambda w: w.to(torch.complex64)), r"is complex64; weights are"),
    "NaN": (weight(lambda w: w.fill_(torch.nan)), r"NaN or infinit"),
    "array of texts": (changed(lambda c: c["extra_state"].update(a=np.array(["x"]))), r"kind 'U1', not plain numbers"),
}
CONTAINERS = tuple(
    Case(f"checkpoint, {name}: {road}", make, command, said, leaves=("saved",) if road == "fairseq-train" else ())
    for name, (make, said) in BAD.items()
    for road, command in ROADS.items()
    # each road once for what all of them read alike, every road for what they might copy
    if road == "export" or name in ("one bit flipped", "stride 0", "list", "int8", "NaN", "complex", "cfg is a list")
)


def arrays_are_kept(at: Path) -> None:
    found = checkpoint.load(at / "x.pt")["extra_state"]
    assert found["a"].dtype == np.int16 and (found["a"] == [[1, 2], [3, 4]]).all()
    assert (found["f"] == np.asfortranarray([[1.5, 2], [3, 4]])).all() and found["s"] == np.float64(0.25)


ARRAYS = {"a": np.array([[1, 2], [3, 4]], ">i2"), "f": np.asfortranarray([[1.5, 2], [3, 4]]), "s": np.float64(0.25)}
GOOD = (
    Case("arrays of numbers in a checkpoint", changed(lambda c: c["extra_state"].update(ARRAYS)), EXPORT, code=0,
         check=arrays_are_kept, leaves=("o.pt",)),
    Case("half precision, exported", weight(torch.Tensor.half), EXPORT, code=0, leaves=("o.pt",)),
    Case("half precision, extracted", weight(torch.Tensor.half), EXTRACT, "half precision"),
)  # fmt: skip

# Options that fairseq would run or build


MARK = "open('RAN', 'w')"  # what must not happen


def options(section: str, **values: Any) -> Callable[[Path, Path], None]:
    """A section of the tuned checkpoint's config with other values; `name` for the component's own."""

    def change(content: dict[str, Any]) -> None:
        made = {**content["cfg"][section], **values}
        made["_name"] = values.get("name", made["_name"])
        content["cfg"][section] = made

    return changed(change)


def arguments(**values: Any) -> Callable[[Path, Path], None]:
    """The same as an older fairseq saves it."""
    given = {
        "arch": "roberta_base",
        "task": "ticket_sentence_prediction",
        "criterion": "masked_lm",
        "data": "x",
        **values,
    }
    return changed(lambda content: content.update(args=Namespace(**given), cfg=None))


EVIL: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "wav2vec": (options("model", name="wav2vec2", conv_feature_layers=MARK), "names 'wav2vec2' as its model"),
    "layers": (options("model", encoder_layers=MARK), "encoder_layers is .*; it must be a whole number"),
    "layers, old": (arguments(encoder_layers=MARK), "encoder_layers is .*; it must be a whole number"),
    "fconv, old": (arguments(arch="fconv", encoder_layers=MARK), "names 'fconv' as its model"),
    "betas": (options("optimizer", adam_betas=MARK), "adam_betas is .*, which fairseq would evaluate"),
    "betas, old": (arguments(adam_betas=MARK), "adam_betas is .*, which fairseq would evaluate"),
    "criterion": (options("criterion", name="ctc", wer_args=MARK), "names 'ctc' as its criterion"),
    "task": (options("task", name="audio_pretraining"), "names 'audio_pretraining' as its task"),
    "tokenizer, old": (arguments(tokenizer="mine"), "names 'mine' as its tokenizer"),
    "resolver": (options("task", data="${env:HOME}"), "data is .*, which fairseq would evaluate"),
    "name in its folder": (
        changed(lambda c: c["cfg"].update(model={"fconv": {"encoder_layers": MARK}})),
        "names nothing as its model",
    ),
    "too many layers": (options("model", encoder_layers=10**9), "encoder_layers is 1000000000"),
    "section is a list": (changed(lambda c: c["cfg"].update(task=[1])), "cfg.task is (of kind|a) list"),
    "history is a text": (changed(lambda c: c.update(optimizer_history="x")), "optimizer_history is a str"),
    "meter": (changed(lambda c: c["extra_state"].update(metrics={"d": [(0, "k", "bisect", {})]})), "its metrics"),
}
VALIDATE = ("fairseq-validate", "{toy}/data", "--path", "x.pt", "--task", "ticket_sentence_prediction", "--cpu",
            "--criterion", "ticket_sentence_prediction", "--num-workers", "0", "--batch-size", "4",
            "--no-progress-bar", "--log-format", "json")  # fmt: skip
OPTIONS = tuple(
    Case(f"options, {name}: {road}", make, command, said, leaves=("saved",) if road == "train" else ())
    for name, (make, said) in EVIL.items()
    for road, command in {"importance": IMPORTANCE, "validate": VALIDATE, "train": TRAIN}.items()
    if road == "importance" or name in ("wav2vec", "layers, old", "betas")
)

# What is dropped in silence, since nothing asks for it: the command succeeds and nothing ran
DROPPED = {
    "xformers": {"xformers_att_config": MARK, "encoder": {"xformers_att_config": MARK}},
    "unknown": {"strange": MARK},
}
HARMLESS = (
    *(
        Case(f"options, {name} is not passed on", options("model", **values), VALIDATE, code=0)
        for name, values in DROPPED.items()
    ),
    Case("options, user_dir loads nothing", options("common", user_dir="mine"), VALIDATE, code=0),
    Case(
        "a folder for a model",
        lambda toy_folder, at: None,
        ("fairseq-train", "{toy}/data", "{toy}", "--max-epoch", "1"),
        r"toy.* is a folder, not a file; did you mean .*model\.pt\?",
        leaves=("saved",),
    ),
)


def imported(toy_folder: Path, at: Path) -> None:
    """As `import` writes a classifier: its task is masked_lm, and it has a head."""
    content = torch.load(toy_folder / "tuned.pt", weights_only=True)
    content["cfg"]["task"] = {"_name": "masked_lm", "data": "."}
    torch.save(content, at / "x.pt")


def half_base(toy_folder: Path, at: Path) -> None:
    delta(lambda _: None)(toy_folder, at)
    weight(torch.Tensor.half)(toy_folder, at)
    base = checkpoint.encoder_tensors(at / "x.pt")
    made = load_delta(at / "d.safetensors")
    made.base = checkpoint.fingerprint(base)
    save_delta(at / "d.safetensors", made)


STARTS = (
    Case("importance of an imported model", imported, IMPORTANCE, "its task is masked_lm.*fine-tune it first"),
    Case(
        "a delta on a half-precision base",
        half_base,
        tuple(word.replace("{toy}/model.pt", "x.pt") for word in DELTA),
        "half precision",
    ),
)

CASES = (*STARTS, *DELTAS, *CONTAINERS, *GOOD, *OPTIONS, *HARMLESS)
