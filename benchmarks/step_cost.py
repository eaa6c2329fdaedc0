"""What one training step costs: a dominant ticket's columns beside full fine-tuning, LoRA, SHiRA and biases only.

    python benchmarks/step_cost.py --output step_cost.json            # RoBERTa-large's shape, float32 and bf16
    python benchmarks/step_cost.py --model minilm --shapes 16x32 --threads 1 2
    python benchmarks/step_cost.py --layers 2 --repeats 2 --steps 3   # reduced, minutes
    python benchmarks/step_cost.py --device cuda --output gpu.json

A step is zero_grad, forward, cross-entropy, backward and (fused) AdamW, on random weights and tokens, in training
mode with dropout. bf16 is autocast; a dominant ticket's frozen weights are then kept in bf16, as `fairseq-train`
does. Every side runs in a process of its own, so that its peak memory is its own; the sides take turns, `--repeats`
times, so that the machine's load falls on all. Time is the median over all steps but each process's first. CPU
seconds stand beside wall seconds, for machines that do other work meanwhile; the time ratios are theirs on a CPU.
Memory is the peak during steps, above what the process took before it built its model: weights, gradients, optimizer
state, activations. `products` is the limit: the time of the step's matrix products alone, with the same weights in
the same process, over that of the step. `saved` is what a checkpoint of the trained part holds, without optimizer
state. Ratios are to stock fairseq's full fine-tuning and to LoRA.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from measure import PRECISIONS, autocast, held, on_gpu, peak, start_peak, timed
from torch import Tensor, nn

from fairseq_tickets.files import write_json
from fairseq_tickets.heap import keep_freed_memory

VOCABULARY, POSITIONS, CLASSES, PAD = 50265, 512, 2, 1
MODELS = {  # layers, embed_dim, ffn_dim, heads
    "roberta-large": (24, 1024, 4096, 16),
    "roberta-base": (12, 768, 3072, 12),
    "minilm": (6, 384, 1536, 12),
}
HEAD = "sentence_classification_head"
HIDDEN = ("output", "only", "batch", "tokens", "precision")


class Side:
    """One way to train: a model, the logits of a batch, and what a checkpoint must hold."""

    def __init__(self, model: nn.Module, logits: Callable[[Tensor], Tensor], saved: Iterable[Tensor]) -> None:
        self.model, self.logits, self.saved = model, logits, sum(t.numel() * t.element_size() for t in saved)
        self.trained = [p for p in model.parameters() if p.requires_grad]


def fairseq_options(args: argparse.Namespace) -> dict[str, Any]:
    """The shape in fairseq's names."""
    return {
        "encoder_layers": args.layers,
        "encoder_embed_dim": args.embed_dim,
        "encoder_ffn_embed_dim": args.ffn_dim,
        "encoder_attention_heads": args.heads,
        "max_positions": POSITIONS,
        "dropout": args.dropout,
        "attention_dropout": args.dropout,
        "activation_dropout": 0.0,
        "pooler_dropout": args.dropout,
    }


def fairseq_side(model: Any, saved: Callable[[Any], Iterable[Tensor]]) -> Side:
    """A fairseq model with a new head; `saved` is asked once the model is finished."""

    def logits(tokens: Tensor) -> Tensor:
        out: Tensor = model(tokens, features_only=True, classification_head_name=HEAD)[0]
        return out

    return Side(model, logits, saved(model))


def dictionary() -> Any:
    """As large as RoBERTa's."""
    from fairseq.data import Dictionary

    made = Dictionary()
    for index in range(VOCABULARY - len(made)):
        made.add_symbol(str(index))
    return made


def stock_full(args: argparse.Namespace) -> Side:
    """fairseq 0.12.2's own RoBERTa, all weights; its dead copies take part in nothing but memory."""
    from fairseq.models.roberta import RobertaModel

    task = SimpleNamespace(source_dictionary=dictionary(), max_positions=lambda: POSITIONS)
    model = RobertaModel.build_model(Namespace(**fairseq_options(args)), task)
    model.register_classification_head(HEAD, num_classes=CLASSES)
    return fairseq_side(model, lambda model: model.state_dict().values())


