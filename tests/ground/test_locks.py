"""Laws of locks: one process at a time writes into a folder, and no lock outlives its process."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unflow.ground.errors import InputError
from unflow.ground.locks import LOCK, lock_file, lock_folder, locks_output

HOLD = """
import sys, time
from unflow.ground.locks import lock_folder
with lock_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_in_one_sentence_with_the_process(tmp_path: Path, holder) -> None:
    words = rf"run is in use by the process {holder.pid} on .*; expected one"
    with pytest.raises(InputError, match=words), lock_folder(tmp_path / "run"):
        raise AssertionError("two processes hold one lock")


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, holder) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / LOCK).is_file()
    with lock_folder(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_the_processes_of_one_command_share_its_lock(
    tmp_path: Path, holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with lock_folder(tmp_path / "run"):
        pass
    assert holder.poll() is None
    assert (tmp_path / "run" / LOCK).is_file()


def test_a_lock_leaves_nothing_behind_and_keeps_results(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []
    with lock_folder(tmp_path / "a"):
        (tmp_path / "a" / "result").touch()
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["result"]
    with lock_file(tmp_path / "file.json"):
        assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [f".file.json{LOCK}"]
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_one_thread_may_take_its_lock_again_and_another_may_not(tmp_path: Path) -> None:
    refused = []

    def take() -> None:
        try:
            with lock_folder(tmp_path):
                pass
        except InputError as error:
            refused.append(str(error))

    with lock_folder(tmp_path), lock_folder(tmp_path):
        other = threading.Thread(target=take)
        other.start()
        other.join()
    assert len(refused) == 1
    take()
    assert len(refused) == 1


def test_a_process_that_waits_gets_the_lock_when_its_holder_ends(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code = HOLD.replace("lock_folder", "lock_file").replace("time.sleep(60)", "time.sleep(0.5)")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run" / "x")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    with lock_file(tmp_path / "run" / "x", wait=True):
        pass
    assert process.wait() == 0
    process.stdout.close()


def test_many_processes_never_hold_one_lock_together(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from unflow.ground import locks
from unflow.ground.locks import lock_file
locks.PAUSE = 0.001
counter = Path(sys.argv[1], "counter")
for _ in range(100):
    with lock_file(counter, wait=True):
        counter.write_text(str(int(counter.read_text()) + 1))
"""
    (tmp_path / "counter").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "300"
    assert [each.name for each in tmp_path.iterdir()] == ["counter"]


def test_without_locks_of_the_system_nothing_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with lock_folder(tmp_path / "run"):
        (tmp_path / "run" / "result").touch()
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["result"]


def test_a_function_holds_the_lock_of_its_output(tmp_path: Path) -> None:
    @locks_output
    def save(name: str, out: Path | None = None) -> bool:
        return out is not None and (Path(out) / LOCK).is_file()

    assert save("a", tmp_path)
    assert save("a", out=tmp_path)
    assert not save("a")
    with pytest.raises(TypeError):
        save()  # type: ignore[call-arg]
