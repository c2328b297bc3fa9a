"""What the surroundings ask for is honoured or refused, and what they lack changes nothing."""

import ast
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets.config
import evaluate
import psutil
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents, encode_questions, group_into_blocks
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.masking_policy import AnswerPolicy, LearnedPolicy
from hf_mingpt.data.objectives import (
    NextTokenPrediction,
    QuestionAnswering,
    RandomWindow,
    SalientSpanMasking,
    SpanCorruption,
)
from hf_mingpt.data.questions import read_questions
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.data.steps import Mixture, StreamedSteps, TrainingSteps
from hf_mingpt.evaluation import scoring
from hf_mingpt.hub import run_folders
from hf_mingpt.system import command_line, launching, writing
from hf_mingpt.system.command_line import parse_recipe
from hf_mingpt.system.launching import join_processes, launcher_settings
from hf_mingpt.training import loop, setup
from hf_mingpt.training.loop import train
from hf_mingpt.training.presets import PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.setup import build_accelerator

from ..conftest import LINES, small_model

ROOT = Path(__file__).parents[2]
NOWHERE = Path("/proc/nowhere")  # where nobody can make a file, root included
TINY = {"train_file": "x", "use_cpu": True, "mixed_precision": "no", "logging_steps": 1, "dropout": 0.0}


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(launching, "find_launcher", lambda: None)
    monkeypatch.setattr(os, "getppid", lambda: 2)


