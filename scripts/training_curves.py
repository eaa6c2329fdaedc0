"""Training loss, training accuracy and validation score against updates.

Paper D, Figure 3. The same as `fairseq-tickets plot curves`; --help lists the options.

  python scripts/training_curves.py runs/results --output curves.pdf
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "plot", "curves"))
