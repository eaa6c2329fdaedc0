"""Gain of super tickets over the full model, and their weight remaining, by task.

Paper S, Figure 3. The same as `fairseq-tickets plot gain`; --help lists the options.

  python scripts/performance_gain.py runs/results --output gain.pdf
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "plot", "gain"))