def asked(monkeypatch, *argv, **environment) -> PretrainRecipe:
    """The recipe of a command line in an environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, ["--train_file", "t", "--output_dir", "o", *argv])


class TestLauncher:
    @pytest.mark.parametrize(
        ("variable", "value", "field", "expected", "flag"),
        [
            ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision", "bf16", "no"),
            ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision", "fp16", "no"),
            ("ACCELERATE_MIXED_PRECISION", "no", "mixed_precision", "no", "bf16"),
            ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7", "gradient_accumulation_steps", 7, "3"),
            ("ACCELERATE_GRADIENT_CLIPPING", "0.5", "max_grad_norm", 0.5, "2"),
            ("ACCELERATE_USE_CPU", "True", "use_cpu", True, "false"),
            ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "torch_compile", True, "false"),
        ],
    )
    def test_a_setting_is_the_flag_between_file_and_preset(
        self, monkeypatch, tmp_path, variable, value, field, expected, flag
    ):
        ours = getattr(asked(monkeypatch, "--preset", "assignment"), field)
        assert getattr(asked(monkeypatch, "--preset", "assignment", **{variable: value}), field) == expected
        by_flag = getattr(asked(monkeypatch, f"--{field}", flag), field)
        assert by_flag not in (expected, "fp16")
        (tmp_path / "recipe.yaml").write_text(f"{field}: '{flag}'\ntrain_file: t\noutput_dir: o\n")
        assert getattr(parse_recipe(PretrainRecipe, argv=[str(tmp_path / "recipe.yaml")]), field) == by_flag
        monkeypatch.delenv(variable)
        assert getattr(asked(monkeypatch, "--preset", "assignment"), field) == ours

    def test_what_a_launcher_says_when_it_is_told_nothing_changes_nothing(self, monkeypatch):
        plain = asked(monkeypatch)
        names = ("MODE", "USE_FULLGRAPH", "USE_DYNAMIC", "USE_REGIONAL_COMPILATION")
        told = dict(zip(names, ("default", "False", "False", "False"), strict=True))
        monkeypatch.setattr(launching, "find_launcher", lambda: launcher_of("accelerate launch script.py"))
        monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", "/proc/nowhere")
        environment = {f"ACCELERATE_DYNAMO_{name}": value for name, value in told.items()}
        environment |= {"ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "False"}
        assert asked(monkeypatch, ACCELERATE_MIXED_PRECISION="no", **environment) == plain

    @pytest.mark.parametrize(
        ("command", "is_asked"),
        [
            ("python /bin/accelerate launch --num_processes 1 script.py --mixed_precision no", False),
            ("python /bin/accelerate launch --mixed_precision no script.py", True),
            ("python -m accelerate.commands.launch --mixed_precision=no script.py", True),
            ("python -u /bin/accelerate-launch --quiet script.py", False),
            ("accelerate launch --config_file FOLDER/says_no.yaml script.py", True),
            ("accelerate launch --config_file FOLDER/silent.yaml script.py", False),
        ],
    )
    def test_whether_the_launchers_no_was_asked_for(self, monkeypatch, tmp_path, command, is_asked):
        """It says "no" too if it is told nothing."""
        (tmp_path / "silent.yaml").write_text("distributed_type: 'NO'\n")
        (tmp_path / "says_no.yaml").write_text("distributed_type: 'NO'\nmixed_precision: 'no'\n")
        monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", "/proc/nowhere")
        monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        launcher = launcher_of(command.replace("FOLDER", str(tmp_path)))
        monkeypatch.setattr(launching, "find_launcher", lambda: launcher)
        assert launcher_settings() == ({"mixed_precision": "no"} if is_asked else {})
        monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", tmp_path / "says_no.yaml")
        monkeypatch.setattr(
            "accelerate.commands.config.config_args.load_config_from_file",
            lambda _: SimpleNamespace(mixed_precision="no"),
        )
        assert launcher_settings() == {"mixed_precision": "no"}  # by the file that accelerate config has written

    @pytest.mark.parametrize(
        ("environment", "said"),
        [
            ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported"),
            ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not supported"),
            ({"ACCELERATE_USE_FSDP": "true"}, "FSDP is not supported in version 1: launch with --fsdp_version 2"),
            ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "kept on the CPU"),
            ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_IGNORED_MODULES": "x"}, "not summed up"),
            (
                {"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
                "only one process has loaded",
            ),
            (
                {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
                "computed twice is not supported",
            ),
            ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "tensor, context or sequence parallelism is not supported"),
            ({"ACCELERATE_USE_SAGEMAKER": "true"}, "SageMaker's data parallelism is not supported"),
            ({"ACCELERATE_FP8_BACKEND": "AO"}, "fp8 is not supported"),
            ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision 'fp8' is unknown: choose"),
            ({"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, "dynamo backend 'eager', mode 'default', is not supported"),
            (
                {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_MODE": "max-autotune"},
                "mode 'max-autotune', is not supported",
            ),
            (
                {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "True"},
                "one graph is not supported",
            ),
            ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "many"}, "'many', which is no value of"),
            ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "0"}, "gradient_accumulation_steps is 0: it must be more"),
            ({"ACCELERATE_USE_CPU": "maybe"}, "ACCELERATE_USE_CPU is 'maybe'"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, monkeypatch, capsys, environment, said):
        with pytest.raises(SystemExit) as end:
            asked(monkeypatch, **environment)
        assert end.value.code == 2
        assert said in (sentence := capsys.readouterr().err)
        assert len(sentence.splitlines()) == 1

    @pytest.mark.parametrize("variable", ["ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID"])
    def test_a_launcher_that_ended_before_the_script_began(self, monkeypatch, capsys, variable):
        monkeypatch.setattr(os, "getppid", lambda: 1)
        asked(monkeypatch)  # a shell that was closed
        with pytest.raises(SystemExit, match="2"):
            asked(monkeypatch, **{variable: "default"})
        assert "What launched this script has ended" in capsys.readouterr().err
        monkeypatch.setattr(launching, "find_launcher", lambda: launcher_of("accelerate launch x"))  # process 1
        asked(monkeypatch, **{variable: "default"})

    def test_a_flag_wins_over_what_would_be_refused(self, monkeypatch):
        assert asked(monkeypatch, "--mixed_precision", "no", ACCELERATE_MIXED_PRECISION="fp8").mixed_precision == "no"

    def test_refused_too_where_there_is_no_command_line(self, monkeypatch, tmp_path):
        recipe = PretrainRecipe(output_dir=str(tmp_path), **{**TINY, "mixed_precision": None})
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
        with pytest.raises(ValueError, match="mixed_precision 'fp8' is not supported: launch with no or bf16 or fp16"):
            build_accelerator(recipe)
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        with pytest.raises(ValueError, match="DeepSpeed is not supported"):
            build_accelerator(PretrainRecipe(output_dir=str(tmp_path), **TINY))

    def test_fsdp_that_would_not_shard_is_refused(self, monkeypatch, tmp_path):
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
        with pytest.raises(ValueError, match=r"this is 1 on cpu: launch with DDP"):
            build_accelerator(PretrainRecipe(output_dir=str(tmp_path), **TINY))

    @pytest.mark.parametrize("device", ["cuda", "meta", "nonsense"])
    def test_a_device_that_is_not_there_is_refused(self, monkeypatch, device):
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", device)
        with pytest.raises(ValueError, match=f"ACCELERATE_TORCH_DEVICE is '{device}', which cannot be used"):
            join_processes(use_cpu=False)
        assert join_processes(use_cpu=True).device.type == "cpu"  # a flag wins

    def test_fewer_processes_than_asked_for_are_refused(self, monkeypatch):
        """accelerate launch --cpu --num_processes 2 starts one."""
        monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        with pytest.raises(ValueError, match="was told of several processes and has started one"):
            join_processes(use_cpu=True)


def launcher_of(command: str) -> SimpleNamespace:
    return SimpleNamespace(cmdline=command.split)


def test_a_launcher_is_found_among_the_processes_that_this_one_comes_from(monkeypatch):
    def chain(*commands: str):
        monkeypatch.setattr(psutil.Process, "parents", lambda _: [launcher_of(command) for command in commands])
        return launching.find_launcher.__wrapped__()

    monkeypatch.undo()
    assert chain("bash", "/usr/bin/sshd -D") is None
    assert chain("python job.py --how some of them by accelerate launch", "bash") is None
    for command in ("python /bin/torchrun x.py", "python -u -m torch.distributed.run x.py", "/bin/accelerate launch x"):
        assert chain("bash job.sh", command, "uv run torchrun x.py").cmdline() == command.split()


def steps(shape: BatchShape = BatchShape(4)) -> TrainingSteps:  # noqa: B008
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, 30, (length,), generator=generator).tolist() for length in range(6, 24)]
    return TrainingSteps(Dataset.from_dict({"input_ids": rows}), NextTokenPrediction(), shape, seed=0)


def run(folder, accelerator: Accelerator, shape: BatchShape = BatchShape(4), **changes):  # noqa: B008
    folder.mkdir(exist_ok=True)
    recipe = PretrainRecipe(output_dir=str(folder), **{**TINY, "max_steps": 4, **changes})
    model = train(small_model("rope"), steps(shape), recipe, accelerator)
    return model.state_dict(), [
        json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_losses_are_not_divided_by_what_accelerate_was_told(tmp_path, monkeypatch):
    weights, losses = run(tmp_path / "plain", Accelerator(cpu=True), BatchShape(2, 2))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = Accelerator(cpu=True)
    assert accelerator.gradient_accumulation_steps == 4
    others, same = run(tmp_path / "told", accelerator, BatchShape(2, 2))
    assert same == losses
    assert all(torch.equal(others[name], weight) for name, weight in weights.items())
    accelerator.gradient_accumulation_steps = 1  # all accelerators share it


class TestPrecision:
    @pytest.mark.parametrize(
        ("device", "has_bf16", "given", "expected"),
        [
            ("cuda", True, None, "bf16"),
            ("cuda", False, None, "fp16"),
            ("cuda", False, "no", "no"),
            ("cuda", False, "bf16", "bf16"),
            ("cpu", True, None, "bf16"),
            ("cpu", False, None, "no"),
            ("mps", False, None, "no"),
        ],
    )
    def test_it_is_what_was_given_or_the_hardware_gains_from(self, monkeypatch, device, has_bf16, given, expected):
        state = SimpleNamespace(device=torch.device(device), num_processes=2)
        monkeypatch.setattr(setup, "join_processes", lambda **_: state)
        monkeypatch.setattr(setup, "hardware_gains_from_bf16", lambda _: has_bf16)
        monkeypatch.setattr(setup, "check_sharding", lambda *_: None)
        monkeypatch.setattr(setup, "Accelerator", lambda **options: options)
        made = build_accelerator(PretrainRecipe(output_dir="o", **{**TINY, "mixed_precision": given}))
        assert (made["mixed_precision"], made["cpu"]) == (expected, device == "cpu")

    def test_the_launchers_is_taken_where_the_recipe_is_silent(self, monkeypatch):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        assert build_accelerator(
            PretrainRecipe(output_dir="o", **{**TINY, "mixed_precision": None})
        ).mixed_precision == ("bf16")

    def test_fp16_is_refused_on_a_cpu(self):
        with pytest.raises(
            ValueError, match="'fp16' needs a GPU, and this is a CPU: give --mixed_precision bf16 or no"
        ):
            build_accelerator(PretrainRecipe(output_dir="o", **{**TINY, "mixed_precision": "fp16"}))


def scaled(scale: float) -> Accelerator:
    """With the scaler of fp16, and without its rounding: powers of two change no digit."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    accelerator.unscale_gradients = lambda: [scaler.unscale_(made.optimizer) for made in accelerator._optimizers]
    return accelerator


