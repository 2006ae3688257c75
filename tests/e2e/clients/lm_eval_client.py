"""The evaluation harness lm-eval: choices by loglikelihood, exact answers by generation, of made-up tasks.

It asks the server for its tokenizer, scores by `echo` and `logprobs` of prompts in token ids, and generates from texts.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
CHOICES: dict[str, Any] = {
    "task": "expertmesh_choices",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}
GENERATED: dict[str, Any] = {
    "task": "expertmesh_generated",
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "{{target}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 24, "temperature": 0.0},
    "metric_list": [{"metric": "exact_match"}],
}
QUESTIONS = (("Once upon a time", (" there was", " purple 9")), ("The sum is", (" 42", " forty|two")))


def run(url: str, model: str) -> None:
    """Evaluate twice; the same requests must give the same scores."""
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    harness: Any = lm_eval
    with tempfile.TemporaryDirectory() as folder:
        _write_tasks(Path(folder))
        manager: Any = TaskManager(include_path=folder, include_defaults=False)
        tasks = [CHOICES["task"], GENERATED["task"]]
        arguments = f"model={model},base_url={url}/v1/completions,num_concurrent=2,max_retries=1"
        runs = [
            harness.simple_evaluate(model="local-completions", model_args=arguments, tasks=tasks, task_manager=manager)
            for _ in range(2)
        ]
    answers = [[(one["doc_id"], one["resps"]) for task in tasks for one in run["samples"][task]] for run in runs]
    assert answers[0] == answers[1], answers
    scores = [pair for one in runs[0]["samples"][CHOICES["task"]] for resp in one["resps"] for pair in resp]
    assert len(scores) == 2 * len(QUESTIONS), scores
    assert all(float(score) < 0 for score, _ in scores), scores
    _log.info("loglikelihood: %s", scores)
    texts = [one["resps"][0][0] for one in runs[0]["samples"][GENERATED["task"]]]
    assert all(texts), texts
    _log.info("generation: %s", texts)


def _write_tasks(folder: Path) -> None:
    for task in (CHOICES, GENERATED):
        data = folder / f"{task['task']}.jsonl"
        rows = [{"text": text, "choices": choices, "answer": 0, "target": choices[0]} for text, choices in QUESTIONS]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task | files | {"metadata": {"version": 1}}))


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    run(sys.argv[1], sys.argv[2])
