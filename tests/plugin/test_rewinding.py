"""Fine-tune, score, prune, rewind: the first super ticket, gated and compact, by the commands a user types."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairseq_tickets.cli import main
from fairseq_tickets.plugin.criterion import example_losses
from fairseq_tickets.tickets import SuperTicket, load_super_ticket

from . import toy
from .training import NO_DROPOUT, Run, predictions, train, validate

FORMS = ("gated", "compact")


@pytest.fixture(scope="module")
def ticket(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ticket pruned from the scores of a fine-tuned model: 5 of 12 heads and 1 of 3 FFNs gone."""
    at = tmp_path_factory.mktemp("first")
    tuned = train(folder / "data", at / "tuned", folder / "model.pt", "--max-epoch", "4")
    score = ["importance", "--checkpoint", str(tuned.path("best")), "--data", str(folder / "data"), "--cpu"]
    assert main([*score, "--output", str(at / "scores.npz")]) == 0
    prune = ["prune", "--scores", str(at / "scores.npz"), "--heads", "0.45", "--ffn", "0.34"]
    assert main([*prune, "--output", str(at / "ticket.json")]) == 0
    return at / "ticket.json"


@pytest.fixture(scope="module")
def rewound(folder: Path, ticket: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Both forms, from the pre-trained weights, with equal seeds and without dropout."""
    at = tmp_path_factory.mktemp("rewound")
    words = [*NO_DROPOUT, "--ticket", str(ticket), "--max-epoch", "4", "--lr", "0.003", "--clip-norm", "1"]
    return {
        form: train(folder / "data", at / form, folder / "model.pt", *words, "--ticket-form", form) for form in FORMS
    }


def test_the_ticket_is_pruned_as_asked(ticket: Path) -> None:
    kept = load_super_ticket(ticket)
    assert sum(map(sum, kept.heads)) == 12 - 5
    assert sum(kept.ffn) == 3 - 1


def test_gated_and_compact_have_one_loss_curve(rewound: dict[str, Run]) -> None:
    gated, compact = rewound["gated"].losses[:20], rewound["compact"].losses[:20]
    assert len(gated) == len(compact) == 20
    assert compact == pytest.approx(gated, abs=1e-4)
    assert abs(gated[0] - gated[-1]) > 1e-2  # the curve moves


def test_gated_and_compact_have_one_validation_score(rewound: dict[str, Run], folder: Path) -> None:
    for name in ("loss", "accuracy", "mcc"):
        assert rewound["compact"].valid[-1][name] == pytest.approx(rewound["gated"].valid[-1][name], abs=1e-4)
    by_form = [predictions(rewound[form].path(), folder / "data")[1] for form in FORMS]
    assert (by_form[0] == by_form[1]).all()
    assert validate(rewound["compact"].path(), folder / "data")["accuracy"] == pytest.approx(
        rewound["gated"].valid[-1]["accuracy"]
    )


def test_only_the_compact_form_is_smaller(rewound: dict[str, Run], ticket: Path) -> None:
    sizes = {form: sum(t.numel() for t in run.checkpoint()["model"].values()) for form, run in rewound.items()}
    kept = load_super_ticket(ticket)
    heads, ffn = 12 - sum(map(sum, kept.heads)), 3 - sum(kept.ffn)
    d, f, head_dim = toy.EMBED, toy.FFN, toy.EMBED // toy.HEADS
    assert sizes["gated"] - sizes["compact"] == heads * head_dim * (4 * d + 3) + ffn * (2 * d * f + d + f)


def test_rewinding_starts_from_the_pre_trained_weights(folder: Path, ticket: Path, tmp_path: Path) -> None:
    """With a learning rate too small to matter, what is saved is what was loaded, less what is pruned."""
    run = train(
        *(folder / "data", tmp_path, folder / "model.pt", "--ticket", str(ticket), "--max-epoch", "1"),
        *("--lr", "1e-12", "--ticket-form", "gated"),
    )
    before = torch.load(folder / "model.pt", weights_only=True)["model"]
    after = run.checkpoint()["model"]
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-7)


def test_the_two_forms_train_alike_in_float64(ticket: Path) -> None:
    """20 updates of Adam, as in the run above, to 1e-8: what differs in float32 is rounding alone."""
    pre_trained = toy.stock_roberta().double()
    curves = []
    for form in FORMS:
        model = toy.ticket_roberta().double()
        model.load_state_dict(pre_trained.state_dict())
        model.ticket_encoder.apply_super_ticket(load_super_ticket(ticket), form)
        curves.append(curve(model.train()))
    whole = toy.ticket_roberta().double()
    whole.load_state_dict(pre_trained.state_dict())
    whole.ticket_encoder.apply_super_ticket(SuperTicket.full(whole.ticket_encoder.shape), "gated")
    assert len(curves[0]) == 20
    assert curves[0] == pytest.approx(curves[1], abs=1e-8)
    assert max(abs(a - b) for a, b in zip(curves[0], curve(whole.train()))) > 1e-2  # the ticket matters


def curve(model: torch.nn.Module) -> list[float]:
    """Mean training loss of 20 updates on padded batches."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.003)
    losses = []
    for update in range(20):
        batch = toy.tokens(seed=update % 5)
        logits, _ = model(batch, features_only=True, classification_head_name="sentence_classification_head")
        loss = example_losses(logits, batch[:, 1] % 3, regression=False).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
