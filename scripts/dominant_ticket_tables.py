"""Every result table of paper D that the results allow.

Paper D, Tables 2 and 3. The same as `fairseq-tickets table D`; --help lists the options.

  python scripts/dominant_ticket_tables.py runs/results --output tables.md
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "table", "D"))
