"""pip's words become one line of progress, and its failures advice."""

import pytest

from setup.pip_output import PipProgress, advice, last_words


def test_progress_follows_pip_through_a_download() -> None:
    progress = PipProgress(num_expected=2)
    progress.feed("Collecting torch==2.13.0 (from -r requirements-cpu.txt (line 5))")
    assert progress.phrase == "1/2 torch"
    progress.feed(
        "  Downloading https://example.invalid/a/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl (190.4 MB)"
    )
    assert progress.phrase == "1/2 torch-2.13.0%2Bcpu (190.4 MB)"
    progress.feed("Progress 50 of 200")
    assert progress.phrase == "1/2 torch-2.13.0%2Bcpu (190.4 MB) 25 %"
    progress.feed("Collecting numpy")
    assert progress.phrase == "2/2 numpy"
    progress.feed("  Using cached numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (16 MB)")
    assert progress.phrase == "2/2 numpy-2.4.6 (16 MB)"
    progress.feed("Installing collected packages: numpy, torch")
    assert progress.phrase == "unpacking 2 packages"


def test_lines_that_say_nothing_of_progress_change_nothing() -> None:
    progress = PipProgress()
    progress.feed("Collecting numpy>=2")
    progress.feed("WARNING: something")
    progress.feed("Progress 0 of 0")
    assert progress.phrase == "numpy"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "PIP_CERT"),
        ("NameResolutionError('example.invalid'): Failed to resolve", "cannot be reached. Check the network"),
        ("OSError: [Errno 13] Permission denied: '/x'", "another user"),
    ],
)
def test_a_known_failure_comes_with_advice(output: str, words: str) -> None:
    assert words in (advice(output, {}) or "")


def test_a_proxy_in_between_is_named() -> None:
    text = advice(
        "NewConnectionError: refused", {"https_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "", "HOME": "/root"}
    )
    assert text is not None
    assert "https_proxy=http://127.0.0.1:9" in text
    assert "HTTP_PROXY" not in text


def test_an_unknown_failure_is_left_to_pips_own_words() -> None:
    output = "Collecting a\nProgress 1 of 2\nERROR: No matching distribution found for a\n"
    assert advice(output, {}) is None
    assert last_words(output) == "ERROR: No matching distribution found for a"
    assert last_words("one\n\ntwo\nthree\n", num_lines=2) == "two\nthree"
