"""The old place of `fairseq_tickets.scores`."""

from fairseq_tickets.scores import ImportanceScores

__all__ = ["ImportanceScores"]
