"""Stock fairseq 0.12.2, hydra-core 1.0.7 and omegaconf 2.0.6 on today's Python, with nothing changed on disk.

The startup hook (`fairseq_tickets.pth`, see setup.py) loads this file by its path, under the name
`_fairseq_tickets_compat`, when a program first imports fairseq, hydra or omegaconf. By path, because the package
itself must not be imported before fairseq: `--user-dir` would then find it "already imported" and skip it.

What is mended, and only where it is broken:

- Python >= 3.11 refuses dataclass defaults that can't be hashed, and the three packages are full of them. Their
  classes get a hash by identity for as long as the decorator looks. Field defaults stay what they are, since
  fairseq's `hydra_init` reads them.
- Python >= 3.12 has no `find_module`, which hydra 1.0 calls to find its plugins; 3.13 has no `typing.io`, which
  hydra's parser imports.
- PyTorch >= 2.6 does not load fairseq's own checkpoints, for want of `argparse.Namespace` on its allow-list.
- A checkpoint's options may not call anything: fairseq evaluates some of them. Nor may hydra's logging options.
- Python >= 3.10 has renamed an argument that hydra 1.0 uses when it prints an error.
- What hydra can't compose (no such section or option, a value of another kind) is one line too, for fairseq's programs.
- A `UserError` ends fairseq-train and fairseq-hydra-train with one line in place of a traceback.
- omegaconf 2.0 builds type annotations anew whenever a value is read, which fairseq's trainer does some 50 times an
  update: plain values are told apart without that.
- A wrong `--user-dir` is such an error, and a value that a YAML leaves to the command line (`???`) and nobody gave.

Newer fairseq, hydra and omegaconf pass through untouched: nothing here asks for a version, only for the fault.
Standard library only; fairseq is never imported from here.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import functools
import importlib
import importlib.abc
import importlib.machinery
import os
import pkgutil
import re
import sys
import traceback
import typing
import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any, Callable, Optional

MODULE_NAME = "_fairseq_tickets_compat"
PACKAGES = ("fairseq", "fairseq_cli", "hydra", "hydra_plugins", "omegaconf")
EXIT_CODE = 1

applied: list[str] = []  # what has been mended in this process, in words; `fairseq-tickets doctor` prints it


class UserError(Exception):
    """`fairseq_tickets.errors.UserError` in the one file that must not import the package."""


def install() -> ModuleType:
    """Set everything up, once per process; returns the module that holds the state (`applied`)."""
    this = sys.modules.setdefault(MODULE_NAME, sys.modules[__name__])
    if this is not sys.modules[__name__]:
        if not getattr(this, "applied", None):
            this.install()
        return this
    if not applied:
        applied.append("errors for the user end fairseq with one line")
        sys.excepthook = _one_line_excepthook(sys.excepthook)
        if sys.version_info >= (3, 11):
            _allow_unhashable_defaults()
        if "typing.io" not in sys.modules:
            _restore_typing_io()
        for name, patch in PATCHES.items():
            if name in sys.modules:
                patch(sys.modules[name])
        sys.meta_path.insert(0, _PatchAfterImport())
    return this


def user_error_line(error: BaseException | None) -> str | None:
    """The message of the first UserError among `error`, its causes and its contexts; None without one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = type(error)
        if kind.__name__ == "UserError" and kind.__module__ in ("fairseq_tickets.errors", MODULE_NAME, __name__):
            return " ".join(str(error).split())
        if kind.__name__ == "ProcessRaisedException":  # torch.multiprocessing passes a worker's error on as text
            found = re.findall(r"^(?:fairseq_tickets\.errors|\w+)\.UserError: (.+)$", str(error), re.MULTILINE)
            if found:
                return str(found[-1])
        error = error.__cause__ or error.__context__
    return None


def _print_line(message: str) -> None:
    print(f"fairseq-tickets: error: {message}", file=sys.stderr, flush=True)


def _one_line_excepthook(previous: Callable[..., Any]) -> Callable[..., Any]:
    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = user_error_line(error)
        if message is None:
            previous(kind, error, trace)
        else:
            _print_line(message)

    return excepthook


