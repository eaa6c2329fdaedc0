"""A protocol file: what to train on what, how, and which tickets; checked strictly before anything runs.

    experiment: minilm                       # names the folder of runs and the field of the results
    model: {name: minilm, path: models/minilm}       # folder of `fairseq-tickets import`
    glue: $GLUE_DIR                          # where tasks without `data` are; they are prepared into a cache
    tasks:
      RTE:
      SST-2: {subset: 6000, head_dropout: 0.1}       # any key of `training`, and subset, dev_subset, fractions, data
    seeds: [1, 2, 3]
    search_seeds: 1                          # seeds on which learning rates and batch sizes are searched; all if absent
    training: {learning_rates: [1e-4], batch_sizes: [16], max_epoch: 6}
    super_tickets: {levels: [0.1, 0.2], keep: {default: [winning], RTE: [winning, random]}}  # lists, or by task
    early: {after: [0.01, 0.05, 0.1, 0.25, 0.5], levels: [0.2]}          # parts of fine-tuning after which to score
    iterative: {step: 0.1, levels: [0.2]}        # prune a tenth at a time
    adaptation: {source: MNLI, targets: [SNLI, SciTail], fractions: [0.001, 0.01, 0.1, 1]}
    dominant: {top_k: [1, 3], methods: [dominant, random_dimensions, salience], salience: {metric: gradient}}
    sharing: {training: {learning_rates: [1e-4], batch_sizes: [32]}, then: {learning_rates: [1e-4]}}

Defaults are those of Liang et al. 2021 (section 5.2, appendix A.1.2): Adamax, linear decay after 10 % warm-up, gradient
norm 1, 6 epochs, 8 levels. Paths are relative to the current folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from fairseq_tickets.documents import shown
from fairseq_tickets.errors import UserError
from fairseq_tickets.files import read_yaml
from fairseq_tickets.protocol.schema import Section, as_number, as_whole, as_word

OPTIMIZERS = ("adamax", "adamw", "sgd")
KEEP = ("winning", "random", "losing")
METRICS = ("accuracy", "f1", "mcc", "pearson", "spearman")
SHARING_METHODS = ("mt_dnn", "ticket_share")
SAMPLING = ("proportional", "temperature", "annealed")
PAPER_METHODS = ("full", "dominant", "random_dimensions", "bitfit", "random_elements")
DOMINANT_METHODS = (*PAPER_METHODS, "salience")
SALIENCE_METRICS = ("gradient", "fisher", "consistent", "activation")
SALIENCE_HEADS = ("random", "probe")
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Training:
    """How a model is trained; every field but the two lists determines the result of a run.

    Attributes:
        learning_rates, batch_sizes: the grid.
        max_epoch: most epochs; the learning rate decays over all of them.
        patience: stop after so many epochs without a better score; 0 = never.
        warmup: part of all updates, 0 to 1.
        clip_norm: largest norm of the gradient; 0 = no limit.
        dropout: of embeddings, attention and FFN outputs; attention_dropout: of attention weights; head_dropout:
            of the task head.
        max_positions: examples are cut to so many tokens; None = what the model can take.
        separator_token: number of the token before the second sentence: 2 for RoBERTa, None for BERT.
        select_fraction, select_seed: the part of dev kept for selection.
        best_epoch: "select" takes the epoch with the best score on that part, "all" on all of dev.
        log_interval: updates between two points of the training curve.
        length_bucket: make batches of examples whose lengths differ by less than so many tokens, to waste less on
            padding; 0 = no.
        device: "cpu" or "cuda".
        amp: mixed precision on a GPU.
        precision: "float32", or "bf16": autocast, on a CPU too; part of a run's key when it is not float32.
        threads: of PyTorch; on the CPU another number gives other roundings.
    """

    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    max_epoch: int
    patience: int
    optimizer: str
    weight_decay: float
    warmup: float
    clip_norm: float
    dropout: float
    attention_dropout: float
    head_dropout: float
    max_positions: int | None
    separator_token: int | None
    select_fraction: float
    select_seed: int
    best_epoch: str
    log_interval: int
    length_bucket: int
    device: str
    amp: bool
    precision: str
    threads: int

    def config(self, lr: float, batch_size: int) -> dict[str, Any]:
        """The `config` of one run."""
        values = asdict(self)
        del values["learning_rates"], values["batch_sizes"]
        if self.precision == "float32":  # keys of before there was a choice stay what they were
            del values["precision"]
        return {"lr": lr, "batch_size": batch_size, **values}


@dataclass(frozen=True)
class Task:
    """One task of a protocol.

    Attributes:
        data: prepared folder; None = prepare from `glue`.
        subset: train on so many examples (int) or such a part (float) only; None = all. Results say partial_data.
        subset_seed: of `subset` and `fractions`; subsets of one seed are nested.
        dev_subset: evaluate on so many examples of dev, fixed by select_seed; None = all. Results say partial_data.
        fractions: parts of the training data to repeat everything on.
        metrics: what the task is judged by; None = what the data's task.json says.
    """

    name: str
    data: Path | None
    subset: int | float | None
    subset_seed: int
    dev_subset: int | None
    fractions: tuple[float, ...]
    metrics: tuple[str, ...] | None
    training: Training


@dataclass(frozen=True)
class SuperTickets:
    """Paper S, section 5: levels are parts of the heads, and of the FFNs, to prune."""

    tasks: tuple[str, ...]
    levels: dict[str, tuple[float, ...]]  # by task
    keep: dict[str, tuple[str, ...]]  # by task, kinds of tickets
    granularity: str
    importance_limit: int | None
    min_heads_per_layer: int
    settings: str
    predictions: bool


@dataclass(frozen=True)
class Early:
    """Super tickets by the scores of fine-tuning that has gone only part of its way.

    Attributes:
        after: parts of all updates, above 0 and below 1; the whole is the super ticket itself.
        levels: by task, among those of `super_tickets`.
    """

    tasks: tuple[str, ...]
    after: tuple[float, ...]
    levels: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Iterative:
    """Super tickets by pruning in steps, with some fine-tuning before each.

    Attributes:
        step: part of the heads, and of the FFNs, to prune at a time.
        fraction_of_budget: updates of fine-tuning before each step, as a part of a whole run's; None = that part that
            makes one whole run of all steps to a level, what a one-shot ticket takes to be found.
        levels: by task, among those of `super_tickets`, each two steps or more.
    """

    tasks: tuple[str, ...]
    step: float
    fraction_of_budget: float | None
    levels: dict[str, tuple[float, ...]]

    def steps_to(self, level: float) -> int:
        """How many steps prune a level."""
        return int(Fraction(str(level)) / Fraction(str(self.step)))


@dataclass(frozen=True)
class Adaptation:
    """Paper S, section 7: fine-tuned full models and super tickets of `source`, trained on parts of the targets."""

    source: str
    targets: tuple[str, ...]
    fractions: tuple[float, ...]
    methods: tuple[str, ...]
    learning_rates: tuple[float, ...] | None


@dataclass(frozen=True)
class Salience:
    """Tickets from one pass at the pre-trained weights, see `plugin.salience.checkpoint_salience`."""

    metric: str
    examples: int
    batch_size: int
    head: str


@dataclass(frozen=True)
class Dominant:
    """Paper D, section 3: L1 runs, extraction, and what is trained under the tickets found.

    Attributes:
        methods: with "salience", and neither "dominant" nor "random_dimensions", no L1 run is done.
    """

    tasks: tuple[str, ...]
    l1_weight: float
    l1_mode: str
    l1_training: Training
    sigma: float
    top_k: tuple[int, ...]
    methods: tuple[str, ...]
    element_fraction: float
    ticket_seed: str
    training: Training
    learning_rates: dict[str, tuple[float, ...]]
    salience: Salience


@dataclass(frozen=True)
class Sharing:
    """Paper S, sections 4 and 6: all tasks on one encoder, with shared tickets or none (MT-DNN).

    Attributes:
        methods: "mt_dnn", "ticket_share". The tickets are each task's super ticket of the same seed, found at the
            learning rate of the shared run (appendix A.2.1).
        training: of the shared runs: one learning rate and one batch size.
        sampling, temperature: how tasks are mixed, see `ticket_multitask`.
        then: single-task fine-tuning from the shared model, its learning rates searched; None = not done.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    training: Training
    sampling: str
    temperature: float
    then: Training | None


