"""Score against weight remaining for winning, random and losing tickets.

Paper S, Figures 1 (left), 4 and 7. The same as `fairseq-tickets plot phase-transition`; --help lists the options.

  python scripts/phase_transition.py runs/results --output phase.pdf
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "plot", "phase-transition"))