def ticket_roberta(args: argparse.Namespace) -> Any:
    """This package's model."""
    from fairseq_tickets.plugin.model import TicketRobertaConfig, TicketRobertaModel

    config = TicketRobertaConfig()
    for name, value in fairseq_options(args).items():
        setattr(config, name, value)
    model = TicketRobertaModel.build_model(config, SimpleNamespace(source_dictionary=dictionary()))
    model.register_classification_head(HEAD, num_classes=CLASSES)
    return model


def trained_tensors(model: nn.Module) -> list[Tensor]:
    """What requires a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def ticket_full(args: argparse.Namespace) -> Side:
    """`ticket_roberta`, all weights."""
    return fairseq_side(ticket_roberta(args), lambda model: model.state_dict().values())


def columns(
    make: Callable[[Any], Any], frozen: str = "auto", recompute: str = "auto"
) -> Callable[[argparse.Namespace], Side]:
    """`ticket_roberta` split by the columns of a ticket; `frozen` and `recompute` as fairseq-train's options."""

    def side(args: argparse.Namespace) -> Side:
        from fairseq_tickets.dominant_ticket.columns import apply_ticket
        from fairseq_tickets.encoder_layer import encoder_layers
        from fairseq_tickets.plugin.mixed_precision import frozen_dtype

        model = ticket_roberta(args)
        model.encoder.requires_grad_(False)
        kept_in = frozen_dtype(frozen, args.precision)
        apply_ticket(encoder_layers(model), make(model.ticket_encoder.shape), kept_in, recompute)
        return fairseq_side(model, trained_tensors)

    return side