@dataclass(frozen=True)
class Protocol:
    """A whole protocol file.

    Attributes:
        search_seeds: learning rates and batch sizes are searched on so many of the seeds, the first ones; the other
            seeds run the best of them only.
    """

    path: Path
    experiment: str
    model_name: str
    model: Path
    glue: Path | None
    tokenizer: Path
    tasks: dict[str, Task]
    seeds: tuple[int, ...]
    search_seeds: int
    super_tickets: SuperTickets | None
    early: Early | None
    iterative: Iterative | None
    adaptation: Adaptation | None
    dominant: Dominant | None
    sharing: Sharing | None
    keep_checkpoints: bool


def load_protocol(path: Path) -> Protocol:
    """Read and check a protocol file.

    Raises:
        UserError: no such file, no YAML, an unknown key, task or metric, or a value out of its range; the message
            names it and what is allowed.
    """
    return protocol_from(read_yaml(path, "protocol"), path)


def protocol_from(content: Any, path: Path) -> Protocol:
    """Protocol from a file's content; see `load_protocol`."""
    top = Section(content, str(path))
    experiment = top.label("experiment")
    if not experiment.replace("-", "").replace("_", "").replace(".", "").isalnum() or experiment.startswith("."):
        raise UserError(f"{top.at('experiment')} is {shown(experiment)}; it names a folder: letters, digits, - _ and .")
    model = top.section("model")
    folder = model.path("path")
    model_name = model.label("name", folder.name)
    model.close()
    glue = top.path("glue") if "glue" in top else None
    tokenizer = top.path("tokenizer") if "tokenizer" in top else folder
    seeds = top.several("seeds", None, lambda v, p: as_whole(v, p, 0)) if "seeds" in top else (1, 2, 3, 4, 5)
    search_seeds = top.whole("search_seeds", len(seeds), 1)
    if search_seeds > len(seeds):
        raise UserError(f"{top.at('search_seeds')} is {search_seeds}, but there are only {len(seeds)} seeds")
    training_section = top.section("training")
    _training(training_section)
    training_section.close()
    tasks = _tasks(top.section("tasks"), training_section, glue)
    super_tickets = _super_tickets(top.section("super_tickets"), tasks) if "super_tickets" in top else None
    if super_tickets is not None and super_tickets.settings == "all" and search_seeds < len(seeds):
        raise UserError(
            f"{top.at('search_seeds')} is {search_seeds}: `settings: all` takes every setting on every seed"
        )
    early = _early(top.section("early"), tasks, super_tickets) if "early" in top else None
    iterative = _iterative(top.section("iterative"), tasks, super_tickets) if "iterative" in top else None
    sharing = _sharing(top.section("sharing"), tasks, training_section, super_tickets) if "sharing" in top else None
    adaptation = _adaptation(top.section("adaptation"), tasks, super_tickets, sharing) if "adaptation" in top else None
    dominant = _dominant(top.section("dominant"), tasks, training_section) if "dominant" in top else None
    keep_checkpoints = top.flag("keep_checkpoints", False)
    if super_tickets is None and dominant is None and sharing is None:
        top.close()
        raise UserError(f"{path} asks for nothing: it needs a section super_tickets, dominant or sharing")
    top.close()
    return Protocol(
        path, experiment, model_name, folder, glue, tokenizer, tasks, seeds, search_seeds, super_tickets, early,
        iterative, adaptation, dominant, sharing, keep_checkpoints,
    )  # fmt: skip