class TestScaler:
    @pytest.mark.parametrize("optim", ["adamw", "muon"])
    def test_scaled_losses_change_nothing(self, tmp_path, optim):
        weights, losses = run(tmp_path / "plain", Accelerator(cpu=True), optim=optim)
        accelerator = scaled(2.0**10)
        others, same = run(tmp_path / "scaled", accelerator, optim=optim)
        assert same == losses
        assert all(torch.equal(others[name], weight) for name, weight in weights.items())
        assert accelerator.scaler.get_scale() == 2.0**11  # once in three steps, however many optimizers there are

    @pytest.mark.parametrize("optim", ["adamw", "muon"])
    def test_what_overflows_moves_no_weight(self, tmp_path, optim):
        accelerator = scaled(2.0**127)
        weights, _ = run(tmp_path, accelerator, optim=optim, max_steps=1)
        assert all(torch.equal(weights[name], weight) for name, weight in small_model("rope").state_dict().items())
        assert accelerator.scaler.get_scale() == 2.0**126

    def test_a_resumed_run_has_the_scale_of_one_that_was_never_cut(self, tmp_path):
        whole, expected = run(tmp_path / "whole", scaled(2.0**10), max_steps=7, save_steps=5)
        checkpoint = str(next((tmp_path / "whole").glob("checkpoint-*")))
        accelerator = scaled(1.0)
        again, losses = run(tmp_path / "again", accelerator, max_steps=7, resume_from_checkpoint=checkpoint)
        assert losses == expected[5:]
        assert accelerator.scaler.get_scale() == 2.0**12  # seven steps
        assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def saved_steps(folder: Path) -> set[int]:
    return {json.loads(path.read_text())["step"] for path in folder.rglob("checkpoint-*/state.json")}


