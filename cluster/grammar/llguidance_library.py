"""Grammars by llguidance: the file that knows it, with the program of trials.

It reads JSON schemas, regular expressions and Lark grammars, and gives the mask of 201,088 tokens in microseconds,
lazily: a grammar costs time as it is walked, not up front. It is a single library without dependencies. Its limits
stand in numbers of items, so that the same grammar passes or fails on every machine.

Only ordinary tokens are known to it: no grammar can allow a control token.
"""

import json
from functools import cache
from typing import Any, cast

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, grammar_from

from cluster.errors import GrammarRefused
from cluster.grammar.constraint import GrammarKind, GrammarSpec
from cluster.grammar.json_object import JSON_OBJECT_GRAMMAR
from cluster.grammar.json_place import depth_of, fault_path
from cluster.grammar.limits import GrammarLimits
from cluster.grammar.trial import Trials
from model.token_mask import Words, num_words
from model.tokenizer import Tokenizer
from model.vocabulary import NUM_RANKS, RETURN, VOCAB_SIZE, load_ranks

_MAX_LEXER_STATES = 30_000
"""About 60 MB of a sequence whose grammar uses them all."""
_WHITESPACE = r"\r?\n[ \t]{0,32}|[ ]?"
"""Between the parts of a JSON text: enough for any usual layout, too little to fill an answer with."""
_MAX_SHOWN_CHARS = 200


class LlGuidance:
    """Compiles grammars for the o200k_harmony vocabulary."""

    def __init__(self, limits: GrammarLimits) -> None:
        """Refuse what passes `limits`. The first one in a process takes a second or two: it sorts the vocabulary."""
        self._limits = limits
        self._trials = Trials(limits.compile_timeout_s)
        _tokenizer()

    def close(self) -> None:
        """End the processes that belong to it."""
        self._trials.close()

    def compile(self, spec: GrammarSpec) -> "LlMatcher":
        """Return a matcher that has seen nothing. Raises GrammarRefused naming the place and what is wrong there."""
        self._check_size(spec)
        try:
            return self._compile(spec)
        except _Complaint as complaint:
            raise self._refusal(spec, str(complaint)) from complaint

    def _compile(self, spec: GrammarSpec) -> "LlMatcher":
        grammar = self._json_grammar(spec) if spec.kind is GrammarKind.JSON_SCHEMA else _text_grammar(spec)
        # What no client has written needs no trial.
        complaint = None if spec.kind is GrammarKind.JSON_OBJECT else self._tried(spec, grammar)
        if complaint is not None:
            raise _Complaint(complaint)
        matcher = LLMatcher(_tokenizer(), grammar, log_level=0, limits=_parser_limits())
        compiled = LlMatcher(matcher)
        is_dead = not matcher.is_error() and not compiled.words().any() and not compiled.is_accepting
        if matcher.is_error() or is_dead:
            raise _Complaint("NoExtension" if is_dead else matcher.get_error())
        return compiled

    def _tried(self, spec: GrammarSpec, grammar: str) -> str | None:
        """Return what a trial says against a grammar."""
        try:
            return self._trials.complaint(grammar)
        except GrammarRefused as refused:
            raise GrammarRefused(f"{spec.origin}: {refused}") from refused

    def _check_size(self, spec: GrammarSpec) -> None:
        is_schema = spec.kind in {GrammarKind.JSON_SCHEMA, GrammarKind.CHOICE}
        name = "max_schema_chars" if is_schema else "max_grammar_chars"
        limit = self._limits.max_schema_chars if is_schema else self._limits.max_grammar_chars
        if len(spec.text) > limit:
            raise GrammarRefused(
                f"{spec.origin}: it has {len(spec.text)} characters; at most {limit} ({name}) are read"
            )

    def _json_grammar(self, spec: GrammarSpec) -> str:
        schema = self._schema(spec)
        options: Any = {"lenient": spec.is_lenient, "coerce_one_of": spec.is_lenient, "whitespace_pattern": _WHITESPACE}
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
        if spec.is_lenient and self._tried(spec, grammar) is not None:
            return LLMatcher.grammar_from_json_schema('{"type": "object"}', overrides=options)
        return grammar

    def _schema(self, spec: GrammarSpec) -> dict[str, Any]:
        try:
            schema = json.loads(spec.text)
        except (ValueError, RecursionError) as error:
            raise GrammarRefused(f"{spec.origin}: it is no JSON that can be read") from error
        if not isinstance(schema, dict):
            raise GrammarRefused(f"{spec.origin}: a schema is wanted, an object")
        limit = self._limits.max_schema_depth
        if depth_of(schema) > limit:
            message = f"{spec.origin}: it is nested {depth_of(schema)} deep; at most {limit} (max_schema_depth) is read"
            raise GrammarRefused(message)
        return cast(dict[str, Any], schema)

    def _refusal(self, spec: GrammarSpec, complaint: str) -> GrammarRefused:
        if spec.kind is not GrammarKind.JSON_SCHEMA:
            return GrammarRefused(f"{spec.origin}: {_told(complaint)}")
        schema = json.loads(spec.text)
        place = fault_path(schema, complaint, self._schema_complaint)
        path = f"{spec.origin}.{place}" if spec.origin and place else spec.origin or place
        return GrammarRefused(f"{path}: {_told(complaint)}")

    def _schema_complaint(self, schema: str) -> str | None:
        try:
            return self._trials.complaint(LLMatcher.grammar_from_json_schema(schema))
        except GrammarRefused:
            return None


