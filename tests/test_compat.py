"""The compatibility layer: what it lets through, what it still refuses, and that it stays out of the way."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from fairseq_tickets import compat
from fairseq_tickets.errors import UserError

PACKAGE = Path(compat.__file__).parent
NEEDS_THE_MEND = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python < 3.11 accepts such defaults itself")


def python(code: str, cwd: Path) -> str:
    """Standard output of `code` in a new interpreter, which must succeed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_loaded_until_fairseq_is_imported(tmp_path: Path) -> None:
    found = python(
        "import sys; before = [m for m in sys.modules if 'fairseq' in m or m in ('torch', 'numpy', 'dataclasses')];"
        "import json, dataclasses;"
        "print(before, dataclasses.dataclass.__module__, '_fairseq_tickets_compat' in sys.modules)",
        tmp_path,
    )
    assert found == "[] dataclasses False"


def test_importing_omegaconf_sets_the_hook_off_without_the_package(tmp_path: Path) -> None:
    found = python(
        "import sys, omegaconf;"
        "print(sys.modules['_fairseq_tickets_compat'].applied != [], 'fairseq_tickets' in sys.modules,"
        "'fairseq' in sys.modules, [f for f in sys.meta_path if getattr(f, '__name__', '') == 'FairseqTicketsHook'])",
        tmp_path,
    )
    assert found == "True False False []"


def test_kinds_of_values_are_those_that_omegaconf_tells() -> None:
    from omegaconf import AnyNode, IntegerNode, OmegaConf, StringNode, _utils

    mended = _utils.get_value_kind
    own = mended.__wrapped__  # type: ignore[attr-defined]
    config = OmegaConf.create({"a": {"b": 1}, "c": "${a.b}", "d": [1, "${c}"], "e": "???", "f": None, "g": "${a}"})
    nodes = [config, *(config._get_node(key) for key in config)]
    texts = ["", "x", "$", "${", "${x", "${a.b}", "http://${a}/", "${env:HOME}", "???", "????", "${a b}", "1"]
    rows = [*nodes, *texts, *map(StringNode, texts), *map(AnyNode, [*texts, 1, 1.5, True, None]), IntegerNode(3)]
    rows += [None, 1, 2.5, False, b"x", {"a": 1}, [1], IntegerNode(None)]
    rows += [OmegaConf.create({"x": missing})._get_node("x") for missing in ("???", {}, [])]
    for value in rows:
        assert mended(value) == own(value), value
        kind, found = mended(value, return_match_list=True)
        expected_kind, expected = own(value, return_match_list=True)
        assert kind == expected_kind
        assert [match.group(0) for match in found or ()] == [match.group(0) for match in expected or ()], value
        assert (found is None) == (expected is None), value


@pytest.fixture
def import_user_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """fairseq's import_user_module, leaving no module and no path behind."""
    import fairseq.utils

    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda folder: fairseq.utils.import_user_module(argparse.Namespace(user_dir=str(folder)))
    for name in set(sys.modules) - known:
        if "of_this_test" in name:
            del sys.modules[name]


@NEEDS_THE_MEND
def test_unhashable_default_in_a_users_fairseq_config(tmp_path: Path, import_user_dir: Callable[[Path], None]) -> None:
    plugin = tmp_path / "plugin_of_this_test"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from fairseq.dataclass import FairseqDataclass\n"
        "@dataclass\n"
        "class Inner:\n"
        "    depth: int = 3\n"
        "@dataclass\n"
        "class Config(FairseqDataclass):\n"
        "    inner: Inner = Inner()\n"
        "    other: Inner = field(default=Inner(4))\n"
    )
    import_user_dir(plugin)
    module = sys.modules["plugin_of_this_test"]
    assert (module.Config().inner.depth, module.Config().other.depth) == (3, 4)
    assert module.Config.__dataclass_fields__["inner"].default == module.Inner(3)  # which hydra_init reads
    assert module.Inner.__hash__ is None  # as unhashable as before


@NEEDS_THE_MEND
def test_other_programs_still_get_the_error(tmp_path: Path) -> None:
    found = python(
        "import omegaconf\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Inner:\n"
        "    depth: int = 3\n"
        "try:\n"
        "    @dataclass\n"
        "    class Config:\n"
        "        inner: Inner = Inner()\n"
        "except ValueError as error:\n"
        "    print(error)\n",
        tmp_path,
    )
    assert "mutable default" in found and "inner" in found


