"""A whole experiment of a paper as keyed, resumable runs: one YAML file in, one result file per training run out.

config      the YAML file, checked key by key
inputs      checksums of models and data, the shape of the model
plan        protocol + finished results -> the runs it asks for, each with its key
store       run folders: what is finished, what was changed, the lock
scheduler   runs in dependency order on any concurrent.futures.Executor
worker      one run in one process; the only part that loads fairseq
"""
