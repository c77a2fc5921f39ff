// The `openai` package of Node against the endpoint; what it saw, as JSON.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

// The package lies in a cache folder, which the working directory is.
const require = createRequire(path.join(process.cwd(), "package.json"));
const { default: OpenAI } = await import(pathToFileURL(require.resolve("openai")));

const { BASE_URL, API_KEY, MODEL, NARROW, EMBEDDER, ALIAS } = process.env;
const messages = [{ role: "user", content: "Say hello" }];
const BUSY_TOKENS = 400;
const LONG_TOKENS = 6000;
const FREED_SECONDS = 10;
const seen = {};

const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });

async function look(name, call) {
  try {
    seen[name] = await call();
  } catch (error) {
    seen[name] = { raised: String(error.stack) };
  }
}

async function errorOf(call) {
  try {
    return { answered: JSON.stringify(await call()) };
  } catch (error) {
    return {
      classes: [error.constructor.name],
      status: error.status ?? null,
      retry_after: error.headers?.get("retry-after") ?? null,
      request_id: error.requestID ?? null,
      message: error.message,
    };
  }
}

const seconds = () => performance.now() / 1000;

async function freed() {
  const begun = seconds();
  for (;;) {
    try {
      await narrow();
      return seconds() - begun;
    } catch (error) {
      if (seconds() - begun > FREED_SECONDS) throw error;
      await new Promise((resume) => setTimeout(resume, 50));
    }
  }
}

function narrow(api = client) {
  return api.completions.create({ model: NARROW, prompt: "hi", max_tokens: 4 });
}

// A stream on the narrow model after its first token.
async function occupy(tokens) {
  const stream = await client.completions.create({
    model: NARROW, prompt: "hi", max_tokens: tokens, stream: true, ignore_eos: true,
  });
  const parts = stream[Symbol.asyncIterator]();
  await parts.next();
  return stream;
}

await look("models", async () => {
  const list = [];
  for await (const model of client.models.list()) list.push(model.id);
  return { list, one: (await client.models.retrieve(MODEL)).id };
});

await look("completion", async () => {
  const answer = await client.completions.create({ model: MODEL, prompt: "hi", max_tokens: 5 });
  return { text: answer.choices[0].text, tokens: answer.usage.completion_tokens };
});

await look("chat", async () => {
  const answer = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 5 });
  return { text: answer.choices[0].message.content, tokens: answer.usage.completion_tokens };
});

await look("chat_stream", async () => {
  const stream = await client.chat.completions.create({
    model: MODEL, messages, max_tokens: 5, stream: true, stream_options: { include_usage: true },
  });
  let text = "";
  let tokens = 0;
  for await (const part of stream) {
    text += part.choices[0]?.delta?.content ?? "";
    tokens = part.usage?.completion_tokens ?? tokens;
  }
  return { text, tokens };
});

await look("stream_helper", async () => {
  const stream = client.chat.completions.stream({ model: MODEL, messages });
  let streamed = "";
  stream.on("content", (delta) => (streamed += delta));
  return { text: (await stream.finalChatCompletion()).choices[0].message.content, streamed };
});

await look("alias", async () =>
  (await client.chat.completions.create({ model: ALIAS, messages, max_tokens: 5 })).model);

await look("embeddings", async () => {
  const answer = await client.embeddings.create({ model: EMBEDDER, input: ["one", "two"] });
  return { lengths: answer.data.map((item) => item.embedding.length) };
});

await look("errors", async () => {
  const stream = await occupy(BUSY_TOKENS);
  const busy = await errorOf(narrow);
  stream.controller.abort();
  const stranger = new OpenAI({ baseURL: BASE_URL, apiKey: "sk-wrong", maxRetries: 0 });
  const chat = (api, model, asked = messages) =>
    api.chat.completions.create({ model, messages: asked });
  return {
    unknown_model: await errorOf(() => chat(client, "no")),
    bad_key: await errorOf(() => chat(stranger, MODEL)),
    bad_request: await errorOf(() => chat(client, MODEL, [])),
    busy,
  };
});

await look("patience", async () => {
  await freed();
  const stream = await occupy(BUSY_TOKENS);
  const told = Number((await errorOf(narrow)).retry_after);
  const begun = seconds();
  await narrow(client.withOptions({ maxRetries: 5 }));
  const waited = seconds() - begun;
  stream.controller.abort();
  return { told, seconds: waited };
});

await look("leaving", async () => {
  await freed();
  (await occupy(LONG_TOKENS)).controller.abort();
  return { freed_seconds: await freed() };
});

console.log(JSON.stringify(seen));
