"""Settings of `accelerate launch` and `torchrun` become flags or are refused."""

import os
from types import SimpleNamespace

import psutil
import pytest

from hf_mingpt.system import launching
from hf_mingpt.system.command_line import parse_recipe
from hf_mingpt.system.launching import join_processes, launcher_settings
from hf_mingpt.training.presets import PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.setup import build_accelerator

from ..training.small_runs import small_recipe

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(launching, "find_launcher", lambda: None)
    monkeypatch.setattr(os, "getppid", lambda: 2)


def parse(monkeypatch, *argv, **environment) -> PretrainRecipe:
    """The recipe of a command line in an environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, ["--train_file", "t", "--output_dir", "o", *argv])


def launcher_of(command: str) -> SimpleNamespace:
    return SimpleNamespace(cmdline=command.split)


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
def test_a_setting_overrides_the_preset_but_not_a_flag_or_the_file(
    monkeypatch, tmp_path, variable, value, field, expected, flag
):
    default = getattr(parse(monkeypatch, "--preset", "assignment"), field)
    assert getattr(parse(monkeypatch, "--preset", "assignment", **{variable: value}), field) == expected
    by_flag = getattr(parse(monkeypatch, f"--{field}", flag), field)
    assert by_flag not in (expected, "fp16")
    (tmp_path / "recipe.yaml").write_text(f"{field}: '{flag}'\ntrain_file: t\noutput_dir: o\n")
    assert getattr(parse_recipe(PretrainRecipe, argv=[str(tmp_path / "recipe.yaml")]), field) == by_flag
    monkeypatch.delenv(variable)
    assert getattr(parse(monkeypatch, "--preset", "assignment"), field) == default


def test_default_settings_of_the_launcher_change_nothing(monkeypatch):
    plain = parse(monkeypatch)
    names = ("MODE", "USE_FULLGRAPH", "USE_DYNAMIC", "USE_REGIONAL_COMPILATION")
    values = dict(zip(names, ("default", "False", "False", "False"), strict=True))
    monkeypatch.setattr(launching, "find_launcher", lambda: launcher_of("accelerate launch script.py"))
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", "/proc/nowhere")
    environment = {f"ACCELERATE_DYNAMO_{name}": value for name, value in values.items()}
    environment |= {"ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "False"}
    assert parse(monkeypatch, ACCELERATE_MIXED_PRECISION="no", **environment) == plain


@pytest.mark.parametrize(
    ("command", "is_set"),
    [
        ("python /bin/accelerate launch --num_processes 1 script.py --mixed_precision no", False),
        ("python /bin/accelerate launch --mixed_precision no script.py", True),
        ("python -m accelerate.commands.launch --mixed_precision=no script.py", True),
        ("python -u /bin/accelerate-launch --quiet script.py", False),
        ("accelerate launch --config_file FOLDER/says_no.yaml script.py", True),
        ("accelerate launch --config_file FOLDER/silent.yaml script.py", False),
    ],
)
def test_the_precision_no_counts_only_if_the_user_has_set_it(monkeypatch, tmp_path, command, is_set):
    """accelerate launch passes it on by default, too."""
    (tmp_path / "silent.yaml").write_text("distributed_type: 'NO'\n")
    (tmp_path / "says_no.yaml").write_text("distributed_type: 'NO'\nmixed_precision: 'no'\n")
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", "/proc/nowhere")
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    launcher = launcher_of(command.replace("FOLDER", str(tmp_path)))
    monkeypatch.setattr(launching, "find_launcher", lambda: launcher)
    assert launcher_settings() == ({"mixed_precision": "no"} if is_set else {})
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", tmp_path / "says_no.yaml")
    monkeypatch.setattr(
        "accelerate.commands.config.config_args.load_config_from_file",
        lambda _: SimpleNamespace(mixed_precision="no"),
    )
    assert launcher_settings() == {"mixed_precision": "no"}  # in the file that accelerate config has written


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"ACCELERATE_USE_DEEPSPEED": "true"},
            "DeepSpeed is not supported: launch with scripts/accelerate/zero2.yaml or fsdp2.yaml, in which FSDP2",
        ),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not supported"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP version 1 is not supported: launch with --fsdp_version 2"),
        (FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}, "CPU offloading is not supported"),
        (FSDP2 | {"FSDP_IGNORED_MODULES": "x"}, "ignoring modules is not supported"),
        (FSDP2 | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "loading the weights on one process is not supported"),
        (FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "activation checkpointing is not supported"),
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
            "fullgraph compilation is not supported",
        ),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "many"}, "'many', not a valid --gradient_accumulation_steps"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "0"}, "gradient_accumulation_steps is 0: it must be more"),
        ({"ACCELERATE_USE_CPU": "maybe"}, "ACCELERATE_USE_CPU is 'maybe'"),
    ],
)
def test_unsupported_settings_are_refused(monkeypatch, capsys, environment, said):
    with pytest.raises(SystemExit) as end:
        parse(monkeypatch, **environment)
    assert end.value.code == 2
    assert said in (sentence := capsys.readouterr().err)
    assert len(sentence.splitlines()) == 1


@pytest.mark.parametrize("variable", ["ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID"])
def test_a_launcher_that_has_ended_before_the_script_starts(monkeypatch, capsys, variable):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    parse(monkeypatch)  # a shell that has been closed
    with pytest.raises(SystemExit, match="2"):
        parse(monkeypatch, **{variable: "default"})
    assert "The launcher of this script has ended" in capsys.readouterr().err
    monkeypatch.setattr(launching, "find_launcher", lambda: launcher_of("accelerate launch x"))  # process 1
    parse(monkeypatch, **{variable: "default"})


def test_a_flag_overrides_a_setting_that_is_refused(monkeypatch):
    assert parse(monkeypatch, "--mixed_precision", "no", ACCELERATE_MIXED_PRECISION="fp8").mixed_precision == "no"


def test_settings_are_refused_without_a_command_line_too(monkeypatch, tmp_path):
    recipe = small_recipe(tmp_path, mixed_precision=None)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="mixed_precision 'fp8' is not supported: launch with no or bf16 or fp16"):
        build_accelerator(recipe)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed is not supported"):
        build_accelerator(small_recipe(tmp_path))


def test_fsdp_on_one_process_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match=r"the number of processes on cpu is 1: launch with DDP"):
        build_accelerator(small_recipe(tmp_path))


@pytest.mark.parametrize("device", ["cuda", "meta", "nonsense"])
def test_a_missing_device_is_refused(monkeypatch, device):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", device)
    with pytest.raises(ValueError, match=f"ACCELERATE_TORCH_DEVICE is '{device}', which cannot be used"):
        join_processes(use_cpu=False)
    assert join_processes(use_cpu=True).device.type == "cpu"  # a flag takes precedence


def test_fewer_processes_than_asked_for_are_refused(monkeypatch):
    """accelerate launch --cpu --num_processes 2 starts one."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match="was asked for several processes and has started one"):
        join_processes(use_cpu=True)


def test_the_launcher_is_found_among_the_parent_processes(monkeypatch):
    def chain(*commands: str):
        monkeypatch.setattr(psutil.Process, "parents", lambda _: [launcher_of(command) for command in commands])
        return launching.find_launcher.__wrapped__()

    monkeypatch.undo()
    assert chain("bash", "/usr/bin/sshd -D") is None
    assert chain("python job.py --how some of them by accelerate launch", "bash") is None
    for command in ("python /bin/torchrun x.py", "python -u -m torch.distributed.run x.py", "/bin/accelerate launch x"):
        assert chain("bash job.sh", command, "uv run torchrun x.py").cmdline() == command.split()
