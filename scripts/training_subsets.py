"""The phase transition on shares of the training data.

Paper S, Figure 5. The same as `fairseq-tickets plot subsets`; --help lists the options.

  python scripts/training_subsets.py runs/results --output subsets.pdf
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "plot", "subsets"))
