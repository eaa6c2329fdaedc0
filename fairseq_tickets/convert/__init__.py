"""Between Hugging Face folders and fairseq checkpoints, both ways, without `transformers` or fairseq."""

from __future__ import annotations

from fairseq_tickets.convert.export import ExportReport, export_fairseq, export_huggingface
from fairseq_tickets.convert.huggingface import Converted, to_fairseq
from fairseq_tickets.convert.importing import ImportReport, import_folder

__all__ = [
    "Converted",
    "ExportReport",
    "ImportReport",
    "export_fairseq",
    "export_huggingface",
    "import_folder",
    "to_fairseq",
]
