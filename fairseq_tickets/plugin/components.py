"""What this package has registered with fairseq, by kind and name."""

from __future__ import annotations

from typing import Any

from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

from fairseq_tickets import plugin  # noqa: F401  (registers the components)


def components() -> dict[tuple[str, str], Any]:
    """(kind, name) -> dataclass of everything that this package registers with fairseq."""
    registries = {
        "task": TASK_DATACLASS_REGISTRY,
        "arch": MODEL_DATACLASS_REGISTRY,
        **{kind: REGISTRIES[kind]["dataclass_registry"] for kind in ("criterion", "optimizer")},
    }
    return {
        (kind, name): config
        for kind, registry in registries.items()
        for name, config in registry.items()
        if config.__module__.startswith("fairseq_tickets.")
    }
