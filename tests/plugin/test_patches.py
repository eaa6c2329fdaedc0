"""fairseq is patched in one place, which names every patch, and only once."""

from __future__ import annotations

import ast
from pathlib import Path

from fairseq import checkpoint_utils, models, trainer, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.optim.amp_optimizer import AMPOptimizer

from fairseq_tickets.plugin import patches

PLUGIN = Path(patches.__file__).parent
PATCHED = [
    *((checkpoint_utils, name) for name in ("torch", "torch_persistent_save", "PathManager", "_upgrade_state_dict")),
    *((checkpoint_utils, "verify_checkpoint_directory"), (checkpoint_utils, "load_model_ensemble_and_task")),
    (models.BaseFairseqModel, "load_state_dict"),
    *((trainer.Trainer, "load_checkpoint"), (AMPOptimizer, "step"), (checkpoint_utils, "save_checkpoint")),
    (utils, "set_torch_seed"),
    *((distributed_utils, "torch"), (distributed_utils, "all_gather_list")),
]


def from_fairseq(tree: ast.Module) -> set[str]:
    """Names that a file imports from fairseq."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fairseq"
        for alias in node.names
    }


def replaced(path: Path) -> set[str]:
    """The attributes of fairseq's modules and classes that a file assigns, by their own names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = from_fairseq(tree)
    for node in ast.walk(tree):  # base = models.BaseFairseqModel
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
            root = ast.unparse(node.value).split(".")[0]
            known |= {target.id for target in node.targets if root in known and isinstance(target, ast.Name)}
    return {
        target.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and ast.unparse(target).split(".")[0] in known
    }


def test_the_table_names_every_patch() -> None:
    found = {path.stem: names for path in sorted(PLUGIN.rglob("*.py")) if (names := replaced(path))}
    assert found.pop("criterion") == {"PredictionsMeter"} and "meters.PredictionsMeter" in str(patches.__doc__)
    assert set(found) == {module.__name__.rpartition(".")[2] for module in patches.INSTALLERS}
    assert set.union(*found.values()) == {name for _, name in PATCHED}
    for name in set.union(*found.values()):
        assert name in str(patches.__doc__), name


def test_installing_again_changes_nothing() -> None:
    before = [getattr(owner, name) for owner, name in PATCHED]
    patches.install()
    assert all(getattr(owner, name) is old for (owner, name), old in zip(PATCHED, before))