def _restore_typing_io() -> None:
    module: Any = ModuleType("typing.io")
    module.IO, module.TextIO, module.BinaryIO = typing.IO, typing.TextIO, typing.BinaryIO
    sys.modules["typing.io"] = module
    applied.append("typing.io exists again")


# Dataclass defaults


def _allow_unhashable_defaults() -> None:
    original = dataclasses.dataclass

    @functools.wraps(original)
    def dataclass(cls: Any = None, /, *args: Any, **options: Any) -> Any:
        if cls is None:
            return lambda decorated: dataclass(decorated, *args, **options)
        lent = list(_unhashable_defaults(cls))
        for default in lent:
            default.__hash__ = object.__hash__  # type: ignore[assignment]
        try:
            return original(cls, *args, **options)
        finally:
            for default in lent:
                default.__hash__ = None  # type: ignore[assignment]

    dataclasses.dataclass = dataclass
    applied.append("dataclass defaults that can't be hashed are accepted")


def _unhashable_defaults(cls: type) -> Iterator[type]:
    """Classes of the defaults in `cls` that the decorator would refuse, if they or `cls` are fairseq's."""
    ours = _is_ours(cls)
    for value in list(vars(cls).values()):
        default = value.default if isinstance(value, dataclasses.Field) else value
        kind = type(default)
        if dataclasses.is_dataclass(kind) and vars(kind).get("__hash__", 0) is None and (ours or _is_ours(kind)):
            yield kind


def _is_ours(cls: type) -> bool:
    return any(
        base.__module__.partition(".")[0] in PACKAGES for base in cls.__mro__
    )  # a user's config counts through its base, FairseqDataclass


# Patches that wait until their module has been imported