def _training(section: Section) -> Training:
    made = Training(
        learning_rates=section.several(
            "learning_rates", [5e-5, 1e-4, 2e-4], lambda v, p: as_number(v, p, 0, above=True)
        ),
        batch_sizes=section.several("batch_sizes", [8, 16, 32], lambda v, p: as_whole(v, p, 1)),
        max_epoch=section.whole("max_epoch", 6, 1),
        patience=section.whole("patience", 0, 0),
        optimizer=section.choice("optimizer", "adamax", OPTIMIZERS),
        weight_decay=section.number("weight_decay", 0.0, 0),
        warmup=section.number("warmup", 0.1, 0, 1),
        clip_norm=section.number("clip_norm", 1.0, 0),
        dropout=section.number("dropout", 0.1, 0, 0.99),
        attention_dropout=section.number("attention_dropout", 0.1, 0, 0.99),
        head_dropout=section.number("head_dropout", 0.1, 0, 0.99),
        max_positions=section.whole_or_none("max_positions", 2),
        separator_token=section.whole_or_none("separator_token", 0),
        select_fraction=section.number("select_fraction", 0.1, 0, 0.99, above=True),
        select_seed=section.whole("select_seed", 1, 0),
        best_epoch=section.choice("best_epoch", "select", ("select", "all")),
        log_interval=section.whole("log_interval", 10, 1),
        length_bucket=section.whole("length_bucket", 0, 0),
        device=section.choice("device", "cpu", ("cpu", "cuda")),
        amp=section.flag("amp", False),
        precision=section.choice("precision", "float32", ("float32", "bf16")),
        threads=section.whole("threads", 1, 1),
    )
    if made.amp and made.precision != "float32":
        raise UserError(f"{section.at('precision')} is {made.precision!r} and amp is true; take one of them")
    return made


