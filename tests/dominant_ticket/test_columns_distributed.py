"""ColumnLinear under DistributedDataParallel: two workers take the steps of one with twice the batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairseq_tickets.dominant_ticket.columns import apply_ticket
from fairseq_tickets.encoder_layer import TicketEncoderLayer
from fairseq_tickets.parameters import ModelShape
from fairseq_tickets.tickets import DominantTicket

TICKET = DominantTicket(
    ModelShape(1, 3, 6, 10),
    {"q_proj": [[5, 0]], "k_proj": [[2]], "v_proj": [[6]], "out_proj": [[]], "fc1": [[4, 6]], "fc2": [[9, 10]]},
)


def train(rank: int, workers: int, updates: int = 4) -> dict[str, Tensor]:
    """Train one layer on this worker's share of fixed batches; the loss is a mean, as DDP averages gradients."""
    torch.manual_seed(0)
    layer = TicketEncoderLayer(6, 10, 3).double()
    apply_ticket([layer], TICKET)
    model: nn.Module = nn.parallel.DistributedDataParallel(layer) if workers > 1 else layer
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    random = torch.Generator().manual_seed(1)
    for _ in range(updates):
        batch = torch.randn(5, 4, 6, dtype=torch.float64, generator=random)  # (tokens, batch, embed)
        share = 4 // workers
        optimizer.zero_grad()
        model(batch[:, rank * share : (rank + 1) * share]).pow(3).mean().backward()
        optimizer.step()
    return layer.state_dict()


def worker(rank: int, folder: str) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(train(rank, 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_equal_one(tmp_path):
    torch.multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    expected = train(0, 1)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, tensor in expected.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], tensor, atol=1e-12, rtol=0), name
