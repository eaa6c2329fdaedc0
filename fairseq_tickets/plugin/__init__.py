"""Everything this package registers with fairseq; importing it registers all, once."""

from fairseq_tickets.plugin import criterion, model, patches, task
from fairseq_tickets.plugin.multitask import task as multitask_task

__all__ = ["criterion", "model", "multitask_task", "task"]

patches.install()