def test_the_wrapped_decorator_takes_what_the_original_takes(tmp_path: Path) -> None:
    found = python(
        "import omegaconf\n"
        "from dataclasses import dataclass, make_dataclass\n"
        "@dataclass(frozen=True, order=True)\n"
        "class Point:\n"
        "    x: int\n"
        "    y: int = 2\n"
        "Made = make_dataclass('Made', [('a', int, 1)])\n"
        "Bare = dataclass()(type('Bare', (), {}))\n"
        "print(Point(1) < Point(2), hash(Point(1)) == hash(Point(1)), Made().a, Bare.__name__)\n",
        tmp_path,
    )
    assert found == "True True 1 Bare"


def test_fixed_fairseq_is_left_alone(tmp_path: Path) -> None:
    """A fairseq whose configs use factories: imported under the hook, its fields stay factories."""
    fork = tmp_path / "fairseq"
    fork.mkdir()
    (fork / "__init__.py").write_text(
        "from dataclasses import dataclass, field, MISSING\n"
        "@dataclass\n"
        "class Common:\n"
        "    seed: int = 1\n"
        "@dataclass\n"
        "class Config:\n"
        "    common: Common = field(default_factory=Common)\n"
        "made = Config.__dataclass_fields__['common']\n"
        "print(made.default is MISSING, made.default_factory is Common, Config() == Config(), Common.__hash__)\n"
    )
    (fork / "utils.py").write_text("def import_user_module(args): print('called', args.user_dir)\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    found = python(
        "import argparse, fairseq.utils as u; u.import_user_module(argparse.Namespace(user_dir='mine'))", tmp_path
    )
    assert found.splitlines() == ["True True True None", "called mine"]


def test_hook_without_the_package_is_silent(tmp_path: Path) -> None:
    from tests.test_install import hook_source

    (tmp_path / "omegaconf.py").write_text("print('imported')\n")
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"{hook_source()}import omegaconf"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.stdout, done.stderr, done.returncode) == ("imported\n", "", 0)


# Errors


def chain(inner: BaseException, outer: BaseException, explicit: bool) -> BaseException:
    try:
        try:
            raise inner
        except BaseException as error:
            if explicit:
                raise outer from error
            raise outer  # noqa: B904  (the implicit chain is what is tested)
    except BaseException as error:
        return error


@pytest.mark.parametrize("explicit", [True, False])
def test_user_error_is_found_in_the_chain(explicit: bool) -> None:
    error = chain(UserError("ticket.json has\n 6 layers"), RuntimeError("boom"), explicit)
    assert compat.user_error_line(error) == "ticket.json has 6 layers"


def test_other_errors_are_not_users() -> None:
    class UserError(Exception):  # another program's
        pass

    assert compat.user_error_line(UserError("x")) is None
    assert compat.user_error_line(chain(KeyError("a"), ValueError("b"), True)) is None
    assert compat.user_error_line(None) is None


def test_user_error_of_a_worker_process() -> None:
    class ProcessRaisedException(Exception):
        pass

    text = (
        "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n"
        '  File "x.py", line 1, in f\nfairseq_tickets.errors.UserError: the ticket does not fit\n'
    )
    assert compat.user_error_line(ProcessRaisedException(text)) == "the ticket does not fit"
    assert compat.user_error_line(ProcessRaisedException("ValueError: UserError")) is None


WRONG_FOLDERS = [
    ("missing", "there is no such folder"),
    ("file.txt", "it is a file, not a folder"),
    ("empty_folder_of_this_test", "it has no __init__.py, so it registers nothing"),
    ("argparse", "another module named argparse is already in use"),
]


