"""Salience of a pre-trained checkpoint's input dimensions over examples of a task: no fine-tuning run.

The mathematics is in dominant_ticket/salience.py; here are the batches, the head, the task's loss and the provenance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_tickets import __version__
from fairseq_tickets.dominant_ticket.salience import METRICS, Salience, dimension_salience
from fairseq_tickets.encoder_layer import TicketEncoderLayer, encoder_layers
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, sha256
from fairseq_tickets.heap import keep_freed_memory
from fairseq_tickets.parameters import MATRICES
from fairseq_tickets.plugin.criterion import example_losses
from fairseq_tickets.plugin.mixed_precision import DTYPES, checked
from fairseq_tickets.plugin.model import TicketRobertaConfig, TicketRobertaModel
from fairseq_tickets.plugin.scoring import batches_of_like_length, moved, sample_of
from fairseq_tickets.plugin.task import TicketSentencePredictionConfig, TicketSentencePredictionTask, task_name
from fairseq_tickets.saliences import GAINS, DimensionSalience

HEADS = ("random", "probe")
HEAD_NAME = "sentence_classification_head"
PROBE_STEPS, PROBE_DECAY = 100, 1e-3


def checkpoint_salience(
    pretrained: PathLike,
    data: PathLike,
    metric: str = "gradient",
    examples: int = 512,
    batch_size: int = 8,
    head: str = "random",
    seed: int = 1,
    split: str = "train",
    separator_token: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    train_examples: int | None = None,
    train_examples_seed: int = 1,
    max_positions: int | None = None,
) -> tuple[Salience, DimensionSalience]:
    """Salience of every input dimension: to choose from, and to be saved. Each worker of torch.distributed does a part.

    Args:
        pretrained: θ₀, a checkpoint of a whole RoBERTa-class encoder.
        data: binarised data folder of one task.
        metric: one of METRICS; "activation" needs no labels.
        examples: a random sample of so many, always the same; all where there are fewer.
        batch_size: examples whose mean loss is one gradient. For "activation" without effect.
        head: "random", or "probe": fitted to the sample first, on the frozen encoder's output.
        seed: of the head's random weights.
        split: of the data.
        separator_token: number of the token before the second sentence; see the task's option.
        device: where to run, "cpu" or "cuda".
        precision: "float32", or "bf16" under autocast.
        progress: called with (examples just done by this worker, examples of all workers).
        train_examples, train_examples_seed: take the sample from this random part of the training data, the one that
            the task's options of these names train on; None = from all.
        max_positions: examples are cut to so many tokens; None = what the task's option says.

    Raises:
        UserError: whatever is wrong with the files, or an option out of its range.
    """
    if metric not in METRICS:
        raise UserError(f"--metric {metric} is unknown; choose from {', '.join(METRICS)}")
    if head not in HEADS:
        raise UserError(f"--head {head} is unknown; choose from {', '.join(HEADS)}")
    checked(precision, device.split(":")[0])
    for option, value in (("examples", examples), ("batch-size", batch_size)):
        if value < 1:
            raise UserError(f"--{option} is {value}; it must be at least 1")
    part: dict[str, Any] = {"train_examples": train_examples, "train_examples_seed": train_examples_seed}
    if max_positions is not None:
        part["max_positions"] = max_positions
    model, task = load_pretrained(pretrained, data, seed, separator_token, **part)
    model.to(device)
    keep_freed_memory()
    dataset = task.load_dataset(split)
    chosen = sample_of(len(dataset), examples)
    if metric == "activation":
        batches = _of_equal_length(dataset, chosen)
    elif len(chosen) < batch_size:
        raise UserError(f"--batch-size {batch_size} is more than the examples there are to take: {len(chosen)}")
    else:
        batches = batches_of_like_length(dataset, chosen, batch_size, None)
    if metric != "activation" and "target" not in dataset.collater([dataset[chosen[0]]]):
        raise UserError(f"--metric {metric} needs labels, and --split {split} of {data} has none; use activation")
    if head == "probe" and metric != "activation":
        _fit_probe(model, task, dataset, batches, device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        batches = batches[torch.distributed.get_rank() :: torch.distributed.get_world_size()]

    def loss_fn(indices: Sequence[int]) -> tuple[Tensor, int]:
        sample = moved(dataset.collater([dataset[index] for index in indices]), device)
        if metric == "activation":  # without a head, the last layer works out every token
            model(**sample["net_input"], features_only=True)
            return torch.zeros(()), len(indices)
        logits, _ = model(**sample["net_input"], features_only=True, classification_head_name=HEAD_NAME)
        return example_losses(logits.float(), sample["target"], task.regression).mean(), len(indices)

    layers = encoder_layers(model)
    found = dimension_salience(
        model,
        [_linears(layer) for layer in layers],
        layers[0].num_heads,
        batches,
        loss_fn,
        metric,
        None if precision == "float32" else DTYPES[precision],
        None if progress is None else lambda count: progress(count, len(chosen)),
    )
    facts: dict[str, Any] = {
        "metric": metric,
        "examples": found.examples,
        "task": task_name(Path(data)),
        "split": split,
    }
    facts["precision"] = precision
    if metric != "activation":
        facts.update(batch_size=batch_size, head=head, seed=seed)
    facts.update(
        pretrained=Path(pretrained).name,
        pretrained_sha256=sha256(pretrained),
        package_version=__version__,
        torch_version=torch.__version__,
    )
    scores = {name: table.numpy() for name, table in found.scores.items()}
    return found, DimensionSalience(scores, dict(zip(GAINS, _gains(model))), facts)


def load_pretrained(
    path: PathLike, data: PathLike, seed: int, separator_token: int | None = None, **task_options: Any
) -> tuple[TicketRobertaModel, TicketSentencePredictionTask]:
    """A pre-trained model with a new head for a task, in evaluation mode, and the task.

    Raises:
        UserError: no such file, a model that is pruned already, or data that don't fit it.
    """
    if not Path(path).is_file():
        raise UserError(f"--pretrained {path} does not exist")
    options = TicketSentencePredictionConfig(
        data=str(data),
        num_classes=-1,
        regression_target=False,
        classification_head_name=HEAD_NAME,
        separator_token=separator_token,
        seed=seed,
        start_head="new",
        best_checkpoint_metric="loss",
        **task_options,
    )
    whole = OmegaConf.create(
        {
            "task": OmegaConf.structured(options),
            "model": OmegaConf.structured(TicketRobertaConfig(_name="ticket_roberta")),
            "checkpoint": {"finetune_from_model": str(path)},
        }
    )
    task = TicketSentencePredictionTask.setup_task(whole.task)
    torch.manual_seed(seed)
    model = task.build_model(whole.model)
    assert isinstance(model, TicketRobertaModel)
    model.load_state_dict(checkpoint_utils.load_checkpoint_to_cpu(str(path))["model"], strict=True)
    if model.ticket_encoder.super_ticket is not None:
        raise UserError(f"--pretrained {path} is under a super ticket; take the whole pre-trained model")
    model.eval()
    return model, task


def _linears(layer: TicketEncoderLayer) -> dict[str, Any]:
    parents = {name: layer.self_attn if name.endswith("_proj") else layer for name in MATRICES}
    return {name: getattr(parent, name) for name, parent in parents.items()}


def _gains(model: TicketRobertaModel) -> tuple[Any, ...]:
    """|γ| of the layer norms before each layer's attention and FFN: two arrays (layers, embed)."""
    layers = encoder_layers(model)
    first = model.ticket_encoder.layernorm_embedding
    before = [first, *(layer.final_layer_norm for layer in layers[:-1])]
    return tuple(
        torch.stack([norm.weight.detach().abs().double().cpu() for norm in norms]).numpy()
        for norms in (before, [layer.self_attn_layer_norm for layer in layers])
    )


