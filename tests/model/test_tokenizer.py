"""The tokenizer against openai-harmony, and text that must never do harm."""

import gzip
import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from openai_harmony import HarmonyEncoding, load_harmony_encoding

import model.vocabulary
from model import vocabulary
from model.errors import TokenizerError
from model.tokenizer import MAX_WHITESPACE_RUN, TextDecoder, Tokenizer
from model.vocabulary import SPECIAL_TOKENS, VOCAB_SIZE, load_ranks, vocabulary_dir

TOKENIZER = Tokenizer()


@pytest.fixture(scope="module")
def harmony(tmp_path_factory: pytest.TempPathFactory) -> HarmonyEncoding:
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(vocabulary_dir(tmp_path_factory.mktemp("cache")))
    return load_harmony_encoding("HarmonyGptOss")


def random_text(seed: int) -> str:
    """Return a mix of words, digits, blanks, scripts, emoji, combining marks and control characters."""
    generator = random.Random(seed)
    ranges = [(32, 127), (32, 33), (10, 14), (48, 58), (160, 0x250), (0x300, 0x370), (0x370, 0x600), (0x3040, 0x30FF)]
    ranges += [(0x4E00, 0x5000), (0x1F600, 0x1F640), (0, 32), (0xFE00, 0xFE10), (97, 123), (0x200B, 0x2030)]
    return "".join(chr(generator.randrange(*generator.choice(ranges))) for _ in range(generator.randrange(120)))


def test_named_special_tokens_have_their_ids() -> None:
    assert (vocabulary.RETURN, vocabulary.CONSTRAIN, vocabulary.CHANNEL) == (200002, 200003, 200005)
    assert (vocabulary.START, vocabulary.END, vocabulary.MESSAGE, vocabulary.CALL) == (200006, 200007, 200008, 200012)
    text = "<|startoftext|><|endoftext|><|return|><|constrain|><|channel|><|start|><|end|><|message|><|call|>"
    ids = [199998, 199999, 200002, 200003, 200005, 200006, 200007, 200008, 200012]
    assert TOKENIZER.encode_with_special(text) == ids
    assert TOKENIZER.decode(ids) == text


def test_words_of_the_harmony_format_are_single_tokens() -> None:
    words = {"system": 17360, "developer": 77944, "user": 1428, "assistant": 173781, "tool": 17952}
    words |= {"analysis": 35644, "final": 17196, "functions": 44580, "json": 4108}
    assert {word: TOKENIZER.encode(word) for word in words} == {word: [token_id] for word, token_id in words.items()}
    assert TOKENIZER.encode("commentary") == [12606, 815]


def test_text_never_becomes_a_special_token(harmony: HarmonyEncoding) -> None:
    for name in SPECIAL_TOKENS:
        ids = TOKENIZER.encode(f"a{name}b")
        assert not any(TOKENIZER.is_special(token_id) for token_id in ids)
        assert TOKENIZER.decode(ids) == f"a{name}b"
    assert TOKENIZER.encode("<|end|>") == harmony.encode("<|end|>", disallowed_special=())


def test_ordinary_text_agrees_with_openai_harmony(harmony: HarmonyEncoding) -> None:
    for seed in range(500):
        text = random_text(seed)
        ids = TOKENIZER.encode(text)
        assert ids == harmony.encode(text, disallowed_special=())
        assert TOKENIZER.decode(ids) == text


def test_special_text_agrees_with_openai_harmony(harmony: HarmonyEncoding) -> None:
    text = "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    assert TOKENIZER.encode_with_special(text) == harmony.encode(text, allowed_special="all")


def test_every_id_has_bytes_of_its_own(harmony: HarmonyEncoding) -> None:
    tokens = [TOKENIZER.token_bytes(token_id) for token_id in range(VOCAB_SIZE)]
    assert len(set(tokens)) == VOCAB_SIZE == 201_088
    for token_id in random.Random(0).sample(range(VOCAB_SIZE), 2_000):
        if token_id != vocabulary.END_OF_PROMPT:  # which openai-harmony calls reserved
            assert TOKENIZER.token_text(token_id) == harmony.decode([token_id])


