"""Super tickets (Liang et al. 2021): importance scores, structured pruning, tickets sharing. Pure PyTorch."""