class TestStopping:
    def stop_at(self, monkeypatch, step: int, act) -> None:
        """Acts in the midst of a step."""
        real, calls = loop.count_tokens, iter(range(1, 1000))

        def count_tokens(batch):
            if next(calls) == step:
                act()
            return real(batch)

        monkeypatch.setattr(loop, "count_tokens", count_tokens)

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_saves(self, tmp_path, monkeypatch, number, code):
        self.stop_at(monkeypatch, 3, lambda: (signal.raise_signal(number), signal.raise_signal(number)))
        handler = signal.getsignal(number)
        with pytest.raises(SystemExit) as end:
            run(tmp_path, Accelerator(cpu=True))
        assert (end.value.code, saved_steps(tmp_path)) == (code, {3})
        assert signal.getsignal(number) == handler

    def test_a_second_ctrl_c_ends_it_at_once(self, monkeypatch):
        now, raised = [0.0], []
        monkeypatch.setattr(launching.time, "monotonic", lambda: now[0])
        with launching.StopSignal() as stop:
            signal.raise_signal(signal.SIGINT)
            monkeypatch.setattr(launching.signal, "raise_signal", raised.append)
            now[0] = 0.5
            stop._receive(signal.SIGINT, None)  # the same, sent to the group as well
            assert not raised
            now[0] = 2.0
            stop._receive(signal.SIGTERM, None)
            assert not raised
            stop._receive(signal.SIGINT, None)
            assert raised == [signal.SIGINT]
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL

    @pytest.mark.parametrize("reaped", [True, False])
    def test_the_end_of_the_launcher_saves(self, tmp_path, monkeypatch, reaped):
        launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

        def kill():
            launcher.kill()
            if reaped:
                launcher.wait()
            else:
                os.waitid(os.P_PID, launcher.pid, os.WEXITED | os.WNOWAIT)

        monkeypatch.setattr(launching, "find_launcher", lambda: psutil.Process(launcher.pid))
        self.stop_at(monkeypatch, 2, kill)
        with pytest.raises(SystemExit) as end:
            run(tmp_path, Accelerator(cpu=True))
        launcher.communicate()
        assert (end.value.code, saved_steps(tmp_path)) == (143, {2})

    def test_without_a_launcher_nothing_that_ends_stops_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr(launching, "find_launcher", lambda: None)
        monkeypatch.setattr(os, "getppid", lambda: 1)  # the shell that it was started from is closed
        _, losses = run(tmp_path, Accelerator(cpu=True))
        assert len(losses) == 4

    def test_ctrl_c_in_a_script_ends_in_a_word(self, capsys, monkeypatch):
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        command_line._prepare_terminal()
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert capsys.readouterr().err.endswith(": interrupted.\n")


