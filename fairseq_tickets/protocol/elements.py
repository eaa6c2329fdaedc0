"""Training a random share of the elements of every matrix (Gong et al. 2022, section 5, table 3).

No ticket can say it, so while a context is open the parts are noted on each model that the task builds, and optimizer
`ticket` obeys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def only_elements(fraction: float, seed: int) -> Iterator[None]:
    """While open, models of `ticket_sentence_prediction` train only these elements, and the task head.

    Args:
        fraction: of each matrix, above 0 and at most 1.
        seed: with `fraction`, determines the choice.
    """
    from fairseq_tickets.dominant_ticket.baselines import random_elements
    from fairseq_tickets.dominant_ticket.updates import element_parts
    from fairseq_tickets.plugin.task import TicketSentencePredictionTask
    from fairseq_tickets.plugin.trainable import note_parts

    task: Any = TicketSentencePredictionTask
    original = task.build_model

    def build_model(self: Any, cfg: Any, from_checkpoint: bool = False) -> Any:
        model = original(self, cfg, from_checkpoint)
        elements = random_elements(model.ticket_encoder.shape, fraction, seed)
        note_parts(model, element_parts(model.named_parameters(), elements))
        return model

    task.build_model = build_model
    try:
        yield
    finally:
        task.build_model = original
