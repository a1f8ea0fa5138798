// The official client for Node.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const model = process.env.MODEL;
const messages = [{ role: "user", content: "Who are you?" }];

const chat = await client.chat.completions.create({ model, messages, max_tokens: 12, temperature: 0 });
assert.equal(chat.object, "chat.completion");
const text = chat.choices[0].message.content;
assert.ok(text.length > 0);
assert.equal(chat.usage.completion_tokens, 12);

let streamed = "";
for await (const chunk of await client.chat.completions.create({
  model, messages, max_tokens: 12, temperature: 0, stream: true,
})) streamed += chunk.choices[0]?.delta?.content ?? "";
assert.equal(streamed, text);

const response = await client.responses.create({ model, input: "Who are you?", max_output_tokens: 12, temperature: 0 });
assert.equal(response.output_text, text);
assert.equal((await client.responses.retrieve(response.id)).output_text, text);
const seen = [];
for await (const event of await client.responses.create({
  model, input: "Who are you?", max_output_tokens: 12, temperature: 0, stream: true,
})) seen.push(event);
assert.deepEqual(seen.map((event) => event.sequence_number), [...seen.keys()]);
assert.equal(seen.at(-1).response.output_text ?? seen.at(-1).response.output[0].content[0].text, text);
await client.responses.delete(response.id);
await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);

const embeddings = await client.embeddings.create({ model, input: ["one", "two"] });
const length = Math.hypot(...embeddings.data[0].embedding);
assert.ok(Math.abs(length - 1) < 1e-4, `length ${length}`);

const models = [];
for await (const card of client.models.list()) models.push(card.id);
assert.deepEqual(models, [model]);
await assert.rejects(client.chat.completions.create({ model, messages, temperature: 9 }), OpenAI.BadRequestError);
await assert.rejects(client.chat.completions.create({ model: "other", messages }), OpenAI.NotFoundError);
