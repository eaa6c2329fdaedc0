"""Which parts of which parameter may move: the task decides and notes it on the parameter, the optimizer reads it.

fairseq hands an optimizer a bare list of parameters, without names. So the note travels on the parameter itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from fairseq_tickets.dominant_ticket.baselines import random_elements
from fairseq_tickets.dominant_ticket.updates import element_parts
from fairseq_tickets.errors import UserError
from fairseq_tickets.parameters import model_shape
from fairseq_tickets.updates.parts import Part, Whole

_NOTE = "_fairseq_tickets_parts"


def note_parts(model: nn.Module, parts: Mapping[str, Sequence[Part]] | None = None) -> None:
    """Note on every parameter which parts of it may move.

    Args:
        model: its parameters are noted; those without parts stop requiring gradients.
        parts: by parameter name; None = every parameter that requires a gradient moves whole.
    """
    for name, parameter in model.named_parameters():
        allowed = tuple((parts or {}).get(name, ())) if parts is not None else (Whole(),)
        if not allowed:
            parameter.requires_grad_(False)
        setattr(parameter, _NOTE, (name, allowed))


def noted_parts(parameters: Iterable[Tensor]) -> tuple[dict[str, Tensor], dict[str, Sequence[Part]]]:
    """Parameters and parts by name, as noted.

    Raises:
        UserError: parameters without a note: another task made the model, or --fp16 made flat copies.
    """
    named: dict[str, Tensor] = {}
    parts: dict[str, Sequence[Part]] = {}
    for parameter in parameters:
        if not hasattr(parameter, _NOTE):
            raise UserError(
                "--optimizer ticket doesn't know these parameters: it needs --task ticket_sentence_prediction or "
                "ticket_multitask, and --amp in place of --fp16 or --bf16, which replace the parameters by copies"
            )
        name, allowed = getattr(parameter, _NOTE)
        named[name], parts[name] = parameter, allowed
    return named, parts


def moves_in_parts(model: nn.Module) -> bool:
    """True when some parameter may move only in part, so that a plain optimizer would be wrong."""
    return any(
        any(not isinstance(part, Whole) or part.group is not None for part in getattr(parameter, _NOTE, ("", ()))[1])
        for parameter in model.parameters()
    )


def random_element_parts(model: nn.Module, fraction: float, seed: int) -> dict[str, Sequence[Part]]:
    """Parts for training random single elements of the encoder's matrices, and the heads (Gong et al. 2022, table 3).

    Raises:
        UserError: the fraction is out of range.
    """
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"--random-elements {fraction:g} must be above 0 and at most 1; the paper's share is 0.05")
    # The number of attention heads plays no part in the choice.
    return element_parts(model.named_parameters(), random_elements(model_shape(model.state_dict(), 1), fraction, seed))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself: for data-parallel workers fairseq wraps it twice."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module  # type: ignore[assignment]
    return model