def spread_ticket(k: int) -> Callable[[Any], Any]:
    """k columns in every matrix, never the bias: the most work that a ticket of this size can be."""

    def make(shape: Any) -> Any:
        from fairseq_tickets.parameters import MATRICES
        from fairseq_tickets.tickets import DominantTicket

        spread = {m: [shape.in_features(m) * (2 * i + 1) // (2 * k) for i in range(k)] for m in MATRICES}
        return DominantTicket(shape, {m: [spread[m]] * shape.layers for m in MATRICES})

    return make


def bitfit(shape: Any) -> Any:
    """All biases of the six matrices."""
    from fairseq_tickets.dominant_ticket.baselines import bitfit_ticket

    return bitfit_ticket(shape)


def transformers_side(args: argparse.Namespace, prepare: Callable[[Any], Any]) -> Side:
    """transformers' RoBERTa, made into what is to be trained by `prepare`."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=args.embed_dim,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=args.ffn_dim,
        max_position_embeddings=POSITIONS + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        num_labels=CLASSES,
        pad_token_id=PAD,
    )
    model = prepare(RobertaForSequenceClassification(config))

    def logits(tokens: Tensor) -> Tensor:
        out: Tensor = model(input_ids=tokens, attention_mask=tokens.ne(PAD)).logits
        return out

    return Side(model, logits, trained_tensors(model))


def lora(args: argparse.Namespace) -> Side:
    """LoRA, r = 8, on query and value."""
    from peft import LoraConfig, get_peft_model

    asked = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    return transformers_side(args, lambda model: get_peft_model(model, asked))


def shira(args: argparse.Namespace) -> Side:
    """SHiRA with as many elements as LoRA of r = 8, on query and value."""
    from peft import ShiraConfig, get_peft_model

    asked = ShiraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"], random_seed=1)
    return transformers_side(args, lambda model: get_peft_model(model, asked))


def biases(args: argparse.Namespace) -> Side:
    """transformers, biases and classifier only."""

    def prepare(model: Any) -> Any:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(".bias") or name.startswith("classifier."))
        return model

    return transformers_side(args, prepare)


BASE, LORA, KEPT = "fairseq, all weights", "transformers + peft LoRA", ", freed memory kept"
SIDES: dict[str, Callable[[argparse.Namespace], Side]] = {
    BASE: stock_full,
    "ticket_roberta, all weights": ticket_full,
    "Dominant-1": columns(spread_ticket(1)),
    "Dominant-3": columns(spread_ticket(3)),
    "Dominant-1, frozen weights float32": columns(spread_ticket(1), frozen="float32"),
    "Dominant-1, attention worked out again": columns(spread_ticket(1), recompute="always"),
    "Dominant-1, attention kept": columns(spread_ticket(1), recompute="never"),
    "BitFit ticket": columns(bitfit),
    "transformers, all weights": lambda args: transformers_side(args, lambda model: model),
    LORA: lora,
    LORA + KEPT: lora,
    "transformers + peft SHiRA": shira,
    "transformers, biases only": biases,
}


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Build one side and take its steps; seconds of each but the first, and bytes."""
    torch.set_num_threads(args.threads[0] or torch.get_num_threads())
    torch.manual_seed(1)
    import_what_it_needs(name)
    before = held(args.device)
    side = SIDES[name](args)
    side.model.to(args.device).train()
    if name.endswith(KEPT) or not (name == BASE or "transformers" in name):
        keep_freed_memory()  # as fairseq-train does once a model is loaded
    optimizer = torch.optim.AdamW(side.trained, lr=1e-5, fused=True)
    tokens = torch.randint(4, VOCABULARY, (args.batch, args.tokens), device=args.device)
    labels = torch.randint(CLASSES, (args.batch,), device=args.device)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(args.precision, args.device):
            loss = F.cross_entropy(side.logits(tokens).float(), labels)
        loss.backward()
        optimizer.step()

    gc.collect()
    start_peak(args.device)
    walls, cpus = zip(*(timed(step, args.device) for _ in range(args.steps + 1)))
    most = peak(args.device) - before
    limit = {}
    if name.startswith("Dominant"):
        multiply = products(side.model, args)
        wall, cpu = zip(*(timed(multiply, args.device) for _ in range(args.steps + 1)))
        limit = {"products_wall_seconds": wall[1:], "products_cpu_seconds": cpu[1:]}
    return {
        "wall_seconds": walls[1:],
        "cpu_seconds": cpus[1:],
        **limit,
        "peak_bytes": most,
        "saved_bytes": side.saved,
        "trained_parameters": sum(p.numel() for p in side.trained),
        "parameters": sum(p.numel() for p in side.model.parameters()),
    }


def products(model: Any, args: argparse.Namespace) -> Callable[[], None]:
    """The matrix products of a dominant ticket's step and nothing else: every layer's six, forward and backward (the
    first layer's q, k and v have no backward one, since embeddings are frozen; of the last layer q, W^O, FC1 and FC2
    see one token an example), and attention's two forward and four backward."""
    from fairseq_tickets.encoder_layer import encoder_layers
    from fairseq_tickets.parameters import MATRICES

    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    layers = encoder_layers(model)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=args.device, dtype=dtype)

    rows = {
        count: {w: random(count, w) for w in (args.embed_dim, args.ffn_dim)}
        for count in (args.batch, args.batch * args.tokens)
    }
    heads, width = args.batch * args.heads, args.embed_dim // args.heads
    q, k = (random(heads, args.tokens, width) for _ in range(2))
    p = random(heads, args.tokens, args.tokens)

    @torch.no_grad()
    def multiply() -> None:
        for index, layer in enumerate(layers):
            for name in MATRICES:
                weight = getattr(layer.self_attn if name.endswith("_proj") else layer, name).weight.to(dtype)
                few = layer is layers[-1] and name not in ("k_proj", "v_proj")
                x = rows[args.batch if few else args.batch * args.tokens]
                F.linear(x[weight.shape[1]], weight)
                if index or name not in ("q_proj", "k_proj", "v_proj"):
                    x[weight.shape[0]] @ weight
            for _ in range(3 if layer is not layers[-1] else 0):
                torch.bmm(q, k.transpose(1, 2))
                torch.bmm(p, k)

    return multiply


def import_what_it_needs(name: str) -> None:
    """So that libraries don't count as memory of the step."""
    if "transformers" in name:
        import peft  # noqa: F401
        import transformers  # noqa: F401
    else:
        from fairseq_tickets import plugin  # noqa: F401


def one_turn(name: str, shape: tuple[int, int], precision: str, threads: int, words: list[str]) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), *words, "--only", name, "--precision", precision]
    command += ["--batch", str(shape[0]), "--tokens", str(shape[1]), "--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def summary(turns: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Medians and ratios of each side."""
    made: dict[str, dict[str, Any]] = {}
    for name, found in turns.items():
        walls = [s for turn in found for s in turn["wall_seconds"]]
        cpus = [s for turn in found for s in turn["cpu_seconds"]]
        made[name] = {
            **{key: found[0][key] for key in ("parameters", "trained_parameters", "saved_bytes")},
            "median_wall_seconds": statistics.median(walls),
            "median_cpu_seconds": statistics.median(cpus),
            "peak_bytes": statistics.median(turn["peak_bytes"] for turn in found),
            "wall_seconds": [round(s, 4) for s in walls],
        }
        limit = [s for turn in found for s in turn.get("products_cpu_seconds", ())]
        if limit:
            made[name]["median_products_cpu_seconds"] = statistics.median(limit)
            made[name]["median_products_wall_seconds"] = statistics.median(
                s for turn in found for s in turn["products_wall_seconds"]
            )
    for row in made.values():
        for other, label in ((BASE, "full"), (LORA, "lora")):
            if other in made:
                for key in ("median_wall_seconds", "median_cpu_seconds", "peak_bytes", "saved_bytes"):
                    row[f"{key}_to_{label}"] = row[key] / made[other][key]
    return made


def table(rows: dict[str, dict[str, Any]], title: str, clock: str) -> str:
    """What is printed, in markdown; `clock` is "wall" or "cpu", for the ratios."""
    lines = [
        f"\n{title}",
        "| what | trained | wall s | CPU s | peak GB | saved MB "
        "| time / full | time / LoRA | memory / full | memory / LoRA | products |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        ratios = [
            f"{row[key]:.2f}" if key in row else ""
            for key in (
                *(f"median_{clock}_seconds_to_full", f"median_{clock}_seconds_to_lora"),
                *("peak_bytes_to_full", "peak_bytes_to_lora"),
            )
        ]
        limit = row.get(f"median_products_{clock}_seconds")
        ratios.append("" if limit is None else f"{limit / row[f'median_{clock}_seconds']:.0%}")
        lines.append(
            f"| {name} | {row['trained_parameters']:,} | {row['median_wall_seconds']:.3f} | "
            f"{row['median_cpu_seconds']:.3f} | {row['peak_bytes'] / 1e9:.2f} | {row['saved_bytes'] / 1e6:.1f} | "
            + " | ".join(ratios)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="roberta-large", help="whose shape")
    for place, option in enumerate(("--layers", "--embed-dim", "--ffn-dim", "--heads")):
        parser.add_argument(option, type=int, help=f"in place of the model's, such as {MODELS['roberta-large'][place]}")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--shapes", nargs="+", default=["4x128", "16x64"], help="batches as sentences x tokens")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn, after one untimed")
    parser.add_argument("--threads", type=int, nargs="+", default=[0], help="CPU threads; 0 = PyTorch's choice")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", metavar="FILE", help="JSON file")
    parser.add_argument("--only", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=4, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=128, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name, value in zip(("layers", "embed_dim", "ffn_dim", "heads"), MODELS[args.model]):
        setattr(args, name, getattr(args, name) or value)
    if args.only:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(args.only, args)))
        return
    result: dict[str, Any] = {
        "benchmark": "step_cost",
        "options": {k: v for k, v in vars(args).items() if k not in HIDDEN},
        "machine": {
            "device": torch.cuda.get_device_name() if on_gpu(args.device) else platform.machine(),
            "cores": os.cpu_count(),
            "load_average_at_start": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "tables": [],
    }
    for precision, threads, text in itertools.product(args.precisions, args.threads, args.shapes):
        batch, _, tokens = text.partition("x")
        title = f"{args.model}, {precision}, batch {batch} x {tokens}" + (f", {threads} threads" if threads else "")
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in args.sides}
        for turn, name in itertools.product(range(args.repeats), args.sides):
            print(f"{title}: turn {turn + 1} of {args.repeats}: {name}", file=sys.stderr, flush=True)
            turns[name].append(one_turn(name, (int(batch), int(tokens)), precision, threads, sys.argv[1:]))
        rows = summary(turns)
        result["tables"].append({"precision": precision, "threads": threads, "shape": text, "sides": rows})
        print(table(rows, title, "cpu" if args.device == "cpu" else "wall"), flush=True)
    if args.output:
        write_json(args.output, result)


if __name__ == "__main__":
    main()
