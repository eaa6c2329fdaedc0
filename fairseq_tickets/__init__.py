"""fairseq_tickets: find, train and explain the lottery tickets of pre-trained language models.

What is public is listed in PUBLIC, by what it is for; it is loaded when it is asked for, so that this import costs
nothing. Everything else is private and may change. The commands (`fairseq-tickets`) and the names that fairseq-train
takes (README, "In fairseq") are public too.

This folder is what `--user-dir` names. fairseq imports it after itself, and only then are the plugin's components
registered; tickets and analysis stay usable without loading fairseq or PyTorch.
"""

import importlib
import sys
from typing import Any

__version__ = "0.1.0"

PUBLIC = {  # name -> where it is, as module:name
    # tickets: files, what they say, how alike they are
    "load_ticket": "tickets:load_ticket",
    "SuperTicket": "tickets:SuperTicket",
    "DominantTicket": "tickets:DominantTicket",
    "ModelShape": "parameters:ModelShape",
    "similarity": "analysis.overlap:similarity",
    "UserError": "errors:UserError",
    # models of transformers, without fairseq
    "Encoder": "hf.encoder:Encoder",
    "l1_callback": "hf.training:l1_callback",
    # super tickets: scores, then pruning
    "ImportanceScores": "scores:ImportanceScores",
    "importance_scores": "super_ticket.importance:importance_scores",
    "prune": "super_ticket.pruning:super_ticket",
    # dominant tickets: found after L1 training or by salience, and what training under one changed
    "extract": "dominant_ticket.extraction:extract",
    "dimension_salience": "dominant_ticket.salience:dimension_salience",
    "salient_ticket": "dominant_ticket.salience:salient_ticket",
    "Delta": "dominant_ticket.delta:Delta",
    "DeltaBase": "dominant_ticket.delta:DeltaBase",
    "load_delta": "dominant_ticket.delta:load_delta",
    "save_delta": "dominant_ticket.delta:save_delta",
    # between formats
    "load_checkpoint": "checkpoint:load",
    "import_folder": "convert.importing:import_folder",
    "export_fairseq": "convert.export:export_fairseq",
    "export_huggingface": "convert.export:export_huggingface",
    "save_adapter": "convert.peft:save_peft",
    "load_adapter": "convert.from_peft:load_peft",
    # the demo's data: sentences of installed packages' documentation
    "write_origin": "data.docstrings:write_origin",
}
__all__ = ["__version__", *PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'fairseq_tickets' has no public name {name!r}")
    module, _, attribute = PUBLIC[name].partition(":")
    return getattr(importlib.import_module(f"fairseq_tickets.{module}"), attribute)


def __dir__() -> "list[str]":
    return sorted(__all__)


if "fairseq" in sys.modules:
    from fairseq_tickets import plugin  # noqa: F401
