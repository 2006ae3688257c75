// OpenAI's JavaScript client against a running server: the Responses API whole, streamed, with a tool, resumed.
//
//   expertmesh serve tiny-standalone
//   npm install openai@6           (in any folder; Node 20 or later)
//   node responses_client.mjs http://127.0.0.1:8000/v1 tiny
//
// Each check prints a line; the first that fails ends the script with an error and status 1.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const OpenAI = createRequire(process.cwd() + "/")("openai").default;
const [url = "http://127.0.0.1:8000", model = "tiny"] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url + "/v1", apiKey: process.env.OPENAI_API_KEY ?? "none", maxRetries: 0 });
const request = { model, temperature: 0, max_output_tokens: 200, seed: 1 };
const weather = {
  type: "function",
  name: "get_weather",
  description: "Get the current weather in a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  strict: false,
};

const whole = await client.responses.create({ ...request, input: "What is 17 + 25?" });
assert.equal(whole.status, "completed");
assert.ok(whole.output_text.length > 0);
console.log("ok whole:", whole.output_text);

const stream = client.responses.stream({ ...request, input: "What is 17 + 25?" });
const kinds = new Set();
for await (const event of stream) kinds.add(event.type);
const final = await stream.finalResponse();
assert.equal(final.output_text, whole.output_text);
assert.ok(kinds.has("response.reasoning_text.delta") && kinds.has("response.completed"));
console.log("ok stream:", final.output_text);

const called = await client.responses
  .stream({
    ...request,
    input: "What is the weather in Lisbon?",
    tools: [weather],
    tool_choice: { type: "function", name: "get_weather" },
  })
  .finalResponse();
const call = called.output.at(-1);
assert.equal(call.name, "get_weather");
const answered = await client.responses
  .stream({
    ...request,
    previous_response_id: called.id,
    tools: [weather],
    input: [{ type: "function_call_output", call_id: call.call_id, output: '{"condition": "sunny"}' }],
  })
  .finalResponse();
assert.equal(answered.status, "completed");
console.log("ok tool:", call.arguments, "->", answered.output_text);

const background = await client.responses.create({ ...request, input: "What is 20 + 20?", background: true });
const numbers = [];
for await (const event of await client.responses.retrieve(background.id, { stream: true, starting_after: 3 }))
  numbers.push(event.sequence_number);
assert.deepEqual(numbers, numbers.map((_, place) => place + 4));
assert.equal((await client.responses.retrieve(background.id)).status, "completed");
await client.responses.delete(background.id);
await assert.rejects(client.responses.retrieve(background.id), { status: 404 });
console.log("ok background: resumed,", numbers.length, "events");
