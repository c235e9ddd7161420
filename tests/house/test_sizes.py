"""Files, functions and names stay small and plain; every module has its test."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.sources import PACKAGES, ROOT, modules, place, tracked, tree

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_NESTING = 3
MAX_ARGUMENTS = 6
LONG_FILES: dict[str, str] = {
    "mfm_core/config.py": "one tree of settings and its one reader",
}
"""Files over the limit: path to reason."""
LONG_FUNCTIONS: dict[str, str] = {
    "simulation/benchmark.py::bench_step": "half of it is the rows of the table, written out",
}
"""Functions over a limit: path::name to reason."""
MANY_ARGUMENTS: dict[str, str] = {
    "mfm_core/private_training.py::train_privately": "the arguments of train, and three more",
    "mfm_core/pretraining.py::pretrain": "the arguments of train, and the tasks",
    "mfm_core/training.py::train": "what differs from call to call stays visible as keywords",
    "strategies/strategy.py::start": "overrides Flower's method; the signature is Flower's",
    "simulation/commands_federations.py::federations": "its arguments are the command line",
    "simulation/commands_pretraining.py::pretrain": "its arguments are the command line",
    "simulation/flops.py::_convolution_backward": "called by torch with torch's own arguments",
}
"""Functions with more arguments than MAX_ARGUMENTS: path::name to reason."""
BARRED = {
    *("utils", "util", "helpers", "helper", "common", "base", "manager", "handler", "misc"),
    *("statistics", "types", "logging"),
}
TESTED_ELSEWHERE = {
    "client/child.py": "tests/client/test_worker.py",
    "client/leak_attacks.py": "tests/client/test_leak_audit.py",
    "mfm_core/image_cache.py": "tests/mfm_core/test_dataset.py",
    "mfm_core/linear_path.py": "tests/mfm_core/test_patches.py",
    "mfm_core/optimiser.py": "tests/mfm_core/test_training.py",
    "mfm_core/raster.py": "tests/mfm_core/test_images.py",
    "server/card_items.py": "tests/server/test_model_card.py",
    "server/card_principles.py": "tests/server/test_model_card.py",
    "server/card_sections.py": "tests/server/test_model_card.py",
    "server/hosted_run.py": "tests/server/test_commands_hosting.py",
    "server/hosted_status.py": "tests/server/test_commands_hosting.py",
    "server/release_content.py": "tests/server/test_release_check.py",
    "server/release_files.py": "tests/server/test_release_check.py",
    "server/run_status.py": "tests/server/test_commands.py",
    "server/superlink.py": "tests/server/test_supervisor.py",
    "simulation/federation_cost.py": "tests/simulation/test_benchmark.py",
    "simulation/flops.py": "tests/simulation/test_benchmark.py",
    "simulation/guard.py": "tests/simulation/test_engine.py",
    "simulation/jobs.py": "tests/simulation/test_baselines.py",
    "simulation/stopwatch.py": "tests/simulation/test_benchmark.py",
    "simulation/study.py": "tests/simulation/test_main.py",
    "simulation/table_page.py": "tests/simulation/test_table_study.py",
}
"""Modules whose tests stand in the file of their only user: module to test file."""
MIN_LINES_FOR_A_TEST = 30

Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(function: Function) -> int:
    """Return a function's lines without its docstring."""
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is None:
        return length
    return length - ((first.end_lineno or first.lineno) - first.lineno + 1)


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Return how deep if, for, while, with and try stand in each other; elif adds nothing."""
    deepest = depth
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, Function | ast.ClassDef):
                continue
            blocks = ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Match
            elif_ = name == "orelse" and isinstance(node, ast.If) and isinstance(child, ast.If)
            deeper = isinstance(child, blocks) and not elif_
            deepest = max(deepest, nesting(child, depth + deeper))
    return deepest


def arguments(function: Function) -> int:
    """Return the number of arguments, `self` and `cls` not counted."""
    listed = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in listed)


def functions() -> list[tuple[str, Path, Function]]:
    found = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, Function):
                found.append((f"{path.relative_to(ROOT)}::{node.name}", path, node))
    return found


def is_command(function: Function) -> bool:
    """Tell whether a function is a typer command: its arguments are the command line."""
    return any("command" in ast.unparse(mark) for mark in function.decorator_list)


def test_files_are_short() -> None:
    wrong = []
    for path in [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES and str(path.relative_to(ROOT)) not in LONG_FILES:
            wrong.append(f"{path.relative_to(ROOT)} has {lines} lines")
    assert not wrong, "\n".join(wrong)


def test_functions_are_short_flat_and_take_few_arguments() -> None:
    wrong = []
    for name, path, function in functions():
        where = place(path, function.lineno)
        if name not in LONG_FUNCTIONS and code_lines(function) > MAX_FUNCTION_LINES:
            wrong.append(f"{where} {function.name}: {code_lines(function)} lines")
        if name not in LONG_FUNCTIONS and nesting(function) > MAX_NESTING:
            wrong.append(f"{where} {function.name}: nested {nesting(function)} deep")
        allowed = name in MANY_ARGUMENTS or is_command(function)
        if not allowed and arguments(function) > MAX_ARGUMENTS:
            wrong.append(f"{where} {function.name}: {arguments(function)} arguments")
    assert not wrong, "\n".join(wrong)


def test_exceptions_are_still_needed() -> None:
    known = {name for name, _, _ in functions()}
    assert set(LONG_FUNCTIONS) | set(MANY_ARGUMENTS) <= known
    assert all(
        (ROOT / name).is_file()
        for name in [*LONG_FILES, *TESTED_ELSEWHERE, *TESTED_ELSEWHERE.values()]
    )


def test_no_file_has_a_name_that_says_nothing() -> None:
    wrong = [path for path in tracked() if path.suffix == ".py" and path.stem in BARRED]
    assert not wrong


def test_every_module_has_a_mirrored_test() -> None:
    missing = []
    for path in modules(*PACKAGES):
        name = str(path.relative_to(ROOT))
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines <= MIN_LINES_FOR_A_TEST or path.name == "__init__.py" or name in TESTED_ELSEWHERE:
            continue
        stems = ("commands", "main") if path.stem == "__main__" else (path.stem,)
        home = ROOT / "tests" / path.parent.name
        if not any((home / f"test_{stem}.py").is_file() for stem in stems):
            missing.append(f"{name}: tests/{path.parent.name}/test_{stems[0]}.py is missing")
    assert not missing, "\n".join(missing)
