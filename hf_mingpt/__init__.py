"""hf_mingpt: minGPT in the Hugging Face ecosystem, and an experiment on learning facts.

Importing it makes AutoConfig, AutoModel and AutoModelForCausalLM know minGPT, without importing torch: the classes are
registered as soon as transformers' own auto classes come to life.
"""

import importlib
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:  # what type checkers and editors see; at run time, `__getattr__` imports a name when it is used
    from .configuration_mingpt import MinGPTConfig as MinGPTConfig
    from .data.collators import DataCollatorForQuestionAnswering as DataCollatorForQuestionAnswering
    from .data.collators import DataCollatorForSalientSpans as DataCollatorForSalientSpans
    from .data.collators import DataCollatorForSpanCorruption as DataCollatorForSpanCorruption
    from .data.collators import add_index as add_index
    from .data.encoding import encode_documents as encode_documents
    from .evaluation.answering import answer_questions as answer_questions
    from .evaluation.calibration import ask as ask
    from .evaluation.scoring import METRIC_FOLDER as METRIC_FOLDER
    from .hub.loading import load_calibration as load_calibration
    from .hub.loading import load_run as load_run
    from .hub.pushing import push_run as push_run
    from .modeling_mingpt import MinGPTForCausalLM as MinGPTForCausalLM
    from .modeling_mingpt import MinGPTForSequenceClassification as MinGPTForSequenceClassification
    from .modeling_mingpt import MinGPTForTokenClassification as MinGPTForTokenClassification
    from .modeling_mingpt import MinGPTModel as MinGPTModel
    from .modeling_mingpt import MinGPTPreTrainedModel as MinGPTPreTrainedModel
    from .training.presets import MODEL_PRESETS as MODEL_PRESETS

_MODULE_OF = {
    "DataCollatorForQuestionAnswering": "data.collators",
    "DataCollatorForSalientSpans": "data.collators",
    "DataCollatorForSpanCorruption": "data.collators",
    "MinGPTConfig": "configuration_mingpt",
    "MinGPTForCausalLM": "modeling_mingpt",
    "MinGPTForSequenceClassification": "modeling_mingpt",
    "MinGPTForTokenClassification": "modeling_mingpt",
    "MinGPTModel": "modeling_mingpt",
    "MinGPTPreTrainedModel": "modeling_mingpt",
    "MODEL_PRESETS": "training.presets",
    "METRIC_FOLDER": "evaluation.scoring",
    "add_index": "data.collators",
    "answer_questions": "evaluation.answering",
    "ask": "evaluation.calibration",
    "encode_documents": "data.encoding",
    "load_calibration": "hub.loading",
    "load_run": "hub.loading",
    "push_run": "hub.pushing",
}
__all__ = list(_MODULE_OF)
__version__ = "0.1.0"


def __dir__() -> list[str]:  # completion in editors and notebooks
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


# Whichever comes first, transformers' auto classes or our modules: once either is there, the other follows, and our
# modules register themselves when they are complete.
_PARTNERS = {
    "transformers.models.auto.configuration_auto": ".configuration_mingpt",
    # our model needs modeling_layers, which imports modeling_auto: it must be whole before ours begins
    "transformers.models.auto.modeling_auto": "transformers.modeling_layers",
    "transformers.modeling_layers": ".modeling_mingpt",
}
for _module in _PARTNERS:
    wrapt.register_post_import_hook(
        lambda module: importlib.import_module(_PARTNERS[module.__name__], __name__), _module
    )


@wrapt.when_imported(f"{__name__}.configuration_mingpt")
def _register_config(module) -> None:
    from transformers import AutoConfig

    AutoConfig.register("mingpt", module.MinGPTConfig)


@wrapt.when_imported(f"{__name__}.modeling_mingpt")
def _register_models(module) -> None:
    import transformers

    for auto_class, head in {
        "AutoModel": "MinGPTModel",
        "AutoModelForCausalLM": "MinGPTForCausalLM",
        "AutoModelForSequenceClassification": "MinGPTForSequenceClassification",
        "AutoModelForTokenClassification": "MinGPTForTokenClassification",
    }.items():
        getattr(transformers, auto_class).register(module.MinGPTConfig, getattr(module, head))
