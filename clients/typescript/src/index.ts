export { Client } from "./client.js";
export type { Classification, ClassifyOptions, ClientOptions, Deadline, ManyOptions } from "./client.js";
export { IncompleteAnswerError, ProblemError } from "./errors.js";
export type { ImageInput } from "./images.js";
export type { Line } from "./lines.js";
export type { components, paths } from "./schema.js";
