"""Runs transformers' common tests on the character tokenizer, loaded with AutoTokenizer: `make test-hf`."""

import string
import tempfile
import unittest

from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers_tests.test_tokenization_common import TokenizerTesterMixin
from transformers_tests.test_tokenizers_backend_mixin import TokenizersBackendTesterMixin

from hf_mingpt.tokenization_mingpt import build_tokenizer, build_vocabulary


class CharacterTokenizer:
    tokenizer_class = rust_tokenizer_class = TokenizersBackend

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        build_tokenizer(build_vocabulary([[string.printable]]), 128).save_pretrained(cls.folder.name)
        cls.from_pretrained_id = cls.folder.name
        super().setUpClass()


class CommonTest(CharacterTokenizer, TokenizerTesterMixin, unittest.TestCase):
    pass


class BackendTest(CharacterTokenizer, TokenizersBackendTesterMixin, unittest.TestCase):
    pass
