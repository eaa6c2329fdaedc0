"""Recipes of experiments, each with its section of the protocol file; read like the papers."""