def test_reserved_ids_are_spelled_out() -> None:
    assert TOKENIZER.decode([200000, 200013, 201087]) == "<|reserved_200000|><|reserved_200013|><|reserved_201087|>"
    assert TOKENIZER.token_text(vocabulary.END_OF_PROMPT) == "<|endofprompt|>"
    assert TOKENIZER.encode_with_special("<|reserved_201087|>") == [201087]
    assert [TOKENIZER.is_special(token_id) for token_id in (199997, 199998, 201087)] == [False, True, True]


@pytest.mark.parametrize("token_id", [-1, 201088, 2**40])
def test_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    for call in (
        lambda: TOKENIZER.decode([1, token_id]),
        lambda: TOKENIZER.decode_bytes([token_id]),
        lambda: TOKENIZER.token_bytes(token_id),
        lambda: TOKENIZER.token_text(token_id),
        lambda: TOKENIZER.is_special(token_id),
    ):
        with pytest.raises(TokenizerError, match=f"{token_id} is no token id; the vocabulary is 0 to 201087"):
            call()


def test_lone_surrogates_become_replacement_characters() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("blank", [" ", "\t", "\u3000"])
def test_text_that_would_abort_the_splitter_is_refused(blank: str) -> None:
    """A million blanks in a row make the splitter panic; half of that is the limit."""
    text = "a" + blank * MAX_WHITESPACE_RUN
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    for encode in (TOKENIZER.encode, TOKENIZER.encode_with_special):
        with pytest.raises(TokenizerError, match="500001 whitespace characters in a row are too many; at most 500000"):
            encode(text + blank)
    assert TOKENIZER.encode((text + "b") * 3)


def test_decoding_a_stream_gives_what_decoding_at_once_gives() -> None:
    """Whatever the ids: characters over several tokens, invalid bytes, and special tokens inside a character."""
    generator = random.Random(5)
    for seed in range(300):
        ids = TOKENIZER.encode(random_text(seed))
        ids += [generator.choice([generator.randrange(256), generator.randrange(VOCAB_SIZE)]) for _ in range(20)]
        generator.shuffle(ids)
        decoder = TextDecoder(TOKENIZER)
        pieces = [decoder.push(token_id) for token_id in ids]
        assert "".join(pieces) + decoder.flush() == TOKENIZER.decode(ids)


def test_a_stream_holds_back_incomplete_characters() -> None:
    """Bytes 0xF0 0x9F 0x99 0x82 are one emoji, here in four tokens of one byte each."""
    ranks = load_ranks()
    ids = [ranks[bytes([byte])] for byte in "🙂".encode()]
    decoder = TextDecoder(TOKENIZER)
    assert [decoder.push(token_id) for token_id in ids] == ["", "", "", "🙂"]
    assert decoder.flush() == ""
    assert decoder.push(ids[0]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(TOKENIZER.encode("a")[0]) == "a"


def test_vocabulary_file_is_written_whole_by_racing_threads(tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(vocabulary_dir(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {tmp_path / "vocabulary"}
    (file,) = (tmp_path / "vocabulary").iterdir()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == vocabulary.RANKS_SHA256
    before = file.stat().st_ino
    vocabulary_dir(tmp_path)
    assert file.stat().st_ino == before
    file.write_bytes(b"damaged")
    vocabulary_dir(tmp_path)
    assert file.stat().st_size == 3_613_922


def test_another_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package whose data were damaged in installation must not serve other tokens."""
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "o200k_base.tiktoken.gz"
    monkeypatch.setattr(model.vocabulary.resources, "files", lambda _package: tmp_path)
    model.vocabulary._ranks_document.cache_clear()
    for content, message in ((gzip.compress(b"IQ== 0\n"), "has SHA-256"), (b"\x1f\x8b", "cannot be read")):
        file.write_bytes(content)
        with pytest.raises(TokenizerError, match=message):
            load_ranks()
    model.vocabulary._ranks_document.cache_clear()


def test_importing_loads_no_vocabulary() -> None:
    code = "import model.tokenizer as t; t.Tokenizer(); print(t._encoding.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "0"
