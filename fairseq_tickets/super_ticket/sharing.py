"""Tickets sharing: the ticket of several tasks together (Liang et al. 2021, section 4 and Algorithm 1).

A structure in several tickets is moved by those tasks together, one in a single ticket by that task only, one in no
ticket is pruned. `parts` says which task moves which part of a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairseq_tickets.errors import UserError
from fairseq_tickets.tickets import SuperTicket


def union(tickets: Sequence[SuperTicket]) -> SuperTicket:
    """The ticket that keeps what any of `tickets` keeps.

    Raises:
        UserError: no tickets, or tickets of different model sizes.
    """
    if not tickets:
        raise UserError("tickets sharing: no tickets; at least 1 is needed")
    shape = tickets[0].shape
    for index, ticket in enumerate(tickets[1:], start=2):
        ticket.validate_for(shape, f"ticket {index} of {len(tickets)}")
    heads = [[int(any(head)) for head in zip(*rows)] for rows in zip(*(ticket.heads for ticket in tickets))]
    ffn = [int(any(column)) for column in zip(*(ticket.ffn for ticket in tickets))]
    return SuperTicket(shape, heads, ffn, {"union_of": [ticket.provenance for ticket in tickets]})
