"""Everything this package registers with fairseq; importing it registers all, once."""

from fairseq_tickets.plugin import (
    checkpoints,
    criterion,
    delta_checkpoints,
    mixed_precision,
    model,
    multitask,
    task,
    workers,
)

__all__ = ["criterion", "model", "multitask", "task"]

checkpoints.install_into_fairseq()
delta_checkpoints.install_into_fairseq()
mixed_precision.install_into_fairseq()
workers.install_into_fairseq()
