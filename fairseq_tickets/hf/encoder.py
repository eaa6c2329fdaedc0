"""A loaded model of transformers as the encoder that tickets are about: scored, pruned, trained in part, taken apart.

Nothing of the model is rebuilt. Its six matrices a layer get fairseq's names, and with them the papers' functions work
as they are: the same scores, tickets, deltas and files as the commands make from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_tickets import __version__, checkpoint
from fairseq_tickets.convert.huggingface import HEAD_NAME, to_fairseq
from fairseq_tickets.convert.names import HEADS
from fairseq_tickets.convert.peft import AdapterReport, save_peft
from fairseq_tickets.convert.vocabulary import BOS, EOS, MASK, PAD, UNK, Vocabulary
from fairseq_tickets.dominant_ticket import extraction
from fairseq_tickets.dominant_ticket.columns import ColumnLinear
from fairseq_tickets.dominant_ticket.delta import Delta, DeltaBase, make_delta
from fairseq_tickets.dominant_ticket.l1 import L1ToPretrained
from fairseq_tickets.dominant_ticket.salience import Salience, dimension_salience
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike
from fairseq_tickets.hf import compact, gates
from fairseq_tickets.hf.architectures import (
    architecture_of,
    head_modules,
    layout_of,
    linears_of,
    shape_of_config,
)
from fairseq_tickets.parameters import matrix_name
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.super_ticket.importance import gate_scores
from fairseq_tickets.task_record import TaskRecord
from fairseq_tickets.tickets import DominantTicket, SuperTicket, Ticket

COMPACT, GATED = "compact", "gated"


class Encoder:
    """A transformers model and what tickets do with it.

    Args:
        model: of a type in `architectures.ARCHITECTURES`, with a classification head or without; changed in place.
        tokenizer: its tokenizer. Deltas name their base by a fingerprint; with the tokenizer it is that of the
            checkpoint which `fairseq-tickets import` makes of the same model, so that deltas go both ways. RoBERTa and
            XLM-R need none where their special words have the usual numbers. DistilBERT has a fingerprint of its own.
            Where BERT's second segment is used (token_type_ids of 1), a delta means the same only on this road:
            fairseq's models have one segment.

    Attributes:
        shape: the whole model's, as tickets state it.
        ticket: what it is under, or None.

    Raises:
        UserError: an architecture that can't be mapped, or linear layers that are something else.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        self.model = model
        self.ticket: Ticket | None = None
        self._tokenizer = tokenizer
        self._architecture = architecture_of(model)
        self._layout = layout_of(model, self._architecture)
        self.shape = shape_of_config(model, self.linears())
        self._handles: list[Any] = []
        self._base: Delta | None = None  # values under a dominant ticket before training

    def linears(self) -> list[dict[str, nn.Linear]]:
        """The linear layers as they are now, by layer and matrix."""
        return linears_of(self.model, self._layout)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters of the six matrices and of the head under fairseq's names, as they are now."""
        for layer, row in enumerate(self.linears()):
            for matrix, linear in row.items():
                yield matrix_name(layer, matrix), linear.weight
                yield matrix_name(layer, matrix, "bias"), linear.bias
        for part, module in (head_modules(self.model, self._architecture) or {}).items():
            for kind, parameter in module.named_parameters():
                yield f"{HEADS}{HEAD_NAME}.{part}.{kind}", parameter

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """Copies of the same as dense tensors, also under a ticket; pruned parts are zeros."""
        state = self.model.state_dict()
        names = {id(module): name for name, module in self.model.named_modules()}
        dense: dict[str, Tensor] = {}
        for layer, row in enumerate(self.linears()):
            for matrix, linear in row.items():
                for kind in ("weight", "bias"):
                    dense[matrix_name(layer, matrix, kind)] = state[f"{names[id(linear)]}.{kind}"].clone()
        heads = head_modules(self.model, self._architecture) or {}
        for part, module in heads.items():
            for kind, parameter in module.named_parameters():
                dense[f"{HEADS}{HEAD_NAME}.{part}.{kind}"] = parameter.detach().clone()
        return dense

    # Super tickets

    def importance(
        self,
        batches: Iterable[Any],
        loss_fn: Callable[[Any], Tensor] | None = None,
        granularity: str = "example",
        progress: Callable[[int], None] | None = None,
    ) -> ImportanceScores:
        """Scores of every head and FFN; see `super_ticket.importance.importance_scores`.

        Args:
            batches: what `loss_fn` takes; for the default, dictionaries of tensors with "labels".
            loss_fn: batch -> (batch,) losses; None = `losses`.
            granularity, progress: as there.

        Raises:
            UserError: as there, and a model that is under a ticket.
        """
        self._check_free("scored")
        linears = self.linears()
        scores = gate_scores(
            self.model,
            self.shape,
            lambda: gates.scoring_gates(linears, self.shape.heads, granularity),
            batches,
            loss_fn or self.losses,
            granularity,
            progress=progress,
        )
        config: Any = self.model.config
        scores.provenance.update(
            vocab_size=int(config.vocab_size),
            positions=int(config.max_position_embeddings),
            checkpoint=str(config.name_or_path or type(self.model).__name__),
            package_version=__version__,
            torch_version=torch.__version__,
        )
        return scores

    def losses(self, batch: Any) -> Tensor:
        """Loss of each example of a batch with "labels", (batch,): cross-entropy, or squared error for regression."""
        device = next(self.model.parameters()).device
        inputs = {name: value.to(device) for name, value in batch.items()}
        labels = inputs.pop("labels")
        logits: Tensor = self.model(**inputs).logits.float()
        config: Any = self.model.config
        if config.problem_type == "regression" or (config.problem_type is None and logits.shape[-1] == 1):
            return F.mse_loss(logits.squeeze(-1), labels.float(), reduction="none")
        return F.cross_entropy(logits, labels, reduction="none")

    # Dominant tickets

    def salience(
        self,
        batches: Iterable[Any],
        metric: str = "gradient",
        loss_fn: Callable[[Any], tuple[Tensor, int]] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Salience:
        """Salience of every input dimension, before any training; see `dominant_ticket.salience`.

        Args:
            batches, metric, progress: as there.
            loss_fn: batch -> mean loss and number of examples; None = the mean of `losses`.
        """
        self._check_free("measured")

        def mean_loss(batch: Any) -> tuple[Tensor, int]:
            losses = self.losses(batch)
            return losses.mean(), len(losses)

        return dimension_salience(
            self.model, self.linears(), self.shape.heads, batches, loss_fn or mean_loss, metric, progress=progress
        )

    def l1(self, weight: float = 1e-3, pretrained: Any = None) -> L1ToPretrained:
        """λ ‖θ − θ₀‖₁ over the six matrices of every layer.

        Args:
            weight: λ.
            pretrained: θ₀ by fairseq's names; None = the weights as they are now.
        """
        return L1ToPretrained(self.named_parameters(), pretrained or self.tensors(), weight)

    def extract(self, pretrained: Any, sigma: float = extraction.DEFAULT_SIGMA, top_k: int = 1) -> DominantTicket:
        """The dominant ticket of what moved since `pretrained`, an earlier result of `tensors`."""
        return extraction.extract(pretrained, self.tensors(), self.shape.heads, sigma, top_k)

    # Under a ticket

    def apply(self, ticket: Ticket, form: str = COMPACT) -> Encoder:
        """Put the model under a ticket; from now on whatever trains it, trains under it.

        Under a super ticket, pruned heads and FFNs are gone ("compact") or multiplied by 0 ("gated"). Under a dominant
        ticket, its columns and biases and the head train, and everything else is frozen.

        Returns:
            self.

        Raises:
            UserError: a ticket of another size, or the model is under one already.
        """
        self._check_free("put under a second ticket")
        if form not in (COMPACT, GATED):
            raise UserError(f"form is {form!r}; it must be {COMPACT} or {GATED}")
        ticket.validate_for(self.shape, "the ticket")
        linears = self.linears()
        if isinstance(ticket, SuperTicket):
            if form == GATED:
                self._handles = gates.gate(linears, ticket)
            else:
                compact.prune(self._parents(), linears, ticket)
        else:
            self._base = make_delta(self.tensors(), ticket, self.fingerprint())
            self.model.requires_grad_(False)
            for name, module in self.model.named_modules():
                if name.rpartition(".")[2] in self._layout.saved:
                    module.requires_grad_(True)
            for layer, matrix, dimensions in ticket.items():
                split = ColumnLinear.from_linear(linears[layer][matrix], dimensions)
                setattr(*self._parents()[layer][matrix], split)
        self.ticket = ticket
        return self

    def delta(self) -> Delta:
        """What training under a dominant ticket has changed: the columns and the head, to be saved with `save_delta`.

        Raises:
            UserError: the model is not under a dominant ticket.
        """
        if self._base is None or not isinstance(self.ticket, DominantTicket):
            raise UserError("a delta is what a dominant ticket trained; this model is under none: call apply first")
        made = make_delta(self.tensors(), self.ticket, self._base.base)
        made.task = self._task()
        return made

    def save_adapter(self, output: PathLike, base_name: str | None = None) -> AdapterReport:
        """Write the delta as a LoRA adapter for peft, for the model that `apply` was called on; see `convert.peft`."""
        trained = self.delta()
        assert self._base is not None
        tensors = self.tensors()
        for layer, matrix, dims in trained.ticket.items():
            for place, index in enumerate(dims):
                bias = index == self.shape.in_features(matrix)
                name = matrix_name(layer, matrix, "bias" if bias else "weight")
                target = tensors[name] if bias else tensors[name][:, index]
                target.copy_(self._base.columns[layer, matrix][:, place])
        head = HEAD_NAME if trained.heads else None
        return save_peft(trained, tensors, output, self._layout, head, base_name)

    def deltas(self) -> DeltaBase:
        """The model as a base that takes deltas on and off: `with encoder.deltas().using(load_delta(FILE)):`."""
        self._check_free("given deltas")
        return DeltaBase(_Named(self), self.fingerprint())

    def _task(self) -> TaskRecord | None:
        """How the tokenizer joins pairs and what the classes are called, so that exports of the delta do the same."""
        config: Any = self.model.config
        if self._tokenizer is None or not self._layout.head:
            return None
        end = self._tokenizer.sep_token_id
        numbers = self._tokenizer("a", "b")["input_ids"]
        doubled = any(pair == (end, end) for pair in zip(numbers, numbers[1:]))
        regression = config.problem_type == "regression" or config.num_labels == 1
        names = tuple(str(config.id2label[number]) for number in range(config.num_labels))
        named = not regression and names != tuple(f"LABEL_{number}" for number in range(config.num_labels))
        return TaskRecord(0, 2 if doubled else None, None, regression, names if named else None)

    def fingerprint(self) -> str:
        """What names this model as the base of a delta; see `checkpoint.fingerprint`."""
        kind = str(self.model.config.model_type)  # type: ignore[union-attr]
        state = self.model.state_dict()
        vocabulary = _vocabulary(self._tokenizer, kind, state)
        if vocabulary is None:
            heads = tuple(f"{name}." for name in (*self._layout.head.values(), "lm_head", "cls"))
            own = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
            return checkpoint.fingerprint({f"hf.{name}": tensor for name, tensor in own.items()})
        config: dict[str, Any] = {**self.model.config.to_dict(), "model_type": _FAIRSEQ_TYPES.get(kind, kind)}  # type: ignore[union-attr, operator]
        return checkpoint.fingerprint(to_fairseq(state, config, vocabulary).tensors)

    def _parents(self) -> list[dict[str, tuple[nn.Module, str]]]:
        """By layer and matrix, the module that holds the linear layer, and its name there."""
        rows = []
        for layer, row in enumerate(self.linears()):
            names = {matrix: self._layout.module(layer, matrix).rpartition(".") for matrix in row}
            rows.append({m: (self.model.get_submodule(parent), name) for m, (parent, _, name) in names.items()})
        return rows

    def _check_free(self, what: str) -> None:
        if self.ticket is not None:
            raise UserError(f"this model is under a ticket and can't be {what}; load it again")


_FAIRSEQ_TYPES = {"camembert": "roberta"}
_FAIRSEQ_READS = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet")
_ROLES = {BOS: "cls_token_id", PAD: "pad_token_id", EOS: "sep_token_id", UNK: "unk_token_id", MASK: "mask_token_id"}


class _Named(nn.Module):
    """A model's matrices and head under fairseq's names, for `DeltaBase`."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._pairs = list(encoder.named_parameters())

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """As they were when this was made."""
        return iter(self._pairs)


def _vocabulary(tokenizer: Any, kind: str, state: dict[str, Tensor]) -> Vocabulary | None:
    """The words of an embedding's rows, as `import` reads them from the tokenizer; None where they aren't known."""
    if kind not in _FAIRSEQ_READS or (tokenizer is None and kind in ("bert", "mpnet")):
        return None
    rows = next(len(t) for name, t in state.items() if name.endswith("word_embeddings.weight"))
    if tokenizer is None:
        return Vocabulary([None] * rows, {BOS: 0, PAD: 1, EOS: 2, UNK: 3, MASK: rows - 1})
    numbers = tokenizer.get_vocab()
    words: list[str | None] = [None] * (max(numbers.values(), default=-1) + 1)
    for word, number in numbers.items():
        words[number] = word
    special = {symbol: getattr(tokenizer, role) for symbol, role in _ROLES.items()}
    return Vocabulary(words, {symbol: number for symbol, number in special.items() if number is not None})
