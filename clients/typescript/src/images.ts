/** A File or Blob, the bytes of an encoded image (a Buffer for instance), or in Node the path of a file. */
export type ImageInput = Blob | ArrayBuffer | Uint8Array | string | URL;

interface FileSystem {
  readFile(path: string | URL): Promise<Uint8Array>;
}

export async function blobOf(image: ImageInput): Promise<Blob> {
  if (image instanceof Blob) {
    return image;
  }
  if (typeof image === "string" || image instanceof URL) {
    // The name is no literal, so that bundlers for browsers don't look for it.
    const module = "node:fs/promises";
    const { readFile } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ module)) as FileSystem;
    image = await readFile(image);
  }
  return new Blob([image as BlobPart]);
}

/** A form of all images, in order. */
export async function formOf(images: Iterable<ImageInput>): Promise<FormData> {
  const form = new FormData();
  let index = 0;
  for (const image of images) {
    form.append("images", await blobOf(image), `${index}`);
    index += 1;
  }
  return form;
}
