"""Everything this package registers with fairseq; importing it registers all, once."""

from fairseq_tickets.checkpoint import install_into_fairseq
from fairseq_tickets.plugin import criterion, model, task

__all__ = ["criterion", "model", "task"]

install_into_fairseq()
