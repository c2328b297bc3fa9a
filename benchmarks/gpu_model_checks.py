"""Compares the model on a GPU with the CPU: losses, gradients, generation (the section `correctness` of gpu.py).

Each check is a function that returns what it has measured, and raises an AssertionError if the GPU is wrong.
gpu_training_checks.py has those of training.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_mingpt import MinGPTConfig, MinGPTForCausalLM
from hf_mingpt.data.batching import BatchShape, make_micro_batches
from hf_mingpt.data.objectives import NextTokenPrediction
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.tokenization_mingpt import PAD_ID

VARIANTS = {
    "learned": {},
    "rope": {"position_embedding_type": "rope"},
    "synthesizer": {"attention_type": "synthesizer"},
}
FLOAT32, HALF = 1e-4, 3e-2  # limits of the relative errors of losses and gradients


class Skipped(Exception):
    """A check that this machine cannot run, with the reason."""


@dataclass(frozen=True)
class Place:
    """The device on which the checks run, and a folder for their files."""

    device: torch.device
    small: bool
    folder: Path

    def need_gpu(self) -> None:
        if self.device.type != "cuda":
            raise Skipped("needs a GPU")


def build_model(variant: str = "rope", *, dropout: float = 0.0, small: bool = False, **changes) -> MinGPTForCausalLM:
    """The assignment's model, with initial weights large enough for errors in attention to show."""
    torch.manual_seed(0)
    dropouts = dict.fromkeys(("embedding_dropout", "attention_dropout", "hidden_dropout"), dropout)
    size = {"hidden_size": 64, "num_hidden_layers": 2} if small else {}
    return MinGPTForCausalLM(MinGPTConfig(**dropouts, initializer_range=0.06, **size, **VARIANTS[variant], **changes))


def examples(number: int = 128) -> Dataset:
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 64, number)
    return Dataset.from_dict({"input_ids": [rng.integers(2, 256, n).tolist() for n in lengths]})


def micro_batch(*, padding_free: bool = False) -> dict[str, torch.Tensor]:
    dataset = examples(32)
    sequences = TokenSequences.from_table(dataset.with_format("arrow")[:])
    shape = BatchShape(32, pad_to_multiple_of=8, padding_free=padding_free)
    return make_micro_batches(NextTokenPrediction()(sequences, 0, np.arange(len(dataset))), shape)[0]


def gradients(model, batch, device, *, attention: str, autocast: torch.dtype | None = None, scale: float = 1.0):
    """The loss, and all gradients in one vector, on the CPU."""
    model = copy.deepcopy(model).to(device).train()
    model.set_attn_implementation(attention)
    model.config.use_cache = False  # a cache cannot hold packed sequences
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    with torch.autocast(device.type, autocast) if autocast else nullcontext():
        loss = model(**inputs).loss
    (loss.float() * scale).backward()
    vector = torch.cat([p.grad.flatten().float().cpu() for p in model.parameters() if p.grad is not None])
    return loss.item(), vector / scale


def difference(a: tuple[float, torch.Tensor], b: tuple[float, torch.Tensor]) -> float:
    """The larger of the relative errors of the loss and the gradient of a, with respect to b."""
    return max(abs(a[0] - b[0]) / abs(b[0]), ((a[1] - b[1]).norm() / b[1].norm()).item())


