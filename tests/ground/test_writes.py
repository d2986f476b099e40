"""A law over the source: every file is written by the atomic writers of ``ground/files.py``."""

import ast
from pathlib import Path

import pytest

import unflow

SOURCE = Path(unflow.__file__).parent
WRITERS = {
    "write_text",
    "write_bytes",
    "savez",
    "savez_compressed",
    "savetxt",
    "tofile",
    "savefig",
    "imsave",
    "save",
    "save_file",
    "dump",
    "safe_dump",
    "to_csv",
    "to_json",
    "copyfile",
    "copy2",
    "copytree",
    "move",
    "rename",
    "replace",
    "symlink_to",
    "hardlink_to",
    "save_pretrained",
    "NamedTemporaryFile",
    "mkstemp",
    "writestr",
}
"""Methods of other packages that write a file, unless their first argument is a buffer in memory."""
ALLOWED = {
    ("ground/files.py", "write_bytes", "open"),  # the atomic writer
    ("ground/files.py", "write_bytes", "replace"),
    ("ground/files.py", "append_json_line", "open"),  # a truncated last line is ignored when it is read
    ("ground/locks.py", "_open_locked", "os.open"),  # the lock file has no content that a result depends on
    (
        "disk/diffusers/saving.py",
        "save_diffusers",
        "save_pretrained",
    ),  # diffusers' own; index is written last
    ("disk/diffusers/saving.py", "_write_pipeline", "save_pretrained"),
}
"""File, function and call of the only exceptions."""


def find_writes(tree: ast.Module) -> set[tuple[str, str]]:
    """Return (function, call) of all calls that may write a file in place."""
    found = set()
    for function in (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)):
        buffers = {
            target.id
            for each in ast.walk(function)
            if isinstance(each, ast.Assign) and ast.unparse(each.value) in ("io.BytesIO()", "io.StringIO()")
            for target in each.targets
            if isinstance(target, ast.Name)
        }
        for call in (each for each in ast.walk(function) if isinstance(each, ast.Call)):
            found |= {(function.name, name) for name in _name_write(call, buffers)}
    return found


def _name_write(call: ast.Call, buffers: set[str]) -> list[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    arguments = {each.id for each in call.args if isinstance(each, ast.Name)}
    texts = [each.value for each in call.args if isinstance(each, ast.Constant)]
    texts += [each.value.value for each in call.keywords if isinstance(each.value, ast.Constant)]
    if name == "open" and ast.unparse(call.func) == "os.open":
        return ["os.open"]
    if name == "open":
        return (
            ["open"]
            if any(isinstance(text, str) and set(text) & set("wax+") and len(text) < 4 for text in texts)
            else []
        )
    if not isinstance(call.func, ast.Attribute) or name not in WRITERS or arguments & buffers:
        return []
    owner = ast.unparse(call.func.value)
    if owner in ("bundle", "yaml", "dataclasses") or (name == "replace" and len(call.args) != 1):
        return []  # unflow's own writer, a text, and str.replace or a copy
    return [name]


def test_every_file_is_written_atomically() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), *write)
        for path in SOURCE.rglob("*.py")
        for write in find_writes(ast.parse(path.read_text()))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "path.open('wb')",
        "path.open(mode='a')",
        "np.savez(path, x=x)",
        "plt.imsave(path, x)",
        "figure.savefig(path)",
        "path.write_text('')",
        "json.dump(x, file)",
        "image.save(path)",
        "torch.save(x, path)",
        "temporary.replace(path)",
        "shutil.move(a, b)",
        "net.save_pretrained(folder)",
        "os.open(path, flags)",
    ],
)
def test_the_law_finds_a_write_in_place(line: str) -> None:
    assert find_writes(ast.parse(f"def write():\n    {line}"))


def test_the_law_lets_a_buffer_pass() -> None:
    text = (
        "def write():\n    buffer = io.BytesIO()\n    figure.savefig(buffer)\n    write_bytes(path, buffer)"
    )
    assert not find_writes(ast.parse(text))
