import createClient, { type Client as ApiClient } from "openapi-fetch";

import { problemOf } from "./errors.js";
import { blobOf, formOf, type ImageInput } from "./images.js";
import { linesOf, type Line } from "./lines.js";
import { backoffMs, isFull, sleep } from "./retries.js";
import type { components, paths } from "./schema.js";

type ClassifyResponse = components["schemas"]["ClassifyResponse"];
type ClassPrediction = components["schemas"]["ClassPrediction"];
type ModelInfo = components["schemas"]["ModelInfo"];

export interface ClientOptions {
  /** Default: http://localhost:8000 */
  baseUrl?: string;
  /** Sent as a bearer token. */
  apiKey?: string;
  /** Attempts after the first, where the service is full (503, 429) or can't be reached. Default: 4 */
  retries?: number;
  /** Sent with every request. */
  headers?: Record<string, string>;
  /** Used instead of the global one. */
  fetch?: typeof fetch;
}

export interface Deadline {
  /** Ends the call. */
  signal?: AbortSignal;
  /** Milliseconds for the call, its retries included; the service is told and ends its work in time. */
  deadlineMs?: number;
}

export interface ClassifyOptions extends Deadline {
  model?: string;
  version?: number;
  /** Classes an image. Default: 5 */
  topK?: number;
}

export interface ManyOptions extends ClassifyOptions {
  /** With a bad image: "fail" throws, "skip" answers the others. Default: "fail" */
  onError?: "fail" | "skip";
}

/** One image's classes, most probable first, and the model that named them. */
export interface Classification {
  model: string;
  version: number;
  predictions: ClassPrediction[];
}

/** Asks a server. All methods throw ProblemError for what the service refuses. */
export class Client {
  /** Every route of docs/openapi.json, typed, without retries. */
  readonly api: ApiClient<paths>;
  readonly #base: string;
  readonly #headers: Record<string, string>;
  readonly #retries: number;
  readonly #fetch: typeof fetch;

  constructor(options: ClientOptions = {}) {
    this.#base = (options.baseUrl ?? "http://localhost:8000").replace(/\/+$/, "");
    this.#headers = { ...options.headers };
    if (options.apiKey !== undefined) {
      this.#headers["Authorization"] = `Bearer ${options.apiKey}`;
    }
    this.#retries = options.retries ?? 4;
    // Browsers want it called on the global object.
    this.#fetch = options.fetch ?? ((...request) => globalThis.fetch(...request));
    this.api = createClient<paths>({ baseUrl: this.#base, headers: this.#headers, fetch: this.#fetch });
  }

  /** Classifies one image. */
  async classify(image: ImageInput, options: ClassifyOptions = {}): Promise<Classification> {
    const body = await blobOf(image);
    const headers = { "Content-Type": "application/octet-stream" };
    const response = await this.#post({ body, headers }, options, {});
    const answer = (await response.json()) as ClassifyResponse;
    return {
      model: answer.model,
      version: answer.version,
      predictions: answer.results[0]?.predictions ?? [],
    };
  }

  /** Classifies several images in one request; results have their order. */
  async classifyMany(images: Iterable<ImageInput>, options: ManyOptions = {}): Promise<ClassifyResponse> {
    const body = await formOf(images);
    const response = await this.#post({ body }, options, { on_error: options.onError ?? "fail" });
    return (await response.json()) as ClassifyResponse;
  }

  /**
   * Classifies several images in one request, and hands each over as soon as it is done.
   * A bad image has a line with an error. Leaving the loop ends the request.
   */
  async *classifyLines(images: Iterable<ImageInput>, options: ClassifyOptions = {}): AsyncGenerator<Line, void, void> {
    const body = await formOf(images);
    const headers = { Accept: "application/x-ndjson" };
    const response = await this.#post({ body, headers }, options, { on_error: "skip" });
    yield* linesOf(response, body.getAll("images").length);
  }

  /** Every model, by name. */
  async models(deadline: Deadline = {}): Promise<ModelInfo[]> {
    const response = await this.#send("/v1/models", {}, deadline);
    return ((await response.json()) as components["schemas"]["ModelList"]).models;
  }

  async model(name: string, deadline: Deadline = {}): Promise<ModelInfo> {
    const response = await this.#send(`/v1/models/${encodeURIComponent(name)}`, {}, deadline);
    return (await response.json()) as ModelInfo;
  }

  #post(request: RequestInit, options: ClassifyOptions, more: Record<string, string>): Promise<Response> {
    const query = new URLSearchParams(more);
    const { model, version, topK } = options;
    for (const [name, value] of Object.entries({ model, version, top_k: topK })) {
      if (value !== undefined) {
        query.set(name, `${value}`);
      }
    }
    const path = query.size > 0 ? `/v1/classify?${query}` : "/v1/classify";
    return this.#send(path, { ...request, method: "POST" }, options);
  }

  async #send(path: string, request: RequestInit, { signal, deadlineMs }: Deadline): Promise<Response> {
    const until = deadlineMs === undefined ? Infinity : performance.now() + deadlineMs;
    const signals = [signal, deadlineMs === undefined ? undefined : AbortSignal.timeout(deadlineMs)];
    const ended = AbortSignal.any(signals.filter((one) => one !== undefined));
    for (let attempt = 0; ; attempt += 1) {
      const headers = new Headers({ ...this.#headers, ...(request.headers as Record<string, string>) });
      if (until !== Infinity) {
        headers.set("X-Request-Timeout", `${Math.max(1, Math.ceil(until - performance.now()))}ms`);
      }
      let response: Response | undefined;
      try {
        response = await this.#fetch(this.#base + path, { ...request, headers, signal: ended });
      } catch (error) {
        if (ended.aborted || attempt >= this.#retries) {
          throw error;
        }
      }
      if (response?.ok) {
        return response;
      }
      if (response !== undefined && (!isFull(response) || attempt >= this.#retries)) {
        throw await problemOf(response);
      }
      const waitMs = backoffMs(attempt, response);
      if (response !== undefined && performance.now() + waitMs >= until) {
        throw await problemOf(response); // there is no time for another attempt
      }
      await response?.body?.cancel();
      await sleep(waitMs, ended);
    }
  }
}

