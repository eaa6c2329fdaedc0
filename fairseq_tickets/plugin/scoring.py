"""Importance scores of a fine-tuned checkpoint over a split of its data (Liang et al. 2021, section 3).

The mathematics is in super_ticket/importance.py; here are the batches, the task's loss and the provenance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_tickets import __version__
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import PathLike, sha256
from fairseq_tickets.heap import keep_freed_memory
from fairseq_tickets.plugin.criterion import example_losses
from fairseq_tickets.plugin.loading import load_finetuned
from fairseq_tickets.plugin.mixed_precision import DTYPES, checked
from fairseq_tickets.plugin.task import TicketSentencePredictionTask, task_name
from fairseq_tickets.scores import ImportanceScores
from fairseq_tickets.super_ticket.importance import importance_scores
from fairseq_tickets.super_ticket.pruning import prune_count
from fairseq_tickets.super_ticket.stability import score_until_stable

BLOCK = 32  # examples scored together while it is open how many are needed


def score_checkpoint(
    checkpoint: PathLike,
    data: PathLike,
    split: str = "train",
    granularity: str = "example",
    batch_size: int = 32,
    max_tokens: int | None = None,
    limit: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    until_stable: Sequence[str] | None = None,
    agreement: float = 0.95,
) -> ImportanceScores:
    """Score every head and FFN of a checkpoint. Under torch.distributed each worker does its part.

    Args:
        checkpoint: fine-tuned model, written by fairseq-train with an architecture ticket_roberta*.
        data: binarised data folder.
        split: of the data; the paper averages over the training set.
        granularity: "example", "token" or "batch"; see importance.py.
        batch_size: most examples in a batch, at least 1; without effect on the scores, except for "batch".
        max_tokens: most tokens in a batch, padding counted; None = no limit.
        limit: score a random sample of so many examples, always the same ones; None = all.
        device: where to run, "cpu" or "cuda".
        precision: "float32", or "bf16" or (GPUs) "float16" under autocast.
        progress: called with (examples just done by this worker, examples of all workers).
        until_stable: levels of the tickets to be made, as written; take examples in random blocks only until these
            tickets agree (see stability.py), and record how that went. None = take all.
        agreement: how much is enough then, above 0 and at most 1.

    Raises:
        UserError: whatever is wrong with the files, or an option out of its range.
    """
    for option, value in (("batch-size", batch_size), ("max-tokens", max_tokens), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"--{option} is {value}; it must be at least 1")
    checked(precision, device.split(":")[0])
    for level in until_stable or ():
        prune_count(level, 1, "--until-stable")
    model, task = load_finetuned(checkpoint, data)
    if not isinstance(task, TicketSentencePredictionTask):
        raise UserError(
            f"--checkpoint {checkpoint} is not of task ticket_sentence_prediction; importance scores one task"
        )
    model.to(device)
    keep_freed_memory()
    task.load_dataset(split)
    dataset = task.dataset(split)
    chosen = sample_of(len(dataset), limit)

    def samples(part: Sequence[int]) -> Any:
        batches = batches_of_like_length(dataset, part, batch_size, max_tokens)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            batches = batches[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
        for batch in batches:
            yield moved(dataset.collater([dataset[index] for index in batch]), device)

    def loss_fn(sample: dict[str, Any]) -> Tensor:
        if "target" not in sample:
            raise UserError(f"--split {split} of {data} has no labels; importance needs them")
        head = task.cfg.classification_head_name
        logits, _ = model(**sample["net_input"], features_only=True, classification_head_name=head)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return example_losses(wide, sample["target"], task.cfg.regression_target)

    def scored(part: Sequence[int]) -> ImportanceScores:
        dtype = None if precision == "float32" else DTYPES[precision]
        told = None if progress is None else lambda count: progress(count, len(chosen))
        return importance_scores(model, samples(part), loss_fn, granularity, dtype, told)

    if until_stable is None:
        scores = scored(chosen)
    else:
        scores, looks = score_until_stable(map(scored, _random_blocks(chosen)), until_stable, agreement)
        scores.provenance["until_stable"] = {
            "agreement": agreement,
            "looks": [{"examples": look.examples, "levels": look.agreement} for look in looks],
        }
    encoder: Any = model.encoder.sentence_encoder  # type: ignore[union-attr]
    scores.provenance.update(
        task=task_name(Path(data)),
        split=split,
        limit=limit,
        checkpoint=Path(checkpoint).name,
        checkpoint_sha256=sha256(checkpoint),
        vocab_size=encoder.embed_tokens.weight.shape[0],
        positions=encoder.embed_positions.weight.shape[0],
        precision=precision,
        package_version=__version__,
        torch_version=torch.__version__,
    )
    return scores


def sample_of(examples: int, limit: int | None) -> Sequence[int]:
    """Indices of all examples, or of a random sample fixed by the numbers alone."""
    if limit is None or limit >= examples:
        return range(examples)
    order = np.argsort(np.random.PCG64(1).random_raw(examples), kind="stable")
    return sorted(int(index) for index in order[:limit])


def _random_blocks(indices: Sequence[int]) -> list[list[int]]:
    """All examples in random order, always the same, in blocks of `BLOCK`; what does not fill one joins the last."""
    order = np.argsort(np.random.PCG64(2).random_raw(len(indices)), kind="stable")
    count = max(1, len(indices) // BLOCK)
    bounds = [BLOCK * number for number in range(count)] + [len(indices)]
    return [[indices[index] for index in order[start:end]] for start, end in zip(bounds, bounds[1:])]


def batches_of_like_length(
    dataset: Any, indices: Sequence[int], batch_size: int, max_tokens: int | None
) -> list[list[int]]:
    """Examples of like length together, the longest first: if memory does not suffice, it shows at once."""
    lengths = {index: int(dataset.num_tokens(index)) for index in indices}
    batches: list[list[int]] = []
    for index in sorted(indices, key=lambda index: -lengths[index]):
        fits = bool(batches) and len(batches[-1]) < batch_size
        if fits and max_tokens is not None:
            fits = (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens
        if fits:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def moved(sample: Any, device: str) -> Any:
    if isinstance(sample, dict):
        return {key: moved(value, device) for key, value in sample.items()}
    return sample.to(device) if isinstance(sample, Tensor) else sample