def _tasks(section: Section, training: Section, glue: Path | None) -> dict[str, Task]:
    from fairseq_tickets.data.tasks import TASKS

    tasks: dict[str, Task] = {}
    for name in section.names():
        own = Section(section.raw(name), section.at(name), training)
        data = own.path("data") if "data" in own else None
        if data is None and name not in TASKS:
            raise UserError(
                f"{section.place}: unknown task {shown(name)}; it must be one of {', '.join(TASKS)}, or have `data`: a "
                "folder made by `fairseq-tickets prepare`"
            )
        if data is None and glue is None:
            raise UserError(
                f"{section.at(name)} has no `data`, and the protocol has no `glue` folder to prepare it from"
            )
        subset: int | float | None = own.raw("subset")
        if subset is not None:
            whole = isinstance(subset, int) and subset != 1
            subset = as_whole(subset, own.at("subset"), 1) if whole else own.number("subset", 1.0, 0, 1, above=True)
        task = Task(
            name,
            data,
            subset,
            own.whole("subset_seed", 1, 0),
            own.whole_or_none("dev_subset", 1),
            own.several("fractions", [1.0], lambda v, p: as_number(v, p, 0, 1, above=True)),
            own.several("metrics", None, as_word(METRICS)) if "metrics" in own else None,
            _training(own),
        )
        own.close()
        tasks[name] = task
    if not tasks:
        raise UserError(f"{section.place} is empty; name at least one task")
    return tasks


def _super_tickets(section: Section, tasks: dict[str, Task]) -> SuperTickets:
    chosen = section.several("tasks", list(tasks), as_word(tasks))
    importance = section.section("importance")
    granularity = importance.choice("granularity", "example", ("example", "token", "batch"))
    limit = importance.whole_or_none("limit", 1)
    importance.close()
    made = SuperTickets(
        tasks=chosen,
        levels=_by_task(section, "levels", LEVELS, lambda v, p: as_number(v, p, 0), chosen),
        keep=_by_task(section, "keep", list(KEEP), as_word(KEEP), chosen),
        granularity=granularity,
        importance_limit=limit,
        min_heads_per_layer=section.whole("min_heads_per_layer", 0, 0),
        settings=section.choice("settings", "best", ("best", "all")),
        predictions=section.flag("predictions", False),
    )
    section.close()
    return made


def _by_task(
    section: Section, name: str, default: Sequence[Any], read: Callable[[Any, str], Any], tasks: Sequence[str]
) -> dict[str, tuple[Any, ...]]:
    """A list for all tasks, or a mapping of lists: by task, and `default` for the others."""
    if not isinstance(section.raw(name, default), dict):
        return dict.fromkeys(tasks, section.several(name, default, read))
    own = Section(section.raw(name), section.at(name))
    others = own.several("default", default, read)
    by_task = {task: own.several(task, others, read) for task in tasks}
    own.close()
    return by_task


