"""The program is found, is of the right version, and its errors become ours."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest

import ptycho_gpu
from ptycho_gpu import _binary

from conftest import FIXTURE


def test_an_argument_wins_over_the_environment(program, monkeypatch):
    monkeypatch.setenv(ptycho_gpu.VARIABLE, "/nowhere/ptycho-gpu")
    assert ptycho_gpu.find_binary(program("exit 0")) == program("exit 0").resolve()


def test_a_missing_program_is_said_with_who_named_it(monkeypatch):
    with pytest.raises(ptycho_gpu.BinaryNotFound, match="/nowhere/at-all.*argument `binary`"):
        ptycho_gpu.find_binary("/nowhere/at-all")
    monkeypatch.setenv(ptycho_gpu.VARIABLE, "/nowhere/ptycho-gpu")
    with pytest.raises(ptycho_gpu.BinaryNotFound, match=f"/nowhere/ptycho-gpu.*{ptycho_gpu.VARIABLE}"):
        ptycho_gpu.infer("model", "scan")


def test_without_any_program_the_error_says_what_to_do(monkeypatch):
    monkeypatch.delenv(ptycho_gpu.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(_binary, "_installed", lambda: None)
    with pytest.raises(ptycho_gpu.BinaryNotFound, match="install a wheel.*PTYCHO_GPU_BIN"):
        ptycho_gpu.find_binary()


def test_the_path_is_looked_at_last(program, monkeypatch, tmp_path):
    program("exit 0").rename(tmp_path / "ptycho-gpu")
    monkeypatch.delenv(ptycho_gpu.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(_binary, "_installed", lambda: None)
    assert ptycho_gpu.find_binary() == (tmp_path / "ptycho-gpu").resolve()


def test_another_version_is_refused_once_and_clearly(program):
    other = program("exit 0", "ptycho-gpu 9.9.9")
    with pytest.raises(ptycho_gpu.VersionMismatch, match=f"9.9.9.*{ptycho_gpu.__version__}"):
        ptycho_gpu.find_binary(other)


@pytest.mark.parametrize("said", ["GNU something 1.0", ""])
def test_another_program_is_not_called(program, said):
    with pytest.raises(ptycho_gpu.BinaryNotFound, match="is not the ptycho-gpu program"):
        ptycho_gpu.find_binary(program("exit 0", said))


def test_a_file_that_cannot_be_run_is_said(tmp_path):
    (tmp_path / "text").write_text("no program")
    with pytest.raises(ptycho_gpu.BinaryNotFound, match="text.*cannot be run"):
        ptycho_gpu.find_binary(tmp_path / "text")


def test_the_message_of_a_failing_program_becomes_the_exception(program):
    failing = program('echo "reading" >&2; echo "error: the scan is empty:\n       add patterns" >&2; exit 1')
    with pytest.raises(ptycho_gpu.CommandFailed) as caught:
        ptycho_gpu.infer(FIXTURE, FIXTURE, binary=failing)
    assert str(caught.value) == "the scan is empty:\n       add patterns"
    assert caught.value.returncode == 1
    assert caught.value.command[1] == "infer" and "reading" in caught.value.stderr


def test_a_program_that_fails_without_a_word_is_told_from_one_that_was_ended(program):
    with pytest.raises(ptycho_gpu.CommandFailed, match="status 3.*said nothing"):
        ptycho_gpu.infer(FIXTURE, FIXTURE, binary=program("exit 3"))
    with pytest.raises(ptycho_gpu.CommandFailed, match="signal 9"):
        ptycho_gpu.infer(FIXTURE, FIXTURE, binary=program("kill -9 $$"))


def test_an_error_passes_from_one_process_to_another():
    error = ptycho_gpu.CommandFailed("no", ["ptycho-gpu", "infer"], 1, "error: no")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.command, back.returncode, back.stderr) == (
        "no", ["ptycho-gpu", "infer"], 1, "error: no"
    )


def test_the_real_program_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(ptycho_gpu.CommandFailed, match="--colour") as caught:
        ptycho_gpu.train(FIXTURE, tmp_path / "run", colour="red")
    assert caught.value.returncode == 2
    with pytest.raises(ptycho_gpu.CommandFailed, match="--batch-size is 0") as caught:
        ptycho_gpu.train(FIXTURE, tmp_path / "run", batch_size=0)
    assert caught.value.returncode == 1
    assert not (tmp_path / "run").exists()


def test_options_become_flags():
    given = {"a_b": 3, "rate": 1e-5, "none": None, "on": True, "off": False, "many": ["x", "y"]}
    wanted = ["--a-b=3", "--rate=1e-05", "--on", "--many=x", "--many=y"]
    assert _binary.flags(given, explicit_false=False) == wanted
    assert "--off=false" in _binary.flags(given, explicit_false=True)
    with pytest.raises(TypeError, match="strange"):
        _binary.flags({"strange": object()}, explicit_false=True)


def test_every_line_is_passed_on_at_its_level(program, caplog):
    caplog.set_level("INFO", logger="ptycho_gpu")
    lines = []
    talking = program('echo "epoch 1" >&2; echo "warning: dim" >&2; echo "{\\"a\\": 1}"')
    assert _binary.run(["train"], binary=talking, on_line=lines.append) == {"a": 1}
    assert lines == ["epoch 1", "warning: dim"]
    assert [(r.levelname, r.message) for r in caplog.records] == [("INFO", "epoch 1"), ("WARNING", "dim")]


def _call(path: str, pid_file: str) -> None:
    _binary.run(["train", pid_file], binary=path)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal to orphans")
def test_the_program_ends_with_the_process_that_called_it(program, tmp_path):
    endless = program('echo $$ > "$2.new"; mv "$2.new" "$2"; exec sleep 600')
    pid_file = tmp_path / "pid"
    child = multiprocessing.get_context("spawn").Process(target=_call, args=(str(endless), str(pid_file)))
    child.start()
    pid = int(_wait_for(lambda: pid_file.is_file() and pid_file.read_text()))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert _wait_for(lambda: not _runs(pid))


def _wait_for(what):
    """The first true answer."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        answer = what()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


def _runs(pid: int) -> bool:
    """Whether there is such a process, and it is no mere entry for a parent that does not ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
