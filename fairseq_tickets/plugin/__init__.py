"""Everything this package registers with fairseq; importing it registers all, once."""

from fairseq_tickets.plugin import criterion, model, multitask, patches, task

__all__ = ["criterion", "model", "multitask", "task"]

patches.install()
