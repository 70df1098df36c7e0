// Clients of the OpenAI API from npm, as they are, against a gateway.
//
// Usage: node checks.mjs BASE_URL. Prints a line for each check and the count at the end.

import assert from "node:assert/strict";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { embed, generateObject, generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const base = process.argv[2];
const chat = "cocoon-tiny";
const verse = "In the beginning God created the heaven and the earth.";
const prompt = "Recite Genesis 1:1.";
const messages = [{ role: "user", content: prompt }];
const openai = new OpenAI({ baseURL: base, apiKey: "any", maxRetries: 0 });
const sdk = createOpenAICompatible({
  name: "cocoon",
  baseURL: base,
  apiKey: "any",
  supportsStructuredOutputs: true,
});
const pet = z.object({ kind: z.enum(["cat", "dog"]), count: z.number().int().min(0).max(99) });
const parameters = z.toJSONSchema(pet);

const checks = {
  async openai_chats_and_streams() {
    const whole = await openai.chat.completions.create({ model: chat, messages });
    assert.equal(whole.choices[0].message.content, verse);
    const stream = await openai.chat.completions.create({ model: chat, messages, stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    assert.equal(text, verse);
  },

  async openai_runs_tools() {
    const run = await openai.chat.completions.create({
      model: chat,
      messages,
      tools: [{ type: "function", function: { name: "pet", parameters } }],
      tool_choice: { type: "function", function: { name: "pet" } },
    });
    const [call] = run.choices[0].message.tool_calls;
    pet.parse(JSON.parse(call.function.arguments));
  },

  async openai_responds_and_embeds() {
    const response = await openai.responses.create({ model: chat, input: prompt });
    assert.equal(response.output_text, verse);
    const { data } = await openai.embeddings.create({ model: "minilm", input: ["a", "b"] });
    assert.deepEqual(data.map((item) => item.embedding.length), [384, 384]);
  },

  async openai_knows_errors() {
    const ask = (body) => openai.chat.completions.create({ model: chat, messages, ...body });
    await assert.rejects(ask({ model: "gpt-x" }), OpenAI.NotFoundError);
    await assert.rejects(ask({ temperature: 9 }), (error) => error.param === "temperature");
    const aborted = new AbortController();
    const long = [{ role: "user", content: "Tell me everything about Mr. Darcy." }];
    const stream = await openai.chat.completions.create(
      { model: chat, messages: long, stream: true },
      { signal: aborted.signal },
    );
    for await (const _ of stream) aborted.abort();
    assert.equal((await ask({})).choices[0].message.content, verse);
  },

  async langchain_chats_calls_and_embeds() {
    const model = new ChatOpenAI({ model: chat, apiKey: "any", configuration: { baseURL: base } });
    assert.equal((await model.invoke(prompt)).content, verse);
    const found = await model.withStructuredOutput(pet, { name: "pet" }).invoke("A pet.");
    pet.parse(found);
    const embeddings = new OpenAIEmbeddings({
      model: "minilm",
      apiKey: "any",
      configuration: { baseURL: base },
    });
    assert.equal((await embeddings.embedQuery("a")).length, 384);
  },

  async ai_sdk_generates_and_streams() {
    const model = sdk(chat);
    assert.equal((await generateText({ model, prompt })).text, verse);
    let text = "";
    for await (const part of streamText({ model, prompt }).textStream) text += part;
    assert.equal(text, verse);
    const { embedding } = await embed({ model: sdk.embeddingModel("minilm"), value: "a" });
    assert.equal(embedding.length, 384);
  },

  async ai_sdk_has_objects_and_calls() {
    const model = sdk(chat);
    const { object } = await generateObject({ model, prompt: "A pet.", schema: pet });
    pet.parse(object);
    const { toolCalls } = await generateText({
      model,
      prompt: "A pet.",
      tools: { pet: tool({ inputSchema: pet }) },
      toolChoice: "required",
    });
    pet.parse(toolCalls[0].input);
  },
};

let passed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (error) {
    console.log(`FAILED  ${name}`);
    console.log(error);
  }
}
console.log(`${passed} of ${Object.keys(checks).length}`);
process.exit(passed === Object.keys(checks).length ? 0 : 1);