@pytest.mark.parametrize(("name", "fault"), WRONG_FOLDERS)
def test_wrong_user_dir(
    tmp_path: Path, import_user_dir: Callable[[Path], None], name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "empty_folder_of_this_test").mkdir()
    (tmp_path / "argparse").mkdir()
    monkeypatch.setattr(argparse, "__path__", [], raising=False)
    with pytest.raises(Exception) as caught:
        import_user_dir(tmp_path / name)
    message = f'--user-dir {tmp_path / name}: {fault}; use --user-dir "$(fairseq-tickets user-dir)"'
    assert compat.user_error_line(caught.value) == message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("fairseq-train", ["data", "--user-dir", "missing"]),
        (
            "fairseq-hydra-train",
            [
                *(
                    "--config-dir",
                    str(PACKAGE.parent / "examples/super_tickets/config"),
                    "--config-name",
                    "super_tickets",
                ),
                *(
                    "common.user_dir=missing",
                    "task.data=x",
                    "checkpoint.save_dir=x",
                    "checkpoint.finetune_from_model=x",
                    "optimization.max_update=2",
                    "lr_scheduler.warmup_updates=1",
                ),
            ],
        ),
    ],
)
def test_wrong_user_dir_is_one_line(run_command, command: str, arguments: list[str]) -> None:  # type: ignore[no-untyped-def]
    done = run_command(command, arguments, PYTHONWARNINGS="ignore")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "user-dir" in line)
    assert line.startswith("fairseq-tickets: error: --user-dir missing: there is no such folder")


@pytest.mark.slow
def test_package_imported_before_fairseq_still_registers(tmp_path: Path) -> None:
    found = python(
        "import argparse, fairseq_tickets, fairseq.utils as u, fairseq.tasks as t;"
        f"u.import_user_module(argparse.Namespace(user_dir={str(PACKAGE)!r}));"
        "print('ticket_sentence_prediction' in t.TASK_REGISTRY)",
        tmp_path,
    )
    assert found.splitlines()[-1] == "True"


def test_hydra_prints_one_line_and_other_errors_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    module = SimpleNamespace(run_and_report=lambda func: func())
    compat._patch_hydra_report(module)
    assert module.run_and_report(lambda: 3) == 3

    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        module.run_and_report(lambda: fail(UserError("no such task")))
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "fairseq-tickets: error: no such task\n"
    with pytest.raises(KeyError):
        module.run_and_report(lambda: fail(KeyError("x")))


def composed(**change: Any) -> Callable[[], None]:
    """hydra's composition of two sections, to which something else is set."""

    def compose() -> None:
        from hydra.errors import ConfigCompositionException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        common = dataclasses.make_dataclass("Common", [("seed", int, 1), ("log_interval", int, 100)])
        sections = [("common", common, dataclasses.field(default_factory=common)), ("dataset", Any, "???")]
        made = OmegaConf.structured(dataclasses.make_dataclass("Config", sections))
        try:
            made.merge_with(OmegaConf.create(change))
        except OmegaConfBaseException as error:
            raise ConfigCompositionException("Error merging 'mine' with schema") from error
        getattr(made, "dataset")  # noqa: B009 - a value that nobody gave

    return compose


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (
            composed(common={"log_intervall": 3}),
            "common has no option log_intervall: did you mean log_interval? its options are seed, log_interval",
        ),
        (
            composed(commn={"seed": 3}),
            "the config has no section commn: did you mean common? its sections are common, dataset",
        ),
        (composed(common={"seed": "x"}), "common.seed: Value 'x' could not be converted to Integer"),
        (composed(), "dataset: Missing mandatory value: dataset"),
    ],
)
def test_what_hydra_can_not_compose_is_one_line(
    run: Callable[[], None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import fairseq  # noqa: F401 - of other programs that use hydra nothing changes

    module = SimpleNamespace(run_and_report=lambda func: func())
    compat._patch_hydra_report(module)
    with pytest.raises(SystemExit):
        module.run_and_report(run)
    assert capsys.readouterr().err == f"fairseq-tickets: error: {says}\n"


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("print(1)", True),
        ("[(512, 10, 5)] + [f(3)]", True),
        ("[x for x in [1]]", True),
        ("f'{1}'", True),
        ("9**9**9", True),
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4", False),
        ("(0.9, 0.98)", False),
        ("gelu", False),
        ("/data/some folder (new)", False),
        ("", False),
    ],
)
def test_options_that_call_are_refused_and_others_are_not(text: str, runs: bool) -> None:
    options = argparse.Namespace(arch="wav2vec2", nested={"deep": [{"conv_feature_layers": text}]}, user_dir="mine")
    if runs:
        with pytest.raises(compat.UserError, match="is Python that fairseq would run"):
            compat._refuse_calls(options, "x.pt")
    else:
        compat._refuse_calls(options, "x.pt")
        assert options.user_dir is None


