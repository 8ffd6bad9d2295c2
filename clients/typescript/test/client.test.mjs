// Run by `npm test`, with a running service in ADARESNET_URL and pictures in ADARESNET_PICTURES.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

import { Client, IncompleteAnswerError, ProblemError } from "../dist/index.js";
import { backoffMs } from "../dist/retries.js";

const baseUrl = process.env.ADARESNET_URL;
const folder = process.env.ADARESNET_PICTURES;
const red = join(folder, "red.jpg");
const green = join(folder, "green.jpg");
const client = new Client({ baseUrl });

/** A server whose answers the test decides; `answers` are called in turns, the last one again and again. */
async function madeUp(answers, use) {
  const requests = [];
  const server = createServer((request, response) => {
    request.resume();
    request.on("end", () => {
      requests.push(request);
      answers[Math.min(requests.length, answers.length) - 1](response);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await use(`http://127.0.0.1:${server.address().port}`, requests);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const good = { model: "m", version: 1, results: [{ predictions: [{ class_id: 0, label: "x", probability: 1 }] }] };
const answerGood = (response) => response.end(JSON.stringify(good));
const refuse = (status, headers = {}) => (response) => {
  response.writeHead(status, { "Content-Type": "application/problem+json", ...headers });
  response.end(JSON.stringify({ code: "queue_full", detail: "Full.", hint: "Later.", request_id: "r1" }));
};

test("an image may be a path, a URL, a buffer, a view, a blob or a file", async () => {
  const bytes = await readFile(red);
  const exact = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  for (const image of [red, pathToFileURL(red), bytes, exact, new Blob([bytes]), new File([bytes], "red.jpg")]) {
    const { model, version, predictions } = await client.classify(image, { model: "colors", version: 1, topK: 2 });
    assert.deepEqual([model, version, predictions.length, predictions[0].label], ["colors", 1, 2, "red"]);
  }
});

test("several images keep their order, and bad ones are named", async () => {
  const { results } = await client.classifyMany([red, green, red], { topK: 1 });
  assert.deepEqual(results.map(({ predictions }) => predictions[0].label), ["red", "green", "red"]);
  const junk = new Blob(["no picture"]);
  await assert.rejects(client.classifyMany([red, junk]), (error) => {
    assert(error instanceof ProblemError);
    assert.deepEqual([error.status, error.code, error.errors[0].index], [422, "invalid_images", 1]);
    assert(error.requestId && error.hint);
    return true;
  });
  const skipped = await client.classifyMany([red, junk], { onError: "skip" });
  assert.equal(skipped.results[1].error.code, "image_undecodable");
});

test("lines come one by one", async () => {
  const lines = [];
  for await (const line of client.classifyLines([green, new Blob(["no picture"]), red], { topK: 1 })) {
    lines.push(line);
  }
  assert.deepEqual(lines.map(({ index }) => index), [0, 1, 2]);
  assert.equal(lines[0].predictions[0].label, "green");
  assert.equal(lines[1].error.code, "image_undecodable");
  assert.equal(lines[2].predictions[0].label, "red");
  for await (const line of client.classifyLines(Array(200).fill(red))) {
    assert.equal(line.index, 0);
    break;
  }
});

test("models and every other route", async () => {
  assert.deepEqual((await client.models()).map(({ name }) => name), ["colors"]);
  assert.deepEqual((await client.model("colors")).classes, ["blue", "green", "red"]);
  await assert.rejects(client.model("dogs"), { name: "ProblemError", code: "model_not_found", status: 404 });
  const { data } = await client.api.GET("/v1/models/{name}", { params: { path: { name: "colors" } } });
  assert.equal(data.input.height, 16);
});

test("a full server is asked again when it says", async () => {
  await madeUp([refuse(503, { "Retry-After": "0" }), refuse(429), answerGood], async (url, requests) => {
    const own = new Client({ baseUrl: `${url}/base/`, apiKey: "k", headers: { "X-Team": "a" } });
    assert.equal((await own.classify(red)).predictions[0].label, "x");
    assert.equal(requests.length, 3);
    assert.deepEqual(requests[2].url, "/base/v1/classify");
    assert.deepEqual([requests[2].headers.authorization, requests[2].headers["x-team"]], ["Bearer k", "a"]);
  });
  await madeUp([refuse(503, { "Retry-After": "0" })], async (url, requests) => {
    await assert.rejects(new Client({ baseUrl: url, retries: 2 }).classify(red), { code: "queue_full", status: 503 });
    assert.equal(requests.length, 3);
  });
  await madeUp([refuse(500)], async (url, requests) => {
    await assert.rejects(new Client({ baseUrl: url }).classify(red), { status: 500 });
    assert.equal(requests.length, 1);
  });
});

test("nobody comes back before the server wants it, nor much later", () => {
  const told = (wait) => new Response("", { status: 429, headers: { "Retry-After": wait } });
  const date = new Date(Date.now() + 90_000).toUTCString();
  for (const [attempt, wait, least, most] of [
    [0, "0", 0, 100],
    [0, "60", 60_000, 60_100],
    [20, "1", 1000, 2000],
    [20, "3600", 3_600_000, 3_610_000],
    [0, date, 85_000, 90_100],
    [0, "Thu, 01 Jan 2015 00:00:00 GMT", 0, 100],
    [1, "soon", 200, 250],
    [20, "soon", 10_000, 12_500],
  ]) {
    const ms = backoffMs(attempt, told(wait));
    assert(least <= ms && ms <= most, `${wait}: ${ms}`);
  }
  assert(backoffMs(2) >= 400);
});

test("a server that can't be reached is tried again, and then said", async () => {
  await madeUp([(response) => response.destroy(), answerGood], async (url, requests) => {
    await new Client({ baseUrl: url }).classify(red);
    assert.equal(requests.length, 2);
  });
  let closed = "";
  await madeUp([answerGood], async (url) => {
    closed = url;
  });
  await assert.rejects(new Client({ baseUrl: closed, retries: 1 }).classify(red), TypeError);
});

test("a deadline covers everything, and the server is told", async () => {
  await madeUp([refuse(503, { "Retry-After": "60" })], async (url, requests) => {
    // There is no time for another attempt, so there is none.
    await assert.rejects(new Client({ baseUrl: url }).classify(red, { deadlineMs: 5000 }), { code: "queue_full" });
    assert.match(requests[0].headers["x-request-timeout"], /^\d+ms$/);
    assert.equal(requests.length, 1);
  });
  await madeUp([() => undefined], async (url) => {
    await assert.rejects(new Client({ baseUrl: url }).classify(red, { deadlineMs: 50 }), { name: "TimeoutError" });
    const signal = AbortSignal.timeout(50);
    await assert.rejects(new Client({ baseUrl: url }).classify(red, { signal }), { name: "TimeoutError" });
  });
});

test("an answer in lines that breaks off is no whole one", async () => {
  const line = JSON.stringify({ index: 0, predictions: [] });
  const early = (response) => response.end(`${line}\n`);
  await madeUp([early], async (url) => {
    const lines = new Client({ baseUrl: url }).classifyLines([red, green]);
    assert.equal((await lines.next()).value.index, 0);
    await assert.rejects(lines.next(), IncompleteAnswerError);
  });
  const late = { code: "deadline_exceeded", detail: "Too late.", hint: "Take longer." };
  const failing = (response) => response.end(`${line}\n${JSON.stringify({ error: late })}\n`);
  await madeUp([failing], async (url) => {
    const lines = new Client({ baseUrl: url }).classifyLines([red, green]);
    await lines.next();
    await assert.rejects(lines.next(), { name: "ProblemError", code: "deadline_exceeded" });
  });
});

test("what another kind of server says is shown", async () => {
  const page = (response) => response.writeHead(404, { "Content-Type": "text/html" }).end("<b>nothing here</b>");
  await madeUp([page], async (url) => {
    await assert.rejects(new Client({ baseUrl: url }).models(), { code: "unexpected_answer", message: /nothing here/ });
  });
});
