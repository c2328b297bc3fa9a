r"""Serves a run folder or Hub model with `transformers serve`, an OpenAI-compatible server.

    python scripts/serve.py runs/rope-answers --device cpu --port 8000
    curl localhost:8000/v1/completions -H "Content-Type: application/json" \
        -d '{"model": "runs/rope-answers", "prompt": "Where was Ada Byron born?⁇", "max_tokens": 32, "temperature": 0}'

Takes the flags of `transformers serve`; needs `pip install -e ".[serve]"`. The server looks up model classes in the
namespace of transformers, even with remote code, so this script adds MinGPTForCausalLM there.

A prompt that is empty or fills the whole context of the model gets status 400. Generation ends with the context.
"""

import functools
import sys

import transformers

import hf_mingpt


def keep_to_context(generate):
    """Wraps a method that generates, so that it stays within the context of the model."""

    @functools.wraps(generate)
    def generate_within(manager, model, processor, inputs, gen_config, *arguments, **options):
        from fastapi import HTTPException

        ids, context = inputs["input_ids"], model.config.max_position_embeddings
        length = len(ids) if isinstance(ids, list) else ids.shape[-1]
        if not 0 < length < context:
            detail = f"The prompt has {length} tokens: give 1 to {context - 1}, as the context is {context}."
            raise HTTPException(status_code=400, detail=detail)
        most = context if gen_config.max_new_tokens is None else gen_config.max_new_tokens
        if most < 1:
            raise HTTPException(status_code=400, detail=f"max_tokens is {most}: it must be more than 0.")
        gen_config.max_new_tokens = min(most, context - length)
        return generate(manager, model, processor, inputs, gen_config, *arguments, **options)

    return generate_within


if __name__ == "__main__":
    from transformers.cli.serving import utils
    from transformers.cli.transformers import main

    transformers.MinGPTForCausalLM = hf_mingpt.MinGPTForCausalLM
    for manager in (utils.GenerateManager, utils.CBGenerateManager):
        for name in ("generate_streaming", "generate_non_streaming"):
            setattr(manager, name, keep_to_context(getattr(manager, name)))
    sys.argv.insert(1, "serve")
    main()