FLAGS = ["--model_preset", "gpt-nano", "--per_device_train_batch_size", "4", "--logging_steps", "1"]


def environment(**changes) -> dict[str, str]:
    """Of a script that is started for real."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        (["accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"], signal.SIGTERM),
        (["torch.distributed.run", "--standalone", "--nproc_per_node", "2"], signal.SIGKILL),
    ],
)
def test_a_killed_launcher_leaves_nothing_behind(tmp_path, text_file, launcher, number):
    """Two processes on a CPU know of each other without --use_cpu."""
    folder = tmp_path / "run"
    script = [ROOT / "scripts/pretrain.py", "--train_file", text_file, "--output_dir", folder, *FLAGS]
    script += ["--max_steps", "1000000"]
    command = list(map(str, [sys.executable, "-m", *launcher, *script]))
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 2):
        time.sleep(0.1)
    trained = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait()
    assert trained
    psutil.wait_procs(trained)  # each ends, however busy the machine is
    (step,) = saved_steps(folder)
    assert step > 2
    assert not (folder / "model.safetensors").exists()


def test_a_run_needs_neither_git_nor_home_nor_cache_nor_utf8_nor_asserts(tmp_path, text_file):
    """Nor a working directory that can be written."""
    text_file.write_text("Zoë Quist. Zoë Quist was born in Ålesund\n" * 8, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    bare = environment(PATH=str(tmp_path / "bin"), HOME=str(NOWHERE), LC_ALL="C", PYTHONUTF8="0")
    bare |= {"PYTHONCOERCECLOCALE": "0", "ACCELERATE_MIXED_PRECISION": "no"}
    bare = {name: value for name, value in bare.items() if not name.startswith("HF_") and "CACHE" not in name}
    folder = tmp_path / "run"
    script = [ROOT / "scripts/pretrain.py", "--train_file", text_file, "--output_dir", folder, *FLAGS]
    command = list(map(str, [sys.executable, "-O", *script, "--max_steps", "1"]))
    done = subprocess.run(command, env=bare, cwd="/proc", capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (record["commit"], record["mixed_precision"]) == (None, "no")
    assert load_file(folder / "model.safetensors")
    assert "ë" in (folder / "tokenizer.json").read_text(encoding="utf-8")


class TestMachine:
    def test_caches_that_cannot_be_written(self, monkeypatch, text_file):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", NOWHERE)
        assert load_texts(str(text_file))["text"][:] == LINES
        for name in ("HF_METRICS_CACHE", "HF_MODULES_CACHE"):
            monkeypatch.setattr(evaluate.config, name, NOWHERE)
        assert scoring.accuracy(["London", "Rome"], ["London", "Paris"])["accuracy"] == 0.5

    def test_a_cache_that_can_be_written_is_used(self, tmp_path):
        assert writing.writable_cache(tmp_path / "new" / "cache") == tmp_path / "new" / "cache"
        assert list((tmp_path / "new" / "cache").iterdir()) == []

    def test_the_commit_is_that_of_this_code_or_none(self, monkeypatch, tmp_path):
        git = ["git", "-C", str(tmp_path)]
        (tmp_path / "site-packages" / "hf_mingpt").mkdir(parents=True)
        subprocess.run([*git, "init", "--quiet"], check=True)
        author = ["-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run([*git, *author, "commit", "--quiet", "--allow-empty", "--message", "x"], check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
        (tmp_path / "hf_mingpt").mkdir()
        monkeypatch.setattr(run_folders, "_PACKAGE", tmp_path / "hf_mingpt")
        assert run_folders.run_record()["commit"] == head[:7]
        monkeypatch.setattr(run_folders, "_PACKAGE", tmp_path / "site-packages" / "hf_mingpt")
        assert run_folders.run_record()["commit"] is None
        monkeypatch.setattr(run_folders, "_PACKAGE", tmp_path / "hf_mingpt")
        monkeypatch.setenv("PATH", str(tmp_path))
        assert run_folders.run_record()["commit"] is None

    def test_a_tilde_is_the_home_folder_in_every_path(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "r.yaml").write_text("train_file: ~/t.txt\nvocabulary_file: ~/v.txt\n")
        recipe = parse_recipe(
            PretrainRecipe, argv=["~/r.yaml", "--output_dir=~/out", "--resume_from_checkpoint", "~/c"]
        )
        paths = (recipe.train_file, recipe.vocabulary_file, recipe.output_dir, recipe.resume_from_checkpoint)
        assert paths == tuple(str(tmp_path / name) for name in ("t.txt", "v.txt", "out", "c"))

    def test_text_of_a_command_line_is_utf8_whatever_the_locale(self, monkeypatch, capsys):
        typed = "Zoë ⁇".encode()
        assert command_line.as_text("Zoë ⁇") == "Zoë ⁇"
        monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
        assert command_line.as_text(typed.decode("ascii", "surrogateescape")) == "Zoë ⁇"
        assert command_line.as_text("Zoë, of a YAML file") == "Zoë, of a YAML file"
        with pytest.raises(SystemExit, match="2"):
            asked(monkeypatch, "--output_dir", typed.decode("ascii", "surrogateescape"))
        assert "cannot be decoded in this locale: set PYTHONUTF8=1" in capsys.readouterr().err

    @pytest.mark.parametrize("streaming", [False, True])
    def test_everything_that_workers_need_can_be_sent_to_them(self, streaming):
        """As it is where processes are spawned, and not forked."""
        corpus, asked = (ROOT / "data/generated" / name for name in ("biographies.txt", "birth_places_train.tsv"))
        texts, questions = load_texts(str(corpus)), read_questions(asked, answers=True)
        tokenizer = build_corpus_tokenizer(texts, 128, str(asked))
        documents = encode_documents(texts, tokenizer)
        span, options = SpanCorruption(128, 0), {"tokenizer": tokenizer, "probability": 0.5, "policy_probability": 0.5}
        seekers = (
            AnswerPolicy([question.answer for question in questions], tokenizer),
            LearnedPolicy.learn(
                map(TokenSequences.from_table, documents.with_format("arrow").iter(1000)),
                questions,
                tokenizer,
                numbers=True,
            ),
        )
        salient = [SalientSpanMasking(128, 0, fallback=span, policy=seeker, **options) for seeker in seekers]
        mixture = Mixture(encode_questions(questions, tokenizer, 128), QuestionAnswering(), 0.5, seed=0)
        if streaming:
            documents = encode_documents(load_texts(str(corpus), streaming=True), tokenizer)
        for objective in (span, RandomWindow(span, tokenizer), NextTokenPrediction(), *salient):
            rows = documents
            if isinstance(objective, NextTokenPrediction):
                rows = group_into_blocks(documents, 128, tokenizer.convert_tokens_to_ids("."))
            if streaming:
                made = StreamedSteps(rows, objective, BatchShape(8), mixture=mixture)
            else:
                made = TrainingSteps(rows, objective, BatchShape(8), seed=0, mixture=mixture)
            sent = pickle.loads(pickle.dumps(made))
            (ours,), (theirs,) = (next(iter(steps)) if streaming else steps[0] for steps in (made, sent))
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


SOURCES = sorted(path for folder in ("hf_mingpt", "scripts", "benchmarks") for path in ROOT.glob(f"{folder}/**/*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_file_is_read_in_the_encoding_of_the_locale_and_no_check_is_an_assert(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: python -O would drop it"
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        binary = any(isinstance(word, ast.Constant) and "b" in str(word.value) for word in node.args)
        by_number = ast.unparse(node.func) == "os.open"
        is_method = isinstance(node.func, ast.Attribute)  # and not one of our functions, which write UTF-8
        if (name in ("read_text", "write_text") and is_method) or (name == "open" and not binary and not by_number):
            assert "encoding" in given, f"line {node.lineno}"
        assert "text" not in given or name not in ("run", "Popen", "check_output"), f"line {node.lineno}"
