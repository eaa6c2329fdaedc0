"""What the fork server loads before the first step; what the libraries print meanwhile goes nowhere."""

import gc
import importlib
import os

MODULES = (
    "fairseq_cli.train",
    "fairseq_tickets.plugin.scoring",
    "fairseq_tickets.protocol.engines.local",
    "fairseq_tickets.protocol.functions.sharing",
    "torch._dynamo",
)

kept = [os.dup(stream) for stream in (1, 2)]
nowhere = os.open(os.devnull, os.O_WRONLY)
for stream in (1, 2):
    os.dup2(nowhere, stream)
try:
    for module in MODULES:
        importlib.import_module(module)
finally:
    for stream, copy in zip((1, 2), kept):
        os.dup2(copy, stream)
        os.close(copy)
    os.close(nowhere)
gc.freeze()  # a fork's garbage collection leaves these objects alone, and their memory shared
