"""What the papers' tables, figures and analysis sections say, computed from ticket, score, count and result
files only.

Nothing here loads a model, PyTorch or fairseq. Matplotlib is needed by the `figures_*` modules alone.
"""