class _PatchAfterImport(importlib.abc.MetaPathFinder):
    """Finds the modules of PATCHES as the other finders do, and patches each right after it has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        patch = PATCHES.get(name)
        if patch is None:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find_spec = getattr(finder, "find_spec", None)  # old finders have find_module alone
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                break
        else:
            return None
        if spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, patch)
        return spec


class _PatchingLoader(importlib.abc.Loader):
    """Runs a module by its own loader, gives that loader back to it, and patches."""

    def __init__(self, loader: Any, patch: Callable[[Any], None]) -> None:
        self.loader = loader
        self.patch = patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.patch(module)


def _patch_user_dir(module: Any) -> None:
    """fairseq.utils: a wrong --user-dir is one clear line."""
    original = module.import_user_module

    @functools.wraps(original)
    def import_user_module(args: Any) -> None:
        user_dir: Optional[str] = getattr(args, "user_dir", None)
        if user_dir is not None:
            if os.path.isfile(user_dir):
                raise UserError(_user_dir_message(user_dir, "it is a file, not a folder"))
            try:
                original(args)
            except FileNotFoundError as error:
                if str(error) != os.path.abspath(user_dir):
                    raise
                raise UserError(_user_dir_message(user_dir, "there is no such folder")) from error
            except ImportError as error:
                if "not globally unique" not in str(error):
                    raise
                name = os.path.basename(os.path.abspath(user_dir))
                raise UserError(
                    _user_dir_message(user_dir, f"another module named {name} is already in use")
                ) from error
            _check_it_registers(user_dir)

    module.import_user_module = import_user_module
    applied.append("a wrong --user-dir is one clear line")


def _check_it_registers(user_dir: str) -> None:
    name = os.path.basename(os.path.abspath(user_dir))
    imported = sys.modules.get(name)
    if imported is not None and getattr(imported, "__file__", None) is None:
        folders = list(getattr(imported, "__path__", []))
        if not any(os.path.isdir(os.path.join(folder, part)) for folder in folders for part in ("tasks", "models")):
            raise UserError(_user_dir_message(user_dir, "it has no __init__.py, so it registers nothing"))
    if name == "fairseq_tickets":  # was it imported before fairseq, and so without its plugin?
        importlib.import_module("fairseq_tickets.plugin")


def _user_dir_message(user_dir: str, fault: str) -> str:
    return f'--user-dir {user_dir}: {fault}; use --user-dir "$(fairseq-tickets user-dir)"'


def _patch_hydra_report(module: Any) -> None:
    """hydra._internal.utils: hydra prints exceptions itself; a UserError is one line there too."""
    original = module.run_and_report

    @functools.wraps(original)
    def run_and_report(func: Callable[[], Any]) -> Any:
        def guarded() -> Any:
            try:
                return func()
            except Exception as error:
                message = user_error_line(error)
                if message is None and type(error).__module__.partition(".")[0] == "yaml":
                    message = f"a config file is not valid YAML: {' '.join(str(error).split())}"
                if message is None and "fairseq" in sys.modules and "HYDRA_FULL_ERROR" not in os.environ:
                    message = _composing_line(error)
                if message is None:
                    raise
                _print_line(message)
                sys.exit(EXIT_CODE)

        return original(guarded)

    module.run_and_report = run_and_report
    if sys.version_info >= (3, 10):  # hydra 1.0 names an argument that Python has renamed
        module.print_exception = lambda etype, value, tb: traceback.print_exception(etype, value, tb)
        applied.append("hydra can print errors")


def _composing_line(error: BaseException) -> Optional[str]:
    """What hydra could not compose: a section or option that isn't there, a value of another kind, or none at all.

    hydra and omegaconf tell it in four to seven lines. None = another error, such as one of training.
    """
    found: Any = error.__cause__ if type(error).__module__ == "hydra.errors" else error
    if type(found).__name__ != "MissingMandatoryValue" and found is error:
        return None
    key = str(getattr(found, "full_key", None) or "")
    if not key:
        return None
    section, _, name = key.rpartition(".")
    parent = found.parent_node
    known = [str(option) for option in parent if option != "_name"] if isinstance(parent, MutableMapping) else []
    if known and name not in known:
        return _no_option(section or "the config", name, known, "option" if section else "section")
    return f"{key}: {str(found).splitlines()[0]}"


def _no_option(where: str, name: str, known: Sequence[str], kind: str = "option") -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{where} has no {kind} {name}: {hint}its {kind}s are {', '.join(known)}"


def _patch_plugin_scan(module: Any) -> None:
    """hydra.core.plugins: `importer.find_module(name).load_module(name)` is gone from Python 3.12 on."""
    if hasattr(importlib.machinery.FileFinder, "find_module") or "pkgutil" not in vars(module):
        return

    class Importer:
        def __init__(self, finder: Any) -> None:
            self.finder = finder

        def find_module(self, _: str) -> SimpleNamespace:
            return SimpleNamespace(load_module=importlib.import_module)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.finder, name)

    def walk_packages(*args: Any, **options: Any) -> Iterator[tuple[Any, str, bool]]:
        for found in pkgutil.walk_packages(*args, **options):
            yield Importer(found.module_finder), found.name, found.ispkg

    module.pkgutil = SimpleNamespace(walk_packages=walk_packages)
    applied.append("hydra finds its plugins without find_module")


def _patch_defaults(module: Any) -> None:
    """fairseq.dataclass.initialize: what is still `???` is said at the start, for the tasks of this package."""
    original = module.add_defaults

    @functools.wraps(original)
    def add_defaults(cfg: Any) -> None:
        groups = {name: group for name, group in module.OmegaConf.to_container(cfg).items() if isinstance(group, dict)}
        if str(groups.get("task", {}).get("_name")).startswith("ticket_"):
            missing = [f"{name}.{key}" for name, group in groups.items() for key in group if group[key] == "???"]
            if missing:
                raise UserError(f"no value for {', '.join(missing)}: give it on the command line, {missing[0]}=...")
        original(cfg)

    module.add_defaults = add_defaults
    applied.append("values that a YAML leaves open are asked for")


def _patch_merge(module: Any) -> None:
    """fairseq.dataclass.utils: an option that a component doesn't have, or of another kind, is one clear line."""
    original = module.merge_with_parent

    @functools.wraps(original)
    def merge_with_parent(dc: Any, cfg: Any, remove_missing: bool = False) -> Any:
        try:
            return original(dc, cfg, remove_missing)
        except Exception as error:  # omegaconf's classes of errors differ by version
            if not type(error).__module__.startswith("omegaconf."):
                raise
            known = [name for name in getattr(dc, "__dataclass_fields__", {}) if name != "_name"]
            strange = [str(name) for name in cfg if known and name not in known and name != "_name"]
            where = cfg.get("_name") or "the config"
            if not strange:
                raise UserError(f"{where}: {' '.join(str(error).split())}") from error
            raise UserError(_no_option(where, strange[0], known)) from error

    module.merge_with_parent = merge_with_parent
    applied.append("an unknown option in a YAML is one clear line")
    _patch_arguments(module)