def test_stock_fairseq_runs_no_option_of_a_checkpoint(tmp_path: Path) -> None:
    """Without the plugin: RobertaModel.from_pretrained on a checkpoint that names wav2vec."""
    code = """
import torch
model = {"_name": "wav2vec2", "conv_feature_layers": "open('RAN', 'w')"}
cfg = {"model": model, "task": {"_name": "masked_lm"}}
torch.save({"args": None, "cfg": cfg, "model": {}, "optimizer_history": [{}], "extra_state": {}}, "model.pt")
from fairseq.models.roberta import RobertaModel
try:
    RobertaModel.from_pretrained(".", "model.pt")
except Exception as error:
    print(type(error).__name__, error)
"""
    assert "UserError checkpoint ./model.pt is refused: its option" in python(code, tmp_path)
    assert not (tmp_path / "RAN").exists()


def test_arguments_that_lack_a_flag_take_it_from_where_it_stands(tmp_path: Path) -> None:
    """Arguments as an old checkpoint has them: fairseq writes a reference to a flag as True."""
    code = """
from argparse import Namespace
import fairseq_tickets.plugin
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
names = {"task": "ticket_sentence_prediction", "arch": "roberta_base", "data": "data"}
cfg = convert_namespace_to_omegaconf(Namespace(criterion="ticket_sentence_prediction", cpu=True, **names))
print(cfg.task.bf16, cfg.task.amp, cfg.task.regression_target, cfg.task.cpu, cfg.task.seed)
try:
    convert_namespace_to_omegaconf(Namespace(criterion="cross_entropy", **names))
except Exception as error:
    print(type(error).__name__, error)
"""
    flags, refused = python(code, tmp_path).splitlines()
    assert flags == "False False False True 1"
    assert refused.startswith("UserError --task ticket_sentence_prediction needs a --criterion with the option ")
    assert refused.endswith("--criterion is cross_entropy; the usual one is --criterion ticket_sentence_prediction")


def test_a_task_that_is_not_given() -> None:
    def parse(*_: object) -> None:
        raise KeyError(None)

    module = argparse.Namespace(parse_args_and_arch=parse)
    compat._patch_help(module)
    with pytest.raises(compat.UserError, match="--task is not given; .* --task ticket_sentence_prediction"):
        module.parse_args_and_arch(argparse.ArgumentParser(), ["data"])


LOGGING = [
    ({"handlers": {"x": {"()": "os.makedirs", "name": "RAN"}}}, r"\(\) 'os.makedirs' is refused"),
    ({"handlers": {"x": {"class": "logging.os.system", "command": "true"}}}, "class 'logging.os.system' is refused"),
    ({"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://os.environ"}}}, "ext://os.environ"),
    ({"filters": [{"()": "subprocess.Popen"}]}, "is refused"),
    ({"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}}}, None),
    ({"handlers": {"x": {"class": "logging.handlers.MemoryHandler"}}}, None),
]


@pytest.mark.parametrize(("settings", "said"), LOGGING)
def test_hydras_logging_makes_handlers_alone(settings: dict[str, object], said: str | None) -> None:
    given = []
    module = argparse.Namespace(configure_log=lambda config: given.append(config))
    compat._patch_logging(module)
    if said is None:
        module.configure_log(settings)
        assert given == [settings]
    else:
        with pytest.raises(compat.UserError, match=said):
            module.configure_log(settings)
        assert not given


def test_plugin_scan_without_find_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hydra's own two calls, on finders that no longer have them (as on Python 3.12)."""
    import importlib.machinery
    import pkgutil
    from types import SimpleNamespace

    folder = tmp_path / "plugins_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "one.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delattr(importlib.machinery.FileFinder, "find_module", raising=False)
    module = SimpleNamespace(pkgutil=pkgutil)
    compat._patch_plugin_scan(module)
    found = [
        importer.find_module(name).load_module(name).value
        for importer, name, _ in module.pkgutil.walk_packages(path=[str(folder)], prefix="plugins_of_a_test.")
    ]
    assert found == [7]
    assert module.pkgutil is not pkgutil


def test_dataclasses_of_this_test_run_are_intact() -> None:
    @dataclasses.dataclass
    class Plain:
        x: int = 1

    assert Plain() == Plain() and Plain.__hash__ is None
