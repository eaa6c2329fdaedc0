"""`fairseq-tickets options`: every option of our tasks, architectures, criteria and optimizer, from their configs."""

from __future__ import annotations

import argparse
import json
from enum import Enum
from typing import Any

from fairseq_tickets.errors import UserError

DESCRIPTION = """Print the options of this package's fairseq components: name, values, default, what it does.

  fairseq-tickets options                                   the components
  fairseq-tickets options ticket_sentence_prediction        its options, as task and as criterion
  fairseq-tickets options optimizer/ticket --json
  fairseq-tickets options protocol                          the keys of a protocol file, for `run`

Names are fairseq-train's; in a hydra YAML or override, --l1-weight of a criterion is criterion.l1_weight.
They stand among fairseq's own in the --help of fairseq-train with --task, --arch, --criterion, --optimizer."""

PROTOCOL = "protocol"
KINDS = ("task", "arch", "criterion", "optimizer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which components."""
    parser.add_argument("components", nargs="*", metavar="COMPONENT", help="names, or KIND/NAME; default: list all")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the components, or options of some."""
    from fairseq_tickets.plugin.components import components

    known = components()
    if not args.components:
        names = {kind: [name for of, name in known if of == kind] for kind in KINDS}
        print(json.dumps(names, indent=1) if args.json else "\n".join(f"{k}: {', '.join(n)}" for k, n in names.items()))
        return 0
    wanted: list[tuple[str, ...]] = []
    for asked in args.components:
        if asked == PROTOCOL:
            wanted.append((PROTOCOL,))
            continue
        found = [place for place in known if asked in (place[1], "/".join(place))]
        if not found:
            choice = ", ".join(dict.fromkeys(name for _, name in known))
            raise UserError(f"no component {asked}; choose from {choice}, also as KIND/NAME ({', '.join(KINDS)})")
        wanted += [place for place in found if place not in wanted]
    tables = {
        "/".join(place): protocol_rows() if place == (PROTOCOL,) else rows_of(known[place[0], place[1]])
        for place in wanted
    }
    print(json.dumps(tables, indent=1) if args.json else "\n\n".join(text_of(n, rows) for n, rows in tables.items()))
    return 0


def rows_of(config: Any) -> list[dict[str, Any]]:
    """An option a row: name, values (choices or kind), default and help; what another section gives is left out."""
    made = config()
    rows = []
    for name in config.__dataclass_fields__:
        default = made._get_default(name)
        if name == "_name" or (isinstance(default, str) and default.startswith("${")):
            continue
        kind = made._get_type(name)
        choices = list(kind) if isinstance(kind, type) and issubclass(kind, Enum) else made._get_choices(name)
        rows.append(
            {
                "option": made._get_argparse_alias(name) or f"--{name.replace('_', '-')}",
                "values": [str(choice) for choice in choices] if choices else kind_of(kind),
                "default": default if isinstance(default, (int, float, bool, type(None))) else str(default),
                "help": help_of(config, name),
            }
        )
    return rows


def protocol_rows() -> list[dict[str, Any]]:
    """A key of a protocol file a row; what a section takes over from `training` stands there alone."""
    from fairseq_tickets.protocol.config import Protocol
    from fairseq_tickets.protocol.values import rule_of, schema_at

    schema = Protocol.model_json_schema()
    training = schema_at(schema, ("training",))["properties"]

    def rows(place: tuple[str, ...]) -> list[dict[str, Any]]:
        found, section = [], schema_at(schema, place)
        for name, said in section["properties"].items():
            if place and place != ("training",) and said == training.get(name):
                continue
            node, below = schema_at(schema, (*place, name)), [(*place, name), (*place, name, "TASK")]
            below = [inner for inner in below if "properties" in schema_at(schema, inner)][:1]
            default = None if below else "must be given" if name in section.get("required", ()) else said.get("default")
            row = {"option": ".".join((*place, name)), "values": rule_of(node), "default": default}
            found += [{**row, "help": said.get("description", "")}, *(row for inner in below for row in rows(inner))]
        return found

    return rows(())


def help_of(config: Any, name: str) -> str:
    """What an option does; a subclass that only changes a default says it as its base does."""
    fields = (getattr(cls, "__dataclass_fields__", {}).get(name) for cls in config.__mro__)
    texts = (field.metadata.get("help") for field in fields if field is not None)
    return " ".join(str(next((text for text in texts if text), "")).split())


def kind_of(annotation: Any) -> str:
    """A type in a word: "int", "float", "text", "flag"."""
    text = str(getattr(annotation, "__name__", annotation)) + str(getattr(annotation, "__args__", ""))
    words = {"bool": "flag", "int": "int", "float": "float", "str": "text"}
    return next((word for kind, word in words.items() if kind in text), "text")


def text_of(name: str, rows: list[dict[str, Any]]) -> str:
    """Options of one component as text, an option a paragraph."""
    import textwrap

    lines = [f"{name}:"]
    for row in rows:
        values = "{" + ",".join(row["values"]) + "}" if isinstance(row["values"], list) else row["values"]
        default = "none" if row["default"] is None else row["default"]
        lines.append(f"  {row['option']} {values} (default: {default})")
        lines += textwrap.wrap(row["help"], 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
