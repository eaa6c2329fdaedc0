"""Which dimensions recur through the layers: the skeleton of the model.

Paper D, section 5.2. The same as `fairseq-tickets plot skeleton`; --help lists the options.

  python scripts/skeleton.py mnli.json qnli.json --output skeleton.pdf
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "plot", "skeleton"))