def _early(section: Section, tasks: dict[str, Task], super_tickets: SuperTickets | None) -> Early:
    known = _with_winning(section, tasks, super_tickets)
    made = Early(
        tasks=tuple(known),
        after=section.several("after", [0.01, 0.05, 0.1, 0.25, 0.5], lambda v, p: as_number(v, p, 0, 0.99, above=True)),
        levels=_levels_of(section, known),
    )
    section.close()
    return made


def _iterative(section: Section, tasks: dict[str, Task], super_tickets: SuperTickets | None) -> Iterative:
    known = _with_winning(section, tasks, super_tickets)
    step = section.number("step", 0.1, 0, 0.5, above=True)
    given = section.raw("fraction_of_budget")
    made = Iterative(
        tasks=tuple(known),
        step=step,
        fraction_of_budget=None if given is None else section.number("fraction_of_budget", 1.0, 0, 1, above=True),
        levels=_levels_of(section, {task: [level for level in own if level > step] for task, own in known.items()}),
    )
    for level in {level for levels in made.levels.values() for level in levels}:
        if (Fraction(str(level)) / Fraction(str(step))).denominator > 1:
            raise UserError(f"{section.at('levels')}: {level:g} is no whole number of steps of {step:g}")
    section.close()
    return made


def _with_winning(
    section: Section, tasks: dict[str, Task], super_tickets: SuperTickets | None
) -> dict[str, tuple[float, ...]]:
    """The tasks of a section that are compared with winning tickets on all of the data, and these tickets' levels."""
    if super_tickets is None:
        raise UserError(f"{section.place} needs a section super_tickets with winning tickets, to be compared with")
    kept = super_tickets.keep
    known = [task for task in super_tickets.tasks if "winning" in kept[task] and 1.0 in tasks[task].fractions]
    if not known:
        raise UserError(
            f"{section.place}: super_tickets has no winning tickets of all the data of any task, to be compared with"
        )
    return {task: super_tickets.levels[task] for task in section.several("tasks", known, as_word(known))}


