"""lm-eval: log-likelihoods by local-completions, generation by local-chat-completions, on tasks that ship with this."""

import os
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

TASKS = Path(__file__).parent / "lm_eval_tasks"
URL = os.environ["OPENAI_BASE_URL"]
MODEL = os.environ["MODEL"]

with tempfile.TemporaryDirectory() as directory:
    for source in TASKS.glob("*.yaml"):
        text = source.read_text().replace("QUESTIONS", str(TASKS / "questions.jsonl"))
        (Path(directory) / source.name).write_text(text)
    tasks = TaskManager(include_path=directory)
    scored = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": MODEL,
            "base_url": f"{URL}/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": os.environ["TOKENIZER"],
            "max_retries": 1,
            "max_length": 1000,
        },
        tasks=["pagestream_choices"],
        task_manager=tasks,
        bootstrap_iters=0,
    )
    accuracy = scored["results"]["pagestream_choices"]["acc,none"]
    print(f"accuracy {accuracy}")
    assert accuracy >= 0.75, "the likeliest endings are the right ones, even for a small model"
    written = lm_eval.simple_evaluate(
        model="local-chat-completions",
        model_args={"model": MODEL, "base_url": f"{URL}/chat/completions", "max_retries": 1},
        tasks=["pagestream_answers"],
        task_manager=tasks,
        bootstrap_iters=0,
        apply_chat_template=True,
    )
    answers = [sample["resps"][0][0] for sample in written["samples"]["pagestream_answers"]]
    assert len(answers) == 4
    assert all(answers), answers
