"""Tickets on models of transformers, on their own modules, without fairseq: `Encoder(model)` is the way in.

from fairseq_tickets.hf import Encoder

encoder = Encoder(model, tokenizer)     # BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT, MPNet; head or no head
scores = encoder.importance(batches)    # the scores that `fairseq-tickets importance` writes
encoder.apply(ticket)                   # then transformers.Trainer trains under it
"""

from __future__ import annotations

from fairseq_tickets.hf.encoder import Encoder
from fairseq_tickets.hf.training import l1_callback

__all__ = ["Encoder", "l1_callback"]
