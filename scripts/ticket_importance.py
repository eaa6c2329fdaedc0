"""Importance of every head and FFN, and how tasks share it: pies or a heat map.

Paper S, Figure 6. The same as `fairseq-tickets plot importance`; --help lists the options.

  python scripts/ticket_importance.py RTE=rte.npz MRPC=mrpc.npz --style map --output importance.pdf
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "plot", "importance"))