def require(condition: bool, message: str) -> None:
    """Raises an AssertionError if the condition does not hold, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def at_most(error: float, limit: float) -> str:
    require(error <= limit, f"relative error {error:.1e}, over {limit:.0e}")
    return f"relative error {error:.1e}"


def losses_and_gradients(place: Place, variant: str, attention: str, dtype: torch.dtype | None) -> str:
    """Compares with float32 and eager attention on the CPU."""
    if attention == "flex_attention":
        place.need_gpu()  # on a CPU it has no backward pass
    model, batch = build_model(variant, small=place.small), micro_batch()
    expected = gradients(model, batch, torch.device("cpu"), attention="eager")
    scale = 1024.0 if dtype == torch.float16 else 1.0  # as a gradient scaler does
    ours = gradients(model, batch, place.device, attention=attention, autocast=dtype, scale=scale)
    return at_most(difference(ours, expected), HALF if dtype else FLOAT32)


def flash_kernel(place: Place) -> str:
    place.need_gpu()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return losses_and_gradients(place, "rope", "sdpa", torch.bfloat16)


def flash_package(place: Place) -> str:
    place.need_gpu()
    if find_spec("flash_attn") is None:
        raise Skipped("flash_attn is not installed")
    return losses_and_gradients(place, "rope", "flash_attention_2", torch.bfloat16)


def padding_free(place: Place, variant: str, attention: str) -> str:
    if attention == "flex_attention":
        place.need_gpu()
    model = build_model(variant, small=place.small)
    padded = gradients(model, micro_batch(), place.device, attention=attention)
    flat = gradients(model, micro_batch(padding_free=True), place.device, attention=attention)
    return at_most(difference(flat, padded), FLOAT32)


def compiled(place: Place) -> str:
    model, batch = build_model(small=place.small).to(place.device), micro_batch()
    plain = gradients(model, batch, place.device, attention="sdpa")
    model = copy.deepcopy(model).train()
    model.set_attn_implementation("sdpa")
    inputs = {name: tensor.to(place.device) for name, tensor in batch.items()}
    loss = torch.compile(model)(**inputs).loss
    loss.backward()
    vector = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
    return at_most(difference((loss.item(), vector), plain), FLOAT32)


def generated(place: Place, **options) -> torch.Tensor:
    model = build_model(small=place.small).to(place.device).eval()
    torch.manual_seed(1)
    prompts = torch.randint(2, 256, (8, 20)).to(place.device)
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=24,
        do_sample=False,
        pad_token_id=PAD_ID,
        eos_token_id=None,
        **options,
    ).cpu()


def generation(place: Place, **options) -> str:
    """Compares with plain generation on the CPU, in float32."""
    if options.get("cache_implementation") == "offloaded":
        place.need_gpu()
    expected = generated(Place(torch.device("cpu"), place.small, place.folder))
    same = (generated(place, **options) == expected).float().mean().item()
    require(same == 1.0, f"{same:.1%} of the tokens are the same")
    return "the same tokens"


def continuous_batching(place: Place) -> str:
    place.need_gpu()
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = build_model(small=place.small).to(place.device).eval()
    torch.manual_seed(1)
    prompts = torch.randint(2, 256, (8, 20))
    settings = GenerationConfig(max_new_tokens=24, do_sample=False, pad_token_id=PAD_ID, eos_token_id=-1)
    done = model.generate_batch(
        inputs=prompts.tolist(),
        generation_config=settings,
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=256),
        progress_bar=False,
    )
    by_prompt = {tuple(output.prompt_ids): output.generated_tokens for output in done.values()}
    ours = torch.tensor([by_prompt[tuple(prompt)] for prompt in prompts.tolist()])
    expected = generated(Place(torch.device("cpu"), place.small, place.folder))[:, 20:]
    same = (ours == expected).float().mean().item()
    require(same == 1.0, f"{same:.1%} of the tokens are the same")
    return "the same tokens"


def int8_weights(place: Place) -> str:
    if find_spec("torchao") is None:
        raise Skipped("torchao is not installed")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = build_model(small=place.small).to(place.device).eval()
    ids = micro_batch()["input_ids"].to(place.device)
    with torch.inference_mode():
        expected = model(ids).logits
        quantize_(model, Int8WeightOnlyConfig())
        error = ((model(ids).logits - expected).norm() / expected.norm()).item()
    return at_most(error, 5e-2)


def model_checks() -> dict[str, Callable[[Place], str]]:
    """The checks by their names."""
    checks: dict[str, Callable[[Place], str]] = {}
    for variant in VARIANTS:
        for attention in ("eager", "sdpa", "flex_attention"):
            for dtype in (None, torch.bfloat16):
                name = f"loss and gradients, {variant}, {attention}, {'bf16' if dtype else 'float32'}"
                checks[name] = lambda p, v=variant, a=attention, d=dtype: losses_and_gradients(p, v, a, d)
    checks["loss and gradients, rope, sdpa, fp16"] = lambda p: losses_and_gradients(p, "rope", "sdpa", torch.float16)
    checks["flash kernel of sdpa, bf16"] = flash_kernel
    checks["flash_attn, bf16"] = flash_package
    for variant, attention in (("learned", "eager"), ("rope", "sdpa"), ("rope", "flex_attention")):
        checks[f"padding-free batches, {variant}, {attention}"] = lambda p, v=variant, a=attention: padding_free(
            p, v, a
        )
    checks["torch.compile"] = compiled
    checks["generation"] = generation
    checks["generation, compiled static cache"] = lambda p: generation(p, cache_implementation="static")
    checks["generation, offloaded cache"] = lambda p: generation(p, cache_implementation="offloaded")
    checks["generate_batch"] = continuous_batching
    checks["torchao int8 weights"] = int8_weights
    return checks
