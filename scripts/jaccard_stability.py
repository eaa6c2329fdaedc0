"""How stable are dominant tickets over seeds and tasks? Pairwise Jaccard against random tickets.

Paper D, section 4.3. The same as `fairseq-tickets jaccard`; --help lists the options.

  python scripts/jaccard_stability.py --group seeds s1.json s2.json --group tasks mnli.json qnli.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "jaccard"))
