"""fairseq_tickets: find, train and explain the lottery tickets of pre-trained language models.

This folder is what `--user-dir` names. fairseq imports it after itself, and only then are the plugin's components
registered; tickets and analysis stay usable without loading fairseq or PyTorch.
"""

import sys

__version__ = "0.1.0"

if "fairseq" in sys.modules:
    from fairseq_tickets import plugin  # noqa: F401
