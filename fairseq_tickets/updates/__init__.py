"""Updates of parts of parameters: what both papers train with, and no more than that."""
