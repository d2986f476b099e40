"""`unflow unlearn`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_batch_rows, add_run, add_settings, flag_recipe, list_methods, peek
from unflow.commands.loggers import Logger, make_loggers
from unflow.commands.option_groups import DataOptions, ModelOptions, RequestOptions, TrainingOptions
from unflow.commands.plan import select_samples
from unflow.commands.run_folders import CONFIG, run_folder
from unflow.commands.settings import METHODS
from unflow.commands.sight import Findings
from unflow.ground.errors import InputError
from unflow.ground.files import read_yaml
from unflow.ground.locks import is_first_process
from unflow.unlearning.defaults import AUTO, default_method

if TYPE_CHECKING:  # the help of a command must not wait for torch
    from unflow.data import LabelledData
    from unflow.models import GenerativeModel
    from unflow.target import Target
    from unflow.training.method import Method
    from unflow.unlearning.problems import RealSamples


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; those of ``settings`` depend on the method."""
    rest = flag_recipe(arguments)
    add_run(parser, run, skip={"settings"}, defaults={"data": None})
    parser.epilog = list_methods()
    add_batch_rows(parser)
    if peek("method", rest) is None:
        rest = [*rest, "--method", default_method(name_family(peek("model", rest)))]
    if peek("method", rest) == AUTO:
        refuse_settings(rest)
        return rest
    add_settings(parser, peek("method", rest), METHODS)
    return rest


def refuse_settings(arguments: Sequence[str]) -> None:
    """Raise InputError for settings of a method that the plan chooses."""
    given = [word.partition("=")[0] for word in arguments if word.startswith("--settings")]
    if given:
        raise InputError(
            f"got {given[0]} with --method auto, which chooses a method with its default settings; expected "
            "a named method: write --method NAME, or leave the settings out"
        )


def name_family(model: str | None) -> str:
    """Return the family of the named model; "flow" without one."""
    if model is None:
        return "flow"
    from unflow.foreign import family_of

    return family_of(model)


def run(
    original: ModelOptions,
    request: RequestOptions,
    rows: DataOptions,
    computing: TrainingOptions,
    out: Path,
    settings: Method | None = None,
    method: str | None = None,
    teacher: Path | None = None,
    seed: int = 0,
    devices: int = 1,
    logger: Logger = "none",
    self_measure: int | None = None,
    require: str | None = None,
) -> int:
    """Make a model forget classes.

    The last line says whether it did, by fresh samples and the guide: "forgot", "did not forget", "cannot
    know", and what else changed.

    Args:
        original: the model.
        request: what to forget.
        rows: real samples, for methods that read them; with a split, those of its training part.
        computing: how the training runs.
        out: folder of the new bundle; the same command continues a run that was stopped.
        settings: hyper-parameters of the method.
        method: name of a method, listed below; auto: the first of unflow plan, found by short trials; by
            default energy_guidance for a flow and residual_matching for a one-step model.
        teacher: bundle of a flow: a retrained one, from which the method retrained distils a flow map, or the
            conditional one for sfd.
        seed: random seed, >= 0.
        devices: number of data-parallel processes.
        logger: csv, tensorboard or wandb (`pip install 'unflow[tensorboard]'`) also logs to OUT/logs.
        self_measure: fresh samples for the last line, >= 100; by default 2000, for a flow 1000; 0: none.
        require: properties of the result, among forgotten, sharp, diverse and kept, like forgotten,sharp;
            exit code 1, after the bundle is written, if one does not hold.
    """
    import torch

    from unflow.foreign import list_energy_data, load_model
    from unflow.ground.streams import check_seed
    from unflow.methods import INSTALLED
    from unflow.models import inner_model
    from unflow.training.method import Problem
    from unflow.training.method import settings as plain_settings
    from unflow.unlearning.unlearn import unlearn
    from unflow.unlearning.verdict import check_requirements

    torch.set_num_threads(1)
    assert method is not None  # ``add_arguments`` sets the default
    check_seed(seed)
    required = check_requirements([] if require is None else [each.strip() for each in require.split(",")])
    request = request.with_numbers(rows)
    model = original.load(request.trust_code)
    retrained = None if teacher is None else load_model(teacher, request.trust_code)
    if settings is None:
        method = choose_method(model, request, rows, computing, retrained, seed, out)
        settings = INSTALLED[method]
    reads = settings.reads(Problem(model=inner_model(model), teacher=retrained))
    target = request.target(model, is_read="target" in reads)
    check_teacher(settings, target, method, retrained)
    data, labelled = load_samples(settings, target, request, rows, method, retrained)
    findings = Findings("unlearn")
    if request.energy is not None:
        findings.add_guide(target, seed, labelled)
    record = {
        "command": "unlearn",
        **original.record(),
        **request.record(),
        "method": method,
        "settings": plain_settings(settings),
        **rows.record(),
        "teacher": None if teacher is None else str(teacher),
        "seed": seed,
        **computing.record(),
    }
    with run_folder(out, record):
        result = unlearn(
            target,
            settings,
            out,
            seed=seed,
            name=method,
            data=data,
            teacher=retrained,
            guide_data=() if request.energy is None else list_energy_data(request.specification),
            compute=computing.compute(devices, make_loggers(logger, out)),
            train_only=computing.patterns,
            adapters=computing.adapters,
            one_label=computing.one_label,
            self_measure=self_measure,
            on_step=lambda _: findings.say(),
        )
        findings.say()
    if is_first_process():
        print(f"model: {out} ({result.lineage['seconds']:.1f} s)")
        print(result.verdict)
        return 1 if result.list_failures(required) else 0
    return 0


