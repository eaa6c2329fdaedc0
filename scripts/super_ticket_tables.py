"""Every result table of paper S that the results allow.

Paper S, Tables 1 to 8. The same as `fairseq-tickets table S`; --help lists the options.

  python scripts/super_ticket_tables.py runs/results --output tables.md
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "table", "S"))
