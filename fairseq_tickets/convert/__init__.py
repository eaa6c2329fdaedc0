"""Between Hugging Face folders and fairseq checkpoints, both ways, without `transformers` or fairseq."""

from __future__ import annotations

from fairseq_tickets.convert.huggingface import Converted, ImportReport, import_folder, to_fairseq

__all__ = ["Converted", "ImportReport", "import_folder", "to_fairseq"]
