import { IncompleteAnswerError, ProblemError } from "./errors.js";
import type { components } from "./schema.js";

type ClassPrediction = components["schemas"]["ClassPrediction"];
type ImageProblem = components["schemas"]["ImageProblem"];

/** One image of an answer in lines: its classes, most probable first, or what is wrong with it. */
export type Line =
  | { index: number; predictions: ClassPrediction[]; error?: never }
  | { index: number; predictions?: never; error: ImageProblem };

/**
 * Reads an answer in lines of JSON as it arrives.
 *
 * @param response of POST /v1/classify with Accept: application/x-ndjson.
 * @param images how many lines there have to be.
 * @throws {ProblemError} the service says that the rest of the request went wrong.
 * @throws {IncompleteAnswerError} it ended early.
 */
export async function* linesOf(response: Response, images: number): AsyncGenerator<Line, void, void> {
  let count = 0;
  for await (const text of textLines(response.body)) {
    const line = JSON.parse(text) as { index?: number; error?: ImageProblem };
    if (line.index === undefined) {
      // Of the whole request, not of an image.
      throw new ProblemError(response.status, line.error ?? {});
    }
    count += 1;
    yield line as Line;
  }
  if (count !== images) {
    throw new IncompleteAnswerError(`the answer has ${count} lines for ${images} images`);
  }
}

async function* textLines(body: ReadableStream<Uint8Array> | null): AsyncGenerator<string, void, void> {
  if (body === null) {
    return;
  }
  const reader = body.getReader();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (rest + decoder.decode(value, { stream: !done })).split("\n");
      rest = done ? "" : (lines.pop() ?? "");
      yield* lines.filter((line) => line.trim() !== "");
      if (done) {
        return;
      }
    }
  } finally {
    // Whoever leaves the loop early has no use for the rest; the service stops working on it.
    await reader.cancel().catch(() => undefined);
  }
}