def choose_method(
    model: GenerativeModel,
    request: RequestOptions,
    rows: DataOptions,
    computing: TrainingOptions,
    teacher: GenerativeModel | None,
    seed: int,
    out: Path,
) -> str:
    """Return the first method of a plan; that of the run in ``out``, if there is one."""
    from unflow.methods import INSTALLED
    from unflow.unlearning.planning import choose_method
    from unflow.unlearning.problems import RealSamples

    started = read_yaml(out / CONFIG) if (out / CONFIG).is_file() else None
    if isinstance(started, dict) and started.get("method") in INSTALLED:
        return str(started["method"])
    found = choose_method(
        request.target(model),
        data=RealSamples() if rows.data is None else select_samples(request, rows),
        teacher=teacher,
        compute=computing.compute(),
        seed=seed,
        train_only=computing.patterns,
        adapters=computing.adapters,
        one_label=computing.one_label,
    )
    if is_first_process():
        print(f"method: {found.method}, the first of the plan")
    return found.method


def check_teacher(settings: Method, target: Target, method: str, teacher: GenerativeModel | None) -> None:
    """Raise InputError for a teacher that the method does not read."""
    from unflow.models import inner_model
    from unflow.training.method import Problem

    problem = Problem(model=inner_model(target.model), teacher=teacher)
    if teacher is not None and "teacher" not in settings.reads(problem):
        raise InputError(
            f"got --teacher for {method}, which reads none for a model of the family {target.model.family}; "
            "expected it for the methods retrained and sfd on a one-step model: leave --teacher out"
        )


def load_samples(
    settings: Method,
    target: Target,
    request: RequestOptions,
    rows: DataOptions,
    method: str,
    teacher: GenerativeModel | None,
) -> tuple[RealSamples, LabelledData | None]:
    """Return the real samples that a method reads, and labelled samples that measure the guide.

    Raises:
        InputError: for a model that the method does not train; for missing data or classes, if it reads some.
    """
    from unflow.models import inner_model
    from unflow.training.method import Problem
    from unflow.unlearning.problems import RealSamples, select_real_samples

    model = inner_model(target.model)
    settings.check_model(model)
    reads = settings.reads(Problem(model=model, teacher=teacher)) & {"retain", "forget"}
    if rows.data is None and reads:
        raise InputError(
            f"got no --data, and {method} reads real samples; expected some: write --data digits, and "
            "--split split.json to use only its training part"
        )
    if rows.data is None:
        return RealSamples(), None
    train, held_out = (rows.part("train"), None) if rows.split is None else rows.parts("train", "held_out")
    classes = request.require_classes(method) if reads else ()
    samples = select_real_samples(settings, target, classes, train, held_out, teacher)
    return samples, train if held_out is None else held_out