def _patch_arguments(module: Any) -> None:
    """fairseq.dataclass.utils: arguments become a config with references kept, and a missing criterion is one line.

    fairseq writes an option that stands for another one, `${common.bf16}`, as True where it is a flag and the arguments
    (an old checkpoint's) lack it.
    """
    original, convert = module._override_attr, module.convert_namespace_to_omegaconf

    @functools.wraps(original)
    def _override_attr(sub_node: str, data_class: Any, args: Any) -> Any:
        fields = getattr(data_class, "__dataclass_fields__", {})
        defaults = {name: field.default for name, field in fields.items() if not hasattr(args, name)}
        references = {
            f"{sub_node}.{name}=True": f"{sub_node}.{name}={default}"
            for name, default in defaults.items()
            if isinstance(default, str) and default.startswith("${")
        }
        return [references.get(override, override) for override in original(sub_node, data_class, args)]

    @functools.wraps(convert)
    def convert_namespace_to_omegaconf(args: Any) -> Any:
        try:
            return convert(args)
        except Exception as error:  # omegaconf's classes of errors differ by version
            missing = re.search(r"interpolation key '(\w+)\.(\w+)' not found", str(error))
            if missing is None or not type(error).__module__.startswith("omegaconf."):
                raise
            section, option = missing.groups()
            raise UserError(
                f"--task {args.task} needs a --{section} with the option {option}, and --{section} is "
                f"{getattr(args, section, None) or 'not given'}; the usual one is --{section} {PLUGIN_TASK}"
            ) from error

    module._override_attr = _override_attr
    module.convert_namespace_to_omegaconf = convert_namespace_to_omegaconf
    applied.append("options of arguments that stand for others keep doing so")


def _patch_help(module: Any) -> None:
    """fairseq.options: `--help` shows the options of the chosen task, model, criterion and optimizer too."""
    original = module.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(parser: Any, input_args: Any = None, *args: Any, **options: Any) -> Any:
        words = sys.argv[1:] if input_args is None else list(input_args)
        if not {"-h", "--help"} & set(words):
            try:
                return original(parser, input_args, *args, **options)
            except KeyError as error:
                if error.args != (None,):
                    raise
                raise UserError(f"--task is not given; for data of this package it is --task {PLUGIN_TASK}") from error
        first = parser.parse_known_args

        def find_components(_: Any = None, namespace: Any = None) -> Any:
            parser.parse_known_args = first  # the second time it knows all options, and prints them
            known, rest = first([word for word in words if word not in ("-h", "--help")], namespace)
            for name in ("arch", "task"):  # fairseq looks up what is there, also where it is None
                if getattr(known, name, "") is None:
                    delattr(known, name)
            return known, rest

        parser.parse_known_args = find_components
        return original(parser, input_args, *args, **options)

    module.parse_args_and_arch = parse_args_and_arch
    applied.append("--help shows the options of the chosen components")


def _patch_checkpoints(module: Any) -> None:
    """fairseq.checkpoint_utils: PyTorch >= 2.6 loads weights only; the namespace of options is harmless and allowed.

    fairseq evaluates options of the model that a checkpoint names, so a call among them is refused. The plugin puts a
    stricter reader in this one's place (plugin/checkpoints.py).
    """
    allow = getattr(module.torch.serialization, "add_safe_globals", None)  # since PyTorch 2.4
    if allow is not None:
        allow([argparse.Namespace])
        applied.append("PyTorch loads fairseq's own checkpoints with weights_only")
    module.torch = _WithoutCalls(module.torch)
    applied.append("options of a checkpoint that call anything are refused")


