"""Several tasks on one encoder, each under its own super ticket (Liang et al. 2021, section 4)."""
