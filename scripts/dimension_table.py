"""Which dimensions does a dominant ticket train? The dimension tables.

Paper D, Tables 1 and 4 to 10. The same as `fairseq-tickets dimensions`; --help lists the options.

  python scripts/dimension_table.py mnli.json qnli.json --format latex
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "dimensions"))
