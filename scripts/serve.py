r"""Serves a run folder or Hub model with `transformers serve`, an OpenAI-compatible server.

    python scripts/serve.py runs/rope-answers --device cpu --port 8000
    curl localhost:8000/v1/chat/completions -H "Content-Type: application/json" \
        -d '{"model": "runs/rope-answers", "messages": [{"role": "user", "content": "Where was Ada Byron born?"}]}'
    curl localhost:8000/v1/completions -H "Content-Type: application/json" \
        -d '{"model": "runs/rope-answers", "prompt": "Where was Ada Byron born?⁇", "max_tokens": 32, "temperature": 0}'

Takes the flags of `transformers serve`; needs `pip install -e ".[serve]"`. The server looks up model classes in the
namespace of transformers, even with remote code, so this script adds MinGPTForCausalLM there.

A prompt that is empty or fills the whole context of the model gets status 400. Generation ends with the context. A chat
answers its last message alone: the model has learned single questions. A run that has not learned to answer has no chat
template, and its chats get status 400. A model that does not exist gets status 404.
"""

import functools
import sys
from pathlib import Path

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


def find_model_first(load):
    """Wraps the method that loads a model: it looks for one that does not exist once, and says so.

    The server would look for several files of it, each with retries, and then answer with status 500.
    """

    @functools.wraps(load)
    def load_found(manager, model_id_and_revision, *arguments, **options):
        from fastapi import HTTPException
        from huggingface_hub import hf_hub_download

        from hf_mingpt.system.files import check_source, describe_failure

        name, _, revision = model_id_and_revision.partition("@")
        try:
            check_source(name, "model", has_owner=True)
            if not Path(name).exists():
                hf_hub_download(name, "config.json", revision=revision)
        except Exception as error:
            raise HTTPException(status_code=404, detail=str(describe_failure(name, "model", error))) from error
        return load(manager, model_id_and_revision, *arguments, **options)

    return load_found


def refuse_chats_without_template(handle):
    """Wraps the method that answers a chat, so that a model without a chat template gets status 400."""

    @functools.wraps(handle)
    async def handle_request(handler, body, *arguments, **options):
        from fastapi import HTTPException

        *_, tokenizer = handler._resolve_model(dict(body))
        if not tokenizer.chat_template:
            detail = "The model has no chat template: finetune it on questions, or use /v1/completions."
            raise HTTPException(status_code=400, detail=detail)
        return await handle(handler, body, *arguments, **options)

    return handle_request


def adapt_server() -> None:
    """Wraps the methods of the server."""
    from transformers.cli.serving import chat_completion, model_manager, response, utils

    def wrap(owner, name, wrapper):
        setattr(owner, name, wrapper(getattr(owner, name)))

    for generator in (utils.GenerateManager, utils.CBGenerateManager):
        wrap(generator, "generate_streaming", keep_to_context)
        wrap(generator, "generate_non_streaming", keep_to_context)
    for chat in (chat_completion.ChatCompletionHandler, response.ResponseHandler):
        wrap(chat, "handle_request", refuse_chats_without_template)
    wrap(model_manager.ModelManager, "load_model_and_processor", find_model_first)


if __name__ == "__main__":
    from transformers.cli.transformers import main
    from transformers.utils.import_utils import is_serve_available

    transformers.MinGPTForCausalLM = hf_mingpt.MinGPTForCausalLM
    if is_serve_available():  # if not, the library says what is missing
        adapt_server()
    sys.argv.insert(1, "serve")
    main()
