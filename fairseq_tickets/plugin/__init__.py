"""Everything this package registers with fairseq; importing it registers all, once."""

from fairseq_tickets.plugin import criterion, model, task
from fairseq_tickets.plugin.checkpoints import install_into_fairseq

__all__ = ["criterion", "model", "task"]

install_into_fairseq()