class _WithoutCalls:
    """What fairseq.checkpoint_utils sees as `torch`: PyTorch, with a look at the options that a checkpoint brings."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def load(self, file: Any, *args: Any, **options: Any) -> Any:
        state = self._torch.load(file, *args, **options)
        if isinstance(state, dict):
            for name in ("args", "cfg"):
                _refuse_calls(state.get(name), getattr(file, "name", file))
        return state


def _refuse_calls(options: Any, path: Any) -> None:
    """Raise UserError where a text among the options is Python that calls something; `user_dir` becomes None."""
    left, seen = [options], set()
    while left:
        value = left.pop()
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, str) and _calls(value):
            raise UserError(f"checkpoint {path} is refused: its option {value!r:.60} is Python that fairseq would run")
        if not isinstance(value, (MutableMapping, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, MutableMapping):
            if value.get("user_dir") is not None:
                value["user_dir"] = None
            left.extend(value.values())
        else:
            left.extend(value)


def _calls(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    running = (ast.Call, ast.JoinedStr, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Pow)
    return any(isinstance(node, running) for node in ast.walk(tree))


def _patch_logging(module: Any) -> None:
    """hydra.core.utils: `job_logging` in a YAML is logging.config.dictConfig, which makes any object that it names."""
    original = module.configure_log

    @functools.wraps(original)
    def configure_log(log_config: Any, *args: Any, **options: Any) -> Any:
        left = [log_config]
        while left:
            value = left.pop()
            if hasattr(value, "items"):
                for key, item in value.items():
                    _check_logging(str(key), item)
                    left.append(item)
            elif not isinstance(value, str) and isinstance(value, Sequence):
                left.extend(value)
            elif isinstance(value, str) and "://" in value and value not in STREAMS:
                raise UserError(f"hydra logging: {value!r:.60} is refused; it may name {' or '.join(STREAMS)}")
        return original(log_config, *args, **options)

    module.configure_log = configure_log
    applied.append("hydra's logging makes handlers of logging alone")


def _patch_value_kind(module: Any) -> None:
    """omegaconf._utils: tell plain values from references quickly; whatever could be one goes the old way."""
    old = module.get_value_kind

    @functools.wraps(old)
    def get_value_kind(value: Any, return_match_list: bool = False) -> Any:
        held = value._value() if isinstance(value, sys.modules["omegaconf.base"].Node) else value
        is_text = isinstance(held, str)
        if is_text and (held == "???" or "${" in held):
            return old(value, return_match_list)
        kind = module.ValueKind.VALUE
        return (kind, [] if is_text else None) if return_match_list else kind

    module.get_value_kind = get_value_kind
    applied.append("omegaconf tells plain values from references quickly")


STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_HANDLER = re.compile(r"logging\.(handlers\.)?[A-Z]\w*|colorlog\.ColoredFormatter")


def _check_logging(key: str, item: Any) -> None:
    if key in ("()", "class") and not (isinstance(item, str) and _HANDLER.fullmatch(item)):
        raise UserError(f"hydra logging: {key} {item!r:.60} is refused; only classes of Python's logging may be made")


PLUGIN_TASK = "ticket_sentence_prediction"
PATCHES: dict[str, Callable[[Any], None]] = {
    "fairseq.checkpoint_utils": _patch_checkpoints,
    "fairseq.dataclass.initialize": _patch_defaults,
    "fairseq.dataclass.utils": _patch_merge,
    "fairseq.options": _patch_help,
    "fairseq.utils": _patch_user_dir,
    "omegaconf._utils": _patch_value_kind,
    "hydra._internal.utils": _patch_hydra_report,
    "hydra.core.utils": _patch_logging,
    "hydra.core.plugins": _patch_plugin_scan,
}
