"""instructor: typed answers, by tools and by JSON schema."""

import os

import instructor
import openai
from pydantic import BaseModel, ConfigDict, Field

MESSAGES = [{"role": "user", "content": "Bob is five years old."}]


class Person(BaseModel):
    """Somebody. Left more to say, a small model may not come to an end."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai.OpenAI(max_retries=0), mode=mode)
    settings = {"model": os.environ["MODEL"], "max_tokens": 100, "temperature": 0, "max_retries": 0}
    person = client.chat.completions.create(messages=MESSAGES, response_model=Person, **settings)
    assert isinstance(person, Person), mode
