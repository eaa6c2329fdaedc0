"""Delta files: bit-for-bit round trips, other bases refused, damaged files named."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fairseq_tickets.checkpoint import fingerprint
from fairseq_tickets.dominant_ticket.delta import DeltaBase, apply, load_delta, make_delta, save_delta
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import MATRICES, ModelShape, is_dead_copy, matrix_name, parse
from fairseq_tickets.tickets import DominantTicket, SuperTicket
from tests.dominant_ticket import toy

TICKET = DominantTicket(
    toy.SHAPE,
    {
        "q_proj": [[3, 6, 0], [], [1]],
        "k_proj": [[6], [2], []],
        "v_proj": [[], [], []],
        "out_proj": [[0], [5, 1], [6]],
        "fc1": [[4], [6, 2], [1]],
        "fc2": [[9, 10], [7], [10, 0]],
    },
)
HEAD = "classification_heads.rte.dense.weight"


def base_and_trained():
    base = toy.encoder()
    trained = toy.copy(base)
    for layer, matrix, dims in TICKET.items():
        width = TICKET.shape.in_features(matrix)
        for index in dims:
            if index == width:
                trained[matrix_name(layer, matrix, "bias")].mul_(-2.0)
            else:
                trained[matrix_name(layer, matrix)][:, index].mul_(-2.0)
    trained[HEAD] = torch.randn(4, 6)
    return base, trained


class Names(nn.Module):
    """A module with the given parameters; its state dict has the original names."""

    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            owner = self
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = getattr(owner, part)
            owner.register_parameter(last, nn.Parameter(tensor.clone()))


def saved(tmp_path):
    base, trained = base_and_trained()
    path = tmp_path / "rte.safetensors"
    save_delta(path, make_delta(trained, TICKET, fingerprint(base)))
    return base, trained, path


def test_round_trip_is_bit_for_bit(tmp_path):
    base, trained, path = saved(tmp_path)
    untouched = toy.copy(base)
    delta = load_delta(path)
    assert delta.ticket == TICKET
    result = apply(base, delta)
    assert set(result) == set(trained)
    assert all(torch.equal(result[name], trained[name]) for name in trained)
    assert all(torch.equal(base[name], untouched[name]) for name in base)
    assert load_file(path)["layers.0.q_proj.columns"].shape == (6, 3)
    expected = [trained[matrix_name(0, "q_proj")][:, 3], trained[matrix_name(0, "q_proj", "bias")]]
    assert torch.equal(load_file(path)["layers.0.q_proj.columns"][:, :2], torch.stack(expected, 1))


def test_a_loaded_model_takes_deltas_on_and_off(tmp_path):
    base, trained, path = saved(tmp_path)
    head = torch.randn(4, 6)
    model = Names({**{n: t for n, t in base.items() if not is_dead_copy(n)}, HEAD: head})
    before = {name: t.clone() for name, t in model.state_dict().items()}
    delta, served = load_delta(path), DeltaBase(model)
    assert served.fingerprint == fingerprint(base)
    with served.using(delta):
        assert served.applied
        state = model.state_dict()
        assert all(torch.equal(state[name], trained[name]) for name in state)
        served.apply(delta)  # again: the first is taken off, so revert still knows the base
    assert not served.applied
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    served.revert()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_another_base_is_refused(tmp_path):
    base, _, path = saved(tmp_path)
    delta = load_delta(path)
    other = toy.copy(base)
    other[matrix_name(0, "q_proj")][0, 0] += 1e-6
    with pytest.raises(UserError, match="another base"):
        apply(other, delta)
    model = Names({**{n: t for n, t in other.items() if not is_dead_copy(n)}, HEAD: torch.zeros(4, 6)})
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(UserError, match="another base"):
        DeltaBase(model).apply(delta)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_heads_and_sizes_that_do_not_fit(tmp_path):
    base, trained, path = saved(tmp_path)
    delta = load_delta(path)
    with pytest.raises(UserError, match="register that head"):
        DeltaBase(Names({n: t for n, t in base.items() if not is_dead_copy(n)})).apply(delta)
    with pytest.raises(UserError, match="another model size"):
        make_delta(toy.encoder(ModelShape(3, 2, 6, 12)), TICKET, "x")


def test_a_layer_under_a_ticket_is_no_base():
    name = "encoder.sentence_encoder.layers.0.fc1.columns"
    with pytest.raises(UserError, match="trains under a ticket"):
        DeltaBase(Names({name: torch.zeros(2, 2)}))


def rewrite(path, change=None, **metadata):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    tensors = load_file(path)
    if change is not None:
        change(tensors)
    new = {k: v for k, v in {**old, **metadata}.items() if v is not None}
    save_file(tensors, path, metadata=new)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"format": "pt"}, "not a delta file"),
        ({"version": "2"}, "version '2' is unknown"),
        ({"ticket": None}, "lack 'ticket'"),
        ({"base": None}, "lack 'base'"),
        ({"ticket": "{"}, "not valid JSON"),
        ({"ticket": "[]"}, "not a ticket file"),
        ({"ticket": json.dumps(SuperTicket.full(toy.SHAPE).to_json())}, "not a dominant ticket"),
    ],
)
def test_wrong_metadata(tmp_path, metadata, message):
    *_, path = saved(tmp_path)
    rewrite(path, **metadata)
    with pytest.raises(UserError, match=message):
        load_delta(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("layers.0.fc1.columns"), r"layer 0, fc1: columns must be \(10, 1\) and are missing"),
        (lambda t: t.update({"layers.0.fc1.columns": torch.zeros(10, 2)}), r"and are \(10, 2\)"),
        (lambda t: t.update({"layers.0.v_proj.columns": torch.zeros(6, 1)}), "neither in the ticket"),
        (lambda t: t[HEAD].fill_(float("nan")), "NaN"),
    ],
)
def test_wrong_tensors(tmp_path, change, message):
    *_, path = saved(tmp_path)
    rewrite(path, change)
    with pytest.raises(UserError, match=message):
        load_delta(path)


def test_cut_missing_and_foreign_files(tmp_path):
    *_, path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_delta(path)
    with pytest.raises(UserError, match="does not exist"):
        load_delta(tmp_path / "none")
    path.write_text("hello")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_delta(path)


def test_roberta_larges_delta_is_below_6_mb(tmp_path):
    shape = ModelShape(24, 16, 1024, 4096)
    ticket = toy.random_ticket(shape, 1, 0)
    tensors = {}
    for layer in range(24):
        for matrix in MATRICES:  # expanded: the shapes of RoBERTa-large without its memory
            rows, columns = shape.out_features(matrix), shape.in_features(matrix)
            tensors[matrix_name(layer, matrix)] = torch.zeros(1).expand(rows, columns)
            tensors[matrix_name(layer, matrix, "bias")] = torch.zeros(1).expand(rows)
    tensors["classification_heads.mnli.dense.weight"] = torch.zeros(1024, 1024)
    tensors["classification_heads.mnli.dense.bias"] = torch.zeros(1024)
    tensors["classification_heads.mnli.out_proj.weight"] = torch.zeros(3, 1024)
    tensors["classification_heads.mnli.out_proj.bias"] = torch.zeros(3)
    assert all(parse(name) or name.startswith("classification_heads") for name in tensors)
    delta = make_delta(tensors, ticket, "0" * 64)
    assert sum(values.numel() for values in delta.columns.values()) == 221_184
    save_delta(tmp_path / "d.safetensors", delta)
    assert (tmp_path / "d.safetensors").stat().st_size < 6_000_000