class _Complaint(Exception):
    """What llguidance says against a grammar."""


class LlMatcher:
    """A grammar of llguidance and how much it has seen."""

    def __init__(self, matcher: LLMatcher) -> None:
        """Take over `matcher`."""
        self._matcher = matcher

    def copy(self) -> "LlMatcher":
        """Return another one that has seen the same."""
        return LlMatcher(self._matcher.deep_copy())

    def advance(self, token_id: int) -> bool:
        """Take an ordinary token; return whether the grammar allows it. After a no it has seen nothing more."""
        return self._matcher.try_consume_tokens([token_id]) == 1

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last tokens."""
        self._matcher.rollback(num_tokens)

    def words(self) -> Words:
        """Return the ordinary tokens that may come next."""
        words = np.zeros(num_words(VOCAB_SIZE), dtype=np.uint32)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        words &= _ordinary()
        return words

    @property
    def is_accepting(self) -> bool:
        """Return whether the text may end here."""
        return self._matcher.is_accepting()

    @property
    def failure(self) -> str | None:
        """Return why nothing more can be said."""
        return _told(self._matcher.get_error()) if self._matcher.is_error() else None


class _Vocabulary:
    """What llguidance asks of a tokenizer. Control tokens are there, under names that no text has."""

    eos_token_id = RETURN
    bos_token_id = None

    def __init__(self) -> None:
        self._tokenizer = Tokenizer()
        self.tokens = [b"\xff<|%d|>" % token_id for token_id in range(VOCAB_SIZE)]
        for token, token_id in load_ranks().items():
            self.tokens[token_id] = token
        self.special_token_ids = list(range(NUM_RANKS, VOCAB_SIZE))

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", errors="replace"))


@cache
def _tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Vocabulary()))


@cache
def _parser_limits() -> LLParserLimits:
    return LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)


@cache
def _ordinary() -> Words:
    bits = np.zeros(num_words(VOCAB_SIZE) * 32, dtype=np.uint8)
    bits[:NUM_RANKS] = 1
    return np.packbits(bits, bitorder="little").view("<u4")


def _text_grammar(spec: GrammarSpec) -> str:
    if spec.kind is GrammarKind.JSON_OBJECT:
        return grammar_from("grammar", JSON_OBJECT_GRAMMAR)
    if spec.kind is GrammarKind.REGEX:
        return grammar_from("regex", spec.text)
    if spec.kind is GrammarKind.CHOICE:
        return grammar_from("choice", spec.text)
    try:
        return grammar_from("grammar", spec.text)
    except (ValueError, RecursionError) as error:
        raise GrammarRefused(f"{spec.origin}: {_told(str(error))}") from error


def _told(complaint: str) -> str:
    """Return a complaint in one line, without the library's echo of the grammar."""
    if complaint.startswith("NoExtension"):
        return "no text matches it"
    line = complaint.rpartition("error: ")[2].strip().partition("\n")[0].partition("; following")[0]
    return line.replace("Unimplemented keys: ", "not supported: ").strip()[:_MAX_SHOWN_CHARS] or "it cannot be compiled"
