"""`transformers serve` with minGPT in it: an OpenAI-compatible server of a run folder or Hub name.

    python scripts/serve.py runs/rope-answers --device cpu --port 8000
    curl localhost:8000/v1/completions -H "Content-Type: application/json" \
        -d '{"model": "runs/rope-answers", "prompt": "Where was Ada Byron born?⁇", "max_tokens": 32, "temperature": 0}'

The library's server looks for the class of a model among its own names, with remote code too, so ours is put there.
Takes the flags of `transformers serve`; needs `pip install "transformers[serving]"`.
"""

import sys

import transformers
from transformers.cli.transformers import main

import hf_mingpt

if __name__ == "__main__":
    transformers.MinGPTForCausalLM = hf_mingpt.MinGPTForCausalLM
    sys.argv.insert(1, "serve")
    main()
