"""Every patch of fairseq 0.12.2 that this package makes, in one place: what, why, and until when it is needed.

`compat.py` mends what must work before fairseq can be imported; its own docstring lists that. The rest is installed
here, when the plugin registers itself, lasts as long as the process, and is done once.

| what is replaced | by | why | until |
|---|---|---|---|
| checkpoint_utils: torch.load | checkpoints | nothing in a file is run | always |
| checkpoint_utils: torch_persistent_save, PathManager.copy | checkpoints | a killed run leaves no half file | always |
| checkpoint_utils: _upgrade_state_dict, verify_checkpoint_directory | checkpoints | one line, no traceback | always |
| checkpoint_utils: load_model_ensemble_and_task | checkpoints | one line for what a checkpoint's task lacks | always |
| BaseFairseqModel.load_state_dict | checkpoints | a misfit names its first parameter | always |
| Trainer.load_checkpoint | checkpoints | the error names the file | always |
| checkpoint_utils: load, save and copy once more | delta_checkpoints | `--delta-checkpoints` | fairseq has a hook |
| checkpoint_utils.save_checkpoint | delta_checkpoints | a removed file takes its delta along | fairseq has a hook |
| AMPOptimizer.step | mixed_precision | `--amp` unscales gradients twice | fairseq mends it |
| utils.set_torch_seed | seeds | 2 to 8 ms an update for devices not there | PyTorch mends it |
| distributed_utils: torch.load | workers | a checkpoint sent between workers is a pickle | as above: weights only |
| distributed_utils.all_gather_list | workers | it needs a GPU, and 16 KB are too few | fairseq mends it |
| Trainer.load_checkpoint once more | workers | a pruned model has new parameters to average | fairseq has a hook |
| meters.PredictionsMeter, added | criterion | meters in a checkpoint are made again by name | always |

"always" is as long as fairseq itself does otherwise. The order below counts: deltas are laid over whole checkpoints.
"""

from __future__ import annotations

from fairseq_tickets.plugin import checkpoints, delta_checkpoints, mixed_precision, seeds, workers

INSTALLERS = (checkpoints, delta_checkpoints, mixed_precision, seeds, workers)


def install() -> None:
    """Install all of them; calling it again changes nothing."""
    for module in INSTALLERS:
        module.install_into_fairseq()
