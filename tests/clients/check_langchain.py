"""langchain-openai: chats, streams, tools, structured output, embeddings, and the Responses API."""

import os

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
CONVERSATION = [SystemMessage("Be brief."), HumanMessage("Who are you?")]


class Answer(BaseModel):
    """An answer."""

    name: str
    age: int


@tool
def find(query: str) -> str:
    """Find something."""
    return query


chat = ChatOpenAI(model=MODEL, temperature=0, max_tokens=12, max_retries=0)
whole = chat.invoke(CONVERSATION)
assert whole.content
assert whole.usage_metadata["output_tokens"] == 12
assert "".join(chunk.content for chunk in chat.stream(CONVERSATION)) == whole.content

long_chat = ChatOpenAI(model=MODEL, temperature=0, max_tokens=100, max_retries=0)
assert isinstance(long_chat.with_structured_output(Answer, method="json_schema").invoke("Bob is 5."), Answer)
called = long_chat.bind_tools([find], tool_choice="find").invoke("Find a cat.")
assert called.tool_calls[0]["name"] == "find"
assert isinstance(called.tool_calls[0]["args"]["query"], str)

responses = ChatOpenAI(model=MODEL, temperature=0, max_tokens=12, max_retries=0, use_responses_api=True)
assert responses.invoke(CONVERSATION).text == whole.content

embeddings = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, max_retries=0)
vectors = embeddings.embed_documents(["one", "two"])
assert abs(sum(value * value for value in vectors[0]) - 1) < 1e-4
