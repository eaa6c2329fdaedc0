"""Everything this package registers with fairseq; importing it registers all, once."""

from fairseq_tickets.plugin import checkpoints, criterion, model, task, workers

__all__ = ["criterion", "model", "task"]

checkpoints.install_into_fairseq()
workers.install_into_fairseq()
