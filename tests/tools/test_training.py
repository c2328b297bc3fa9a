"""Other trainers: Trainer, adapters of PEFT, and DeepSpeed."""

import json
import os
from importlib.util import find_spec

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from ..conftest import ROOT, TEXT, VARIANTS, small_model
from ..processes import run_ranks
from .logits import assert_same, tools


def test_trainer_learns_what_our_loop_learns(variant, tokenizer, tmp_path):
    """One epoch of Trainer and of our loop: the same losses and the same weights."""
    from datasets import Dataset

    from hf_mingpt.data.batching import BatchShape
    from hf_mingpt.data.objectives import NextTokenPrediction
    from hf_mingpt.data.steps import TrainingSteps
    from hf_mingpt.training.loop import train
    from hf_mingpt.training.recipes import PretrainRecipe
    from hf_mingpt.training.setup import build_accelerator

    texts = [TEXT[start : start + 8 + start % 30] for start in range(16)]
    dataset = Dataset.from_dict({"input_ids": tokenizer(texts).input_ids})
    recipe = PretrainRecipe(
        train_file="-",
        output_dir=str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        shuffle=False,
        logging_steps=1,
        weight_decay=0.0,
        mixed_precision="no",
        attn_implementation="sdpa",
        use_cpu=True,
        dropout=0.0,
    )
    ours = small_model(variant, vocab_size=len(tokenizer)).train()
    ours = train(ours, TrainingSteps(dataset, NextTokenPrediction(), BatchShape(2, 2), seed=0, shuffle=False), recipe,
                 build_accelerator(recipe))  # fmt: skip
    our_losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    theirs = small_model(variant, vocab_size=len(tokenizer)).train()
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        warmup_steps=recipe.warmup_steps,
        adam_beta2=recipe.adam_beta2,
        logging_steps=1,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = dataset.map(lambda row: {"labels": row["input_ids"]})
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    tokenizer.padding_side = "right"
    trainer = Trainer(model=theirs, args=arguments, train_dataset=rows, data_collator=collator)
    trainer.train()
    tokenizer.padding_side = "left"
    their_losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(our_losses) == 4
    assert their_losses == pytest.approx(our_losses, rel=1e-4)
    for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if name.endswith("k_proj.bias"):
            continue  # shifts all scores of a query alike: its gradient is rounding noise, which Adam blows up
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-4, msg=name)


@tools
def test_peft_lora(model, ids, tmp_path):
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=2e-2)
    losses = []
    for _ in range(20):
        loss = wrapped(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    wrapped.save_pretrained(tmp_path)
    expected = wrapped.eval()(input_ids=ids).logits
    assert_same(wrapped.merge_and_unload()(ids).logits, expected, atol=1e-4)


ZERO = """
import os, sys
import deepspeed
import torch
import torch.distributed as dist
from tests.conftest import VARIANTS, small_model

deepspeed.init_distributed(dist_backend="gloo")
config = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "gradient_clipping": 1.0}
config |= {"zero_optimization": {"stage": int(sys.argv[1])}, "zero_allow_untested_optimizer": True}
ids = torch.randint(2, 37, (4, 2, 8, 24), generator=torch.Generator().manual_seed(0))  # steps and micro-batches
for variant in VARIANTS:
    whole, sharded = small_model(variant).train(), small_model(variant).train()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(
        model=sharded, optimizer=torch.optim.AdamW(sharded.parameters(), lr=1e-3), config=config
    )
    for step in ids:
        for micro_batch in step:
            expected = whole(input_ids=micro_batch, labels=micro_batch).loss
            (expected / 2).backward()
            mine = micro_batch[4 * dist.get_rank() :][:4]
            loss = engine(input_ids=mine, labels=mine).loss
            engine.backward(loss)
            engine.step()
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            torch.testing.assert_close(mean / 2, expected.detach(), rtol=1e-4, atol=0)
        norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert abs(float(engine.get_global_grad_norm()) / norm - 1) < 1e-4
if not dist.get_rank():
    print("sharded", *VARIANTS, flush=True)
dist.barrier()
os._exit(0)  # gloo's threads still release tensors, which would abort an interpreter that is being finalized
"""


@tools
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_shards_the_model(tmp_path, stage):
    """ZeRO on two processes has the losses and gradient norms of one process."""
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    (tmp_path / "code.py").write_text(ZERO)
    done = run_ranks(2, tmp_path / "code.py", stage, env={**os.environ, "DS_ACCELERATOR": "cpu"}, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"sharded {' '.join(VARIANTS)}" in done.stdout


@tools
@pytest.mark.parametrize("workers", [0, 2])
def test_sft_trainer_of_trl_learns_what_trainer_learns(tokenizer, documents, tmp_path, workers):
    """Two epochs of span corruption by our collator."""
    trl = pytest.importorskip("trl")
    import hf_mingpt

    losses = []
    for kind in ("trainer", "sft"):
        collator = hf_mingpt.DataCollatorForSpanCorruption(tokenizer, 48, seed=3)
        options = {
            "output_dir": str(tmp_path / kind),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 24,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "remove_unused_columns": False,
            "train_sampling_strategy": "sequential",
            "dataloader_num_workers": workers,
            "dataloader_persistent_workers": bool(workers),
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        common = {"train_dataset": hf_mingpt.add_index(documents), "data_collator": collator, "callbacks": [collator]}
        model = small_model("rope").train()
        if kind == "sft":
            prepared = {"skip_prepare_dataset": True}
            arguments = trl.SFTConfig(**options, activation_checkpointing=False, dataset_kwargs=prepared)
            trainer = trl.SFTTrainer(model=model, args=arguments, processing_class=tokenizer, **common)
        else:
            trainer = Trainer(model=model, args=TrainingArguments(**options), **common)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
