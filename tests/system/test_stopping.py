"""A run that is told to stop saves a checkpoint and ends."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from hf_mingpt.system import command_line, stopping
from hf_mingpt.system.stopping import StopSignal
from hf_mingpt.training import loop

from ..conftest import ROOT, script_environment
from ..training.small_runs import saved_steps, small_steps, train_small


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    monkeypatch.setattr(stopping, "find_launcher", lambda: None)


def at_step(monkeypatch, step: int, act) -> None:
    """Calls a function in the middle of a step."""
    real, calls = loop.count_tokens, iter(range(1, 1000))

    def count_tokens(*batch):
        if next(calls) == step:
            act()
        return real(*batch)

    monkeypatch.setattr(loop, "count_tokens", count_tokens)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_a_checkpoint(tmp_path, monkeypatch, number, code):
    at_step(monkeypatch, 3, lambda: (signal.raise_signal(number), signal.raise_signal(number)))
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        train_small(tmp_path, small_steps(), max_steps=4)
    assert (end.value.code, saved_steps(tmp_path)) == (code, {3})
    assert signal.getsignal(number) == handler


def test_a_second_ctrl_c_ends_the_process_at_once(monkeypatch):
    now, raised = [0.0], []
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(stopping.signal, "raise_signal", raised.append)
        now[0] = 0.5
        stop._receive(signal.SIGINT, None)  # the same Ctrl-C, sent to the process group as well
        assert not raised
        now[0] = 2.0
        stop._receive(signal.SIGTERM, None)
        assert not raised
        stop._receive(signal.SIGINT, None)
        assert raised == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_one_process_asks_no_other_one():
    """So that a run on a GPU can ask after each step."""
    alone = SimpleNamespace(num_processes=1)
    with StopSignal() as stop:
        assert stop.received_by_any(alone) == 0
        signal.raise_signal(signal.SIGTERM)
        assert stop.received_by_any(alone) == signal.SIGTERM


@pytest.mark.parametrize("reaped", [True, False])
def test_the_end_of_the_launcher_saves_a_checkpoint(tmp_path, monkeypatch, reaped):
    launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def kill():
        launcher.kill()
        if reaped:
            launcher.wait()
        else:
            os.waitid(os.P_PID, launcher.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(stopping, "find_launcher", lambda: psutil.Process(launcher.pid))
    at_step(monkeypatch, 2, kill)
    with pytest.raises(SystemExit) as end:
        train_small(tmp_path, small_steps(), max_steps=4)
    launcher.communicate()
    assert (end.value.code, saved_steps(tmp_path)) == (143, {2})


def test_without_a_launcher_the_end_of_the_shell_does_not_stop_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)  # the shell that started it has been closed
    _, log = train_small(tmp_path, small_steps(), max_steps=4)
    assert len(log) == 4


def test_ctrl_c_in_a_script_prints_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    command_line._prepare_terminal()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.endswith(": interrupted.\n")


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        (["accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"], signal.SIGTERM),
        (["torch.distributed.run", "--standalone", "--nproc_per_node", "2"], signal.SIGKILL),
    ],
)
def test_killing_the_launcher_ends_all_processes(tmp_path, text_file, launcher, number):
    """Two processes on a CPU join each other without --use_cpu."""
    folder = tmp_path / "run"
    script = [ROOT / "scripts/pretrain.py", "--train_file", text_file, "--output_dir", folder]
    script += ["--model_preset", "gpt-nano", "--per_device_train_batch_size", "4", "--logging_steps", "1"]
    command = list(map(str, [sys.executable, "-m", *launcher, *script, "--max_steps", "1000000"]))
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=script_environment(), stdout=log, stderr=log)
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 2):
        time.sleep(0.1)
    trained = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait()
    assert trained
    psutil.wait_procs(trained)  # without a timeout: the machine may be busy
    (step,) = saved_steps(folder)
    assert step > 2
    assert not (folder / "model.safetensors").exists()
