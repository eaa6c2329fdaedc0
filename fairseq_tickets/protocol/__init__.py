"""A whole experiment of a paper as recipes over cached steps: one YAML file in, one result a training run out.

config, schema   the YAML file, checked key by key
inputs           checksums of models and data, the shape of the model
steps, store     a step and its key; folders of steps, what is done, what was changed
lease, work      one step, one writer; one step in a process of its own
lab              the words of recipes, and how they wait
super_tickets, sharing, adaptation, dominant   recipes, read like the papers
training, shared_training, recording, predictions   what steps do; only here, and in a step's process, fairseq is loaded
demand, driver, engines, estimate   what is to be done, doing it, where, how long
experiment       a protocol in an output folder: where it stands, doing what is left
collecting, submission   what people look at
"""
