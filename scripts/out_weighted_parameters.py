"""Where parameters moved beyond sigma: matrix by matrix, layer by layer.

Paper D, Figure 2. The same as `fairseq-tickets plot out-weighted`; --help lists the options.

  python scripts/out_weighted_parameters.py MNLI=mnli.npz QNLI=qnli.npz --output moved.pdf
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_tickets.cli import script  # noqa: E402

if __name__ == "__main__":
    sys.exit(script(__doc__, "plot", "out-weighted"))
