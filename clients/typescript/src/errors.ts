import type { components } from "./schema.js";

type Problem = components["schemas"]["Problem"];
type ImageProblem = components["schemas"]["ImageProblem"];

/** What the service answered instead of a result: a problem document (RFC 9457). */
export class ProblemError extends Error {
  override readonly name = "ProblemError";
  /** HTTP status; 200 where the service began to answer and then said what went wrong. */
  readonly status: number;
  /** Stable; branch on this. "unexpected_answer" where another server answered. */
  readonly code: string;
  /** What would be right. */
  readonly hint: string;
  /** Of the request in the service's log. */
  readonly requestId: string | undefined;
  /** With the code "invalid_images": what is wrong with each image. */
  readonly errors: readonly ImageProblem[];

  constructor(status: number, problem: Partial<Problem>) {
    super([problem.detail, problem.hint].filter(Boolean).join(" ") || `status ${status}`);
    this.status = status;
    this.code = problem.code ?? "unexpected_answer";
    this.hint = problem.hint ?? "";
    this.requestId = problem.request_id;
    this.errors = problem.errors ?? [];
  }
}

/** An answer in lines ended before every image had its own. */
export class IncompleteAnswerError extends Error {
  override readonly name = "IncompleteAnswerError";
}

/** Reads what a response that is no success says. */
export async function problemOf(response: Response): Promise<ProblemError> {
  const text = await response.text();
  try {
    const problem: unknown = JSON.parse(text);
    if (typeof problem === "object" && problem !== null && "code" in problem) {
      return new ProblemError(response.status, problem as Problem);
    }
  } catch {
    // No JSON: some server in between.
  }
  const detail = `${response.url} answered ${response.status}: ${text.slice(0, 300)}`;
  return new ProblemError(response.status, { detail });
}
