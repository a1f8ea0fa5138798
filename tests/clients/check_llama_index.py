"""llama-index's OpenAI-like client: chats, streams and completions."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

settings = {"model": os.environ["MODEL"], "api_base": os.environ["OPENAI_BASE_URL"], "api_key": "none"}
settings |= {"max_tokens": 12, "temperature": 0, "max_retries": 0, "context_window": 1024}
chat = OpenAILike(is_chat_model=True, **settings)
messages = [ChatMessage(role="user", content="Who are you?")]
whole = chat.chat(messages).message.content
assert whole
assert "".join(part.delta or "" for part in chat.stream_chat(messages)) == whole
completion = OpenAILike(is_chat_model=False, **settings)
assert completion.complete("Once upon a time").text
