"""A whole experiment of a paper as recipes over cached steps: one YAML file in, one result a training run out.

config, settings, values   the YAML file as models of pydantic; a recipe's section stands beside the recipe
inputs                     checksums of models and data, the shape of the model
recipes/                   the papers' procedures, read from top to bottom
lab, plan                  the words of recipes; steps that they ask for, and how they wait
functions/                 what steps do; only here, and in a step's own process, fairseq is loaded
steps, store               a step and its key; the folder of an experiment, what is done, what was changed
lease, work                one step, one writer; one step in a process of its own
demand, driver, engines/   what is to be done, doing it, where
experiment                 a protocol in an output folder: doing what is left
status, collecting         where it stands and how long the rest takes; what people look at
"""