def _levels_of(section: Section, known: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """Levels by task, among the known ones; all of them if absent."""
    if "levels" in section:
        levels = _by_task(section, "levels", LEVELS, lambda v, p: as_number(v, p, 0), list(known))
    else:
        levels = {task: tuple(own) for task, own in known.items()}
    for task, own in levels.items():
        strangers = [level for level in own if level not in known[task]]
        if strangers or not own:
            found = f"{strangers[0]:g} is not among" if strangers else "there are none in"
            allowed = ", ".join(f"{level:g}" for level in known[task]) or "none that is two steps or more"
            raise UserError(f"{section.at('levels')}: {found} the levels of {task}'s winning tickets: {allowed}")
    return levels


def _sharing(
    section: Section, tasks: dict[str, Task], training: Section, super_tickets: SuperTickets | None
) -> Sharing:
    chosen = section.several("tasks", list(tasks) if super_tickets is None else super_tickets.tasks, as_word(tasks))
    methods = section.several("methods", list(SHARING_METHODS), as_word(SHARING_METHODS))
    own = Section(section.raw("training"), section.at("training"), training)
    shared = _training(own)
    own.close()
    if len(shared.learning_rates) > 1 or len(shared.batch_sizes) > 1:
        raise UserError(
            f"{section.at('training')}: a shared run takes one of learning_rates and one of batch_sizes, not "
            f"{list(shared.learning_rates)} and {list(shared.batch_sizes)}"
        )
    if "ticket_share" in methods:
        for name in chosen:
            found = super_tickets is not None and name in super_tickets.tasks
            if super_tickets is None or not found or "winning" not in super_tickets.keep[name]:
                raise UserError(
                    f"{section.at('tasks')}: {name} has no tickets to share: it must be among the tasks of "
                    "super_tickets, with winning tickets"
                )
            rates = tasks[name].training.learning_rates
            if shared.learning_rates[0] not in rates or (len(rates) > 1 and super_tickets.settings == "best"):
                raise UserError(
                    f"{section.at('training')}: learning_rates is {shared.learning_rates[0]:g}, but {name}'s tickets "
                    f"are found at {', '.join(f'{rate:g}' for rate in rates)}; they must be found at the same rate "
                    "(one learning rate, or `settings: all`)"
                )
    if len({tasks[name].subset_seed for name in chosen}) > 1:
        raise UserError(f"{section.at('tasks')}: tasks of a shared run must have one subset_seed")
    then = None
    if "then" in section:
        after = Section(section.raw("then"), section.at("then"), training)
        then = _training(after)
        after.close()
    made = Sharing(
        tasks=chosen,
        methods=methods,
        training=shared,
        sampling=section.choice("sampling", "proportional", SAMPLING),
        temperature=section.number("temperature", 2.0, 0, above=True),
        then=then,
    )
    section.close()
    return made


def _adaptation(
    section: Section, tasks: dict[str, Task], super_tickets: SuperTickets | None, sharing: Sharing | None
) -> Adaptation:
    source = as_word(tasks)(section.raw("source"), section.at("source"))
    if super_tickets is None or source not in super_tickets.tasks or "winning" not in super_tickets.keep[source]:
        raise UserError(
            f"{section.at('source')}: {source} must be among the tasks of super_tickets, with winning tickets"
        )
    shared = () if sharing is None else sharing.methods
    made = Adaptation(
        source=source,
        targets=section.several("targets", None, as_word([name for name in tasks if name != source])),
        fractions=section.several("fractions", [0.001, 0.01, 0.1, 1.0], lambda v, p: as_number(v, p, 0, 1, above=True)),
        methods=section.several("methods", ["full", "winning", *shared], as_word(("full", "winning", *shared))),
        learning_rates=section.several("learning_rates", None, lambda v, p: as_number(v, p, 0, above=True))
        if "learning_rates" in section
        else None,
    )
    section.close()
    return made


def _dominant(section: Section, tasks: dict[str, Task], training: Section) -> Dominant:
    l1 = Section(section.raw("l1"), section.at("l1"), training)
    l1_weight = l1.number("weight", 1e-3, 0, above=True)
    l1_mode = l1.choice("mode", "subgradient", ("subgradient", "proximal"))
    l1_training = _training(l1)
    l1.close()
    own = Section(section.raw("training"), section.at("training"), training)
    shared = _training(own)
    own.close()
    methods = section.several("methods", list(PAPER_METHODS), as_word(DOMINANT_METHODS))
    rates = section.section("learning_rates")
    by_method = {
        method: rates.several(method, list(shared.learning_rates), lambda v, p: as_number(v, p, 0, above=True))
        for method in methods
    }
    rates.close()
    one_pass = section.section("salience")
    salience = Salience(
        metric=one_pass.choice("metric", "gradient", SALIENCE_METRICS),
        examples=one_pass.whole("examples", 512, 1),
        batch_size=one_pass.whole("batch_size", 8, 1),
        head=one_pass.choice("head", "random", SALIENCE_HEADS),
    )
    one_pass.close()
    if salience.metric != "activation" and salience.batch_size > salience.examples:
        raise UserError(
            f"{one_pass.at('batch_size')} is {salience.batch_size}, more than the {salience.examples} examples to take"
        )
    made = Dominant(
        tasks=section.several("tasks", list(tasks), as_word(tasks)),
        l1_weight=l1_weight,
        l1_mode=l1_mode,
        l1_training=l1_training,
        sigma=section.number("sigma", 5e-5, 0, above=True),
        top_k=section.several("top_k", [1, 3], lambda v, p: as_whole(v, p, 1)),
        methods=methods,
        element_fraction=section.number("element_fraction", 0.05, 0, 0.99, above=True),
        ticket_seed=section.choice("ticket_seed", "same", ("same", "first")),
        training=shared,
        learning_rates=by_method,
        salience=salience,
    )
    section.close()
    return made