def _of_equal_length(dataset: Any, indices: Sequence[int]) -> list[list[int]]:
    """Batches without padding, every token of which counts."""
    by_length: dict[int, list[int]] = {}
    for index in indices:
        by_length.setdefault(int(dataset.num_tokens(index)), []).append(index)
    return [by_length[length] for length in sorted(by_length, reverse=True)]


def _fit_probe(
    model: TicketRobertaModel, task: Any, dataset: Any, batches: Sequence[Sequence[int]], device: str
) -> None:
    """Fit the task's head to the sample by L-BFGS, with weight decay, the encoder frozen."""
    features, targets = [], []
    with torch.no_grad():
        for indices in batches:
            sample = moved(dataset.collater([dataset[index] for index in indices]), device)
            hidden, _ = model(**sample["net_input"], features_only=True)
            features.append(hidden[:, :1])
            targets.append(sample["target"].view(-1))
    inputs, labels = torch.cat(features), torch.cat(targets)
    head = model.classification_heads[HEAD_NAME]
    parameters = list(head.parameters())
    optimizer = torch.optim.LBFGS(parameters, max_iter=PROBE_STEPS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = example_losses(head(inputs).float(), labels, task.regression).mean()
        loss = loss + PROBE_DECAY * sum(p.square().sum() for p in parameters)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    optimizer.zero_grad()
