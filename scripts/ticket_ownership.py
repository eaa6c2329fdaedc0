"""Which super tickets are owned by one task, shared by most, shared by all?

Paper S, section 8. The same as `fairseq-tickets table ownership`; --help lists the options.

  python scripts/ticket_ownership.py RTE=rte.json MRPC=mrpc.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "table", "ownership"))
