"""litellm: chats, streams, text completions, embeddings, and errors under its own names."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it looks for one on the internet

import litellm

MODEL = f"openai/{os.environ['MODEL']}"
MESSAGES = [{"role": "user", "content": "Who are you?"}]

whole = litellm.completion(model=MODEL, messages=MESSAGES, max_tokens=16, temperature=0, num_retries=0)
text = whole.choices[0].message.content
assert text
assert whole.usage.completion_tokens == 16
stream = litellm.completion(model=MODEL, messages=MESSAGES, max_tokens=16, temperature=0, stream=True, num_retries=0)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
completed = litellm.text_completion(model=f"text-completion-{MODEL}", prompt="Once", max_tokens=5, num_retries=0)
assert completed.choices[0].text
vectors = litellm.embedding(model=MODEL, input=["one", "two"], encoding_format="float", num_retries=0)
assert len(vectors.data) == 2
made = litellm.responses(model=MODEL, input="Who are you?", max_output_tokens=16, temperature=0)
assert made.output[0].content[0].text == text
try:
    litellm.completion(model=MODEL, messages=MESSAGES, temperature=9, num_retries=0)
except litellm.BadRequestError:
    pass
else:
    raise AssertionError("a wrong temperature was taken")
